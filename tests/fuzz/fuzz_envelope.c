// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open
/* fuzz_envelope.c - libFuzzer target: any frames and datagrams for the bus, the calls and the loop.
 *
 * Owns:      a service whose methods and calls do all that common/net can: one reply, streams with
 *            credit, streams that stay open, streams of the client's messages; calls and streams to
 * a peer, with metadata and signs of life; what must hold of them. Does not:  know a message of a
 * real service (the targets edge_*). Input:     steps (tests/fuzz/serve.h); SERVE_OWN: u8 that says
 * which call the service makes, and u8 its timeout. Seeds in tests/fuzz/envelope.
 */
#include "common/net/reflect.h"
#include "reflect.pb-c.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/serve.h"

enum { PARKED_MAX = 16, ITEMS_MAX = 8, CALLS_MAX = 64 };

const uint8_t script_codes[] = {
    SERVE_RAW,        SERVE_RAW,         SERVE_RAW,       SERVE_RAW,
    SERVE_RAW_PEER,   SERVE_RAW_PEER,    SERVE_CONTROL,   SERVE_CONTROL,
    SERVE_ANSWER,     SERVE_ITEM,        SERVE_REFUSE,    SERVE_PAYLOAD,
    SERVE_LANE,       SERVE_LANE,        SERVE_FAIL,      SERVE_ADVANCE,
    SERVE_CALL,       SERVE_CALL + 1,    SERVE_CALL + 2,  SERVE_STREAM + 1,
    SERVE_STREAM + 2, SERVE_CALL + 3,    SERVE_CALL + 4,  SERVE_CALL + 5,
    SERVE_CALL + 6,   SERVE_CALL + 7,    SERVE_SEND,      SERVE_SEND,
    SERVE_SEND,       SERVE_DONE,        SERVE_ROOM,      SERVE_OWN,
    SERVE_OWN,        GM__KIND__EMITTED, GM__KIND__HELLO, GM__KIND__TOKEN_ROWS,
};
const size_t script_codes_n = sizeof script_codes;

/* A call of the service's own: it must be answered once with `done`, and never after it. */
struct own_call {
    bool open, stream;
    uint64_t id;
};

static struct {
    struct gm_service service;
    struct gm_stream *parked[PARKED_MAX];
    size_t n_parked;
    struct own_call calls[CALLS_MAX];
    size_t n_calls;
} t;

/* ---- methods --------------------------------------------------------------------------------- */

static enum gm_status echo(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    const Gm__EncodeRequest *in = (const Gm__EncodeRequest *)request;
    Gm__TextReply out = GM__TEXT_REPLY__INIT;
    (void)self;
    if (in->has_bos)
        return gm_retry_after(
            err, 5,
            gm_fail(err, GM_EXHAUSTED, "%.*s", (int)in->text.len, (const char *)in->text.data));
    out.text = in->text;
    return gm_rpc_reply(s, &out.base);
}

static void forget(const struct gm_stream *s)
{
    for (size_t i = 0; i < t.n_parked; i++)
        if (t.parked[i] == s)
            t.parked[i] = t.parked[--t.n_parked];
}

static void send_items(struct gm_stream *s)
{
    Gm__IdsReply out = GM__IDS_REPLY__INIT;
    uint32_t left = gm_stream_credit(s);
    for (int i = 0; i < ITEMS_MAX; i++) {
        const bool sent = gm_stream_item(s, &out.base);
        must(!sent || gm_stream_credit(s) == left - 1);
        left -= sent;
        if (!sent)
            return;
    }
    forget(s);
    gm_stream_end(s, NULL);
}

static void on_event(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    must(ctx == &t);
    if (gone)
        forget(s);
    else if (credit > 0)
        send_items(s);
}

static enum gm_status park(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    (void)self, (void)request;
    if (t.n_parked == PARKED_MAX)
        return gm_fail(err, GM_EXHAUSTED, "all places are taken");
    t.parked[t.n_parked++] = s;
    gm_stream_on_event(s, on_event, &t);
    return GM_OK;
}

static enum gm_status count(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    const enum gm_status rc = park(self, s, request, err);
    if (rc == GM_OK)
        send_items(s);
    return rc;
}

