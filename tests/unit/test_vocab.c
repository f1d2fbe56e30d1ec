/* test_vocab.c - the vocabulary file and the streaming detokeniser: what is written is read, what
 * is damaged is refused, and a stream gives the same text as one decoding.
 *
 * Owns:      the checks of common/base/vocab.h.
 * Does not:  turn text into ids.
 */
#include "common/base/vocab.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_BYTES = 256, PATH_BYTES = 64 };

static const struct {
    const char *piece;
    uint8_t kind;
} after_bytes[] = {
    { "<pad>", GM_PIECE_CONTROL },     { "<bos>", GM_PIECE_CONTROL },
    { "<eos>", GM_PIECE_CONTROL },     { "<end_of_turn>", GM_PIECE_CONTROL },
    { "\n", GM_PIECE_TEXT },           { " the", GM_PIECE_TEXT },
    { "h\xC3\xA9", GM_PIECE_TEXT },    { "<eos>", GM_PIECE_TEXT }, /* the text, not the token */
    { "\xE2\x82\xAC", GM_PIECE_TEXT },
};
enum { N_AFTER = sizeof after_bytes / sizeof *after_bytes, N = N_BYTES + N_AFTER };
enum { PAD = N_BYTES, BOS, EOS, END, NEWLINE, THE, HE, EOS_TEXT, EURO };

static char byte_names[N_BYTES][8];
static const char *pieces[N];
static uint32_t lens[N];
static uint8_t kinds[N];
static struct gm_vocab_source source = { N, pieces, lens, kinds };

static void fill(void)
{
    for (int i = 0; i < N; i++) {
        if (i < N_BYTES)
            snprintf(byte_names[i], sizeof byte_names[i], "<0x%02X>", (unsigned)i);
        pieces[i] = i < N_BYTES ? byte_names[i] : after_bytes[i - N_BYTES].piece;
        kinds[i] = i < N_BYTES ? GM_PIECE_BYTE : after_bytes[i - N_BYTES].kind;
        lens[i] = (uint32_t)strlen(pieces[i]);
    }
}

static void temp_path(char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "/tmp/gm-test-vocab-%ld", (long)getpid());
}

static void check_content(const struct gm_vocab *v)
{
    size_t len = 0;
    CU_ASSERT_EQUAL(gm_vocab_n(v), N);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_BOS), BOS);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_EOS), EOS);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_NEWLINE), NEWLINE);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_END_OF_TURN), END);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_START_OF_TURN), -1);
    CU_ASSERT(gm_vocab_is_end(v, EOS) && gm_vocab_is_end(v, END));
    CU_ASSERT(!gm_vocab_is_end(v, EOS_TEXT) && !gm_vocab_is_end(v, -1) && !gm_vocab_is_end(v, BOS));
    CU_ASSERT(gm_vocab_is_control(v, PAD) && gm_vocab_is_control(v, -1));
    CU_ASSERT(gm_vocab_is_control(v, N) && !gm_vocab_is_control(v, THE));
    const char *piece = gm_vocab_piece(v, HE, &len);
    CU_ASSERT(len == 3 && memcmp(piece, "h\xC3\xA9", 3) == 0);
    gm_vocab_piece(v, END, &len);
    CU_ASSERT_EQUAL(len, 0);
    piece = gm_vocab_name(v, END, &len);
    CU_ASSERT(len == 13 && memcmp(piece, "<end_of_turn>", 13) == 0);
    gm_vocab_piece(v, N, &len);
    CU_ASSERT_EQUAL(len, 0);
    for (int i = 0; i < N_BYTES; i++) {
        piece = gm_vocab_piece(v, i, &len);
        CU_ASSERT(len == 1 && (uint8_t)piece[0] == i);
    }
}

static void test_written_is_read(void)
{
    char path[PATH_BYTES];
    struct gm_err err = GM_ERR_NONE;
    struct gm_vocab built, mapped;
    temp_path(path);
    CU_ASSERT_EQUAL_FATAL(gm_vocab_build(&built, &source, &err), GM_OK);
    check_content(&built);
    CU_ASSERT_EQUAL_FATAL(gm_vocab_write(&built, path, &err), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_vocab_open(&mapped, path, &err), GM_OK);
    check_content(&mapped);
    CU_ASSERT_EQUAL(gm_vocab_hash(&built), gm_vocab_hash(&mapped));
    CU_ASSERT_NOT_EQUAL(gm_vocab_hash(&built), 0);
    gm_vocab_close(&mapped);
    gm_vocab_close(&mapped);
    CU_ASSERT_EQUAL(gm_vocab_n(&mapped), 0);
    gm_vocab_close(&built);
    unlink(path);
}

