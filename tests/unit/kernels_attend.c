/* kernels_attend.c - kv_store and attend of a kernel set against gm_ref.
 *
 * Owns:      random paged caches whose unseen parts are NaN or absent, the error bounds, the ways
 * to compute the same rows that must agree in every bit. Does not:  prove ref itself (test_ref.c).
 */
#include "tests/unit/kernels_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct kind {
    enum gm_kv_type kv;
    const char *name;
} kinds[] = {
    { GM_KV_F32, "f32" },
    { GM_KV_BF16, "bf16" },
    { GM_KV_F16, "f16" },
    { GM_KV_Q8, "q8" },
};
enum { KINDS = sizeof kinds / sizeof kinds[0], PAGES_MAX = 40 };

/* Floats are stored to nearest, half to even: the same value as ref. An int8 block's value is off
 * by half a step d = amax/127, more by what rounding d to f16 (2^-11, or 2^-25 where subnormal)
 * moves a code of 127. */
static void compare_stored(struct gm_check *c, enum gm_kv_type type, const float *x,
                           const float *want, const float *got, int32_t n)
{
    if (type != GM_KV_Q8) {
        gm_check_near(c, want, got, (size_t)n, 0.0, 0.0);
        return;
    }
    for (int32_t b = 0; b < n; b += GM_QK) {
        double amax = 0.0;
        for (int32_t i = b; i < b + GM_QK; i++)
            amax = fmax(amax, fabs((double)x[i]));
        double d = amax / 127.0;
        double bound = 0.5001 * d + 127.0 * fmax(d * 0x1p-11, 0x1p-25);
        gm_check_near(c, x + b, got + b, GM_QK, 0.0, bound);
    }
}

/* One page of `heads` kv heads, values before keys to catch a swapped offset. */
struct one_page {
    uint8_t *page;
    struct gm_kv_view kv;
    size_t bytes;
};

static void make_page(struct gm_check *c, struct one_page *p, enum gm_kv_type type, int32_t heads,
                      int32_t dim, size_t slack)
{
    const size_t side = (size_t)GM_PAGE * (size_t)heads * gm_kv_vec_bytes(type, dim);
    p->bytes = 2 * side;
    p->page = gm_check_bytes(c, p->bytes, slack);
    p->kv = (struct gm_kv_view){ &p->page, side, 0, type, heads, dim };
}

/* Neighbours of a stored position are still NaN, all bits set. */
static void check_neighbours(struct gm_check *c, const struct gm_kv_view *kv, int32_t pos)
{
    float k[GM_HEAD_DIM_MAX], v[GM_HEAD_DIM_MAX];
    for (int32_t at = pos - 1; at <= pos + 1; at += 2) {
        for (int32_t h = 0; at >= 0 && at < GM_PAGE && h < kv->kv_heads; h++) {
            gm_kv_load(kv, at, h, k, v);
            for (int32_t i = 0; i < kv->head_dim; i++)
                gm_check_true(c, isnan(k[i]) && isnan(v[i]), "a neighbour was written");
        }
    }
}

static void check_store(struct gm_check *c, const struct gm_kernels *k, enum gm_kv_type type,
                        int32_t heads, int32_t dim, int32_t pos)
{
    const size_t n = (size_t)heads * (size_t)dim;
    float *x = gm_check_floats(c, n), *y = gm_check_bytes(c, n * sizeof *y, 20);
    float want[2][GM_HEAD_DIM_MAX], got[2][GM_HEAD_DIM_MAX];
    struct one_page a, b, moved;
    gm_check_fill(c, x, n, 50000.0f);
    gm_check_fill(c, y, n, 50000.0f);
    make_page(c, &a, type, heads, dim, 0);
    make_page(c, &b, type, heads, dim, 0);
    make_page(c, &moved, type, heads, dim, type == GM_KV_F32 ? 4 : 2);
    gm_ref.kv_store(&a.kv, pos, x, y);
    k->kv_store(&b.kv, pos, x, y);
    k->kv_store(&moved.kv, pos, x, y);
    gm_check_same(c, b.page, moved.page, b.bytes, "two alignments");
    check_neighbours(c, &b.kv, pos);
    for (int32_t h = 0; h < heads; h++) {
        gm_kv_load(&a.kv, pos, h, want[0], want[1]);
        gm_kv_load(&b.kv, pos, h, got[0], got[1]);
        compare_stored(c, type, x + h * dim, want[0], got[0], dim);
        compare_stored(c, type, y + h * dim, want[1], got[1], dim);
    }
    x[n - 5] = y[n - 7] = NAN;
    k->kv_store(&b.kv, pos, x, y);
    gm_kv_load(&b.kv, pos, heads - 1, got[0], got[1]);
    gm_check_true(c, isnan(got[0][dim - 5]) && isnan(got[1][dim - 7]), "a NaN did not stay one");
}

