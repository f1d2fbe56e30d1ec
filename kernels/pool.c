/* pool.c - the team of worker threads behind gm_pool_run.
 *
 * Owns:      the threads, the hand-out of chunks, the sleep and wake of workers and caller, and the
 *            floating-point mode of every thread that computes.
 * Does not:  know what is computed, pin threads, or spin for longer than SPIN_NS.
 *
 * How a run works. `ticket` holds (run number << 32 | items handed out). A thread takes a share of
 * what is left by raising the count with compare-and-swap: large shares first, which keeps streams
 * through memory long, small ones at the end, so that no thread waits long for another. Only a
 * thread that has taken a share reads the job's fields it needs after that, and the caller does not
 * return (nor change them) before `done` equals the number of items. So a worker that wakes late
 * finds nothing to take and nobody waits for it: on a machine with fewer free cores than threads
 * the caller simply does the work itself.
 */
#include "kernels/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    SPIN_NS = 20000,   /* longest spin before a futex sleep */
    SPIN_BATCH = 64,   /* pauses between two looks at the clock */
    SHARE_FIRST = 2,   /* a share is 1 / (SHARE_FIRST threads) of what is left ... */
    SHARES_LEAST = 24, /* ... but at least 1 / (SHARES_LEAST threads) of all */
    LINE = 64,         /* bytes of a cache line */
};

struct worker {
    struct gm_pool *pool;
    pthread_t thread;
    int index; /* 1 .. threads - 1; the caller is 0 */
};

struct gm_pool {
    _Alignas(LINE) _Atomic uint64_t ticket; /* run << 32 | items handed out */
    _Alignas(LINE) _Atomic uint32_t done;   /* items finished in this run; futex of the caller */
    _Atomic uint32_t caller_sleeps;
    _Alignas(LINE) _Atomic uint32_t bell; /* counts runs (and the end); futex of the workers */
    _Atomic uint32_t sleepers;
    _Atomic int stop;
    _Atomic int resting; /* nobody spins for the bell */
    /* The job: written by the caller before `ticket`. The atomic ones are also read by threads that
     * come late; their compare-and-swap then fails, because the run number differs. */
    _Alignas(LINE) _Atomic uint32_t items;
    _Atomic uint32_t grain, least;
    gm_pool_fn *fn;
    void *ctx;
    uint32_t run; /* caller only */
    int threads;
    int started; /* workers that exist, for gm_pool_free */
    struct worker workers[];
};

/* Round to nearest even, denormal results and operands flushed, all exceptions masked. */
static void set_fp_mode(void)
{
#if defined(__x86_64__)
    enum { MXCSR_MASKS = 0x1f80, MXCSR_FTZ = 0x8000, MXCSR_DAZ = 0x0040 };
    const unsigned want = MXCSR_MASKS | MXCSR_FTZ | MXCSR_DAZ;
    if ((_mm_getcsr() & ~0x3fu) != want) {
        _mm_setcsr(want);
    }
#elif defined(__aarch64__)
    uint64_t fz = UINT64_C(1) << 24;
    __asm__ volatile("msr fpcr, %0" : : "r"(fz));
#endif
}

static void relax(void)
{
#if defined(__x86_64__)
    _mm_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Spins until *word differs from `seen`, SPIN_NS have passed or *enough is set (NULL: never);
 * returns the value last read. */
static uint32_t spin_while(_Atomic uint32_t *word, uint32_t seen, _Atomic int *enough)
{
    int64_t end = 0;
    for (;;) {
        for (int i = 0; i < SPIN_BATCH; i++) {
            uint32_t value = atomic_load_explicit(word, memory_order_acquire);
            if (value != seen) {
                return value;
            }
            relax();
        }
        if (enough && atomic_load_explicit(enough, memory_order_relaxed)) {
            return seen;
        }
        int64_t now = now_ns();
        if (end == 0) {
            end = now + SPIN_NS;
        } else if (now > end) {
            return seen;
        }
    }
}

/* Takes a share of the current run, [*begin, *end); 0: nothing is left. */
static int take_share(struct gm_pool *pool, uint32_t *begin, uint32_t *end)
{
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    for (;;) {
        const uint32_t items = atomic_load_explicit(&pool->items, memory_order_acquire);
        const uint32_t grain = atomic_load_explicit(&pool->grain, memory_order_relaxed);
        const uint32_t least = atomic_load_explicit(&pool->least, memory_order_relaxed);
        const uint32_t next = (uint32_t)ticket;
        if (next >= items) {
            return 0;
        }
        const uint32_t left = items - next;
        uint32_t n = left / (SHARE_FIRST * (uint32_t)pool->threads) / grain * grain;
        n = n > least ? n : least;
        n = n < left ? n : left;
        if (atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket + n,
                                                  memory_order_acq_rel, memory_order_acquire)) {
            *begin = next;
            *end = next + n;
            return 1;
        }
    }
}

