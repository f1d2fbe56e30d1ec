/* avx512_set.h - the entries of the AVX-512 set; contracts in kernels/kernels.h.
 *
 * Owns:      the list. Included by avx512_*.c and tables.c.
 * Does not:  hold code.
 */
#ifndef GM_KERNELS_CPU_AVX512_SET_H
#define GM_KERNELS_CPU_AVX512_SET_H

#include "kernels/kernels.h"

size_t gm_avx512_act_bytes(int32_t cols);
void gm_avx512_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                       bool floats);
void gm_avx512_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                      int32_t rows, int32_t out_begin, int32_t out_end);

/* linear() for F32, F16 and BF16 weights, from the float copy. */
void gm_avx512_linear_float(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                            int32_t rows, int32_t out_begin, int32_t out_end);

/* linear() of packed weights for 1 to few_rows() rows. */
void gm_avx512_linear_stream(float *y, size_t y_stride, const struct gm_mat *w, const void *act,
                             int32_t rows, int32_t out_begin, int32_t out_end);

/* Packing of F32, F16 and BF16 weights; embed_float takes packed ones. */
size_t gm_avx512_pack_bytes_float(enum gm_type type, int32_t rows, int32_t cols);
void gm_avx512_pack_float(void *dst, const struct gm_mat *w, int32_t begin, int32_t end);
void gm_avx512_embed_float(float *y, const struct gm_mat *table, int32_t id, float scale);
size_t gm_avx512_pack_bytes(enum gm_type type, int32_t rows, int32_t cols);
void gm_avx512_pack(void *dst, const struct gm_mat *w, int32_t begin, int32_t end);
void gm_avx512_embed(float *y, const struct gm_mat *table, int32_t id, float scale);
void gm_avx512_rms_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                        float eps);
void gm_avx512_rms_norm_add(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                            float eps);
void gm_avx512_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale);
void gm_avx512_kv_store(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v);
void gm_avx512_attend(const struct gm_attend *a, int32_t kv_head);
void gm_avx512_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page, float *parts);
void gm_avx512_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                           const float *parts);
void gm_avx512_gelu_mul(float *y, const float *gate, const float *up, size_t n);
void gm_avx512_axpy(float *y, const float *x, float scale, size_t n);
void gm_avx512_softcap(float *x, float cap, size_t n);
double gm_avx512_logsumexp(const float *x, size_t n, float inv_t);
int32_t gm_avx512_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k);
int gm_avx512_all_finite(const float *x, size_t n);
uint64_t gm_avx512_peak_read(const void *data, size_t bytes);
uint64_t gm_avx512_peak_products(enum gm_peak kind, uint64_t products);

#endif
