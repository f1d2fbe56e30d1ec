/* kernels_point.c - norms, RoPE, GELU, axpy, caps, log-sum-exp, top-K and the finite check of a
 * kernel set against gm_ref.
 *
 * Owns:      their shapes and tolerances, and the checks that a value's result depends neither on
 *            its place in the vector (body or tail of a loop) nor on alignment or aliasing.
 * Does not:  prove ref itself (test_ref.c).
 */
#include "tests/unit/kernels_check.h"

#include <math.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const size_t lengths[] = { 0, 1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 640, 1000, 2048, 6912 };

/* Values up to 1e6: the squares of the larger ones of a hostile fill must fit a float sum. Eight
 * ULP: a float sum in lanes, a square root, a division and two products. */
static void check_norm(struct gm_check *c, const struct gm_kernels *k, int32_t dim)
{
    enum { ROWS = 3 };
    const size_t n = (size_t)dim, count = ROWS * n, bytes = count * sizeof(float);
    float *x = gm_check_floats(c, count), *w = gm_check_floats(c, n),
          *h = gm_check_floats(c, count);
    float *want = gm_check_floats(c, count), *got = gm_check_floats(c, count);
    float *moved = gm_check_bytes(c, bytes, 4);
    double *bounds = gm_check_bytes(c, count * sizeof *bounds, 0);
    gm_check_fill(c, x, count, 1e6f);
    gm_check_fill(c, w, n, 50.0f);
    gm_check_fill(c, h, count, 1e6f);
    gm_ref.rms_norm(want, x, w, ROWS, dim, 1e-6f);
    k->rms_norm(got, x, w, ROWS, dim, 1e-6f);
    gm_check_near(c, want, got, count, 8 * 0x1p-23, 1e-37);
    memcpy(moved, x, bytes);
    for (size_t r = 0; r < ROWS; r++) /* in place, elsewhere, one row at a time */
        k->rms_norm(moved + r * n, moved + r * n, w, 1, dim, 1e-6f);
    gm_check_same(c, got, moved, bytes, "rms_norm of a batch, of single rows in place");

    for (size_t i = 0; i < count; i++)
        bounds[i] = 0x1p-23 * (8 * fabs((double)want[i]) + fabs((double)h[i])) + 1e-37;
    memcpy(want, h, bytes);
    memcpy(got, h, bytes);
    memcpy(moved, h, bytes);
    gm_ref.rms_norm_add(want, x, w, ROWS, dim, 1e-6f);
    k->rms_norm_add(got, x, w, ROWS, dim, 1e-6f);
    gm_check_within(c, want, got, count, bounds);
    for (size_t r = 0; r < ROWS; r++)
        k->rms_norm_add(moved + r * n, x + r * n, w, 1, dim, 1e-6f);
    gm_check_same(c, got, moved, bytes, "rms_norm_add of a batch, of single rows");

    memcpy(got, moved, bytes);
    k->rms_norm_add(got, x, w, 0, dim, 1e-6f);
    k->rms_norm(got, x, w, 0, dim, 1e-6f);
    gm_check_same(c, got, moved, bytes, "before and after a call with zero rows");
    x[n + n / 2] = NAN;
    k->rms_norm(got, x, w, ROWS, dim, 1e-6f);
    for (size_t i = 0; i < count; i++)
        gm_check_true(c, !isnan(got[i]) == (i / n != 1), "a NaN belongs to its whole row alone");
}

void gm_check_norms(struct gm_check *c, const struct gm_kernels *k)
{
    static const int32_t dims[] = { 1, 7, 16, 33, 64, 100, 256, 640, 1152, 2560, 5376 };
    for (size_t d = 0; d < COUNT(dims); d++) {
        if (gm_check_begin(c, "rms_norm %d", dims[d])) {
            check_norm(c, k, dims[d]);
            gm_check_end(c);
        }
    }
}

static void check_angles(struct gm_check *c, const struct gm_kernels *k, int32_t half, double theta)
{
    static const int32_t positions[] = { 0, 1, 2, 77, 511, 4095, 32767, 65535, 131071 };
    float *freq = gm_check_floats(c, (size_t)half);
    float *want = gm_check_floats(c, 2 * (size_t)half), *got = gm_check_floats(c, 2 * (size_t)half);
    for (int32_t i = 0; i < half; i++)
        freq[i] = (float)pow(theta, -(double)i / half);
    for (size_t p = 0; p < COUNT(positions); p++) {
        gm_ref.rope_angles(want, positions[p], freq, half);
        k->rope_angles(got, positions[p], freq, half);
        gm_check_near(c, want, got, 2 * (size_t)half, 0x1p-23, 0x1p-26);
    }
}

