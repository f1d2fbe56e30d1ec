// uses: tests/fuzz/seam_file.c
// libs: -Wl,--wrap=gm_map_open,--wrap=gm_map_close,--wrap=gm_file_read
/* fuzz_gguf.c - libFuzzer target: any bytes as a model file.
 *
 * Owns:      what must hold of every file: it is refused with a sentence, or all that is said of it
 *            lies inside it, and its weights bind or are refused, and a row can be computed.
 * Does not:  know which files are right (tests/unit/test_gguf.c).
 * Input:     the first two bytes say how many blocks of 32 zero bytes follow the rest, so that
 *            tables of tensors can be right in small inputs. Seeds in tests/fuzz/gguf.
 */
#include <math.h>

#include "common/model/model.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_file.h"

enum {
    BLOCK = 32,
    BLOCKS_MAX = 4096,
    TEXTS_MAX = 4096,
    POSITIONS = 16,
    ROWS_MAX = 2,
};
#define SLICE_BYTES_MAX ((size_t)64 << 20) /* larger models are bound but not opened */

static const char path[] = "model.gguf";

/* Reads the first and the last byte. */
static void touch(const void *bytes, size_t n)
{
    const volatile uint8_t *at = bytes;
    if (n > 0)
        must(at[0] + at[n - 1] >= 0);
}

static void read_arrays(const struct gm_gguf *g)
{
    static const char *const keys[] = { "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                                        "tokenizer.ggml.token_type",
                                        "gemma3.attention.sliding_window_pattern" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        size_t n = 0;
        if (gm_gguf_array_len(g, keys[i], &n, NULL) != GM_OK || n > TEXTS_MAX)
            continue;
        struct gm_text_view *texts = calloc(n + 1, sizeof *texts);
        float *floats = calloc(n + 1, sizeof *floats);
        int32_t *ints = calloc(n + 1, sizeof *ints);
        must(texts != NULL && floats != NULL && ints != NULL);
        if (gm_gguf_texts(g, keys[i], texts, n, NULL) == GM_OK)
            for (size_t k = 0; k < n; k++)
                touch(texts[k].ptr, texts[k].len);
        (void)gm_gguf_floats(g, keys[i], floats, n, NULL);
        (void)gm_gguf_ints(g, keys[i], ints, n, NULL);
        free(texts);
        free(floats);
        free(ints);
    }
}

static void read_values(const struct gm_gguf *g)
{
    static const char *const keys[] = { "general.architecture", "tokenizer.ggml.bos_token_id",
                                        "gemline.query_scale", "general.alignment",
                                        "gemma3.block_count" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t whole;
        double real;
        struct gm_text_view text = { NULL, 0 };
        (void)gm_gguf_int(g, keys[i], &whole, NULL);
        (void)gm_gguf_float(g, keys[i], &real, NULL);
        if (gm_gguf_text(g, keys[i], &text, NULL) == GM_OK)
            touch(text.ptr, text.len);
    }
}

/* Every byte of every tensor may be read. */
static void read_tensors(const struct gm_gguf *g)
{
    for (size_t i = 0; i < gm_gguf_tensor_count(g); i++) {
        const struct gm_tensor *t = gm_gguf_tensor_at(g, i);
        must(t != NULL && gm_gguf_tensor(g, t->name) != NULL && t->n_dims <= GM_TENSOR_DIMS);
        touch(t->data, t->bytes);
    }
    must(gm_gguf_tensor_at(g, gm_gguf_tensor_count(g)) == NULL);
}

/* A whole model of zeros and what was changed in it: rows through all layers and the head. */
static void compute(const struct gm_config *c)
{
    struct gm_slice *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    const struct gm_slice_opts o = { .model_path = path,
                                     .spec = { 0, c->layers, true, true },
                                     .kernels = &gm_ref,
                                     .threads = 1,
                                     .kv_tokens = POSITIONS,
                                     .context = POSITIONS,
                                     .rows_max = ROWS_MAX,
                                     .kv_type = GM_KV_F32 };
    const enum gm_status rc = gm_slice_open(&s, &o, &err);
    must_be_told(rc, &err);
    if (rc != GM_OK)
        return;
    const int32_t ids[ROWS_MAX] = { 0, c->vocab - 1 };
    float *hidden = calloc((size_t)c->d_model * ROWS_MAX, sizeof *hidden);
    float *logits = calloc((size_t)c->vocab, sizeof *logits);
    double *lse = calloc((size_t)gm_head_chunks(c->vocab), sizeof *lse);
    struct gm_kv *kv = gm_slice_kv(s);
    struct gm_kv_seq *seq = gm_kv_seq_new(kv);
    must(hidden != NULL && logits != NULL && lse != NULL && seq != NULL);
    if (gm_kv_reserve(kv, seq, ROWS_MAX, NULL) == GM_OK &&
        gm_kv_extend(kv, seq, ids, ROWS_MAX, NULL) == GM_OK &&
        gm_slice_embed(s, ids, ROWS_MAX, hidden, &err) == GM_OK) {
        const struct gm_span span = { seq, 0, ROWS_MAX, 0 };
        struct gm_batch batch = {
            .spans = &span, .n_spans = 1, .rows = ROWS_MAX, .hidden = hidden
        };
        int32_t bad = -1;
        struct gm_head_row row = { hidden, logits, 1.0f, lse, lse, false };
        if (gm_slice_blocks(s, &batch, &bad, &err) == GM_OK)
            gm_slice_head(s, &row, 1);
    }
    must(gm_kv_check(kv) == NULL);
    gm_kv_seq_free(kv, &seq);
    free(hidden);
    free(logits);
    free(lse);
    gm_slice_close(&s);
}

static void bind(const struct gm_gguf *g)
{
    struct gm_config c;
    struct gm_weights w = { .owned = NULL };
    struct gm_err err = GM_ERR_NONE;
    enum gm_status rc = gm_gguf_config(g, &c, &err);
    must_be_told(rc, &err);
    if (rc != GM_OK)
        return;
    must(c.layers > 0 && c.layers <= GM_LAYERS_MAX && c.d_model > 0 && c.vocab > 0);
    must(isfinite(c.query_scale) && isfinite(c.norm_eps) && c.context > 0);
    const struct gm_slice_spec all = { 0, c.layers, true, true };
    rc = gm_weights_bind(&w, g, &all, &err);
    must_be_told(rc, &err);
    const uint64_t bytes = w.bytes;
    gm_weights_close(&w);
    if (rc == GM_OK && bytes <= SLICE_BYTES_MAX)
        compute(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gm_gguf *g = NULL;
    struct gm_err err = GM_ERR_NONE;
    const size_t blocks = take_u16(&data, &size) % (BLOCKS_MAX + 1);
    seam_file_put(path, data, size, blocks * BLOCK);
    const enum gm_status rc = gm_gguf_open(&g, path, &err);
    must_be_told(rc, &err);
    must((rc == GM_OK) == (g != NULL));
    if (g != NULL) {
        read_values(g);
        read_arrays(g);
        read_tensors(g);
        (void)gm_gguf_identity(g);
        bind(g);
    }
    gm_gguf_close(&g);
    seam_file_clear();
    return 0;
}
