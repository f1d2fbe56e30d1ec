/* kernels.h - the table of kernels: the one interface between the model and the machine.
 *
 * Owns:      struct gm_kernels and the contract of every entry: shapes, layout, aliasing, order of
 *            accumulation, tolerance. kernels/ref (plain C, double sums) is the specification and
 *            fills the table first; kernels/cpu overwrites entries by instruction set.
 * Does not:  know models, files, messages or sessions.
 *
 * Rules that hold for every entry (promises P1-P3 of the design rest on them):
 *   - A row's result is a pure function of that row and the weights. It does not depend on `rows`
 *     (1 or 1,000), on where [out_begin, out_end) was cut, on the number of threads, on alignment
 *     of pointers or on what stands beside the row in the batch.
 *   - Sums run in one fixed order given by the element index (or the position, in attention).
 *   - Entries are re-entrant, allocate nothing, never fail; NaN and infinity pass through as IEEE
 *     says. Outputs do not overlap inputs unless the entry says so. Zero rows or an empty range
 *     does nothing.
 *   - Row-major; a stride counts elements between the starts of two rows.
 */
#ifndef GM_KERNELS_H
#define GM_KERNELS_H

#include <stdbool.h>

#include "kernels/dtype.h"

enum {
    GM_PAGE = 64,          /* positions in one KV page */
    GM_HEAD_DIM_MAX = 256, /* largest head_dim any kernel must take; a multiple of 32 */
    GM_HEADS_MAX = 64,     /* query heads */
    GM_TOPK_MAX = 4096,    /* largest K of top_k() */
    GM_PACK_ROWS = 16,     /* outputs that every set can pack on their own */
};

/* A weight matrix: `rows` outputs of `cols` inputs, as it lies in the file or packed. */
struct gm_mat {
    const void *data; /* rows * row_bytes bytes, row-major, possibly only 2-byte aligned; or what
                         pack() of the same kernel set wrote, 64-byte aligned */
    enum gm_type type;
    int32_t rows;     /* outputs */
    int32_t cols;     /* inputs; a multiple of the type's block */
    size_t row_bytes; /* in the file, packed or not */
    bool packed;
};

/* How keys and values are kept. */
enum gm_kv_type { GM_KV_F32 = 0, GM_KV_BF16 = 1, GM_KV_F16 = 2, GM_KV_Q8 = 3 };

/* Bytes of one stored vector of n elements (n a multiple of 32). Q8 is struct gm_q8_0 blocks. */
size_t gm_kv_vec_bytes(enum gm_kv_type type, int32_t n);

/* One sequence's keys and values in one layer. Page p holds positions [p*GM_PAGE, (p+1)*GM_PAGE).
 * In a page, position i's key for kv head h starts at (i*kv_heads + h) * gm_kv_vec_bytes(head_dim)
 * from `pages[p] + k_off`; its value likewise from `pages[p] + v_off`. A page left of the window is
 * NULL and must not be touched. */
struct gm_kv_view {
    uint8_t *const *pages;
    size_t k_off, v_off;
    enum gm_kv_type type;
    int32_t kv_heads;
    int32_t head_dim;
};

/* One query row of attention: all heads of one position. */
struct gm_attend {
    const float *q; /* [heads][head_dim], RoPE applied and already scaled */
    float *out;     /* [heads][head_dim] */
    struct gm_kv_view kv;
    int32_t heads;  /* a multiple of kv.kv_heads; head n reads kv head n/(heads/kv_heads) */
    int32_t first;  /* first visible position (>= 0) */
    int32_t last;   /* last visible position, included; the row's own position */
    float softcap;  /* > 0: s = softcap * tanh(s / softcap) before softmax (Gemma 2) */
    float *scratch; /* at least GM_ATTEND_SCRATCH(heads, last - first + 1) floats */
};
#define GM_ATTEND_SCRATCH(heads, n) ((size_t)(heads) * (((size_t)(n) + 63) / 64 * 64 + 64))

/* What a kernel set says of itself; `id` enters the numerics id. */
struct gm_kernels {
    const char *id; /* "ref-1", "avx2-1", "avx512vnni-1": changes whenever any result's bits may */

    /* Bytes of one prepared activation row of `cols` inputs; a multiple of 64. */
    size_t (*act_bytes)(int32_t cols);

