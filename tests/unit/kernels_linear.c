/* kernels_linear.c - prepare, linear and embed of a kernel set against gm_ref.
 *
 * Owns:      random weights of every type, the error bounds, the checks of P2 (same bits for any
 *            batch, cut, alignment).
 * Does not:  time anything (kernels_bench.c).
 */
#include "tests/unit/kernels_check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const enum gm_type gm_check_types[GM_CHECK_TYPES] = {
    GM_TYPE_F32,  GM_TYPE_F16,  GM_TYPE_BF16, GM_TYPE_Q8_0, GM_TYPE_Q4_0, GM_TYPE_Q4_1,
    GM_TYPE_Q5_0, GM_TYPE_Q5_1, GM_TYPE_Q4_K, GM_TYPE_Q5_K, GM_TYPE_Q6_K,
};

/* Where a block's f16 numbers stand; -1: none. Types not listed are plain floats. */
struct halves {
    int scale, min;
};
static const struct halves half_at[GM_TYPE_MAX] = {
    [GM_TYPE_F32] = { -1, -1 },
    [GM_TYPE_F16] = { -1, -1 },
    [GM_TYPE_BF16] = { -1, -1 },
    [GM_TYPE_Q8_0] = { offsetof(struct gm_q8_0, d), -1 },
    [GM_TYPE_Q4_0] = { offsetof(struct gm_q4_0, d), -1 },
    [GM_TYPE_Q4_1] = { offsetof(struct gm_q4_1, d), offsetof(struct gm_q4_1, m) },
    [GM_TYPE_Q5_0] = { offsetof(struct gm_q5_0, d), -1 },
    [GM_TYPE_Q5_1] = { offsetof(struct gm_q5_1, d), offsetof(struct gm_q5_1, m) },
    [GM_TYPE_Q4_K] = { offsetof(struct gm_q4_k, d), offsetof(struct gm_q4_k, dmin) },
    [GM_TYPE_Q5_K] = { offsetof(struct gm_q5_k, d), offsetof(struct gm_q5_k, dmin) },
    [GM_TYPE_Q6_K] = { offsetof(struct gm_q6_k, d), -1 },
};

static void put_half(uint8_t *p, uint16_t h)
{
    memcpy(p, &h, sizeof h);
}

static uint16_t random_scale(struct gm_check *c)
{
    uint32_t kind = gm_check_below(c, 30);
    if (kind == 0)
        return 0;
    if (kind == 1)
        return (uint16_t)gm_check_below(c, 0x400); /* subnormal */
    return gm_f32_to_f16((float)(gm_check_normal(c) * 0.01));
}

static void random_row(struct gm_check *c, uint8_t *row, enum gm_type type, int32_t cols)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    if (half_at[type].scale < 0) {
        for (int32_t i = 0; i < cols; i++) {
            float x;
            gm_check_fill(c, &x, 1, 100.0f);
            uint16_t h = type == GM_TYPE_F16 ? gm_f32_to_f16(x) : gm_f32_to_bf16(x);
            const void *from = type == GM_TYPE_F32 ? (const void *)&x : (const void *)&h;
            memcpy(row + (size_t)i * info->block_bytes, from, info->block_bytes);
        }
        return;
    }
    const size_t bytes = gm_type_row_bytes(type, (size_t)cols);
    for (size_t i = 0; i < bytes; i++)
        row[i] = (uint8_t)gm_check_u64(c);
    for (size_t i = 0; i < bytes; i += info->block_bytes) {
        put_half(row + i + half_at[type].scale, random_scale(c));
        if (half_at[type].min >= 0)
            put_half(row + i + half_at[type].min, random_scale(c));
    }
}

struct gm_mat gm_check_mat(struct gm_check *c, enum gm_type type, int32_t rows, int32_t cols,
                           size_t slack)
{
    struct gm_mat m = {
        .type = type, .rows = rows, .cols = cols, .row_bytes = gm_type_row_bytes(type, (size_t)cols)
    };
    uint8_t *data = gm_check_bytes(c, (size_t)rows * m.row_bytes, slack);
    for (int32_t r = 0; r < rows; r++)
        random_row(c, data + (size_t)r * m.row_bytes, type, cols);
    m.data = data;
    return m;
}

/* What one weight is made of, at most: |scale code| + |min|, which is the larger of the two
 * decodings with the minimum's sign as it is and flipped. Equal to |w| for types without one. */
