/* shapes.c - see shapes.h.
 *
 * Owns:      reading the files, one temporary model file at a time, chains of slices.
 * Does not:  compare results.
 */
#include "tests/unit/shapes.h"

#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOLDER "tests/golden/shapes/"
enum { FILE_BYTES_MAX = 1 << 20, KV_TOKENS = 1024 };

const char *const shape_names[SHAPES] = { "g2-caps",  "g2-27b",  "g2-heads",   "g3-pattern",
                                          "g3-heads", "g3-four", "g3-divisor", "g3-seven",
                                          "g3-26",    "g3-27b" };
const char *const shape_dialect_names[SHAPE_DIALECTS] = { "llama", "ollama", "fused" };

static char folder[] = "/tmp/gm_shapes_XXXXXX";
static char last[SHAPE_PATH_MAX]; /* the file that stands in the folder */

/* ---- files -------------------------------------------------------------------------------------
 */

/* The whole file behind `at` bytes; the bytes read. Missing: 0. */
static size_t read_to(uint8_t *to, size_t room, const char *shape, const char *end)
{
    char path[SHAPE_PATH_MAX];
    (void)snprintf(path, sizeof path, FOLDER "%s.%s", shape, end);
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0;
    size_t n = fread(to, 1, room, f);
    (void)fclose(f);
    CU_ASSERT_TRUE_FATAL(n < room);
    return n;
}

void shape_want_read(struct shape_want *want, int shape)
{
    uint8_t *bytes = malloc(FILE_BYTES_MAX);
    int32_t head[3] = { 0, 0, 0 };
    CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
    size_t n = read_to(bytes, FILE_BYTES_MAX, shape_names[shape], "want");
    CU_ASSERT_TRUE_FATAL(n > sizeof head);
    memcpy(head, bytes, sizeof head);
    want->n = head[0];
    want->vocab = head[1];
    want->dim = head[2];
    size_t ids = (size_t)want->n * sizeof *want->ids;
    size_t logits = (size_t)want->n * (size_t)want->vocab * sizeof *want->logits;
    CU_ASSERT_EQUAL_FATAL(n, sizeof head + ids + logits);
    want->ids = malloc(ids);
    want->logits = malloc(logits);
    CU_ASSERT_TRUE_FATAL(want->ids && want->logits);
    memcpy(want->ids, bytes + sizeof head, ids);
    memcpy(want->logits, bytes + sizeof head + ids, logits);
    free(bytes);
}

void shape_want_free(struct shape_want *want)
{
    free(want->ids);
    free(want->logits);
    memset(want, 0, sizeof *want);
}

int shape_folder_open(void)
{
    return mkdtemp(folder) ? 0 : 1;
}

int shape_folder_close(void)
{
    if (last[0])
        (void)unlink(last);
    return rmdir(folder);
}

bool shape_file(int shape, enum shape_dialect dialect, char path[SHAPE_PATH_MAX])
{
    char end[SHAPE_PATH_MAX];
    uint8_t *bytes = malloc(FILE_BYTES_MAX);
    CU_ASSERT_PTR_NOT_NULL_FATAL(bytes);
    (void)snprintf(end, sizeof end, "%s.head", shape_dialect_names[dialect]);
    size_t n = read_to(bytes, FILE_BYTES_MAX, shape_names[shape], end);
    if (n == 0) {
        free(bytes);
        CU_ASSERT_EQUAL(dialect, SHAPE_FUSED);
        return false;
    }
    size_t data = read_to(bytes + n, FILE_BYTES_MAX - n, shape_names[shape], "data");
    CU_ASSERT_TRUE_FATAL(data > 0);
    if (last[0])
        (void)unlink(last);
    (void)snprintf(path, SHAPE_PATH_MAX, "%s/%s.%s.gguf", folder, shape_names[shape],
                   shape_dialect_names[dialect]);
    memcpy(last, path, sizeof last);
    FILE *f = fopen(path, "wb");
    CU_ASSERT_PTR_NOT_NULL_FATAL(f);
    CU_ASSERT_EQUAL_FATAL(fwrite(bytes, 1, n + data, f), n + data);
    CU_ASSERT_EQUAL_FATAL(fclose(f), 0);
    free(bytes);
    return true;
}

