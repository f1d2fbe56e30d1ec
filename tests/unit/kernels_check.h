/* kernels_check.h - the parts of test_kernels.c: one function per group of kernel entries.
 *
 * Owns:      nothing. Every function compares `k` with gm_ref through the harness; the harness's
 *            failure count is the result.
 * Does not:  know a kernel set: `k` is any of gm_kernels_available().
 */
#ifndef GM_TESTS_KERNELS_CHECK_H
#define GM_TESTS_KERNELS_CHECK_H

#include "kernels/kernels.h"
#include "tests/unit/support_check.h"

typedef void gm_check_fn(struct gm_check *c, const struct gm_kernels *k);

/* kernels_linear.c */
gm_check_fn gm_check_linear, gm_check_linear_exact, gm_check_linear_cuts, gm_check_linear_special;
gm_check_fn gm_check_embed;

/* kernels_packed.c */
gm_check_fn gm_check_packed;

/* kernels_attend.c */
gm_check_fn gm_check_kv_store, gm_check_attend, gm_check_attend_ways, gm_check_attend_bits;
gm_check_fn gm_check_attend_order;

/* kernels_point.c */
gm_check_fn gm_check_norms, gm_check_rope, gm_check_gelu, gm_check_axpy, gm_check_softcap;
gm_check_fn gm_check_logsumexp, gm_check_top_k, gm_check_finite;

/* kernels_bench.c: prints a line per case of each set whose name contains `only` (NULL: all).
 * Returns how many lines differ from gm_ref; -1 when the bench could not run. */
int gm_bench_kernels(const struct gm_kernels *const *sets, int count, const char *only);

/* A random matrix of the type (kernels_linear.c): plausible scales of both signs, now and then zero
 * or subnormal, every code. Ends `slack` bytes before a guard page; the case owns it. */
struct gm_mat gm_check_mat(struct gm_check *c, enum gm_type type, int32_t rows, int32_t cols,
                           size_t slack);

/* All weight types. */
enum { GM_CHECK_TYPES = 11 };
extern const enum gm_type gm_check_types[GM_CHECK_TYPES];

#endif