static void put_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* Every cut and every changed byte is found; a sound file opens again afterwards. */
static void test_damage_is_found(void)
{
    char path[PATH_BYTES];
    struct gm_err err = GM_ERR_NONE;
    struct gm_vocab built, v;
    temp_path(path);
    CU_ASSERT_EQUAL_FATAL(gm_vocab_build(&built, &source, &err), GM_OK);
    size_t n = built.image_bytes;
    uint8_t *copy = malloc(n + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(copy);
    memcpy(copy, built.image, n);
    copy[n] = 0;
    int passed = 0;
    for (size_t i = 0; i < n; i++) {
        copy[i] ^= (uint8_t)(1u << (i % 8));
        put_file(path, copy, n);
        passed += gm_vocab_open(&v, path, &err) == GM_OK;
        copy[i] = built.image[i];
    }
    for (size_t i = 0; i < n; i += i < 128 ? 1 : 37) {
        put_file(path, copy, i);
        passed += gm_vocab_open(&v, path, &err) == GM_OK;
    }
    CU_ASSERT_EQUAL(passed, 0);
    put_file(path, copy, n + 1);
    CU_ASSERT_EQUAL(gm_vocab_open(&v, path, &err), GM_DATA_LOSS);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, path));
    put_file(path, copy, n);
    CU_ASSERT_EQUAL(gm_vocab_open(&v, path, &err), GM_OK);
    gm_vocab_close(&v);
    copy[8] = 99; /* the version */
    put_file(path, copy, n);
    CU_ASSERT_EQUAL(gm_vocab_open(&v, path, &err), GM_UNSUPPORTED);
    unlink(path);
    CU_ASSERT_EQUAL(gm_vocab_open(&v, path, &err), GM_NOT_FOUND);
    free(copy);
    gm_vocab_close(&built);
}

static void test_bad_sources(void)
{
    struct gm_vocab v;
    struct gm_err err = GM_ERR_NONE;
    struct gm_vocab_source bad = source;
    bad.n = 0;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &bad, &err), GM_INVALID);
    bad.n = GM_VOCAB_IDS_MAX + 1;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &bad, &err), GM_INVALID);
    lens[THE] = 0;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &source, &err), GM_INVALID);
    lens[THE] = GM_PIECE_BYTES_MAX + 1;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &source, &err), GM_INVALID);
    fill();
    kinds[THE] = GM_PIECE_BYTE;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &source, &err), GM_INVALID);
    kinds[THE] = GM_PIECE_KINDS;
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &source, &err), GM_INVALID);
    fill();
    CU_ASSERT_EQUAL(gm_vocab_build(&v, &source, &err), GM_OK);
    gm_vocab_close(&v);
}

static void test_control_names(void)
{
    static const char *const yes[] = { "<pad>",
                                       "<eos>",
                                       "<bos>",
                                       "<unk>",
                                       "<mask>",
                                       "[multimodal]",
                                       "<unused0>",
                                       "<unused6241>",
                                       "<start_of_turn>",
                                       "<end_of_turn>",
                                       "<start_of_image>",
                                       "<end_of_image>",
                                       "<image_soft_token>" };
    static const char *const no[] = { "<table>",  "<unused>",   "<unusedx>",
                                      "<unused1", "<unused1 >", "<unused12>>",
                                      "\n",       "pad",        "<eos",
                                      "" };
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        CU_ASSERT(gm_control_name(yes[i], strlen(yes[i])));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        CU_ASSERT(!gm_control_name(no[i], strlen(no[i])));
}

/* ---- detokeniser ----------------------------------------------------------------------------- */

static size_t stream(const struct gm_vocab *v, const int32_t *ids, size_t n, char *out)
{
    struct gm_detok d = { { 0 }, 0 };
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t wrote = gm_detok_push(&d, v, ids[i], out + at);
        CU_ASSERT_EQUAL(gm_utf8_bad(out + at, wrote), wrote); /* whole characters only */
        at += wrote;
    }
    return at + gm_detok_flush(&d, out + at);
}

