// uses: services/tokenizer/spm.cc services/tokenizer/spm_file.c services/tokenizer/ids.c
// libs: -lsentencepiece -lstdc++
/* test_tokenizer.c - text to ids on a small vocabulary: merges, byte tokens, control tokens that
 * text cannot make, bad vocabularies, bad text, long text, and sentencepiece's own file format.
 *
 * Owns:      the checks of spm.cc and spm_file.c.
 * Does not:  need the real vocabulary (the system tests do).
 */
#include "tests/unit/tokenizer_small.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { FILE_MAX = 1 << 16 };

static const char *const control_names[] = {
    "<unk>", "<pad>",  "<start_of_turn>", "<end_of_turn>",    "<eos>",
    "<bos>", "<mask>", "[multimodal]",    "<start_of_image>", "<unused12>",
};

/* Encodes and shows the pieces with '|' behind each. */
static void expect(struct gm_tokenizer *tok, const char *text, const char *want)
{
    struct gm_ids ids = { 0 };
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf out = GM_BUF(FILE_MAX);
    CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, text, strlen(text), &ids, &err), GM_OK);
    small_show(tok, &ids, 1, &out);
    if (strcmp(gm_buf_text(&out), want) != 0)
        fprintf(stderr, "\n\"%s\" gave %s, not %s\n", text, gm_buf_text(&out), want);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), want);
    gm_buf_free(&out);
    gm_ids_free(&ids);
}

static void test_pieces(void)
{
    struct gm_tokenizer *tok = small_open();
    CU_ASSERT_PTR_NOT_NULL_FATAL(tok);
    expect(tok, "", "");
    expect(tok, "user", "user|");
    expect(tok, " the model", " the| |model|");
    expect(tok, "the", "t|he|");       /* no dummy prefix */
    expect(tok, "user  ", "user|  |"); /* blanks at the end stay */
    expect(tok, "    ", "   | |");     /* the longest run first */
    expect(tok, "\n\n\nuser", "\n\n|\n|user|");
    expect(tok, "<table>he", "<table>|he|");
    expect(tok, "\xC3\xA9", "\xC3\xA9|");
    expect(tok, "\xC3\xA8", "\xC3|\xA8|");    /* bytes of an unknown character */
    expect(tok, "[PAD13]", "[|P|A|D|1|3|]|"); /* a filling row is not in text */
    gm_tokenizer_close(&tok);
    gm_tokenizer_close(&tok);
    CU_ASSERT_PTR_NULL(tok);
}

static void check_typed(struct gm_tokenizer *tok)
{
    for (size_t i = 0; i < sizeof control_names / sizeof *control_names; i++) {
        struct gm_ids ids = { 0 };
        struct gm_buf out = GM_BUF(FILE_MAX);
        size_t len = strlen(control_names[i]);
        CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, control_names[i], len, &ids, NULL), GM_OK);
        CU_ASSERT(ids.n > 1);
        for (size_t j = 0; j < ids.n; j++)
            CU_ASSERT(!gm_vocab_is_control(gm_tokenizer_vocab(tok), ids.v[j]));
        CU_ASSERT_EQUAL(gm_vocab_decode(gm_tokenizer_vocab(tok), ids.v, ids.n, &out, NULL), GM_OK);
        CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), control_names[i]);
        gm_buf_free(&out);
        gm_ids_free(&ids);
    }
}

static void test_typed_control_tokens(void)
{
    struct gm_tokenizer *tok = small_open();
    CU_ASSERT_PTR_NOT_NULL_FATAL(tok);
    check_typed(tok);
    const struct gm_vocab *v = gm_tokenizer_vocab(tok);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_BOS), 5);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_EOS), 4);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_START_OF_TURN), 2);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_END_OF_TURN), 3);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_NEWLINE), 8);
    CU_ASSERT_EQUAL(gm_vocab_special(v, GM_SPECIAL_END_OF_IMAGE), -1);
    gm_tokenizer_close(&tok);
}

/* ---- bad input ------------------------------------------------------------------------------- */

static void test_bad_text(void)
{
    static const struct {
        const char *text;
        size_t len;
        const char *where;
    } cases[] = {
        { "user\xFF", 5, "byte 4" },
        { "\xC3", 1, "byte 0" },
        { "a\xED\xA0\x80", 4, "byte 1" },
        { "ab\xC0\x80", 4, "byte 2" },
        { "abc\xF4\x90\x80\x80", 7, "byte 3" },
    };
    struct gm_tokenizer *tok = small_open();
    struct gm_ids ids = { 0 };
    int32_t kept = 7;
    CU_ASSERT_PTR_NOT_NULL_FATAL(tok);
    CU_ASSERT_EQUAL(gm_ids_append(&ids, &kept, 1, NULL), GM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gm_err err = GM_ERR_NONE;
        CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, cases[i].text, cases[i].len, &ids, &err),
                        GM_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, cases[i].where));
    }
    CU_ASSERT(ids.n == 1 && ids.v[0] == 7);
    CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, "", (size_t)GM_ENCODE_BYTES_MAX + 1, &ids, NULL),
                    GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, "u\0u", 3, &ids, NULL), GM_OK);
    CU_ASSERT(ids.n == 4 && ids.v[2] == SMALL_BYTE_FIRST);
    gm_ids_free(&ids);
    gm_tokenizer_close(&tok);
}

