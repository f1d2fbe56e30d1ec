// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open
/* fuzz_client.c - libFuzzer target: any answers to the C client: calls, streams, followed turns.
 *
 * Owns:      the real client and follow.c; what must hold of what they tell their caller.
 * Does not:  know what a server says (tests/unit/test_follow.c).
 * Input:     steps (tests/fuzz/serve.h); where the first one is SERVE_OWN its byte says what is
 *            asked: a call, a stream, a turn, a turn that its caller gives up. Seeds in
 *            tests/fuzz/client.
 */
#include "tests/fuzz/must.h"
#include "tests/fuzz/serve.h"

enum { WAYS = 4, TIMEOUT_MS = 60000, IDLE_MAX = 3000, ITEMS_BEFORE_STOP = 2 };

const uint8_t script_codes[] = {
    SERVE_ANSWER,  SERVE_ITEM,     SERVE_ITEM, SERVE_ITEM,    SERVE_REFUSE,
    SERVE_ADVANCE, SERVE_RAW_PEER, SERVE_FAIL, SERVE_PAYLOAD, SERVE_OWN,
};
const size_t script_codes_n = sizeof script_codes;

/* What the caller has heard. */
static struct {
    int way, items, idle;
    bool started, finished;
    uint32_t next; /* position of the next token; 0: none has come */
} t;

static bool on_item(void *ctx, const ProtobufCMessage *item)
{
    (void)ctx;
    must(item != NULL && !t.finished);
    t.items++;
    if (t.way >= 2) {
        const Gm__TurnEvent *e = (const Gm__TurnEvent *)item;
        must(item->descriptor == &gm__turn_event__descriptor);
        must(e->started == NULL || !t.started); /* once */
        t.started |= e->started != NULL;
        for (size_t i = 0; i < e->n_tokens; i++) { /* each once, in order */
            must(t.next == 0 || e->tokens[i]->pos == t.next);
            t.next = e->tokens[i]->pos + 1;
        }
        t.finished = e->finished != NULL;
    }
    return t.way != 3 || t.items < ITEMS_BEFORE_STOP;
}

static bool on_idle(void *ctx)
{
    (void)ctx;
    return ++t.idle < IDLE_MAX;
}

static enum gm_status ask(struct gm_client *c, struct gm_err *err)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    const Gm__SessionRequest sessions = GM__SESSION_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    if (t.way == 0) {
        const struct gm_client_to to = { "orchestrator",
                                         0,
                                         "Orchestrator.Sessions",
                                         &sessions.base,
                                         &gm__session_list__descriptor,
                                         TIMEOUT_MS };
        const enum gm_status rc = gm_client_call(c, &to, &reply, err);
        must((rc == GM_OK) == (reply != NULL));
        if (reply != NULL)
            protobuf_c_message_free_unpacked(reply, NULL);
        return rc;
    }
    if (t.way == 1) {
        const struct gm_client_to to = {
            "orchestrator", 0, "Orchestrator.Score", &empty.base, &gm__score_event__descriptor,
            TIMEOUT_MS
        };
        return gm_client_stream(c, &to, &(struct gm_client_flow){ on_item, on_idle, NULL }, err);
    }
    Gm__StartRequest start = GM__START_REQUEST__INIT;
    start.turn = (char *)(uintptr_t) "turn";
    return gm_client_turn(c, &start, TIMEOUT_MS, on_item, on_idle, NULL, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct serve_to to = { .service = NULL };
    struct gm_client *c = NULL;
    struct gm_err err = GM_ERR_NONE;
    memset(&t, 0, sizeof t);
    t.way = size > 3 && data[0] == SERVE_OWN ? data[3] % WAYS : 2;
    serve_begin(&to, data, size);
    must(gm_client_open(&c, "/run", NULL, &err) == GM_OK);
    const enum gm_status rc = ask(c, &err);
    must_be_told(rc, &err);
    must(rc != GM_OK || t.way < 2 || t.finished);
    gm_client_close(&c);
    serve_end();
    return 0;
}
