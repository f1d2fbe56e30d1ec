/* support_check.h - the harness of numeric tests: seeded hostile data, guarded buffers, comparison.
 *
 * Owns:      struct gm_check: the seed, the case's name, its buffers, the count of failures.
 * Does not:  know kernels. A mismatch prints set, case, index, both values and the seed; a test
 *            then asserts that `failures` has not grown.
 * Use:       gm_check_init; per case gm_check_begin ... gm_check_end. GM_SEED=n repeats a run.
 */
#ifndef GM_TESTS_SUPPORT_CHECK_H
#define GM_TESTS_SUPPORT_CHECK_H

#include <stddef.h>
#include <stdint.h>

enum {
    GM_CHECK_BUFS_MAX = 64, /* buffers of one case */
    GM_CHECK_NAME_MAX = 120,
    GM_CHECK_SHOWN_MAX = 20, /* mismatches printed per run; the rest are only counted */
};

struct gm_check_buf {
    uint8_t *map;     /* start of the mapping */
    size_t map_bytes; /* without the guard page */
    uint8_t *data;    /* what the test was given */
    size_t data_bytes;
};

struct gm_check {
    uint64_t seed;    /* of the run */
    uint64_t state;   /* of the case's random stream: a function of seed and name */
    const char *set;  /* kernel set under test, for messages */
    const char *only; /* run only cases whose name contains this; NULL: all */
    char name[GM_CHECK_NAME_MAX];
    unsigned failures;
    unsigned cases;
    int bufs_used;
    struct gm_check_buf bufs[GM_CHECK_BUFS_MAX];
};

/* Takes the seed from GM_SEED (default 1) and prints it. */
void gm_check_init(struct gm_check *c);

/* Names the next case (printf) and restarts the random stream for it. 0: filtered out. */
int gm_check_begin(struct gm_check *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Checks that nothing around the case's buffers was written, and frees them. */
void gm_check_end(struct gm_check *c);

/* Zero on failure of `ok`; counts and prints like a mismatch. */
int gm_check_true(struct gm_check *c, int ok, const char *what);

/* A buffer that ends `slack` bytes before an unreadable page. It and everything around it hold
 * bytes 0xff (NaN in every float format). The case owns it. */
void *gm_check_bytes(struct gm_check *c, size_t bytes, size_t slack);
float *gm_check_floats(struct gm_check *c, size_t count);

/* Random numbers of the case. */
uint64_t gm_check_u64(struct gm_check *c);
uint32_t gm_check_below(struct gm_check *c, uint32_t limit); /* [0, limit), limit > 0 */
double gm_check_unit(struct gm_check *c);                    /* [0, 1) */
double gm_check_normal(struct gm_check *c);                  /* mean 0, variance 1 */

/* Normal values. */
void gm_check_fill_normal(struct gm_check *c, float *x, size_t n, float scale);

/* Hostile values: normal ones mixed with 0, -0, tiny (subnormal too), values up to +-huge, and
 * repeats of the one before. */
void gm_check_fill(struct gm_check *c, float *x, size_t n, float huge);

/* |got - want| <= bound(s) for every element; NaN equals NaN, an infinity only itself. */
void gm_check_within(struct gm_check *c, const float *want, const float *got, size_t n,
                     const double *bounds);
void gm_check_near(struct gm_check *c, const float *want, const float *got, size_t n,
                   double relative, double absolute);

/* The same bytes. `what` says which two ways should have agreed. */
void gm_check_same(struct gm_check *c, const void *a, const void *b, size_t bytes,
                   const char *what);

#endif
