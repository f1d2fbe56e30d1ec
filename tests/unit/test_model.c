// uses: tests/unit/model_small.c
/* test_model.c - one step of a slice: bits that do not depend on cuts, chunks, batches or threads,
 * and values that agree with a forward pass written in double.
 *
 * Owns:      chains of slices over small random models, all kernel sets of this CPU.
 * Does not:  test kernels (test_kernels.c) or the reading of files (test_gguf.c).
 */
#include "common/base/log.h"
#include "common/model/model.h"
#include "tests/unit/model_small.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LEN = 40, SEQS = 2, CHAIN_MAX = 3, ROW = SMALL_VOCAB };

static char dir[] = "/tmp/gm_test_model_XXXXXX";
static char model_path[2][64];
static char adapter_dir[2][64]; /* a real one, and one whose B is zero */
static struct small_model model[2];
static int32_t ids[SEQS][LEN];

/* ---- chains -----------------------------------------------------------------------------------
 */

struct setting {
    const struct gm_kernels *k;
    int model;
    const char *adapter;
    int threads;
    enum gm_kv_type kv;
    int n, cut[CHAIN_MAX + 1]; /* n slices [cut[i], cut[i + 1]) */
};

struct chain {
    struct gm_slice *slice[CHAIN_MAX];
    struct gm_kv_seq *seq[CHAIN_MAX][SEQS];
    int n;
};

static void chain_open(struct chain *c, const struct setting *s)
{
    memset(c, 0, sizeof *c);
    c->n = s->n;
    for (int i = 0; i < s->n; i++) {
        const struct gm_slice_opts o = {
            .model_path = model_path[s->model],
            .adapter_dir = s->adapter,
            .spec = { s->cut[i], s->cut[i + 1], i == 0, i == s->n - 1 },
            .kernels = s->k,
            .threads = s->threads,
            .kv_tokens = 1024,
            .context = 256,
            .rows_max = SEQS * LEN,
            .kv_type = s->kv,
        };
        struct gm_err err = GM_ERR_NONE;
        if (gm_slice_open(&c->slice[i], &o, &err) != GM_OK) {
            printf("%s\n", err.text);
            CU_FAIL_FATAL("the slice does not open");
        }
        for (int q = 0; q < SEQS; q++)
            c->seq[i][q] = gm_kv_seq_new(gm_slice_kv(c->slice[i]));
    }
}

static void chain_close(struct chain *c)
{
    for (int i = 0; i < c->n; i++) {
        CU_ASSERT_PTR_NULL(gm_kv_check(gm_slice_kv(c->slice[i])));
        gm_slice_close(&c->slice[i]);
    }
}

/* One part of a batch: `n` ids of sequence `seq`. */
struct piece {
    int seq;
    const int32_t *ids;
    int32_t n;
};

/* The head over any number of rows; its sums must agree with those of the logits. */
static void run_heads(struct gm_slice *slice, const float *hidden, int32_t rows, float *logits)
{
    enum { MOST = 100 };
    static struct gm_head_row row[MOST];
    static double lse[MOST][2];
    CU_ASSERT_EQUAL_FATAL(gm_head_chunks(SMALL_VOCAB), 1);
    CU_ASSERT_TRUE_FATAL(rows <= MOST);
    for (int32_t r = 0; r < rows; r++)
        row[r] = (struct gm_head_row){ .hidden = hidden + (size_t)r * SMALL_DIM,
                                       .logits = logits + (size_t)r * SMALL_VOCAB,
                                       .inv_t = 2.0f,
                                       .lse_raw = &lse[r][0],
                                       .lse_t = &lse[r][1] };
    gm_slice_head(slice, row, rows);
    for (int32_t r = 0; r < rows; r++) {
        CU_ASSERT_TRUE(row[r].finite);
        CU_ASSERT_DOUBLE_EQUAL(gm_head_lse(&lse[r][0], SMALL_VOCAB),
                               gm_head_lse_of(&gm_ref, row[r].logits, SMALL_VOCAB, 1.0f), 1e-5);
        CU_ASSERT_DOUBLE_EQUAL(gm_head_lse(&lse[r][1], SMALL_VOCAB),
                               gm_head_lse_of(&gm_ref, row[r].logits, SMALL_VOCAB, 2.0f), 1e-5);
    }
}

