/* kernels_attend.c - kv_store and attend of a kernel set against gm_ref.
 *
 * Owns:      random paged caches whose unseen parts are NaN or absent, the error bounds.
 * Does not:  prove ref itself (test_ref.c).
 */
#include "tests/unit/kernels_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct kind {
    enum gm_kv_type kv;
    enum gm_type as;
    const char *name;
} kinds[] = {
    { GM_KV_F32, GM_TYPE_F32, "f32" },
    { GM_KV_BF16, GM_TYPE_BF16, "bf16" },
    { GM_KV_F16, GM_TYPE_F16, "f16" },
    { GM_KV_Q8, GM_TYPE_Q8_0, "q8" },
};
enum { KINDS = sizeof kinds / sizeof kinds[0], PAGES_MAX = 40 };

/* Floats are stored to nearest, half to even: the same value as ref. An int8 block's value is off
 * by half a step d = amax/127, more by what rounding d to f16 (2^-11, or 2^-25 where subnormal)
 * moves a code of 127. */
static void compare_stored(struct gm_check *c, const struct kind *kind, const float *x,
                           const float *want, const float *got, int32_t n)
{
    if (kind->kv != GM_KV_Q8) {
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

void gm_check_kv_store(struct gm_check *c, const struct gm_kernels *k)
{
    static const int32_t sizes[] = { 0, 32, 64, 96, 256, 1024 };
    for (size_t t = 0; t < KINDS; t++) {
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
            const int32_t n = sizes[s];
            if (!gm_check_begin(c, "kv_store %s %d", kinds[t].name, n))
                continue;
            const size_t bytes = gm_kv_vec_bytes(kinds[t].kv, n);
            float *x = gm_check_floats(c, (size_t)n);
            gm_check_fill(c, x, (size_t)n, 50000.0f);
            uint8_t *a = gm_check_bytes(c, bytes, 0), *b = gm_check_bytes(c, bytes, 0);
            uint8_t *moved = gm_check_bytes(c, bytes, kinds[t].kv == GM_KV_F32 ? 4 : 2);
            float *shifted = gm_check_bytes(c, (size_t)n * sizeof *x, 20);
            float *want = gm_check_floats(c, (size_t)n), *got = gm_check_floats(c, (size_t)n);
            memcpy(shifted, x, (size_t)n * sizeof *x);
            gm_ref.kv_store(a, x, n, kinds[t].kv);
            k->kv_store(b, x, n, kinds[t].kv);
            k->kv_store(moved, shifted, n, kinds[t].kv);
            gm_check_same(c, b, moved, bytes, "two alignments");
            gm_dequant_row(want, a, kinds[t].as, (size_t)n);
            gm_dequant_row(got, b, kinds[t].as, (size_t)n);
            compare_stored(c, &kinds[t], x, want, got, n);
            if (n > 0) {
                x[n / 2] = NAN;
                k->kv_store(b, x, n, kinds[t].kv);
                gm_dequant_row(got, b, kinds[t].as, (size_t)n);
                gm_check_true(c, isnan(got[n / 2]), "a NaN did not stay one");
            }
            gm_check_end(c);
        }
    }
}

struct setting {
    int32_t heads, kv_heads, head_dim, first, last;
    float softcap, spread; /* spread: size of the scores */
};

struct cache {
    uint8_t *pages[PAGES_MAX];
    struct gm_attend a;
    double key_norm, value_max; /* largest of the visible keys and values, for the bound */
};

/* Stores one random vector; returns its norm and raises *max to its largest element. */
static double put_vector(struct gm_check *c, uint8_t *at, const struct kind *kind, int32_t dim,
                         double *max)
{
    float x[GM_HEAD_DIM_MAX];
    double sum = 0.0;
    gm_check_fill_normal(c, x, (size_t)dim, 1.0f);
    gm_ref.kv_store(at, x, dim, kind->kv);
    for (int32_t i = 0; i < dim; i++) {
        sum += (double)x[i] * (double)x[i];
        *max = fmax(*max, fabs((double)x[i]));
    }
    return sqrt(sum);
}

/* Only visible positions hold numbers: others are NaN, pages without any are NULL, so reading past
 * the window shows. Values lie before keys to catch a swapped offset. */
static void make_cache(struct gm_check *c, struct cache *cache, const struct setting *s,
                       const struct kind *kind)
{
    const size_t vec = gm_kv_vec_bytes(kind->kv, s->head_dim);
    const size_t side = (size_t)GM_PAGE * (size_t)s->kv_heads * vec;
    memset(cache, 0, sizeof *cache);
    cache->a.kv = (struct gm_kv_view){ cache->pages, side, 0, kind->kv, s->kv_heads, s->head_dim };
    for (int32_t pos = s->first; pos <= s->last; pos++) {
        uint8_t **page = &cache->pages[pos / GM_PAGE];
        if (!*page)
            *page = gm_check_bytes(c, 2 * side, 0);
        for (int32_t h = 0; h < s->kv_heads; h++) {
            size_t at = (size_t)(pos % GM_PAGE * s->kv_heads + h) * vec;
            double ignored = 0.0;
            double norm = put_vector(c, *page + side + at, kind, s->head_dim, &ignored);
            cache->key_norm = fmax(cache->key_norm, norm);
            put_vector(c, *page + at, kind, s->head_dim, &cache->value_max);
        }
    }
    const size_t count = (size_t)s->heads * (size_t)s->head_dim;
    float *q = gm_check_floats(c, count);
    gm_check_fill_normal(c, q, count, s->spread / sqrtf((float)s->head_dim));
    cache->a.q = q;
    cache->a.out = gm_check_floats(c, count);
    cache->a.heads = s->heads;
    cache->a.first = s->first;
    cache->a.last = s->last;
    cache->a.softcap = s->softcap;
    cache->a.scratch = gm_check_floats(c, GM_ATTEND_SCRATCH(s->heads, s->last - s->first + 1));
}

static const struct setting settings[] = {
    { 1, 1, 32, 0, 0, 0, 1 },       { 4, 1, 256, 0, 0, 0, 1 },      { 4, 1, 256, 0, 5, 0, 1 },
    { 4, 1, 256, 0, 63, 0, 3 },     { 4, 1, 256, 0, 64, 0, 1 },     { 4, 1, 256, 100, 611, 0, 1 },
    { 4, 1, 256, 0, 700, 0, 1 },    { 8, 4, 256, 5, 200, 0, 1 },    { 8, 4, 256, 0, 129, 50, 8 },
    { 16, 8, 64, 63, 127, 0, 1 },   { 16, 8, 128, 64, 128, 30, 4 }, { 12, 4, 96, 1, 90, 0, 1 },
    { 6, 2, 32, 1000, 1100, 0, 1 }, { 2, 1, 64, 0, 2000, 0, 20 },   { 64, 4, 32, 0, 40, 0, 1 },
    { 3, 3, 160, 0, 130, 0, 2 },    { 1, 1, 256, 17, 400, 0, 1 },
};

static void name_case(char *out, size_t size, const struct setting *s, const struct kind *kind)
{
    snprintf(out, size, "%s heads %d/%d dim %d [%d,%d] cap %g spread %g", kind->name, s->heads,
             s->kv_heads, s->head_dim, s->first, s->last, (double)s->softcap, (double)s->spread);
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
            char name[GM_CHECK_NAME_MAX / 2 + 40];
            name_case(name, sizeof name, s, &kinds[t]);
            if (!gm_check_begin(c, "attend %s", name))
                continue;
            make_cache(c, &cache, s, &kinds[t]);
            const size_t count = (size_t)s->heads * (size_t)s->head_dim;
            float *got = cache.a.out, *want = gm_check_floats(c, count);
            struct gm_attend ref = cache.a;
            ref.out = want;
            gm_ref.attend(&ref);
            k->attend(&cache.a);
            double bound = 0x1p-22 * (8.0 + (double)s->spread * cache.key_norm) * cache.value_max;
            gm_check_near(c, want, got, count, 0.0, bound);
            gm_check_end(c);
        }
    }
}

