/* avx2_attend.c - attention with AVX2.
 *
 * Owns:      the entries and the choice by KV type; the code is in vec_attend.h.
 * Does not:  store keys and values (avx2_point.c).
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx2_set.h"

#include "kernels/cpu/vec_attend.h"

#define DEFINE(T)                                                                                  \
    static void tiles_##T(const struct gm_att_walk *w, const struct gm_att_page *page,             \
                          int32_t number, int32_t begin, int32_t end)                              \
    {                                                                                              \
        gm_att_tiles(GM_KV_##T, w, page, number, begin, end);                                      \
    }
DEFINE(F32)
DEFINE(BF16)
DEFINE(F16)
DEFINE(Q8)

static void expand_BF16(const struct gm_att_page *page, float *out)
{
    gm_att_expand(GM_KV_BF16, page, out);
}

static void expand_Q8(const struct gm_att_page *page, float *out)
{
    gm_att_expand(GM_KV_Q8, page, out);
}

static const struct gm_att_type types[] = {
    [GM_KV_F32] = { tiles_F32, NULL },
    [GM_KV_BF16] = { tiles_BF16, expand_BF16 },
    [GM_KV_F16] = { tiles_F16, NULL },
    [GM_KV_Q8] = { tiles_Q8, expand_Q8 },
};

void gm_avx2_attend(const struct gm_attend *a, int32_t kv_head)
{
    gm_vec_attend(a, kv_head, &types[a->kv.type], &types[GM_KV_F32]);
}

void gm_avx2_attend_part(const struct gm_attend *a, int32_t kv_head, int32_t page, float *parts)
{
    gm_vec_attend_part(a, kv_head, page, parts, &types[a->kv.type]);
}

void gm_avx2_attend_join(const struct gm_attend *a, int32_t kv_head, int32_t row,
                         const float *parts)
{
    gm_vec_attend_join(a, kv_head, row, parts);
}

#endif
