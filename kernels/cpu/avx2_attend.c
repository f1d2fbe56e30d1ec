/* avx2_attend.c - attention with AVX2.
 *
 * Owns:      the choice by KV type and the sizes that fit the registers; the code is in
 * vec_attend.h. Does not:  store keys and values.
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/vec_attend.h"

enum { HEADS = 2, VECTORS = 2 };

#define DEFINE(T)                                                                                  \
    static void attend_##T(const struct gm_attend *a)                                              \
    {                                                                                              \
        gm_vec_attend(GM_KV_##T, HEADS, VECTORS, a);                                               \
    }
DEFINE(F32)
DEFINE(BF16)
DEFINE(F16)
DEFINE(Q8)

void gm_avx2_attend(const struct gm_attend *a)
{
    static void (*const by_type[])(const struct gm_attend *) = {
        [GM_KV_F32] = attend_F32,
        [GM_KV_BF16] = attend_BF16,
        [GM_KV_F16] = attend_F16,
        [GM_KV_Q8] = attend_Q8,
    };
    by_type[a->kv.type](a);
}

#endif