/* Takes messages of a client stream; answers at its end, and as items before it where asked. */
static uint32_t on_more(void *ctx, struct gm_stream *s, const ProtobufCMessage *message)
{
    Gm__TextReply out = GM__TEXT_REPLY__INIT;
    must(ctx == &t);
    must(message == NULL || message->descriptor == &gm__encode_request__descriptor);
    if (message == NULL) {
        size_t len = 0;
        const uint8_t *key = gm_stream_meta(s, "key", &len);
        if (key != NULL)
            (void)gm_stream_trailer(s, "key", key, len, NULL);
        forget(s);
        (void)gm_rpc_reply(s, &out.base);
        return 0;
    }
    const Gm__EncodeRequest *in = (const Gm__EncodeRequest *)message;
    out.text = in->text;
    (void)gm_stream_item(s, &out.base);
    return in->has_bos && in->bos ? 0 : 1;
}

static enum gm_status collect(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                              struct gm_err *err)
{
    must(request == NULL);
    const enum gm_status rc = park(self, s, request, err);
    must(strlen(gm_stream_trace(s)) < GM_TRACE_MAX);
    if (rc == GM_OK)
        gm_stream_on_message(s, on_more, &t);
    return rc;
}

/* The methods as a file of proto would declare them. */
static void describe(void)
{
    static const struct {
        const char *name;
        bool messages, items;
    } rows[] = { { "Echo", false, false },
                 { "Count", false, true },
                 { "Park", false, true },
                 { "Collect", true, false },
                 { "Talk", true, true } };
    enum { N = sizeof rows / sizeof *rows };
    static bool known;
    Gm__MethodShape shapes[N], *list[N];
    Gm__ServiceShape service = GM__SERVICE_SHAPE__INIT, *services[] = { &service };
    Gm__FileShape file = GM__FILE_SHAPE__INIT, *files[] = { &file };
    Gm__SetShape set = GM__SET_SHAPE__INIT;
    uint8_t bytes[256];
    if (known)
        return;
    for (int i = 0; i < N; i++) {
        gm__method_shape__init(&shapes[i]);
        shapes[i].name = (char *)(uintptr_t)rows[i].name;
        shapes[i].has_client_streaming = shapes[i].has_server_streaming = 1;
        shapes[i].client_streaming = rows[i].messages;
        shapes[i].server_streaming = rows[i].items;
        list[i] = &shapes[i];
    }
    service.name = (char *)(uintptr_t) "Test";
    service.n_method = N;
    service.method = list;
    file.n_service = 1;
    file.service = services;
    set.n_file = 1;
    set.file = files;
    must(gm__set_shape__get_packed_size(&set) <= sizeof bytes);
    must(gm_reflect_add(bytes, gm__set_shape__pack(&set, bytes), NULL) == GM_OK);
    known = true;
}

static const struct gm_method methods[] = {
    { "Test.Echo", &gm__encode_request__descriptor, echo },
    { "Test.Count", &gm__empty__descriptor, count },
    { "Test.Park", &gm__start_request__descriptor, park },
    { "Test.Collect", &gm__encode_request__descriptor, collect },
    { "Test.Talk", &gm__encode_request__descriptor, collect },
    { NULL, NULL, NULL },
};

/* ---- calls of its own ------------------------------------------------------------------------ */

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct own_call *c = ctx;
    must(c->open && (c->stream || done));
    must(err->status == GM_OK || (err->text[0] != '\0' && body == NULL));
    must(c->stream || err->status != GM_OK || body != NULL);
    must(body == NULL || body->descriptor == &gm__turn_event__descriptor);
    size_t n = 0;
    Gm__Meta *const *meta = gm_rpc_trailer(t.service.rpc, &n);
    for (size_t i = 0; i < n; i++)
        must(meta[i]->key != NULL);
    c->open = !done;
}

static void on_room(void *ctx, uint64_t call, uint32_t credit)
{
    const struct own_call *c = ctx;
    must(c->open && c->id == call && credit == gm_rpc_sendable(t.service.rpc, call));
}

/* A message of a client stream, or its end. */
static void send_one(const struct own_call *c, uint8_t how)
{
    Gm__EncodeRequest message = GM__ENCODE_REQUEST__INIT;
    struct gm_err err = GM_ERR_NONE;
    const uint32_t room = gm_rpc_sendable(t.service.rpc, c->id);
    if (how & 32)
        gm_rpc_done(t.service.rpc, c->id);
    const enum gm_status rc = gm_rpc_send(t.service.rpc, c->id, &message.base, &err);
    must(rc != GM_OK || ((how & 32) == 0 && gm_rpc_sendable(t.service.rpc, c->id) == room - 1));
}

