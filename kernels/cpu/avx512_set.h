/* avx512_set.h - the entries of the AVX-512 set; contracts in kernels/kernels.h.
 *
 * Owns:      the list. Included by avx512_*.c and tables.c.
 * Does not:  hold code.
 */
#ifndef GM_KERNELS_CPU_AVX512_SET_H
#define GM_KERNELS_CPU_AVX512_SET_H

#include "kernels/kernels.h"

size_t gm_avx512_act_bytes(int32_t cols);
void gm_avx512_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols);
void gm_avx512_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                      int32_t rows, int32_t out_begin, int32_t out_end);

/* linear() for F32, F16 and BF16 weights, from the float copy. */
void gm_avx512_linear_float(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                            int32_t rows, int32_t out_begin, int32_t out_end);

#endif
