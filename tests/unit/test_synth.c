// uses: services/cli/synth_model.c
/* test_synth.c - random model files: they open and bind, have the types of real files, are the same
 * bytes for a seed whatever the threads; the GGUF writer below them.
 *
 * Owns:      expectations for services/cli/synth_model.c, common/model/gguf_write.c and the list of
 *            tensors in common/model/weights.c.
 * Does not:  run a model (tests/system/test_synth.py does). The vocabulary is a tiny one.
 */
#include "services/cli/synth_model.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/conf.h"
#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/model/gguf_inner.h"
#include "common/model/gguf_write.h"
#include "tests/unit/support_gguf.h"

enum { PIECES = 300, Q4_K_M = 6, FILE_BYTES_MAX = 1 << 28 };

static char dir[] = "/tmp/gm-synth-XXXXXX";
static char vocab[GM_PATH_MAX], one[GM_PATH_MAX], two[GM_PATH_MAX];

static int suite_open(void)
{
    if (!mkdtemp(dir) || gm_path_join(vocab, sizeof vocab, dir, "vocab.gguf", NULL) != GM_OK ||
        gm_path_join(one, sizeof one, dir, "one.gguf", NULL) != GM_OK ||
        gm_path_join(two, sizeof two, dir, "two.gguf", NULL) != GM_OK)
        return 1;
    struct gm_config cfg = gm_fake_config(GM_ARCH_GEMMA3);
    cfg.layers = 1;
    cfg.vocab = PIECES;
    struct gm_fake_spec spec = gm_fake_spec_of(&cfg, GM_TYPE_Q8_0, 1);
    spec.pieces = true;
    gm_fake_model(&spec, vocab);
    return 0;
}

static int suite_close(void)
{
    (void)unlink(vocab);
    (void)unlink(one);
    (void)unlink(two);
    return rmdir(dir);
}

static int files_in_dir(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        (void)closedir(d);
    return n;
}

static struct gm_synth order(int32_t type, int64_t layers)
{
    return (struct gm_synth){ .variant = "270m",
                              .type = type,
                              .layers = layers,
                              .seed = 5,
                              .vocab = vocab,
                              .out = one,
                              .replace = true,
                              .threads = 2 };
}

static struct gm_synth_report make(const struct gm_synth *s)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_synth_report report;
    CU_ASSERT_EQUAL_FATAL(gm_synth_write(s, &report, &err), GM_OK);
    return report;
}

static struct gm_gguf *open_one(void)
{
    struct gm_gguf *g = NULL;
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, one, NULL), GM_OK);
    return g;
}

/* ---- whole files -------------------------------------------------------------------------------
 */

static void test_every_type(void)
{
    static const enum gm_type maps[] = { GM_TYPE_F32,  GM_TYPE_BF16, GM_TYPE_F16, GM_TYPE_Q8_0,
                                         GM_TYPE_Q4_0, GM_TYPE_Q5_0, GM_TYPE_Q5_0 };
    static const int64_t file_types[] = { 0, 32, 1, 7, 2, 8, 15 };
    for (int32_t type = 0; type < (int32_t)(sizeof maps / sizeof maps[0]); type++) {
        struct gm_synth s = order(type, 2);
        struct gm_synth_report report = make(&s);
        struct gm_gguf *g = open_one();
        struct gm_weights w;
        struct gm_err err = GM_ERR_NONE;
        int64_t value = -1;
        double scale = 0.0;
        CU_ASSERT_EQUAL(report.layers, 2);
        CU_ASSERT_EQUAL(report.bytes, g->map.len);
        CU_ASSERT_EQUAL(gm_gguf_int(g, "general.file_type", &value, &err), GM_OK);
        CU_ASSERT_EQUAL(value, file_types[type]);
        CU_ASSERT_EQUAL(gm_gguf_float(g, "gemline.query_scale", &scale, &err), GM_OK);
        CU_ASSERT(fabs(scale - 1.0 / 16.0) < 1e-9);
        const struct gm_slice_spec all = { 0, 2, true, true };
        CU_ASSERT_EQUAL_FATAL(gm_weights_bind(&w, g, &all, &err), GM_OK);
        CU_ASSERT_EQUAL(w.cfg.d_model, 640);
        CU_ASSERT_EQUAL(w.cfg.vocab, PIECES);
        CU_ASSERT_EQUAL(w.cfg.window, 512);
        CU_ASSERT_EQUAL(w.layer[0].map[GM_MAP_Q].type, maps[type]);
        CU_ASSERT_EQUAL(w.embed.type, type < 3 ? maps[type] : GM_TYPE_Q8_0);
        gm_weights_close(&w);
        gm_gguf_close(&g);
    }
    CU_ASSERT_PTR_NOT_NULL(strstr(GM_SYNTH_TYPES, "q4_k_m"));
    CU_ASSERT_EQUAL(gm_conf_choice(GM_SYNTH_TYPES, "q4_k_m"), Q4_K_M);
}