void gm_check_kv_store(struct gm_check *c, const struct gm_kernels *k)
{
    static const int32_t dims[] = { 32, 64, 96, 256 }, places[] = { 0, 1, 31, 62, 63 };
    for (size_t t = 0; t < KINDS; t++) {
        for (size_t s = 0; s < sizeof dims / sizeof dims[0]; s++) {
            for (size_t p = 0; p < sizeof places / sizeof places[0]; p++) {
                const int32_t heads = (int32_t)(s + p) % 4 + 1;
                if (!gm_check_begin(c, "kv_store %s %d x %d at %d", kinds[t].name, heads, dims[s],
                                    places[p]))
                    continue;
                check_store(c, k, kinds[t].kv, heads, dims[s], places[p]);
                gm_check_end(c);
            }
        }
    }
}

struct setting {
    int32_t heads, kv_heads, head_dim, pos, rows, window;
    float softcap, spread; /* spread: size of the scores */
};

struct cache {
    uint8_t *pages[PAGES_MAX];
    struct gm_attend a;
    double key_norm, value_max; /* largest of the visible keys and values, for the bound */
    double query_norm;
};

/* Whether the set multiplies pairs of bf16 on such pages: queries and weights are rounded. */
static bool rounds_to_bf16(const struct gm_kernels *k, enum gm_kv_type type)
{
    static const char name[] = "avx512bf16";
    return type == GM_KV_BF16 && strncmp(k->id, name, sizeof name - 1) == 0;
}

