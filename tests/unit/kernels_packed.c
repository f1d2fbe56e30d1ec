/* kernels_packed.c - packed weights of a kernel set against the same weights as they lie in a file.
 *
 * Owns:      the comparison of bits: linear() for every number of rows that has a kernel of its
 * own, any cut of the outputs, embed(); packing in parts; sizes. Does not:  prove linear() itself
 * (kernels_linear.c).
 */
#include "tests/unit/kernels_check.h"

#include <string.h>

static const struct shape {
    int32_t cols, outs;
} shapes[] = {
    { 32, 1 },   { 32, 37 },   { 256, 16 },  { 256, 33 },  { 640, 67 },
    { 768, 53 }, { 1024, 48 }, { 2048, 19 }, { 2560, 35 }, { 6912, 18 },
};
static const int32_t row_counts[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 23 };
enum { ROWS_MAX = 23 };

/* Packs m in parts, the last first, into a buffer that ends at a guard page. */
static struct gm_mat packed(struct gm_check *c, const struct gm_kernels *k, const struct gm_mat *m)
{
    struct gm_mat p = *m;
    const size_t bytes = k->pack_bytes(m->type, m->rows, m->cols);
    uint8_t *dst = gm_check_bytes(c, bytes, 0);
    gm_check_true(c, bytes % 64 == 0 && (uintptr_t)dst % 64 == 0, "packed bytes are no lines");
    for (int32_t end = m->rows; end > 0;) {
        int32_t begin = (end - 1) / GM_PACK_ROWS * GM_PACK_ROWS;
        k->pack(dst, m, begin, end);
        end = begin;
    }
    p.data = dst;
    p.packed = true;
    return p;
}

static void compare(struct gm_check *c, const struct gm_kernels *k, const struct gm_mat *m)
{
    const size_t outs = (size_t)m->rows, cols = (size_t)m->cols, act_bytes = k->act_bytes(m->cols);
    const struct gm_mat p = packed(c, k, m);
    float *x = gm_check_floats(c, ROWS_MAX * cols);
    void *act = gm_check_bytes(c, ROWS_MAX * act_bytes, 0);
    gm_check_fill(c, x, ROWS_MAX * cols, 1e5f);
    k->prepare(act, x, cols, ROWS_MAX, m->cols, true);
    float *want = gm_check_floats(c, ROWS_MAX * outs), *got = gm_check_floats(c, ROWS_MAX * outs);
    for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0]; i++) {
        const int32_t rows = row_counts[i];
        const size_t bytes = (size_t)rows * outs * sizeof *got;
        memset(got, 0xff, bytes);
        k->linear(want, outs, m, act, rows, 0, m->rows);
        for (int32_t begin = 0, end; begin < m->rows; begin = end) {
            end = begin + 1 + (int32_t)gm_check_below(c, 40);
            end = end < m->rows ? end : m->rows;
            k->linear(got, outs, &p, act, rows, begin, end);
            if (end < m->rows) {
                const uint32_t untouched = UINT32_MAX;
                gm_check_same(c, got + end, &untouched, sizeof untouched, "behind the cut");
            }
        }
        gm_check_same(c, want, got, bytes, "weights from the file, packed");
    }
    float *table = gm_check_floats(c, cols), *row = gm_check_floats(c, cols);
    for (int32_t id = 0; id < m->rows; id++) {
        gm_ref.embed(table, m, id, 25.5f);
        k->embed(row, &p, id, 25.5f);
        gm_check_near(c, table, row, cols, 1e-5, 1e-6);
    }
}

void gm_check_packed(struct gm_check *c, const struct gm_kernels *k)
{
    for (size_t t = 0; t < GM_CHECK_TYPES && k->pack_bytes; t++) {
        const struct gm_type_info *info = gm_type_info((uint32_t)gm_check_types[t]);
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            const struct shape *s = &shapes[i];
            if (s->cols % (int32_t)info->block_elems != 0 ||
                k->pack_bytes(gm_check_types[t], s->outs, s->cols) == 0 ||
                !gm_check_begin(c, "packed %s %dx%d", info->name, s->outs, s->cols))
                continue;
            struct gm_mat m = gm_check_mat(c, gm_check_types[t], s->outs, s->cols, 0);
            compare(c, k, &m);
            gm_check_end(c);
        }
    }
}
