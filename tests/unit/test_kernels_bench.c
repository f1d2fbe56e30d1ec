// uses: services/cli/kernels_bench.c services/cli/kernels_peak.c services/cli/kernels_linear.c
// uses: services/cli/kernels_attend.c services/cli/kernels_point.c
/* test_kernels_bench.c - the kernel bench: what its lines say of right and of wrong kernels.
 *
 * Owns:      a wrong version of every entry that the bench times, the checks of the limits' loops.
 * Does not:  read a figure: only their signs. Sizes are the small ones.
 */
#include "services/cli/kernels_bench.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "services/cli/kernels_peak.h"

enum { THREADS = 2, LINES_STOP = 3 };

struct seen {
    const char *prefix; /* of the lines that should differ; NULL: of none */
    unsigned lines, differ, differ_other, bad, with_threads;
    unsigned stop_after; /* 0: never */
};

static bool look(void *ctx, const struct gm_kbench_line *l)
{
    struct seen *s = ctx;
    const bool meant = s->prefix && strncmp(l->name, s->prefix, strlen(s->prefix)) == 0;
    const bool counted = l->product_unit != NULL;
    s->lines++;
    s->with_threads += l->threads == THREADS;
    s->differ += l->differs && meant;
    s->differ_other += l->differs && !meant;
    s->bad += !(l->bytes > 0 && l->seconds > 0 && isfinite(l->read_share) && l->read_share > 0);
    s->bad += counted != (l->products > 0) || counted != (l->product_share > 0);
    return s->stop_after == 0 || s->lines < s->stop_after;
}

static enum gm_status bench(const struct gm_kernels *k, const char *only, struct seen *s)
{
    struct gm_kbench_options o = {
        .k = k, .threads = THREADS, .only = only, .sizes = gm_kbench_sizes_small
    };
    return gm_kbench_run(&o, look, s, NULL);
}

static void test_right(void)
{
    for (const char *const *name = gm_kernels_available(); *name; name++) {
        struct seen s = { 0 };
        CU_ASSERT_EQUAL(bench(gm_kernels_select(*name, NULL), NULL, &s), GM_OK);
        CU_ASSERT_EQUAL(s.differ_other, 0);
        CU_ASSERT_EQUAL(s.bad, 0);
        CU_ASSERT_TRUE(s.lines > 100 && s.lines <= GM_KBENCH_LINES_MAX);
        CU_ASSERT_TRUE(s.with_threads > 40 && s.with_threads < s.lines / 2);
    }
}

/* ---- wrong kernels: each spoils one number of what gm_ref gives --------------------------------
 */

static void wrong_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                         int32_t rows, int32_t begin, int32_t end)
{
    gm_ref.linear(y, y_stride, w, act, rows, begin, end);
    if (rows > 0 && begin < end && end == w->rows)
        y[end - 1] *= 1.01f;
}
static void wrong_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                          bool floats)
{
    gm_ref.prepare(act, x, x_stride, rows, cols, floats);
    memset(act, 0, 8 * sizeof(float));
}
static void wrong_embed(float *y, const struct gm_mat *table, int32_t id, float scale)
{
    gm_ref.embed(y, table, id, scale * 1.001f);
}
static void wrong_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                       float eps)
{
    gm_ref.rms_norm(y, x, w, rows, dim, eps);
    y[dim - 1] += 0.01f;
}
static void wrong_norm_add(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                           float eps)
{
    gm_ref.rms_norm_add(h, x, w, rows, dim, eps);
    h[dim - 1] += 0.01f;
}
static void wrong_angles(float *cs, int32_t pos, const float *inv_freq, int32_t half)
{
    gm_ref.rope_angles(cs, pos + 1, inv_freq, half);
}
static void wrong_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale)
{
    gm_ref.rope(x, cs, heads - 1, head_dim, scale);
}
static void wrong_store(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v)
{
    gm_ref.kv_store(kv, pos, k, k);
    (void)v;
}
static void wrong_attend(const struct gm_attend *a, int32_t kv_head)
{
    struct gm_attend less = *a;
    less.pos -= less.rows == 1;
    less.rows -= less.rows > 1;
    gm_ref.attend(&less, kv_head);
}
static void wrong_join(const struct gm_attend *a, int32_t kv_head, int32_t row, const float *parts)
{
    gm_ref.attend_join(a, kv_head, row, parts);
    a->out[(size_t)row * (size_t)(a->heads * a->kv.head_dim)] += 0.01f;
}
static void wrong_gelu(float *y, const float *gate, const float *up, size_t n)
{
    gm_ref.gelu_mul(y, up, gate, n);
}
static void wrong_axpy(float *y, const float *x, float scale, size_t n)
{
    gm_ref.axpy(y, x, scale, n - 1);
}
static void wrong_softcap(float *x, float cap, size_t n)
{
    gm_ref.softcap(x, cap, n - 1);
}
static double wrong_logsumexp(const float *x, size_t n, float inv_t)
{
    return gm_ref.logsumexp(x, n, inv_t * 1.001f);
}
static int32_t wrong_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k)
{
    const int32_t got = gm_ref.top_k(ids, values, x, n, k);
    ids[0]++;
    return got;
}
static int wrong_finite(const float *x, size_t n)
{
    return !gm_ref.all_finite(x, n);
}

