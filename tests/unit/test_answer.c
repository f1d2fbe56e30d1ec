// uses: services/gateway/answer.c services/gateway/answer_put.c services/gateway/answer_response.c
// uses: services/gateway/answer_own.c
// libs: -ljansson
/* test_answer.c - completions, read back with a JSON parser that refuses double keys: shapes,
 * numbers, hostile text, tokens that are no whole characters, events within their limit.
 *
 * Owns:      the checks of services/gateway/answer.c and answer_put.c.
 * Does not:  hold the shapes against the official client's types.
 */
#include "services/gateway/answer.h"

#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/answer_put.h"
#include "tests/unit/answer_read.h"

static const struct gm_timings timings = { 4, 6, 5, 12, 100, 20 };
static const struct gm_totals totals = { &usage, &timings };

static struct gm_answer_meta meta_of(enum gm_answer_form form)
{
    return (struct gm_answer_meta){
        .form = form, .id = "id-1", .created = 1700000000, .model = "gemma3-270m", .vocab = &vocab
    };
}

/* ---- chat ------------------------------------------------------------------------------------ */

static void test_chat(void)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_CHAT);
    const struct gm_choice c[] = {
        { 0, "hi", 2, "stop", true, tokens + 1, N_TOKENS - 1, NULL },
        { 1, "\"\\\n\xff</script>\0x", 15, "length", false, NULL, 0, NULL },
    };
    json_t *j = read_back(gm_answer_whole(&out, &m, c, 2, &totals, &err));
    is_text(j, "object", "chat.completion");
    is_number(j, "created", 1700000000);
    is_null(j, "system_fingerprint");
    CU_ASSERT_PTR_NULL(at(j, "session"));
    has_n(j, "choices", 2);
    is_text(j, "choices/0/message/role", "assistant");
    is_text(j, "choices/0/message/content", "hi");
    is_text(j, "choices/0/finish_reason", "stop");
    is_null(j, "choices/0/logprobs/refusal");
    has_n(j, "choices/0/logprobs/content", N_TOKENS - 1);
    is_text(j, "choices/0/logprobs/content/0/token", " the");
    is_number(j, "choices/0/logprobs/content/0/logprob", (double)-0.1F);
    has_n(j, "choices/0/logprobs/content/0/bytes", 4);
    has_n(j, "choices/0/logprobs/content/0/top_logprobs", N_BEST);
    is_text(j, "choices/0/logprobs/content/0/top_logprobs/4/token", "<eos>");
    is_text(j, "choices/0/logprobs/content/1/token", "\xEF\xBF\xBD");
    is_number(j, "choices/0/logprobs/content/1/logprob", -9999);
    is_number(j, "choices/0/logprobs/content/1/bytes/0", NO_BYTES);
    is_number(j, "choices/0/logprobs/content/3/logprob", -9999);
    has_n(j, "choices/0/logprobs/content/3/top_logprobs", 0);
    is_null(j, "choices/1/logprobs");
    json_t *text = at(j, "choices/1/message/content");
    CU_ASSERT_EQUAL(json_string_length(text), 17);
    CU_ASSERT_EQUAL(memcmp(json_string_value(text), "\"\\\n\xEF\xBF\xBD</script>\0x", 17), 0);
    is_number(j, "usage/total_tokens", 16);
    is_number(j, "usage/prompt_tokens_details/cached_tokens", 4);
    is_number(j, "timings/prompt_per_token_ms", 2);
    is_number(j, "timings/predicted_per_second", 50);
    is_number(j, "timings/ttft_ms", 20);
    json_decref(j);
}

