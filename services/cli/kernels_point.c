/* kernels_point.c - the kernel bench's cases without weights or a cache: norms, RoPE, GELU, the
 * head's kernels, and prepare().
 *
 * Owns:      their table: how each is called, what it reads and writes, how far it may be from
 *            gm_ref.
 * Does not:  time (kernels_bench.c), or share work out: the model runs these a row a thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quant_enc.h"
#include "services/cli/kernels_cases.h"

enum {
    N = 2048, /* of a row */
    HEADS = 4,
    HEAD_DIM = 256,
    POSITION = 4095,
    TOP = 64,
    OUTS = 16, /* of the matrix that shows whether prepare() was right */
};
static const float size = 4.0f, eps = 1e-6f, cap = 3.0f, small = 1e-3f, inv_t = 1.4f;

struct job {
    const struct gm_kernels *k;
    const struct point *point;
    float *x;       /* [vocab], at least N */
    float *y, *got; /* [N]: results; a copy of the set's */
    float *freq;    /* [HEAD_DIM / 2] */
    int32_t vocab;
    int32_t ids[TOP];
    struct gm_mat mat; /* [OUTS][N] of Q8_0 */
    void *mat_data;
    uint8_t *act; /* of either set */
};

struct point {
    const char *name;
    void (*call)(struct job *j, const struct gm_kernels *k);
    double in, out;  /* floats of a row that are read and written; in 0: the whole of x is read */
    int32_t results; /* that are compared */
    double bound;    /* between results; they are a few units in size */
};

static void call_prepare(struct job *j, const struct gm_kernels *k)
{
    k->prepare(j->act, j->x, N, 1, N, true);
}

/* What a set makes of a row is its own matter: its linear() must understand it. */
static void call_linear(struct job *j, const struct gm_kernels *k)
{
    k->prepare(j->act, j->x, N, 1, N, true);
    k->linear(j->y, OUTS, &j->mat, j->act, 1, 0, OUTS);
}
static void call_norm(struct job *j, const struct gm_kernels *k)
{
    k->rms_norm(j->y, j->x, j->x + N, 1, N, eps);
}
static void call_norm_add(struct job *j, const struct gm_kernels *k)
{
    k->rms_norm_add(j->y, j->x, j->x + N, 1, N, eps);
}
static void call_angles(struct job *j, const struct gm_kernels *k)
{
    k->rope_angles(j->y, POSITION, j->freq, HEAD_DIM / 2);
}
static void call_rope(struct job *j, const struct gm_kernels *k)
{
    k->rope(j->y, j->got + N, HEADS, HEAD_DIM, 1.0f);
}
static void call_gelu(struct job *j, const struct gm_kernels *k)
{
    k->gelu_mul(j->y, j->x, j->x + N, N);
}
static void call_axpy(struct job *j, const struct gm_kernels *k)
{
    k->axpy(j->y, j->x + N, small, N);
}
static void call_softcap(struct job *j, const struct gm_kernels *k)
{
    k->softcap(j->y, cap, N);
}
static void call_logsumexp(struct job *j, const struct gm_kernels *k)
{
    j->y[0] = (float)k->logsumexp(j->x, (size_t)j->vocab, inv_t);
}
static void call_top_k(struct job *j, const struct gm_kernels *k)
{
    const int32_t n = k->top_k(j->ids, j->y, j->x, j->vocab, TOP);
    for (int32_t i = 0; i < TOP; i++) /* an id, at most 2^24, is exact in a float */
        j->y[TOP + i] = i < n ? (float)j->ids[i] : -1.0f;
}
static void call_finite(struct job *j, const struct gm_kernels *k)
{
    j->y[0] = (float)k->all_finite(j->x, (size_t)j->vocab);
}

static const struct point points[] = {
    { "prepare", call_prepare, N, N / 4.0, OUTS, 2.0 },
    { "rms_norm", call_norm, 2 * N, N, N, 3e-5 },
    { "rms_norm_add", call_norm_add, 3 * N, N, N, 3e-5 },
    { "rope_angles", call_angles, HEAD_DIM / 2, HEAD_DIM, HEAD_DIM, 1e-6 },
    { "rope", call_rope, (HEADS + 1) * HEAD_DIM, HEADS *HEAD_DIM, HEADS *HEAD_DIM, 1e-5 },
    { "gelu_mul", call_gelu, 2 * N, N, N, 3e-5 },
    { "axpy", call_axpy, 2 * N, N, N, 1e-5 },
    { "softcap", call_softcap, N, N, N, 1e-5 },
    { "logsumexp", call_logsumexp, 0, 1, 1, 3e-5 },
    { "top_k 64", call_top_k, 0, 2 * TOP, 2 * TOP, 0.0 },
    { "all_finite", call_finite, 0, 1, 1, 0.0 },
};

