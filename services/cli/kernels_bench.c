/* kernels_bench.c - times every entry of a kernel set and holds it against what the machine can do.
 *
 * Owns:      the order of the groups, the timing of one case between two looks at the limits.
 * Does not:  hold the cases (kernels_linear.c, kernels_attend.c, kernels_point.c) or the limits
 *            (kernels_peak.c).
 */
#include "services/cli/kernels_bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/kernels_cases.h"

enum {
    ALIGN = 64,
    RUNS_MIN = 3,       /* of a case, however long one takes */
    INNER_MAX = 100000, /* runs between two looks at the clock */
    CONTEXT_DIV_MAX = 8,
    COLS_MAX = 1 << 15,
    BATCH_MAX = 1 << 12,
    VOCAB_MIN = 1 << 10,
    VOCAB_MAX = 1 << 24,
};
static const double sample_s = 200e-6; /* between two looks at the clock, at the least */
static const size_t matrix_most = (size_t)1 << 30;
static const uint64_t products_least = 1 << 16, products_most = UINT64_C(1) << 32;
static const size_t stream_least = (size_t)1 << 20, stream_most = (size_t)16 << 30;

const struct gm_kbench_sizes gm_kbench_sizes_small = {
    .matrix_bytes = 1 << 18,
    .stream_bytes = 4 << 20,
    .cols = 256,
    .batch_rows = 20,
    .context_div = CONTEXT_DIV_MAX,
    .vocab = 5000,
    .products = 1 << 18,
    .case_s = 0.0,
};

const struct gm_kbench_sizes gm_kbench_sizes_full = {
    .matrix_bytes = 256 << 20,
    .stream_bytes = 1 << 30,
    .cols = 2048,
    .batch_rows = 256,
    .context_div = 1,
    .vocab = 262144,
    .products = 1 << 25,
    .case_s = 0.05,
};

static enum gm_status check_sizes(const struct gm_kbench_options *o, struct gm_err *err)
{
    const struct gm_kbench_sizes *s = &o->sizes;
    const bool good = o->threads >= 1 && o->threads <= GM_THREADS_MAX && s->matrix_bytes >= 1 &&
                      s->matrix_bytes <= matrix_most && s->stream_bytes >= stream_least &&
                      s->stream_bytes <= stream_most && s->cols >= GM_QK_K && s->cols <= COLS_MAX &&
                      s->cols % GM_QK_K == 0 && s->batch_rows >= 1 && s->batch_rows <= BATCH_MAX &&
                      s->context_div >= 1 && s->context_div <= CONTEXT_DIV_MAX &&
                      s->vocab >= VOCAB_MIN && s->vocab <= VOCAB_MAX &&
                      s->products >= products_least && s->products <= products_most &&
                      s->case_s >= 0;
    return good ? GM_OK
                : gm_fail(err, GM_INVALID,
                          "the sizes of the kernel bench are out of range; take "
                          "those of kernels_bench.h and 1 to %d threads",
                          GM_THREADS_MAX);
}

/* ---- what the groups use ----------------------------------------------------------------------
 */

/* splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t random_u64(struct gm_kbench *b)
{
    uint64_t z = b->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t gm_kbench_below(struct gm_kbench *b, uint32_t limit)
{
    return (uint32_t)((random_u64(b) >> 32) * limit >> 32);
}

void gm_kbench_fill(struct gm_kbench *b, float *x, size_t n, float size)
{
    for (size_t i = 0; i < n; i++)
        x[i] = size * ((float)(random_u64(b) >> 40) * 0x1p-23f - 1.0f);
}

void *gm_kbench_alloc(size_t n)
{
    return n <= SIZE_MAX - ALIGN ? aligned_alloc(ALIGN, (n + ALIGN - 1) / ALIGN * ALIGN) : NULL;
}

bool gm_kbench_far(const float *got, const float *want, size_t n, double bound)
{
    bool far = false;
    for (size_t i = 0; i < n; i++)
        far |= !(fabs((double)got[i] - (double)want[i]) <= bound);
    return far;
}

bool gm_kcase_named(const struct gm_kbench *b, struct gm_kcase *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(c->name, sizeof c->name, format, ap);
    va_end(ap);
    return !b->o->only || strstr(c->name, b->o->only);
}

/* ---- one case ---------------------------------------------------------------------------------
 */

