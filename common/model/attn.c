/* attn.c - the attention half of a block (reference sections 2.5, 2.6, 2.8).
 *
 * Owns:      norm, q/k/v, head norms, RoPE, storing, attending, o, post norm, residual.
 * Does not:  hold pages (kv.c) or do the maths of one row (kernels).
 * Order:     every row of the batch stores its key and value before any row attends, so a chunk of
 *            a prompt sees itself; a row looks no further than its own position.
 */
#include "common/model/exec.h"

#include <math.h>

void gm_attn_inv_freq(float *inv_freq, int32_t head_dim, float base, float divisor)
{
    for (int32_t i = 0; i < head_dim / 2; i++) {
        float f = (float)(1.0 / pow((double)base, 2.0 * i / head_dim));
        inv_freq[i] = f / divisor;
    }
}

static void run_angles(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_slice *s = ((const struct gm_step *)ctx)->slice;
    const int32_t dim = s->w.cfg.head_dim;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)dim;
        s->k->rope_angles(s->s.cs_local + at, s->s.pos[r], s->inv_freq_local, dim / 2);
        s->k->rope_angles(s->s.cs_global + at, s->s.pos[r], s->inv_freq_global, dim / 2);
    }
}

void gm_attn_angles(struct gm_step *step)
{
    gm_pool_run(step->slice->pool, step->rows, 1, run_angles, step);
}

static void run_norm(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const int32_t dim = s->w.cfg.d_model;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)dim;
        s->k->rms_norm(s->s.norm + at, step->batch->hidden + at, step->w->attn_norm, 1, dim,
                       s->w.cfg.norm_eps);
        gm_exec_prepare(s, s->s.norm + at, r, dim);
    }
}

/* Where position `pos` of kv head 0 is stored. */
static uint8_t *place(const struct gm_kv_view *kv, size_t offset, int32_t pos, size_t vec_bytes)
{
    return kv->pages[pos / GM_PAGE] + offset +
           (size_t)(pos % GM_PAGE) * (size_t)kv->kv_heads * vec_bytes;
}

/* Head norms, RoPE, the query's scale, and the row's place in the cache. */
static void run_store(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const struct gm_config *cfg = &s->w.cfg;
    const struct gm_kernels *k = s->k;
    const int32_t dim = cfg->head_dim;
    const float *angles = cfg->local[step->layer] ? s->s.cs_local : s->s.cs_global;
    for (int32_t r = begin; r < end; r++) {
        float *q = s->s.q + (size_t)r * (size_t)(cfg->heads * dim);
        float *key = s->s.k + (size_t)r * (size_t)(cfg->kv_heads * dim);
        const float *value = s->s.v + (size_t)r * (size_t)(cfg->kv_heads * dim);
        const float *cs = angles + (size_t)r * (size_t)dim;
        if (step->w->q_norm)
            k->rms_norm(q, q, step->w->q_norm, cfg->heads, dim, cfg->norm_eps);
        if (step->w->k_norm)
            k->rms_norm(key, key, step->w->k_norm, cfg->kv_heads, dim, cfg->norm_eps);
        k->rope(q, cs, cfg->heads, dim, cfg->query_scale);
        k->rope(key, cs, cfg->kv_heads, dim, 1.0f);
        struct gm_kv_view kv;
        gm_kv_view(s->kv, step->batch->spans[s->s.span[r]].seq, step->layer, &kv);
        const size_t vec = gm_kv_vec_bytes(kv.type, dim);
        k->kv_store(place(&kv, kv.k_off, s->s.pos[r], vec), key, cfg->kv_heads * dim, kv.type);
        k->kv_store(place(&kv, kv.v_off, s->s.pos[r], vec), value, cfg->kv_heads * dim, kv.type);
    }
}

/* Softmax attention of each row; its output is prepared for o. */
static void run_attend(void *ctx, int32_t begin, int32_t end, int worker)
{
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const struct gm_config *cfg = &s->w.cfg;
    const size_t width = (size_t)(cfg->heads * cfg->head_dim);
    const bool local = cfg->local[step->layer] && cfg->window > 0;
    for (int32_t r = begin; r < end; r++) {
        const int32_t pos = s->s.pos[r];
        struct gm_attend a = {
            .q = s->s.q + (size_t)r * width,
            .out = s->s.mix + (size_t)r * width,
            .heads = cfg->heads,
            .first = local && pos >= cfg->window ? pos - cfg->window + 1 : 0,
            .last = pos,
            .softcap = cfg->attn_softcap,
            .scratch = s->s.attend + (size_t)worker * s->s.attend_floats,
        };
        gm_kv_view(s->kv, step->batch->spans[s->s.span[r]].seq, step->layer, &a.kv);
        s->k->attend(&a);
        gm_exec_prepare(s, a.out, r, (int32_t)width);
    }
}

/* hidden += post_attn_norm(out); then the feed-forward's norm of the same row. */
static void run_residual(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct gm_step *step = ctx;
    const struct gm_slice *s = step->slice;
    const int32_t dim = s->w.cfg.d_model;
    const float eps = s->w.cfg.norm_eps;
    for (int32_t r = begin; r < end; r++) {
        size_t at = (size_t)r * (size_t)dim;
        float *hidden = step->batch->hidden + at;
        s->k->rms_norm_add(hidden, s->s.out + at, step->w->post_attn_norm, 1, dim, eps);
        s->k->rms_norm(s->s.norm + at, hidden, step->w->ffn_norm, 1, dim, eps);
        gm_exec_prepare(s, s->s.norm + at, r, dim);
    }
}

void gm_attn_run(struct gm_step *step)
{
    struct gm_slice *s = step->slice;
    const struct gm_mat *map = step->w->map;
    const struct gm_lin qkv[] = {
        { &map[GM_MAP_Q], gm_exec_lora(step, GM_MAP_Q), s->s.q },
        { &map[GM_MAP_K], gm_exec_lora(step, GM_MAP_K), s->s.k },
        { &map[GM_MAP_V], gm_exec_lora(step, GM_MAP_V), s->s.v },
    };
    const struct gm_lin o = { &map[GM_MAP_O], gm_exec_lora(step, GM_MAP_O), s->s.out };
    gm_pool_run(s->pool, step->rows, 1, run_norm, step);
    gm_exec_linear(s, qkv, 3, step->rows);
    gm_pool_run(s->pool, step->rows, 1, run_store, step);
    gm_pool_run(s->pool, step->rows, 1, run_attend, step);
    gm_exec_linear(s, &o, 1, step->rows);
    gm_pool_run(s->pool, step->rows, 1, run_residual, step);
}
