/* ref.h - what the reference kernels' files share: their entries and the one double dot product.
 *
 * Owns:      the order of a reference sum over an index: sixteen lanes, lane l takes the elements
 *            i = l (mod 16) in rising order, then the lanes are added pairwise in a fixed tree.
 * Does not:  appear outside kernels/ref.
 */
#ifndef GM_KERNELS_REF_H
#define GM_KERNELS_REF_H

#include "kernels/kernels.h"

enum { GM_REF_LANES = 16 };

/* A sum under way. */
struct gm_ref_sum {
    double lane[GM_REF_LANES];
};

/* lanes += a[i] * b[i], i in [0, n), n a multiple of 16. The product of two floats is exact in
 * double, so only the sums round. Written in pairs of doubles so that plain SSE2 or NEON holds the
 * sixteen lanes in registers; the bits are those of the plain loop. */
static inline void gm_ref_dot(struct gm_ref_sum *sum, const double *a, const double *b, size_t n)
{
    typedef double pair __attribute__((vector_size(16)));
    pair s[8], x[8], y[8];
    memcpy(s, sum->lane, sizeof s);
    pair s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3], s4 = s[4], s5 = s[5], s6 = s[6], s7 = s[7];
    for (size_t i = 0; i < n; i += GM_REF_LANES) {
        memcpy(x, a + i, sizeof x);
        memcpy(y, b + i, sizeof y);
        s0 += x[0] * y[0];
        s1 += x[1] * y[1];
        s2 += x[2] * y[2];
        s3 += x[3] * y[3];
        s4 += x[4] * y[4];
        s5 += x[5] * y[5];
        s6 += x[6] * y[6];
        s7 += x[7] * y[7];
    }
    const pair done[8] = { s0, s1, s2, s3, s4, s5, s6, s7 };
    memcpy(sum->lane, done, sizeof done);
}

/* The lanes' total: l and l + 8, then + 4, + 2, + 1. */
static inline double gm_ref_total(const struct gm_ref_sum *sum)
{
    double t[8];
    for (int l = 0; l < 8; l++)
        t[l] = sum->lane[l] + sum->lane[l + 8];
    for (int l = 0; l < 4; l++)
        t[l] += t[l + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
}

size_t gm_ref_act_bytes(int32_t cols);
void gm_ref_prepare(void *act, const float *x, size_t x_stride, int32_t rows, int32_t cols,
                    bool floats);
void gm_ref_linear(float *y, size_t y_stride, const struct gm_mat *w, const void *act, int32_t rows,
                   int32_t out_begin, int32_t out_end);
void gm_ref_embed(float *y, const struct gm_mat *table, int32_t id, float scale);

void gm_ref_rms_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim,
                     float eps);
void gm_ref_rms_norm_add(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                         float eps);
void gm_ref_rope_angles(float *cs, int32_t pos, const float *inv_freq, int32_t half);
void gm_ref_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale);
void gm_ref_gelu_mul(float *y, const float *gate, const float *up, size_t n);
void gm_ref_axpy(float *y, const float *x, float scale, size_t n);
void gm_ref_softcap(float *x, float cap, size_t n);
int gm_ref_all_finite(const float *x, size_t n);

void gm_ref_kv_store(const struct gm_kv_view *kv, int32_t pos, const float *k, const float *v);
void gm_ref_attend(const struct gm_attend *a, int32_t kv_head);
void gm_ref_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page, float *parts);
void gm_ref_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                        const float *parts);

double gm_ref_logsumexp(const float *x, size_t n, float inv_t);
int32_t gm_ref_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k);

uint64_t gm_ref_peak_read(const void *data, size_t bytes);
uint64_t gm_ref_peak_products(enum gm_peak kind, uint64_t products);

#endif