/* The bits do not depend on where pages, q, out and scratch lie or on what scratch held; an empty
 * range writes nothing; a NaN in one head's query stays in that head. */
void gm_check_attend_bits(struct gm_check *c, const struct gm_kernels *k)
{
    static struct cache cache, moved;
    for (size_t t = 0; t < KINDS; t++) {
        const struct setting s = { 8, 2, 96, 70, 333, 0, 2 };
        if (!gm_check_begin(c, "attend bits %s", kinds[t].name))
            continue;
        make_cache(c, &cache, &s, &kinds[t]);
        const size_t dim = (size_t)s.head_dim, count = (size_t)s.heads * dim;
        const size_t scratch = GM_ATTEND_SCRATCH(s.heads, s.last - s.first + 1);
        const size_t page_bytes = 2 * cache.a.kv.k_off;
        k->attend(&cache.a);
        moved = cache;
        moved.a.kv.pages = moved.pages;
        for (int p = 0; p < PAGES_MAX; p++) {
            if (cache.pages[p]) {
                moved.pages[p] = gm_check_bytes(c, page_bytes, kinds[t].kv == GM_KV_F32 ? 4 : 2);
                memcpy(moved.pages[p], cache.pages[p], page_bytes);
            }
        }
        float *q = gm_check_bytes(c, count * sizeof *q, 4);
        memcpy(q, cache.a.q, count * sizeof *q);
        moved.a.q = q;
        moved.a.out = gm_check_bytes(c, count * sizeof *q, 12);
        moved.a.scratch = gm_check_bytes(c, scratch * sizeof *q, 8);
        memset(moved.a.scratch, 0x55, scratch * sizeof *q);
        k->attend(&moved.a);
        gm_check_same(c, cache.a.out, moved.a.out, count * sizeof *q, "two alignments");
        q[2 * dim + 5] = NAN;
        k->attend(&moved.a);
        gm_check_same(c, cache.a.out, moved.a.out, 2 * dim * sizeof *q, "a NaN in another head");
        gm_check_same(c, cache.a.out + 3 * dim, moved.a.out + 3 * dim, (count - 3 * dim) * 4,
                      "a NaN in another head");
        for (size_t i = 0; i < dim; i++)
            gm_check_true(c, isnan(moved.a.out[2 * dim + i]), "a NaN query gave a number");
        memset(moved.a.out, 0xff, count * sizeof *q);
        moved.a.last = moved.a.first - 1;
        k->attend(&moved.a);
        for (size_t i = 0; i < count; i++)
            gm_check_true(c, isnan(moved.a.out[i]), "an empty range wrote an output");
        gm_check_end(c);
    }
}
