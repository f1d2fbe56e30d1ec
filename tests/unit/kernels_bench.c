/* kernels_bench.c - test_kernels --bench: time of every entry, beside ref.
 *
 * Owns:      the shapes (Gemma 3 270M's), the timing loop, the printed table.
 * Does not:  decide anything: numbers depend on the machine and no test reads them.
 */
#include "tests/unit/kernels_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    VOCAB = 262144,
    COLS = 2048,
    OUTS = 640,
    BATCH_MAX = 32,
    POSITIONS = 8192,
    HEADS = 4,
    HEAD_DIM = 256,
    PAGES = POSITIONS / GM_PAGE,
    TILE_ROWS = 64,
};

/* One arena of inputs for all entries. */
struct job {
    struct gm_check check;
    struct gm_mat mat;
    float *x, *y, *freq, *scratch;
    void *act;
    struct gm_attend attend;
    uint8_t *pages[PAGES];
    int32_t ids[GM_TOPK_MAX];
    float values[GM_TOPK_MAX];
    int32_t rows;
    double keep; /* results that nothing reads would be removed */
};

typedef void bench_fn(struct job *j, const struct gm_kernels *k);

static void run_prepare(struct job *j, const struct gm_kernels *k)
{
    k->prepare(j->act, j->x, COLS, j->rows, COLS);
}
static void run_linear(struct job *j, const struct gm_kernels *k)
{
    k->linear(j->y, OUTS, &j->mat, j->act, j->rows, 0, OUTS);
}
static void run_embed(struct job *j, const struct gm_kernels *k)
{
    k->embed(j->y, &j->mat, 7, 25.0f);
}
static void run_norm(struct job *j, const struct gm_kernels *k)
{
    k->rms_norm(j->y, j->x, j->x, 1, COLS, 1e-6f);
}
static void run_norm_add(struct job *j, const struct gm_kernels *k)
{
    memset(j->y, 0, COLS * sizeof *j->y);
    k->rms_norm_add(j->y, j->x, j->x, 1, COLS, 1e-6f);
}
static void run_angles(struct job *j, const struct gm_kernels *k)
{
    k->rope_angles(j->y, 4095, j->freq, HEAD_DIM / 2);
}
static void run_rope(struct job *j, const struct gm_kernels *k)
{
    memcpy(j->y, j->x, COLS * sizeof *j->y);
    k->rope(j->y, j->x, HEADS, HEAD_DIM, 1.0f);
}
static void run_store(struct job *j, const struct gm_kernels *k)
{
    k->kv_store(&j->attend.kv, 7, j->x, j->x + HEAD_DIM);
}
static void run_attend(struct job *j, const struct gm_kernels *k)
{
    k->attend(&j->attend, 0);
}
static void run_gelu(struct job *j, const struct gm_kernels *k)
{
    k->gelu_mul(j->y, j->x, j->x, COLS);
}
static void run_axpy(struct job *j, const struct gm_kernels *k)
{
    k->axpy(j->y, j->x, 1e-3f, COLS);
}
static void run_softcap(struct job *j, const struct gm_kernels *k)
{
    memcpy(j->y, j->x, COLS * sizeof *j->y);
    k->softcap(j->y, 30.0f, COLS);
}
static void run_lse(struct job *j, const struct gm_kernels *k)
{
    j->keep += k->logsumexp(j->x, VOCAB, 1.4f);
}
static void run_top(struct job *j, const struct gm_kernels *k)
{
    j->keep += k->top_k(j->ids, j->values, j->x, VOCAB, 64);
}
static void run_finite(struct job *j, const struct gm_kernels *k)
{
    j->keep += k->all_finite(j->x, VOCAB);
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* others may use the cores */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of several runs that together take about 30 ms: the least disturbed one. */
static double time_of(struct job *j, const struct gm_kernels *k, bench_fn *fn)
{
    double best = 1e9;
    const double start = seconds_now();
    for (int i = 0; i < 3 || seconds_now() - start < 0.03; i++) {
        enum { INNER = 4 };
        double begin = seconds_now();
        for (int n = 0; n < INNER; n++)
            fn(j, k);
        double each = (seconds_now() - begin) / INNER;
        best = each < best ? each : best;
    }
    return best;
}

static void row(struct job *j, const struct gm_kernels *const *sets, int count, const char *name,
                bench_fn *fn, double bytes, double products)
{
    double ref = 0.0;
    for (int s = 0; s < count; s++) {
        if (fn == run_linear) /* the act's form belongs to the set */
            sets[s]->prepare(j->act, j->x, COLS, j->rows, COLS);
        double t = time_of(j, sets[s], fn);
        ref = s == 0 ? t : ref;
        printf("%-26s %-14s %11.2f us %7.1fx ref %8.2f GB/s", name, sets[s]->id, t * 1e6, ref / t,
               bytes / t * 1e-9);
        if (products > 0.0)
            printf(" %8.2f GMAC/s", products / t * 1e-9);
        printf("\n");
    }
}

static void set_up(struct job *j, const struct gm_kernels *const *sets, int count)
{
    struct gm_check *c = &j->check;
    gm_check_init(c);
    gm_check_begin(c, "bench");
    size_t act_bytes = 0;
    for (int s = 0; s < count; s++)
        act_bytes = sets[s]->act_bytes(COLS) > act_bytes ? sets[s]->act_bytes(COLS) : act_bytes;
    j->act = gm_check_bytes(c, act_bytes * BATCH_MAX, 0);
    j->x = gm_check_floats(c, VOCAB);
    j->y = gm_check_floats(c, VOCAB);
    j->freq = gm_check_floats(c, HEAD_DIM / 2);
    gm_check_fill_normal(c, j->x, VOCAB, 4.0f);
    for (int i = 0; i < HEAD_DIM / 2; i++)
        j->freq[i] = (float)gm_check_unit(c);
    memset(j->y, 0, VOCAB * sizeof *j->y);
}

static void bench_linear(struct job *j, const struct gm_kernels *const *sets, int count)
{
    static const int32_t batches[] = { 1, 8, BATCH_MAX };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        j->mat = gm_check_mat(&j->check, gm_check_types[t], OUTS, COLS, 0);
        const char *type = gm_type_info((uint32_t)gm_check_types[t])->name;
        char name[64];
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
            j->rows = batches[b];
            snprintf(name, sizeof name, "linear %s rows %d", type, j->rows);
            row(j, sets, count, name, run_linear, (double)OUTS * (double)j->mat.row_bytes, 0.0);
        }
        snprintf(name, sizeof name, "embed %s", type);
        row(j, sets, count, name, run_embed, (double)j->mat.row_bytes, 0.0);
    }
}