static void wrong(const char *prefix, const struct gm_kernels *k, unsigned least)
{
    struct seen s = { .prefix = prefix };
    CU_ASSERT_EQUAL(bench(k, prefix, &s), GM_OK);
    CU_ASSERT_TRUE(s.lines >= least && s.lines <= GM_KBENCH_LINES_MAX);
    CU_ASSERT_TRUE(s.differ >= least);
    CU_ASSERT_EQUAL(s.differ_other, 0);
    if (s.differ < least)
        printf("%s: %u of %u lines differ, at least %u should\n", prefix, s.differ, s.lines, least);
}

static void test_wrong(void)
{
    struct gm_kernels k;
    const struct {
        const char *prefix;
        unsigned least;
    } rows[] = {
        { "linear", 66 },      { "prepare", 1 },     { "embed", 11 },   { "rms_norm", 1 },
        { "rms_norm_add", 1 }, { "rope_angles", 1 }, { "rope", 1 },     { "kv_store", 4 },
        { "attend", 20 },      { "attend", 12 },     { "gelu_mul", 1 }, { "axpy", 1 },
        { "softcap", 1 },      { "logsumexp", 1 },   { "top_k", 1 },    { "all_finite", 1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        k = gm_ref;
        k.linear = i == 0 ? wrong_linear : k.linear;
        k.prepare = i == 1 ? wrong_prepare : k.prepare;
        k.embed = i == 2 ? wrong_embed : k.embed;
        k.rms_norm = i == 3 ? wrong_norm : k.rms_norm;
        k.rms_norm_add = i == 4 ? wrong_norm_add : k.rms_norm_add;
        k.rope_angles = i == 5 ? wrong_angles : k.rope_angles;
        k.rope = i == 6 ? wrong_rope : k.rope;
        k.kv_store = i == 7 ? wrong_store : k.kv_store;
        k.attend = i == 8 ? wrong_attend : k.attend;
        k.attend_join = i == 9 ? wrong_join : k.attend_join;
        k.gelu_mul = i == 10 ? wrong_gelu : k.gelu_mul;
        k.axpy = i == 11 ? wrong_axpy : k.axpy;
        k.softcap = i == 12 ? wrong_softcap : k.softcap;
        k.logsumexp = i == 13 ? wrong_logsumexp : k.logsumexp;
        k.top_k = i == 14 ? wrong_top_k : k.top_k;
        k.all_finite = i == 15 ? wrong_finite : k.all_finite;
        wrong(rows[i].prefix, &k, rows[i].least);
    }
}

static void test_options(void)
{
    struct gm_kbench_options o = { .k = &gm_ref, .sizes = gm_kbench_sizes_small };
    struct gm_err err = GM_ERR_NONE;
    struct seen s = { .stop_after = LINES_STOP }, none = { 0 };
    CU_ASSERT_EQUAL(bench(&gm_ref, NULL, &s), GM_CANCELLED);
    CU_ASSERT_EQUAL(s.lines, LINES_STOP);
    CU_ASSERT_EQUAL(bench(&gm_ref, "no such case", &none), GM_OK);
    CU_ASSERT_EQUAL(gm_kbench_run(&o, look, &none, &err), GM_INVALID); /* no threads */
    o.threads = 1;
    o.sizes.cols = 100;
    CU_ASSERT_EQUAL(gm_kbench_run(&o, look, &none, &err), GM_INVALID);
    CU_ASSERT_EQUAL(none.lines, 0);
    CU_ASSERT_TRUE(err.text[0] != '\0');
}

/* All of it is read once, in every size that has a loop of its own. */
static void test_read(void)
{
    static const size_t steps[] = { 0, 1, 3, 511, 512, 513, 1200 };
    const size_t most = 1200 * GM_PEAK_STEP;
    uint64_t *data = aligned_alloc(64, most);
    CU_ASSERT_PTR_NOT_NULL_FATAL(data);
    for (size_t i = 0; i < most / sizeof *data; i++)
        data[i] = i * UINT64_C(0x9e3779b97f4a7c15);
    for (const char *const *name = gm_kernels_available(); *name; name++) {
        const struct gm_kernels *k = gm_kernels_select(*name, NULL);
        for (size_t n = 0; n < sizeof steps / sizeof steps[0]; n++) {
            const size_t bytes = steps[n] * GM_PEAK_STEP;
            uint64_t sum = 0;
            for (size_t i = 0; i < bytes / sizeof *data; i++)
                sum += data[i];
            CU_ASSERT_EQUAL(k->peak_read(data, bytes), sum);
        }
        for (int kind = GM_PEAK_INT8; kind <= GM_PEAK_FLOAT; kind++) {
            CU_ASSERT_TRUE(k->peak_products((enum gm_peak)kind, 1) >= 1);
            CU_ASSERT_TRUE(k->peak_products((enum gm_peak)kind, 100001) >= 100001);
            CU_ASSERT_TRUE(k->peak_products((enum gm_peak)kind, 100001) < 110000);
        }
    }
    free(data);
}

static void test_passes(void)
{
    double rates[2] = { 0, 0 };
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_peaks_read_passes(THREADS, 4 << 20, 2, rates, &err), GM_OK);
    CU_ASSERT_TRUE(rates[0] > 0 && rates[1] > 0);
    CU_ASSERT_EQUAL(gm_peaks_read_passes(1, 1000, 2, rates, &err), GM_INVALID);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return EXIT_FAILURE;
    CU_pSuite s = CU_add_suite("kernels_bench", NULL, NULL);
    CU_add_test(s, "lines of every set of this machine", test_right);
    CU_add_test(s, "a wrong kernel is told", test_wrong);
    CU_add_test(s, "options", test_options);
    CU_add_test(s, "the limits' loops", test_read);
    CU_add_test(s, "passes over a buffer", test_passes);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