static void check_turn(struct gm_check *c, const struct gm_kernels *k, int32_t heads, int32_t dim)
{
    const size_t n = (size_t)dim, count = (size_t)heads * n, half = n / 2;
    const float scale = 0.0625f;
    float *x = gm_check_floats(c, count), *cs = gm_check_floats(c, n);
    float *want = gm_check_floats(c, count), *got = gm_check_floats(c, count);
    float *one = gm_check_bytes(c, n * sizeof *one, 4);
    double *bounds = gm_check_bytes(c, count * sizeof *bounds, 0);
    gm_check_fill(c, x, count, 1e6f);
    for (size_t i = 0; i < half; i++) {
        double angle = gm_check_unit(c) * 6.28;
        cs[2 * i] = (float)cos(angle);
        cs[2 * i + 1] = (float)sin(angle);
    }
    for (size_t i = 0; i < count; i++) {
        size_t pair = i % n < half ? i + half : i - half;
        bounds[i] = 0x1p-22 * scale * (fabs((double)x[i]) + fabs((double)x[pair])) + 1e-37;
    }
    memcpy(want, x, count * sizeof *x);
    memcpy(got, x, count * sizeof *x);
    gm_ref.rope(want, cs, heads, dim, scale);
    k->rope(got, cs, heads, dim, scale);
    gm_check_within(c, want, got, count, bounds);
    for (size_t h = 0; h < (size_t)heads; h++) {
        memcpy(one, x + h * n, n * sizeof *one);
        k->rope(one, cs, 1, dim, scale);
        gm_check_same(c, got + h * n, one, n * sizeof *one, "all heads, one head");
    }
    memcpy(want, got, count * sizeof *x);
    k->rope(got, cs, 0, dim, scale);
    gm_check_same(c, want, got, count * sizeof *x, "before and after zero heads");
}

void gm_check_rope(struct gm_check *c, const struct gm_kernels *k)
{
    static const int32_t dims[] = { 2, 6, 32, 64, 96, 128, 256 };
    for (size_t d = 0; d < COUNT(dims); d++) {
        for (int32_t heads = 1; heads <= 16; heads += 5) {
            if (gm_check_begin(c, "rope heads %d dim %d", heads, dims[d])) {
                check_turn(c, k, heads, dims[d]);
                gm_check_end(c);
            }
        }
        for (double theta = 1e4; theta < 2e6; theta *= 100) {
            if (gm_check_begin(c, "rope_angles %d theta %g", dims[d] / 2, theta)) {
                check_angles(c, k, dims[d] / 2, theta);
                gm_check_end(c);
            }
        }
    }
}

/* The contract's formula in float loses, for negative z, some 2^-23 of |z up| to 1 + tanh. */
static void check_gelu(struct gm_check *c, const struct gm_kernels *k, size_t n)
{
    const size_t bytes = n * sizeof(float);
    float *gate = gm_check_floats(c, n), *up = gm_check_floats(c, n);
    float *want = gm_check_floats(c, n), *got = gm_check_floats(c, n);
    float *copy = gm_check_bytes(c, bytes, 4);
    double *bounds = gm_check_bytes(c, n * sizeof *bounds, 0);
    gm_check_fill(c, gate, n, 40.0f);
    gm_check_fill(c, up, n, 1e6f);
    if (n > 8) {
        gate[1] = 1e4f;
        gate[2] = -1e4f;
        gate[3] = 1e20f;
        gate[5] = -3.0f;
    }
    gm_ref.gelu_mul(want, gate, up, n);
    k->gelu_mul(got, gate, up, n);
    for (size_t i = 0; i < n; i++)
        bounds[i] = 0x1p-21 * fabs((double)want[i]) +
                    0x1p-22 * fmin(fabs((double)gate[i]), 12.0) * fabs((double)up[i]) + 1e-37;
    gm_check_within(c, want, got, n, bounds);
    memcpy(copy, gate, bytes);
    k->gelu_mul(copy, copy, up, n);
    gm_check_same(c, got, copy, bytes, "y apart, y in place of gate");
    memcpy(copy, up, bytes);
    k->gelu_mul(copy, gate, copy, n);
    gm_check_same(c, got, copy, bytes, "y apart, y in place of up");
    if (n > 5) {
        k->gelu_mul(copy, gate + 3, up + 3, n - 3);
        gm_check_same(c, got + 3, copy, bytes - 12, "the same elements, three places on");
        gate[5] = NAN;
        gate[4] = INFINITY;
        up[4] = 2.0f;
        k->gelu_mul(got, gate, up, n);
        gm_check_true(c, isnan(got[5]), "gelu of NaN is a number");
        gm_check_true(c, got[4] == INFINITY, "gelu of infinity is not infinite");
    }
}