static void weight_size(struct gm_check *c, float *size, const struct gm_mat *m, int32_t output)
{
    const size_t cols = (size_t)m->cols;
    const uint8_t *row = (const uint8_t *)m->data + (size_t)output * m->row_bytes;
    gm_dequant_row(size, row, m->type, cols);
    for (size_t i = 0; i < cols; i++)
        size[i] = fabsf(size[i]);
    const int min = half_at[m->type].min;
    if (min < 0)
        return;
    uint8_t *copy = malloc(m->row_bytes);
    float *flipped = malloc(cols * sizeof *flipped);
    if (!gm_check_true(c, copy && flipped, "no memory"))
        goto out;
    memcpy(copy, row, m->row_bytes);
    for (size_t i = 0; i < m->row_bytes; i += gm_type_info((uint32_t)m->type)->block_bytes)
        copy[i + (size_t)min + 1] ^= 0x80;
    gm_dequant_row(flipped, copy, m->type, cols);
    for (size_t i = 0; i < cols; i++)
        size[i] = fmaxf(size[i], fabsf(flipped[i]));
out:
    free(copy);
    free(flipped);
}

enum input { INPUT_NORMAL, INPUT_HOSTILE, INPUT_EXACT };

/* How far a fast set may be from ref at one output.
 *
 * Rounding of float sums: each of about cols/16 + 32 additions in a lane is off by 2^-24 of the
 * partial sum; errors of random sign grow with the square root: 2^-23 (8 + sqrt(cols)) sum |w||x|.
 *
 * Int8 activations (block types only): in a block of 32 with step s = amax/127 each x is off by at
 * most s/2, so the output by at most sum |w| s/2: this bound is certain and used for hostile input,
 * where errors may all have one sign. For normal input the errors are independent and uniform in
 * +-s/2 with variance s^2/12: six and a half standard deviations, which is far sharper. For exact
 * input (multiples of the step) this part is zero. */
static double linear_bound(const struct gm_mat *m, const float *size, const float *x,
                           enum input input)
{
    double sum = 0.0, certain = 0.0, variance = 0.0;
    for (int32_t b = 0; b < m->cols; b += GM_QK) {
        double amax = 0.0, w1 = 0.0, w2 = 0.0;
        for (int32_t i = b; i < b + GM_QK && i < m->cols; i++) {
            const double w = (double)size[i], a = fabs((double)x[i]);
            amax = fmax(amax, a);
            w1 += w;
            w2 += w * w;
            sum += w * a;
        }
        certain += w1 * amax / 254.0;
        variance += w2 * amax * amax / (127.0 * 127.0 * 12.0);
    }
    double bound = 0x1p-23 * (8.0 + sqrt((double)m->cols)) * sum + 1e-35;
    if (half_at[m->type].scale >= 0 && input == INPUT_HOSTILE)
        bound += certain * 1.001;
    if (half_at[m->type].scale >= 0 && input == INPUT_NORMAL)
        bound += 6.5 * sqrt(variance);
    return bound;
}

/* Activations of one row. Exact: integers up to 127 times a power of two per block, with +-127
 * among them, so that amax/127 and every quotient are exact. */
static void fill_input(struct gm_check *c, float *x, int32_t cols, enum input input)
{
    if (input == INPUT_NORMAL) {
        gm_check_fill_normal(c, x, (size_t)cols, 3.0f);
        return;
    }
    if (input == INPUT_HOSTILE) {
        gm_check_fill(c, x, (size_t)cols, 1e6f);
        return;
    }
    for (int32_t b = 0; b < cols; b += GM_QK) {
        const float step = ldexpf(1.0f, (int)gm_check_below(c, 12) - 8);
        const uint32_t top = gm_check_below(c, GM_QK);
        for (int32_t i = b; i < b + GM_QK && i < cols; i++) {
            int q = (int)gm_check_below(c, 255) - 127;
            if (i - b == (int32_t)top)
                q = q < 0 ? -127 : 127;
            x[i] = step * (float)q;
        }
    }
}

static float *run_linear(struct gm_check *c, const struct gm_kernels *k, const struct gm_mat *m,
                         const float *x, int32_t rows)
{
    const size_t act_bytes = k->act_bytes(m->cols);
    gm_check_true(c, act_bytes % 64 == 0, "act_bytes is no multiple of 64");
    void *act = gm_check_bytes(c, (size_t)rows * act_bytes, 0);
    float *y = gm_check_floats(c, (size_t)rows * (size_t)m->rows);
    k->prepare(act, x, (size_t)m->cols, rows, m->cols, true);
    k->linear(y, (size_t)m->rows, m, act, rows, 0, m->rows);
    return y;
}

