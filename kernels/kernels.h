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
 * In a page, kv head h's keys start at `pages[p] + k_off + h * side` and its values at
 * `pages[p] + v_off + h * side`, side = GM_PAGE * gm_kv_vec_bytes(type, head_dim). Only kernels
 * know what lies inside a side:
 *   keys    [head_dim][GM_PAGE]: neighbouring positions beside each other;
 *           bf16: [head_dim/2][GM_PAGE][2], pairs of neighbouring dimensions;
 *           q8: f16 scales [head_dim/32][GM_PAGE], then int8 codes [head_dim][GM_PAGE]
 *   values  [GM_PAGE][head_dim];
 *           bf16: [GM_PAGE/2][head_dim][2], pairs of neighbouring positions;
 *           q8: head_dim/32 struct gm_q8_0 for each position
 * A page left of the window is NULL and must not be touched. */
struct gm_kv_view {
    uint8_t *const *pages;
    size_t k_off, v_off;
    enum gm_kv_type type;
    int32_t kv_heads;
    int32_t head_dim;
};

/* Decodes position `pos` of one kv head: k[head_dim], v[head_dim]. Slow; for ref and for tests. */
void gm_kv_load(const struct gm_kv_view *kv, int32_t pos, int32_t kv_head, float *k, float *v);

/* Query rows of attention at neighbouring positions of one sequence. Row r stands at position
 * pos + r and sees positions [max(0, pos + r - window + 1), pos + r]; window 0: from 0 on. */
struct gm_attend {
    const float *q; /* [rows][heads][head_dim], RoPE applied and already scaled */
    float *out;     /* [rows][heads][head_dim] */
    struct gm_kv_view kv;
    int32_t heads; /* a multiple of kv.kv_heads; head n reads kv head n/(heads/kv_heads) */
    int32_t rows;  /* at least 1 */
    int32_t pos;   /* of row 0 */
    int32_t window;
    float softcap;  /* > 0: s = softcap * tanh(s / softcap) before softmax (Gemma 2) */
    float *scratch; /* attend() alone: GM_ATTEND_SCRATCH floats for (rows, heads, kv) */
};

/* The first page that row `row` sees any position of, and the last. */
static inline int32_t gm_attend_first_page(const struct gm_attend *a, int32_t row)
{
    const int32_t at = a->pos + row;
    return a->window > 0 && at >= a->window ? (at - a->window + 1) / GM_PAGE : 0;
}
static inline int32_t gm_attend_last_page(const struct gm_attend *a, int32_t row)
{
    return (a->pos + row) / GM_PAGE;
}

/* What one page gives one query: the largest score m, the sum l of exp(score - m), and with those
 * weights the sum of the values: [m, l, unused .., acc[head_dim]]. The parts of one kv head of
 * `rows` rows lie as [page][row][head of the group], pages counted from row 0's first. */
enum { GM_PART_ACC = 16 }; /* floats before acc: keeps it on a cache line */
#define GM_PART_FLOATS(head_dim) ((size_t)(head_dim) + GM_PART_ACC)

/* Room of attend(): a part for each query of the group and one page's keys and values as floats. */
#define GM_ATTEND_SCRATCH(rows, group, head_dim)                                                   \
    ((size_t)(rows) * (size_t)(group)*GM_PART_FLOATS(head_dim) +                                   \
     2 * (size_t)GM_PAGE * (size_t)(head_dim))

/* The products of linear() and attend(): of 8-bit integers, or of floats. */
enum gm_peak { GM_PEAK_INT8, GM_PEAK_FLOAT };

enum { GM_PEAK_STEP = 512 }; /* peak_read() takes a multiple of so many bytes */

/* What a kernel set says of itself; `id` enters the numerics id. */
struct gm_kernels {
    const char *id; /* "ref-1", "avx2-2", "avx512bf16-1": changes whenever any result's bits may */

    /* Bytes of one prepared activation row of `cols` inputs; a multiple of 64. */
    size_t (*act_bytes)(int32_t cols);

    /* Prepares activations for linear(): x[rows][cols] with stride x_stride -> act[rows], each
     * act_bytes(cols) long, `act` 64-byte aligned. ref keeps the floats; fast sets may add int8
     * blocks of 32 with one float scale each (the scale is amax/127, q rounds half to even).
     * floats: weights of a float type will read them too; without it those find no input. */
    void (*prepare)(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                    bool floats);

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

    /* Stores position `pos` of all kv heads, k and v [kv_heads][head_dim], in the view's type.
     * Touches nothing of other positions: threads store the rows of a batch in any order. */
    void (*kv_store)(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v);

    /* Softmax attention of all rows for the query heads of one kv head. The order of every sum is
     * a function of the row's position and window alone:
     *   score  over dimensions in rising order; then the soft cap
     *   page   m = largest visible score of the page, l = the sum of exp(score - m) over its 64
     *          places by halves, acc[d] over visible positions in rising order
     *   row    pages from left to right: m' = max(m, m_p), f = exp(m - m'), g = exp(m_p - m'),
     *          l = l f + l_p g, acc = acc f + acc_p g; at the end out = acc / l
     * so one call for many rows, one call a row, and attend_part() + attend_join() give the same
     * bits. A NaN in what a query sees reaches its output; what it does not see, NaN or never
     * written, does not. ref: two passes, double sums. A set with bf16 products rounds q and the
     * weights (in acc, not in l) to bf16 on bf16 pages, to nearest even, subnormal numbers to 0,
     * and takes dimensions and positions in pairs: sum = a0 b0 + (a1 b1 + sum), each + rounded. */
    void (*attend)(const struct gm_attend *a, int32_t kv_head);

    /* The same in two steps, for threads that share a row. attend_part() writes what page `page`
     * gives to every row that sees it, at its place in `parts` (laid out as said above; what form a
     * part has inside is the set's own matter). attend_join() then writes row `row`'s output. */
    void (*attend_part)(const struct gm_attend *a, int32_t kv_head, int32_t page, float *parts);
    void (*attend_join)(const struct gm_attend *a, int32_t kv_head, int32_t row,
                        const float *parts);

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

    /* The limits of this machine with this set's instructions. No model calls them: `gemline bench`
     * holds the other entries against them. peak_read() reads `bytes` bytes, a multiple of
     * GM_PEAK_STEP, from `data`, 64-byte aligned, and returns the sum of the 64-bit words modulo
     * 2^64. peak_products() makes at least so many products with their additions, in registers
     * alone, and returns how many. */
    uint64_t (*peak_read)(const void *data, size_t bytes);
    uint64_t (*peak_products)(enum gm_peak kind, uint64_t products);
};

/* The specification. */
extern const struct gm_kernels gm_ref;

/* The best set for this CPU, or the one GM_KERNELS names (ref, avx2, avx512, avx512bf16). NULL
 * with *why set (static or static-buffer text) if the name is unknown or the CPU lacks it. */
const struct gm_kernels *gm_kernels_select(const char *name_or_null, const char **why);

/* Prints "entry implementation" lines for --kernels. `out` is a FILE pointer. */
struct _IO_FILE;
void gm_kernels_print(const struct gm_kernels *k, struct _IO_FILE *out);

/* Names in a table for tests and listings: NULL-terminated; only sets this CPU can run. */
const char *const *gm_kernels_available(void);

#endif
