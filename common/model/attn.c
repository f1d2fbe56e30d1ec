/* attn.c - the attention half of a block (reference sections 2.5, 2.6, 2.8).
 *
 * Owns:      norm, q/k/v, head norms, RoPE, storing, attending, o, post norm, residual.
 * Does not:  hold pages (kv.c) or do the maths of one row (kernels).
 * Order:     every row of the batch stores its key and value before any row attends, so a chunk of
 *            a prompt sees itself; a row looks no further than its own position.
 *
 * How attention is shared out. The rows of a batch become jobs: up to GM_ATTN_TILE_ROWS rows of one
 * span that walk their pages together, or a span of few rows whose pages are items of their own
 * ("split"), so that threads share even a single row. A unit of work is one row in one page for one
 * kv head; a job has kv_heads * pages * rows units, and a chunk of the pool's range of units does
 * the items that begin in it, so chunks cost the same whatever they hold. None of this touches
 * bits: the kernel's order of sums is a function of the row's position alone.
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
        k->kv_store(&kv, s->s.pos[r], key, value);
    }
}

/* ---- attention --------------------------------------------------------------------------------
 */

enum {
    SPLIT_ROWS = 4,    /* spans up to so many rows may be split by pages */
    TILES = 4,         /* walking jobs wanted for each thread */
    TILE_ROWS_MIN = 3, /* of a walking job; a multiple fills the kernel's tiles */
    SHARE = 8,         /* an item larger than 1/SHARE of a thread's part is worth splitting */
    UNITS_MIN = 2,     /* units that are worth a thread's waking */
};

/* One round of attention: jobs whose parts fit the scratch together. */
struct round {
    const struct gm_step *step;
    int32_t window;             /* of the layer; 0: none */
    int32_t tile_rows;          /* rows of a job that walks */
    int32_t units_max;          /* an item with more is split */
    int32_t jobs, units;        /* of this round */
    int32_t row_begin, row_end; /* batch rows of this round */
};

static struct gm_attend attend_of(const struct gm_step *step, int32_t window, int32_t row,
                                  int32_t rows, int worker)
{
    const struct gm_slice *s = step->slice;
    const size_t at = (size_t)row * (size_t)(s->w.cfg.heads * s->w.cfg.head_dim);
    struct gm_attend a = {
        .q = s->s.q + at,
        .out = s->s.mix + at,
        .heads = s->w.cfg.heads,
        .rows = rows,
        .pos = s->s.pos[row],
        .window = window,
        .softcap = s->w.cfg.attn_softcap,
        .scratch = s->s.attend + (size_t)worker * s->s.attend_floats,
    };
    gm_kv_view(s->kv, step->batch->spans[s->s.span[row]].seq, step->layer, &a.kv);
    return a;
}

/* The pages that rows [row, row + rows) of the batch see together. */
static int32_t pages_of(const struct round *r, int32_t row, int32_t rows, int32_t *first)
{
    const struct gm_attend a = { .pos = r->step->slice->s.pos[row], .window = r->window };
    *first = gm_attend_first_page(&a, 0);
    return gm_attend_last_page(&a, rows - 1) - *first + 1;
}

static void add_job(struct round *r, int32_t span, int32_t row, int32_t rows)
{
    const struct gm_slice *s = r->step->slice;
    struct gm_attn_job *job = &s->s.jobs[r->jobs++];
    *job = (struct gm_attn_job){ .span = span, .row = row, .rows = rows, .unit = r->units };
    job->pages = pages_of(r, row, rows, &job->page);
    r->units += s->w.cfg.kv_heads * job->pages * rows;
}

/* Floats of all parts of a job. */
static size_t job_parts(const struct gm_slice *s, const struct gm_attn_job *job)
{
    return (size_t)job->pages * (size_t)job->rows * (size_t)s->w.cfg.heads *
           GM_PART_FLOATS(s->w.cfg.head_dim);
}

/* Makes jobs of spans from *span on, as long as their parts fit. */
static void fill_round(struct round *r, int32_t *span)
{
    const struct gm_batch *batch = r->step->batch;
    const struct gm_slice *s = r->step->slice;
    size_t used = 0;
    r->jobs = r->units = 0;
    r->row_begin = r->row_end = batch->spans[*span].row;
    for (; *span < batch->n_spans; ++*span) {
        const struct gm_span *x = &batch->spans[*span];
        const bool few = x->n <= SPLIT_ROWS;
        const int32_t tile = few ? x->n : r->tile_rows;
        for (int32_t row = 0; row < x->n; row += tile)
            add_job(r, *span, x->row + row, x->n - row < tile ? x->n - row : tile);
        struct gm_attn_job *job = &s->s.jobs[r->jobs - 1];
        const size_t need = job_parts(s, job);
        if (few && job->pages > 1 && job->pages * job->rows > r->units_max &&
            need <= s->s.parts_floats) {
            if (need > s->s.parts_floats - used) {
                r->units = job->unit;
                r->jobs--;
                return;
            }
            job->split = true;
            job->part = used;
            used += need;
        }
        r->row_end = x->row + x->n;
    }
}

/* Items of one job that begin in units [begin, end) of the job. An item of a split job is one page
 * of one kv head, of another job one kv head. */