/* Seconds of the best run. Short ones are timed in groups, so that the clock costs nothing. */
static double best_seconds(const struct gm_kbench *b, const struct gm_kcase *c,
                           struct gm_pool *pool)
{
    double begin = gm_peaks_now();
    c->run(c->job, pool);
    double best = gm_peaks_now() - begin;
    const double wanted = best > 0 ? sample_s / best : INNER_MAX;
    const int inner = wanted < 1 ? 1 : wanted < INNER_MAX ? (int)wanted : INNER_MAX;
    const double end = gm_peaks_now() + b->o->sizes.case_s;
    for (int i = 1; i < RUNS_MIN || gm_peaks_now() < end; i++) {
        begin = gm_peaks_now();
        for (int n = 0; n < inner; n++)
            c->run(c->job, pool);
        const double each = (gm_peaks_now() - begin) / inner;
        best = each < best ? each : best;
    }
    return best > 0 ? best : 1e-9;
}

/* Raises the limits to what is seen now. */
static enum gm_status look_at_limits(struct gm_kbench *b, const struct gm_kcase *c,
                                     struct gm_pool *pool, double limits[2], struct gm_err *err)
{
    double now = 0;
    const enum gm_status rc = gm_peaks_read(&b->peaks, pool, (size_t)c->bytes, &now, err);
    if (rc != GM_OK)
        return rc;
    limits[0] = now > limits[0] ? now : limits[0];
    now = c->products > 0 ? gm_peaks_products(b->k, pool, c->kind, b->o->sizes.products) : 0;
    limits[1] = now > limits[1] ? now : limits[1];
    return GM_OK;
}

static enum gm_status run_with(struct gm_kbench *b, const struct gm_kcase *c, struct gm_pool *pool,
                               struct gm_err *err)
{
    static const char *const units[] = {
        [GM_PEAK_INT8] = "% of int8", [GM_PEAK_FLOAT] = "% of float"
    };
    double limits[2] = { 0, 0 };
    struct gm_kbench_line line = { .name = c->name,
                                   .set = b->k->id,
                                   .threads = gm_pool_threads(pool),
                                   .bytes = c->bytes,
                                   .products = c->products };
    c->run(c->job, pool);
    line.differs = c->differs(c->job);
    enum gm_status rc = look_at_limits(b, c, pool, limits, err);
    if (rc != GM_OK)
        return rc;
    line.seconds = best_seconds(b, c, pool);
    rc = look_at_limits(b, c, pool, limits, err);
    if (rc != GM_OK)
        return rc;
    line.read_share = c->bytes / line.seconds / limits[0];
    if (c->products > 0) {
        line.product_share = c->products / line.seconds / limits[1];
        line.product_unit = units[c->kind];
    }
    return b->fn(b->ctx, &line) ? GM_OK : gm_fail(err, GM_CANCELLED, "stopped");
}

enum gm_status gm_kcase_run(struct gm_kbench *b, const struct gm_kcase *c, struct gm_err *err)
{
    enum gm_status rc = run_with(b, c, b->pools[0], err);
    if (rc == GM_OK && c->shared && b->pools[1])
        rc = run_with(b, c, b->pools[1], err);
    return rc;
}

/* ---- all --------------------------------------------------------------------------------------
 */

static enum gm_status open_all(struct gm_kbench *b, struct gm_err *err)
{
    const char *why = NULL;
    b->k = b->o->k ? b->o->k : gm_kernels_select(NULL, &why);
    if (!b->k)
        return gm_fail(err, GM_INVALID, "GM_KERNELS: %s", why ? why : "no such kernel set");
    if (check_sizes(b->o, err) != GM_OK)
        return GM_INVALID;
    b->pools[0] = gm_pool_new(1);
    if (b->o->threads > 1)
        b->pools[1] = gm_pool_new(b->o->threads);
    if (!b->pools[0] || (b->o->threads > 1 && !b->pools[1]))
        return gm_fail(err, GM_EXHAUSTED, "cannot start %d threads; give fewer", b->o->threads);
    return gm_peaks_open(&b->peaks, b->o->sizes.stream_bytes, err);
}

enum gm_status gm_kbench_run(const struct gm_kbench_options *o, gm_kbench_fn *fn, void *ctx,
                             struct gm_err *err)
{
    static enum gm_status (*const groups[])(struct gm_kbench *,
                                            struct gm_err *) = { gm_kcases_linear, gm_kcases_attend,
                                                                 gm_kcases_point };
    struct gm_kbench b = { .o = o, .fn = fn, .ctx = ctx };
    enum gm_status rc = open_all(&b, err);
    for (size_t i = 0; rc == GM_OK && i < sizeof groups / sizeof groups[0]; i++)
        rc = groups[i](&b, err);
    gm_peaks_close(&b.peaks);
    gm_pool_free(&b.pools[1]);
    gm_pool_free(&b.pools[0]);
    return rc;
}
