/* kernels_attend.c - the kernel bench's cases with keys and values: attend() and kv_store().
 *
 * Owns:      the cache of one sequence (four query heads, one key and value head of 256, as Gemma 3
 *            270M), the sharing out among threads, the comparison with gm_ref.
 * Does not:  time (kernels_bench.c).
 *
 * One row is shared out page by page, a tile of rows by rows, as the model's step does.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/kernels_cases.h"

enum {
    HEADS = 4,
    HEAD_DIM = 256,
    POSITIONS = 8192,
    PAGES = POSITIONS / GM_PAGE,
    TILE = 24,      /* rows */
    TILE_GRAIN = 3, /* rows that a thread takes at the least */
    STORE_AT = 7,
};
static const float size = 1.7f; /* of keys and values: variance 1 */

static const struct {
    int32_t rows, context;
} shapes[] = { { 1, 512 }, { 1, 2048 }, { 1, POSITIONS }, { TILE, 2048 } };

struct job {
    const struct gm_kernels *k;
    enum gm_kv_type type;
    uint8_t *data; /* of all pages */
    uint8_t *pages[PAGES];
    uint8_t *store[2]; /* pages that kv_store writes: the set's, gm_ref's */
    struct gm_attend a;
    float *q, *out, *want, *kv; /* [TILE][HEADS][HEAD_DIM] three times, keys and values */
    float *scratch, *parts;     /* of each thread; of each page */
    size_t scratch_floats;
};

/* ---- runs -------------------------------------------------------------------------------------
 */

static void part(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct job *j = ctx;
    (void)worker;
    for (int32_t page = begin; page < end; page++)
        j->k->attend_part(&j->a, 0, page, j->parts);
}

static void some_rows(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct job *j = ctx;
    struct gm_attend a = j->a;
    a.q += (size_t)begin * HEADS * HEAD_DIM;
    a.out += (size_t)begin * HEADS * HEAD_DIM;
    a.pos += begin;
    a.rows = end - begin;
    a.scratch = j->scratch + (size_t)worker * j->scratch_floats;
    j->k->attend(&a, 0);
}

static void run_attend(void *job, struct gm_pool *pool)
{
    struct job *j = job;
    if (gm_pool_threads(pool) == 1) {
        j->k->attend(&j->a, 0);
    } else if (j->a.rows == 1) {
        gm_pool_run(pool, gm_attend_last_page(&j->a, 0) + 1, 1, part, j);
        j->k->attend_join(&j->a, 0, 0, j->parts);
    } else {
        gm_pool_run(pool, j->a.rows, TILE_GRAIN, some_rows, j);
    }
}

/* Whether the set multiplies pairs of bf16 on such pages (kernels.h). */
static bool rounds_to_bf16(const struct job *j)
{
    static const char name[] = "avx512bf16";
    return j->type == GM_KV_BF16 && strncmp(j->k->id, name, sizeof name - 1) == 0;
}

/* The first and the last row. The bound is that of the unit tests (kernels_attend.c there): a score
 * is off by some 2^-24 |q| |k|, and its weight by as much relatively. With queries and weights
 * rounded to bf16 it is 2^-9 of each product of a score, whose signs are random: 2^-9 |q| |k| /
 * sqrt(dim) times six standard deviations, and 2^-9 of a weight. */
static bool attend_differs(void *job)
{
    const struct job *j = job;
    const double norm = (double)size * sqrt((double)HEAD_DIM);
    const double bound = rounds_to_bf16(j)
                             ? 0x1p-9 * (1.0 + 6.0 * norm / sqrt((double)HEAD_DIM)) * (double)size
                             : 0x1p-22 * (8.0 + norm) * (double)size;
    const size_t row = (size_t)HEADS * HEAD_DIM;
    bool differs = false;
    for (int32_t r = 0; r<j->a.rows; r += j->a.rows> 1 ? j->a.rows - 1 : 1) {
        struct gm_attend ref = j->a;
        ref.q += (size_t)r * row;
        ref.out = j->want;
        ref.pos += r;
        ref.rows = 1;
        gm_ref.attend(&ref, 0);
        differs |= gm_kbench_far(j->out + (size_t)r * row, j->want, row, bound);
    }
    return differs;
}

static void store(const struct gm_kernels *k, const struct job *j, uint8_t *page)
{
    struct gm_kv_view kv = j->a.kv;
    uint8_t *const pages[] = { page };
    kv.pages = pages;
    k->kv_store(&kv, STORE_AT, j->kv, j->kv + HEAD_DIM);
}

static void run_store(void *job, struct gm_pool *pool)
{
    const struct job *j = job;
    (void)pool;
    store(j->k, j, j->store[0]);
}

/* Floats are stored to the nearest, so they are the same; a code of q8 may be the next one. */
static bool store_differs(void *job)
{
    const struct job *j = job;
    const double bound = j->type == GM_KV_Q8 ? (double)size * 1.01 / 127.0 : 0.0;
    float vec[2][2][HEAD_DIM];
    store(&gm_ref, j, j->store[1]);
    for (int i = 0; i < 2; i++) {
        struct gm_kv_view kv = j->a.kv;
        kv.pages = &j->store[i];
        gm_kv_load(&kv, STORE_AT, 0, vec[i][0], vec[i][1]);
    }
    return gm_kbench_far(vec[0][0], vec[1][0], HEAD_DIM, bound) ||
           gm_kbench_far(vec[0][1], vec[1][1], HEAD_DIM, bound);
}

