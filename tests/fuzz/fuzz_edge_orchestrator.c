// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c tests/fuzz/seam_store.c orchestrator/edge.c
// uses: orchestrator/record.c orchestrator/recover.c orchestrator/replay.c orchestrator/ring.c
// uses: orchestrator/roster.c orchestrator/serve.c orchestrator/session.c orchestrator/poison.c
// uses: orchestrator/session_calls.c orchestrator/turn.c
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open,--wrap=gm_service_open
/* fuzz_edge_orchestrator.c - libFuzzer target: any calls, ring messages, answers of the ring and
 * answers of Redis for the orchestrator.
 *
 * Owns:      the whole orchestrator, from gm_orch_serve on, over a Redis that the input plays.
 * Does not:  know which answers are right (tests/unit/test_orch.c).
 * Input:     steps (tests/fuzz/serve.h); SERVE_OWN + 0: an answer of Redis (seam_store.h), + 1: a
 *            command fails, + 2: Redis goes away (odd byte) or comes back. Where the first step is
 *            SERVE_OWN + 3 its byte chooses the number of shards. Seeds in
 *            tests/fuzz/edge_orchestrator.
 */
#include "orchestrator/orch.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_store.h"
#include "tests/fuzz/serve.h"

enum { CONTEXT = 64, SHARDS = 3, IDLE_ROUNDS = 150 /* until every turn has ended */ };

const uint8_t script_codes[] = {
    SERVE_CALL,
    SERVE_CALL,
    SERVE_CALL + 1,
    SERVE_CALL + 2,
    SERVE_CALL + 3,
    SERVE_CALL + 4,
    SERVE_CALL + 5,
    SERVE_CALL + 6,
    SERVE_CALL + 7,
    SERVE_CALL + 8,
    SERVE_STREAM,
    SERVE_STREAM + 1,
    SERVE_STREAM + 3,
    GM__KIND__EMITTED,
    GM__KIND__EMITTED,
    GM__KIND__SCORED,
    GM__KIND__CHUNK_DONE,
    GM__KIND__FAULT,
    GM__KIND__HELLO,
    SERVE_ANSWER,
    SERVE_ANSWER,
    SERVE_ANSWER,
    SERVE_REFUSE,
    SERVE_ADVANCE,
    SERVE_ADVANCE,
    SERVE_CONTROL,
    SERVE_CONTROL,
    SERVE_FAIL,
    SERVE_RAW,
    SERVE_OWN,
    SERVE_OWN,
    SERVE_OWN,
    SERVE_OWN + 1,
    SERVE_OWN + 2,
    SERVE_OWN + 3,
};
const size_t script_codes_n = sizeof script_codes;

enum gm_status __wrap_gm_service_open(struct gm_service *s, struct gm_err *err);
enum gm_status __real_gm_service_open(struct gm_service *s, struct gm_err *err);

enum gm_status __wrap_gm_service_open(struct gm_service *s, struct gm_err *err)
{
    serve_service(s);
    return __real_gm_service_open(s, err);
}

static void own(const struct step *step)
{
    if (step->code == SERVE_OWN)
        seam_store_answer(step->data, step->size);
    else if (step->code == SERVE_OWN + 1)
        seam_store_fail();
    else if (step->code == SERVE_OWN + 2)
        seam_store_set_up(step->size == 0 || step->data[0] % 2 == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct serve_to to = { .own = own, .idle_rounds = IDLE_ROUNDS };
    const bool many = size > 3 && data[0] == SERVE_OWN + 3;
    const struct gm_orch_options opt = { .run_dir = "/run",
                                         .redis = "/run/redis.sock",
                                         .shards = many ? 1 + data[3] % SHARDS : 1,
                                         .context = CONTEXT,
                                         .session_ttl_ms = 1000 };
    struct gm_err err = GM_ERR_NONE;
    serve_begin(&to, data, size);
    must(gm_orch_serve(&opt, &err) == GM_OK);
    serve_end();
    return 0;
}