/* One thing wrong at a time: which field of which piece. */
static void break_source(struct small *s, int which)
{
    static char long_piece[GM_PIECE_BYTES_MAX + 1];
    switch (which) {
    case 0:
        s->src.n = 0;
        break;
    case 1:
        s->src.n = GM_VOCAB_IDS_MAX + 1;
        break;
    case 2:
        s->lens[300 % s->src.n] = 0;
        break;
    case 3:
        memset(long_piece, 'a', sizeof long_piece);
        s->pieces[280] = long_piece;
        s->lens[280] = sizeof long_piece;
        break;
    case 4:
        s->pieces[280] = "\xFF";
        s->lens[280] = 1;
        break;
    case 5:
        s->pieces[280] = "a\0b";
        s->lens[280] = 3;
        break;
    case 6:
        s->scores[280] = NAN;
        break;
    case 7:
        s->types[280] = 0;
        break;
    case 8:
        s->types[280] = 7;
        break;
    case 9:
        s->src.unk = 5000;
        break;
    case 10:
        s->src.bos = 5000;
        break;
    case 11:
        s->src.pad = -2;
        break;
    case 12:
        s->types[20] = GM_TYPE_NORMAL;
        break; /* 255 byte pieces */
    case 13:
        s->pieces[20] = "<0x0G>";
        break; /* no such byte */
    case 14:
        s->pieces[20] = s->pieces[21];
        break; /* a byte twice */
    case 15:
        s->pieces[280] = "he";
        s->lens[280] = 2;
        break; /* a piece twice */
    case 16:
        s->pieces[0] = "<unx>";
        s->src.unk = -1;
        break; /* nothing is unknown */
    default:
        break;
    }
}

static void test_bad_vocabularies(void)
{
    enum { WAYS = 17 };
    for (int i = 0; i < WAYS; i++) {
        struct small s;
        struct gm_tokenizer *tok = NULL;
        struct gm_err err = GM_ERR_NONE;
        small_fill(&s);
        break_source(&s, i);
        CU_ASSERT_EQUAL(gm_tokenizer_open_pieces(&s.src, &tok, &err), GM_INVALID);
        CU_ASSERT(err.text[0] != '\0');
        CU_ASSERT_PTR_NULL(tok);
        gm_tokenizer_close(&tok);
    }
}

/* ---- long text ------------------------------------------------------------------------------- */