void gm_check_gelu(struct gm_check *c, const struct gm_kernels *k)
{
    for (size_t i = 0; i < COUNT(lengths); i++) {
        if (gm_check_begin(c, "gelu_mul %zu", lengths[i])) {
            check_gelu(c, k, lengths[i]);
            gm_check_end(c);
        }
    }
}

void gm_check_axpy(struct gm_check *c, const struct gm_kernels *k)
{
    for (size_t i = 0; i < COUNT(lengths); i++) {
        const size_t n = lengths[i], bytes = n * sizeof(float);
        if (!gm_check_begin(c, "axpy %zu", n))
            continue;
        float *x = gm_check_floats(c, n), *y = gm_check_floats(c, n);
        float *want = gm_check_floats(c, n), *got = gm_check_floats(c, n);
        float *moved = gm_check_bytes(c, bytes, 8);
        double *bounds = gm_check_bytes(c, n * sizeof *bounds, 0);
        gm_check_fill(c, x, n, 1e30f);
        gm_check_fill(c, y, n, 1e30f);
        const float scale = (float)gm_check_normal(c);
        for (size_t j = 0; j < n; j++)
            bounds[j] = 0x1p-23 * (fabs((double)y[j]) + fabs((double)scale * (double)x[j])) + 1e-37;
        memcpy(want, y, bytes);
        memcpy(got, y, bytes);
        gm_ref.axpy(want, x, scale, n);
        k->axpy(got, x, scale, n);
        gm_check_within(c, want, got, n, bounds);
        if (n > 3) {
            memcpy(moved, y + 3, bytes - 12);
            k->axpy(moved, x + 3, scale, n - 3);
            gm_check_same(c, got + 3, moved, bytes - 12, "the same elements, three places on");
        }
        gm_check_end(c);
    }
}

void gm_check_softcap(struct gm_check *c, const struct gm_kernels *k)
{
    static const float caps[] = { 30.0f, 50.0f };
    for (size_t i = 0; i < COUNT(lengths) * COUNT(caps); i++) {
        const size_t n = lengths[i / COUNT(caps)], bytes = n * sizeof(float);
        const float cap = caps[i % COUNT(caps)];
        if (!gm_check_begin(c, "softcap %g %zu", (double)cap, n))
            continue;
        float *x = gm_check_floats(c, n), *want = gm_check_floats(c, n);
        float *got = gm_check_floats(c, n), *moved = gm_check_bytes(c, bytes, 4);
        gm_check_fill(c, x, n, 1e5f);
        for (size_t j = 0; j < n; j += 3)
            x[j] *= 30.0f;
        if (n > 7) {
            x[4] = INFINITY;
            x[5] = -INFINITY;
            x[6] = NAN;
        }
        memcpy(want, x, bytes);
        memcpy(got, x, bytes);
        gm_ref.softcap(want, cap, n);
        k->softcap(got, cap, n);
        gm_check_near(c, want, got, n, 0x1p-21, 1e-36);
        if (n > 3) {
            memcpy(moved, x + 3, bytes - 12);
            k->softcap(moved, cap, n - 3);
            gm_check_same(c, got + 3, moved, bytes - 12, "the same elements, three places on");
        }
        gm_check_end(c);
    }
}

static void check_lse(struct gm_check *c, const struct gm_kernels *k, size_t n, float inv_t)
{
    float *x = gm_check_floats(c, n), *moved = gm_check_bytes(c, n * sizeof *x, 4);
    for (int round = 0; round < 4; round++) {
        gm_check_fill_normal(c, x, n, 6.0f);
        for (size_t i = 0; round == 1 && i < n; i++)
            x[i] = i % 3 == 1 ? x[i] : -INFINITY;
        for (size_t i = 0; round == 2 && i < n; i++)
            x[i] = -INFINITY;
        if (round == 3 && n > 0)
            x[n / 3] = NAN;
        memcpy(moved, x, n * sizeof *x);
        const double a = k->logsumexp(x, n, inv_t), b = k->logsumexp(moved, n, inv_t);
        const double w = gm_ref.logsumexp(x, n, inv_t);
        const float want = (float)w, got = (float)a;
        gm_check_same(c, &a, &b, sizeof a, "two alignments");
        gm_check_near(c, &want, &got, 1, 0x1p-21, 4e-6);
    }
}

