/* peak.c - the limits of this machine in plain C.
 *
 * Owns:      the read with the compiler's own loads, and the reference's products: doubles.
 * Does not:  measure time (the caller does), or stand for the machine's limit of reading: the other
 *            sets read with wider loads.
 */
#include "kernels/ref/ref.h"

#include "kernels/peak.h"

enum { PAIR = 2, SUMS = 8 };

uint64_t gm_ref_peak_read(const void *data, size_t bytes)
{
    return gm_peak_read_all(data, bytes);
}

/* linear() and attend() of the reference multiply doubles, whatever the weights are. */
uint64_t gm_ref_peak_products(enum gm_peak kind, uint64_t products)
{
    typedef double pair __attribute__((vector_size(PAIR * sizeof(double))));
    const pair factor = { 0.5, 0.25 }, more = { 1.0, 2.0 };
    pair sums[SUMS];
    const uint64_t rounds = products / (PAIR * SUMS) + 1;
    (void)kind;
    for (int i = 0; i < SUMS; i++)
        sums[i] = (pair){ i, -i };
    pair s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    pair s4 = sums[4], s5 = sums[5], s6 = sums[6], s7 = sums[7];
    for (uint64_t n = 0; n < rounds; n++) {
        s0 = s0 * factor + more;
        s1 = s1 * factor + more;
        s2 = s2 * factor + more;
        s3 = s3 * factor + more;
        s4 = s4 * factor + more;
        s5 = s5 * factor + more;
        s6 = s6 * factor + more;
        s7 = s7 * factor + more;
    }
    const pair all = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7));
    volatile double keep = all[0] + all[1]; /* or the loop would be removed */
    (void)keep;
    return rounds * PAIR * SUMS;
}
