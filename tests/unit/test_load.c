/* test_load.c - the HTTP client of `gemline load`: replies and events, cut anywhere.
 *
 * Owns:      cases of good and bad replies, each fed whole, byte by byte and cut at every place.
 * Does not:  open sockets.
 */
// uses: services/cli/load_http.c services/cli/load_series.c
#include "services/cli/load_http.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/load_series.h"

enum { OUT_MAX = 1 << 21, WHOLE = 0, ROUNDS = 2000 };

static enum gm_status collect(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    return gm_buf_append(ctx, bytes, n, err);
}

/* Events in angle brackets. */
static enum gm_status collect_event(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    if (gm_buf_append(ctx, "<", 1, err) != GM_OK || gm_buf_append(ctx, bytes, n, err) != GM_OK)
        return err->status;
    return gm_buf_append(ctx, ">", 1, err);
}

/* Feeds `text` in two parts cut at `cut` (or byte by byte when step is 1); *used: of all. */
static enum gm_status feed(struct gm_http_reply *r, const char *text, size_t n, size_t cut,
                           size_t step, size_t *used, struct gm_buf *body)
{
    struct gm_err err = GM_ERR_NONE;
    enum gm_status rc = GM_OK;
    *used = 0;
    while (rc == GM_OK && *used < n && r->at != GM_HTTP_DONE) {
        size_t part = 0, left = n - *used;
        if (step)
            left = left < step ? left : step;
        else if (*used < cut)
            left = cut - *used;
        rc = gm_http_reply_feed(r, text + *used, left, &part, collect, body, &err);
        CU_ASSERT_TRUE(part <= left);
        CU_ASSERT_TRUE(part == left || r->at == GM_HTTP_DONE || rc != GM_OK);
        *used += part;
    }
    CU_ASSERT_EQUAL(rc, err.status);
    CU_ASSERT_EQUAL(rc != GM_OK, err.text[0] != 0);
    return rc;
}

struct good {
    const char *text, *body;
    int status;
    bool keep, closed; /* closed: the end of the connection ends it */
    int64_t retry;
    size_t after; /* bytes behind the reply that are not its own */
};
static const struct good goods[] = {
    { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, true, false, -1, 0 },
    { "HTTP/1.1 200\r\ncontent-LENGTH:5  \r\n\r\nhelloHTTP", "hello", 200, true, false, -1, 4 },
    { "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n", "abc", 200, true, false, -1,
      0 },
    { "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0A;x=\"y\"\r\n, "
      "world!!\r\r\n0\r\nX: y\r\n\r\n",
      "hello, world!!\r", 200, true, false, -1, 0 },
    { "HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", "", 429, true, false,
      3, 0 },
    { "HTTP/1.1 503 X\r\nRetry-After: Tue, 24 Nov 2026 00:00:00 GMT\r\nConnection: a, Close\r\n"
      "Content-Length: 0\r\n\r\n",
      "", 503, false, false, -1, 0 },
    { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", "", 204, true, false, -1, 0 },
    { "HTTP/1.0 200 OK\r\n\r\nuntil the end", "until the end", 200, false, true, -1, 0 },
    { "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", "ok", 200, true,
      false, -1, 0 },
};

static void check_good(const struct good *g, size_t cut, size_t step)
{
    struct gm_http_reply r = { 0 };
    struct gm_buf body = GM_BUF(OUT_MAX);
    const size_t n = strlen(g->text);
    size_t used = 0;
    gm_http_reply_begin(&r);
    CU_ASSERT_EQUAL(feed(&r, g->text, n, cut, step, &used, &body), GM_OK);
    CU_ASSERT_EQUAL(used, n - g->after);
    CU_ASSERT_EQUAL(r.at == GM_HTTP_DONE, !g->closed);
    CU_ASSERT_EQUAL(gm_http_reply_end(&r, NULL), GM_OK);
    CU_ASSERT_EQUAL(r.at, GM_HTTP_DONE);
    CU_ASSERT_EQUAL(r.status, g->status);
    CU_ASSERT_EQUAL(r.keep, g->keep);
    CU_ASSERT_EQUAL(r.retry_after_s, g->retry);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&body), g->body);
    gm_http_reply_free(&r);
    gm_buf_free(&body);
}

