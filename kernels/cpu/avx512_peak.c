/* avx512_peak.c - the limits of this machine with AVX-512 VNNI.
 *
 * Owns:      the instances: reads of 64 bytes, dot products of 8-bit integers, float FMA.
 * Does not:  measure time (the caller does).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include "kernels/cpu/vec.h"
#include "kernels/peak.h"

enum { SUMS = 12, INTS = 64 };

uint64_t gm_avx512_peak_read(const void *data, size_t bytes)
{
    return gm_peak_read_all(data, bytes);
}

/* Sums in registers, enough of them that none waits for its last product. */
static void products_int8(uint64_t rounds)
{
    const __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(-5);
    __m512i sums[SUMS];
    for (int i = 0; i < SUMS; i++)
        sums[i] = _mm512_set1_epi32(i);
    for (uint64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
    }
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "v"(sums[i])); /* or the loop would be removed */
}

static void products_float(uint64_t rounds)
{
    const gm_vf w = gm_vf_set1(0.5f), x = gm_vf_set1(0.25f);
    gm_vf sums[SUMS];
    for (int i = 0; i < SUMS; i++)
        sums[i] = gm_vf_set1((float)i);
    for (uint64_t n = 0; n < rounds; n++) {
#pragma GCC unroll 12
        for (int i = 0; i < SUMS; i++)
            sums[i] = gm_vf_fma(w, x, sums[i]);
    }
    for (int i = 0; i < SUMS; i++)
        __asm__ volatile("" : : "v"(sums[i]));
}

uint64_t gm_avx512_peak_products(enum gm_peak kind, uint64_t products)
{
    const uint64_t each = kind == GM_PEAK_INT8 ? SUMS * INTS : SUMS * GM_VF;
    const uint64_t rounds = products / each + 1;
    if (kind == GM_PEAK_INT8)
        products_int8(rounds);
    else
        products_float(rounds);
    return rounds * each;
}

#endif
