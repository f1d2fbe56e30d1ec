/* kernels_peak.c - what this machine can do at most: bytes read and products made in a second.
 *
 * Owns:      the buffer, the sharing out among the pool's threads, the check that all was read.
 * Does not:  hold the loops (peak_read() and peak_products() of the kernel sets), write while it
 *            measures, or pin threads.
 */
#include "services/cli/kernels_peak.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "kernels/kernels.h"
#include "kernels/pool.h"

enum {
    ITEM_BYTES = 64 << 10, /* of a long read */
    READS = 4,             /* of which the best counts */
    READ_BYTES = 4 << 20,  /* a read of less than this is repeated so often */
    RUNS = 4,              /* of products */
    ITEMS_A_THREAD = 4,    /* of products */
};

struct reading {
    const struct gm_peaks *p;
    size_t offset, item_bytes;
    int repeats;
    atomic_ullong sum;
};
struct making {
    const struct gm_kernels *k;
    enum gm_peak kind;
    uint64_t item_products;
    atomic_ullong made;
};

double gm_peaks_now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The last set in the list is the best that this CPU has. */
static const struct gm_kernels *best_set(void)
{
    const struct gm_kernels *best = &gm_ref;
    for (const char *const *name = gm_kernels_available(); *name; name++) {
        const struct gm_kernels *k = gm_kernels_select(*name, NULL);
        best = k ? k : best;
    }
    return best;
}

enum gm_status gm_peaks_open(struct gm_peaks *p, size_t bytes, struct gm_err *err)
{
    const size_t step = (size_t)GM_PEAK_PIECES * ITEM_BYTES;
    memset(p, 0, sizeof *p);
    p->reader = best_set();
    bytes = bytes / step * step;
    if (bytes == 0 || bytes / ITEM_BYTES > INT32_MAX)
        return gm_fail(err, GM_INVALID, "a buffer of %zu bytes cannot be read in %d pieces", bytes,
                       GM_PEAK_PIECES);
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a buffer of %zu MiB: %s", bytes >> 20,
                       strerror(errno));
    (void)madvise(data, bytes, MADV_HUGEPAGE);
    memset(data, 1, bytes); /* each page is there, and none is the zero page */
    p->data = data;
    p->bytes = bytes;
    return GM_OK;
}

void gm_peaks_close(struct gm_peaks *p)
{
    if (p->data)
        (void)munmap(p->data, p->bytes);
    memset(p, 0, sizeof *p);
}

static void read_items(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct reading *r = ctx;
    const uint8_t *at = r->p->data + r->offset + (size_t)begin * r->item_bytes;
    const size_t bytes = (size_t)(end - begin) * r->item_bytes;
    uint64_t sum = 0;
    (void)worker;
    for (int i = 0; i < r->repeats; i++)
        sum += r->p->reader->peak_read(at, bytes);
    atomic_fetch_add(&r->sum, sum);
}

/* One read of items * item_bytes bytes, repeated; *rate in bytes a second. Each byte is 1, so the
 * sum is known: a wrong one means that not everything was read. */
static enum gm_status read_once(struct reading *r, struct gm_pool *pool, int32_t items,
                                double *rate, struct gm_err *err)
{
    const size_t bytes = (size_t)items * r->item_bytes * (size_t)r->repeats;
    const uint64_t want = UINT64_C(0x0101010101010101) * (bytes / sizeof(uint64_t));
    atomic_store(&r->sum, 0);
    const double begin = gm_peaks_now();
    gm_pool_run(pool, items, 1, read_items, r);
    const double seconds = gm_peaks_now() - begin;
    if (atomic_load(&r->sum) != want)
        return gm_fail(err, GM_INTERNAL, "the reading threads added to a wrong sum");
    *rate = (double)bytes / (seconds > 0 ? seconds : 1e-9);
    return GM_OK;
}

enum gm_status gm_peaks_read(struct gm_peaks *p, struct gm_pool *pool, size_t bytes, double *rate,
                             struct gm_err *err)
{
    const size_t piece = p->bytes / GM_PEAK_PIECES;
    const bool stream = bytes >= piece;
    const size_t threads = (size_t)gm_pool_threads(pool);
    struct reading r = { .p = p, .item_bytes = ITEM_BYTES, .repeats = 1 };
    int32_t items = (int32_t)(piece / ITEM_BYTES);
    if (!stream) {
        r.item_bytes = bytes / threads / GM_PEAK_STEP * GM_PEAK_STEP;
        r.item_bytes = r.item_bytes ? r.item_bytes : GM_PEAK_STEP;
        items = (int32_t)(threads <= piece / r.item_bytes ? threads : piece / r.item_bytes);
        r.repeats = (int)(READ_BYTES / ((size_t)items * r.item_bytes)) + 1;
    }
    *rate = 0;
    for (int i = 0; i < READS; i++) {
        double now = 0;
        if (stream) {
            r.offset = p->next;
            p->next = (p->next + piece) % p->bytes;
        }
        const enum gm_status rc = read_once(&r, pool, items, &now, err);
        if (rc != GM_OK)
            return rc;
        *rate = now > *rate ? now : *rate;
    }
    return GM_OK;
}

enum gm_status gm_peaks_read_passes(int threads, size_t bytes, int passes, double *rates,
                                    struct gm_err *err)
{
    struct gm_peaks p;
    struct gm_pool *pool = gm_pool_new(threads);
    enum gm_status rc = gm_peaks_open(&p, bytes, err);
    if (rc == GM_OK && !pool)
        rc = gm_fail(err, GM_EXHAUSTED, "cannot start %d threads; give fewer --threads", threads);
    struct reading r = { .p = &p, .item_bytes = ITEM_BYTES, .repeats = 1 };
    for (int i = 0; rc == GM_OK && i < passes; i++)
        rc = read_once(&r, pool, (int32_t)(p.bytes / ITEM_BYTES), &rates[i], err);
    gm_pool_free(&pool);
    gm_peaks_close(&p);
    return rc;
}

static void make_items(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct making *m = ctx;
    (void)worker;
    for (int32_t i = begin; i < end; i++)
        atomic_fetch_add(&m->made, m->k->peak_products(m->kind, m->item_products));
}

double gm_peaks_products(const struct gm_kernels *k, struct gm_pool *pool, int kind, uint64_t each)
{
    double best = 0;
    for (int i = 0; i < RUNS; i++) {
        struct making m = { .k = k,
                            .kind = (enum gm_peak)kind,
                            .item_products = each / ITEMS_A_THREAD };
        const double begin = gm_peaks_now();
        gm_pool_run(pool, ITEMS_A_THREAD * gm_pool_threads(pool), 1, make_items, &m);
        const double seconds = gm_peaks_now() - begin;
        const double rate = (double)atomic_load(&m.made) / (seconds > 0 ? seconds : 1e-9);
        best = rate > best ? rate : best;
    }
    return best;
}
