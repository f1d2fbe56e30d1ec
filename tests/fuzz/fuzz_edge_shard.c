// uses: tests/fuzz/serve.c tests/fuzz/script.c tests/fuzz/wire.c tests/fuzz/seam_zmq.c
// uses: tests/fuzz/seam_sys.c tests/fuzz/seam_file.c tests/unit/support_gguf.c
// uses: services/shard/admit.c services/shard/batch.c services/shard/draft.c
// uses: services/shard/edge.c services/shard/evict.c services/shard/prefix.c
// uses: services/shard/step.c services/shard/edge_lost.c
// libs: -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
// libs: -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
// libs: -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open
// libs: -Wl,--wrap=gm_map_open,--wrap=gm_map_close,--wrap=gm_file_read
// libs: -Wl,--wrap=gm_pack_open,--wrap=gm_slice_numerics
/* fuzz_edge_shard.c - libFuzzer target: any messages and calls for a shard.
 *
 * Owns:      the real edge, admission, batches and steps of services/shard over a small model, as
 *            the only shard, the first and the last of a chain.
 * Does not:  know which logits are right (tests/unit/test_model.c).
 * Input:     steps (tests/fuzz/serve.h); where the first one is SERVE_OWN its byte chooses the
 *            place in the chain. Seeds in tests/fuzz/edge_shard.
 */
#include <stdio.h>

#include "services/shard/edge.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_file.h"
#include "tests/fuzz/serve.h"
#include "tests/unit/support_gguf.h"

enum { CONTEXT = 96, KV_TOKENS = 192, LAYERS = 2, PLACES = 3, FILE_BYTES_MAX = 1 << 20 };

const uint8_t script_codes[] = {
    SERVE_CALL,
    SERVE_CALL,
    SERVE_CALL,
    SERVE_CALL + 1,
    SERVE_CALL + 2,
    SERVE_CALL + 3,
    GM__KIND__TOKEN_ROWS,
    GM__KIND__TOKEN_ROWS,
    GM__KIND__HIDDEN_ROWS,
    GM__KIND__HIDDEN_ROWS,
    GM__KIND__CHOSEN,
    GM__KIND__CHOSEN,
    GM__KIND__CHUNK_DONE,
    GM__KIND__MORE,
    GM__KIND__FAULT,
    SERVE_PAYLOAD,
    SERVE_ADVANCE,
    SERVE_RAW,
    SERVE_CONTROL,
    SERVE_FAIL,
    SERVE_LANE,
    SERVE_OWN,
};
const size_t script_codes_n = sizeof script_codes;

static struct gm_shard_service service;
static const struct gm_kernels *kernels; /* the fastest: the reference has its target, gguf */
static struct gm_slice *slices[PLACES];  /* only, first, last */

const char *__wrap_gm_slice_numerics(const struct gm_slice *slice);

/* Short, so that an input can say it. */
const char *__wrap_gm_slice_numerics(const struct gm_slice *slice)
{
    (void)slice;
    return "n";
}

void __wrap_gm_pack_open(struct gm_pack **out, struct gm_weights *w, const struct gm_gguf *g,
                         const struct gm_pack_opts *opts);

/* Nothing is packed: the matrices stay as they lie in the file. */
void __wrap_gm_pack_open(struct gm_pack **out, struct gm_weights *w, const struct gm_gguf *g,
                         const struct gm_pack_opts *opts)
{
    (void)w, (void)g, (void)opts;
    *out = NULL;
}

static void slices_open(void)
{
    static const struct gm_slice_spec specs[PLACES] = { { 0, LAYERS, true, true },
                                                        { 0, 1, true, false },
                                                        { 1, LAYERS, false, true } };
    struct gm_config c = gm_fake_config(GM_ARCH_GEMMA3);
    struct gm_fake f;
    struct gm_buf file = GM_BUF(FILE_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    c.layers = LAYERS;
    c.d_model = c.d_ff = c.head_dim = 32;
    c.heads = 2;
    c.kv_heads = 1;
    c.vocab = 40;
    c.window = 8;
    c.context = CONTEXT;
    const struct gm_fake_spec spec = gm_fake_spec_of(&c, GM_TYPE_F32, 1);
    kernels = gm_kernels_select(NULL, NULL);
    must(kernels != NULL);
    gm_fake_open(&f);
    gm_fake_model_keys(&f, &spec);
    gm_fake_model_tensors(&f, &spec);
    gm_fake_bytes(&f, &file);
    gm_fake_close(&f);
    seam_file_put("model.gguf", (const uint8_t *)file.data, file.len, 0);
    gm_buf_free(&file);
    for (int i = 0; i < PLACES; i++) {
        const struct gm_slice_opts o = { .model_path = "model.gguf",
                                         .spec = specs[i],
                                         .kernels = kernels,
                                         .threads = 1,
                                         .kv_tokens = KV_TOKENS,
                                         .context = CONTEXT,
                                         .rows_max = GM_BATCH_ROWS_MAX,
                                         .kv_type = GM_KV_F32 };
        const enum gm_status rc = gm_slice_open(&slices[i], &o, &err);
        if (rc != GM_OK)
            (void)fprintf(stderr, "slice: %s\n", err.text);
        must(rc == GM_OK);
    }
}

static int next_ms(void *self)
{
    const struct gm_shard_service *s = self;
    return s->shard.held ? 1 : -1;
}

static enum gm_status step(void *self, bool *again, struct gm_err *err)
{
    struct gm_shard_service *s = self;
    (void)err;
    if (s->more || s->shard.held) {
        bool left = false;
        s->more = false;
        gm_shard_step(&s->shard, &left);
        s->more |= left;
    }
    *again = s->more;
    return GM_OK;
}

static void say_health(void *self, Gm__HealthReply *h)
{
    struct gm_shard_service *s = self;
    gm_shard_usage(&s->shard, &h->kv_bytes_total, &h->kv_bytes_used, &h->kv_bytes_kept);
    h->has_kv_bytes_total = h->has_kv_bytes_used = h->has_kv_bytes_kept = 1;
    must(h->kv_bytes_used + h->kv_bytes_kept <= h->kv_bytes_total);
}

static void check_end(struct gm_service *base)
{
    (void)base;
    must(gm_kv_check(gm_slice_kv(service.shard.slice)) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct serve_to to = { .service = &service.base, .end = check_end };
    const int place = size > 3 && data[0] == SERVE_OWN ? data[3] % PLACES : 0;
    struct gm_err err = GM_ERR_NONE;
    gm_log_open("fuzz", -1);
    if (slices[0] == NULL)
        slices_open();
    service = (struct gm_shard_service){ .open = true,
                                         .context = CONTEXT,
                                         .shard = { .slice = slices[place],
                                                    .kernels = kernels,
                                                    .is_first = place != 2,
                                                    .is_last = place != 1,
                                                    .speculate = true } };
    must(gm_shard_init(&service.shard, &err) == GM_OK);
    gm_shard_out_init(&service);
    service.base = (struct gm_service){ .role = "shard",
                                        .run_dir = "/run",
                                        .methods = gm_shard_methods,
                                        .self = &service,
                                        .on_message = gm_shard_on_message,
                                        .step = step,
                                        .next_ms = next_ms,
                                        .health = say_health };
    serve_run(&to, data, size);
    gm_shard_close(&service.shard);
    struct gm_kv_use use;
    gm_kv_usage(gm_slice_kv(slices[place]), &use);
    must(use.pages_free == use.pages_total);
    return 0;
}
