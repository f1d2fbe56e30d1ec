/* bench_read.c - how many bytes a second the threads of this machine read from memory.
 *
 * Owns:      the number of threads and passes, and the two figures.
 * Does not:  read (kernels_peak.c), or count what a cache gave: the buffer is far larger than any.
 */
#include "services/cli/bench.h"
#include "services/cli/kernels_peak.h"

enum { PASSES = 8, THREADS_DEFAULT = 2 };
static const size_t buffer_bytes = (size_t)1 << 30;

enum gm_status gm_bench_bandwidth(struct gm_bench *b, struct gm_err *err)
{
    double rates[PASSES];
    const uint32_t cpus = gm_cpus_usable();
    uint32_t n = b->o->up.threads ? (uint32_t)b->o->up.threads : THREADS_DEFAULT;
    n = n > cpus ? cpus : n;
    enum gm_status rc = gm_peaks_read_passes((int)n, buffer_bytes, PASSES, rates, err);
    if (rc != GM_OK)
        return rc;
    const double median = gm_bench_quantile(rates, PASSES, 0.5); /* sorts them */
    rc = gm_bench_put(b, err, rates[PASSES - 1] / 1e9, "GB/s", "read, %u threads, best", n);
    return rc == GM_OK ? gm_bench_put(b, err, median / 1e9, "GB/s", "read, %u threads, median", n)
                       : rc;
}