    /* Prepares activations for linear(): x[rows][cols] with stride x_stride -> act[rows], each
     * act_bytes(cols) long, `act` 64-byte aligned. ref keeps the floats; fast sets may add int8
     * blocks of 32 with one float scale each (the scale is amax/127, q rounds half to even). */
    void (*prepare)(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols);

    /* y[r][o] = sum_i w[o][i] * x[r][i] for o in [out_begin, out_end), y at stride y_stride
     * (y points at output 0 of row 0). ref: weight decoded exactly, products and sum in double, one
     * rounding to float. Fast sets: integer dot products per block, floats added in one order. */
    void (*linear)(float *y, size_t y_stride, const struct gm_mat *w, const void *act, int32_t rows,
                   int32_t out_begin, int32_t out_end);

    /* Bytes of a matrix packed for this set's linear(), a multiple of 64; 0: the set reads this
     * type as it lies in the file. NULL: the set packs nothing. Neither the bits of a result nor
     * the rules above depend on whether weights are packed. */
    size_t (*pack_bytes)(enum gm_type type, int32_t rows, int32_t cols);

    const char *pack_id; /* "vnni16-1": changes whenever the packed bytes do; NULL: packs nothing */

    /* Packs outputs [begin, end) of w (not packed) into dst, the start of pack_bytes() bytes; begin
     * is a multiple of GM_PACK_ROWS and end too, or w->rows. Parts may be packed side by side. */
    void (*pack)(void *dst, const struct gm_mat *w, int32_t begin, int32_t end);

    /* y[0..cols) = scale * row `id` of the table (embedding). */
    void (*embed)(float *y, const struct gm_mat *table, int32_t id, float scale);

    /* y = x / sqrt(mean(x^2) + eps) * w, per row of `dim` (w already holds the "+1"). y may be x.
     */
    void (*rms_norm)(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                     float eps);

    /* h += rms_norm(x, w): the post-norm and the residual in one. */
    void (*rms_norm_add)(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                         float eps);

    /* Angles of one position: cs[2i] = cos(a), cs[2i+1] = sin(a), a = float(pos * inv_freq[i]) for
     * i < half: the product is rounded to float32, then the cosine and sine of that float. */
    void (*rope_angles)(float *cs, int32_t pos, const float *inv_freq, int32_t half);

    /* Half-split rotation in place of `heads` vectors of head_dim, then times `scale`:
     * a = x[i], b = x[i+half]: x[i] = (a cos - b sin) scale, x[i+half] = (b cos + a sin) scale. */
    void (*rope)(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale);

    /* Stores n floats (a multiple of 32) at dst in the KV type. */
    void (*kv_store)(void *dst, const float *x, int32_t n, enum gm_kv_type type);

    /* Softmax attention of one query row. ref: two passes, double sums, order of positions. */
    void (*attend)(const struct gm_attend *a);

    /* y[i] = gelu_tanh(gate[i]) * up[i]; y may be gate or up.
     * gelu_tanh(z) = z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))). */
    void (*gelu_mul)(float *y, const float *gate, const float *up, size_t n);

    /* y[i] += scale * x[i]. */
    void (*axpy)(float *y, const float *x, float scale, size_t n);

    /* x[i] = cap * tanh(x[i] / cap). */
    void (*softcap)(float *x, float cap, size_t n);

    /* Returns log(sum exp(x[i] * inv_t)); -inf entries count nothing; all -inf gives -inf. */
    double (*logsumexp)(const float *x, size_t n, float inv_t);

    /* The k largest of x[0..n) in falling order, lower index first on ties; NaN never chosen.
     * Returns how many were written (min(k, n), fewer with NaN). k <= GM_TOPK_MAX. */
    int32_t (*top_k)(int32_t *ids, float *values, const float *x, int32_t n, int32_t k);

    /* 1 if every x[i] is finite, else 0. */
    int (*all_finite)(const float *x, size_t n);
};

/* The specification. */
extern const struct gm_kernels gm_ref;

/* The best set for this CPU, or the one GM_KERNELS names (ref, avx2, avx512). NULL with *why set
 * (static or static-buffer text) if the name is unknown or the CPU lacks it. */
const struct gm_kernels *gm_kernels_select(const char *name_or_null, const char **why);

/* Prints "entry implementation" lines for --kernels. `out` is a FILE pointer. */
struct _IO_FILE;
void gm_kernels_print(const struct gm_kernels *k, struct _IO_FILE *out);

/* Names in a table for tests and listings: NULL-terminated; only sets this CPU can run. */
const char *const *gm_kernels_available(void);

#endif
