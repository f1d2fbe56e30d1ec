/* test_gguf.c - the GGUF reader and the binding of weights, on good and on hostile files.
 *
 * Owns:      expectations for common/model/gguf.c, gguf_meta.c and weights.c.
 * Does not:  need a real model: files are written by support_gguf.c. GM_SEED=n repeats a run.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/model/gguf.h"
#include "common/model/gguf_inner.h"
#include "kernels/quant_enc.h"
#include "tests/unit/support_check.h"
#include "tests/unit/support_gguf.h"

enum { FLIPS = 2000, FILE_BYTES_MAX = 1 << 26 };

static char dir[] = "/tmp/gm-gguf-XXXXXX";
static char path[GM_PATH_MAX];
static struct gm_check check;

static int suite_open(void)
{
    gm_check_init(&check);
    (void)gm_check_begin(&check, "gguf");
    return mkdtemp(dir) && gm_path_join(path, sizeof path, dir, "m.gguf", NULL) == GM_OK ? 0 : 1;
}

static int suite_close(void)
{
    (void)unlink(path);
    gm_check_end(&check);
    return rmdir(dir);
}

/* Opens, and binds all of it; the first status that is not GM_OK, with its sentence in *err. */
static enum gm_status try_file(struct gm_err *err)
{
    struct gm_gguf *g;
    struct gm_weights w;
    *err = GM_ERR_NONE;
    enum gm_status st = gm_gguf_open(&g, path, err);
    if (st != GM_OK) {
        CU_ASSERT_PTR_NULL(g);
        return st;
    }
    struct gm_config cfg;
    st = gm_gguf_config(g, &cfg, err);
    if (st == GM_OK) {
        const struct gm_slice_spec all = { 0, cfg.layers, true, true };
        st = gm_weights_bind(&w, g, &all, err);
        if (st == GM_OK)
            gm_weights_close(&w);
    }
    (void)gm_gguf_identity(g);
    gm_gguf_close(&g);
    return st;
}

static enum gm_status try_bytes(const void *bytes, size_t n, struct gm_err *err)
{
    /* Not gm_file_write: thousands of files need no fsync. */
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0)
        abort();
    return try_file(err);
}

/* The builder's file must end in `want`, with `word` in the sentence. */
static void expect(struct gm_fake *f, enum gm_status want, const char *word)
{
    struct gm_buf bytes = GM_BUF(FILE_BYTES_MAX);
    struct gm_err err;
    gm_fake_bytes(f, &bytes);
    enum gm_status st = try_bytes(bytes.data, bytes.len, &err);
    if (st != want || (word && !strstr(err.text, word))) {
        printf("\n  wanted %s with \"%s\", got %s: %s", gm_status_name((int)want), word,
               gm_status_name((int)st), err.text);
        CU_FAIL("another answer was expected");
    }
    gm_buf_free(&bytes);
    gm_fake_close(f);
}

static struct gm_config small_config(void)
{
    struct gm_config cfg = gm_fake_config(GM_ARCH_GEMMA3);
    cfg.layers = 2;
    cfg.d_model = 32;
    cfg.heads = 2;
    cfg.kv_heads = 1;
    cfg.head_dim = 32;
    cfg.d_ff = 64;
    cfg.vocab = 40;
    cfg.query_scale = 0.25f;
    return cfg;
}

static struct gm_fake_spec small_spec(void)
{
    struct gm_config cfg = small_config();
    struct gm_fake_spec spec = gm_fake_spec_of(&cfg, GM_TYPE_Q8_0, check.seed);
    spec.pieces = true;
    return spec;
}

/* ---- good files ------------------------------------------------------------------------------
 */

