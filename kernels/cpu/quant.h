/* quant.h - what the quantised linear kernels of both instruction sets agree on.
 *
 * Owns:      the traits of each weight type, the cutting of outputs into groups and of inputs into
 *            chunks, and with that the order of every sum.
 * Does not:  compute (avx2_linear.c, avx512_linear.c).
 *
 * The order: one float accumulator per (row, output); for each sub-block of inputs in rising order
 *     acc = fma(D * d, float(isum), acc)      isum: exact integer dot product of the sub-block
 *     acc = fma(M, ds, acc)                   only for types with a minimum
 * where D and M are the weight's scale and minimum, d and ds come from the activation. Nothing in
 * it depends on the number of rows or on the cut of the outputs.
 */
#ifndef GM_KERNELS_CPU_QUANT_H
#define GM_KERNELS_CPU_QUANT_H

#include "kernels/cpu/act.h"
#include "kernels/kernels.h"

#define GM_INLINE static inline __attribute__((always_inline))

enum {
    GM_CHUNK_BLOCKS = 24, /* blocks of 32 inputs unpacked at once; whole super-blocks */
    GM_SUPER_BLOCKS = GM_QK_K / GM_QK,
};

/* Stored weight = unpacked unsigned value - 2^shift; -1: no offset (the type has minimums). */
GM_INLINE int gm_quant_shift(enum gm_type t)
{
    switch (t) {
    case GM_TYPE_Q8_0:
        return 7;
    case GM_TYPE_Q6_K:
        return 5;
    case GM_TYPE_Q5_0:
        return 4;
    case GM_TYPE_Q4_0:
        return 3;
    default:
        return -1;
    }
}

/* Scales per block of 32 inputs. */
GM_INLINE int gm_quant_subs(enum gm_type t)
{
    return t == GM_TYPE_Q6_K ? 2 : 1;
}

GM_INLINE size_t gm_quant_block_bytes(enum gm_type t)
{
    switch (t) {
    case GM_TYPE_Q8_0:
        return sizeof(struct gm_q8_0);
    case GM_TYPE_Q5_1:
        return sizeof(struct gm_q5_1);
    case GM_TYPE_Q5_0:
        return sizeof(struct gm_q5_0);
    case GM_TYPE_Q4_1:
        return sizeof(struct gm_q4_1);
    case GM_TYPE_Q4_0:
        return sizeof(struct gm_q4_0);
    case GM_TYPE_Q4_K:
        return sizeof(struct gm_q4_k);
    case GM_TYPE_Q5_K:
        return sizeof(struct gm_q5_k);
    default:
        return sizeof(struct gm_q6_k);
    }
}

/* `lanes` neighbouring weight rows worked on together, and which of them are wanted. */
struct gm_group {
    const uint8_t *base; /* first row */
    size_t stride;       /* bytes between rows; 0 if the matrix has fewer rows than lanes */
    int32_t out;         /* output of lane 0 */
    uint32_t mask;       /* bit i: lane i is wanted */
    int32_t next;        /* first output after this group */
};

/* The group that starts at output o. Near the end of the matrix it is moved back so that all lanes
 * read real rows; a matrix smaller than a group is done one row at a time. */
GM_INLINE struct gm_group gm_group_at(const struct gm_mat *w, int32_t o, int32_t end, int32_t lanes)
{
    struct gm_group g;
    int32_t left = end - o;
    if (w->rows < lanes) {
        g.out = o;
        g.stride = 0;
        g.mask = 1;
        g.next = o + 1;
    } else {
        g.out = o <= w->rows - lanes ? o : w->rows - lanes;
        g.stride = w->row_bytes;
        int32_t n = left < lanes ? left : lanes;
        g.mask = ((n < 32 ? UINT32_C(1) << n : 0u) - 1u) << (o - g.out);
        g.next = o + n;
    }
    g.base = (const uint8_t *)w->data + (size_t)g.out * w->row_bytes;
    return g;
}

/* Mask of the lanes [begin, end) of 32; begin may be negative, end above 32. */
GM_INLINE uint32_t gm_lane_range(int32_t begin, int32_t end)
{
    const uint32_t below_end = end < 32 ? (UINT32_C(1) << end) - 1u : ~UINT32_C(0);
    return begin > 0 ? below_end & ~((UINT32_C(1) << begin) - 1u) : below_end;
}

/* Four neighbouring activations. */
struct gm_four {
    int8_t q[4];
};

GM_INLINE uint16_t gm_load_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
