// uses: tests/unit/model_small.c
/* test_attn.c - attention of long sequences in a step: the same bits whether rows come one by one
 * or in chunks, beside others or alone, whether threads share a row's pages or not, and when the
 * room for what they share is short.
 *
 * Owns:      sequences of several pages in a slice of a small random model, all kernel sets.
 * Does not:  test short sequences and cuts of the layers (test_model.c) or kernels.
 */
#include "common/base/log.h"
#include "common/model/exec.h"
#include "tests/unit/model_small.h"

#include <CUnit/Basic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    LEN = 640,
    SEQS = 3,
    ROWS_MAX = 300,
    START = 590, /* from here on the sequences run side by side */
};

static char path[] = "/tmp/gm_test_attn_XXXXXX";
static struct small_model model;
static int32_t ids[LEN];
static float want[LEN * SMALL_DIM]; /* hidden rows behind the last block */

struct run {
    struct gm_slice *slice;
    struct gm_kv_seq *seq[SEQS];
};

static void run_open(struct run *r, const struct gm_kernels *k, int threads, enum gm_kv_type kv)
{
    const struct gm_slice_opts o = {
        .model_path = path,
        .spec = { 0, SMALL_LAYERS, true, true },
        .kernels = k,
        .threads = threads,
        .kv_tokens = SEQS * 1024,
        .context = 1024,
        .rows_max = ROWS_MAX,
        .kv_type = kv,
    };
    struct gm_err err = GM_ERR_NONE;
    if (gm_slice_open(&r->slice, &o, &err) != GM_OK) {
        printf("%s\n", err.text);
        CU_FAIL_FATAL("the slice does not open");
    }
    for (int i = 0; i < SEQS; i++)
        r->seq[i] = gm_kv_seq_new(gm_slice_kv(r->slice));
}

/* One step: n[i] more rows of sequence i; every row must be what `want` has at its position. With
 * `keep` the rows are written to want instead. Returns how many rows differ. */
static int step(struct run *r, const int32_t n[SEQS], bool keep)
{
    static float hidden[ROWS_MAX * SMALL_DIM];
    int32_t row_ids[ROWS_MAX], pos[SEQS], rows = 0, spans = 0, bad;
    struct gm_span span[SEQS];
    for (int i = 0; i < SEQS; i++) {
        pos[i] = gm_kv_len(r->seq[i]);
        if (n[i] == 0)
            continue;
        memcpy(row_ids + rows, ids + pos[i], (size_t)n[i] * sizeof *ids);
        struct gm_kv *kv = gm_slice_kv(r->slice);
        CU_ASSERT_EQUAL_FATAL(gm_kv_reserve(kv, r->seq[i], pos[i] + n[i], NULL), GM_OK);
        CU_ASSERT_EQUAL_FATAL(gm_kv_extend(kv, r->seq[i], ids + pos[i], n[i], NULL), GM_OK);
        span[spans++] = (struct gm_span){ r->seq[i], pos[i], n[i], rows };
        rows += n[i];
    }
    CU_ASSERT_EQUAL_FATAL(gm_slice_embed(r->slice, row_ids, rows, hidden, NULL), GM_OK);
    struct gm_batch batch = { span, spans, rows, hidden, NULL, NULL };
    CU_ASSERT_EQUAL_FATAL(gm_slice_blocks(r->slice, &batch, &bad, NULL), GM_OK);
    int differ = 0;
    for (int32_t s = 0; s < spans; s++) {
        for (int32_t i = 0; i < span[s].n; i++) {
            float *at = want + (size_t)(span[s].pos + i) * SMALL_DIM;
            const float *got = hidden + (size_t)(span[s].row + i) * SMALL_DIM;
            if (keep)
                memcpy(at, got, SMALL_DIM * sizeof *at);
            else
                differ += memcmp(at, got, SMALL_DIM * sizeof *at) != 0;
        }
    }
    return differ;
}

/* One thread, a row a step up to the first page and from START on, chunks of 29 rows between. */
static void fill_want(const struct gm_kernels *k, enum gm_kv_type kv)
{
    struct run r;
    run_open(&r, k, 1, kv);
    for (int32_t at = 0; at < LEN;) {
        int32_t n = at < GM_PAGE || at >= START ? 1 : START - at < 29 ? START - at : 29;
        (void)step(&r, (const int32_t[SEQS]){ n }, true);
        at += n;
    }
    gm_slice_close(&r.slice);
}

/* Long chunks up to START for all sequences, then steps of different shapes side by side:
 * sequence 0 one row, 1 four rows, 2 now and then a long chunk from position 0 on. parts: the
 * floats left for shared rows, 0: as opened. */
static void check(const struct gm_kernels *k, enum gm_kv_type kv, int threads, size_t parts)
{
    struct run r;
    int differ = 0;
    run_open(&r, k, threads, kv);
    CU_ASSERT_EQUAL(r.slice->s.parts_floats > 0, threads > 1);
    if (parts > 0 && parts < r.slice->s.parts_floats)
        r.slice->s.parts_floats = parts;
    for (int i = 0; i < 2; i++) {
        for (int32_t at = 0; at < START; at += START / 2) {
            int32_t n[SEQS] = { 0 };
            n[i] = START / 2;
            differ += step(&r, n, false);
        }
    }
    for (int i = 0; i < 12; i++) {
        const int32_t n[SEQS] = { 1, 4, i % 4 == 0 ? 150 : i % 4 == 1 ? 7 : 0 };
        differ += step(&r, n, false);
    }
    if (differ > 0)
        printf("%s kv %d threads %d parts %zu: %d rows differ\n", k->id, (int)kv, threads, parts,
               differ);
    CU_ASSERT_EQUAL(differ, 0);
    CU_ASSERT_PTR_NULL(gm_kv_check(gm_slice_kv(r.slice)));
    gm_slice_close(&r.slice);
}

static void same_bits(void)
{
    const size_t page = SMALL_HEADS * GM_PART_FLOATS(SMALL_HEAD_DIM);
    for (const char *const *set = gm_kernels_available(); *set; set++) {
        const struct gm_kernels *k = gm_kernels_select(*set, NULL);
        for (size_t i = 0; i < 2; i++) {
            const enum gm_kv_type kv = i == 0 ? GM_KV_BF16 : GM_KV_Q8;
            fill_want(k, kv);
            check(k, kv, 3, 0);
            if (k == &gm_ref) /* slow */
                break;
            check(k, kv, 1, 0);
            check(k, kv, 2, 0);
            check(k, kv, 3, 41 * page); /* one span's parts at a time */
            check(k, kv, 3, 12 * page); /* only those of single rows */
            check(k, kv, 3, 2 * page);  /* none */
        }
    }
}

static int make_model(void)
{
    const int fd = mkstemp(path);
    uint32_t x = 5;
    if (fd < 0 || close(fd) != 0)
        return 1;
    for (int i = 0; i < LEN; i++)
        ids[i] = (int32_t)((x = x * 1664525u + 1013904223u) >> 16) % SMALL_VOCAB;
    small_make(&model, false, 23);
    return !small_write_gguf(&model, path);
}

static int remove_model(void)
{
    small_free(&model);
    return remove(path);
}

int main(void)
{
    gm_log_set_level(GM_LOG_WARN);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("attn", make_model, remove_model);
    CU_add_test(suite, "same bits for threads, chunks, neighbours, little room", same_bits);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