/* One step of the whole chain; logits[rows][vocab] in the order of the pieces. */
static void step(struct chain *c, const struct piece *piece, int n, float *logits)
{
    static float hidden[SEQS * LEN * SMALL_DIM];
    int32_t all[SEQS * LEN], rows = 0;
    struct gm_span span[SEQS];
    for (int p = 0; p < n; p++) {
        memcpy(all + rows, piece[p].ids, (size_t)piece[p].n * sizeof *all);
        rows += piece[p].n;
    }
    CU_ASSERT_EQUAL_FATAL(gm_slice_embed(c->slice[0], all, rows, hidden, NULL), GM_OK);
    for (int i = 0; i < c->n; i++) {
        struct gm_kv *kv = gm_slice_kv(c->slice[i]);
        volatile uint64_t progress = 0;
        int32_t row = 0, bad = 0;
        for (int p = 0; p < n; p++) {
            struct gm_kv_seq *seq = c->seq[i][piece[p].seq];
            const int32_t pos = gm_kv_len(seq);
            CU_ASSERT_EQUAL_FATAL(gm_kv_reserve(kv, seq, pos + piece[p].n, NULL), GM_OK);
            CU_ASSERT_EQUAL_FATAL(gm_kv_extend(kv, seq, piece[p].ids, piece[p].n, NULL), GM_OK);
            span[p] = (struct gm_span){ seq, pos, piece[p].n, row };
            row += piece[p].n;
        }
        struct gm_batch batch = { span, n, rows, hidden, &progress, NULL };
        CU_ASSERT_EQUAL_FATAL(gm_slice_blocks(c->slice[i], &batch, &bad, NULL), GM_OK);
        CU_ASSERT_EQUAL(bad, -1);
        CU_ASSERT_TRUE(progress >= 1);
    }
    run_heads(c->slice[c->n - 1], hidden, rows, logits);
}

static void rewind_to(struct chain *c, int seq, int32_t len)
{
    for (int i = 0; i < c->n; i++)
        CU_ASSERT_EQUAL(gm_kv_rewind(gm_slice_kv(c->slice[i]), c->seq[i][seq], len, NULL), GM_OK);
}

/* Sequence `seq` alone, `chunk` positions a step. */
static void run_chunks(struct chain *c, int seq, int32_t chunk, float *logits)
{
    for (int32_t at = 0; at < LEN; at += chunk) {
        int32_t n = LEN - at < chunk ? LEN - at : chunk;
        step(c, &(struct piece){ seq, ids[seq] + at, n }, 1, logits + at * ROW);
    }
}

/* ---- bits -------------------------------------------------------------------------------------
 */

static float want[SEQS][LEN * ROW], got[SEQS * LEN * ROW];

static void check_same(const float *a, const float *b, int32_t rows, const char *what,
                       const struct setting *s)
{
    if (memcmp(a, b, (size_t)rows * ROW * sizeof *a) == 0)
        return;
    printf("%s: bits differ (%s, model %d, adapter %s, kv %d, %d slices)\n", what, s->k->id,
           s->model, s->adapter ? "yes" : "no", (int)s->kv, s->n);
    CU_FAIL("bits differ");
}

static void check_chunks(const struct setting *s)
{
    static const int32_t chunks[] = { 2, 3, 7, LEN };
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        struct chain c;
        chain_open(&c, s);
        run_chunks(&c, 0, chunks[i], got);
        check_same(got, want[0], LEN, "chunks", s);
        chain_close(&c);
    }
}

/* Both sequences in every batch, with parts of different lengths. */
static void check_mixed(const struct setting *s)
{
    struct chain c;
    chain_open(&c, s);
    for (int32_t a = 0, b = 0; a < LEN || b < LEN;) {
        int32_t na = LEN - a < 3 ? LEN - a : 3, nb = LEN - b < 5 ? LEN - b : 5;
        struct piece p[SEQS];
        int n = 0;
        if (nb > 0)
            p[n++] = (struct piece){ 1, ids[1] + b, nb };
        if (na > 0)
            p[n++] = (struct piece){ 0, ids[0] + a, na };
        step(&c, p, n, got);
        check_same(got, want[1] + b * ROW, nb, "mixed batch, second sequence", s);
        check_same(got + nb * ROW, want[0] + a * ROW, na, "mixed batch, first sequence", s);
        a += na;
        b += nb;
    }
    chain_close(&c);
}

/* Other ids after position 20 are taken back; then to the start and once more. */
static void check_rewind(const struct setting *s)
{
    struct chain c;
    chain_open(&c, s);
    step(&c, &(struct piece){ 0, ids[0], 20 }, 1, got);
    step(&c, &(struct piece){ 0, ids[1], 17 }, 1, got + 20 * ROW);
    rewind_to(&c, 0, 15);
    step(&c, &(struct piece){ 0, ids[0] + 15, LEN - 15 }, 1, got + 15 * ROW);
    check_same(got, want[0], LEN, "rewinding", s);
    rewind_to(&c, 0, 0);
    run_chunks(&c, 0, 11, got);
    check_same(got, want[0], LEN, "from the start again", s);
    chain_close(&c);
}