static void test_types(void)
{
    static const enum gm_type types[] = { GM_TYPE_F32,  GM_TYPE_F16,  GM_TYPE_BF16, GM_TYPE_Q4_0,
                                          GM_TYPE_Q4_1, GM_TYPE_Q5_0, GM_TYPE_Q5_1, GM_TYPE_Q8_0,
                                          GM_TYPE_Q4_K, GM_TYPE_Q5_K, GM_TYPE_Q6_K };
    static const double steps[] = {
        0, 1e-3, 1e-2, 0.15, 0.08, 0.07, 0.04, 0.005, 0.08, 0.04, 0.04
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        float x[GM_QK_K * 2], y[GM_QK_K * 2];
        uint8_t row[sizeof x];
        gm_check_fill_normal(&check, x, 2 * GM_QK_K, 1.0f);
        for (int j = 0; j < 2 * GM_QK_K; j++)
            x[j] = fmaxf(-1.0f, fminf(1.0f, x[j]));
        gm_quant_row(row, x, types[i], 2 * GM_QK_K);
        gm_dequant_row(y, row, types[i], 2 * GM_QK_K);
        for (int j = 0; j < 2 * GM_QK_K; j++)
            CU_ASSERT(fabs((double)x[j] - (double)y[j]) <= steps[i]);
        struct gm_config cfg = gm_fake_config(GM_ARCH_GEMMA3);
        struct gm_fake_spec spec = gm_fake_spec_of(&cfg, types[i], check.seed);
        struct gm_err err;
        spec.own_head = i % 2;
        spec.fused_qkv = i % 3 == 0;
        spec.norm = i == 1 ? GM_TYPE_F16 : i == 2 ? GM_TYPE_BF16 : GM_TYPE_F32;
        gm_fake_model(&spec, path);
        CU_ASSERT_EQUAL(try_file(&err), GM_OK);
    }
}

static void test_bind(void)
{
    struct gm_config cfg = gm_fake_config(GM_ARCH_GEMMA3), got;
    struct gm_fake_spec spec = gm_fake_spec_of(&cfg, GM_TYPE_Q4_K, 7);
    struct gm_gguf *g;
    struct gm_weights w;
    struct gm_err err = GM_ERR_NONE;
    spec.fused_qkv = true;
    spec.norm = GM_TYPE_BF16;
    gm_fake_model(&spec, path);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_config(g, &got, &err), GM_OK);
    CU_ASSERT(memcmp(got.local, cfg.local, sizeof got.local) == 0);
    CU_ASSERT(got.query_scale == cfg.query_scale && got.vocab == 320 && got.kv_heads == 2);
    const struct gm_slice_spec middle = { 2, 4, false, false }, last = { 4, 6, false, true };
    CU_ASSERT_EQUAL_FATAL(gm_weights_bind(&w, g, &middle, &err), GM_OK);
    CU_ASSERT(!w.embed.data && !w.head.data && !w.final_norm && w.owned);
    const struct gm_tensor *t = gm_gguf_tensor(g, "blk.3.attn_qkv.weight");
    const struct gm_layer *l = &w.layer[1];
    CU_ASSERT_PTR_EQUAL(l->map[GM_MAP_Q].data, t->data);
    CU_ASSERT_PTR_EQUAL(l->map[GM_MAP_K].data, t->data + 256 * l->map[GM_MAP_Q].row_bytes);
    CU_ASSERT_PTR_EQUAL(l->map[GM_MAP_V].data, t->data + 384 * l->map[GM_MAP_Q].row_bytes);
    CU_ASSERT(l->map[GM_MAP_V].rows == 128 && l->map[GM_MAP_DOWN].cols == 512);
    t = gm_gguf_tensor(g, "blk.3.post_ffw_norm.weight");
    float norm[256];
    gm_dequant_row(norm, t->data, t->type, 256);
    CU_ASSERT(memcmp(norm, l->post_ffn_norm, sizeof norm) == 0);
    uint64_t bytes = 0;
    for (size_t i = 0; i < gm_gguf_tensor_count(g); i++) {
        t = gm_gguf_tensor_at(g, i);
        if ((strncmp(t->name, "blk.2.", 6) == 0 || strncmp(t->name, "blk.3.", 6) == 0) &&
            t->n_dims == 2)
            bytes += t->bytes;
    }
    CU_ASSERT_EQUAL(w.bytes, bytes);
    gm_weights_close(&w);
    CU_ASSERT_EQUAL_FATAL(gm_weights_bind(&w, g, &last, &err), GM_OK);
    CU_ASSERT(w.head.data == w.embed.data && w.head.data && w.final_norm);
    gm_weights_close(&w);
    const struct gm_slice_spec wrong[] = { { 0, 7, true, true },
                                           { 3, 3, false, false },
                                           { -1, 2, true, false } };
    for (size_t i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(gm_weights_bind(&w, g, &wrong[i], &err), GM_INVALID);
    gm_gguf_close(&g);
    gm_gguf_close(&g);
}

