/* load_series.c - a bounded sample of many numbers, and its quantiles.
 *
 * Owns:      the choice of what is kept (reservoir sampling, always the same).
 * Does not:  know what is measured.
 */
#include "services/cli/load_series.h"

#include <math.h>
#include <stdlib.h>

enum { FIRST_CAP = 256 };

void gm_series_begin(struct gm_series *s, size_t keep)
{
    *s = (struct gm_series){ .keep = keep };
}

void gm_series_free(struct gm_series *s)
{
    free(s->values);
    s->values = NULL;
    s->n = s->cap = 0;
}

/* splitmix64: full period, and any seed will do. */
uint64_t gm_load_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

bool gm_series_add(struct gm_series *s, double value)
{
    if (s->n == s->cap && s->n < s->keep) {
        size_t cap = s->cap ? 2 * s->cap : FIRST_CAP;
        cap = cap < s->keep ? cap : s->keep;
        double *more = realloc(s->values, cap * sizeof *more);
        if (!more)
            return false;
        s->values = more;
        s->cap = cap;
    }
    s->max = s->seen == 0 || value > s->max ? value : s->max;
    s->seen++;
    if (s->n < s->keep) {
        s->values[s->n++] = value;
    } else {
        uint64_t state = s->seen;
        const uint64_t at = gm_load_random(&state) % s->seen;
        if (at >= s->keep)
            return true;
        s->values[at] = value;
    }
    s->sorted = false;
    return true;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gm_series_quantile(struct gm_series *s, double q)
{
    if (s->n == 0)
        return (double)NAN;
    if (!s->sorted)
        qsort(s->values, s->n, sizeof *s->values, compare);
    s->sorted = true;
    const double rank = ceil(q * (double)s->n);
    const size_t at = rank < 1 ? 0 : (size_t)rank - 1;
    return s->values[at < s->n ? at : s->n - 1];
}
