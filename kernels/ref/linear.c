/* linear.c - reference matrix product: weights decoded exactly, products and sums in double.
 *
 * Owns:      prepare (activations widened to double once), linear, embed.
 * Does not:  cut work over threads (the caller does by [out_begin, out_end)) or quantise
 *            activations.
 * Order:     ref.h's sixteen lanes over the column index, whatever `rows` is; a weight row is
 *            decoded in pieces of BLOCK columns that all activation rows of a tile use.
 */
#include "kernels/ref/ref.h"

enum {
    BLOCK = 512, /* columns decoded at a time; a multiple of every type's block */
    TILE = 32,   /* activation rows that share one decoding */
};

/* Columns rounded up to whole lanes; the padding is zero on both sides of the product. */
static size_t padded(size_t cols)
{
    return (cols + GM_REF_LANES - 1) / GM_REF_LANES * GM_REF_LANES;
}

size_t gm_ref_act_bytes(int32_t cols)
{
    size_t bytes = padded(cols > 0 ? (size_t)cols : 0) * sizeof(double);
    return (bytes + 63) / 64 * 64;
}

void gm_ref_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                    bool floats)
{
    (void)floats; /* this set reads nothing else */
    size_t stride = gm_ref_act_bytes(cols);
    for (int32_t r = 0; r < rows; r++) {
        double *out = (double *)((uint8_t *)act + (size_t)r * stride);
        const float *in = x + (size_t)r * x_stride;
        for (int32_t i = 0; i < cols; i++)
            out[i] = (double)in[i];
        for (size_t i = (size_t)cols; i < padded((size_t)cols); i++)
            out[i] = 0.0;
    }
}

/* Decodes columns [at, at + n) of the weight row into doubles, zero up to whole lanes. */
static void decode(double *out, const struct gm_mat *w, const uint8_t *row, size_t at, size_t n)
{
    float part[BLOCK];
    gm_dequant_row(part, row + gm_type_row_bytes(w->type, at), w->type, n);
    for (size_t i = 0; i < n; i++)
        out[i] = (double)part[i];
    for (size_t i = n; i < padded(n); i++)
        out[i] = 0.0;
}

/* One output for up to TILE activation rows that lie `stride` bytes apart. */
static void linear_tile(float *y, size_t y_stride, const struct gm_mat *w, const uint8_t *act,
                        int32_t rows, int32_t output)
{
    struct gm_ref_sum sums[TILE];
    double piece[BLOCK];
    const uint8_t *row = (const uint8_t *)w->data + (size_t)output * w->row_bytes;
    const size_t cols = (size_t)w->cols;
    const size_t stride = gm_ref_act_bytes(w->cols);
    memset(sums, 0, (size_t)rows * sizeof sums[0]);
    for (size_t at = 0; at < cols; at += BLOCK) {
        size_t n = cols - at < BLOCK ? cols - at : BLOCK;
        decode(piece, w, row, at, n);
        for (int32_t r = 0; r < rows; r++) {
            const double *x = (const double *)(act + (size_t)r * stride);
            gm_ref_dot(&sums[r], piece, x + at, padded(n));
        }
    }
    for (int32_t r = 0; r < rows; r++)
        y[(size_t)r * y_stride] = (float)gm_ref_total(&sums[r]);
}

void gm_ref_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act, int32_t rows,
                   int32_t out_begin, int32_t out_end)
{
    const size_t stride = gm_ref_act_bytes(w->cols);
    for (int32_t first = 0; first < rows; first += TILE) {
        int32_t count = rows - first < TILE ? rows - first : TILE;
        const uint8_t *tile = (const uint8_t *)act + (size_t)first * stride;
        float *out = y + (size_t)first * y_stride;
        for (int32_t o = out_begin; o < out_end; o++)
            linear_tile(out + o, y_stride, w, tile, count, o);
    }
}

void gm_ref_embed(float *y, const struct gm_mat *table, int32_t id, float scale)
{
    const uint8_t *row = (const uint8_t *)table->data + (size_t)id * table->row_bytes;
    gm_dequant_row(y, row, table->type, (size_t)table->cols);
    for (int32_t i = 0; i < table->cols; i++)
        y[i] *= scale;
}
