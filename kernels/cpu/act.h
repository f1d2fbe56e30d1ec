/* act.h - the layout of one prepared activation row, shared by every set of this folder.
 *
 * Owns:      struct gm_act: where in a row's bytes the float copy, the int8 blocks and their scales
 *            and sums stand.
 * Does not:  fill them (avx2_prepare.c, avx512_prepare.c).
 *
 * Block b holds inputs [32 b, 32 b + 32): x ~ d[b] * q. The last block is padded with zeros. The
 * sums are stored negated and as integers, because a weight of the form (u - 2^k) times q gives
 * sum(u q) - 2^k sum(q): the second term is one shift of a stored number.
 */
#ifndef GM_KERNELS_CPU_ACT_H
#define GM_KERNELS_CPU_ACT_H

#include "kernels/dtype.h"

enum { GM_ACT_LINE = 64 };

struct gm_act {
    size_t q;     /* int8[32 * blocks] */
    size_t d;     /* float[blocks]: amax / 127, NaN if the block holds a NaN or an infinity */
    size_t ds;    /* float[blocks]: d times the block's sum of q */
    size_t neg32; /* int32[blocks]: minus the sum of q */
    size_t neg16; /* int32[2 * blocks]: the same of each half block */
    size_t bytes;
    int32_t blocks;
};

static inline size_t gm_act_line(size_t bytes)
{
    return (bytes + GM_ACT_LINE - 1) / GM_ACT_LINE * GM_ACT_LINE;
}

/* Offsets in bytes from the row's start; the float copy (padded to 16 floats) is at 0. */
static inline struct gm_act gm_act_layout(int32_t cols)
{
    size_t n = (size_t)cols;
    size_t blocks = (n + GM_QK - 1) / GM_QK;
    struct gm_act a;
    a.blocks = (int32_t)blocks;
    a.q = gm_act_line(n * sizeof(float));
    a.d = a.q + gm_act_line(blocks * GM_QK);
    a.ds = a.d + gm_act_line(blocks * sizeof(float));
    a.neg32 = a.ds + gm_act_line(blocks * sizeof(float));
    a.neg16 = a.neg32 + gm_act_line(blocks * sizeof(int32_t));
    a.bytes = a.neg16 + gm_act_line(2 * blocks * sizeof(int32_t));
    return a;
}

#endif
