// uses: tests/unit/conform_serve.c
// libs: -ljansson
/* test_conformance.c - the C client of the calls against tests/conformance/table.json.
 *
 * Owns:      reading the table, making each call, comparing what came.
 * Does not:  know other clients: `test_conformance serve DIR` serves the same service on
 *            DIR/conform-0.sock until its standard input ends, for
 * tests/system/test_conformance.py.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/conform_serve.h"

enum { PATIENCE_MS = 20000, CREDIT = 64, CASES_MIN = 40 };

static char folder[] = "/tmp/gm-conform-XXXXXX";
static struct conform server;
static struct gm_bus *bus;
static struct gm_rpc *rpc;
static struct gm_peer *peer;

/* What has been heard of one call. */
struct heard {
    uint64_t call;
    bool done;
    struct gm_err err;
    json_t *items;   /* words */
    json_t *trailer; /* key -> text */
    uint32_t used;   /* items taken since credit was given */
};

/* ---- words and JSON -------------------------------------------------------------------------- */

static Gm__Word *word_of(const json_t *j)
{
    static Gm__Word w;
    const char *text = json_string_value(json_object_get(j, "text"));
    gm__word__init(&w);
#define NUMBER(field)                                                                              \
    do {                                                                                           \
        const json_t *v = json_object_get(j, #field);                                              \
        w.has_##field = v != NULL;                                                                 \
        w.field = (uint32_t)json_integer_value(v);                                                 \
    } while (0)
    NUMBER(count);
    NUMBER(status);
    NUMBER(retry_ms);
    NUMBER(after);
    NUMBER(wait_ms);
#undef NUMBER
    w.text = (char *)(uintptr_t)text;
    return &w;
}

static json_t *json_of(const Gm__Word *w)
{
    json_t *j = json_object();
    if (w->text)
        json_object_set_new(j, "text", json_string(w->text));
    if (w->has_count)
        json_object_set_new(j, "count", json_integer(w->count));
    if (w->has_blob)
        json_object_set_new(j, "blob_bytes", json_integer((json_int_t)w->blob.len));
    for (size_t i = 0; i < w->n_keys; i++) {
        if (!json_object_get(j, "keys"))
            json_object_set_new(j, "keys", json_array());
        json_array_append_new(json_object_get(j, "keys"), json_string(w->keys[i]));
    }
    return j;
}

/* ---- one call -------------------------------------------------------------------------------- */

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct heard *h = ctx;
    size_t n = 0;
    if (body)
        json_array_append_new(h->items, json_of((const Gm__Word *)body));
    if (!done) {
        if (++h->used >= CREDIT / 2) {
            gm_rpc_credit(rpc, h->call, h->used);
            h->used = 0;
        }
        return;
    }
    Gm__Meta *const *meta = gm_rpc_trailer(rpc, &n);
    for (size_t i = 0; i < n; i++)
        json_object_set_new(
            h->trailer, meta[i]->key,
            meta[i]->value.len ? json_stringn((const char *)meta[i]->value.data, meta[i]->value.len)
                               : json_string(""));
    h->done = true;
    h->err = *err;
}

/* One turn of both loops. */
static void turn(void)
{
    struct gm_msg msg;
    conform_turn(&server, 1);
    (void)gm_rpc_tick(rpc);
    (void)gm_bus_wait(bus, 1, NULL, 0, NULL);
    while (gm_bus_take(bus, &msg)) {
        (void)gm_rpc_handle(rpc, &msg);
        gm_msg_free(&msg);
    }
}

/* Sends all messages of a client stream as the server takes them, then closes that half. */
static void send_all(const json_t *c, struct heard *h)
{
    const json_t *list = json_object_get(c, "send");
    const size_t n =
        list ? json_array_size(list) : (size_t)json_integer_value(json_object_get(c, "send_n"));
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    for (size_t i = 0; i < n && !h->done && gm_now_ms() < until;) {
        Gm__Word counted = GM__WORD__INIT;
        struct gm_err err = GM_ERR_NONE;
        counted.has_count = 1;
        counted.count = (uint32_t)i;
        const Gm__Word *w = list ? word_of(json_array_get(list, i)) : &counted;
        if (gm_rpc_sendable(rpc, h->call) == 0) {
            CU_ASSERT_NOT_EQUAL(gm_rpc_send(rpc, h->call, &w->base, &err), GM_OK);
            turn();
        } else {
            i += gm_rpc_send(rpc, h->call, &w->base, &err) == GM_OK;
        }
    }
    gm_rpc_done(rpc, h->call);
    if (!h->done)
        CU_ASSERT_EQUAL(gm_rpc_send(rpc, h->call, &word_of(NULL)->base, NULL), GM_PRECONDITION);
}