static void own(const struct step *step)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    const uint8_t how = step->size > 0 ? step->data[0] : 0;
    struct gm_err err = GM_ERR_NONE;
    bool lost;
    uint64_t boot;
    if ((how & 12) != 0 && t.n_calls > 0) {
        const struct own_call *c = &t.calls[(how >> 4) % t.n_calls];
        if ((how & 12) == 4)
            gm_rpc_cancel(t.service.rpc, c->id);
        else if ((how & 12) == 8 && (how & 1))
            gm_rpc_credit(t.service.rpc, c->id, how);
        else if ((how & 12) == 8)
            gm_rpc_ping(t.service.rpc, c->id);
        else
            send_one(c, how);
        (void)gm_rpc_last_pong_ms(t.service.rpc, c->id, &boot, &lost);
        return;
    }
    struct gm_peer *peer =
        gm_bus_peer(t.service.bus, how & 1 ? "ipc:///run/a.sock" : "tcp://b:1", &err);
    must(peer != NULL);
    if (t.n_calls == CALLS_MAX)
        return;
    struct own_call *c = &t.calls[t.n_calls++];
    *c = (struct own_call){ true, (how & 2) != 0, 0 };
    const struct gm_call call = { .to = peer,
                                  .method = "Other.Call",
                                  .request = how & 16 ? NULL : &empty.base,
                                  .reply = &gm__turn_event__descriptor,
                                  .timeout_ms = step->size > 1 ? step->data[1] : 0,
                                  .credit = how & 2 ? 3 : 0,
                                  .answer = on_answer,
                                  .ctx = c };
    Gm__Meta pair = GM__META__INIT, *pairs[] = { &pair };
    pair.key = (char *)(uintptr_t) "key";
    pair.value = (ProtobufCBinaryData){ step->size, (uint8_t *)(uintptr_t)step->data };
    const struct gm_call_more more = { .room = on_room,
                                       .meta = pairs,
                                       .n_meta = (how & 64) != 0,
                                       .traceparent = how & 32 ? "" : NULL,
                                       .keepalive = (how & 128) != 0 };
    c->id = gm_rpc_call_with(t.service.rpc, &call, &more, &err);
    c->open = c->id != 0;
}

/* ---- the ring -------------------------------------------------------------------------------- */

/* Every message of the ring can be read, and what was read can be written and read again. */
static enum gm_status on_message(void *self, const struct gm_msg *msg, struct gm_err *err)
{
    static const ProtobufCMessageDescriptor *const descs[] = {
        &gm__token_rows__descriptor, &gm__hidden_rows__descriptor, &gm__candidates__descriptor,
        &gm__chosen__descriptor,     &gm__emitted__descriptor,     &gm__scored__descriptor,
        &gm__chunk_done__descriptor, &gm__more__descriptor,        &gm__fault__descriptor,
        &gm__hello__descriptor,
    };
    const size_t which = (size_t)(msg->env->kind - GM__KIND__TOKEN_ROWS);
    (void)self;
    if (which >= sizeof descs / sizeof *descs)
        return gm_fail(err, GM_UNSUPPORTED, "no such kind");
    must(msg->payload == NULL || ((uintptr_t)msg->payload & 15) == 0);
    ProtobufCMessage *m = gm_msg_unpack(msg, descs[which], err);
    if (m == NULL)
        return err->status;
    const size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(n + 1);
    must(bytes != NULL && protobuf_c_message_pack(m, bytes) == n);
    ProtobufCMessage *again = protobuf_c_message_unpack(descs[which], NULL, n, bytes);
    must(again != NULL);
    protobuf_c_message_free_unpacked(again, NULL);
    protobuf_c_message_free_unpacked(m, NULL);
    free(bytes);
    return GM_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct serve_to to = { .service = &t.service, .own = own };
    describe();
    memset(&t, 0, sizeof t);
    t.service = (struct gm_service){
        .role = "test", .run_dir = "/run", .methods = methods, .self = &t, .on_message = on_message
    };
    serve_run(&to, data, size);
    return 0;
}
