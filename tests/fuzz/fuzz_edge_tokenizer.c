// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c services/tokenizer/edge.c services/tokenizer/ids.c
// uses: services/tokenizer/spm_file.c services/tokenizer/toolcall.c
// uses: services/tokenizer/tooltext.c services/tokenizer/turns.c
// uses: services/tokenizer/turns_json.c services/tokenizer/spm.cc
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open
// libs: -lsentencepiece -ljansson
/* fuzz_edge_tokenizer.c - libFuzzer target: any calls for the tokenizer.
 *
 * Owns:      the real edge and templates of services/tokenizer over a small vocabulary.
 * Does not:  know which ids are right (tests/unit/test_tokenizer.c, test_turns.c).
 * Input:     steps (tests/fuzz/serve.h). Seeds in tests/fuzz/edge_tokenizer.
 */
#include "services/tokenizer/edge.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/serve.h"
#include "tests/unit/tokenizer_small.h"

const uint8_t script_codes[] = { SERVE_CALL,     SERVE_CALL + 1, SERVE_CALL + 1, SERVE_CALL + 1,
                                 SERVE_CALL + 2, SERVE_CALL + 3, SERVE_CALL + 4, SERVE_RAW };
const size_t script_codes_n = sizeof script_codes;

static struct gm_tokenizer_service service;
static struct gm_tokenizer *tok;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct serve_to to = { .service = &service.base };
    if (tok == NULL)
        tok = small_open();
    must(tok != NULL);
    service = (struct gm_tokenizer_service){ .tok = tok, .vocab_path = "/run/vocab.gmv" };
    service.base = (struct gm_service){
        .role = "tokenizer", .run_dir = "/run", .methods = gm_tokenizer_methods, .self = &service
    };
    serve_run(&to, data, size);
    return 0;
}
