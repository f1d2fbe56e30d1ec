/* test_base.c - errors, arena, text, maps and ring of common/base, with hostile values.
 *
 * Owns:      the checks of err.h, arena.h, text.h and map.h.
 * Does not:  look at options (test_conf.c) or the machine (test_sys.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <float.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/arena.h"
#include "common/base/err.h"
#include "common/base/map.h"
#include "common/base/text.h"

/* ---- err ----------------------------------------------------------------------------------- */

static void test_err(void)
{
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_fail(&err, GM_EXHAUSTED, "needs %d, %d free", 7, 3), GM_EXHAUSTED);
    CU_ASSERT_STRING_EQUAL(err.text, "needs 7, 3 free");
    CU_ASSERT(err.line > 0 && strstr(err.file, "test_base.c") != NULL);
    CU_ASSERT_EQUAL(gm_err_prefix(&err, "shard %d", 2), GM_EXHAUSTED);
    CU_ASSERT_STRING_EQUAL(err.text, "shard 2: needs 7, 3 free");
    CU_ASSERT_EQUAL(gm_fail(&err, GM_INVALID, "again: %s", err.text), GM_INVALID);
    CU_ASSERT_STRING_EQUAL(err.text, "again: shard 2: needs 7, 3 free");
    CU_ASSERT_EQUAL(gm_fail(NULL, GM_ABORTED, "%s", "unheard"), GM_ABORTED);
    CU_ASSERT_EQUAL(gm_err_prefix(NULL, "x"), GM_UNKNOWN);

    /* A text too long is cut on a whole character, wherever the cut falls. */
    for (size_t shift = 0; shift < 4; shift++) {
        char text[1024];
        memset(text, 'a', shift);
        size_t n = shift;
        while (n + 4 < sizeof text) {
            memcpy(text + n, "\xF0\x9F\x98\x80", 4);
            n += 4;
        }
        text[n] = '\0';
        (void)gm_fail(&err, GM_INVALID, "%s", text);
        size_t len = strlen(err.text);
        CU_ASSERT(len < GM_ERR_TEXT_MAX && len > GM_ERR_TEXT_MAX - 6);
        CU_ASSERT_EQUAL(gm_utf8_bad(err.text, len), len);
        (void)gm_err_prefix(&err, "%s", text);
        CU_ASSERT(strlen(err.text) < GM_ERR_TEXT_MAX);
    }
    CU_ASSERT_STRING_EQUAL(gm_status_name(GM_DATA_LOSS), "DATA_LOSS");
    CU_ASSERT_STRING_EQUAL(gm_status_name(GM_INVALID), "INVALID_ARGUMENT");
    CU_ASSERT_STRING_EQUAL(gm_status_name(-1), "UNKNOWN");
    CU_ASSERT_STRING_EQUAL(gm_status_name(17), "UNKNOWN");
}

/* ---- arena --------------------------------------------------------------------------------- */

