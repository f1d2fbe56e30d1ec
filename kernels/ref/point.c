/* point.c - reference kernels over single rows and elements: norms, RoPE, GELU, caps, checks.
 *
 * Owns:      rms_norm, rms_norm_add, rope_angles, rope, gelu_mul, axpy, softcap, all_finite.
 * Does not:  read weights in blocks (linear.c) or keys and values (attend.c).
 * Rounding:  computed in double, rounded to float once per output; sums in rising index order.
 */
#include <math.h>

#include "kernels/fmath.h"
#include "kernels/ref/ref.h"

/* 1 / sqrt(mean(x^2) + eps). sqrt is IEEE's, correctly rounded. */
static double inverse_rms(const float *x, int32_t dim, float eps)
{
    double sum = 0.0;
    for (int32_t i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    return 1.0 / sqrt(sum / (double)dim + (double)eps);
}

void gm_ref_rms_norm(float *y, const float *x, const float *w, int32_t rows, int32_t dim, float eps)
{
    for (int32_t r = 0; r < rows; r++, x += dim, y += dim) {
        double inverse = inverse_rms(x, dim, eps);
        for (int32_t i = 0; i < dim; i++)
            y[i] = (float)((double)x[i] * inverse * (double)w[i]);
    }
}

void gm_ref_rms_norm_add(float *h, const float *x, const float *w, int32_t rows, int32_t dim,
                         float eps)
{
    for (int32_t r = 0; r < rows; r++, x += dim, h += dim) {
        double inverse = inverse_rms(x, dim, eps);
        for (int32_t i = 0; i < dim; i++)
            h[i] = (float)((double)h[i] + (double)x[i] * inverse * (double)w[i]);
    }
}

void gm_ref_rope_angles(float *cs, int32_t pos, const float *inv_freq, int32_t half)
{
    for (int32_t i = 0; i < half; i++) {
        float angle = (float)((double)pos * (double)inv_freq[i]);
        double sine, cosine;
        gm_sincos((double)angle, &sine, &cosine);
        cs[2 * i] = (float)cosine;
        cs[2 * i + 1] = (float)sine;
    }
}

void gm_ref_rope(float *x, const float *cs, int32_t heads, int32_t head_dim, float scale)
{
    const int32_t half = head_dim / 2;
    for (int32_t n = 0; n < heads; n++, x += head_dim) {
        for (int32_t i = 0; i < half; i++) {
            const double a = (double)x[i], b = (double)x[i + half];
            const double c = (double)cs[2 * i], s = (double)cs[2 * i + 1];
            x[i] = (float)((a * c - b * s) * (double)scale);
            x[i + half] = (float)((b * c + a * s) * (double)scale);
        }
    }
}

void gm_ref_gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)(gm_gelu_tanh((double)gate[i]) * (double)up[i]);
}

void gm_ref_axpy(float *y, const float *x, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)((double)y[i] + (double)scale * (double)x[i]);
}

void gm_ref_softcap(float *x, float cap, size_t n)
{
    const double c = (double)cap;
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(c * gm_tanh((double)x[i] / c));
}

int gm_ref_all_finite(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, sizeof u);
        bad |= (u & 0x7f800000) == 0x7f800000;
    }
    return bad == 0;
}
