/* linear.c - linear maps of a step on all threads, with the adapter beside them.
 *
 * Owns:      the cut of outputs over threads, the order base first, adapter after.
 * Does not:  compute products (kernels) or know what a map is for.
 * Bits:      an output is one call of the kernel for its row and its adapter's sum is added once,
 *            so nothing depends on how the range was cut.
 */
#include "common/model/exec.h"

struct region {
    struct gm_slice *slice;
    const struct gm_lin *lin;
    int n;
    int32_t rows;
    int32_t first[GM_JOINT_MAX + 1]; /* of each map in the joint range of outputs */
};

typedef void part_fn(const struct region *g, int i, int32_t begin, int32_t end);

/* Calls `part` for what [begin, end) of the joint range holds of each map. */
static void split(const struct region *g, int32_t begin, int32_t end, part_fn *part)
{
    for (int i = 0; i < g->n; i++) {
        int32_t b = begin > g->first[i] ? begin : g->first[i];
        int32_t e = end < g->first[i + 1] ? end : g->first[i + 1];
        if (b < e)
            part(g, i, b - g->first[i], e - g->first[i]);
    }
}

static float *lora_t(const struct region *g, int i)
{
    const struct gm_slice *s = g->slice;
    return s->s.lora_t + (size_t)i * (size_t)s->rows_max * (size_t)s->lora->rank_max;
}

static uint8_t *lora_act(const struct region *g, int i)
{
    return g->slice->s.lora_act +
           (size_t)i * (size_t)g->slice->rows_max * g->slice->s.lora_act_bytes;
}

/* t = A x */
static void part_a(const struct region *g, int i, int32_t begin, int32_t end)
{
    const struct gm_mat *a = &g->lin[i].lora->a;
    g->slice->k->linear(lora_t(g, i), (size_t)a->rows, a, g->slice->s.act, g->rows, begin, end);
}

static void run_a(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    split(ctx, begin, end, part_a);
}

/* t is prepared as B's input, row by row. */
static void run_prepare_t(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct region *g = ctx;
    for (int i = 0; i < g->n; i++) {
        if (!g->lin[i].lora)
            continue;
        const int32_t rank = g->lin[i].lora->a.rows;
        const size_t bytes = g->slice->k->act_bytes(rank);
        g->slice->k->prepare(lora_act(g, i) + (size_t)begin * bytes,
                             lora_t(g, i) + (size_t)begin * (size_t)rank, (size_t)rank, end - begin,
                             rank, true);
    }
}

/* y = W x, then y += scale * B t */
static void part_y(const struct region *g, int i, int32_t begin, int32_t end)
{
    const struct gm_lin *l = &g->lin[i];
    const struct gm_kernels *k = g->slice->k;
    const size_t stride = (size_t)l->w->rows;
    k->linear(l->y, stride, l->w, g->slice->s.act, g->rows, begin, end);
    if (!l->lora)
        return;
    float *add = g->slice->s.lora_y + (size_t)g->first[i] * (size_t)g->rows;
    k->linear(add, stride, &l->lora->b, lora_act(g, i), g->rows, begin, end);
    for (int32_t r = 0; r < g->rows; r++) {
        size_t at = (size_t)r * stride + (size_t)begin;
        k->axpy(l->y + at, add + at, l->lora->scale, (size_t)(end - begin));
    }
}

static void run_y(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    split(ctx, begin, end, part_y);
}

void gm_exec_linear(struct gm_slice *slice, const struct gm_lin *lin, int n, int32_t rows)
{
    struct region g = { .slice = slice, .lin = lin, .n = n, .rows = rows };
    for (int i = 0; i < n; i++)
        g.first[i + 1] = g.first[i] + (lin[i].lora ? lin[i].lora->a.rows : 0);
    if (g.first[n] > 0) {
        gm_pool_run(slice->pool, g.first[n], GM_OUT_GRAIN, run_a, &g);
        gm_pool_run(slice->pool, rows, 1, run_prepare_t, &g);
    }
    for (int i = 0; i < n; i++)
        g.first[i + 1] = g.first[i] + lin[i].w->rows;
    gm_pool_run(slice->pool, g.first[n], GM_OUT_GRAIN, run_y, &g);
}

const struct gm_lora_map *gm_exec_lora(const struct gm_step *step, enum gm_map_kind map)
{
    const struct gm_lora *lora = step->slice->lora;
    if (!lora)
        return NULL;
    const struct gm_lora_map *m = &lora->layer[step->layer - step->slice->w.begin][map];
    return m->a.data ? m : NULL;
}

void gm_exec_prepare(const struct gm_slice *slice, const float *x, int32_t row, int32_t cols)
{
    const struct gm_kernels *k = slice->k;
    k->prepare(slice->s.act + (size_t)row * k->act_bytes(cols), x, (size_t)cols, 1, cols,
               slice->floats);
}