static void test_replies(void)
{
    for (size_t i = 0; i < sizeof goods / sizeof goods[0]; i++) {
        check_good(&goods[i], WHOLE, 1);
        for (size_t cut = 0; cut < strlen(goods[i].text); cut++)
            check_good(&goods[i], cut, 0);
    }
}

static void test_bad_replies(void)
{
    static const char *const bads[] = {
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: empty\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA B: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 2\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++)
        for (size_t step = 0; step < 2; step++) {
            struct gm_http_reply r = { 0 };
            struct gm_buf body = GM_BUF(OUT_MAX);
            size_t used = 0;
            gm_http_reply_begin(&r);
            const enum gm_status rc = feed(&r, bads[i], strlen(bads[i]), 0, step, &used, &body);
            if (rc != GM_DATA_LOSS)
                fprintf(stderr, "taken as a reply: %s\n", bads[i]);
            CU_ASSERT_EQUAL(rc, GM_DATA_LOSS);
            gm_http_reply_free(&r);
            gm_buf_free(&body);
        }
}

/* A closed connection anywhere before the end is told, with which of the two it is. */
static void test_cut_replies(void)
{
    const char *text = goods[3].text;
    for (size_t n = 0; n < strlen(text); n++) {
        struct gm_http_reply r = { 0 };
        struct gm_buf body = GM_BUF(OUT_MAX);
        struct gm_err err = GM_ERR_NONE;
        size_t used = 0;
        gm_http_reply_begin(&r);
        CU_ASSERT_EQUAL(feed(&r, text, n, 0, 0, &used, &body), GM_OK);
        CU_ASSERT_EQUAL(gm_http_reply_end(&r, &err), GM_DATA_LOSS);
        CU_ASSERT_EQUAL(strstr(err.text, "before") != NULL, n == 0);
        gm_http_reply_free(&r);
        gm_buf_free(&body);
    }
}

/* `n` lines of `width` bytes after the status line. */
static enum gm_status huge(size_t n, size_t width)
{
    struct gm_http_reply r = { 0 };
    struct gm_buf text = GM_BUF(OUT_MAX), body = GM_BUF(OUT_MAX);
    size_t used = 0;
    gm_buf_append_text(&text, "HTTP/1.1 200 OK\r\n", NULL);
    for (size_t i = 0; i < n; i++) {
        gm_buf_append_text(&text, "X: ", NULL);
        for (size_t k = 5; k < width; k++)
            gm_buf_append(&text, "x", 1, NULL);
        gm_buf_append_text(&text, "\r\n", NULL);
    }
    gm_http_reply_begin(&r);
    const enum gm_status rc = feed(&r, text.data, text.len, 0, 1000, &used, &body);
    CU_ASSERT_TRUE(r.line.len <= GM_HTTP_LINE_MAX);
    gm_http_reply_free(&r);
    gm_buf_free(&text);
    gm_buf_free(&body);
    return rc;
}

