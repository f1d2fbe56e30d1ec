/* peak.h - the streaming read behind peak_read(), written once for all kernel sets.
 *
 * Owns:      the loop: which bytes are read, in what order, how far ahead they are fetched.
 * Does not:  choose an instruction set. The file that includes this is compiled for one, and the
 *            compiler makes the widest loads of it.
 *
 * The two halves of the range are read side by side: one thread with two streams keeps more cache
 * lines on their way from memory than with one. Large ranges are also fetched ahead of use, because
 * the hardware's own fetching stops at the end of a page; in a range that a cache may hold this
 * would only take the place of loads.
 */
#ifndef GM_KERNELS_PEAK_H
#define GM_KERNELS_PEAK_H

#include "kernels/kernels.h"

#if defined(__AVX512F__)
enum { GM_PEAK_WORDS = 8 }; /* of 64 bits in a register */
#elif defined(__AVX2__)
enum { GM_PEAK_WORDS = 4 };
#else
enum { GM_PEAK_WORDS = 2 };
#endif
enum {
    GM_PEAK_LINE = 64,               /* bytes of a cache line */
    GM_PEAK_SUMS = 4,                /* of each half, so that no addition waits for another */
    GM_PEAK_AHEAD = 2048,            /* bytes between what is added and what is fetched */
    GM_PEAK_FETCH_BYTES = 256 << 10, /* ranges from here on are fetched ahead */
};

typedef uint64_t gm_peak_vec __attribute__((vector_size(GM_PEAK_WORDS * 8), may_alias));

static_assert(GM_PEAK_STEP % (2 * GM_PEAK_SUMS * sizeof(gm_peak_vec)) == 0, "a step is whole sums");

/* The sum of n registers full; n is a multiple of 2 GM_PEAK_SUMS. */
static inline __attribute__((always_inline)) uint64_t gm_peak_sum(const gm_peak_vec *at, size_t n,
                                                                  int fetch)
{
    gm_peak_vec low[GM_PEAK_SUMS] = { { 0 } }, high[GM_PEAK_SUMS] = { { 0 } };
    const size_t half = n / 2, ahead = GM_PEAK_AHEAD / sizeof *at;
    uint64_t all = 0;
    for (size_t i = 0; i < half; i += GM_PEAK_SUMS) {
#pragma GCC unroll 4
        for (size_t k = 0; k < GM_PEAK_SUMS; k++) {
            if (fetch && k * sizeof *at % GM_PEAK_LINE == 0) {
                __builtin_prefetch(at + i + k + ahead);
                __builtin_prefetch(at + half + i + k + ahead);
            }
            low[k] += at[i + k];
            high[k] += at[half + i + k];
        }
    }
    for (int k = 0; k < GM_PEAK_SUMS; k++)
        for (int word = 0; word < GM_PEAK_WORDS; word++)
            all += low[k][word] + high[k][word];
    return all;
}

static inline __attribute__((always_inline)) uint64_t gm_peak_read_all(const void *data,
                                                                       size_t bytes)
{
    const gm_peak_vec *at = data;
    const size_t n = bytes / sizeof *at;
    return bytes < GM_PEAK_FETCH_BYTES ? gm_peak_sum(at, n, 0) : gm_peak_sum(at, n, 1);
}

#endif