/* The tensors of the published Gemma 3 270M in Q4_K_M have exactly these types. */
static void test_mixture(void)
{
    static const int32_t better[] = { 0, 1, 4, 7, 10, 13, 15, 16, 17 };
    struct gm_synth s = order(Q4_K_M, 0);
    CU_ASSERT_EQUAL(make(&s).layers, 18);
    struct gm_gguf *g = open_one();
    struct gm_config cfg;
    CU_ASSERT_EQUAL(gm_gguf_config(g, &cfg, NULL), GM_OK);
    CU_ASSERT_STRING_EQUAL(cfg.name, "gemma3-270m");
    for (int32_t layer = 0; layer < 18; layer++) {
        bool more = false;
        for (size_t i = 0; i < sizeof better / sizeof better[0]; i++)
            more |= better[i] == layer;
        const struct {
            const char *part;
            enum gm_type type;
        } want[] = { { "attn_q", GM_TYPE_Q5_0 },
                     { "attn_k", GM_TYPE_Q5_0 },
                     { "attn_v", more ? GM_TYPE_Q8_0 : GM_TYPE_Q5_0 },
                     { "attn_output", GM_TYPE_Q4_K },
                     { "ffn_down", more ? GM_TYPE_Q6_K : GM_TYPE_Q4_K },
                     { "ffn_up", GM_TYPE_Q5_0 },
                     { "post_ffw_norm", GM_TYPE_F32 } };
        for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
            char name[64];
            (void)snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer, want[i].part);
            const struct gm_tensor *t = gm_gguf_tensor(g, name);
            CU_ASSERT_PTR_NOT_NULL_FATAL(t);
            CU_ASSERT_EQUAL(t->type, want[i].type);
        }
    }
    gm_gguf_close(&g);
}

static void test_same_bytes(void)
{
    struct gm_buf a = GM_BUF(FILE_BYTES_MAX), b = GM_BUF(FILE_BYTES_MAX);
    struct gm_synth s = order(Q4_K_M, 2);
    s.threads = 1;
    (void)make(&s);
    s.threads = 3;
    s.out = two;
    (void)make(&s);
    CU_ASSERT_EQUAL_FATAL(gm_file_read(one, &a, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_file_read(two, &b, NULL), GM_OK);
    CU_ASSERT(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
    s.seed++;
    (void)make(&s);
    gm_buf_clear(&b);
    CU_ASSERT_EQUAL_FATAL(gm_file_read(two, &b, NULL), GM_OK);
    CU_ASSERT(a.len == b.len && memcmp(a.data, b.data, a.len) != 0);
    gm_buf_free(&a);
    gm_buf_free(&b);
}

/* Mean, variance times columns, and correlation with the element before. */
static void moments(const struct gm_tensor *t, double out[3])
{
    size_t row_bytes = gm_type_row_bytes(t->type, (size_t)t->dims[0]);
    double sum = 0.0, square = 0.0, pair = 0.0, last = 0.0;
    double n = (double)t->dims[0] * (double)t->dims[1];
    float *y = malloc((size_t)t->dims[0] * sizeof *y);
    CU_ASSERT_PTR_NOT_NULL_FATAL(y);
    for (int64_t r = 0; r < t->dims[1]; r++) {
        gm_dequant_row(y, t->data + (size_t)r * row_bytes, t->type, (size_t)t->dims[0]);
        for (int64_t i = 0; i < t->dims[0]; i++) {
            double x = (double)y[i];
            sum += x;
            square += x * x;
            pair += x * last;
            last = x;
        }
    }
    free(y);
    out[0] = sum / n;
    out[1] = (square / n - out[0] * out[0]) * (double)t->dims[0];
    out[2] = pair / square;
}

static void test_moments(void)
{
    struct gm_synth s = order(0, 1);
    (void)make(&s);
    struct gm_gguf *g = open_one();
    for (size_t i = 0; i < gm_gguf_tensor_count(g); i++) {
        const struct gm_tensor *t = gm_gguf_tensor_at(g, i);
        double got[3];
        moments(t, got);
        if (t->n_dims == 1) { /* a norm: all 1 */
            CU_ASSERT(got[0] == 1.0 && got[1] == 0.0);
            continue;
        }
        double n = (double)t->dims[0] * (double)t->dims[1];
        CU_ASSERT(fabs(got[0]) < 5.0 / sqrt(n * (double)t->dims[0]));
        CU_ASSERT(fabs(got[1] - 1.0) < 0.02);
        CU_ASSERT(fabs(got[2]) < 5.0 / sqrt(n));
    }
    const struct gm_tensor *gate = gm_gguf_tensor(g, "blk.0.ffn_gate.weight");
    const struct gm_tensor *up = gm_gguf_tensor(g, "blk.0.ffn_up.weight");
    CU_ASSERT(gate && up && memcmp(gate->data, up->data, 64) != 0);
    gm_gguf_close(&g);
}

static void test_vocabulary(void)
{
    struct gm_gguf *from = NULL;
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&from, vocab, NULL), GM_OK);
    struct gm_synth s = order(Q4_K_M, 1);
    (void)make(&s);
    struct gm_gguf *g = open_one();
    size_t seen = 0;
    for (size_t i = 0; i < from->n_kvs; i++) {
        const struct gm_gguf_kv *a = &from->kvs[i], *b = gm_gguf_find(g, a->key);
        if (strncmp(a->key, "tokenizer.", 10) != 0)
            continue;
        seen++;
        CU_ASSERT_PTR_NOT_NULL_FATAL(b);
        CU_ASSERT(a->type == b->type && a->array == b->array && a->n == b->n);
    }
    CU_ASSERT_EQUAL(seen, 7);
    struct gm_text_view texts[2][PIECES];
    CU_ASSERT_EQUAL(gm_gguf_texts(from, "tokenizer.ggml.tokens", texts[0], PIECES, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_texts(g, "tokenizer.ggml.tokens", texts[1], PIECES, NULL), GM_OK);
    for (int i = 0; i < PIECES; i++)
        CU_ASSERT(texts[0][i].len == texts[1][i].len &&
                  memcmp(texts[0][i].ptr, texts[1][i].ptr, texts[0][i].len) == 0);
    gm_gguf_close(&g);
    gm_gguf_close(&from);
}

/* ---- refusals ----------------------------------------------------------------------------------
 */

static void refuse(const struct gm_synth *s, enum gm_status want, const char *word)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_synth_report report;
    int before = files_in_dir();
    CU_ASSERT_EQUAL(gm_synth_write(s, &report, &err), want);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word));
    CU_ASSERT_EQUAL(files_in_dir(), before);
}