static double norm_of(const float *x, int32_t n)
{
    double sum = 0.0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

/* Stores random keys and values at one position and raises the cache's largest ones. */
static void put_position(struct gm_check *c, struct cache *cache, int32_t pos)
{
    float k[GM_HEADS_MAX * GM_HEAD_DIM_MAX], v[GM_HEADS_MAX * GM_HEAD_DIM_MAX];
    const struct gm_kv_view *kv = &cache->a.kv;
    const size_t n = (size_t)kv->kv_heads * (size_t)kv->head_dim;
    gm_check_fill_normal(c, k, n, 1.0f);
    gm_check_fill_normal(c, v, n, 1.0f);
    gm_ref.kv_store(kv, pos, k, v);
    for (int32_t h = 0; h < kv->kv_heads; h++) {
        for (int32_t i = h * kv->head_dim; i < (h + 1) * kv->head_dim; i++)
            cache->value_max = fmax(cache->value_max, fabs((double)v[i]));
        cache->key_norm = fmax(cache->key_norm, norm_of(k + h * kv->head_dim, kv->head_dim));
    }
}

static size_t scratch_floats(const struct gm_attend *a)
{
    return GM_ATTEND_SCRATCH(a->rows, a->heads / a->kv.kv_heads, a->kv.head_dim);
}

/* Only visible positions hold numbers: others are NaN, pages without any are NULL, so reading past
 * the window shows. */
static void make_cache(struct gm_check *c, struct cache *cache, const struct setting *s,
                       const struct kind *kind)
{
    const size_t side =
        (size_t)GM_PAGE * (size_t)s->kv_heads * gm_kv_vec_bytes(kind->kv, s->head_dim);
    const size_t count = (size_t)s->rows * (size_t)s->heads * (size_t)s->head_dim;
    const int32_t first = s->window > 0 && s->pos >= s->window ? s->pos - s->window + 1 : 0;
    memset(cache, 0, sizeof *cache);
    float *q = gm_check_floats(c, count);
    gm_check_fill_normal(c, q, count, s->spread / sqrtf((float)s->head_dim));
    cache->a = (struct gm_attend){
        .q = q,
        .out = gm_check_floats(c, count),
        .kv = { cache->pages, side, 0, kind->kv, s->kv_heads, s->head_dim },
        .heads = s->heads,
        .rows = s->rows,
        .pos = s->pos,
        .window = s->window,
        .softcap = s->softcap,
    };
    cache->a.scratch = gm_check_floats(c, scratch_floats(&cache->a));
    for (int32_t n = 0; n < s->rows * s->heads; n++)
        cache->query_norm =
            fmax(cache->query_norm, norm_of(q + (size_t)n * (size_t)s->head_dim, s->head_dim));
    for (int32_t pos = first; pos < s->pos + s->rows; pos++) {
        uint8_t **page = &cache->pages[pos / GM_PAGE];
        if (!*page)
            *page = gm_check_bytes(c, 2 * side, 0);
        put_position(c, cache, pos);
    }
}

static void attend_all(const struct gm_kernels *k, const struct gm_attend *a)
{
    for (int32_t h = 0; h < a->kv.kv_heads; h++)
        k->attend(a, h);
}

static const struct setting settings[] = {
    { 1, 1, 32, 0, 1, 0, 0, 1 },       { 4, 1, 256, 0, 1, 0, 0, 1 },
    { 4, 1, 256, 5, 1, 0, 0, 1 },      { 4, 1, 256, 63, 1, 0, 0, 3 },
    { 4, 1, 256, 64, 1, 0, 0, 1 },     { 4, 1, 256, 611, 1, 512, 0, 1 },
    { 4, 1, 256, 700, 1, 0, 0, 1 },    { 8, 4, 256, 200, 1, 196, 0, 1 },
    { 8, 4, 256, 129, 1, 0, 50, 8 },   { 16, 8, 64, 127, 1, 65, 0, 1 },
    { 16, 8, 128, 128, 1, 65, 30, 4 }, { 12, 4, 96, 90, 1, 90, 0, 1 },
    { 6, 2, 32, 1100, 1, 101, 0, 1 },  { 2, 1, 64, 2000, 1, 0, 0, 20 },
    { 64, 4, 32, 40, 1, 0, 0, 1 },     { 3, 3, 160, 130, 1, 0, 0, 2 },
    { 1, 1, 256, 400, 1, 384, 0, 1 },  { 4, 1, 256, 0, 70, 0, 0, 1 },
    { 4, 1, 256, 100, 24, 64, 0, 2 },  { 8, 4, 256, 60, 9, 0, 0, 1 },
    { 4, 2, 96, 190, 13, 5, 50, 4 },   { 3, 1, 64, 500, 20, 1, 0, 1 },
    { 1, 1, 32, 0, 130, 33, 0, 1 },    { 16, 2, 160, 120, 10, 128, 0, 1 },
    { 14, 2, 32, 30, 100, 0, 0, 3 },   { 4, 1, 256, 560, 24, 512, 0, 1 },
};

static void name_case(char *out, size_t size, const struct setting *s, const struct kind *kind)
{
    snprintf(out, size, "%s heads %d/%d dim %d rows %d at %d window %d cap %g spread %g",
             kind->name, s->heads, s->kv_heads, s->head_dim, s->rows, s->pos, s->window,
             (double)s->softcap, (double)s->spread);
}

/* Against ref: `got` of a set that rounds queries and weights to bf16. Ref with the rounded queries
 * differs by the weights' rounding alone, each at most 2^-9 of itself: together at most 2^-9 of
 * the largest value. Ref with the queries as they are: a score is off by at most
 * e = 2^-9 |q||k|, so a normalised weight by a factor between exp(-2e) and exp(2e). Stored keys
 * and values may be 2^-9 larger than those measured. */
static void check_rounded(struct gm_check *c, const struct cache *cache, const float *got,
                          size_t count, double bound)
{
    const double u = 0x1p-9, value = cache->value_max * (1.0 + u);
    const double e = u * cache->query_norm * cache->key_norm * (1.0 + u);
    float *want = gm_check_floats(c, count), *q = gm_check_floats(c, count);
    struct gm_attend ref = cache->a;
    bound += u * value;
    for (size_t i = 0; i < count; i++)
        q[i] = gm_bf16_to_f32(gm_f32_to_bf16(ref.q[i]));
    ref.q = q;
    ref.out = want;
    attend_all(&gm_ref, &ref);
    gm_check_near(c, want, got, count, 0.0, bound);
    ref.q = cache->a.q;
    attend_all(&gm_ref, &ref);
    gm_check_near(c, want, got, count, 0.0, bound + (exp(2.0 * e) - 1.0) * value);
}

/* Errors of a float implementation: a score is off by some 2^-24 of |q||k| (times a small number,
 * sums of rounding errors), which changes a weight by that much relatively; adding n weighted
 * values in float adds a few 2^-24 more. All relative to the largest value. */
void gm_check_attend(struct gm_check *c, const struct gm_kernels *k)
{
    static struct cache cache;
    for (size_t t = 0; t < KINDS; t++) {
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            const struct setting *s = &settings[i];
            char name[GM_CHECK_NAME_MAX];
            name_case(name, sizeof name, s, &kinds[t]);
            if (!gm_check_begin(c, "attend %s", name))
                continue;
            make_cache(c, &cache, s, &kinds[t]);
            const size_t count = (size_t)s->rows * (size_t)s->heads * (size_t)s->head_dim;
            float *got = cache.a.out, *want = gm_check_floats(c, count);
            struct gm_attend ref = cache.a;
            double bound = 0x1p-22 * (8.0 + (double)s->spread * cache.key_norm) * cache.value_max;
            attend_all(k, &cache.a);
            if (rounds_to_bf16(k, kinds[t].kv)) {
                check_rounded(c, &cache, got, count, bound);
                gm_check_end(c);
                continue;
            }
            ref.out = want;
            attend_all(&gm_ref, &ref);
            gm_check_near(c, want, got, count, 0.0, bound);
            gm_check_end(c);
        }
    }
}