/* Those in place go on from their own result: none of them runs away from numbers. */
static void run_point(void *job, struct gm_pool *pool)
{
    struct job *j = job;
    (void)pool;
    j->point->call(j, j->k);
}

/* Both sets on the same row; what is changed in place begins as x. */
static bool point_differs(void *job)
{
    struct job *j = job;
    const size_t results = (size_t)j->point->results;
    void (*call)(struct job *, const struct gm_kernels *) =
        j->point->call == call_prepare ? call_linear : j->point->call;
    memcpy(j->y, j->x, N * sizeof *j->y);
    call(j, j->k);
    memcpy(j->got, j->y, results * sizeof *j->y);
    memcpy(j->y, j->x, N * sizeof *j->y);
    call(j, &gm_ref);
    const bool differs = gm_kbench_far(j->got, j->y, results, j->point->bound);
    memcpy(j->y, j->x, N * sizeof *j->y);
    return differs;
}

static void job_free(struct job *j)
{
    free(j->x);
    free(j->y);
    free(j->got);
    free(j->freq);
    free(j->act);
    free(j->mat_data);
}

static enum gm_status job_make(struct gm_kbench *b, struct job *j, struct gm_err *err)
{
    const size_t mine = b->k->act_bytes(N), refs = gm_ref.act_bytes(N);
    const size_t row = gm_type_row_bytes(GM_TYPE_Q8_0, N);
    j->k = b->k;
    j->vocab = b->o->sizes.vocab > 2 * N ? b->o->sizes.vocab : 2 * N;
    j->x = gm_kbench_alloc((size_t)j->vocab * sizeof *j->x);
    j->y = gm_kbench_alloc(N * sizeof *j->y);
    j->got = gm_kbench_alloc((N + HEAD_DIM) * sizeof *j->got);
    j->freq = gm_kbench_alloc(HEAD_DIM / 2 * sizeof *j->freq);
    j->act = gm_kbench_alloc(mine > refs ? mine : refs);
    j->mat_data = gm_kbench_alloc(OUTS * row);
    if (!j->x || !j->y || !j->got || !j->freq || !j->act || !j->mat_data)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %d values", j->vocab);
    gm_kbench_fill(b, j->x, (size_t)j->vocab, 1.0f);
    for (uint8_t *at = j->mat_data; at < (uint8_t *)j->mat_data + OUTS * row; at += row)
        gm_quant_row(at, j->x + gm_kbench_below(b, N), GM_TYPE_Q8_0, N);
    j->mat = (struct gm_mat){
        .data = j->mat_data, .type = GM_TYPE_Q8_0, .rows = OUTS, .cols = N, .row_bytes = row
    };
    gm_kbench_fill(b, j->x, (size_t)j->vocab, size);
    memcpy(j->y, j->x, N * sizeof *j->y);
    for (int i = 0; i < HEAD_DIM / 2; i++)
        j->freq[i] = powf(1e4f, -(float)i / (HEAD_DIM / 2));
    gm_ref.rope_angles(j->got + N, POSITION, j->freq, HEAD_DIM / 2);
    return GM_OK;
}

enum gm_status gm_kcases_point(struct gm_kbench *b, struct gm_err *err)
{
    struct job j = { 0 };
    struct gm_kcase c = { .run = run_point, .differs = point_differs, .job = &j };
    enum gm_status rc = job_make(b, &j, err);
    for (size_t i = 0; rc == GM_OK && i < sizeof points / sizeof points[0]; i++) {
        j.point = &points[i];
        const double in = j.point->in > 0 ? j.point->in : (double)j.vocab;
        c.bytes = (in + j.point->out) * sizeof(float);
        if (gm_kcase_named(b, &c, "%s", j.point->name))
            rc = gm_kcase_run(b, &c, err);
    }
    job_free(&j);
    return rc;
}