static void test_arena(void)
{
    struct gm_arena a;
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_arena_open(&a, 0, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_arena_open(&a, SIZE_MAX, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(gm_arena_take(&a, 1));
    CU_ASSERT_EQUAL_FATAL(gm_arena_open(&a, 1000, &err), GM_OK);
    uint8_t *p = gm_arena_take(&a, 3);
    uint8_t *q = gm_arena_take(&a, 0);
    CU_ASSERT_FATAL(p != NULL && q != NULL);
    CU_ASSERT_EQUAL((uintptr_t)p % GM_ARENA_ALIGN, 0);
    CU_ASSERT_EQUAL((uintptr_t)q % GM_ARENA_ALIGN, 0);
    CU_ASSERT(q >= p + GM_ARENA_ALIGN);
    CU_ASSERT_PTR_NULL(gm_arena_take(&a, 1000));
    CU_ASSERT_PTR_NULL(gm_arena_take(&a, SIZE_MAX));
    CU_ASSERT_PTR_NULL(gm_arena_take_zero(&a, SIZE_MAX / 2, 4));
    CU_ASSERT_PTR_NULL(gm_arena_text(&a, "x", SIZE_MAX));
    size_t n = 0;
    while (gm_arena_take(&a, 16) != NULL)
        n++;
    CU_ASSERT(n >= 28 && n <= 61); /* fewer under ASan, which keeps gaps */
    CU_ASSERT(a.bytes_used <= a.bytes_max);
    gm_arena_reset(&a);
    CU_ASSERT_EQUAL(a.bytes_used, 0);
    CU_ASSERT_PTR_NOT_NULL(gm_arena_take(&a, 1000)); /* the whole ceiling, not a byte more */
    CU_ASSERT_PTR_NULL(gm_arena_take(&a, 1));
    gm_arena_close(&a);
    gm_arena_close(&a);
    CU_ASSERT_PTR_NULL(gm_arena_take(&a, 1));
    gm_arena_reset(&a);
}

static void test_arena_reuse(void)
{
    struct gm_arena a;
    CU_ASSERT_EQUAL_FATAL(gm_arena_open(&a, (size_t)64 << 20, NULL), GM_OK);
    for (int round = 0; round < 3; round++) {
        uint8_t *big = gm_arena_take(&a, (size_t)1 << 20);
        CU_ASSERT_PTR_NOT_NULL_FATAL(big);
        memset(big, 0xAB, (size_t)1 << 20);
        uint32_t *zero = gm_arena_take_zero(&a, 1000, sizeof zero[0]);
        CU_ASSERT_PTR_NOT_NULL_FATAL(zero);
        for (size_t i = 0; i < 1000; i++)
            if (zero[i] != 0)
                CU_FAIL("take_zero gives zeros");
        char *text = gm_arena_text(&a, "a\0b", 3);
        CU_ASSERT(text != NULL && memcmp(text, "a\0b\0", 4) == 0);
        char *none = gm_arena_text(&a, NULL, 0);
        CU_ASSERT(none != NULL && none[0] == '\0');
        void *called = gm_arena_alloc_call(&a, 100);
        CU_ASSERT_PTR_NOT_NULL(called);
        gm_arena_free_call(&a, called);
        gm_arena_free_call(&a, NULL);
        gm_arena_reset(&a);
        /* Small objects after a reset lie in kept pages that still hold old bytes. */
        uint8_t *again = gm_arena_take_zero(&a, 1, 4096);
        CU_ASSERT(again == big && again[0] == 0 && again[4095] == 0);
        gm_arena_reset(&a);
    }
    CU_ASSERT(a.bytes_top >= (size_t)1 << 20);
    gm_arena_close(&a);
}

/* ---- text ---------------------------------------------------------------------------------- */

static void test_buf(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf b = GM_BUF(10);
    struct gm_buf none = { 0 };
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "");
    CU_ASSERT_EQUAL(gm_buf_append(&b, "12345", 5, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_buf_printf(&b, &err, "%d", 67890), GM_OK);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "1234567890");
    CU_ASSERT_EQUAL(gm_buf_append(&b, "x", 1, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_buf_printf(&b, &err, "%s", "y"), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_buf_reserve(&b, SIZE_MAX, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(b.len, 10);
    CU_ASSERT_EQUAL(gm_buf_append(&b, NULL, 0, &err), GM_OK);
    gm_buf_drop(&b, 4);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "567890");
    gm_buf_drop(&b, 99);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "");
    CU_ASSERT_EQUAL(gm_buf_append_text(&b, "again", &err), GM_OK);
    gm_buf_free(&b);
    gm_buf_free(&b);
    CU_ASSERT_EQUAL(gm_buf_append_text(&b, "after", &err), GM_OK);
    gm_buf_free(&b);
    CU_ASSERT_EQUAL(gm_buf_append(&none, "x", 1, &err), GM_EXHAUSTED);
    gm_buf_clear(&none);
    gm_buf_drop(&none, 1);

    struct gm_buf big = GM_BUF(100000);
    for (int i = 0; i < 100000; i++)
        if (gm_buf_append(&big, "z", 1, NULL) != GM_OK)
            CU_FAIL("grows up to its ceiling");
    CU_ASSERT_EQUAL(gm_buf_append(&big, "z", 1, NULL), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(strlen(gm_buf_text(&big)), 100000);
    gm_buf_free(&big);
    struct gm_buf endless = GM_BUF(SIZE_MAX);
    CU_ASSERT_EQUAL(gm_buf_reserve(&endless, 1, NULL), GM_EXHAUSTED);
}

static void test_utf8(void)
{
    static const struct {
        const char *bytes;
        size_t n;
        size_t bad; /* offset of the first wrong byte */
        int next;   /* gm_utf8_next at that offset */
    } rows[] = {
        { "", 0, 0, 0 },
        { "plain", 5, 5, 0 },
        { "\0", 1, 1, 0 },
        { "h\xC3\xA9", 3, 3, 0 },
        { "\xE2\x82\xAC\xF0\x9F\x98\x80", 7, 7, 0 },
        { "\xF4\x8F\xBF\xBF", 4, 4, 0 },
        { "\xEF\xBF\xBF\xED\x9F\xBF\xEE\x80\x80", 9, 9, 0 },
        { "a\x80", 2, 1, -1 },            /* lone continuation */
        { "\xC0\x80", 2, 0, -1 },         /* overlong NUL */
        { "\xC1\xBF", 2, 0, -1 },         /* overlong */
        { "\xE0\x9F\xBF", 3, 0, -1 },     /* overlong */
        { "\xF0\x8F\xBF\xBF", 4, 0, -1 }, /* overlong */
        { "\xED\xA0\x80", 3, 0, -1 },     /* surrogate */
        { "\xF4\x90\x80\x80", 4, 0, -1 }, /* above U+10FFFF */
        { "\xF5\x80\x80\x80", 4, 0, -1 },
        { "\xFF", 1, 0, -1 },
        { "ok\xC3", 3, 2, 0 },         /* cut */
        { "ok\xE2\x82", 4, 2, 0 },     /* cut */
        { "\xF0\x9F\x98", 3, 0, 0 },   /* cut */
        { "\xE2\x82(", 3, 0, -2 },     /* wrong third byte */
        { "\xF0\x9F\x98(", 4, 0, -3 }, /* wrong fourth byte */
        { "\xC3(", 2, 0, -1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t bad = gm_utf8_bad(rows[i].bytes, rows[i].n);
        CU_ASSERT_EQUAL(bad, rows[i].bad);
        CU_ASSERT_EQUAL(gm_utf8_next(rows[i].bytes + bad, rows[i].n - bad, NULL), rows[i].next);
    }
    size_t made = 0;
    for (uint32_t code = 0; code <= 0x110000; code++) {
        char out[4];
        uint32_t back = 0;
        int n = gm_utf8_put(code, out);
        made += n > 0;
        if (n > 0 && (gm_utf8_next(out, (size_t)n, &back) != n || back != code))
            CU_FAIL("put and next agree");
    }
    CU_ASSERT_EQUAL(made, 0x110000 - 0x800);
}

static void test_json(void)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *json;
    } rows[] = {
        { "", 0, "\"\"" },
        { "a\"b\\c/", 6, "\"a\\\"b\\\\c/\"" },
        { "\b\f\n\r\t\x01\x1F\x7F", 8, "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\"" },
        { "\0x", 2, "\"\\u0000x\"" },
        { "\xC3\xA9\xE2\x82\xAC", 5, "\"\\u00e9\\u20ac\"" },
        { "\xF0\x9F\x98\x80", 4, "\"\\ud83d\\ude00\"" },
        { "\xF4\x8F\xBF\xBF", 4, "\"\\udbff\\udfff\"" },
        { "a\xFFz", 3, "\"a\\ufffdz\"" },
        { "\xE2\x82(", 3, "\"\\ufffd(\"" },
        { "\xED\xA0\x80", 3, "\"\\ufffd\\ufffd\\ufffd\"" },
        { "\xF0\x9F\x98", 3, "\"\\ufffd\"" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct gm_buf b = GM_BUF(100);
        CU_ASSERT_EQUAL(gm_buf_append_json(&b, rows[i].bytes, rows[i].n, NULL), GM_OK);
        CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), rows[i].json);
        gm_buf_free(&b);
    }
    struct gm_buf small = GM_BUF(8);
    CU_ASSERT_EQUAL(gm_buf_append_text(&small, "x:", NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_buf_append_json(&small, "12345", 5, NULL), GM_EXHAUSTED);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&small), "x:");
    CU_ASSERT_EQUAL(gm_buf_append_json(&small, "1234", 4, NULL), GM_OK);
    gm_buf_free(&small);
}