/* ---- bits -------------------------------------------------------------------------------------
 */

/* Element d of the mean of values [first, last], in the order of sums that the set promises for
 * weights of 1: doubles, pairs of places with the second first, or place by place. */
static float mean_of(const struct gm_kernels *k, const struct gm_kv_view *kv, int32_t first,
                     int32_t last, int32_t d)
{
    float key[GM_HEAD_DIM_MAX], value[GM_HEAD_DIM_MAX], x[GM_PAGE + 1] = { 0 };
    const bool pairs = rounds_to_bf16(k, kv->type);
    double exact = 0.0;
    float sum = 0.0f;
    for (int32_t pos = first; pos <= last; pos++) {
        gm_kv_load(kv, pos, 0, key, value);
        x[pos] = value[d];
        exact += (double)x[pos];
    }
    for (int32_t pos = first / 2 * 2; pos <= last; pos += 2) {
        sum += pairs ? x[pos + 1] : x[pos];
        sum += pairs ? x[pos] : x[pos + 1];
    }
    return k == &gm_ref ? (float)(exact / (last - first + 1)) : sum / (float)(last - first + 1);
}

/* Queries of 0 give every visible place the weight 1: the sum of the values shows its order, and
 * that places beside the window, NaN here, leave no trace. One page, odd and even edges. */