static void test_huge_headers(void)
{
    CU_ASSERT_EQUAL(huge(1, GM_HTTP_LINE_MAX), GM_OK);
    CU_ASSERT_EQUAL(huge(1, GM_HTTP_LINE_MAX + 2), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(huge(GM_HTTP_HEADS_MAX / 64 - 1, 64), GM_OK);
    CU_ASSERT_EQUAL(huge(GM_HTTP_HEADS_MAX / 64 + 1, 64), GM_EXHAUSTED);
}

/* Headers are counted anew for each chunk: a long stream is no long head. */
static void test_long_stream(void)
{
    struct gm_http_reply r = { 0 };
    struct gm_buf body = GM_BUF(OUT_MAX);
    const char *head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const char *chunk = "8;name=value-that-makes-the-line-longer\r\n12345678\r\n";
    size_t used = 0;
    gm_http_reply_begin(&r);
    CU_ASSERT_EQUAL(feed(&r, head, strlen(head), 0, 0, &used, &body), GM_OK);
    for (int i = 0; i < ROUNDS; i++)
        CU_ASSERT_EQUAL(feed(&r, chunk, strlen(chunk), 0, 0, &used, &body), GM_OK);
    CU_ASSERT_EQUAL(feed(&r, "0\r\n\r\n", 5, 0, 0, &used, &body), GM_OK);
    CU_ASSERT_EQUAL(r.at, GM_HTTP_DONE);
    CU_ASSERT_EQUAL(body.len, 8 * ROUNDS);
    gm_http_reply_free(&r);
    gm_buf_free(&body);
}

static void test_events(void)
{
    static const char *const cases[][2] = {
        { "data: one\n\ndata: two\n\n", "<one><two>" },
        { "data:one\r\n\r\ndata:  two\r\n\r\n", "<one>< two>" },
        { "data: one\r\rdata: two\r\r", "<one><two>" },
        { ": ping\n\ndata: a\ndata: b\n\n", "<a\nb>" },
        { "event: x\nid: 7\ndata\ndata:\n\n", "<\n>" },
        { "data: {\"a\": \"b\"}\n\ndata: [DONE]\n\n", "<{\"a\": \"b\"}><[DONE]>" },
        { "database: x\n\n\n\ndata: not ended\n", "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const size_t n = strlen(cases[i][0]);
        for (size_t cut = 0; cut <= n; cut++) {
            struct gm_sse s = { 0 };
            struct gm_buf out = GM_BUF(OUT_MAX);
            struct gm_err err = GM_ERR_NONE;
            gm_sse_begin(&s);
            CU_ASSERT_EQUAL(gm_sse_feed(&s, cases[i][0], cut, collect_event, &out, &err), GM_OK);
            CU_ASSERT_EQUAL(gm_sse_feed(&s, cases[i][0] + cut, n - cut, collect_event, &out, &err),
                            GM_OK);
            CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), cases[i][1]);
            gm_sse_free(&s);
            gm_buf_free(&out);
        }
    }
}

static void test_huge_event(void)
{
    struct gm_sse s = { 0 };
    struct gm_buf out = GM_BUF(OUT_MAX);
    struct gm_err err = GM_ERR_NONE;
    char *text = malloc(GM_SSE_EVENT_MAX + 1);
    CU_ASSERT_PTR_NOT_NULL_FATAL(text);
    memset(text, 'x', GM_SSE_EVENT_MAX + 1);
    gm_sse_begin(&s);
    CU_ASSERT_EQUAL(gm_sse_feed(&s, text, GM_SSE_EVENT_MAX, collect_event, &out, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_sse_feed(&s, text, 1, collect_event, &out, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(err.status, GM_EXHAUSTED);
    gm_sse_free(&s);
    gm_buf_free(&out);
    free(text);
}

static void test_series(void)
{
    struct gm_series s;
    gm_series_begin(&s, 1000);
    for (int i = 1000; i >= 1; i--)
        CU_ASSERT_TRUE(gm_series_add(&s, i));
    CU_ASSERT_DOUBLE_EQUAL(gm_series_quantile(&s, 0.5), 500, 0);
    CU_ASSERT_DOUBLE_EQUAL(gm_series_quantile(&s, 0.99), 990, 0);
    CU_ASSERT_DOUBLE_EQUAL(s.max, 1000, 0);
    for (int i = 0; i < 9000; i++) /* past what is kept: a fair sample of all */
        CU_ASSERT_TRUE(gm_series_add(&s, 5000));
    CU_ASSERT_EQUAL(s.n, 1000);
    CU_ASSERT_EQUAL(s.seen, 10000);
    CU_ASSERT_DOUBLE_EQUAL(gm_series_quantile(&s, 0.5), 5000, 0);
    CU_ASSERT_TRUE(gm_series_quantile(&s, 0.05) <= 1000);
    gm_series_free(&s);
}

int main(void)
{
    static CU_TestInfo tests[] = {
        { "replies, cut anywhere", test_replies },
        { "bad replies", test_bad_replies },
        { "replies that end early", test_cut_replies },
        { "huge headers", test_huge_headers },
        { "a long stream of chunks", test_long_stream },
        { "events, cut anywhere", test_events },
        { "an event without end", test_huge_event },
        { "a series and its quantiles", test_series },
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = { { "load", NULL, NULL, NULL, NULL, tests }, CU_SUITE_INFO_NULL };
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 1;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed != 0;
}