static void test_chat_chunks(void)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_CHAT);
    struct gm_choice c = { 2, "hi", 2, "stop", true, tokens + 1, 1, NULL };
    m.session = "s-1";
    json_t *j = read_back(gm_answer_chunk(&out, &m, GM_CHUNK_FIRST, &c, NULL, &err));
    is_text(j, "object", "chat.completion.chunk");
    is_text(j, "session", "s-1");
    is_number(j, "choices/0/index", 2);
    is_text(j, "choices/0/delta/role", "assistant");
    is_text(j, "choices/0/delta/content", "");
    is_null(j, "choices/0/finish_reason");
    is_null(j, "choices/0/logprobs");
    CU_ASSERT_PTR_NULL(at(j, "usage"));
    json_decref(j);
    m.include_usage = true;
    j = read_back(gm_answer_chunk(&out, &m, GM_CHUNK_TEXT, &c, NULL, &err));
    is_text(j, "choices/0/delta/content", "hi");
    CU_ASSERT_PTR_NULL(at(j, "choices/0/delta/role"));
    has_n(j, "choices/0/logprobs/content", 1);
    is_null(j, "choices/0/finish_reason");
    is_null(j, "usage");
    json_decref(j);
    j = read_back(gm_answer_chunk(&out, &m, GM_CHUNK_LAST, &c, &timings, &err));
    has_n(j, "choices/0/delta", 0);
    is_text(j, "choices/0/finish_reason", "stop");
    is_null(j, "usage");
    is_number(j, "timings/cache_n", 4);
    json_decref(j);
    j = read_back(gm_answer_usage_chunk(&out, &m, &totals, &err));
    has_n(j, "choices", 0);
    is_number(j, "usage/completion_tokens", 6);
    json_decref(j);
}

/* ---- text completions ------------------------------------------------------------------------ */

static void test_text(void)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_TEXT);
    const struct gm_choice c = { 0, " the?Ah\xC3\xA9", 9, "length", true, tokens, N_TOKENS, NULL };
    json_t *j = read_back(gm_answer_whole(&out, &m, &c, 1, &totals, &err));
    is_text(j, "object", "text_completion");
    has_n(j, "choices/0/logprobs/tokens", N_TOKENS);
    is_text(j, "choices/0/logprobs/tokens/0", "<bos>");
    is_text(j, "choices/0/logprobs/tokens/2", "bytes:\\xe2");
    is_null(j, "choices/0/logprobs/token_logprobs/0");
    is_number(j, "choices/0/logprobs/token_logprobs/2", -9999);
    is_null(j, "choices/0/logprobs/top_logprobs/0");
    /* two ids are named A: the best one stands for the name */
    has_n(j, "choices/0/logprobs/top_logprobs/1", N_BEST - 1);
    is_number(j, "choices/0/logprobs/top_logprobs/1/A", -2.5);
    /* unless one of them is the token itself, which is listed though it is none of the best */
    has_n(j, "choices/0/logprobs/top_logprobs/3", 2);
    is_number(j, "choices/0/logprobs/top_logprobs/3/A", -7);
    has_n(j, "choices/0/logprobs/top_logprobs/4", 1);
    static const double offsets[N_TOKENS] = { 0, 0, 4, 4, 6 };
    for (int i = 0; i < N_TOKENS; i++) {
        char path[64];
        snprintf(path, sizeof path, "choices/0/logprobs/text_offset/%d", i);
        is_number(j, path, offsets[i]);
    }
    json_decref(j);
}

static void test_text_chunks(void)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_TEXT);
    struct gm_text_at where = { .characters = 0 };
    static const struct gm_answer_token parts[] = {
        { HE, true, -1, 0, NULL },
        { 0xC3, true, -1, 0, NULL },
        { 0xA9, true, -1, 0, NULL },
        { LETTER, true, -1, 0, NULL },
    };
    static const double offsets[] = { 0, 2, 2, 3 };
    for (int i = 0; i < 4; i++) {
        const struct gm_choice c = { 0, "", 0, "stop", true, &parts[i], 1, &where };
        const enum gm_chunk kind = i < 3 ? GM_CHUNK_TEXT : GM_CHUNK_LAST;
        json_t *j = read_back(gm_answer_chunk(&out, &m, kind, &c, NULL, &err));
        is_number(j, "choices/0/logprobs/text_offset/0", offsets[i]);
        if (i < 3)
            is_null(j, "choices/0/finish_reason");
        else
            is_text(j, "choices/0/finish_reason", "stop");
        json_decref(j);
    }
    const struct gm_choice end = { 1, "", 0, "stop", true, NULL, 0, NULL };
    json_t *j = read_back(gm_answer_chunk(&out, &m, GM_CHUNK_LAST, &end, NULL, &err));
    is_null(j, "choices/0/logprobs");
    is_text(j, "choices/0/text", "");
    json_decref(j);
}