/* The reference of a setting: one slice, one thread, one row a step. */
static void fill_want(const struct setting *s)
{
    struct setting plain = *s;
    plain.threads = 1;
    plain.n = 1;
    plain.cut[1] = SMALL_LAYERS;
    struct chain c;
    chain_open(&c, &plain);
    for (int q = 0; q < SEQS; q++)
        run_chunks(&c, q, 1, want[q]);
    chain_close(&c);
}

static void check_bits(struct setting s)
{
    static const int cuts[][CHAIN_MAX + 2] = {
        { 1, 0, 3 }, { 2, 0, 1, 3 }, { 2, 0, 2, 3 }, { 3, 0, 1, 2, 3 }
    };
    fill_want(&s);
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        s.n = cuts[i][0];
        memcpy(s.cut, cuts[i] + 1, sizeof s.cut);
        s.threads = i % 2 ? 1 : 2;
        check_mixed(&s);
        if (i == 0)
            check_chunks(&s);
        if (i == 0 || i == 3)
            check_rewind(&s);
    }
}

static void same_bits(void)
{
    for (const char *const *set = gm_kernels_available(); *set; set++) {
        struct setting s = { .k = gm_kernels_select(*set, NULL), .cut = { 0, SMALL_LAYERS } };
        for (s.model = 0; s.model < 2; s.model++)
            for (int kv = GM_KV_F32; kv <= GM_KV_Q8; kv++) {
                s.kv = (enum gm_kv_type)kv;
                check_bits(s);
            }
    }
}

static void same_bits_with_adapter(void)
{
    for (const char *const *set = gm_kernels_available(); *set; set++)
        check_bits((struct setting){ .k = gm_kernels_select(*set, NULL),
                                     .cut = { 0, SMALL_LAYERS },
                                     .adapter = adapter_dir[0] });
}

/* ---- values -----------------------------------------------------------------------------------
 */

static double worst_difference(const struct setting *s)
{
    static double exact[LEN * ROW];
    double worst = 0.0;
    fill_want(s);
    for (int q = 0; q < SEQS; q++) {
        small_forward(&model[s->model], ids[q], LEN, s->adapter != NULL, exact);
        for (int i = 0; i < LEN * ROW; i++)
            worst = fmax(worst, fabs((double)want[q][i] - exact[i]) / (1.0 + fabs(exact[i])));
    }
    return worst;
}

static void against_double(void)
{
    for (const char *const *set = gm_kernels_available(); *set; set++) {
        struct setting s = { .k = gm_kernels_select(*set, NULL), .cut = { 0, SMALL_LAYERS } };
        const double bound = s.k == &gm_ref ? 1e-4 : 0.25; /* others round activations to 8 bits */
        for (s.model = 0; s.model < 2; s.model++) {
            double worst = worst_difference(&s);
            printf("%s model %d: %.2e ", s.k->id, s.model, worst);
            CU_ASSERT_TRUE(worst <= bound);
        }
    }
}

static void adapter_against_double(void)
{
    static float plain[LEN * ROW];
    struct setting s = { .k = &gm_ref, .cut = { 0, SMALL_LAYERS } };
    fill_want(&s);
    memcpy(plain, want[0], sizeof plain);
    s.adapter = adapter_dir[1]; /* B = 0 */
    fill_want(&s);
    for (int i = 0; i < LEN * ROW; i++)
        CU_ASSERT_EQUAL(plain[i], want[0][i]);
    s.adapter = adapter_dir[0];
    CU_ASSERT_TRUE(worst_difference(&s) <= 1e-4);
    CU_ASSERT_TRUE(memcmp(plain, want[0], sizeof plain) != 0);
    s.k = gm_kernels_select(NULL, NULL);
    CU_ASSERT_TRUE(worst_difference(&s) <= 0.25);
}

/* ---- refusals ---------------------------------------------------------------------------------
 */

/* A span that is not finite is named with the layer; its neighbour's bits stay. */
static void not_finite(void)
{
    static float hidden[2 * SMALL_DIM];
    const struct setting s = { .k = &gm_ref, .threads = 2, .n = 1, .cut = { 0, SMALL_LAYERS } };
    struct chain c;
    struct gm_err err = GM_ERR_NONE;
    int32_t bad = -1;
    fill_want(&s);
    chain_open(&c, &s);
    const int32_t first[] = { ids[0][0], ids[1][0] };
    CU_ASSERT_EQUAL(gm_slice_embed(c.slice[0], first, 2, hidden, &err), GM_OK);
    hidden[SMALL_DIM + 7] = INFINITY;
    struct gm_span span[] = { { c.seq[0][0], 0, 1, 0 }, { c.seq[0][1], 0, 1, 1 } };
    for (int q = 0; q < SEQS; q++) {
        CU_ASSERT_EQUAL(gm_kv_reserve(gm_slice_kv(c.slice[0]), c.seq[0][q], 1, &err), GM_OK);
        CU_ASSERT_EQUAL(gm_kv_extend(gm_slice_kv(c.slice[0]), c.seq[0][q], ids[q], 1, &err), GM_OK);
    }
    bool each[2] = { true, false };
    struct gm_batch batch = { span, 2, 2, hidden, NULL, each };
    CU_ASSERT_EQUAL(gm_slice_blocks(c.slice[0], &batch, &bad, &err), GM_DATA_LOSS);
    CU_ASSERT_EQUAL(bad, 1);
    CU_ASSERT(!each[0] && each[1]);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "layer 0"));
    run_heads(c.slice[0], hidden, 1, got);
    check_same(got, want[0], 1, "beside a bad span", &s);
    chain_close(&c);
}