/* Pages of one kv head of POSITIONS positions; query rows at the end of the first `context`. */
static void bench_attend_type(struct job *j, const struct gm_kernels *const *sets, int count,
                              enum gm_kv_type type, const char *type_name)
{
    static const struct {
        int32_t rows, context;
    } cases[] = { { 1, 512 },   { 1, 2048 },         { 1, POSITIONS },   { 24, 2048 },
                  { 24, 4096 }, { TILE_ROWS, 2048 }, { TILE_ROWS, 4096 } };
    struct gm_check *c = &j->check;
    const size_t vec = gm_kv_vec_bytes(type, HEAD_DIM);
    uint8_t *all = gm_check_bytes(c, 2 * POSITIONS * vec, 0);
    char name[64];
    for (size_t p = 0; p < PAGES; p++)
        j->pages[p] = all + 2 * p * GM_PAGE * vec;
    const struct gm_kv_view kv = { j->pages, 0, GM_PAGE * vec, type, 1, HEAD_DIM };
    for (int32_t pos = 0; pos < POSITIONS; pos++)
        sets[count - 1]->kv_store(&kv, pos, j->x + pos * 8, j->x + pos * 16);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int32_t rows = cases[i].rows, pos = cases[i].context - rows;
        const double seen = (double)rows * (pos + (rows + 1) / 2.0);
        j->attend = (struct gm_attend){ .q = j->x,
                                        .out = j->y,
                                        .kv = kv,
                                        .heads = HEADS,
                                        .rows = rows,
                                        .pos = pos,
                                        .scratch = j->scratch };
        snprintf(name, sizeof name, "attend %s %d at %d", type_name, rows, pos);
        row(j, sets, count, name, run_attend, 2.0 * cases[i].context * (double)vec,
            2.0 * HEADS * HEAD_DIM * seen);
    }
    snprintf(name, sizeof name, "kv_store %s", type_name);
    row(j, sets, count, name, run_store, 2.0 * HEAD_DIM * sizeof(float), 0.0);
}

static void bench_attend(struct job *j, const struct gm_kernels *const *sets, int count)
{
    static const char *const names[] = { "f32", "bf16", "f16", "q8" };
    j->scratch = gm_check_floats(&j->check, GM_ATTEND_SCRATCH(TILE_ROWS, HEADS, HEAD_DIM));
    for (int type = GM_KV_F32; type <= GM_KV_Q8; type++)
        bench_attend_type(j, sets, count, (enum gm_kv_type)type, names[type]);
}

void gm_bench_kernels(const struct gm_kernels *const *sets, int count)
{
    static const struct {
        const char *name;
        bench_fn *fn;
        double bytes;
    } rest[] = {
        { "prepare", run_prepare, COLS * 4.0 },
        { "rms_norm", run_norm, COLS * 8.0 },
        { "rms_norm_add", run_norm_add, COLS * 12.0 },
        { "rope_angles", run_angles, HEAD_DIM * 6.0 },
        { "rope", run_rope, HEADS * HEAD_DIM * 8.0 },
        { "gelu_mul", run_gelu, COLS * 12.0 },
        { "axpy", run_axpy, COLS * 12.0 },
        { "softcap", run_softcap, COLS * 8.0 },
        { "logsumexp", run_lse, VOCAB * 4.0 },
        { "top_k 64", run_top, VOCAB * 4.0 },
        { "all_finite", run_finite, VOCAB * 4.0 },
    };
    struct job *j = calloc(1, sizeof *j);
    if (!j) {
        printf("no memory for the benchmark\n");
        return;
    }
    set_up(j, sets, count);
    bench_linear(j, sets, count);
    bench_attend(j, sets, count);
    j->rows = 1;
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++)
        row(j, sets, count, rest[i].name, rest[i].fn, rest[i].bytes, 0.0);
    gm_check_end(&j->check);
    free(j);
}