/* ---- limits, frames, errors ------------------------------------------------------------------ */

/* Hostile text in events of a named size, nothing lost, every event within its limit. */
static void cut_all(const char *text, size_t n)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_CHAT);
    struct gm_response r = { .id = "resp_1", .item_id = "msg_1", .model = "m", .vocab = &vocab };
    struct gm_buf event = GM_BUF(OUT_MAX), sum = GM_BUF(OUT_MAX), whole = GM_BUF(OUT_MAX);
    m.include_usage = true;
    for (size_t from = 0; from < n;) {
        const size_t take = gm_answer_cut(text + from, n - from);
        CU_ASSERT_FATAL(take > 0 && take <= n - from);
        const struct gm_choice c = { 0, text + from, take, NULL, false, NULL, 0, NULL };
        CU_ASSERT_EQUAL(gm_answer_chunk(&out, &m, GM_CHUNK_TEXT, &c, NULL, &err), GM_OK);
        gm_buf_clear(&event);
        CU_ASSERT_EQUAL(gm_sse_event(&event, NULL, 1 << 30, out.data, out.len, &err), GM_OK);
        CU_ASSERT(event.len <= GM_EVENT_BYTES_MAX);
        json_t *j = read_back(GM_OK);
        json_t *text_j = at(j, "choices/0/delta/content");
        gm_buf_append(&sum, json_string_value(text_j), json_string_length(text_j), &err);
        json_decref(j);
        gm_answer_response_event(&out, &r, GM_EVENT_TEXT_DELTA, &c, 1 << 30, &err);
        gm_buf_clear(&event);
        gm_sse_event(&event, gm_response_event_name(&r, GM_EVENT_TEXT_DELTA), 1, out.data, out.len,
                     &err);
        CU_ASSERT(event.len <= GM_EVENT_BYTES_MAX);
        gm_buf_clear(&out);
        from += take;
    }
    gm_answer_text(&whole, text, n, &err);
    json_t *j = json_loadb(whole.data, whole.len, JSON_ALLOW_NUL, NULL);
    CU_ASSERT_EQUAL(json_string_length(at(j, "text")), sum.len);
    CU_ASSERT(memcmp(json_string_value(at(j, "text")), gm_buf_text(&sum), sum.len) == 0);
    json_decref(j);
    gm_buf_free(&event);
    gm_buf_free(&sum);
    gm_buf_free(&whole);
}

static void test_cut(void)
{
    enum { BYTES = 20000 };
    static const char *const kinds[] = {
        "a",    "\x01",     "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80",
        "\xff", "\xE2\x82", "\"",       "a\n\\"
    };
    char *text = malloc(BYTES);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const size_t n = strlen(kinds[k]);
        for (size_t i = 0; i < BYTES; i++)
            text[i] = kinds[k][i % n];
        cut_all(text, BYTES);
    }
    srand(1);
    for (size_t i = 0; i < BYTES; i++)
        text[i] = (char)rand();
    cut_all(text, BYTES);
    CU_ASSERT_EQUAL(gm_answer_cut(text, 0), 0);
    CU_ASSERT_EQUAL(gm_answer_cut("abc", 3), 3);
    free(text);
    /* the longest piece that a vocabulary may hold */
    char piece[GM_DETOK_BYTES_MAX];
    struct gm_detok d = { .n = 0 };
    cut_all(piece, gm_detok_push(&d, &vocab, LONG, piece));
}

static void test_full_buffer(void)
{
    struct gm_answer_meta m = meta_of(GM_ANSWER_CHAT);
    const struct gm_choice c = { 0, "hi", 2, "stop", true, tokens + 1, 3, NULL };
    gm_answer_whole(&out, &m, &c, 1, &totals, &err);
    const size_t need = out.len;
    gm_buf_clear(&out);
    for (size_t max = 3; max <= need + 3; max++) {
        struct gm_buf b = GM_BUF(max);
        struct gm_err why = GM_ERR_NONE;
        gm_buf_append(&b, "abc", 3, &why);
        const enum gm_status rc = gm_answer_whole(&b, &m, &c, 1, &totals, &why);
        CU_ASSERT_EQUAL(rc, max == need + 3 ? GM_OK : GM_EXHAUSTED);
        CU_ASSERT_EQUAL(why.status, rc);
        CU_ASSERT_EQUAL(b.len, rc == GM_OK ? need + 3 : 3);
        CU_ASSERT(rc == GM_OK || strcmp(b.data, "abc") == 0);
        gm_buf_free(&b);
    }
}

