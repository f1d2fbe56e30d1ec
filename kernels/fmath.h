/* fmath.h - exp, log, tanh, sine and cosine in double precision, the same bits on every machine.
 *
 * Owns:      gm_exp, gm_log, gm_tanh, gm_sincos, gm_gelu_tanh. Only IEEE add, subtract, multiply,
 *            divide and integer operations on the bits are used, so a result depends neither on
 *            the C library nor on the compiler, as long as nothing is contracted
 *            (-ffp-contract=off) and the rounding mode is to nearest.
 * Does not:  work on vectors (kernels/cpu) or set errno or rely on floating-point flags.
 * Accuracy:  relative error below 1e-15 (a few units of 2^-53) for exp and log, below 4e-15 for
 *            tanh; sine and cosine below 1e-15 relative for |a| <= 1.6e6. Tested against long
 *            double in tests/unit/test_ref.c.
 */
#ifndef GM_KERNELS_FMATH_H
#define GM_KERNELS_FMATH_H

#include <stdint.h>
#include <string.h>

#define GM_FM_INF ((double)__builtin_inff())
#define GM_FM_NAN ((double)__builtin_nanf(""))

/* Adding and subtracting 1.5 * 2^52 rounds a double of magnitude below 2^51 to an integer; the
 * sum's low bits are that integer in two's complement. */
#define GM_FM_ROUND 0x1.8p52

static inline uint64_t gm_fm_bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline double gm_fm_from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* 2^(j/32), j = 0..31, each rounded to nearest. */
static const double gm_fm_exp2_table[32] = {
    0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
    0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
    0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
    0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
    0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
    0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
    0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
    0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
};

/* exp(x): x = (32 e + j) ln2/32 + r, |r| <= ln2/64; 2^e 2^(j/32) (1 + r + ... + r^6/720).
 * The first part of ln2/32 has 33 bits, so its product with the integer is exact.
 * NaN gives NaN; above 709.79 infinity; below -745.14 zero. */
static inline double gm_exp(double x)
{
    if (!(x > -745.14 && x < 709.79)) {
        if (x != x)
            return x;
        return x > 0.0 ? GM_FM_INF : 0.0;
    }
    double shifted = x * 0x1.71547652b82fep+5 + GM_FM_ROUND;
    double n = shifted - GM_FM_ROUND;
    uint64_t k = gm_fm_bits(shifted) - gm_fm_bits(GM_FM_ROUND);
    double r = (x - n * 0x1.62e42ff000000p-6) - n * -0x1.718432a1b0e26p-40;
    double r2 = r * r;
    double p =
        r + r2 * ((0.5 + r * (1.0 / 6)) + r2 * ((1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720)));
    double t = gm_fm_exp2_table[k & 31];
    double y = t + t * p;
    uint64_t e = (k - (k & 31)) << 47; /* e << 52, modulo 2^64 */
    if (x > -700.0 && x < 700.0)
        return gm_fm_from_bits(gm_fm_bits(y) + e);
    /* Near the ends: scale by 2^-+512 on the bits, then once more by a product that may round. */
    double step = x > 0.0 ? 0x1p512 : 0x1p-512;
    uint64_t half = x > 0.0 ? (uint64_t)512 << 52 : (uint64_t)0 - ((uint64_t)512 << 52);
    return gm_fm_from_bits(gm_fm_bits(y) + e - half) * step;
}

/* Natural logarithm: x = 2^k m, m in [sqrt(1/2), sqrt(2)); with s = (m-1)/(m+1),
 * log m = 2 (s + s^3/3 + ... + s^23/23). Zero gives -infinity, below zero NaN. */
static inline double gm_log(double x)
{
    if (x != x || x < 0.0)
        return GM_FM_NAN;
    uint64_t u = gm_fm_bits(x) & ~((uint64_t)1 << 63);
    if (u == 0)
        return -GM_FM_INF;
    if (u >= (uint64_t)0x7ff << 52)
        return GM_FM_INF;
    int64_t k = 0;
    if (u < (uint64_t)1 << 52) { /* subnormal: moved up on the bits, whatever the CPU's mode */
        int up = __builtin_clzll(u) - 11;
        u <<= up;
        k = 1 - up;
    } else {
        k = (int64_t)(u >> 52);
    }
    k -= 1023;
    double m = gm_fm_from_bits((u & (((uint64_t)1 << 52) - 1)) | ((uint64_t)1023 << 52));
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        k++;
    }
    double f = m - 1.0; /* exact */
    double s = f / (2.0 + f);
    double z = s * s;
    double p = 1.0 / 23;
    p = p * z + 1.0 / 21;
    p = p * z + 1.0 / 19;
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    double lo = (double)k * -0x1.718432a1b0e26p-35 + 2.0 * s * z * p;
    return (double)k * 0x1.62e42ff000000p-1 + (2.0 * s + lo);
}

