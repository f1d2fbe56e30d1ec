/* avx2_point.c - the kernels over rows and elements and prepare() with AVX2.
 *
 * Owns:      the entries; the code is in vec_point.h and vec_prepare.h.
 * Does not:  read weights or keys and values.
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/vec_point.h"
#include "kernels/cpu/vec_prepare.h"

size_t gm_avx2_act_bytes(int32_t cols)
{
    return gm_act_layout(cols).bytes;
}

void gm_avx2_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                     bool floats)
{
    gm_vec_prepare(act, x, x_stride, rows, cols, floats);
}

void gm_avx2_rms_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                      float eps)
{
    gm_vec_rms_norm(y, x, w, rows, dim, eps);
}

void gm_avx2_rms_norm_add(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                          float eps)
{
    gm_vec_rms_norm_add(h, x, w, rows, dim, eps);
}

void gm_avx2_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale)
{
    gm_vec_rope(x, cs, heads, head_dim, scale);
}

void gm_avx2_kv_store(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v)
{
    gm_vec_kv_store(kv, pos, k, v);
}

void gm_avx2_gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    gm_vec_gelu_mul(y, gate, up, n);
}

void gm_avx2_axpy(float *y, const float *x, float scale, size_t n)
{
    gm_vec_axpy(y, x, scale, n);
}

void gm_avx2_softcap(float *x, float cap, size_t n)
{
    gm_vec_softcap(x, cap, n);
}

double gm_avx2_logsumexp(const float *x, size_t n, float inv_t)
{
    return gm_vec_logsumexp(x, n, inv_t);
}

int32_t gm_avx2_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k)
{
    return gm_vec_top_k(ids, values, x, n, k);
}

int gm_avx2_all_finite(const float *x, size_t n)
{
    return gm_vec_all_finite(x, n);
}

#endif