/* ---- the cache --------------------------------------------------------------------------------
 */

static void job_free(struct job *j)
{
    free(j->data);
    free(j->store[0]);
    free(j->store[1]);
    free(j->q);
    free(j->out);
    free(j->want);
    free(j->kv);
    free(j->scratch);
    free(j->parts);
    memset(j, 0, sizeof *j);
}

/* Room for the longest context and the tile, all positions stored by gm_ref. Free the job also
 * after a failure. */
static enum gm_status job_make(struct gm_kbench *b, struct job *j, struct gm_err *err)
{
    const size_t page = 2 * (size_t)GM_PAGE * gm_kv_vec_bytes(j->type, HEAD_DIM);
    const size_t tile = (size_t)TILE * HEADS * HEAD_DIM, threads = (size_t)b->o->threads;
    const int32_t pages = PAGES / b->o->sizes.context_div;
    j->k = b->k;
    j->scratch_floats = GM_ATTEND_SCRATCH(TILE, HEADS, HEAD_DIM);
    j->data = gm_kbench_alloc((size_t)pages * page);
    j->store[0] = gm_kbench_alloc(page);
    j->store[1] = gm_kbench_alloc(page);
    j->q = gm_kbench_alloc(tile * sizeof *j->q);
    j->out = gm_kbench_alloc(tile * sizeof *j->out);
    j->want = gm_kbench_alloc(tile * sizeof *j->want);
    j->kv = gm_kbench_alloc(2 * HEAD_DIM * sizeof *j->kv);
    j->scratch = gm_kbench_alloc(threads * j->scratch_floats * sizeof *j->scratch);
    j->parts = gm_kbench_alloc((size_t)pages * HEADS * GM_PART_FLOATS(HEAD_DIM) * sizeof *j->parts);
    if (!j->data || !j->store[0] || !j->store[1] || !j->q || !j->out || !j->want || !j->kv ||
        !j->scratch || !j->parts)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %d positions of keys and values",
                       POSITIONS);
    memset(j->store[0], 0, page);
    memset(j->store[1], 0, page);
    for (int32_t p = 0; p < pages; p++)
        j->pages[p] = j->data + (size_t)p * page;
    j->a = (struct gm_attend){ .q = j->q,
                               .out = j->out,
                               .kv = { j->pages, 0, page / 2, j->type, 1, HEAD_DIM },
                               .heads = HEADS,
                               .scratch = j->scratch };
    gm_kbench_fill(b, j->q, tile, size / sqrtf((float)HEAD_DIM));
    for (int32_t pos = 0; pos < pages * GM_PAGE; pos++) {
        gm_kbench_fill(b, j->kv, 2 * HEAD_DIM, size);
        gm_ref.kv_store(&j->a.kv, pos, j->kv, j->kv + HEAD_DIM);
    }
    return GM_OK;
}

static enum gm_status cases(struct gm_kbench *b, struct job *j, const char *name,
                            struct gm_err *err)
{
    enum { SHAPES = sizeof shapes / sizeof shapes[0] };
    struct gm_kcase attend[SHAPES], put = { .run = run_store, .differs = store_differs, .job = j };
    const double vec = (double)gm_kv_vec_bytes(j->type, HEAD_DIM);
    bool wanted[SHAPES];
    bool any = false;
    const bool store_wanted = gm_kcase_named(b, &put, "kv_store %s", name);
    for (int i = 0; i < SHAPES; i++) {
        const int32_t rows = shapes[i].rows, context = shapes[i].context / b->o->sizes.context_div;
        const double seen = rows * (context - (rows - 1) / 2.0);
        attend[i] = (struct gm_kcase){ .run = run_attend,
                                       .differs = attend_differs,
                                       .job = j,
                                       .bytes = 2 * context * vec,
                                       .products = 2.0 * HEADS * HEAD_DIM * seen,
                                       .kind = GM_PEAK_FLOAT,
                                       .shared = true };
        wanted[i] = gm_kcase_named(b, &attend[i], "attend %s rows %d at %d", name, rows, context);
        any |= wanted[i];
    }
    enum gm_status rc = any || store_wanted ? job_make(b, j, err) : GM_OK;
    for (int i = 0; rc == GM_OK && i < SHAPES; i++) {
        j->a.rows = shapes[i].rows;
        j->a.pos = shapes[i].context / b->o->sizes.context_div - shapes[i].rows;
        rc = wanted[i] ? gm_kcase_run(b, &attend[i], err) : GM_OK;
    }
    put.bytes = 2 * (HEAD_DIM * sizeof(float) + vec);
    if (rc == GM_OK && store_wanted)
        rc = gm_kcase_run(b, &put, err);
    return rc;
}

enum gm_status gm_kcases_attend(struct gm_kbench *b, struct gm_err *err)
{
    static const char *const names[] = { "f32", "bf16", "f16", "q8" };
    struct job *j = calloc(1, sizeof *j);
    enum gm_status rc = j ? GM_OK : gm_fail(err, GM_EXHAUSTED, "no memory for a cache");
    for (int type = GM_KV_F32; rc == GM_OK && type <= GM_KV_Q8; type++) {
        j->type = (enum gm_kv_type)type;
        rc = cases(b, j, names[type], err);
        job_free(j);
    }
    free(j);
    return rc;
}