/* tanh(x): for |x| < 1/4 the sixth convergent of x/(1 + x^2/(3 + x^2/(5 + ...))) (relative error
 * x^12 / 1.4e9), else 1 - 2/(exp(2|x|) + 1) with the sign of x. */
static inline double gm_tanh(double x)
{
    double a = x < 0.0 ? -x : x;
    if (a < 0.25) {
        double z = x * x;
        return x * (10395.0 + z * (1260.0 + z * 21.0)) / (10395.0 + z * (4725.0 + z * (210.0 + z)));
    }
    double t = 1.0 - 2.0 / (gm_exp(2.0 * a) + 1.0);
    return x < 0.0 ? -t : t; /* a NaN comes through the exponential */
}

/* Tail of the Taylor series of sin(r + c), |r| <= 0.786, c far below r. */
static inline double gm_fm_sin_kernel(double r, double c)
{
    double z = r * r;
    double p = 1.0 / 355687428096000.0; /* 1/17! */
    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    p = p * z - 1.0 / 6.0;
    return r + (c * (1.0 - 0.5 * z) + r * z * p);
}

/* cos(r + c) on the same range. */
static inline double gm_fm_cos_kernel(double r, double c)
{
    double z = r * r;
    double p = -1.0 / 6402373705728000.0; /* 1/18! */
    p = p * z + 1.0 / 20922789888000.0;
    p = p * z - 1.0 / 87178291200.0;
    p = p * z + 1.0 / 479001600.0;
    p = p * z - 1.0 / 3628800.0;
    p = p * z + 1.0 / 40320.0;
    p = p * z - 1.0 / 720.0;
    p = p * z + 1.0 / 24.0;
    double h = 0.5 * z;
    double w = 1.0 - h;
    return w + (((1.0 - w) - h) + (z * z * p - r * c));
}

/* *sine = sin(a), *cosine = cos(a), a in radians. Cody and Waite's reduction: pi/2 in three parts
 * (33, 33 and 53 bits); the integer n is cut in two so that its products with the first part are
 * exact up to |a| < 2^32. Above that, and for infinity and NaN, both results are NaN. */
static inline void gm_sincos(double a, double *sine, double *cosine)
{
    if (!(a > -0x1p32 && a < 0x1p32)) {
        *sine = *cosine = GM_FM_NAN;
        return;
    }
    double shifted = a * 0x1.45f306dc9c883p-1 + GM_FM_ROUND;
    double n = shifted - GM_FM_ROUND;
    uint64_t quadrant = gm_fm_bits(shifted) & 3;
    double high = (n * 0x1p-19 + GM_FM_ROUND) - GM_FM_ROUND;
    high *= 0x1p19;
    double low = n - high;
    double t = (a - high * 0x1.921fb54400000p+0) - low * 0x1.921fb54400000p+0;
    double w = n * 0x1.0b4611a600000p-34; /* exact below |n| = 2^20 */
    double r = t - w;
    w = n * 0x1.3198a2e037073p-69 - ((t - r) - w);
    double y = r - w;
    double c = (r - y) - w;
    double s = gm_fm_sin_kernel(y, c);
    double k = gm_fm_cos_kernel(y, c);
    double first = (quadrant & 1) ? k : s;
    double second = (quadrant & 1) ? s : k;
    *sine = (quadrant & 2) ? -first : first;
    *cosine = ((quadrant + 1) & 2) ? -second : second;
}

/* z/2 (1 + tanh(u)) with u = sqrt(2/pi) (z + 0.044715 z^3), computed as z / (1 + exp(-2u)): the
 * same function, without the cancellation that the first form has for negative z. */
static inline double gm_gelu_tanh(double z)
{
    double u = 0x1.9884533d43651p-1 * (z + 0.044715 * z * z * z);
    return z / (1.0 + gm_exp(-2.0 * u));
}

#endif
