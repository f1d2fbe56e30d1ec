/* kernels_linear.c - the kernel bench's cases with weights: linear() and embed().
 *
 * Owns:      the matrices, packed as the set packs them, and the comparison with gm_ref.
 * Does not:  time (kernels_bench.c).
 *
 * Rows 1 and 8 read a matrix that no cache holds: how fast weights come from memory. Many rows
 * against a square matrix: how fast products are made.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quant_enc.h"
#include "services/cli/kernels_cases.h"

enum {
    GRAIN = 16,      /* outputs a thread takes at the least, as the model's step does */
    TILE_ROWS = 61,  /* different rows; a matrix is made of copies of them. No power of two, so
                        that a kernel which strays to another group of outputs shows. */
    CHECK_OUTS = 24, /* outputs in a row that are compared, at the start, middle and end */
    CHECK_PARTS = 3,
    CHECK_ROWS = 8, /* rows of the batch that are compared, at most */
    FEW_ROWS = 8,
    STEP_BITS = 4, /* of the activations' block scales: 2^-3 .. 1 */
};
/* What float sums of some thousand products are apart at most, relative to the sums' usual size:
 * the inputs are multiples of their block's step, so that 8-bit activations are exact. The bound of
 * the unit tests (kernels_linear.c there) is several times sharper. */
static const double far_share = 1e-3;
static const double embed_bound = 0x1p-20;
static const float embed_scale = 25.5f;

static const enum gm_type types[] = {
    GM_TYPE_F32,  GM_TYPE_F16,  GM_TYPE_BF16, GM_TYPE_Q8_0, GM_TYPE_Q4_0, GM_TYPE_Q4_1,
    GM_TYPE_Q5_0, GM_TYPE_Q5_1, GM_TYPE_Q4_K, GM_TYPE_Q5_K, GM_TYPE_Q6_K,
};

struct job {
    const struct gm_kernels *k;
    struct gm_mat file, mat; /* as in a file; as the set reads it */
    void *file_data, *mat_data;
    float *x, *y; /* [rows][cols], [rows][outs] */
    uint8_t *act, *ref_act;
    size_t act_bytes, ref_bytes; /* of a row */
    int32_t rows;
};

static void linear_part(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct job *j = ctx;
    (void)worker;
    j->k->linear(j->y, (size_t)j->mat.rows, &j->mat, j->act, j->rows, begin, end);
}

static void run_linear(void *job, struct gm_pool *pool)
{
    struct job *j = job;
    gm_pool_run(pool, j->mat.rows, GRAIN, linear_part, j);
}

/* Some outputs of some rows. */
static bool linear_differs(void *job)
{
    const struct job *j = job;
    const int32_t outs = j->mat.rows, step = (j->rows + CHECK_ROWS - 1) / CHECK_ROWS;
    const int32_t begins[CHECK_PARTS] = { 0, outs / 2, outs - CHECK_OUTS };
    float want[CHECK_OUTS];
    bool differs = false;
    for (int32_t r = 0; r < j->rows; r += step) {
        for (int p = 0; p < CHECK_PARTS; p++) {
            const float *got = j->y + (size_t)r * (size_t)outs + begins[p];
            double squares = 0;
            struct gm_mat some = j->file;
            some.data = (const uint8_t *)j->file_data + (size_t)begins[p] * some.row_bytes;
            some.rows = CHECK_OUTS;
            gm_ref.linear(want, CHECK_OUTS, &some, j->ref_act + (size_t)r * j->ref_bytes, 1, 0,
                          CHECK_OUTS);
            for (int i = 0; i < CHECK_OUTS; i++)
                squares += (double)want[i] * (double)want[i];
            differs |= gm_kbench_far(got, want, CHECK_OUTS, far_share * sqrt(squares / CHECK_OUTS));
        }
    }
    return differs;
}

static void run_embed(void *job, struct gm_pool *pool)
{
    struct job *j = job;
    (void)pool;
    j->k->embed(j->y, &j->mat, j->mat.rows / 2, embed_scale);
}