/* The metadata that a case asks for; *meta has room for 64 pairs. */
static size_t meta_of(const json_t *c, Gm__Meta *meta, Gm__Meta **at)
{
    static char keys[64][24], filler[16384];
    const char *key;
    json_t *value;
    size_t n = 0;
    const size_t many = (size_t)json_integer_value(json_object_get(c, "meta_n"));
    const size_t bytes = (size_t)json_integer_value(json_object_get(c, "meta_bytes"));
    json_object_foreach(json_object_get(c, "meta"), key, value)
    {
        gm__meta__init(&meta[n]);
        meta[n].key = (char *)(uintptr_t)key;
        meta[n].value.len = json_string_length(value);
        meta[n].value.data = (uint8_t *)(uintptr_t)json_string_value(value);
        n++;
    }
    for (size_t i = 0; i < many; i++, n++) {
        gm__meta__init(&meta[n]);
        snprintf(keys[i], sizeof keys[i], "k%zu", i);
        meta[n].key = keys[i];
    }
    if (bytes > 0) {
        gm__meta__init(&meta[n]);
        meta[n].key = (char *)(uintptr_t) "k";
        meta[n].value = (ProtobufCBinaryData){ bytes - 1, (uint8_t *)filler };
        n++;
    }
    for (size_t i = 0; i < n; i++)
        at[i] = &meta[i];
    return n;
}

static void make_call(const json_t *c, struct heard *h)
{
    Gm__Meta meta[64], *at[64];
    const json_t *request = json_object_get(c, "request");
    const size_t bytes = (size_t)json_integer_value(json_object_get(c, "request_bytes"));
    uint8_t *blob = calloc(1, bytes + 1);
    Gm__Word *w = request || bytes ? word_of(request) : NULL;
    if (bytes) {
        w->has_blob = 1;
        w->blob = (ProtobufCBinaryData){ bytes, blob };
    }
    *h = (struct heard){ .items = json_array(), .trailer = json_object(), .err = GM_ERR_NONE };
    const char *method = json_string_value(json_object_get(c, "method"));
    const bool items = json_object_get(c, "items") || json_object_get(c, "n_items");
    const struct gm_call call = {
        .to = peer,
        .method = method,
        .request = w ? &w->base : NULL,
        .reply = &gm__word__descriptor,
        .timeout_ms = (uint32_t)json_integer_value(json_object_get(c, "timeout_ms")),
        .credit = items ? CREDIT : 0,
        .answer = on_answer,
        .ctx = h,
    };
    const struct gm_call_more more = {
        .n_meta = meta_of(c, meta, at),
        .meta = at,
        .traceparent = json_string_value(json_object_get(c, "traceparent")),
    };
    h->call = gm_rpc_call_with(rpc, &call, &more, &h->err);
    h->done = h->call == 0;
    free(blob);
}

static void run_call(const json_t *c, struct heard *h)
{
    make_call(c, h);
    if (!h->done && !json_object_get(c, "request") && !json_object_get(c, "request_bytes"))
        send_all(c, h);
    for (int i = 0; i < 5 && !h->done; i++)
        turn();
    if (json_is_true(json_object_get(c, "cancel")))
        gm_rpc_cancel(rpc, h->call);
    for (const int64_t until = gm_now_ms() + PATIENCE_MS; !h->done && gm_now_ms() < until;)
        turn();
}

/* ---- judging --------------------------------------------------------------------------------- */

static bool good_trace(const json_t *c, const struct heard *h)
{
    const char *want = json_string_value(json_object_get(c, "trace"));
    const char *sent = json_string_value(json_object_get(c, "traceparent"));
    const char *got = json_string_value(json_object_get(h->trailer, "trace"));
    return !want || (got && gm_trace_ok(got) && strncmp(got + 3, want, 32) == 0 &&
                     strcmp(got, sent) != 0); /* a span of its own */
}

static bool good_body(const json_t *c, const struct heard *h)
{
    const json_t *answer = json_object_get(c, "answer"), *items = json_object_get(c, "items");
    const json_t *n = json_object_get(c, "n_items"), *blob = json_object_get(c, "blob_bytes");
    const json_t *first = json_array_get(h->items, 0);
    if (answer && (json_array_size(h->items) != 1 || !json_equal(first, answer)))
        return false;
    if (blob &&
        json_integer_value(json_object_get(first, "blob_bytes")) != json_integer_value(blob))
        return false;
    if (n && json_array_size(h->items) != (size_t)json_integer_value(n))
        return false;
    return !items || json_equal(h->items, items);
}

static bool good(const json_t *c, const struct heard *h)
{
    const char *says = json_string_value(json_object_get(c, "says"));
    const json_t *trailer = json_object_get(c, "trailer");
    return h->done &&
           h->err.status == (enum gm_status)json_integer_value(json_object_get(c, "status")) &&
           (!says || strstr(h->err.text, says)) &&
           h->err.retry_ms == json_integer_value(json_object_get(c, "retry_ms")) &&
           good_body(c, h) && (!trailer || json_equal(h->trailer, trailer)) && good_trace(c, h);
}

