// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c services/sampler/edge.c services/sampler/noise.c
// uses: services/sampler/deepmind.c services/sampler/pick.c services/sampler/seq.c
// uses: services/sampler/stop.c
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open
/* fuzz_edge_sampler.c - libFuzzer target: any messages and calls for the sampler.
 *
 * Owns:      the real edge and sequences of services/sampler over a small vocabulary.
 * Does not:  know which tokens are right (tests/unit/test_sampler*.c).
 * Input:     steps (tests/fuzz/serve.h). Seeds in tests/fuzz/edge_sampler.
 */
#include "services/sampler/edge.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/serve.h"

const uint8_t script_codes[] = {
    SERVE_CALL,       SERVE_CALL,           SERVE_CALL + 1,       SERVE_CALL + 2,
    SERVE_CALL + 3,   GM__KIND__CANDIDATES, GM__KIND__CANDIDATES, GM__KIND__CANDIDATES,
    GM__KIND__CHOSEN, SERVE_STREAM,         SERVE_ADVANCE,        SERVE_RAW,
    SERVE_RAW_PEER,   SERVE_CONTROL,        SERVE_FAIL,           SERVE_LANE,
};
const size_t script_codes_n = sizeof script_codes;

static struct gm_sampler_service service;
static struct gm_vocab vocab;

static void vocab_build(void)
{
    static const char *const pieces[] = { "<eos>", "a",    "b",      "ab",   " the", "\n",
                                          "\xc3",  "\xa9", "<0x41>", "stop", "ba",   "zz" };
    static const uint8_t kinds[] = {
        GM_PIECE_CONTROL, 0, 0, 0, 0, 0, 0, 0, GM_PIECE_BYTE, 0, 0, 0
    };
    enum { N = sizeof pieces / sizeof *pieces };
    uint32_t lens[N];
    for (int i = 0; i < N; i++)
        lens[i] = (uint32_t)strlen(pieces[i]);
    const struct gm_vocab_source source = { N, pieces, lens, kinds };
    must(gm_vocab_build(&vocab, &source, NULL) == GM_OK);
}

static void say_health(void *self, Gm__HealthReply *health)
{
    struct gm_sampler_service *s = self;
    health->has_sessions = 1;
    health->sessions = (uint32_t)s->seqs.n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct serve_to to = { .service = &service.base };
    if (vocab.head == NULL)
        vocab_build();
    service = (struct gm_sampler_service){ .vocab = vocab, .vocab_open = true };
    service.base = (struct gm_service){ .role = "sampler",
                                        .run_dir = "/run",
                                        .methods = gm_sampler_methods,
                                        .self = &service,
                                        .on_message = gm_sampler_on_message,
                                        .health = say_health };
    must(gm_idmap_open(&service.seqs, 64, GM_SAMPLER_SEQS_MAX, NULL) == GM_OK);
    serve_run(&to, data, size);
    service.vocab_open = false; /* it stays for the next input */
    gm_sampler_close_all(&service);
    return 0;
}