static void test_streams(void)
{
    static const struct {
        int32_t ids[8];
        size_t n;
        const char *text;
    } cases[] = {
        { { THE, HE, EURO }, 3, " theh\xC3\xA9\xE2\x82\xAC" },
        { { 0xE2, 0x82, 0xAC }, 3, "\xE2\x82\xAC" },
        { { 0xE2, BOS, 0x82, 0xAC }, 4, "\xE2\x82\xAC" },
        { { 0xE2, 0x82 }, 2, "\xEF\xBF\xBD" },
        { { 0xE2, 0x82, THE }, 3, "\xEF\xBF\xBD the" },
        { { 0xF0, 0x9F, 0x98, 0x80 }, 4, "\xF0\x9F\x98\x80" },
        { { 0xF0, 0x80, 0x80, 'a' },
          4,
          "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"
          "a" },
        { { 0xED, 0xA0, 0x80 }, 3, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD" },
        { { 0xC3, 0xC3, 0xA9 }, 3, "\xEF\xBF\xBD\xC3\xA9" },
        { { 0xFF, 'x' }, 2, "\xEF\xBF\xBDx" },
        { { EOS, END, PAD, -5, N }, 5, "" },
    };
    struct gm_vocab v;
    char out[8 * GM_DETOK_BYTES_MAX];
    CU_ASSERT_EQUAL_FATAL(gm_vocab_build(&v, &source, NULL), GM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = stream(&v, cases[i].ids, cases[i].n, out);
        CU_ASSERT_EQUAL(n, strlen(cases[i].text));
        CU_ASSERT(n == strlen(cases[i].text) && memcmp(out, cases[i].text, n) == 0);
    }
    gm_vocab_close(&v);
}

/* Bytes of a good character at p, 0 when there is none; *part: bytes of its right beginning.
 * Written from table 3-7 of the Unicode Standard, apart from the code under test. */
static int good_character(const uint8_t *p, size_t n, int *part)
{
    static const uint8_t table[][5] = {
        /* first byte from, to, second byte from, to, length */
        { 0x00, 0x7F, 0, 0, 1 },       { 0xC2, 0xDF, 0x80, 0xBF, 2 }, { 0xE0, 0xE0, 0xA0, 0xBF, 3 },
        { 0xE1, 0xEC, 0x80, 0xBF, 3 }, { 0xED, 0xED, 0x80, 0x9F, 3 }, { 0xEE, 0xEF, 0x80, 0xBF, 3 },
        { 0xF0, 0xF0, 0x90, 0xBF, 4 }, { 0xF1, 0xF3, 0x80, 0xBF, 4 }, { 0xF4, 0xF4, 0x80, 0x8F, 4 },
    };
    *part = 1;
    for (size_t r = 0; r < sizeof table / sizeof *table; r++) {
        if (p[0] < table[r][0] || p[0] > table[r][1])
            continue;
        int len = table[r][4];
        while (*part < len && (size_t)*part < n) {
            uint8_t low = *part == 1 ? table[r][2] : 0x80;
            uint8_t high = *part == 1 ? table[r][3] : 0xBF;
            if (p[*part] < low || p[*part] > high)
                return 0;
            ++*part;
        }
        return *part == len ? len : 0;
    }
    return 0;
}

static void test_random_bytes(void)
{
    enum { BYTES = 40, ROUNDS = 5000 };
    static const uint8_t likely[] = { 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xC3,
                                      0xA9, 0xED, 0xA0, 0xF4, 0x90, 0xE0, 0x41, 0xFF };
    struct gm_vocab v;
    char out[3 * BYTES + 3], want[3 * BYTES];
    uint32_t seed = 1;
    CU_ASSERT_EQUAL_FATAL(gm_vocab_build(&v, &source, NULL), GM_OK);
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t bytes[BYTES];
        int32_t ids[BYTES];
        for (int i = 0; i < BYTES; i++) {
            seed = seed * 1664525u + 1013904223u;
            bytes[i] = likely[seed >> 28];
            ids[i] = bytes[i];
        }
        size_t n = 0;
        for (size_t at = 0; at < BYTES;) {
            int part = 0;
            int len = good_character(bytes + at, BYTES - at, &part);
            memcpy(want + n, len > 0 ? (const char *)bytes + at : "\xEF\xBF\xBD",
                   (size_t)(len > 0 ? len : 3));
            n += (size_t)(len > 0 ? len : 3);
            at += (size_t)(len > 0 ? len : part);
        }
        struct gm_buf whole = GM_BUF(sizeof out);
        size_t got = stream(&v, ids, BYTES, out);
        CU_ASSERT_EQUAL(gm_vocab_decode(&v, ids, BYTES, &whole, NULL), GM_OK);
        CU_ASSERT(got == n && memcmp(out, want, n) == 0);
        CU_ASSERT(whole.len == n && memcmp(whole.data, want, n) == 0);
        gm_buf_free(&whole);
    }
    gm_vocab_close(&v);
}

/* The longest piece of nothing but wrong bytes fits into what a push may write. */
static void test_longest_piece(void)
{
    static char wrong[GM_PIECE_BYTES_MAX];
    static char out[GM_DETOK_BYTES_MAX];
    struct gm_vocab v;
    memset(wrong, 0x80, sizeof wrong);
    pieces[THE] = wrong;
    lens[THE] = sizeof wrong;
    CU_ASSERT_EQUAL_FATAL(gm_vocab_build(&v, &source, NULL), GM_OK);
    struct gm_detok d = { { 0 }, 0 };
    CU_ASSERT_EQUAL(gm_detok_push(&d, &v, 0xE2, out), 0);
    CU_ASSERT_EQUAL(gm_detok_push(&d, &v, 0x82, out), 0);
    d = (struct gm_detok){ { 0xF4 }, 1 };
    size_t wrote = gm_detok_push(&d, &v, THE, out);
    CU_ASSERT(wrote > 1000 && wrote <= sizeof out);
    gm_vocab_close(&v);
    fill();
}

int main(void)
{
    fill();
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("vocab", NULL, NULL);
    CU_add_test(suite, "written is read", test_written_is_read);
    CU_add_test(suite, "damage is found", test_damage_is_found);
    CU_add_test(suite, "bad sources are refused", test_bad_sources);
    CU_add_test(suite, "control names", test_control_names);
    CU_add_test(suite, "streams", test_streams);
    CU_add_test(suite, "random bytes", test_random_bytes);
    CU_add_test(suite, "the longest piece", test_longest_piece);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