static void test_table(void)
{
    json_error_t error;
    json_t *table = json_load_file("tests/conformance/table.json", 0, &error), *c;
    size_t i;
    CU_ASSERT_PTR_NOT_NULL_FATAL(table);
    CU_ASSERT(json_array_size(table) >= CASES_MIN);
    json_array_foreach(table, i, c)
    {
        struct heard h;
        run_call(c, &h);
        if (!good(c, &h)) {
            char *items = json_dumps(h.items, 0);
            printf("\n%s: done %d, status %d, \"%s\", %.200s\n",
                   json_string_value(json_object_get(c, "name")), h.done, (int)h.err.status,
                   h.err.text, items);
            free(items);
            CU_FAIL("a case of the table");
        }
        if (!h.done)
            gm_rpc_cancel(rpc, h.call);
        json_decref(h.items);
        json_decref(h.trailer);
    }
    json_decref(table);
}

/* ---- what one client cannot do by its own rules ---------------------------------------------- */

/* Messages without credit end the call: nothing piles up behind a client that takes no items. */
static void test_no_credit(void)
{
    struct heard h = { .items = json_array(), .trailer = json_object(), .err = GM_ERR_NONE };
    const struct gm_call call = { .to = peer,
                                  .method = "Conform.Chat",
                                  .reply = &gm__word__descriptor,
                                  .answer = on_answer,
                                  .ctx = &h };
    h.call = gm_rpc_call(rpc, &call, &h.err);
    for (int i = 0; i < GM_SEND_CREDIT + 40; i++) {
        Gm__Envelope env = GM__ENVELOPE__INIT;
        env.kind = GM__KIND__SEND;
        env.has_call = 1;
        env.call = h.call;
        CU_ASSERT_EQUAL(gm_bus_send(bus, peer, &env, &word_of(NULL)->base, NULL, 0, NULL), GM_OK);
    }
    for (const int64_t until = gm_now_ms() + PATIENCE_MS; !h.done && gm_now_ms() < until;)
        turn();
    CU_ASSERT_EQUAL(h.err.status, GM_EXHAUSTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(h.err.text, "without credit"));
    json_decref(h.items);
    json_decref(h.trailer);
}

static void test_trace_forms(void)
{
    static const struct {
        const char *text;
        bool ok;
    } forms[] = {
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true },
        { "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what", true },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what", false },
        { "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false },
        { "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false },
        { "00-00000000000000000000000000000000-b7ad6b7169203331-01", false },
        { "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", false },
        { "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false },
        { "", false },
        { NULL, false },
    };
    char child[GM_TRACE_MAX];
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        CU_ASSERT_EQUAL(gm_trace_ok(forms[i].text), forms[i].ok);
        gm_trace_child(child, forms[i].text);
        CU_ASSERT(gm_trace_ok(child));
    }
    gm_trace_child(child, forms[0].text);
    CU_ASSERT_EQUAL(strncmp(child, forms[0].text, 36), 0);
    CU_ASSERT_STRING_EQUAL(child + 53, "01");
}

static int start(void)
{
    char endpoint[GM_ENDPOINT_MAX];
    struct gm_err err = GM_ERR_NONE;
    if (!mkdtemp(folder))
        return 1;
    snprintf(endpoint, sizeof endpoint, "ipc://%s/conform-0.sock", folder);
    if (!conform_open(&server, endpoint) || gm_bus_open(&bus, "caller", NULL, &err) != GM_OK ||
        gm_rpc_open(&rpc, bus, NULL, NULL, &err) != GM_OK)
        return 1;
    peer = gm_bus_peer(bus, endpoint, &err);
    return peer == NULL;
}

static int stop(void)
{
    char path[128];
    gm_rpc_close(&rpc);
    gm_bus_close(&bus);
    conform_close(&server);
    snprintf(path, sizeof path, "%s/conform-0.sock", folder);
    (void)remove(path);
    return remove(folder);
}

static int serve(const char *dir)
{
    struct pollfd in = { .fd = 0, .events = POLLIN };
    char endpoint[GM_ENDPOINT_MAX];
    snprintf(endpoint, sizeof endpoint, "ipc://%s/conform-0.sock", dir);
    gm_log_open("conform", 2);
    if (!conform_open(&server, endpoint))
        return 1;
    printf("serving\n");
    fflush(stdout);
    while (poll(&in, 1, 0) == 0)
        conform_turn(&server, 20);
    conform_close(&server);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2]);
    gm_log_open("test_conformance", 2);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("conformance", start, stop);
    if (!suite || !CU_add_test(suite, "the table", test_table) ||
        !CU_add_test(suite, "messages without credit", test_no_credit) ||
        !CU_add_test(suite, "served after that", test_table) ||
        !CU_add_test(suite, "forms of trace context", test_trace_forms))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
