/* embed.c - the two ends of the model: token ids to hidden rows, hidden rows to logits.
 *
 * Owns:      gm_slice_embed, gm_slice_head.
 * Does not:  choose from logits (head.c) or hold the table (weights.c).
 */
#include "common/model/exec.h"

#include <math.h>

struct lookup {
    struct gm_slice *slice;
    const int32_t *ids;
    float *hidden;
    float scale;
};

static void run_lookup(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct lookup *l = ctx;
    const struct gm_weights *w = &l->slice->w;
    for (int32_t r = begin; r < end; r++)
        l->slice->k->embed(l->hidden + (size_t)r * (size_t)w->cfg.d_model, &w->embed, l->ids[r],
                           l->scale);
}

/* hidden = sqrt(d_model) E[id], the scale rounded to float32 (reference section 2.2). */
enum gm_status gm_slice_embed(struct gm_slice *slice, const int32_t *ids, int32_t rows,
                              float *hidden, struct gm_err *err)
{
    const struct gm_weights *w = &slice->w;
    if (!w->embed.data)
        return gm_fail(err, GM_PRECONDITION,
                       "this slice starts at layer %d and has no embedding: send ids to the first",
                       w->begin);
    for (int32_t r = 0; r < rows; r++)
        if (ids[r] < 0 || ids[r] >= w->embed.rows)
            return gm_fail(err, GM_INVALID, "token id %d is outside the vocabulary of %d", ids[r],
                           w->embed.rows);
    struct lookup l = { slice, ids, hidden, (float)sqrt((double)w->cfg.d_model) };
    gm_pool_run(slice->pool, rows, 1, run_lookup, &l);
    return GM_OK;
}

struct tail {
    struct gm_slice *slice;
    const float *hidden;
    float *logits;
    int32_t rows;
};

static void run_final_norm(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct tail *t = ctx;
    const struct gm_slice *s = t->slice;
    const int32_t dim = s->w.cfg.d_model;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)dim;
        s->k->rms_norm(s->s.norm + at, t->hidden + at, s->w.final_norm, 1, dim, s->w.cfg.norm_eps);
        gm_exec_prepare(s, s->s.norm + at, r, dim);
    }
}

static void run_softcap(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct tail *t = ctx;
    const struct gm_slice *s = t->slice;
    for (int32_t r = 0; r < t->rows; r++)
        s->k->softcap(t->logits + (size_t)r * (size_t)s->w.head.rows + begin,
                      s->w.cfg.final_softcap, (size_t)(end - begin));
}

/* logits = cap(final_norm(hidden) E^T) with the unscaled table (reference section 2.10). */
void gm_slice_head(struct gm_slice *slice, const float *hidden, int32_t rows, float *logits)
{
    const struct gm_weights *w = &slice->w;
    if (!w->head.data || !w->final_norm)
        return;
    for (int32_t r = 0; r < rows; r += slice->rows_max) {
        const int32_t n = rows - r < slice->rows_max ? rows - r : slice->rows_max;
        struct tail t = { slice, hidden + (size_t)r * (size_t)w->cfg.d_model,
                          logits + (size_t)r * (size_t)w->head.rows, n };
        const struct gm_lin lin = { &w->head, NULL, t.logits };
        gm_pool_run(slice->pool, n, 1, run_final_norm, &t);
        gm_exec_linear(slice, &lin, 1, n);
        if (w->cfg.final_softcap > 0.0f)
            gm_pool_run(slice->pool, w->head.rows, GM_OUT_GRAIN, run_softcap, &t);
    }
}