void gm_check_attend_order(struct gm_check *c, const struct gm_kernels *k)
{
    static struct cache cache;
    static const int32_t edges[][2] = { { 0, 0 },  { 40, 0 },  { 41, 0 },
                                        { 63, 0 }, { 62, 36 }, { 63, 20 } };
    for (size_t t = 0; t < KINDS; t++) {
        for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
            const int32_t last = edges[i][0], window = edges[i][1];
            const struct setting s = { 3, 1, 96, last, 1, window, 0, 1 };
            if (!gm_check_begin(c, "attend order %s at %d window %d", kinds[t].name, last, window))
                continue;
            make_cache(c, &cache, &s, &kinds[t]);
            float *zero = gm_check_bytes(c, (size_t)(s.heads * s.head_dim) * sizeof *zero, 0);
            memset(zero, 0, (size_t)(s.heads * s.head_dim) * sizeof *zero);
            cache.a.q = zero;
            attend_all(k, &cache.a);
            for (int32_t d = 0; d < s.heads * s.head_dim; d++) {
                const float want =
                    mean_of(k, &cache.a.kv, window ? last - window + 1 : 0, last, d % s.head_dim);
                gm_check_same(c, &want, cache.a.out + d, sizeof want, "the order of the sum");
            }
            gm_check_end(c);
        }
    }
}

/* Rows [at, at + rows) of `a` as a call of their own. */
static struct gm_attend some_rows(const struct gm_attend *a, int32_t at, int32_t rows, float *out)
{
    struct gm_attend part = *a;
    const size_t skip = (size_t)at * (size_t)a->heads * (size_t)a->kv.head_dim;
    part.q += skip;
    part.out = out + skip;
    part.pos += at;
    part.rows = rows;
    return part;
}

/* Pages one by one, the last first, then every row joined, the last first. */
static void attend_split(struct gm_check *c, const struct gm_kernels *k, const struct gm_attend *a)
{
    const int32_t first = gm_attend_first_page(a, 0), last = gm_attend_last_page(a, a->rows - 1);
    const int32_t group = a->heads / a->kv.kv_heads;
    const size_t floats =
        (size_t)(last - first + 1) * (size_t)(a->rows * group) * GM_PART_FLOATS(a->kv.head_dim);
    float *parts = gm_check_floats(c, floats);
    for (int32_t h = 0; h < a->kv.kv_heads; h++) {
        for (int32_t p = last; p >= first; p--)
            k->attend_part(a, h, p, parts);
        for (int32_t r = a->rows - 1; r >= 0; r--)
            k->attend_join(a, h, r, parts);
        memset(parts, 0xff, floats * sizeof *parts);
    }
}

/* One call for all rows, calls of `step` rows, and pages one by one: the same bits. */
static void check_ways(struct gm_check *c, const struct gm_kernels *k, const struct gm_attend *a)
{
    static const int32_t steps[] = { 1, 2, 7 };
    const size_t bytes = (size_t)a->rows * (size_t)(a->heads * a->kv.head_dim) * sizeof(float);
    float *out = gm_check_bytes(c, bytes, 0);
    attend_all(k, a);
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        memset(out, 0xff, bytes);
        for (int32_t r = 0; r < a->rows; r += steps[s]) {
            const int32_t n = a->rows - r < steps[s] ? a->rows - r : steps[s];
            struct gm_attend few = some_rows(a, r, n, out);
            attend_all(k, &few);
        }
        gm_check_same(c, a->out, out, bytes, "all rows at once and few rows a call");
    }
    memset(out, 0xff, bytes);
    struct gm_attend whole = some_rows(a, 0, a->rows, out);
    attend_split(c, k, &whole);
    gm_check_same(c, a->out, out, bytes, "all pages in one call and page by page");
    memset(out, 0xff, bytes);
    for (int32_t r = 0; r < a->rows; r += 9) {
        struct gm_attend one = some_rows(a, r, 1, out);
        attend_split(c, k, &one);
        gm_check_same(c, (const uint8_t *)a->out + (size_t)r * bytes / (size_t)a->rows,
                      (const uint8_t *)out + (size_t)r * bytes / (size_t)a->rows,
                      bytes / (size_t)a->rows, "a row among others and page by page");
    }
}

void gm_check_attend_ways(struct gm_check *c, const struct gm_kernels *k)
{
    static struct cache cache;
    for (size_t t = 0; t < KINDS; t++) {
        for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
            char name[GM_CHECK_NAME_MAX];
            name_case(name, sizeof name, &settings[i], &kinds[t]);
            if (k == &gm_ref && i % 4 != 1) /* slow, and one function does it all */
                continue;
            if (!gm_check_begin(c, "attend ways %s", name))
                continue;
            make_cache(c, &cache, &settings[i], &kinds[t]);
            check_ways(c, k, &cache.a);
            gm_check_end(c);
        }
    }
}

