/* pool.h - a fixed team of worker threads: one parallel loop at a time, nothing else.
 *
 * Owns:      the threads, their wake-up (a short bounded spin, then futex: an idle pool uses no
 * CPU), the same floating-point mode (MXCSR: round to nearest, denormals flushed) in every worker
 * and in the caller's thread. Does not:  know what is computed; results must not depend on how the
 * range is cut.
 */
#ifndef GM_KERNELS_POOL_H
#define GM_KERNELS_POOL_H

#include <stdint.h>

struct gm_pool;

enum { GM_THREADS_MAX = 256 };

/* Runs items [begin, end). `worker` in [0, threads) picks per-thread scratch. */
typedef void gm_pool_fn(void *ctx, int32_t begin, int32_t end, int worker);

/* threads >= 1 counts the caller. NULL only if memory or threads cannot be had. */
struct gm_pool *gm_pool_new(int threads);
void gm_pool_free(struct gm_pool **pool);
int gm_pool_threads(const struct gm_pool *pool);

/* Calls fn over [0, items) cut into shares that are multiples of `grain` (the last may be short),
 * on all threads, and returns when all are done. Called from one thread only. */
void gm_pool_run(struct gm_pool *pool, int32_t items, int32_t grain, gm_pool_fn *fn, void *ctx);

/* No loop follows soon: workers that spin for the next one go to sleep at once and leave their
 * cores to others. The next gm_pool_run wakes them. */
void gm_pool_rest(struct gm_pool *pool);

/* A loop follows soon: wakes the workers, which then spin for it as after any loop. */
void gm_pool_wake(struct gm_pool *pool);

#endif