/* The ids of a text that is many times one line are the line's ids as many times. */
static void check_repeated(struct gm_tokenizer *tok, const char *line, size_t times)
{
    struct gm_ids one = { 0 }, all = { 0 };
    struct gm_buf text = GM_BUF(GM_ENCODE_BYTES_MAX);
    int wrong = 0;
    for (size_t i = 0; i < times; i++)
        CU_ASSERT_EQUAL_FATAL(gm_buf_append_text(&text, line, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, line, strlen(line), &one, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_tokenizer_encode(tok, text.data, text.len, &all, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(all.n, one.n * times);
    for (size_t i = 0; i < all.n; i++)
        wrong += all.v[i] != one.v[i % one.n];
    CU_ASSERT_EQUAL(wrong, 0);
    gm_buf_free(&text);
    gm_ids_free(&one);
    gm_ids_free(&all);
}

static void test_long_text(void)
{
    struct gm_tokenizer *tok = small_open();
    CU_ASSERT_PTR_NOT_NULL_FATAL(tok);
    check_repeated(tok, "user the model  he\n\n", 12345); /* cut at newlines and blanks */
    check_repeated(tok, " the", 54321);                   /* cut at blanks only */
    check_repeated(tok, "\n\n", 77777);                   /* one run, no place to cut */
    check_repeated(tok, "user", 30000);                   /* one word, no place to cut */
    gm_tokenizer_close(&tok);
}

/* ---- sentencepiece's file -------------------------------------------------------------------- */

static void put_byte(struct gm_buf *b, unsigned byte)
{
    char c = (char)byte;
    CU_ASSERT_EQUAL_FATAL(gm_buf_append(b, &c, 1, NULL), GM_OK);
}

static void put_varint(struct gm_buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        put_byte(b, (unsigned)(v & 0x7F) | 0x80);
    put_byte(b, (unsigned)v);
}

static void put_int(struct gm_buf *b, unsigned field, uint64_t v)
{
    put_varint(b, (uint64_t)field << 3);
    put_varint(b, v);
}

static void put_part(struct gm_buf *b, unsigned field, const char *bytes, size_t n)
{
    put_varint(b, ((uint64_t)field << 3) | 2);
    put_varint(b, n);
    CU_ASSERT_EQUAL_FATAL(gm_buf_append(b, bytes, n, NULL), GM_OK);
}

/* Settings of a model file: model type, byte fallback, dummy prefix, trimming, escaping. */
struct file_settings {
    unsigned type, fallback, prefix, trim, escape;
    const char *charsmap;
};

static void make_file(struct gm_buf *b, const struct file_settings *set)
{
    struct small s;
    struct gm_buf part = GM_BUF(FILE_MAX);
    small_fill(&s);
    gm_buf_clear(b);
    for (uint32_t i = 0; i < s.src.n; i++) {
        uint32_t bits = 0;
        memcpy(&bits, &s.scores[i], sizeof bits);
        gm_buf_clear(&part);
        put_part(&part, 1, s.pieces[i], s.lens[i]);
        put_byte(&part, (2 << 3) | 5);
        for (int shift = 0; shift < 32; shift += 8)
            put_byte(&part, (bits >> shift) & 0xFF);
        if (s.types[i] != GM_TYPE_NORMAL)
            put_int(&part, 3, (uint64_t)s.types[i]);
        put_part(b, 1, part.data, part.len);
    }
    gm_buf_clear(&part);
    put_int(&part, 3, set->type);
    put_int(&part, 35, set->fallback);
    put_part(b, 2, part.data, part.len);
    gm_buf_clear(&part);
    put_part(&part, 2, set->charsmap, strlen(set->charsmap));
    put_int(&part, 3, set->prefix);
    put_int(&part, 4, set->trim);
    put_int(&part, 5, set->escape);
    put_part(b, 3, part.data, part.len);
    gm_buf_free(&part);
}

static enum gm_status open_bytes(const void *bytes, size_t n, struct gm_tokenizer **tok,
                                 struct gm_err *err)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/gm-test-model-%ld", (long)getpid());
    FILE *f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL(fwrite(bytes, 1, n, f), n);
    fclose(f);
    enum gm_status rc = gm_tokenizer_open_file(path, tok, err);
    unlink(path);
    return rc;
}

static void test_model_file(void)
{
    static const struct file_settings right = { 2, 1, 0, 0, 1, "" };
    static const struct file_settings wrong[] = {
        { 1, 1, 0, 0, 1, "" }, { 2, 0, 0, 0, 1, "" }, { 2, 1, 1, 0, 1, "" },
        { 2, 1, 0, 1, 1, "" }, { 2, 1, 0, 0, 0, "" }, { 2, 1, 0, 0, 1, "x" },
    };
    struct gm_buf file = GM_BUF(FILE_MAX);
    struct gm_tokenizer *tok = NULL;
    struct gm_tokenizer *same = small_open();
    struct gm_err err = GM_ERR_NONE;
    make_file(&file, &right);
    CU_ASSERT_EQUAL(open_bytes(file.data, file.len, &tok, &err), GM_OK);
    CU_ASSERT_PTR_NOT_NULL_FATAL(tok);
    CU_ASSERT_PTR_NOT_NULL_FATAL(same);
    check_typed(tok);
    expect(tok, " the  user\n\xC3\xA8", " the|  |user|\n|\xC3|\xA8|");
    CU_ASSERT_EQUAL(gm_vocab_hash(gm_tokenizer_vocab(tok)),
                    gm_vocab_hash(gm_tokenizer_vocab(same)));
    gm_tokenizer_close(&tok);
    gm_tokenizer_close(&same);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        make_file(&file, &wrong[i]);
        CU_ASSERT_EQUAL(open_bytes(file.data, file.len, &tok, &err), GM_UNSUPPORTED);
        CU_ASSERT_PTR_NULL(tok);
    }
    gm_buf_free(&file);
}

/* Cut or changed files are refused or open; they never end the process. */
static void test_damaged_model_file(void)
{
    static const struct file_settings right = { 2, 1, 0, 0, 1, "" };
    struct gm_buf file = GM_BUF(FILE_MAX);
    struct gm_tokenizer *tok = NULL;
    int opened_cut = 0;
    make_file(&file, &right);
    for (size_t n = 0; n < file.len; n += 61) {
        opened_cut += open_bytes(file.data, n, &tok, NULL) == GM_OK;
        gm_tokenizer_close(&tok);
    }
    CU_ASSERT_EQUAL(opened_cut, 0);
    for (size_t i = 0; i < file.len; i += 23) {
        file.data[i] = (char)(file.data[i] ^ (1 << (i % 8)));
        enum gm_status rc = open_bytes(file.data, file.len, &tok, NULL);
        CU_ASSERT((rc == GM_OK) == (tok != NULL));
        gm_tokenizer_close(&tok);
        file.data[i] = (char)(file.data[i] ^ (1 << (i % 8)));
    }
    gm_buf_free(&file);
    CU_ASSERT_EQUAL(gm_tokenizer_open_file("/nonexistent/file", &tok, NULL), GM_NOT_FOUND);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("tokenizer", NULL, NULL);
    CU_add_test(suite, "pieces", test_pieces);
    CU_add_test(suite, "typed control tokens are text", test_typed_control_tokens);
    CU_add_test(suite, "bad text", test_bad_text);
    CU_add_test(suite, "bad vocabularies", test_bad_vocabularies);
    CU_add_test(suite, "long text", test_long_text);
    CU_add_test(suite, "a sentencepiece file", test_model_file);
    CU_add_test(suite, "damaged sentencepiece files", test_damaged_model_file);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
