/* avx2_peak.c - the limits of this machine with AVX2 and FMA.
 *
 * Owns:      the instances: reads of 32 bytes, dot products of 8-bit integers as this set makes
 *            them (three instructions for 32 products), float FMA.
 * Does not:  measure time (the caller does).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/peak.h"

#include <immintrin.h>

enum { SUMS = 8, FMA_SUMS = 12, INTS = 32, FLOATS = 8 };

uint64_t gm_avx2_peak_read(const void *data, size_t bytes)
{
    return gm_peak_read_all(data, bytes);
}

/* The weights pass through an empty asm, so that no product is made once and used again. */
static void products_int8(uint64_t rounds)
{
    const __m256i x = _mm256_set1_epi8(-5), one = _mm256_set1_epi16(1);
    __m256i w = _mm256_set1_epi8(3), sums[SUMS];
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm256_set1_epi32(i);
    for (uint64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 8
        for (int i = 0; i < SUMS; i++) {
            __asm__ volatile("" : "+x"(w));
            const __m256i pairs = _mm256_maddubs_epi16(w, x);
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, one));
        }
    }
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "x"(sums[i])); /* or the loop would be removed */
}

/* Sums in registers, enough of them that none waits for its last product. */
static void products_float(uint64_t rounds)
{
    const __m256 w = _mm256_set1_ps(0.5f), x = _mm256_set1_ps(0.25f);
    __m256 sums[FMA_SUMS];
    for (int i = 0; i < FMA_SUMS; i++)
        sums[i] = _mm256_set1_ps((float)i);
    for (uint64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < FMA_SUMS; i++)
            sums[i] = _mm256_fmadd_ps(w, x, sums[i]);
    }
    for (int i = 0; i < FMA_SUMS; i++)
        __asm__ volatile("" : : "x"(sums[i]));
}

uint64_t gm_avx2_peak_products(enum gm_peak kind, uint64_t products)
{
    const uint64_t each = kind == GM_PEAK_INT8 ? SUMS * INTS : FMA_SUMS * FLOATS;
    const uint64_t rounds = products / each + 1;
    if (kind == GM_PEAK_INT8)
        products_int8(rounds);
    else
        products_float(rounds);
    return rounds * each;
}

#endif