static bool embed_differs(void *job)
{
    const struct job *j = job;
    const size_t cols = (size_t)j->mat.cols;
    float *want = j->x; /* of no use any more */
    gm_ref.embed(want, &j->file, j->mat.rows / 2, embed_scale);
    return gm_kbench_far(j->y, want, cols, embed_bound * (double)embed_scale);
}

/* Integers up to 127 times a power of two per block, with 127 among them: amax / 127 and all
 * quotients are exact. */
static void fill_exact(struct gm_kbench *b, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float step = ldexpf(1.0f, -(int)(i / GM_QK % STEP_BITS));
        const int q = i % GM_QK == i / GM_QK % GM_QK ? 127 : (int)gm_kbench_below(b, 255) - 127;
        x[i] = step * (float)q;
    }
}

static void job_free(struct job *j)
{
    free(j->file_data);
    free(j->mat_data);
    free(j->x);
    free(j->y);
    free(j->act);
    free(j->ref_act);
    memset(j, 0, sizeof *j);
}

/* The rows of the file's matrix: TILE_ROWS random ones again and again. */
static enum gm_status fill_file(struct gm_kbench *b, struct job *j, struct gm_err *err)
{
    const size_t cols = (size_t)j->file.cols, tile = TILE_ROWS * j->file.row_bytes;
    const size_t bytes = (size_t)j->file.rows * j->file.row_bytes;
    float *row = gm_kbench_alloc(cols * sizeof *row);
    j->file_data = gm_kbench_alloc(bytes);
    if (!row || !j->file_data) {
        free(row);
        return gm_fail(err, GM_EXHAUSTED, "no memory for a matrix of %zu MiB", bytes >> 20);
    }
    j->file.data = j->file_data;
    for (size_t at = 0; at < bytes && at < tile; at += j->file.row_bytes) {
        gm_kbench_fill(b, row, cols, 1.0f);
        gm_quant_row((uint8_t *)j->file_data + at, row, j->file.type, cols);
    }
    for (size_t at = tile; at < bytes; at += tile)
        memcpy((uint8_t *)j->file_data + at, j->file_data, bytes - at < tile ? bytes - at : tile);
    free(row);
    return GM_OK;
}

static void pack_part(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct job *j = ctx;
    (void)worker;
    j->k->pack(j->mat_data, &j->file, begin, end);
}

/* Packs the matrix if the set packs this type. */
static enum gm_status pack(struct gm_kbench *b, struct job *j, size_t *bytes, struct gm_err *err)
{
    const struct gm_mat *f = &j->file;
    const size_t packed = b->k->pack_bytes ? b->k->pack_bytes(f->type, f->rows, f->cols) : 0;
    j->mat = *f;
    *bytes = (size_t)f->rows * f->row_bytes;
    if (packed == 0)
        return GM_OK;
    j->mat_data = gm_kbench_alloc(packed);
    if (!j->mat_data)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %zu MiB of packed weights", packed >> 20);
    gm_pool_run(b->pools[1] ? b->pools[1] : b->pools[0], f->rows, GM_PACK_ROWS, pack_part, j);
    j->mat.data = j->mat_data;
    j->mat.packed = true;
    *bytes = packed;
    return GM_OK;
}

/* A matrix of `outs` outputs and up to `rows` prepared rows. *bytes: of the weights as they are
 * read. Free the job also after a failure. */