static void work(struct gm_pool *pool, int index)
{
    uint32_t begin;
    uint32_t end;
    while (take_share(pool, &begin, &end)) {
        const uint32_t items = atomic_load_explicit(&pool->items, memory_order_relaxed);
        pool->fn(pool->ctx, (int32_t)begin, (int32_t)end, index);
        if (atomic_fetch_add(&pool->done, end - begin) + (end - begin) == items &&
            atomic_load(&pool->caller_sleeps)) {
            futex_wake(&pool->done, 1);
        }
    }
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    struct gm_pool *pool = self->pool;
    set_fp_mode();
    uint32_t seen = 0;
    for (;;) {
        uint32_t bell = spin_while(&pool->bell, seen, &pool->resting);
        while (bell == seen) {
            atomic_fetch_add(&pool->sleepers, 1);
            futex_wait(&pool->bell, seen);
            atomic_fetch_sub(&pool->sleepers, 1);
            bell = atomic_load(&pool->bell);
        }
        seen = bell;
        if (atomic_load(&pool->stop)) {
            return NULL;
        }
        work(pool, self->index);
    }
}

static void ring(struct gm_pool *pool, int wanted)
{
    atomic_fetch_add(&pool->bell, 1);
    if (atomic_load(&pool->sleepers) != 0) {
        futex_wake(&pool->bell, wanted);
    }
}

static int start_workers(struct gm_pool *pool)
{
    sigset_t all;
    sigset_t before;
    sigfillset(&all);        /* signals stay with the threads that expect them, */
    sigdelset(&all, SIGBUS); /* but a page that cannot be read is a matter of who reads it */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int i = 1; i < pool->threads && !failed; i++) {
        struct worker *w = &pool->workers[i - 1];
        w->pool = pool;
        w->index = i;
        failed = pthread_create(&w->thread, NULL, worker_main, w);
        if (!failed) {
            pthread_setname_np(w->thread, "gm-worker");
            pool->started++;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

struct gm_pool *gm_pool_new(int threads)
{
    if (threads < 1) {
        threads = 1;
    }
    if (threads > GM_THREADS_MAX) {
        threads = GM_THREADS_MAX;
    }
    size_t bytes = sizeof(struct gm_pool) + (size_t)threads * sizeof(struct worker);
    bytes = (bytes + LINE - 1) / LINE * LINE;
    struct gm_pool *pool = aligned_alloc(LINE, bytes);
    if (!pool) {
        return NULL;
    }
    *pool = (struct gm_pool){ .threads = threads, .grain = 1, .least = 1 };
    set_fp_mode();
    if (start_workers(pool) != 0) {
        gm_pool_free(&pool);
    }
    return pool;
}

void gm_pool_free(struct gm_pool **pool)
{
    struct gm_pool *p = *pool;
    if (!p) {
        return;
    }
    atomic_store(&p->stop, 1);
    ring(p, INT_MAX);
    for (int i = 0; i < p->started; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    free(p);
    *pool = NULL;
}

int gm_pool_threads(const struct gm_pool *pool)
{
    return pool->threads;
}

static void wait_done(struct gm_pool *pool)
{
    uint32_t done = atomic_load_explicit(&pool->done, memory_order_acquire);
    while (done != atomic_load_explicit(&pool->items, memory_order_relaxed)) {
        uint32_t later = spin_while(&pool->done, done, NULL);
        if (later == done) {
            atomic_store(&pool->caller_sleeps, 1);
            later = atomic_load(&pool->done);
            if (later == done) {
                futex_wait(&pool->done, done);
            }
            atomic_store(&pool->caller_sleeps, 0);
            later = atomic_load(&pool->done);
        }
        done = later;
    }
}

void gm_pool_run(struct gm_pool *pool, int32_t items, int32_t grain, gm_pool_fn *fn, void *ctx)
{
    if (items <= 0) {
        return;
    }
    if (grain < 1) {
        grain = 1;
    }
    set_fp_mode();
    if (pool->threads == 1 || items <= grain) {
        fn(ctx, 0, items, 0);
        return;
    }
    const uint32_t all = (uint32_t)items, g = (uint32_t)grain;
    const uint32_t least = all / (SHARES_LEAST * (uint32_t)pool->threads) / g * g;
    pool->run++;
    /* Nothing is left of the last run, so nobody takes a share while the fields change. */
    atomic_store_explicit(&pool->ticket, (uint64_t)pool->run << 32 | UINT32_MAX,
                          memory_order_relaxed);
    pool->fn = fn;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->items, all, memory_order_release);
    atomic_store_explicit(&pool->grain, g, memory_order_relaxed);
    atomic_store_explicit(&pool->least, least > g ? least : g, memory_order_relaxed);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    pool->run++;
    atomic_store_explicit(&pool->ticket, (uint64_t)pool->run << 32, memory_order_release);
    atomic_store_explicit(&pool->resting, 0, memory_order_relaxed);
    ring(pool, (int)((all - 1) / g));
    work(pool, 0);
    wait_done(pool);
}

void gm_pool_rest(struct gm_pool *pool)
{
    atomic_store_explicit(&pool->resting, 1, memory_order_relaxed);
}

/* The run count does not change, so a woken worker finds no chunk and spins. */
void gm_pool_wake(struct gm_pool *pool)
{
    if (pool->threads > 1) {
        atomic_store_explicit(&pool->resting, 0, memory_order_relaxed);
        ring(pool, INT_MAX);
    }
}
