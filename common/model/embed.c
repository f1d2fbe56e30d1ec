/* embed.c - the two ends of the model: token ids to hidden rows, hidden rows to logits.
 *
 * Owns:      gm_slice_embed, gm_slice_head.
 * Does not:  choose from logits (head.c) or hold the table (weights.c).
 */
#include "common/model/exec.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

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

/* The running head. */
struct tail {
    struct gm_slice *slice;
    struct gm_head_row *rows;
    int32_t n;
    _Atomic int bad[GM_HEAD_ROWS_MAX];
};

static void run_final_norm(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct tail *t = ctx;
    const struct gm_slice *s = t->slice;
    const int32_t dim = s->w.cfg.d_model;
    for (int32_t r = begin; r < end; r++) {
        float *norm = s->s.norm + (size_t)r * (size_t)dim;
        s->k->rms_norm(norm, t->rows[r].hidden, s->w.final_norm, 1, dim, s->w.cfg.norm_eps);
        gm_exec_prepare(s, norm, r, dim);
    }
}

/* One chunk of logits for all rows: into the thread's own buffer, summed there, and out. */
static void head_chunk(struct tail *t, int32_t chunk, float *buffer)
{
    const struct gm_slice *s = t->slice;
    const struct gm_kernels *k = s->k;
    const int32_t vocab = s->w.head.rows, begin = chunk * GM_HEAD_CHUNK;
    const int32_t end = vocab - begin < GM_HEAD_CHUNK ? vocab : begin + GM_HEAD_CHUNK;
    const size_t n = (size_t)(end - begin);
    k->linear(buffer - begin, GM_HEAD_CHUNK, &s->w.head, s->s.act, t->n, begin, end);
    for (int32_t r = 0; r < t->n; r++) {
        struct gm_head_row *row = &t->rows[r];
        float *x = buffer + (size_t)r * GM_HEAD_CHUNK;
        if (s->w.cfg.final_softcap > 0.0f)
            k->softcap(x, s->w.cfg.final_softcap, n);
        if (!k->all_finite(x, n))
            t->bad[r] = 1;
        row->lse_raw[chunk] = k->logsumexp(x, n, 1.0f);
        if (row->lse_t != row->lse_raw)
            row->lse_t[chunk] = k->logsumexp(x, n, row->inv_t);
        memcpy(row->logits + begin, x, n * sizeof *x);
    }
}

static void run_head(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct tail *t = ctx;
    float *buffer = t->slice->s.head + (size_t)worker * GM_HEAD_ROWS_MAX * GM_HEAD_CHUNK;
    for (int32_t chunk = begin; chunk < end; chunk++)
        head_chunk(t, chunk, buffer);
}

/* logits = cap(final_norm(hidden) E^T) with the unscaled table (reference section 2.10). */
void gm_slice_head(struct gm_slice *slice, struct gm_head_row *rows, int32_t n)
{
    const struct gm_weights *w = &slice->w;
    if (!w->head.data || !w->final_norm)
        return;
    const int32_t most = slice->rows_max < GM_HEAD_ROWS_MAX ? slice->rows_max : GM_HEAD_ROWS_MAX;
    for (int32_t at = 0; at < n; at += most) {
        struct tail t = { slice, rows + at, n - at < most ? n - at : most, { 0 } };
        gm_pool_run(slice->pool, t.n, 1, run_final_norm, &t);
        gm_pool_run(slice->pool, gm_head_chunks(w->head.rows), 1, run_head, &t);
        for (int32_t r = 0; r < t.n; r++)
            t.rows[r].finite = !t.bad[r];
    }
    gm_pool_rest(slice->pool);
}
