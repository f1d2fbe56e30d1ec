/* tables.h - the kernel sets of this folder, as kernels/select.c finds them.
 *
 * Owns:      the names of the tables. Each function fills its table at the first call (entries it
 *            has no own code for are gm_ref's) and must be called only on a CPU that has the set.
 * Does not:  look at the CPU (kernels/select.c does).
 */
#ifndef GM_KERNELS_CPU_TABLES_H
#define GM_KERNELS_CPU_TABLES_H

#include "kernels/kernels.h"

#if defined(__x86_64__)
const struct gm_kernels *gm_avx2_table(void);
const struct gm_kernels *gm_avx512_table(void);
const struct gm_kernels *gm_avx512bf16_table(void);
#endif

#endif
