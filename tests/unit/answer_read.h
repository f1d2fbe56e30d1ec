/* answer_read.h - what the tests of answers share: a small vocabulary, tokens with their best, and
 * a strict reader of what was written.
 *
 * Owns:      the vocabulary, the buffer `out` and its reading.
 * Does not:  check any object.
 */
#ifndef GM_TESTS_ANSWER_READ_H
#define GM_TESTS_ANSWER_READ_H

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/answer.h"

enum { N_BYTES = 256, BOS = N_BYTES, EOS, THE, HE, EOS_TEXT, LETTER, LONG, N };
enum { OUT_MAX = 1 << 20 };
#define NO_BYTES 0xE2 /* the token of a byte that begins a character */

static char byte_names[N_BYTES][8], long_piece[GM_PIECE_BYTES_MAX + 1];
static const char *pieces[N] = {
    [BOS] = "<bos>",      [EOS] = "<eos>", [THE] = " the",     [HE] = "h\xC3\xA9",
    [EOS_TEXT] = "<eos>", [LETTER] = "A",  [LONG] = long_piece
};
static struct gm_vocab vocab;
static struct gm_buf out;
static struct gm_err err;

static inline bool vocab_open(void)
{
    static uint32_t lens[N];
    static uint8_t kinds[N];
    memset(long_piece, 1, GM_PIECE_BYTES_MAX); /* each byte becomes six */
    for (int i = 0; i < N; i++) {
        if (i < N_BYTES) {
            snprintf(byte_names[i], sizeof byte_names[i], "<0x%02X>", (unsigned)i);
            pieces[i] = byte_names[i];
        }
        lens[i] = (uint32_t)strlen(pieces[i]);
        kinds[i] = i < N_BYTES ? GM_PIECE_BYTE : i <= EOS ? GM_PIECE_CONTROL : GM_PIECE_TEXT;
    }
    const struct gm_vocab_source source = { N, pieces, lens, kinds };
    return gm_vocab_build(&vocab, &source, &err) == GM_OK;
}

/* ---- reading what was written ---------------------------------------------------------------- */

/* Parses what is in `out` and empties it. */
static inline json_t *read_back(enum gm_status rc)
{
    CU_ASSERT_EQUAL_FATAL(rc, GM_OK);
    for (size_t i = 0; i < out.len; i++)
        if (out.data[i] < 0x20 || out.data[i] > 0x7E)
            CU_FAIL("an answer is printable ASCII");
    json_error_t why;
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *j = json_loadb(gm_buf_text(&out), out.len, flags, &why);
    if (!j)
        printf("\n%s: %s\n", why.text, gm_buf_text(&out));
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    gm_buf_clear(&out);
    return j;
}

/* The value at a path of keys and indexes, "choices/0/text"; NULL: nothing is there. */
static inline json_t *at(json_t *j, const char *path)
{
    char part[64];
    while (j && *path) {
        const size_t n = strcspn(path, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        j = json_is_array(j) ? json_array_get(j, (size_t)strtoul(part, NULL, 10))
                             : json_object_get(j, part);
        path += n + (path[n] == '/');
    }
    return j;
}

static inline void is_text(json_t *j, const char *path, const char *want)
{
    const char *have = json_string_value(at(j, path));
    if (!have || strcmp(have, want) != 0)
        printf("\n%s is %s, not %s\n", path, have ? have : "no string", want);
    CU_ASSERT(have && strcmp(have, want) == 0);
}

static inline void is_number(json_t *j, const char *path, double want)
{
    json_t *have = at(j, path);
    const double value = json_number_value(have);
    if (!json_is_number(have) || (float)value != (float)want)
        printf("\n%s is %g, not %g\n", path, value, want);
    CU_ASSERT(json_is_number(have) && (float)value == (float)want);
}

static inline void is_null(json_t *j, const char *path)
{
    if (!json_is_null(at(j, path)))
        printf("\n%s is not null\n", path);
    CU_ASSERT(json_is_null(at(j, path)));
}

static inline void has_n(json_t *j, const char *path, size_t want)
{
    json_t *have = at(j, path);
    CU_ASSERT_EQUAL(json_is_array(have) ? json_array_size(have) : json_object_size(have), want);
    CU_ASSERT(json_is_array(have) || json_is_object(have));
}

/* ---- samples --------------------------------------------------------------------------------- */

static const struct gm_top best[] = {
    { THE, -0.1F }, { 'A', -2.5F }, { LETTER, -3 }, { NO_BYTES, -INFINITY }, { EOS, -5 },
};
enum { N_BEST = sizeof best / sizeof *best };
static const struct gm_answer_token tokens[] = {
    { BOS, false, 0, 0, NULL },
    { THE, true, -0.1F, N_BEST, best },
    { NO_BYTES, true, -INFINITY, N_BEST, best },
    { LETTER, true, -7, 2, best },
    { HE, true, NAN, 0, NULL },
};
enum { N_TOKENS = sizeof tokens / sizeof *tokens };
static const struct gm_usage usage = { 10, 4, 6 };

struct answer_test {
    const char *name;
    void (*run)(void);
};

/* Runs the tests; returns what main returns. */
static inline int answer_run(const char *suite_name, const struct answer_test *tests, size_t n)
{
    out = GM_BUF(OUT_MAX);
    if (!vocab_open() || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite(suite_name, NULL, NULL);
    for (size_t i = 0; i < n; i++)
        CU_add_test(suite, tests[i].name, tests[i].run);
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    gm_vocab_close(&vocab);
    gm_buf_free(&out);
    return failures != 0;
}

#endif
