/* kernels_cases.h - what the files of the kernel bench share.
 *
 * Owns:      struct gm_kbench (one run) and struct gm_kcase (one line in the making).
 * Does not:  appear outside kernels_*.c of this folder.
 */
#ifndef GM_CLI_KERNELS_CASES_H
#define GM_CLI_KERNELS_CASES_H

#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "services/cli/kernels_bench.h"
#include "services/cli/kernels_peak.h"

struct gm_kbench {
    const struct gm_kbench_options *o;
    const struct gm_kernels *k;
    struct gm_pool *pools[2]; /* one thread; all of them, NULL when that is one too */
    struct gm_peaks peaks;
    uint64_t random; /* state */
    gm_kbench_fn *fn;
    void *ctx;
};

struct gm_kcase {
    char name[GM_KBENCH_NAME_MAX];
    void (*run)(void *job, struct gm_pool *pool); /* what is timed; may be called any time */
    bool (*differs)(void *job);                   /* after a run; sees what it wrote */
    void *job;
    double bytes, products;
    enum gm_peak kind; /* of the products */
    bool shared;       /* run() shares the work out: the case is run with all threads too */
};

/* Names the case; whether the options want it. */
bool gm_kcase_named(const struct gm_kbench *b, struct gm_kcase *c, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Runs, compares, times and reports a case that is wanted, once for each number of threads. Errors
 * as gm_kbench_run. */
enum gm_status gm_kcase_run(struct gm_kbench *b, const struct gm_kcase *c, struct gm_err *err);

/* The groups. */
enum gm_status gm_kcases_linear(struct gm_kbench *b, struct gm_err *err);
enum gm_status gm_kcases_attend(struct gm_kbench *b, struct gm_err *err);
enum gm_status gm_kcases_point(struct gm_kbench *b, struct gm_err *err);

/* [-size, size), the same numbers in every run. */
void gm_kbench_fill(struct gm_kbench *b, float *x, size_t n, float size);
uint32_t gm_kbench_below(struct gm_kbench *b, uint32_t limit);

/* n bytes at a cache line, free() them; NULL: no memory. */
void *gm_kbench_alloc(size_t n);

/* Whether any got[i] is further from want[i] than `bound`, or is no number where want[i] is one. */
bool gm_kbench_far(const float *got, const float *want, size_t n, double bound);

#endif
