/* tables.c - puts the kernel sets of this folder together.
 *
 * Owns:      which entries each set takes over from gm_ref. Built without instruction-set flags; on
 *            other machines than x86-64 it is empty.
 * Does not:  hold kernels; look at the CPU.
 */
#include "kernels/cpu/tables.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include <pthread.h>

static struct gm_kernels avx2;
static struct gm_kernels avx512;
static pthread_once_t avx2_once = PTHREAD_ONCE_INIT;
static pthread_once_t avx512_once = PTHREAD_ONCE_INIT;

static void fill_avx2(void)
{
    avx2 = gm_ref;
    avx2.id = "avx2-1";
}

static void fill_avx512(void)
{
    avx512 = gm_ref;
    avx512.id = "avx512vnni-1";
    avx512.act_bytes = gm_avx512_act_bytes;
    avx512.prepare = gm_avx512_prepare;
    avx512.linear = gm_avx512_linear;
}

const struct gm_kernels *gm_avx2_table(void)
{
    pthread_once(&avx2_once, fill_avx2);
    return &avx2;
}

const struct gm_kernels *gm_avx512_table(void)
{
    pthread_once(&avx512_once, fill_avx512);
    return &avx512;
}

#endif