void shape_config(const char *path, struct gm_config *cfg)
{
    struct gm_gguf *g;
    struct gm_err err = GM_ERR_NONE;
    if (gm_gguf_open(&g, path, &err) != GM_OK || gm_gguf_config(g, cfg, &err) != GM_OK) {
        printf("%s: %s\n", path, err.text);
        CU_FAIL_FATAL("the file is refused");
    }
    gm_gguf_close(&g);
}

/* ---- chains ------------------------------------------------------------------------------------
 */

struct chain {
    struct gm_slice *slice[SHAPE_LAYERS_MAX];
    struct gm_kv_seq *seq[SHAPE_LAYERS_MAX];
    int32_t n;
};

static void chain_open(struct chain *c, const struct shape_setting *s, int32_t rows_max)
{
    struct gm_config cfg;
    shape_config(s->path, &cfg);
    memset(c, 0, sizeof *c);
    c->n = s->slices < cfg.layers ? s->slices : cfg.layers;
    for (int32_t i = 0; i < c->n; i++) {
        const struct gm_slice_opts o = {
            .model_path = s->path,
            .spec = { i * cfg.layers / c->n, (i + 1) * cfg.layers / c->n, i == 0, i == c->n - 1 },
            .kernels = s->kernels,
            .threads = s->threads,
            .kv_tokens = KV_TOKENS,
            .context = SHAPE_CONTEXT,
            .rows_max = rows_max,
            .kv_type = s->kv,
        };
        struct gm_err err = GM_ERR_NONE;
        if (gm_slice_open(&c->slice[i], &o, &err) != GM_OK) {
            printf("%s: %s\n", s->path, err.text);
            CU_FAIL_FATAL("the slice does not open");
        }
        c->seq[i] = gm_kv_seq_new(gm_slice_kv(c->slice[i]));
    }
}

static void chain_close(struct chain *c)
{
    for (int32_t i = 0; i < c->n; i++) {
        CU_ASSERT_PTR_NULL(gm_kv_check(gm_slice_kv(c->slice[i])));
        gm_slice_close(&c->slice[i]);
    }
}

static void run_head(struct gm_slice *slice, const struct shape_want *want, const float *hidden,
                     int32_t rows, float *logits)
{
    double lse[1]; /* vocabularies here are one chunk */
    CU_ASSERT_EQUAL_FATAL(gm_head_chunks(want->vocab), 1);
    for (int32_t r = 0; r < rows; r++) {
        struct gm_head_row row = { .hidden = hidden + (size_t)r * (size_t)want->dim,
                                   .logits = logits + (size_t)r * (size_t)want->vocab,
                                   .inv_t = 1.0f,
                                   .lse_raw = lse,
                                   .lse_t = lse };
        gm_slice_head(slice, &row, 1);
        CU_ASSERT_TRUE(row.finite);
    }
}

static void step(struct chain *c, const int32_t *ids, int32_t n, float *hidden)
{
    CU_ASSERT_EQUAL_FATAL(gm_slice_embed(c->slice[0], ids, n, hidden, NULL), GM_OK);
    for (int32_t i = 0; i < c->n; i++) {
        struct gm_kv *kv = gm_slice_kv(c->slice[i]);
        int32_t pos = gm_kv_len(c->seq[i]), bad = 0;
        CU_ASSERT_EQUAL_FATAL(gm_kv_reserve(kv, c->seq[i], pos + n, NULL), GM_OK);
        CU_ASSERT_EQUAL_FATAL(gm_kv_extend(kv, c->seq[i], ids, n, NULL), GM_OK);
        struct gm_span span = { c->seq[i], pos, n, 0 };
        struct gm_batch batch = { .spans = &span, .n_spans = 1, .rows = n, .hidden = hidden };
        CU_ASSERT_EQUAL_FATAL(gm_slice_blocks(c->slice[i], &batch, &bad, NULL), GM_OK);
    }
}

void shape_run(const struct shape_setting *s, const struct shape_want *want, float *logits)
{
    struct chain c;
    float *hidden = malloc((size_t)want->n * (size_t)want->dim * sizeof *hidden);
    CU_ASSERT_PTR_NOT_NULL_FATAL(hidden);
    chain_open(&c, s, s->chunk < want->n ? s->chunk : want->n);
    for (int32_t at = 0; at < want->n; at += s->chunk) {
        int32_t n = want->n - at < s->chunk ? want->n - at : s->chunk;
        step(&c, want->ids + at, n, hidden);
        run_head(c.slice[c.n - 1], want, hidden, n, logits + (size_t)at * (size_t)want->vocab);
    }
    chain_close(&c);
    free(hidden);
}
