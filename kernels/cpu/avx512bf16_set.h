/* avx512bf16_set.h - what the AVX512_BF16 set has of its own; contracts in kernels/kernels.h.
 *
 * Owns:      the list. Included by avx512bf16_*.c and tables.c.
 * Does not:  hold code; all other entries are those of avx512_set.h.
 */
#ifndef GM_KERNELS_CPU_AVX512BF16_SET_H
#define GM_KERNELS_CPU_AVX512BF16_SET_H

#include "kernels/kernels.h"

void gm_avx512bf16_attend(const struct gm_attend *a, int32_t kv_head);
void gm_avx512bf16_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page,
                               float *parts);
void gm_avx512bf16_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                               const float *parts);

#endif
