/* kernels_peak.h - what this machine can do at most: bytes read and products made in a second.
 *
 * Owns:      struct gm_peaks: the buffer that is read.
 * Does not:  know the model's kernels; they are held against these figures (kernels_bench.h).
 */
#ifndef GM_CLI_KERNELS_PEAK_H
#define GM_CLI_KERNELS_PEAK_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct gm_kernels;
struct gm_pool;

struct gm_peaks {
    const struct gm_kernels *reader; /* the best set of this machine, whatever GM_KERNELS says */
    uint8_t *data;                   /* owned; every byte is 1 */
    size_t bytes;
    size_t next; /* where the next piece of a long read begins */
};

/* Maps a buffer of `bytes` bytes, cut to a multiple of GM_PEAK_PIECES pieces of 64 KiB, in huge
 * pages where the system gives them. Close it also after a failure. GM_EXHAUSTED: no memory. */
enum { GM_PEAK_PIECES = 8 };
enum gm_status gm_peaks_open(struct gm_peaks *p, size_t bytes, struct gm_err *err);
void gm_peaks_close(struct gm_peaks *p);

/* The best rate in bytes a second of a few reads of about `bytes` bytes by all threads of the pool:
 * again and again the same ones where that is less than an eighth of the buffer, so that they come
 * from the cache that holds so many; else an eighth of the buffer each time, another one each time.
 * GM_INTERNAL: a thread read something else than what is there. */
enum gm_status gm_peaks_read(struct gm_peaks *p, struct gm_pool *pool, size_t bytes, double *rate,
                             struct gm_err *err);

/* The best rate of a few runs of `each` products a thread, in products a second, of one kind (enum
 * gm_peak) in the instructions of the set `k`. */
double gm_peaks_products(const struct gm_kernels *k, struct gm_pool *pool, int kind, uint64_t each);

/* For the command line: reads a buffer of `bytes` bytes with `threads` threads `passes` times;
 * rates[passes] in bytes a second. GM_EXHAUSTED: no memory or no threads. */
enum gm_status gm_peaks_read_passes(int threads, size_t bytes, int passes, double *rates,
                                    struct gm_err *err);

/* Seconds of a clock that only moves on. */
double gm_peaks_now(void);

#endif