static void test_refusals(void)
{
    struct gm_synth good = order(Q4_K_M, 1), s = good;
    (void)unlink(one);
    s.variant = "5b";
    refuse(&s, GM_NOT_FOUND, "gemma3-27b");
    s = good;
    s.layers = GM_LAYERS_MAX + 1;
    refuse(&s, GM_INVALID, "block_count");
    s = good;
    s.type = 7;
    refuse(&s, GM_INVALID, "type");
    s = good;
    s.vocab = two;
    (void)unlink(two);
    refuse(&s, GM_NOT_FOUND, "two.gguf");
    s = good;
    s.out = dir;
    refuse(&s, GM_INVALID, "folder");
    s.replace = false;
    refuse(&s, GM_EXISTS, "already");
    gm_stop_ask();
    refuse(&good, GM_CANCELLED, "stopped");
    gm_stop_clear();
    CU_ASSERT_EQUAL(gm_file_write(one, "mine", 4, 0600, NULL), GM_OK);
    s = good;
    s.replace = false;
    refuse(&s, GM_EXISTS, "already");
    struct gm_buf b = GM_BUF(16);
    CU_ASSERT_EQUAL(gm_file_read(one, &b, NULL), GM_OK);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "mine");
    gm_buf_free(&b);
}

static void test_foreign_vocabulary(void)
{
    struct gm_synth s = order(Q4_K_M, 1);
    struct gm_fake f;
    (void)unlink(one);
    gm_fake_open(&f);
    gm_fake_text(&f, "tokenizer.ggml.model", "gpt2");
    gm_fake_texts(&f, "tokenizer.ggml.tokens", (const char *const[]){ "a" }, 1);
    gm_fake_save(&f, two);
    gm_fake_close(&f);
    s.vocab = two;
    refuse(&s, GM_UNSUPPORTED, "gpt2");
    gm_fake_open(&f);
    gm_fake_text(&f, "tokenizer.ggml.model", "llama");
    gm_fake_save(&f, two);
    gm_fake_close(&f);
    refuse(&s, GM_NOT_FOUND, "tokenizer.ggml.tokens");
}

/* ---- the writer --------------------------------------------------------------------------------
 */

