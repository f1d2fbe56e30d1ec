// uses: services/cli/load_http.c
/* fuzz_http_reply.c - libFuzzer target: any bytes as an HTTP reply with server-sent events.
 *
 * Owns:      what must hold of every reply: wherever its bytes are cut, it reads the same.
 * Does not:  know which replies are right (tests/unit/test_load.c).
 * Input:     the first byte says how long the pieces are (0: 1 byte); the rest is the reply. Seeds
 *            in tests/fuzz/http_reply.
 */
#include "services/cli/load_http.h"
#include "tests/fuzz/must.h"

/* What was read of a reply. */
struct seen {
    enum gm_status rc;
    struct gm_http_reply reply;
    struct gm_sse events;
    uint64_t body, data; /* FNV-1a of the body, and of the events */
    size_t n_events, used;
};

static uint64_t hash(uint64_t h, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint8_t)bytes[i]) * 1099511628211u;
    return h;
}

static enum gm_status on_event(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    struct seen *s = ctx;
    (void)err;
    s->data = hash(s->data + 1, bytes, n);
    s->n_events++;
    return GM_OK;
}

static enum gm_status on_body(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    struct seen *s = ctx;
    s->body = hash(s->body, bytes, n);
    return gm_sse_feed(&s->events, bytes, n, on_event, s, err);
}

static void read_reply(struct seen *s, const uint8_t *data, size_t size, size_t piece)
{
    struct gm_err err = GM_ERR_NONE;
    memset(s, 0, sizeof *s);
    gm_http_reply_begin(&s->reply);
    gm_sse_begin(&s->events);
    while (s->rc == GM_OK && s->used < size && s->reply.at != GM_HTTP_DONE) {
        const size_t n = size - s->used < piece ? size - s->used : piece;
        size_t used = 0;
        char *copy = malloc(n); /* exactly the piece */
        must(copy != NULL);
        memcpy(copy, data + s->used, n);
        s->rc = gm_http_reply_feed(&s->reply, copy, n, &used, on_body, s, &err);
        must(used <= n && (s->rc != GM_OK || used == n || s->reply.at == GM_HTTP_DONE));
        s->used += used;
        free(copy);
    }
    if (s->rc == GM_OK)
        s->rc = gm_http_reply_end(&s->reply, &err);
    must_be_told(s->rc, &err);
    must(s->rc != GM_OK || (s->reply.at == GM_HTTP_DONE && s->reply.status >= 200));
    gm_http_reply_free(&s->reply);
    gm_sse_free(&s->events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct seen whole, cut;
    if (size < 1)
        return 0;
    read_reply(&whole, data + 1, size - 1, size);
    read_reply(&cut, data + 1, size - 1, data[0] > 0 ? data[0] : 1);
    must(whole.rc == cut.rc && whole.reply.status == cut.reply.status);
    must(whole.rc != GM_OK || (whole.body == cut.body && whole.data == cut.data &&
                               whole.n_events == cut.n_events && whole.used == cut.used));
    return 0;
}
