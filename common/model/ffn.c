/* ffn.c - the feed-forward half of a block (reference section 2.9).
 *
 * Owns:      gate and up, GELU, down, post norm, residual, the check that the rows are finite.
 * Does not:  norm its input: attn.c leaves it prepared.
 */
#include "common/model/exec.h"

/* gate = gelu(gate) * up, prepared for down. */
static void run_gelu(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const int32_t width = s->w.cfg.d_ff;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)width;
        s->k->gelu_mul(s->s.gate + at, s->s.gate + at, s->s.up + at, (size_t)width);
        gm_exec_prepare(s, s->s.gate + at, r, width);
    }
}

static void run_residual(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const int32_t dim = s->w.cfg.d_model;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)dim;
        float *hidden = step->batch->hidden + at;
        s->k->rms_norm_add(hidden, s->s.out + at, step->w->post_ffn_norm, 1, dim,
                           s->w.cfg.norm_eps);
        s->s.bad[r] = !s->k->all_finite(hidden, (size_t)dim);
    }
}

void gm_ffn_run(struct gm_step *step)
{
    struct gm_slice *s = step->slice;
    const struct gm_mat *map = step->w->map;
    const struct gm_lin gate_up[] = {
        { &map[GM_MAP_GATE], gm_exec_lora(step, GM_MAP_GATE), s->s.gate },
        { &map[GM_MAP_UP], gm_exec_lora(step, GM_MAP_UP), s->s.up },
    };
    const struct gm_lin down = { &map[GM_MAP_DOWN], gm_exec_lora(step, GM_MAP_DOWN), s->s.out };
    gm_exec_linear(s, gate_up, 2, step->rows);
    gm_pool_run(s->pool, step->rows, 1, run_gelu, step);
    gm_exec_linear(s, &down, 1, step->rows);
    gm_pool_run(s->pool, step->rows, 1, run_residual, step);
}