static enum gm_status job_make(struct gm_kbench *b, struct job *j, int32_t outs, int32_t rows,
                               size_t *bytes, struct gm_err *err)
{
    const int32_t cols = b->o->sizes.cols;
    const size_t n = (size_t)rows * (size_t)cols;
    const size_t results = (size_t)rows * (size_t)outs;
    j->k = b->k;
    j->file.rows = outs;
    j->file.cols = cols;
    j->file.row_bytes = gm_type_row_bytes(j->file.type, (size_t)cols);
    j->act_bytes = b->k->act_bytes(cols);
    j->ref_bytes = gm_ref.act_bytes(cols);
    j->x = gm_kbench_alloc(n * sizeof *j->x);
    j->y = gm_kbench_alloc((results > (size_t)cols ? results : (size_t)cols) * sizeof *j->y);
    j->act = gm_kbench_alloc((size_t)rows * j->act_bytes);
    j->ref_act = gm_kbench_alloc((size_t)rows * j->ref_bytes);
    if (!j->x || !j->y || !j->act || !j->ref_act)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %d rows of %d", rows, cols);
    fill_exact(b, j->x, n);
    b->k->prepare(j->act, j->x, (size_t)cols, rows, cols, true);
    gm_ref.prepare(j->ref_act, j->x, (size_t)cols, rows, cols, true);
    const enum gm_status rc = fill_file(b, j, err);
    return rc == GM_OK ? pack(b, j, bytes, err) : rc;
}

/* The cases of `type` with `outs` outputs: linear with each of the numbers of rows, and embed. */
static enum gm_status cases(struct gm_kbench *b, enum gm_type type, int32_t outs,
                            const int32_t *rows, int n_rows, struct gm_err *err)
{
    const char *name = gm_type_info((uint32_t)type)->name;
    struct job j = { .file.type = type };
    struct gm_kcase linear[2], embed = { .run = run_embed, .differs = embed_differs, .job = &j };
    const bool floats = type == GM_TYPE_F32 || type == GM_TYPE_F16 || type == GM_TYPE_BF16;
    const bool with_embed = gm_kcase_named(b, &embed, "embed %s", name) && n_rows > 1;
    bool wanted[2] = { false, false };
    size_t bytes = 0;
    int32_t most = 0;
    for (int i = 0; i < n_rows; i++) {
        linear[i] = (struct gm_kcase){ .run = run_linear, .differs = linear_differs, .job = &j };
        wanted[i] = gm_kcase_named(b, &linear[i], "linear %s rows %d", name, rows[i]);
        most = rows[i] > most ? rows[i] : most;
    }
    if (!with_embed && !wanted[0] && !wanted[1])
        return GM_OK;
    enum gm_status rc = job_make(b, &j, outs, most, &bytes, err);
    for (int i = 0; rc == GM_OK && i < n_rows; i++) {
        j.rows = rows[i];
        linear[i].bytes = (double)bytes;
        linear[i].products = (double)rows[i] * outs * j.file.cols;
        linear[i].kind = floats ? GM_PEAK_FLOAT : GM_PEAK_INT8;
        linear[i].shared = true;
        rc = wanted[i] ? gm_kcase_run(b, &linear[i], err) : GM_OK;
    }
    embed.bytes = (double)j.file.row_bytes + (double)j.file.cols * sizeof(float);
    if (rc == GM_OK && with_embed)
        rc = gm_kcase_run(b, &embed, err);
    job_free(&j);
    return rc;
}

enum gm_status gm_kcases_linear(struct gm_kbench *b, struct gm_err *err)
{
    static const int32_t few[] = { 1, FEW_ROWS };
    const struct gm_kbench_sizes *s = &b->o->sizes;
    enum gm_status rc = GM_OK;
    for (size_t t = 0; rc == GM_OK && t < sizeof types / sizeof types[0]; t++) {
        const size_t row_bytes = gm_type_row_bytes(types[t], (size_t)s->cols);
        const size_t outs = (s->matrix_bytes / row_bytes / GM_PACK_ROWS + 1) * GM_PACK_ROWS +
                            GM_PACK_ROWS * (CHECK_OUTS / GM_PACK_ROWS + 1);
        rc = cases(b, types[t], (int32_t)outs, few, 2, err);
        if (rc == GM_OK)
            rc = cases(b, types[t], s->cols, &s->batch_rows, 1, err);
    }
    return rc;
}