static void test_writer(void)
{
    static const char *const words[] = { "first", "", "third", "fourth" };
    const float ones[] = { 1.0f, 2.0f, 3.0f };
    const int64_t dims[] = { 3, 2 };
    struct gm_gguf *from = NULL, *g = NULL;
    struct gm_gguf_out *o = NULL;
    struct gm_text_view texts[2];
    struct gm_fake f;
    size_t copied = 0;
    gm_fake_open(&f);
    gm_fake_texts(&f, "x.words", words, 4);
    gm_fake_f32(&f, "x.pi", 3.0f);
    gm_fake_bool(&f, "y.other", true);
    gm_fake_save(&f, two);
    gm_fake_close(&f);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&from, two, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_out_new(&o, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_put_copies(o, from, "x.", 2, &copied, NULL), GM_OK);
    CU_ASSERT_EQUAL(copied, 2);
    CU_ASSERT_EQUAL(gm_gguf_put_u32(o, "", 1, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor(o, "a", GM_TYPE_F32, 1, dims, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor(o, "b", GM_TYPE_F32, 2, dims, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor(o, "c", GM_TYPE_Q4_0, 1, dims, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor(o, "c", (enum gm_type)4, 1, dims, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor(o, "c", GM_TYPE_F32, 1, (const int64_t[]){ 0 }, NULL),
                    GM_INVALID);
    CU_ASSERT_EQUAL(
        gm_gguf_out_tensor(o, "c", GM_TYPE_F32, 2, (const int64_t[]){ INT64_MAX, INT64_MAX }, NULL),
        GM_RANGE);
    CU_ASSERT_EQUAL(gm_gguf_out_tensor_bytes(o, 1), 24);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_out_begin(o, one, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_out_data(o, 1, 12, ones, 12, NULL), GM_OK); /* any order */
    CU_ASSERT_EQUAL(gm_gguf_out_data(o, 1, 0, ones, 12, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_out_data(o, 1, 13, ones, 12, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_gguf_out_data(o, 2, 0, ones, 1, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_gguf_out_commit(o, true, NULL), GM_INTERNAL); /* a is not there yet */
    CU_ASSERT_EQUAL(gm_gguf_out_data(o, 0, 0, ones, 12, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_out_commit(o, true, NULL), GM_OK);
    gm_gguf_out_close(&o);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, one, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_texts(g, "x.words", texts, 2, NULL), GM_OK);
    CU_ASSERT(texts[0].len == 5 && memcmp(texts[0].ptr, "first", 5) == 0 && texts[1].len == 0);
    CU_ASSERT_PTR_NULL(gm_gguf_find(g, "y.other"));
    CU_ASSERT_EQUAL(memcmp(gm_gguf_tensor(g, "a")->data, ones, sizeof ones), 0);
    CU_ASSERT_EQUAL(memcmp(gm_gguf_tensor(g, "b")->data + 12, ones, sizeof ones), 0);
    gm_gguf_close(&g);
    gm_gguf_close(&from);
}

/* The list names each tensor once, and as many as the layers have. */
static void test_list(void)
{
    struct gm_config cfg;
    struct gm_weight_want w, first;
    for (int arch = 0; arch < 2; arch++) {
        CU_ASSERT_EQUAL(gm_config_variant(&cfg, arch ? "gemma2-2b" : "1b", 0, NULL), GM_OK);
        size_t n = 0;
        uint64_t weights = 0;
        while (gm_weights_want(&cfg, n, &w)) {
            CU_ASSERT(w.norm == (w.rows == 1) && (w.map < GM_MAPS || w.norm || n == 0));
            weights += (uint64_t)(w.cols * w.rows);
            n++;
        }
        CU_ASSERT_EQUAL(n, 2 + 26 * (arch ? 11u : 13u));
        CU_ASSERT_EQUAL(weights, arch ? 2614636800u : 999885952u);
        CU_ASSERT(gm_weights_want(&cfg, 1, &first) &&
                  strcmp(first.name, "blk.0.attn_q.weight") == 0);
    }
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("synth", suite_open, suite_close);
    if (!suite || !CU_add_test(suite, "every type opens and binds", test_every_type) ||
        !CU_add_test(suite, "the mixture of Q4_K_M", test_mixture) ||
        !CU_add_test(suite, "a seed's bytes, any threads", test_same_bytes) ||
        !CU_add_test(suite, "mean and variance", test_moments) ||
        !CU_add_test(suite, "the vocabulary is copied", test_vocabulary) ||
        !CU_add_test(suite, "refusals leave nothing", test_refusals) ||
        !CU_add_test(suite, "foreign vocabularies", test_foreign_vocabulary) ||
        !CU_add_test(suite, "the writer", test_writer) ||
        !CU_add_test(suite, "the list of tensors", test_list))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
