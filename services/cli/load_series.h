/* load_series.h - many numbers of one kind, of which a bounded sample is kept.
 *
 * Owns:      the sample, and the largest number of all.
 * Does not:  know what is measured.
 */
#ifndef GM_LOAD_SERIES_H
#define GM_LOAD_SERIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gm_series {
    double *values; /* owned; n of them, in no order */
    size_t n, cap, keep;
    uint64_t seen; /* numbers added */
    double max;    /* of all that were added */
    bool sorted;
};

/* Keeps all numbers up to `keep`, then a fair sample (every number is as likely to be in it). */
void gm_series_begin(struct gm_series *s, size_t keep);
void gm_series_free(struct gm_series *s);

/* false: out of memory; the number is not counted. */
bool gm_series_add(struct gm_series *s, double value);

/* The smallest kept number that is at least as large as the share q (0 .. 1) of the kept ones;
 * NaN when there is none. */
double gm_series_quantile(struct gm_series *s, double q);

/* A random number of a chain: the same state gives the same numbers. */
uint64_t gm_load_random(uint64_t *state);

#endif
