/* net_ends.c - two ends of the net layer for its tests: see net_ends.h.
 *
 * Owns:      the methods Test.Echo, Fail, Park, Count and Large.
 * Does not:  check anything.
 */
#include "tests/unit/net_ends.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a server to talk to --------------------------------------------------------------------- */

static enum gm_status run_echo(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    const Gm__EncodeRequest *in = (const Gm__EncodeRequest *)request;
    Gm__TextReply out = GM__TEXT_REPLY__INIT;
    (void)self;
    (void)err;
    out.text = in->text;
    return gm_rpc_reply(s, &out.base);
}

static enum gm_status run_fail(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    (void)self;
    (void)s;
    (void)request;
    err->retry_ms = 123;
    (void)gm_fail(err, GM_EXHAUSTED, "needs %d, has %d", 9, 4);
    err->retry_ms = 123;
    return GM_EXHAUSTED;
}

static void send_count(struct server *v)
{
    while (v->sent < COUNT_TO) {
        Gm__IdsReply out = GM__IDS_REPLY__INIT;
        int32_t id = (int32_t)v->sent;
        out.n_ids = 1;
        out.ids = &id;
        if (!gm_stream_item(v->open, &out.base))
            return;
        v->sent++;
    }
    gm_stream_end(v->open, NULL);
    v->open = NULL;
}

static void on_event(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct server *v = ctx;
    v->gone += gone;
    if (gone)
        v->open = NULL;
    else if (credit > 0 && s == v->open && v->sent > 0)
        send_count(v);
}

static enum gm_status run_park(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    struct server *v = self;
    (void)request;
    (void)err;
    v->open = s;
    v->sent = 0;
    gm_stream_on_event(s, on_event, v);
    return GM_OK;
}

static enum gm_status run_count(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    enum gm_status st = run_park(self, s, request, err);
    send_count(self);
    return st;
}

static enum gm_status run_large(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    Gm__TextReply out = GM__TEXT_REPLY__INIT;
    uint8_t *bytes = calloc(1, GM_BODY_BYTES_MAX);
    (void)self;
    (void)request;
    if (bytes == NULL)
        return gm_fail(err, GM_INTERNAL, "no memory for the test");
    out.text = (ProtobufCBinaryData){ GM_BODY_BYTES_MAX, bytes };
    enum gm_status st = gm_rpc_reply(s, &out.base);
    free(bytes);
    return st;
}

static const struct gm_method methods[] = {
    { "Test.Large", &gm__empty__descriptor, run_large },
    { "Test.Echo", &gm__encode_request__descriptor, run_echo },
    { "Test.Fail", &gm__empty__descriptor, run_fail },
    { "Test.Park", &gm__empty__descriptor, run_park },
    { "Test.Count", &gm__empty__descriptor, run_count },
    { NULL, NULL, NULL },
};

bool server_open(struct server *v, const char *endpoint)
{
    struct gm_err err = GM_ERR_NONE;
    memset(v, 0, sizeof *v);
    if (gm_bus_open(&v->bus, "server-0", endpoint, &err) != GM_OK ||
        gm_rpc_open(&v->rpc, v->bus, methods, v, &err) != GM_OK)
        printf("\nserver: %s\n", err.text);
    return v->rpc != NULL;
}

static void server_close(struct server *v)
{
    gm_rpc_close(&v->rpc);
    gm_bus_close(&v->bus);
}

void turn_once(struct gm_bus *b, struct gm_rpc *r, int wait_ms)
{
    struct gm_msg msg;
    (void)gm_rpc_tick(r);
    (void)gm_bus_wait(b, wait_ms, NULL, 0, NULL);
    while (gm_bus_take(b, &msg)) {
        (void)gm_rpc_handle(r, &msg);
        gm_msg_free(&msg);
    }
}

/* ---- both ends in this process --------------------------------------------------------------- */

char dir[64];
struct server sv;
struct gm_bus *bus;
struct gm_rpc *rpc;
struct gm_peer *peer;

void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct got *g = ctx;
    g->done += done;
    g->err = *err;
    if (body != NULL && body->descriptor == &gm__ids_reply__descriptor) {
        const Gm__IdsReply *in = (const Gm__IdsReply *)body;
        g->in_order = (g->items == 0 || g->in_order) && in->n_ids == 1 && in->ids[0] == g->items;
        g->items++;
    } else if (body != NULL && body->descriptor == &gm__text_reply__descriptor) {
        const Gm__TextReply *in = (const Gm__TextReply *)body;
        size_t n = in->text.len < sizeof g->text - 1 ? in->text.len : sizeof g->text - 1;
        if (n > 0)
            memcpy(g->text, in->text.data, n);
        g->text[n] = '\0';
    }
}

void pump(int ms, const int *until)
{
    int64_t end = gm_now_ms() + ms;
    while (gm_now_ms() < end && (until == NULL || *until == 0)) {
        turn_once(bus, rpc, 2);
        if (sv.rpc != NULL)
            turn_once(sv.bus, sv.rpc, 2);
    }
}

bool ends_open(bool with_server)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    static int n;
    char endpoint[GM_ENDPOINT_MAX];
    struct gm_err err = GM_ERR_NONE;
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/server-%d.sock", dir, n++);
    if ((with_server && !server_open(&sv, endpoint)) ||
        gm_bus_open(&bus, "tester", NULL, &err) != GM_OK ||
        gm_rpc_open(&rpc, bus, none, NULL, &err) != GM_OK)
        return false;
    peer = gm_bus_peer(bus, endpoint, &err);
    return peer != NULL;
}

void ends_close(void)
{
    gm_rpc_close(&rpc);
    gm_bus_close(&bus);
    server_close(&sv);
    memset(&sv, 0, sizeof sv);
}

uint64_t call(const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
              uint32_t credit, struct got *g)
{
    struct gm_err err = GM_ERR_NONE;
    memset(g, 0, sizeof *g);
    const ProtobufCMessageDescriptor *reply =
        strcmp(method, "Test.Echo") == 0 ? &gm__text_reply__descriptor : &gm__ids_reply__descriptor;
    return gm_rpc_call(rpc,
                       &(struct gm_call){ .to = peer,
                                          .method = method,
                                          .request = request,
                                          .reply = reply,
                                          .timeout_ms = timeout_ms,
                                          .credit = credit,
                                          .answer = on_answer,
                                          .ctx = g },
                       &err);
}

uint64_t call_empty(const char *method, uint32_t timeout_ms, uint32_t credit, struct got *g)
{
    Gm__Empty empty = GM__EMPTY__INIT;
    return call(method, &empty.base, timeout_ms, credit, g);
}

/* True when the server still answers. */
bool echo_works(const char *text)
{
    struct got g;
    Gm__EncodeRequest request = GM__ENCODE_REQUEST__INIT;
    request.text = (ProtobufCBinaryData){ strlen(text), (uint8_t *)(uintptr_t)text };
    if (call("Test.Echo", &request.base, PATIENCE_MS, 0, &g) == 0)
        return false;
    pump(PATIENCE_MS, &g.done);
    return g.done == 1 && g.err.status == GM_OK && strcmp(g.text, text) == 0;
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

bool ends_start(const char *name)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/gmnetXXXXXX",
                   tmp != NULL && strlen(tmp) < 30 ? tmp : "/tmp");
    gm_log_open(name, 2);
    return mkdtemp(dir) != NULL;
}

int ends_stop(void)
{
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
}