void gm_check_logsumexp(struct gm_check *c, const struct gm_kernels *k)
{
    static const size_t sizes[] = { 0, 1, 2, 7, 16, 33, 64, 1000, 4099, 262144 };
    static const float inverses[] = { 1.0f, 1.0f / 0.7f, 0.1f, 10.0f };
    for (size_t i = 0; i < COUNT(sizes) * COUNT(inverses); i++) {
        const size_t n = sizes[i / COUNT(inverses)];
        const float inv_t = inverses[i % COUNT(inverses)];
        if (gm_check_begin(c, "logsumexp %zu inv_t %g", n, (double)inv_t)) {
            check_lse(c, k, n, inv_t);
            gm_check_end(c);
        }
    }
}

/* Rows that are hard for a selection: no order, one value, steps, rising, falling, NaN. */
static void fill_top(struct gm_check *c, float *x, int32_t n, int kind)
{
    gm_check_fill(c, x, (size_t)n, 1e30f);
    for (int32_t i = 0; i < n; i++) {
        if (kind == 1)
            x[i] = 2.5f;
        if (kind == 2)
            x[i] = (float)(int)gm_check_below(c, 7) - 3.0f;
        if (kind == 3)
            x[i] = (float)i;
        if (kind == 4)
            x[i] = -(float)i;
        if (kind == 5 && i % 2)
            x[i] = i % 4 == 1 ? NAN : -NAN;
        if (kind == 6)
            x[i] = i % 5 == 0 ? INFINITY : i % 3 ? -INFINITY : -0.0f * (float)(i % 2);
        if (kind == 7)
            x[i] = NAN;
    }
}

void gm_check_top_k(struct gm_check *c, const struct gm_kernels *k)
{
    enum { KINDS = 8 };
    static const int32_t sizes[] = { 0, 1, 5, 31, 64, 65, 1000, 5000, 262144 };
    static const int32_t wanted[] = { 0, 1, 2, 40, 64, 257, GM_TOPK_MAX };
    for (size_t i = 0; i < COUNT(sizes) * KINDS * COUNT(wanted); i++) {
        const int32_t n = sizes[i / (KINDS * COUNT(wanted))], want_k = wanted[i % COUNT(wanted)];
        const int kind = (int)(i / COUNT(wanted) % KINDS);
        if (n > 5000 && kind > 3 && want_k != 64)
            continue; /* the long rows are slow to fill: a few of them say enough */
        if (!gm_check_begin(c, "top_k %d of %d kind %d", want_k, n, kind))
            continue;
        float *x = gm_check_floats(c, (size_t)n);
        const size_t room = (size_t)(want_k < n ? want_k : n);
        int32_t *ids[2];
        float *values[2];
        for (int s = 0; s < 2; s++) {
            ids[s] = gm_check_bytes(c, room * sizeof(int32_t), 0);
            values[s] = gm_check_floats(c, room);
        }
        fill_top(c, x, n, kind);
        const int32_t want = gm_ref.top_k(ids[0], values[0], x, n, want_k);
        const int32_t got = k->top_k(ids[1], values[1], x, n, want_k);
        if (gm_check_true(c, want == got, "top_k wrote another number of ids")) {
            gm_check_same(c, ids[0], ids[1], (size_t)want * sizeof(int32_t), "ids");
            gm_check_same(c, values[0], values[1], (size_t)want * sizeof(float), "values");
        }
        gm_check_end(c);
    }
}

void gm_check_finite(struct gm_check *c, const struct gm_kernels *k)
{
    for (size_t n = 0; n < 100; n += n < 40 ? 1 : 29) {
        if (!gm_check_begin(c, "all_finite %zu", n))
            continue;
        float *x = gm_check_floats(c, n);
        gm_check_fill(c, x, n, 3.4e38f);
        gm_check_true(c, k->all_finite(x, n) == 1, "finite numbers were not");
        for (size_t i = 0; i < n; i++) {
            static const float bad[] = { NAN, INFINITY, -INFINITY };
            for (size_t b = 0; b < COUNT(bad); b++) {
                const float kept = x[i];
                x[i] = bad[b];
                gm_check_true(c, k->all_finite(x, n) == 0, "a NaN or infinity went unseen");
                x[i] = kept;
            }
        }
        gm_check_end(c);
    }
}