static void test_whole_numbers(void)
{
    static const struct {
        const char *text;
        int64_t min, max;
        enum gm_status rc;
        int64_t value;
    } rows[] = {
        { "0", INT64_MIN, INT64_MAX, GM_OK, 0 },
        { "-0", INT64_MIN, INT64_MAX, GM_OK, 0 },
        { "007", 0, 10, GM_OK, 7 },
        { "9223372036854775807", INT64_MIN, INT64_MAX, GM_OK, INT64_MAX },
        { "-9223372036854775808", INT64_MIN, INT64_MAX, GM_OK, INT64_MIN },
        { "9223372036854775808", INT64_MIN, INT64_MAX, GM_RANGE, 0 },
        { "-9223372036854775809", INT64_MIN, INT64_MAX, GM_RANGE, 0 },
        { "99999999999999999999999999", INT64_MIN, INT64_MAX, GM_RANGE, 0 },
        { "18446744073709551616", INT64_MIN, INT64_MAX, GM_RANGE, 0 },
        { "11", 0, 10, GM_RANGE, 0 },
        { "-1", 0, 10, GM_RANGE, 0 },
        { "", 0, 10, GM_INVALID, 0 },
        { "-", 0, 10, GM_INVALID, 0 },
        { "+1", 0, 10, GM_INVALID, 0 },
        { " 1", 0, 10, GM_INVALID, 0 },
        { "1 ", 0, 10, GM_INVALID, 0 },
        { "1\n", 0, 10, GM_INVALID, 0 },
        { "0x1", 0, 10, GM_INVALID, 0 },
        { "1e1", 0, 10, GM_INVALID, 0 },
        { "--1", 0, 10, GM_INVALID, 0 },
        { "1.0", 0, 10, GM_INVALID, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t value = 0;
        struct gm_err err = GM_ERR_NONE;
        CU_ASSERT_EQUAL(gm_parse_i64(rows[i].text, rows[i].min, rows[i].max, &value, &err),
                        rows[i].rc);
        CU_ASSERT_EQUAL(value, rows[i].value);
        CU_ASSERT_EQUAL(rows[i].rc == GM_OK, err.text[0] == '\0');
    }
    uint64_t u = 5;
    CU_ASSERT_EQUAL(gm_parse_u64("18446744073709551615", 0, UINT64_MAX, &u, NULL), GM_OK);
    CU_ASSERT_EQUAL(u, UINT64_MAX);
    CU_ASSERT_EQUAL(gm_parse_u64("18446744073709551616", 0, UINT64_MAX, &u, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_parse_u64("-1", 0, UINT64_MAX, &u, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_parse_u64("x", 0, UINT64_MAX, &u, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(u, UINT64_MAX);
}

static void test_real_numbers(void)
{
    static const struct {
        const char *text;
        enum gm_status rc;
        double value;
    } rows[] = {
        { "0", GM_OK, 0 },        { "1.5", GM_OK, 1.5 },      { "-2.5e-1", GM_OK, -0.25 },
        { ".5", GM_OK, 0.5 },     { "3.", GM_OK, 3 },         { "1E+2", GM_OK, 100 },
        { "1e999", GM_RANGE, 0 }, { "2000", GM_RANGE, 0 },    { "-2000", GM_RANGE, 0 },
        { "nan", GM_INVALID, 0 }, { "inf", GM_INVALID, 0 },   { "0x1p3", GM_INVALID, 0 },
        { "", GM_INVALID, 0 },    { ".", GM_INVALID, 0 },     { "1e", GM_INVALID, 0 },
        { "1,5", GM_INVALID, 0 }, { " 1", GM_INVALID, 0 },    { "1 ", GM_INVALID, 0 },
        { "+1", GM_INVALID, 0 },  { "1e5.0", GM_INVALID, 0 }, { "1.2.3", GM_INVALID, 0 },
        { "-", GM_INVALID, 0 },   { "e5", GM_INVALID, 0 },    { "1e-999", GM_OK, 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double value = 0;
        CU_ASSERT_EQUAL(gm_parse_f64(rows[i].text, -1000, 1000, &value, NULL), rows[i].rc);
        CU_ASSERT_EQUAL(value, rows[i].value);
    }
    char lots[2000];
    double value = 0;
    memset(lots, '1', sizeof lots - 1);
    lots[sizeof lots - 1] = '\0';
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_parse_f64(lots, 0, DBL_MAX, &value, &err), GM_INVALID);
    CU_ASSERT(strlen(err.text) < 200);
}

static void test_durations(void)
{
    static const struct {
        const char *text;
        enum gm_status rc;
        int64_t ms;
    } rows[] = {
        { "30", GM_OK, 30000 },
        { "30s", GM_OK, 30000 },
        { "250ms", GM_OK, 250 },
        { "5m", GM_OK, 300000 },
        { "2h", GM_OK, 7200000 },
        { "7d", GM_OK, 604800000 },
        { "0", GM_OK, 0 },
        { "", GM_INVALID, 0 },
        { "s", GM_INVALID, 0 },
        { "-1s", GM_INVALID, 0 },
        { "1.5s", GM_INVALID, 0 },
        { "5 m", GM_INVALID, 0 },
        { "5M", GM_INVALID, 0 },
        { "5w", GM_INVALID, 0 },
        { "1h30m", GM_INVALID, 0 },
        { "9223372036854775807", GM_RANGE, 0 },
        { "106751991168d", GM_RANGE, 0 },
        { "99999999999999999999999ms", GM_RANGE, 0 },
        { "9223372036854775807ms", GM_OK, INT64_MAX },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t ms = 0;
        CU_ASSERT_EQUAL(gm_parse_duration_ms(rows[i].text, &ms, NULL), rows[i].rc);
        CU_ASSERT_EQUAL(ms, rows[i].ms);
    }
    CU_ASSERT_EQUAL(gm_text_distance("port", "prot", 3), 2);
    CU_ASSERT_EQUAL(gm_text_distance("", "abc", 3), 3);
    CU_ASSERT_EQUAL(gm_text_distance("kitten", "sitting", 3), 3);
    CU_ASSERT_EQUAL(gm_text_distance("a", "abcdefgh", 3), 4);
}

/* ---- maps ---------------------------------------------------------------------------------- */

enum { KEYS = 3000, STEPS = 60000 };

/* Random puts and takes against a plain table of all keys. */
static void test_idmap_random(void)
{
    static bool there[KEYS];
    static int values[KEYS];
    struct gm_idmap m;
    uint64_t dice = 12345;
    size_t n = 0;
    CU_ASSERT_EQUAL_FATAL(gm_idmap_open(&m, 1, KEYS, NULL), GM_OK);
    for (int step = 0; step < STEPS; step++) {
        dice = dice * UINT64_C(6364136223846793005) + 1442695040888963407U;
        size_t i = (size_t)(dice >> 33) % KEYS;
        uint64_t key = (uint64_t)i << 40; /* keys that differ only in high bits */
        if ((dice >> 20) % 5 < 3) {
            enum gm_status rc = gm_idmap_put(&m, key, &values[i], NULL);
            if (rc != (there[i] ? GM_EXISTS : GM_OK))
                CU_FAIL("put says whether the key was there");
            n += !there[i];
            there[i] = true;
        } else {
            void *value = gm_idmap_take(&m, key);
            if (value != (there[i] ? &values[i] : NULL))
                CU_FAIL("take gives the value");
            n -= there[i];
            there[i] = false;
        }
    }
    CU_ASSERT_EQUAL(m.n, n);
    for (size_t i = 0; i < KEYS; i++)
        if (gm_idmap_get(&m, (uint64_t)i << 40) != (there[i] ? &values[i] : NULL))
            CU_FAIL("get agrees in the end");
    /* Removing while walking from the end visits every entry once. */
    size_t seen = 0;
    size_t kept = 0;
    for (size_t i = m.n; i-- > 0;) {
        seen++;
        if (m.entries[i].key >> 40 & 1)
            kept++;
        else
            CU_ASSERT_PTR_NOT_NULL(gm_idmap_take(&m, m.entries[i].key));
    }
    CU_ASSERT_EQUAL(seen, n);
    CU_ASSERT_EQUAL(m.n, kept);
    for (size_t i = 0; i < KEYS; i++)
        if (gm_idmap_get(&m, (uint64_t)i << 40) != (there[i] && i % 2 == 1 ? &values[i] : NULL))
            CU_FAIL("the others are still there");
    gm_idmap_close(&m);
    gm_idmap_close(&m);
}

static void test_idmap_limits(void)
{
    struct gm_idmap m;
    struct gm_err err = GM_ERR_NONE;
    int value = 1;
    CU_ASSERT_EQUAL(gm_idmap_open(&m, 0, 4, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(gm_idmap_get(&m, 1));
    CU_ASSERT_PTR_NULL(gm_idmap_take(&m, 1));
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 1, &value, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_idmap_open(&m, 5, 4, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_idmap_open(&m, 1, SIZE_MAX, &err), GM_INVALID);
    CU_ASSERT_EQUAL_FATAL(gm_idmap_open(&m, 2, 3, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 1, NULL, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 0, &value, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, UINT64_MAX, &value, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 2, &value, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 3, &value, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 2, &value, &err), GM_EXISTS);
    CU_ASSERT_PTR_EQUAL(gm_idmap_take(&m, 0), &value);
    CU_ASSERT_PTR_NULL(gm_idmap_take(&m, 0));
    CU_ASSERT_EQUAL(gm_idmap_put(&m, 3, &value, &err), GM_OK);
    gm_idmap_clear(&m);
    CU_ASSERT_PTR_NULL(gm_idmap_get(&m, 2));
    CU_ASSERT_EQUAL(m.n, 0);
    gm_idmap_close(&m);
}

static void test_strmap(void)
{
    struct gm_strmap m;
    struct gm_err err = GM_ERR_NONE;
    static int values[500];
    char key[GM_STRMAP_KEY_MAX + 2];
    CU_ASSERT_EQUAL_FATAL(gm_strmap_open(&m, 1, 600, &err), GM_OK);
    for (int i = 0; i < 500; i++) {
        (void)snprintf(key, sizeof key, "session-%d", i);
        CU_ASSERT_EQUAL(gm_strmap_put(&m, key, &values[i], &err), GM_OK);
    }
    CU_ASSERT_EQUAL(gm_strmap_put(&m, "session-7", &values[0], &err), GM_EXISTS);
    for (int i = 0; i < 500; i += 3) {
        (void)snprintf(key, sizeof key, "session-%d", i);
        CU_ASSERT_PTR_EQUAL(gm_strmap_take(&m, key), &values[i]);
    }
    for (int i = 0; i < 500; i++) {
        (void)snprintf(key, sizeof key, "session-%d", i);
        CU_ASSERT_PTR_EQUAL(gm_strmap_get(&m, key), i % 3 == 0 ? NULL : &values[i]);
    }
    CU_ASSERT_EQUAL(gm_strmap_put(&m, "", &values[1], &err), GM_OK);
    CU_ASSERT_PTR_EQUAL(gm_strmap_get(&m, ""), &values[1]);
    CU_ASSERT_EQUAL(gm_strmap_put(&m, "12345678", &values[2], &err), GM_OK);
    CU_ASSERT_PTR_EQUAL(gm_strmap_take(&m, "12345678"), &values[2]);
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    CU_ASSERT_EQUAL(gm_strmap_put(&m, key, &values[0], &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(gm_strmap_get(&m, key));
    CU_ASSERT_EQUAL(gm_strmap_put(&m, NULL, &values[0], &err), GM_INVALID);
    key[GM_STRMAP_KEY_MAX] = '\0';
    CU_ASSERT_EQUAL(gm_strmap_put(&m, key, &values[3], &err), GM_OK);
    CU_ASSERT_PTR_EQUAL(gm_strmap_get(&m, key), &values[3]);
    gm_strmap_close(&m);
    gm_strmap_close(&m);
    CU_ASSERT_PTR_NULL(gm_strmap_get(&m, "x"));
    CU_ASSERT_PTR_NULL(gm_strmap_take(&m, "x"));
}

static void test_ring(void)
{
    struct gm_ring r;
    struct item {
        int number;
        char more[3];
    };
    CU_ASSERT_EQUAL(gm_ring_open(&r, 0, 1, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_ring_open(&r, SIZE_MAX, 2, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_ring_open(&r, 1, SIZE_MAX, NULL), GM_INVALID);
    CU_ASSERT_EQUAL_FATAL(gm_ring_open(&r, sizeof(struct item), 3, NULL), GM_OK);
    struct item item = { 0, "ab" };
    int next_in = 0;
    int next_out = 0;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i <= round % 4; i++) {
            item.number = next_in;
            bool fits = r.n < 3;
            CU_ASSERT_EQUAL(gm_ring_push(&r, &item), fits);
            next_in += fits;
        }
        for (size_t i = 0; i < r.n; i++)
            CU_ASSERT_EQUAL(((struct item *)gm_ring_at(&r, i))->number, next_out + (int)i);
        CU_ASSERT_PTR_NULL(gm_ring_at(&r, r.n));
        for (int i = 0; i <= round % 3; i++) {
            item.number = -1;
            if (gm_ring_pop(&r, &item))
                CU_ASSERT_EQUAL(item.number, next_out++);
        }
    }
    CU_ASSERT(next_out > 20);
    while (gm_ring_pop(&r, NULL))
        next_out++;
    CU_ASSERT_EQUAL(next_out, next_in);
    CU_ASSERT_FALSE(gm_ring_pop(&r, &item));
    gm_ring_close(&r);
    gm_ring_close(&r);
    CU_ASSERT_FALSE(gm_ring_push(&r, &item));
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_TestInfo tests[] = {
        { "errors", test_err },
        { "arena: ceiling and hostile sizes", test_arena },
        { "arena: reuse after reset", test_arena_reuse },
        { "buffer", test_buf },
        { "UTF-8", test_utf8 },
        { "JSON escapes", test_json },
        { "whole numbers", test_whole_numbers },
        { "real numbers", test_real_numbers },
        { "durations and word distance", test_durations },
        { "id map against a plain table", test_idmap_random },
        { "id map limits", test_idmap_limits },
        { "text map", test_strmap },
        { "ring", test_ring },
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = { { "base", NULL, NULL, NULL, NULL, tests }, CU_SUITE_INFO_NULL };
    if (CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
