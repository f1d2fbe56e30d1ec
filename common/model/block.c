/* block.c - one step: a batch of rows through all layers of the slice.
 *
 * Owns:      the check of a batch, rows' positions and spans, the loop over layers, the report of
 *            values that are not finite.
 * Does not:  choose the batch; compute (attn.c, ffn.c).
 */
#include "common/model/exec.h"

/* Positions and spans of rows; everything a worker will index with is checked here. */
static enum gm_status open_rows(struct gm_slice *slice, const struct gm_batch *batch,
                                struct gm_err *err)
{
    if (batch->rows < 1 || batch->rows > slice->rows_max)
        return gm_fail(err, GM_INVALID, "a batch has 1 to %d rows, not %d", slice->rows_max,
                       batch->rows);
    int32_t row = 0;
    for (int32_t i = 0; i < batch->n_spans; i++) {
        const struct gm_span *span = &batch->spans[i];
        if (span->row != row || span->n < 1 || span->n > batch->rows - row)
            return gm_fail(err, GM_INVALID,
                           "span %d has %d rows from row %d where row %d of %d is next", i, span->n,
                           span->row, row, batch->rows);
        if (span->pos < 0 || span->n > slice->context || span->pos > slice->context - span->n)
            return gm_fail(err, GM_RANGE, "%d rows from position %d pass the context of %d",
                           span->n, span->pos, slice->context);
        const int32_t len = gm_kv_len(span->seq);
        if (span->pos + span->n > len)
            return gm_fail(err, GM_PRECONDITION,
                           "span %d ends at position %d of a sequence of %d: extend it first", i,
                           span->pos + span->n, len);
        if (len - span->pos > GM_KV_SLACK)
            return gm_fail(err, GM_PRECONDITION,
                           "span %d starts %d positions before its sequence's end, at most %d", i,
                           len - span->pos, GM_KV_SLACK);
        for (int32_t j = 0; j < span->n; j++, row++) {
            slice->s.pos[row] = span->pos + j;
            slice->s.span[row] = i;
        }
    }
    if (row != batch->rows)
        return gm_fail(err, GM_INVALID, "the spans have %d rows, the batch %d", row, batch->rows);
    return GM_OK;
}

/* The first span with a row that is not finite, or -1. */
static int32_t find_bad(const struct gm_slice *slice, int32_t rows)
{
    for (int32_t r = 0; r < rows; r++)
        if (slice->s.bad[r])
            return slice->s.span[r];
    return -1;
}

/* All spans with such a row: what is not finite stays so through the layers. */
static void mark_bad(const struct gm_slice *slice, const struct gm_batch *batch, int32_t first)
{
    for (int32_t i = 0; i < batch->n_spans; i++)
        batch->bad[i] = i == first;
    for (int32_t r = 0; r < batch->rows; r++)
        if (slice->s.bad[r])
            batch->bad[slice->s.span[r]] = true;
}

void gm_slice_wake(struct gm_slice *slice)
{
    gm_pool_wake(slice->pool);
}

enum gm_status gm_slice_blocks(struct gm_slice *slice, struct gm_batch *batch, int32_t *bad_span,
                               struct gm_err *err)
{
    *bad_span = -1;
    enum gm_status status = open_rows(slice, batch, err);
    if (status != GM_OK)
        return status;
    struct gm_step step = { .slice = slice, .batch = batch, .rows = batch->rows };
    int32_t bad_layer = -1;
    gm_attn_angles(&step);
    for (int32_t i = slice->w.begin; i < slice->w.end; i++) {
        step.layer = i;
        step.w = &slice->w.layer[i - slice->w.begin];
        gm_attn_run(&step);
        gm_ffn_run(&step);
        if (bad_layer < 0 && (*bad_span = find_bad(slice, step.rows)) >= 0)
            bad_layer = i;
        if (batch->progress)
            ++*batch->progress;
    }
    if (!slice->w.final_norm) /* else the head follows */
        gm_pool_rest(slice->pool);
    if (bad_layer < 0)
        return GM_OK;
    if (batch->bad)
        mark_bad(slice, batch, *bad_span);
    return gm_fail(err, GM_DATA_LOSS,
                   "layer %d gave values that are not finite at position %d: check the model file",
                   bad_layer, batch->spans[*bad_span].pos);
}