static void test_frames(void)
{
    gm_sse_event(&out, NULL, -1, "{}", 2, &err);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), "data: {}\n\n");
    gm_buf_clear(&out);
    gm_sse_event(&out, "a.b", 0, "{\n}", 3, &err);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), "event: a.b\nid: 0\ndata: {\ndata: }\n\n");
    gm_buf_clear(&out);
    gm_sse_event(&out, NULL, 7, "", 0, &err);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), "id: 7\ndata: \n\n");
    gm_buf_clear(&out);
}

static void test_errors(void)
{
    const struct gm_answer_problem p = { 400, NULL, "messages[0].role", "", "no \"such\" role" };
    json_t *j = read_back(gm_answer_error(&out, &p, &err));
    is_text(j, "error/message", "no \"such\" role");
    is_text(j, "error/type", "invalid_request_error");
    is_text(j, "error/param", "messages[0].role");
    is_null(j, "error/code");
    json_decref(j);
    const struct gm_answer_problem q = { 500, "odd", NULL, "c", NULL };
    j = read_back(gm_answer_error(&out, &q, &err));
    is_text(j, "error/type", "odd");
    is_null(j, "error/param");
    is_text(j, "error/code", "c");
    json_decref(j);
    CU_ASSERT_STRING_EQUAL(gm_answer_error_type(401), "authentication_error");
    CU_ASSERT_STRING_EQUAL(gm_answer_error_type(413), "invalid_request_error");
    CU_ASSERT_STRING_EQUAL(gm_answer_error_type(503), "server_error");
}

/* A locale whose decimal point is another character, of one byte or more, changes nothing. */
static void test_point(void)
{
    static const char *const cases[][2] = {
        { "-0,5", "-0.5" },
        { "1\xD9\xAB"
          "25e-07",
          "1.25e-07" },
        { "3", "3" },
        { "0.5", "0.5" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        snprintf(text, sizeof text, "%s", cases[i][0]);
        text[gm_number_point(text, strlen(text))] = '\0';
        CU_ASSERT_STRING_EQUAL(text, cases[i][1]);
    }
}

/* Floats read back as the same bits; a short one has no more digits than it needs. */
static void test_numbers(void)
{
    uint32_t bits = 1;
    for (int i = 0; i < 20000; i++) {
        float value;
        bits = bits * 1664525U + 1013904223U;
        memcpy(&value, &bits, sizeof value);
        if (!isfinite(value))
            continue;
        struct gm_put p = gm_put_begin(&out, &err);
        gm_put_number(&p, (double)value, "null");
        CU_ASSERT(strtof(gm_buf_text(&out), NULL) == value);
        gm_buf_clear(&out);
        p = gm_put_begin(&out, &err);
        gm_put_short(&p, value, "null");
        CU_ASSERT(strtof(gm_buf_text(&out), NULL) == value);
        gm_buf_clear(&out);
    }
    struct gm_put p = gm_put_begin(&out, &err);
    gm_put_short(&p, 0.7F, "null");
    gm_put_short(&p, INFINITY, " x");
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), "0.7 x");
    gm_buf_clear(&out);
}

int main(void)
{
    static const struct answer_test tests[] = {
        { "chat completions", test_chat },
        { "chunks of a chat", test_chat_chunks },
        { "text completions", test_text },
        { "chunks of a text", test_text_chunks },
        { "events keep their size", test_cut },
        { "a full buffer", test_full_buffer },
        { "frames", test_frames },
        { "errors", test_errors },
        { "the decimal point", test_point },
        { "numbers", test_numbers },
    };
    return answer_run("answer", tests, sizeof tests / sizeof *tests);
}
