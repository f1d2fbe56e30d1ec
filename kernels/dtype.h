/* dtype.h - weight types: numbers, block layouts, and the only scalar decoders.
 *
 * Owns:      the byte layout of every GGUF block type we read (sizes asserted), and the scalar
 *            conversions f16/bf16 <-> f32 and block -> f32. C11, and plain enough for nvcc.
 * Does not:  vectorise (kernels/cpu), map files (common/model/gguf.c).
 * Source:    ggml's published block layouts; formulas are written beside each decoder.
 */
#ifndef GM_KERNELS_DTYPE_H
#define GM_KERNELS_DTYPE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* GGUF's numbers. */
enum gm_type {
    GM_TYPE_F32 = 0,
    GM_TYPE_F16 = 1,
    GM_TYPE_Q4_0 = 2,
    GM_TYPE_Q4_1 = 3,
    GM_TYPE_Q5_0 = 6,
    GM_TYPE_Q5_1 = 7,
    GM_TYPE_Q8_0 = 8,
    GM_TYPE_Q4_K = 12,
    GM_TYPE_Q5_K = 13,
    GM_TYPE_Q6_K = 14,
    GM_TYPE_BF16 = 30,
    GM_TYPE_MAX = 31,
};

enum { GM_QK = 32, GM_QK_K = 256 }; /* elements in a small block and in a super-block */

struct gm_q4_0 {
    uint16_t d;     /* f16 */
    uint8_t qs[16]; /* low nibble: element j; high nibble: element j + 16; x = d (q - 8) */
};
struct gm_q4_1 {
    uint16_t d, m; /* f16; x = d q + m */
    uint8_t qs[16];
};
struct gm_q5_0 {
    uint16_t d;    /* f16; x = d (q - 16) */
    uint8_t qh[4]; /* bit j: fifth bit of element j (little endian u32) */
    uint8_t qs[16];
};
struct gm_q5_1 {
    uint16_t d, m; /* f16; x = d q + m */
    uint8_t qh[4];
    uint8_t qs[16];
};
struct gm_q8_0 {
    uint16_t d; /* f16; x = d q */
    int8_t qs[32];
};
struct gm_q4_k {
    uint16_t d, dmin;   /* f16 */
    uint8_t scales[12]; /* eight 6-bit scales and mins */
    uint8_t qs[128];    /* four chunks of 64: low nibbles sub-block 2i, high nibbles 2i + 1 */
};
struct gm_q5_k {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
struct gm_q6_k {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    uint16_t d;
};

static_assert(sizeof(struct gm_q4_0) == 18, "layout");
static_assert(sizeof(struct gm_q4_1) == 20, "layout");
static_assert(sizeof(struct gm_q5_0) == 22, "layout");
static_assert(sizeof(struct gm_q5_1) == 24, "layout");
static_assert(sizeof(struct gm_q8_0) == 34, "layout");
static_assert(sizeof(struct gm_q4_k) == 144, "layout");
static_assert(sizeof(struct gm_q5_k) == 176, "layout");
static_assert(sizeof(struct gm_q6_k) == 210, "layout");

/* One row per type we read; `block_elems` 0 marks a hole (a type we refuse). */
struct gm_type_info {
    const char *name;     /* "Q4_K" */
    uint32_t block_elems; /* elements per block, 1 for plain floats */
    uint32_t block_bytes;
};

/* NULL for any number that is not in enum gm_type (holes and retired types included). */
const struct gm_type_info *gm_type_info(uint32_t type);

/* Bytes of one row of `cols` elements; cols must be a multiple of block_elems. */
size_t gm_type_row_bytes(enum gm_type type, size_t cols);

/* Scalar conversions; defined in kernels/dtype.c, exact. */
float gm_f16_to_f32(uint16_t h);
uint16_t gm_f32_to_f16(float x);  /* round to nearest even; overflow to infinity */
uint16_t gm_f32_to_bf16(float x); /* round to nearest even; NaN stays a quiet NaN */
static inline float gm_bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Decodes elements [0, cols) of one row at `src` into y; cols a multiple of block_elems. */
void gm_dequant_row(float *y, const void *src, enum gm_type type, size_t cols);

#endif
