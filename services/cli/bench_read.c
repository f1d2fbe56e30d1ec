/* bench_read.c - how many bytes a second the threads of this machine read from memory.
 *
 * Owns:      the streaming read, its buffer and its threads.
 * Does not:  write while it measures, pin threads, or count what a cache gave: the buffer is far
 *            larger than any.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "services/cli/bench.h"

enum {
    SUMS = 8,   /* independent sums, so that no addition waits for the one before */
    LANES = 8,  /* of uint64_t in a vector: one cache line */
    PASSES = 8, /* each thread set reads everything so often for one run */
    THREADS_MAX = 64,
    THREADS_DEFAULT = 2,
};
static const size_t buffer_bytes = (size_t)1 << 30;

typedef uint64_t line_of_u64 __attribute__((vector_size(LANES * 8)));

/* The sum of n lines. Compiled once per instruction set below: the width of the loads is what
 * differs. */
static inline __attribute__((always_inline)) uint64_t sum_lines(const line_of_u64 *at, size_t n)
{
    line_of_u64 sums[SUMS] = { { 0 } };
    uint64_t all = 0;
    for (size_t i = 0; i + SUMS <= n; i += SUMS)
        for (int k = 0; k < SUMS; k++)
            sums[k] += at[i + (size_t)k];
    for (int k = 0; k < SUMS; k++)
        for (int lane = 0; lane < LANES; lane++)
            all += sums[k][lane];
    return all;
}

typedef uint64_t read_fn(const line_of_u64 *at, size_t n);

static uint64_t read_plain(const line_of_u64 *at, size_t n)
{
    return sum_lines(at, n);
}
#ifdef __x86_64__
__attribute__((target("avx2"))) static uint64_t read_avx2(const line_of_u64 *at, size_t n)
{
    return sum_lines(at, n);
}
__attribute__((target("avx512f"))) static uint64_t read_avx512(const line_of_u64 *at, size_t n)
{
    return sum_lines(at, n);
}
#endif

static read_fn *choose_read(void)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        return read_avx512;
    if (__builtin_cpu_supports("avx2"))
        return read_avx2;
#endif
    return read_plain;
}

/* What the threads of one measurement share. */
struct set {
    pthread_mutex_t hold; /* held until every thread is there, or one could not be started */
    bool leave;           /* read behind `hold`: there is nothing to do */
    pthread_barrier_t gate;
};
struct reader {
    pthread_t thread;
    struct set *set;
    read_fn *read;
    const line_of_u64 *at;
    size_t lines;
    uint64_t sum;
    int64_t done_us[PASSES]; /* when this thread had read its share */
    int64_t go_us[PASSES];   /* when it was let go */
};

static void *work(void *ctx)
{
    struct reader *r = ctx;
    (void)pthread_mutex_lock(&r->set->hold);
    const bool leave = r->set->leave;
    (void)pthread_mutex_unlock(&r->set->hold);
    for (int pass = 0; pass < PASSES && !leave; pass++) {
        pthread_barrier_wait(&r->set->gate);
        r->go_us[pass] = gm_now_us();
        r->sum += r->read(r->at, r->lines);
        r->done_us[pass] = gm_now_us();
    }
    return NULL;
}

/* Lets n threads read their shares PASSES times; rates in bytes a second. */
static enum gm_status run_threads(struct reader *readers, uint32_t n, double rates[PASSES],
                                  struct gm_err *err)
{
    struct set set = { .hold = PTHREAD_MUTEX_INITIALIZER };
    uint32_t started = 0;
    int problem = pthread_barrier_init(&set.gate, NULL, n);
    if (problem)
        return gm_fail(err, GM_EXHAUSTED, "cannot start threads: %s", strerror(problem));
    (void)pthread_mutex_lock(&set.hold);
    for (uint32_t i = 0; i < n && !problem; i++) {
        readers[i].set = &set;
        problem = pthread_create(&readers[i].thread, NULL, work, &readers[i]);
        started += !problem;
    }
    set.leave = problem != 0;
    (void)pthread_mutex_unlock(&set.hold);
    for (uint32_t i = 0; i < started; i++)
        (void)pthread_join(readers[i].thread, NULL);
    (void)pthread_barrier_destroy(&set.gate);
    if (problem)
        return gm_fail(err, GM_EXHAUSTED, "cannot start %u threads: %s; give fewer --threads", n,
                       strerror(problem));
    for (int pass = 0; pass < PASSES; pass++) {
        int64_t first = readers[0].go_us[pass], last = readers[0].done_us[pass];
        for (uint32_t i = 1; i < n; i++) {
            first = readers[i].go_us[pass] < first ? readers[i].go_us[pass] : first;
            last = readers[i].done_us[pass] > last ? readers[i].done_us[pass] : last;
        }
        const double bytes = (double)n * (double)readers[0].lines * sizeof(line_of_u64);
        rates[pass] = bytes * 1e6 / (double)(last > first ? last - first : 1);
    }
    return GM_OK;
}

enum gm_status gm_bench_bandwidth(struct gm_bench *b, struct gm_err *err)
{
    static struct reader readers[THREADS_MAX];
    double rates[PASSES];
    const uint32_t cpus = gm_cpus_usable();
    uint32_t n = b->o->up.threads ? (uint32_t)b->o->up.threads : THREADS_DEFAULT;
    n = n > cpus ? cpus : n;
    n = n > THREADS_MAX ? THREADS_MAX : n;
    line_of_u64 *buffer =
        mmap(NULL, buffer_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a buffer of 1 GiB: %s", strerror(errno));
    (void)madvise(buffer, buffer_bytes, MADV_HUGEPAGE);
    memset(buffer, 1, buffer_bytes); /* each page is there, and none is the zero page */
    memset(readers, 0, sizeof readers);
    const size_t share = buffer_bytes / sizeof *buffer / n / SUMS * SUMS;
    for (uint32_t i = 0; i < n; i++) {
        readers[i].read = choose_read();
        readers[i].at = buffer + i * share;
        readers[i].lines = share;
    }
    enum gm_status rc = run_threads(readers, n, rates, err);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += readers[i].sum;
    /* Each byte is 1, so the sum is known: wrong means that not everything was read. */
    const uint64_t want = (uint64_t)0x0101010101010101 * LANES * share * n * PASSES;
    if (rc == GM_OK && sum != want)
        rc = gm_fail(err, GM_INTERNAL, "the reading threads added to a wrong sum");
    (void)munmap(buffer, buffer_bytes);
    if (rc != GM_OK)
        return rc;
    const double median = gm_bench_quantile(rates, PASSES, 0.5);
    rc = gm_bench_put(b, err, rates[PASSES - 1] / 1e9, "GB/s", "read, %u threads, best", n);
    return rc == GM_OK ? gm_bench_put(b, err, median / 1e9, "GB/s", "read, %u threads, median", n)
                       : rc;
}
