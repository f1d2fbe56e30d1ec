/* tables.c - puts the kernel sets of this folder together.
 *
 * Owns:      which entries each set takes over from gm_ref (all but embed and rope_angles). Built
 * without instruction-set flags; on other machines than x86-64 it is empty. Does not:  hold
 * kernels; look at the CPU.
 */
#include "kernels/cpu/tables.h"

#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"
#include "kernels/cpu/avx512_set.h"
#include "kernels/cpu/avx512bf16_set.h"

#include <pthread.h>

static struct gm_kernels avx2;
static struct gm_kernels avx512;
static struct gm_kernels avx512bf16;
static pthread_once_t avx2_once = PTHREAD_ONCE_INIT;
static pthread_once_t avx512_once = PTHREAD_ONCE_INIT;
static pthread_once_t avx512bf16_once = PTHREAD_ONCE_INIT;

static void fill_avx2(void)
{
    avx2 = gm_ref;
    avx2.id = "avx2-2";
    avx2.act_bytes = gm_avx2_act_bytes;
    avx2.prepare = gm_avx2_prepare;
    avx2.linear = gm_avx2_linear;
    avx2.pack_bytes = gm_avx2_pack_bytes;
    avx2.pack_id = "avx2x8-2";
    avx2.pack = gm_avx2_pack;
    avx2.embed = gm_avx2_embed;
    avx2.rms_norm = gm_avx2_rms_norm;
    avx2.rms_norm_add = gm_avx2_rms_norm_add;
    avx2.rope = gm_avx2_rope;
    avx2.kv_store = gm_avx2_kv_store;
    avx2.attend = gm_avx2_attend;
    avx2.attend_part = gm_avx2_attend_part;
    avx2.attend_join = gm_avx2_attend_join;
    avx2.gelu_mul = gm_avx2_gelu_mul;
    avx2.axpy = gm_avx2_axpy;
    avx2.softcap = gm_avx2_softcap;
    avx2.logsumexp = gm_avx2_logsumexp;
    avx2.top_k = gm_avx2_top_k;
    avx2.all_finite = gm_avx2_all_finite;
    avx2.peak_read = gm_avx2_peak_read;
    avx2.peak_products = gm_avx2_peak_products;
}

static void fill_avx512(void)
{
    avx512 = gm_ref;
    avx512.id = "avx512vnni-2";
    avx512.act_bytes = gm_avx512_act_bytes;
    avx512.prepare = gm_avx512_prepare;
    avx512.linear = gm_avx512_linear;
    avx512.pack_bytes = gm_avx512_pack_bytes;
    avx512.pack_id = "vnni16-2";
    avx512.pack = gm_avx512_pack;
    avx512.embed = gm_avx512_embed;
    avx512.rms_norm = gm_avx512_rms_norm;
    avx512.rms_norm_add = gm_avx512_rms_norm_add;
    avx512.rope = gm_avx512_rope;
    avx512.kv_store = gm_avx512_kv_store;
    avx512.attend = gm_avx512_attend;
    avx512.attend_part = gm_avx512_attend_part;
    avx512.attend_join = gm_avx512_attend_join;
    avx512.gelu_mul = gm_avx512_gelu_mul;
    avx512.axpy = gm_avx512_axpy;
    avx512.softcap = gm_avx512_softcap;
    avx512.logsumexp = gm_avx512_logsumexp;
    avx512.top_k = gm_avx512_top_k;
    avx512.all_finite = gm_avx512_all_finite;
    avx512.peak_read = gm_avx512_peak_read;
    avx512.peak_products = gm_avx512_peak_products;
}

/* The AVX-512 set with attention of its own: weights are packed alike. */
static void fill_avx512bf16(void)
{
    avx512bf16 = *gm_avx512_table();
    avx512bf16.id = "avx512bf16-1";
    avx512bf16.attend = gm_avx512bf16_attend;
    avx512bf16.attend_part = gm_avx512bf16_attend_part;
    avx512bf16.attend_join = gm_avx512bf16_attend_join;
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

const struct gm_kernels *gm_avx512bf16_table(void)
{
    pthread_once(&avx512bf16_once, fill_avx512bf16);
    return &avx512bf16;
}

#endif