static void test_values(void)
{
    static const int8_t small[] = { -1, 2 };
    static const char *const words[] = { "a", "", "ccc" };
    static const double reals[] = { 0.5, -2.0 };
    struct gm_fake f;
    struct gm_gguf *g;
    struct gm_err err = GM_ERR_NONE;
    int64_t whole;
    double real;
    size_t n;
    int32_t ints[2];
    float floats[2];
    struct gm_text_view text, texts[3];
    gm_fake_open(&f);
    gm_fake_u32(&f, "u", 4000000000u);
    gm_fake_f32(&f, "f", 0.25f);
    gm_fake_bool(&f, "b", true);
    gm_fake_text(&f, "t", "hello");
    gm_fake_texts(&f, "words", words, 3);
    gm_fake_array(&f, "small", GM_GGUF_I8, 2, small, sizeof small);
    gm_fake_array(&f, "reals", GM_GGUF_F64, 2, reals, sizeof reals);
    gm_fake_save(&f, path);
    gm_fake_close(&f);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT(gm_gguf_int(g, "u", &whole, &err) == GM_OK && whole == 4000000000);
    CU_ASSERT(gm_gguf_int(g, "b", &whole, &err) == GM_OK && whole == 1);
    CU_ASSERT(gm_gguf_float(g, "f", &real, &err) == GM_OK && real == 0.25);
    CU_ASSERT(gm_gguf_text(g, "t", &text, &err) == GM_OK && text.len == 5);
    CU_ASSERT(gm_gguf_array_len(g, "words", &n, &err) == GM_OK && n == 3);
    CU_ASSERT(gm_gguf_texts(g, "words", texts, 3, &err) == GM_OK && texts[2].len == 3);
    CU_ASSERT(gm_gguf_ints(g, "small", ints, 2, &err) == GM_OK && ints[0] == -1 && ints[1] == 2);
    CU_ASSERT(gm_gguf_floats(g, "reals", floats, 2, &err) == GM_OK && floats[1] == -2.0f);
    CU_ASSERT_EQUAL(gm_gguf_int(g, "none", &whole, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_gguf_int(g, "f", &whole, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_int(g, "t", &whole, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_int(g, "small", &whole, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_text(g, "u", &text, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_float(g, "u", &real, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_ints(g, "words", ints, 3, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_ints(g, "small", ints, 1, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_array_len(g, "u", &n, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_gguf_texts(g, "none", texts, 3, &err), GM_NOT_FOUND);
    gm_gguf_close(&g);
    (void)unlink(path);
    CU_ASSERT_EQUAL(gm_gguf_open(&g, path, &err), GM_NOT_FOUND);
}

static void test_dialects(void)
{
    struct gm_fake_spec spec = small_spec();
    struct gm_gguf *g;
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    spec.second_dialect = true;
    spec.cfg.context = 131072;
    spec.cfg.rope_base_local = 12000.0f;
    gm_fake_model(&spec, path);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_config(g, &cfg, &err), GM_OK);
    CU_ASSERT(cfg.rope_divisor_global == 8.0f && cfg.norm_eps == 1e-6f);
    CU_ASSERT(cfg.rope_base_global == 1e6f && cfg.rope_base_local == 12000.0f);
    uint64_t id = gm_gguf_identity(g);
    gm_gguf_close(&g);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_identity(g), id);
    gm_gguf_close(&g);
    spec.seed++; /* same keys, other weights */
    gm_fake_model(&spec, path);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT_NOT_EQUAL(gm_gguf_identity(g), id);
    gm_gguf_close(&g);
    spec.cfg = gm_fake_config(GM_ARCH_GEMMA2);
    spec.second_dialect = false;
    gm_fake_model(&spec, path);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_gguf_config(g, &cfg, &err), GM_OK);
    CU_ASSERT(!cfg.qk_norm && cfg.attn_softcap == 50.0f && cfg.local[0] && !cfg.local[1]);
    gm_gguf_close(&g);
}

/* ---- hostile files -----------------------------------------------------------------------------
 */

static void small_file(struct gm_buf *out)
{
    struct gm_fake_spec spec = small_spec();
    struct gm_fake f;
    gm_fake_open(&f);
    gm_fake_model_keys(&f, &spec);
    gm_fake_model_tensors(&f, &spec);
    gm_fake_bytes(&f, out);
    gm_fake_close(&f);
}

/* Every length up to the data (each structural point is among them), then some inside it. */
static void test_truncations(void)
{
    struct gm_buf bytes = GM_BUF(FILE_BYTES_MAX);
    struct gm_gguf *g;
    struct gm_err err = GM_ERR_NONE;
    small_file(&bytes);
    CU_ASSERT_EQUAL_FATAL(try_bytes(bytes.data, bytes.len, &err), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    size_t data_at = g->data_at;
    gm_gguf_close(&g);
    for (size_t n = 0; n < bytes.len; n += n < data_at ? 1 : 997) {
        enum gm_status st = try_bytes(bytes.data, n, &err);
        if (st != GM_INVALID)
            printf("\n  %zu bytes: %s %s", n, gm_status_name((int)st), err.text);
        CU_ASSERT_EQUAL(st, GM_INVALID);
    }
    CU_ASSERT_EQUAL(try_bytes(bytes.data, bytes.len - 1, &err), GM_INVALID);
    gm_buf_free(&bytes);
}

/* One to four wrong bits in header, keys and tensor table: any answer, no crash, a sentence. */
static void test_flips(void)
{
    struct gm_buf bytes = GM_BUF(FILE_BYTES_MAX);
    struct gm_gguf *g;
    struct gm_err err = GM_ERR_NONE;
    unsigned refused = 0;
    small_file(&bytes);
    CU_ASSERT_EQUAL_FATAL(try_bytes(bytes.data, bytes.len, &err), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_gguf_open(&g, path, &err), GM_OK);
    uint32_t bits = (uint32_t)g->data_at * 8;
    gm_gguf_close(&g);
    for (int i = 0; i < FLIPS; i++) {
        uint32_t at[4];
        int n = 1 + (int)gm_check_below(&check, 4);
        for (int k = 0; k < n; k++) {
            at[k] = gm_check_below(&check, bits);
            bytes.data[at[k] / 8] = (char)(bytes.data[at[k] / 8] ^ (1 << at[k] % 8));
        }
        if (try_bytes(bytes.data, bytes.len, &err) != GM_OK) {
            refused++;
            CU_ASSERT(err.text[0] != '\0');
        }
        for (int k = n; k-- > 0;)
            bytes.data[at[k] / 8] = (char)(bytes.data[at[k] / 8] ^ (1 << at[k] % 8));
    }
    CU_ASSERT(refused > FLIPS / 4);
    gm_buf_free(&bytes);
}

static void test_headers(void)
{
    struct gm_fake f;
    static const struct {
        uint32_t version;
        uint64_t tensors, keys;
        enum gm_status want;
        const char *word;
    } cases[] = {
        { 1, 0, 0, GM_UNSUPPORTED, "version 1" },
        { 4, 0, 0, GM_UNSUPPORTED, "version 4" },
        { 0x03000000, 0, 0, GM_UNSUPPORTED, "big-endian" },
        { 3, UINT64_MAX, 0, GM_INVALID, "tensors" },
        { 3, 0, UINT64_MAX, GM_INVALID, "keys" },
        { 3, 0, 1 << 20, GM_INVALID, "keys" },
        { 3, 1 << 20, 0, GM_INVALID, "tensors" },
        { 3, 0, 3, GM_INVALID, "" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        gm_fake_open(&f);
        gm_fake_text(&f, "general.architecture", "gemma3");
        f.version = cases[i].version;
        f.n_tensors = cases[i].tensors;
        f.n_kvs = cases[i].keys;
        expect(&f, cases[i].want, cases[i].word);
    }
    struct gm_err err;
    CU_ASSERT_EQUAL(try_bytes("GGML\3\0\0\0", 8, &err), GM_INVALID);
    CU_ASSERT_EQUAL(try_bytes("", 0, &err), GM_INVALID);
}

static void test_keys(void)
{
    struct gm_fake f;
    static const char *const words[] = { "a", "b", "c" };
    static const float scores[] = { 1, 2 };
    gm_fake_open(&f);
    gm_fake_u32(&f, "twice", 1);
    gm_fake_u32(&f, "twice", 1);
    expect(&f, GM_INVALID, "twice");
    gm_fake_open(&f);
    gm_fake_array(&f, "nested", GM_GGUF_ARRAY, 1, words, 24);
    expect(&f, GM_INVALID, "nested");
    gm_fake_open(&f);
    gm_fake_array(&f, "huge", GM_GGUF_U64, (size_t)1 << 61, words, 24);
    expect(&f, GM_INVALID, "huge");
    gm_fake_open(&f);
    gm_fake_array(&f, "texts", GM_GGUF_TEXT, SIZE_MAX, words, 24);
    expect(&f, GM_INVALID, "texts");
    gm_fake_open(&f);
    gm_fake_array(&f, "strange", 13, 1, words, 24);
    expect(&f, GM_INVALID, "strange");
    gm_fake_open(&f);
    gm_fake_u32(&f, "", 1);
    expect(&f, GM_INVALID, "empty");
    gm_fake_open(&f);
    gm_fake_array(&f, "truth", GM_GGUF_BOOL, 1, "\2", 1);
    expect(&f, GM_INVALID, "truth");
    gm_fake_open(&f);
    gm_fake_array(&f, "zero", GM_GGUF_TEXT, 1, "\3\0\0\0\0\0\0\0a\0b", 11);
    expect(&f, GM_INVALID, "zero");
    gm_fake_open(&f);
    gm_fake_texts(&f, "tokenizer.ggml.tokens", words, 3);
    gm_fake_array(&f, "tokenizer.ggml.scores", GM_GGUF_F32, 2, scores, sizeof scores);
    expect(&f, GM_INVALID, "scores");
    gm_fake_open(&f);
    gm_fake_u32(&f, "split.count", 3);
    expect(&f, GM_UNSUPPORTED, "split");
    for (uint32_t a = 0; a < 100; a += 12) {
        gm_fake_open(&f);
        gm_fake_u32(&f, "general.alignment", a);
        expect(&f, GM_INVALID, "alignment");
    }
    char key[300];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    gm_fake_open(&f);
    gm_fake_u32(&f, key, 1);
    expect(&f, GM_INVALID, "a key");
}

static void test_tensors(void)
{
    static const uint8_t zeros[256];
    static const struct {
        uint32_t type, n_dims;
        int64_t dims[5];
        uint64_t offset;
        enum gm_status want;
        const char *word;
    } cases[] = {
        { 0, 0, { 1 }, 0, GM_INVALID, "0 dimensions" },
        { 0, 5, { 1, 1, 1, 1, 1 }, 0, GM_INVALID, "5 dimensions" },
        { 0, 1, { 0 }, 0, GM_INVALID, "dimension of 0" },
        { 0, 1, { -8 }, 0, GM_INVALID, "dimension of -8" },
        { 0, 4, { INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX }, 0, GM_INVALID, "larger" },
        { 0, 2, { INT64_MAX, 8 }, 0, GM_INVALID, "dimension" },
        { 8, 1, { 33 }, 0, GM_INVALID, "multiple of 32" },
        { 12, 1, { 128 }, 0, GM_INVALID, "multiple of 256" },
        { 4, 1, { 32 }, 0, GM_UNSUPPORTED, "tensor t " },
        { 31, 1, { 32 }, 0, GM_UNSUPPORTED, "weight type 31" },
        { 10, 1, { 256 }, 0, GM_UNSUPPORTED, "weight type 10" },
        { UINT32_MAX, 1, { 32 }, 0, GM_UNSUPPORTED, "weight type" },
        { 0, 1, { 8 }, 16, GM_INVALID, "alignment" },
        { 0, 1, { 8 }, 1 << 20, GM_INVALID, "past the end" },
        { 0, 1, { 8 }, UINT64_MAX - 31, GM_INVALID, "past the end" },
        { 0, 1, { 64 }, 64, GM_INVALID, "past the end" },
        { 0, 1, { 16 }, 0, GM_INVALID, "overlap" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gm_fake f;
        const int64_t eight = 8, sixteen = 16;
        gm_fake_open(&f);
        gm_fake_tensor(&f, "first", GM_TYPE_F32, 1, &sixteen, zeros, 64);
        gm_fake_tensor(&f, "second", GM_TYPE_F32, 1, &eight, zeros, 160);
        gm_fake_info(&f, "t", cases[i].type, cases[i].n_dims, cases[i].dims, cases[i].offset);
        expect(&f, cases[i].want, cases[i].word);
    }
    struct gm_fake f;
    const int64_t dim = 8;
    gm_fake_open(&f);
    gm_fake_tensor(&f, "same", GM_TYPE_F32, 1, &dim, zeros, 32);
    gm_fake_tensor(&f, "same", GM_TYPE_F32, 1, &dim, zeros, 32);
    expect(&f, GM_INVALID, "same");
}

/* A whole small model with one tensor of another shape, type or value in front of the right one
 * of that name, which is left out. */
static void one_wrong(const char *extra, uint32_t type, uint32_t n_dims, const int64_t *dims,
                      enum gm_status want, const char *word)
{
    struct gm_fake_spec spec = small_spec();
    struct gm_fake f;
    static float nans[4096];
    for (size_t i = 0; i < 4096; i++)
        nans[i] = NAN;
    gm_fake_open(&f);
    gm_fake_model_keys(&f, &spec);
    gm_fake_model_tensors(&f, &spec);
    /* Rename the right tensor in place: its last letters become "xxxxxx". */
    char name[64] = { (char)strlen(extra) }; /* the length's eight bytes, then the letters */
    memcpy(name + 8, extra, strlen(extra));
    char *at = memmem(f.infos.data, f.infos.len, name, 8 + strlen(extra));
    if (at)
        memset(at + 8 + strlen(extra) - 6, 'x', 6);
    if (n_dims)
        gm_fake_tensor(&f, extra, type, n_dims, dims, nans, sizeof nans);
    expect(&f, want, word);
}

static void test_wrong_models(void)
{
    static const int64_t d32[] = { 32 }, d64[] = { 64 }, d32x64[] = { 32, 64 },
                         d64x32[] = { 64, 32 };
    one_wrong("output_norm.weight", 0, 0, NULL, GM_INVALID, "output_norm.weight is missing");
    one_wrong("token_embd.weight", 0, 0, NULL, GM_INVALID, "token_embd.weight");
    one_wrong("blk.1.attn_q.weight", 0, 0, NULL, GM_UNSUPPORTED, "attn_q.xxxxxx");
    one_wrong("output_norm.weight", GM_TYPE_F32, 1, d64, GM_INVALID, "expected 32 x 1");
    one_wrong("output_norm.weight", GM_TYPE_Q8_0, 1, d32, GM_INVALID, "expected F32, F16 or BF16");
    one_wrong("output_norm.weight", GM_TYPE_F32, 1, d32, GM_DATA_LOSS, "not finite");
    one_wrong("output.weight", GM_TYPE_F32, 2, d32x64, GM_INVALID, "output.weight is 32 x 64");
    one_wrong("blk.1.attn_q.bias", GM_TYPE_F32, 1, d64, GM_UNSUPPORTED, "attn_q.bias");
    one_wrong("blk.7.attn_q.bias", GM_TYPE_F32, 1, d64, GM_OK, NULL);
    one_wrong("v.patch_embd.weight", GM_TYPE_F32, 2, d64x32, GM_OK, NULL);
}

static void test_foreign(void)
{
    static const struct {
        const char *key, *value, *word;
    } cases[] = { { "general.architecture", "llama", "llama" },
                  { "general.architecture", "gemma3n", "gemma3n" },
                  { "general.type", "mmproj", "mmproj" },
                  { "general.type", "adapter", "adapter" },
                  { "tokenizer.ggml.model", "gpt2", "gpt2" } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gm_fake f;
        gm_fake_open(&f);
        gm_fake_text(&f, cases[i].key, cases[i].value);
        if (i > 1)
            gm_fake_text(&f, "general.architecture", "gemma3");
        expect(&f, GM_UNSUPPORTED, cases[i].word);
    }
    struct gm_fake f;
    gm_fake_open(&f);
    expect(&f, GM_INVALID, "general.architecture");
    gm_fake_open(&f);
    gm_fake_u32(&f, "general.architecture", 3);
    expect(&f, GM_INVALID, "text");
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("gguf", suite_open, suite_close);
    if (!suite || !CU_add_test(suite, "every weight type", test_types) ||
        !CU_add_test(suite, "binding of slices", test_bind) ||
        !CU_add_test(suite, "values by key", test_values) ||
        !CU_add_test(suite, "both dialects, identity", test_dialects) ||
        !CU_add_test(suite, "truncated files", test_truncations) ||
        !CU_add_test(suite, "flipped bits", test_flips) ||
        !CU_add_test(suite, "wrong headers", test_headers) ||
        !CU_add_test(suite, "wrong keys", test_keys) ||
        !CU_add_test(suite, "wrong tensors", test_tensors) ||
        !CU_add_test(suite, "wrong models", test_wrong_models) ||
        !CU_add_test(suite, "foreign files", test_foreign))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