static void refusals(void)
{
    static float hidden[SMALL_DIM];
    const struct setting s = { .k = &gm_ref, .threads = 1, .n = 3, .cut = { 0, 1, 2, 3 } };
    struct chain c;
    int32_t bad;
    chain_open(&c, &s);
    static const int32_t wrong[] = { SMALL_VOCAB, -1 };
    for (int i = 0; i < 2; i++)
        CU_ASSERT_EQUAL(gm_slice_embed(c.slice[0], &wrong[i], 1, hidden, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_slice_embed(c.slice[1], ids[0], 1, hidden, NULL), GM_PRECONDITION);
    const struct gm_span spans[] = {
        { c.seq[0][0], 0, 1, 0 },   /* not extended */
        { c.seq[0][0], 0, 2, 0 },   /* more rows than the batch */
        { c.seq[0][0], 0, 1, 1 },   /* wrong row */
        { c.seq[0][0], 256, 1, 0 }, /* past the context */
        { c.seq[0][0], -1, 1, 0 },
    };
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        struct gm_batch batch = { &spans[i], 1, 1, hidden, NULL, NULL };
        CU_ASSERT_NOT_EQUAL(gm_slice_blocks(c.slice[0], &batch, &bad, NULL), GM_OK);
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(gm_slice_numerics(c.slice[0]), "ref-1/f32/"));
    CU_ASSERT_STRING_EQUAL(gm_slice_numerics(c.slice[0]), gm_slice_numerics(c.slice[1]));
    chain_close(&c);
    struct gm_slice_opts o = { .model_path = model_path[0],
                               .spec = { 0, 3, true, true },
                               .kernels = &gm_ref,
                               .threads = 1,
                               .kv_tokens = INT32_MAX / 2,
                               .context = 256,
                               .rows_max = 4 };
    struct gm_slice *slice = NULL;
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_slice_open(&slice, &o, &err), GM_EXHAUSTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "MiB"));
    o.rows_max = GM_BATCH_ROWS_MAX + 1;
    CU_ASSERT_EQUAL(gm_slice_open(&slice, &o, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(slice);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static int make_files(void)
{
    uint32_t x = 99;
    if (!mkdtemp(dir))
        return 1;
    for (int i = 0; i < SEQS * LEN; i++)
        ids[i / LEN][i % LEN] = (int32_t)((x = x * 1664525u + 1013904223u) >> 16) % SMALL_VOCAB;
    for (int i = 0; i < 2; i++) {
        small_make(&model[i], i == 1, 17 + (uint64_t)i);
        snprintf(model_path[i], sizeof model_path[i], "%s/%d.gguf", dir, i);
        snprintf(adapter_dir[i], sizeof adapter_dir[i], "%s/a%d", dir, i);
        if (!small_write_gguf(&model[i], model_path[i]) || mkdir(adapter_dir[i], 0700) != 0 ||
            !small_write_adapter(&model[0], adapter_dir[i], i == 0 ? 1.0f : 0.0f))
            return 1;
    }
    return 0;
}

static int remove_files(void)
{
    static const char *const names[] = { "0.gguf",
                                         "1.gguf",
                                         "a0/adapter_config.json",
                                         "a0/adapter_model.safetensors",
                                         "a1/adapter_config.json",
                                         "a1/adapter_model.safetensors",
                                         "a0",
                                         "a1" };
    char path[128];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        (void)remove(path);
    }
    (void)rmdir(dir);
    for (int i = 0; i < 2; i++)
        small_free(&model[i]);
    return 0;
}

int main(void)
{
    gm_log_set_level(GM_LOG_WARN);
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("model", make_files, remove_files);
    CU_add_test(suite, "same bits for cuts, chunks, batches, threads", same_bits);
    CU_add_test(suite, "values against double", against_double);
    CU_add_test(suite, "the same with an adapter", same_bits_with_adapter);
    CU_add_test(suite, "adapter against double", adapter_against_double);
    CU_add_test(suite, "values that are not finite", not_finite);
    CU_add_test(suite, "refusals", refusals);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