static void compare_linear(struct gm_check *c, const struct gm_kernels *k, const struct gm_mat *m,
                           int32_t rows, enum input input)
{
    const size_t cols = (size_t)m->cols, outs = (size_t)m->rows;
    float *x = gm_check_floats(c, (size_t)rows * cols);
    float *size = gm_check_floats(c, cols);
    double *bounds = gm_check_bytes(c, (size_t)rows * outs * sizeof *bounds, 0);
    for (int32_t r = 0; r < rows; r++)
        fill_input(c, x + (size_t)r * cols, m->cols, input);
    for (size_t o = 0; o < outs; o++) {
        weight_size(c, size, m, (int32_t)o);
        for (size_t r = 0; r < (size_t)rows; r++)
            bounds[r * outs + o] = linear_bound(m, size, x + r * cols, input);
    }
    const float *want = run_linear(c, &gm_ref, m, x, rows);
    const float *got = run_linear(c, k, m, x, rows);
    gm_check_within(c, want, got, (size_t)rows * outs, bounds);
}

/* Columns and outputs: the odd ones and those of the models (640, 1152, 2048 ...). */
static const struct shape {
    int32_t cols, outs, rows;
} shapes[] = {
    { 1, 3, 2 },      { 7, 5, 3 },     { 32, 1, 1 },     { 32, 37, 5 },    { 96, 16, 4 },
    { 256, 33, 9 },   { 512, 8, 17 },  { 640, 256, 3 },  { 640, 67, 33 },  { 768, 64, 2 },
    { 1024, 640, 1 }, { 1024, 31, 6 }, { 1152, 257, 2 }, { 2048, 640, 1 }, { 2048, 41, 8 },
    { 2560, 24, 3 },  { 6912, 10, 2 },
};

static void sweep(struct gm_check *c, const struct gm_kernels *k, enum input input)
{
    static const char *const names[] = { "normal", "hostile", "exact" };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        const struct gm_type_info *info = gm_type_info((uint32_t)gm_check_types[t]);
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            const struct shape *p = &shapes[s];
            if (p->cols % (int32_t)info->block_elems != 0)
                continue;
            if (!gm_check_begin(c, "linear %s %s %dx%d rows %d", names[input], info->name, p->outs,
                                p->cols, p->rows))
                continue;
            struct gm_mat m = gm_check_mat(c, gm_check_types[t], p->outs, p->cols, 0);
            compare_linear(c, k, &m, p->rows, input);
            gm_check_end(c);
        }
    }
}

void gm_check_linear(struct gm_check *c, const struct gm_kernels *k)
{
    sweep(c, k, INPUT_NORMAL);
    sweep(c, k, INPUT_HOSTILE);
}

/* Codes, scales, minimums and nibble order are wrong here by far more than the bound. */
void gm_check_linear_exact(struct gm_check *c, const struct gm_kernels *k)
{
    sweep(c, k, INPUT_EXACT);
}

/* P2: the same bits for each row alone, for any cut of the outputs, with other strides and other
 * alignments; and nothing outside [out_begin, out_end) is written. */
static void check_cuts(struct gm_check *c, const struct gm_kernels *k, enum gm_type type,
                       int32_t cols, int32_t outs)
{
    enum { ROWS = 11 };
    const size_t act_bytes = k->act_bytes(cols), n = (size_t)outs, stride = n + 5;
    struct gm_mat m = gm_check_mat(c, type, outs, cols, 0);
    float *x = gm_check_floats(c, (size_t)ROWS * (size_t)cols);
    gm_check_fill(c, x, (size_t)ROWS * (size_t)cols, 1e6f);
    const float *all = run_linear(c, k, &m, x, ROWS);

    struct gm_mat moved = m; /* the same weights at another alignment */
    uint8_t *copy = gm_check_bytes(c, n * m.row_bytes, type == GM_TYPE_F32 ? 4 : 2);
    memcpy(copy, m.data, n * m.row_bytes);
    moved.data = copy;
    float *one = gm_check_bytes(c, (size_t)cols * sizeof *one, 12);
    void *act = gm_check_bytes(c, act_bytes, 64);
    float *y = gm_check_bytes(c, n * sizeof *y, 4);
    for (size_t r = 0; r < ROWS; r++) {
        memcpy(one, x + r * (size_t)cols, (size_t)cols * sizeof *one);
        k->prepare(act, one, (size_t)cols, 1, cols, true);
        k->linear(y, n, &moved, act, 1, 0, outs);
        gm_check_same(c, all + r * n, y, n * sizeof *y, "row in a batch, row alone");
    }

    float *wide = gm_check_floats(c, (size_t)ROWS * ((size_t)cols + 3)); /* x_stride > cols */
    for (size_t r = 0; r < ROWS; r++)
        memcpy(wide + r * ((size_t)cols + 3), x + r * (size_t)cols, (size_t)cols * sizeof *x);
    void *acts = gm_check_bytes(c, ROWS * act_bytes, 128);
    k->prepare(acts, wide, (size_t)cols + 3, ROWS, cols, true);
    float *cut = gm_check_floats(c, ROWS * stride);
    uint8_t gap[5 * sizeof(float)];
    memset(gap, 0xff, sizeof gap);
    for (int32_t begin = 0, end; begin < outs; begin = end) {
        end = begin + 1 + (int32_t)gm_check_below(c, 13);
        end = end > outs ? outs : end;
        k->linear(cut, stride, &m, acts, ROWS, begin, end);
        if (end < outs)
            gm_check_same(c, cut + end, gap, sizeof(float), "output behind the cut was written");
    }
    for (size_t r = 0; r < ROWS; r++) {
        gm_check_same(c, all + r * n, cut + r * stride, n * sizeof *cut, "whole, cut in pieces");
        gm_check_same(c, cut + r * stride + n, gap, sizeof gap, "gap between rows was written");
    }
}