/* The same cache, query, output and scratch at other alignments; scratch holds garbage. */
static void move_cache(struct gm_check *c, struct cache *moved, const struct cache *cache)
{
    const size_t page_bytes = 2 * cache->a.kv.k_off;
    const size_t count =
        (size_t)(cache->a.rows * cache->a.heads) * (size_t)cache->a.kv.head_dim * sizeof(float);
    const size_t scratch = scratch_floats(&cache->a) * sizeof(float);
    *moved = *cache;
    moved->a.kv.pages = moved->pages;
    for (int p = 0; p < PAGES_MAX; p++) {
        if (cache->pages[p]) {
            moved->pages[p] = gm_check_bytes(c, page_bytes, cache->a.kv.type == GM_KV_F32 ? 4 : 2);
            memcpy(moved->pages[p], cache->pages[p], page_bytes);
        }
    }
    float *q = gm_check_bytes(c, count, 4);
    memcpy(q, cache->a.q, count);
    moved->a.q = q;
    moved->a.out = gm_check_bytes(c, count, 12);
    moved->a.scratch = gm_check_bytes(c, scratch, 8);
    memset(moved->a.scratch, 0x55, scratch);
}

/* The bits do not depend on where pages, q, out and scratch lie or on what scratch held; a NaN in
 * one head's query stays in that head; a NaN in a value reaches the rows that see it, no others. */
static void check_bits(struct gm_check *c, const struct gm_kernels *k, const struct setting *s,
                       const struct kind *kind)
{
    static struct cache cache, moved;
    make_cache(c, &cache, s, kind);
    move_cache(c, &moved, &cache);
    const size_t dim = (size_t)s->head_dim, row = (size_t)s->heads * dim;
    const size_t bytes = (size_t)s->rows * row * sizeof(float);
    float *out = moved.a.out;
    attend_all(k, &cache.a);
    attend_all(k, &moved.a);
    gm_check_same(c, cache.a.out, out, bytes, "two alignments");
    float *q = gm_check_bytes(c, bytes, 0);
    memcpy(q, cache.a.q, bytes);
    moved.a.q = q;
    q[row + 2 * dim + 5] = NAN;
    attend_all(k, &moved.a);
    const size_t from = row + 2 * dim, to = from + dim;
    gm_check_same(c, cache.a.out, out, from * sizeof *q, "a NaN in another head");
    gm_check_same(c, cache.a.out + to, out + to, bytes - to * sizeof *q, "a NaN in another head");
    for (size_t i = from; i < to; i++)
        gm_check_true(c, isnan(out[i]), "a NaN query gave a number");
    moved.a.q = cache.a.q;
    float key[2 * GM_HEAD_DIM_MAX] = { 0 }, value[2 * GM_HEAD_DIM_MAX] = { 0 };
    value[dim + 3] = key[7] = NAN; /* seen by rows 2 and 3 */
    k->kv_store(&moved.a.kv, s->pos + 2, key, value);
    attend_all(k, &moved.a);
    gm_check_same(c, cache.a.out, out, 2 * row * sizeof *q, "a NaN in a later position");
    for (size_t i = 2 * row; i < 4 * row; i += row)
        gm_check_true(c, isnan(out[i]) && isnan(out[i + 4 * dim + 3]), "a NaN was lost");
}

/* The position with the NaN is the first of a pair, then the second. */
void gm_check_attend_bits(struct gm_check *c, const struct gm_kernels *k)
{
    for (size_t t = 0; t < KINDS; t++) {
        for (int32_t pos = 330; pos <= 331; pos++) {
            const struct setting s = { 8, 2, 96, pos, 4, 263, 0, 2 };
            if (!gm_check_begin(c, "attend bits %s at %d", kinds[t].name, pos))
                continue;
            check_bits(c, k, &s, &kinds[t]);
            gm_check_end(c);
        }
    }
}
