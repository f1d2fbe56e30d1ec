/* ref.c - the table of reference kernels, the specification that every other set is tested against.
 *
 * Owns:      gm_ref and its id, which changes whenever any result's bits may change.
 * Does not:  compute; linear.c, point.c, attend.c, head.c and peak.c do.
 */
#include "kernels/ref/ref.h"

const struct gm_kernels gm_ref = {
    .id = "ref-1",
    .act_bytes = gm_ref_act_bytes,
    .prepare = gm_ref_prepare,
    .linear = gm_ref_linear,
    .embed = gm_ref_embed,
    .rms_norm = gm_ref_rms_norm,
    .rms_norm_add = gm_ref_rms_norm_add,
    .rope_angles = gm_ref_rope_angles,
    .rope = gm_ref_rope,
    .kv_store = gm_ref_kv_store,
    .attend = gm_ref_attend,
    .attend_part = gm_ref_attend_part,
    .attend_join = gm_ref_attend_join,
    .gelu_mul = gm_ref_gelu_mul,
    .axpy = gm_ref_axpy,
    .softcap = gm_ref_softcap,
    .logsumexp = gm_ref_logsumexp,
    .top_k = gm_ref_top_k,
    .all_finite = gm_ref_all_finite,
    .peak_read = gm_ref_peak_read,
    .peak_products = gm_ref_peak_products,
};