void gm_check_linear_cuts(struct gm_check *c, const struct gm_kernels *k)
{
    static const int32_t cols[] = { 5, 32, 256, 640, 1280, 2048 };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        const struct gm_type_info *info = gm_type_info((uint32_t)gm_check_types[t]);
        for (size_t i = 0; i < sizeof cols / sizeof cols[0]; i++) {
            if (cols[i] % (int32_t)info->block_elems != 0)
                continue;
            if (!gm_check_begin(c, "linear cuts %s cols %d", info->name, cols[i]))
                continue;
            check_cuts(c, k, gm_check_types[t], cols[i], 53);
            gm_check_end(c);
        }
    }
}

/* A NaN or an infinity in one row reaches every output of that row and no other row; zero rows and
 * empty ranges write nothing; a zero row gives zeros. */
void gm_check_linear_special(struct gm_check *c, const struct gm_kernels *k)
{
    enum { COLS = 512, OUTS = 19, ROWS = 4 };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        if (!gm_check_begin(c, "linear special %s", gm_type_info(gm_check_types[t])->name))
            continue;
        struct gm_mat m = gm_check_mat(c, gm_check_types[t], OUTS, COLS, 0);
        float *x = gm_check_floats(c, ROWS * COLS);
        memset(x, 0, ROWS * COLS * sizeof *x);
        gm_check_fill_normal(c, x, 2 * COLS, 1.0f);
        const float *clean = run_linear(c, k, &m, x, ROWS);
        x[COLS + 77] = NAN;
        x[3 * COLS + 500] = INFINITY;
        const float *y = run_linear(c, k, &m, x, ROWS);
        gm_check_same(c, clean, y, OUTS * sizeof *y, "a NaN beside the row");
        for (int o = 0; o < OUTS; o++) {
            gm_check_true(c, isnan(y[OUTS + o]), "a NaN input did not reach an output");
            gm_check_true(c, y[2 * OUTS + o] == 0.0f, "zeros gave something");
            gm_check_true(c, !isfinite(y[3 * OUTS + o]), "an infinity did not reach an output");
        }
        float *none = gm_check_floats(c, OUTS);
        void *act = gm_check_bytes(c, k->act_bytes(COLS), 0);
        k->prepare(act, x, COLS, 0, COLS, true);
        k->linear(none, OUTS, &m, act, 0, 0, OUTS);
        k->prepare(act, x, COLS, 1, COLS, true);
        k->linear(none, OUTS, &m, act, 1, 7, 7);
        for (int o = 0; o < OUTS; o++)
            gm_check_true(c, isnan(none[o]), "an empty call wrote an output");
        gm_check_end(c);
    }
}

void gm_check_embed(struct gm_check *c, const struct gm_kernels *k)
{
    enum { IDS = 5 };
    static const int32_t all[] = { 1, 13, 32, 256, 640, 1152, 2048 };
    for (size_t t = 0; t < GM_CHECK_TYPES; t++) {
        const struct gm_type_info *info = gm_type_info((uint32_t)gm_check_types[t]);
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            const int32_t cols = all[i];
            if (cols % (int32_t)info->block_elems != 0 ||
                !gm_check_begin(c, "embed %s %d", info->name, cols))
                continue;
            struct gm_mat m = gm_check_mat(c, gm_check_types[t], IDS, cols, 2 * (t > 0));
            float *want = gm_check_floats(c, (size_t)cols), *got = gm_check_floats(c, (size_t)cols);
            float *size = gm_check_floats(c, (size_t)cols);
            double *bounds = gm_check_bytes(c, (size_t)cols * sizeof *bounds, 0);
            const float scale = sqrtf((float)cols);
            for (int32_t id = 0; id < IDS; id++) {
                gm_ref.embed(want, &m, id, scale);
                k->embed(got, &m, id, scale);
                weight_size(c, size, &m, id);
                for (int32_t j = 0; j < cols; j++)
                    bounds[j] = 0x1p-22 * (double)scale * (double)size[j] + 1e-38;
                gm_check_within(c, want, got, (size_t)cols, bounds);
            }
            gm_check_end(c);
        }
    }
}