static void run_job(const struct round *r, const struct gm_attn_job *job, int32_t begin,
                    int32_t end, int worker)
{
    const struct gm_kernels *k = r->step->slice->k;
    const struct gm_attend a = attend_of(r->step, r->window, job->row, job->rows, worker);
    const int32_t head_units = job->pages * job->rows;
    const int32_t size = job->split ? job->rows : head_units;
    const size_t head_floats = job_parts(r->step->slice, job) / (size_t)a.kv.kv_heads;
    for (int32_t u = (begin + size - 1) / size * size; u < end; u += size) {
        const int32_t kv_head = u / head_units;
        if (!job->split) {
            k->attend(&a, kv_head);
            continue;
        }
        float *parts = r->step->slice->s.parts + job->part + (size_t)kv_head * head_floats;
        k->attend_part(&a, kv_head, job->page + u % head_units / job->rows, parts);
    }
}

/* The last job that begins at or before `unit`. */
static int32_t job_at(const struct gm_attn_job *jobs, int32_t n, int32_t unit)
{
    int32_t low = 0, high = n;
    while (high - low > 1) {
        const int32_t mid = low + (high - low) / 2;
        if (jobs[mid].unit <= unit)
            low = mid;
        else
            high = mid;
    }
    return low;
}

/* Chunks are handed out from the back: there are the long walks of a prompt, while the single pages
 * of running answers, which stand first in a batch, fill up the end. */
static void run_attend(void *ctx, int32_t chunk_begin, int32_t chunk_end, int worker)
{
    const struct round *r = ctx;
    const struct gm_attn_job *jobs = r->step->slice->s.jobs;
    const int32_t begin = r->units - chunk_end, end = r->units - chunk_begin;
    for (int32_t i = job_at(jobs, r->jobs, begin); i < r->jobs && jobs[i].unit < end; i++) {
        const int32_t next = i + 1 < r->jobs ? jobs[i + 1].unit : r->units;
        const int32_t from = begin > jobs[i].unit ? begin - jobs[i].unit : 0;
        run_job(r, &jobs[i], from, (end < next ? end : next) - jobs[i].unit, worker);
    }
}

/* Joins a row's parts if it has any, and prepares attention's output for o. */
static void run_join(void *ctx, int32_t begin, int32_t end, int worker)
{
    const struct round *r = ctx;
    const struct gm_slice *s = r->step->slice;
    const struct gm_attn_job *jobs = s->s.jobs;
    const int32_t width = s->w.cfg.heads * s->w.cfg.head_dim;
    int32_t i = 0;
    for (int32_t row = r->row_begin + begin; row < r->row_begin + end; row++) {
        while (row >= jobs[i].row + jobs[i].rows)
            i++;
        if (jobs[i].split) {
            const struct gm_attend a =
                attend_of(r->step, r->window, jobs[i].row, jobs[i].rows, worker);
            const size_t head_floats = job_parts(s, &jobs[i]) / (size_t)a.kv.kv_heads;
            const float *parts = s->s.parts + jobs[i].part;
            for (int32_t h = 0; h < a.kv.kv_heads; h++, parts += head_floats)
                s->k->attend_join(&a, h, row - jobs[i].row, parts);
        }
        gm_exec_prepare(s, s->s.mix + (size_t)row * (size_t)width, row, width);
    }
}

/* Rows of a job that walks: as many as leave enough jobs for all threads. And the size from which
 * an item is worth splitting; a single thread splits nothing. */
static void plan_rounds(struct round *r)
{
    const struct gm_slice *s = r->step->slice;
    const struct gm_batch *batch = r->step->batch;
    const int32_t threads = gm_pool_threads(s->pool), kv_heads = s->w.cfg.kv_heads;
    int64_t units = 0;
    int32_t first, rows = batch->rows * kv_heads / (TILES * threads);
    for (int32_t i = 0; i < batch->n_spans; i++)
        units += batch->spans[i].n * pages_of(r, batch->spans[i].row, batch->spans[i].n, &first);
    const int64_t share = units * kv_heads / (SHARE * threads);
    r->units_max = threads == 1 ? INT32_MAX : share > UNITS_MIN ? (int32_t)share : UNITS_MIN;
    rows = (rows < GM_ATTN_TILE_ROWS ? rows : GM_ATTN_TILE_ROWS) / TILE_ROWS_MIN * TILE_ROWS_MIN;
    r->tile_rows = rows > TILE_ROWS_MIN ? rows : TILE_ROWS_MIN;
}

/* mix = attention of every row, prepared for o. */
static void attend_all(const struct gm_step *step)
{
    const struct gm_slice *s = step->slice;
    const bool local = s->w.cfg.local[step->layer];
    struct round r = { .step = step, .window = local ? s->w.cfg.window : 0 };
    plan_rounds(&r);
    for (int32_t span = 0; span < step->batch->n_spans;) {
        fill_round(&r, &span);
        gm_pool_run(s->pool, r.units, UNITS_MIN, run_attend, &r);
        gm_pool_run(s->pool, r.row_end - r.row_begin, 1, run_join, &r);
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
    attend_all(step);
    gm_exec_linear(s, &o, 1, step->rows);
    gm_pool_run(s->pool, step->rows, 1, run_residual, step);
}
