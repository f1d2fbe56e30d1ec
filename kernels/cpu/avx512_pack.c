/* avx512_pack.c - weights into the layout of the AVX-512 VNNI kernels, and rows of an embedding out
 * of it.
 *
 * Owns:      the entries pack_bytes, pack and embed; the code is in quant_packed.inc,
 * quant_pack.inc. Does not:  multiply.
 */
#if defined(__x86_64__)

#include "kernels/cpu/avx512_set.h"

#include "kernels/cpu/avx512_unpack.h"
#include "kernels/cpu/quant_pack.inc"

size_t gm_avx512_pack_bytes(enum gm_type type, int32_t rows, int32_t cols)
{
    return pack_of(type) ? pack_bytes(type, rows, cols)
                         : gm_avx512_pack_bytes_float(type, rows, cols);
}

void gm_avx512_pack(void *dst, const struct gm_mat *w, int32_t begin, int32_t end)
{
    if (pack_of(w->type)) {
        pack_of(w->type)(dst, w, begin, end);
    } else {
        gm_avx512_pack_float(dst, w, begin, end);
    }
}

void gm_avx512_embed(float *y, const struct gm_mat *table, int32_t id, float scale)
{
    if (!table->packed) {
        gm_ref.embed(y, table, id, scale);
    } else if (pack_of(table->type)) {
        embed_packed(y, table, id, scale);
    } else {
        gm_avx512_embed_float(y, table, id, scale);
    }
}

#endif
