/* test_shapes_refused.c - what a model file may not say: each wrong number is refused by its name.
 *
 * Owns:      keys of small Gemma 2 and Gemma 3 files with one thing wrong at a time, and the keys
 *            that published files of every variant have.
 * Does not:  compute anything (test_shapes.c) or damage the file's structure (test_gguf.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/model/gguf.h"
#include "common/model/gguf_inner.h"
#include "tests/unit/support_gguf.h"

enum { LAYERS = 4, KEYS_MAX = 32, KEY_BYTES = 96, D_MODEL = 64, VOCAB = 8 };

static char path[] = "/tmp/gm_shapes_refused_XXXXXX";

enum kind { NONE, WHOLE, REAL, TEXT, SLIDES };

/* One key: its value as a number, a text, or per layer whether it slides ("1101"). */
struct item {
    const char *key; /* without the architecture where it starts with '.' */
    enum kind kind;  /* NONE: left out */
    double number;
    const char *text;
};

static const struct item gemma3[] = {
    { ".block_count", WHOLE, LAYERS, NULL },
    { ".embedding_length", WHOLE, D_MODEL, NULL },
    { ".feed_forward_length", WHOLE, 64, NULL },
    { ".attention.head_count", WHOLE, 4, NULL },
    { ".attention.head_count_kv", WHOLE, 2, NULL },
    { ".attention.key_length", WHOLE, 32, NULL },
    { ".attention.value_length", WHOLE, 32, NULL },
    { ".attention.sliding_window", WHOLE, 16, NULL },
    { ".attention.layer_norm_rms_epsilon", REAL, 1e-6, NULL },
    { ".context_length", WHOLE, 8192, NULL },
    { "gemline.query_scale", REAL, 0.2, NULL },
    { ".rope.freq_base", REAL, 1e6, NULL },
    { NULL, NONE, 0, NULL },
};
static const struct item gemma2[] = {
    { ".block_count", WHOLE, LAYERS, NULL },
    { ".embedding_length", WHOLE, D_MODEL, NULL },
    { ".feed_forward_length", WHOLE, 64, NULL },
    { ".attention.head_count", WHOLE, 4, NULL },
    { ".attention.head_count_kv", WHOLE, 2, NULL },
    { ".attention.key_length", WHOLE, 32, NULL },
    { ".attention.value_length", WHOLE, 32, NULL },
    { ".attention.sliding_window", WHOLE, 16, NULL },
    { ".attention.layer_norm_rms_epsilon", REAL, 1e-6, NULL },
    { ".context_length", WHOLE, 8192, NULL },
    { ".attn_logit_softcapping", REAL, 50, NULL },
    { ".final_logit_softcapping", REAL, 30, NULL },
    { NULL, NONE, 0, NULL },
};

static void put(struct gm_fake *f, const char *arch, const struct item *item)
{
    char key[KEY_BYTES];
    uint8_t slides[GM_LAYERS_MAX];
    size_t n = item->text ? strlen(item->text) : 0;
    (void)snprintf(key, sizeof key, "%s%s", item->key[0] == '.' ? arch : "", item->key);
    for (size_t i = 0; item->kind == SLIDES && i < n; i++)
        slides[i] = item->text[i] == '1';
    switch (item->kind) {
    case NONE:
        break;
    case WHOLE:
        gm_fake_u32(f, key, (uint32_t)(int64_t)item->number);
        break;
    case REAL:
        gm_fake_f32(f, key, (float)item->number);
        break;
    case TEXT:
        gm_fake_text(f, key, item->text);
        break;
    case SLIDES:
        gm_fake_array(f, key, GM_GGUF_BOOL, n, slides, n);
        break;
    }
}

/* A file of the items, those of `change` in place of the same ones or behind them. */
static enum gm_status open_changed(const char *arch, const struct item *items,
                                   const struct item *change, size_t changes, struct gm_config *cfg,
                                   struct gm_err *err)
{
    static const float zeros[D_MODEL * VOCAB];
    const int64_t dims[] = { D_MODEL, VOCAB };
    struct gm_fake f;
    struct gm_gguf *g;
    gm_fake_open(&f);
    gm_fake_text(&f, "general.architecture", arch);
    for (const struct item *item = items; item->key; item++) {
        bool changed = false;
        for (size_t i = 0; i < changes; i++)
            changed = changed || strcmp(item->key, change[i].key) == 0;
        if (!changed)
            put(&f, arch, item);
    }
    for (size_t i = 0; i < changes; i++)
        put(&f, arch, &change[i]);
    gm_fake_tensor(&f, "token_embd.weight", 0, 2, dims, zeros, sizeof zeros);
    gm_fake_save(&f, path);
    gm_fake_close(&f);
    enum gm_status st = gm_gguf_open(&g, path, err);
    CU_ASSERT_EQUAL_FATAL(st, GM_OK);
    st = gm_gguf_config(g, cfg, err);
    gm_gguf_close(&g);
    return st;
}

static void test_sound(void)
{
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(open_changed("gemma3", gemma3, NULL, 0, &cfg, &err), GM_OK);
    CU_ASSERT(cfg.window == 16 && cfg.query_scale == 0.2f && cfg.local[3]);
    CU_ASSERT_EQUAL(open_changed("gemma2", gemma2, NULL, 0, &cfg, &err), GM_OK);
    CU_ASSERT(cfg.attn_softcap == 50.0f && cfg.local[2] && !cfg.local[3]);
}

/* What is wrong, in which family, and the word its sentence must have. */
static const struct wrong {
    struct item item;
    int families; /* 2, 3, or 23 for both */
    enum gm_status status;
    const char *word;
} wrongs[] = {
    { { ".attention.sliding_window_pattern", SLIDES, 0, "11101" }, 23, GM_INVALID, "per layer" },
    { { ".attention.sliding_window_pattern", SLIDES, 0, "111" }, 23, GM_INVALID, "per layer" },
    { { ".attention.sliding_window_pattern", SLIDES, 0, "1011" }, 23, GM_UNSUPPORTED, "repeat" },
    { { ".attention.sliding_window_pattern", WHOLE, 0, NULL }, 23, GM_INVALID, "window_pattern" },
    { { ".attention.sliding_window_pattern", TEXT, 0, "1110" }, 23, GM_INVALID, "window_pattern" },
    { { ".attention.head_count", WHOLE, 0, NULL }, 23, GM_INVALID, "head_count is 0" },
    { { ".attention.head_count", WHOLE, 3, NULL }, 23, GM_INVALID, "3 heads" },
    { { ".attention.head_count_kv", WHOLE, 3, NULL }, 23, GM_INVALID, "3 key/value heads" },
    { { ".attention.head_count_kv", WHOLE, 8, NULL }, 23, GM_INVALID, "8 key/value heads" },
    { { ".attention.head_count_kv", WHOLE, 0, NULL }, 23, GM_INVALID, "head_count_kv is 0" },
    { { ".attention.key_length", WHOLE, 0, NULL }, 23, GM_INVALID, "key_length is 0" },
    { { ".attention.key_length", WHOLE, 48, NULL }, 23, GM_INVALID, "key_length is 48" },
    { { ".attention.value_length", WHOLE, 64, NULL }, 23, GM_INVALID, "value_length is 64" },
    { { ".attention.sliding_window", WHOLE, 0, NULL }, 2, GM_INVALID, "sliding_window is 0" },
    { { ".attention.sliding_window", WHOLE, -1, NULL }, 23, GM_INVALID, "sliding_window" },
    { { ".attention.layer_norm_rms_epsilon", REAL, 0, NULL }, 23, GM_INVALID, "epsilon is 0" },
    { { ".attention.layer_norm_rms_epsilon", REAL, -1e-6, NULL }, 23, GM_INVALID, "epsilon" },
    { { ".context_length", WHOLE, 0, NULL }, 23, GM_INVALID, "context_length is 0" },
    { { ".block_count", WHOLE, 0, NULL }, 23, GM_INVALID, "block_count is 0" },
    { { ".rope.freq_base", REAL, 0, NULL }, 23, GM_INVALID, "freq_base is 0" },
    { { ".rope.freq_base", REAL, -1e6, NULL }, 23, GM_INVALID, "freq_base" },
    { { ".rope.scaling.factor", REAL, 0, NULL }, 23, GM_INVALID, "factor is 0" },
    { { ".rope.scaling.factor", REAL, NAN, NULL }, 23, GM_INVALID, "factor" },
    { { ".rope.scaling.type", TEXT, 0, "linear" }, 23, GM_INVALID, "no rope.scaling.factor" },
    { { ".rope.scaling.type", TEXT, 0, "yarn" }, 23, GM_UNSUPPORTED, "yarn" },
    { { "gemline.query_scale", REAL, 0, NULL }, 23, GM_INVALID, "query_scale is 0" },
    { { "gemline.query_scale", REAL, -0.0625, NULL }, 23, GM_INVALID, "query_scale is -0.0625" },
    { { "gemline.query_scale", REAL, NAN, NULL }, 23, GM_INVALID, "query_scale" },
    { { "gemline.query_scale", REAL, INFINITY, NULL }, 23, GM_INVALID, "query_scale" },
    { { "gemline.query_scale", WHOLE, 1, NULL }, 23, GM_INVALID, "query_scale" },
    { { ".attn_logit_softcapping", NONE, 0, NULL }, 2, GM_INVALID, "no attn_logit_softcapping" },
    { { ".final_logit_softcapping", NONE, 0, NULL }, 2, GM_INVALID, "no final_logit_softcapping" },
    { { ".attn_logit_softcapping", REAL, 0, NULL }, 2, GM_INVALID, "attn_logit_softcapping is 0" },
    { { ".final_logit_softcapping", REAL, -30, NULL }, 23, GM_INVALID, "final_logit_softcapping" },
    { { ".final_logit_softcapping", REAL, NAN, NULL }, 23, GM_INVALID, "final_logit_softcapping" },
};

static void check_wrong(const struct wrong *w, const char *arch, const struct item *items)
{
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    enum gm_status st = open_changed(arch, items, &w->item, 1, &cfg, &err);
    if (st != w->status || !strstr(err.text, w->word)) {
        printf("\n  %s, %s: status %d, \"%s\"", arch, w->item.key, (int)st, err.text);
        CU_FAIL("not refused by its name");
    }
}

static void test_wrong_numbers(void)
{
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        if (wrongs[i].families != 3)
            check_wrong(&wrongs[i], "gemma2", gemma2);
        if (wrongs[i].families != 2)
            check_wrong(&wrongs[i], "gemma3", gemma3);
    }
}

static void test_wrong_pairs(void)
{
    static const struct item no_window[] = {
        { ".attention.sliding_window", WHOLE, 0, NULL },
        { ".attention.sliding_window_pattern", SLIDES, 0, "1101" },
    };
    static const struct item missing[] = {
        { ".attention.sliding_window", NONE, 0, NULL },
        { ".attention.sliding_window_pattern", WHOLE, 2, NULL },
    };
    static const struct item caps[] = { { ".attn_logit_softcapping", REAL, 0, NULL },
                                        { ".final_logit_softcapping", REAL, 0, NULL } };
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(open_changed("gemma3", gemma3, no_window, 2, &cfg, &err), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no attention.sliding_window above 0"));
    CU_ASSERT_EQUAL(open_changed("gemma3", gemma3, missing, 2, &cfg, &err), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "no attention.sliding_window"));
    /* alone a window of 0 means that all layers are global, and caps of 0 that there are none */
    CU_ASSERT_EQUAL(open_changed("gemma3", gemma3, no_window, 1, &cfg, &err), GM_OK);
    CU_ASSERT(cfg.window == 0 && !cfg.local[0]);
    CU_ASSERT_EQUAL(open_changed("gemma3", gemma3, caps, 2, &cfg, &err), GM_OK);
    CU_ASSERT(cfg.attn_softcap == 0.0f && cfg.final_softcap == 0.0f);
}

static void test_foreign(void)
{
    static const char *const names[] = { "gemma", "gemma3n", "gemma4", "llama", "clip", "t5" };
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        CU_ASSERT_EQUAL(open_changed(names[i], gemma3, NULL, 0, &cfg, &err), GM_UNSUPPORTED);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, names[i]));
    }
}

/* ---- published files ---------------------------------------------------------------------------
 */

/* Keys of the checkpoints in the wild, beside the shape; what must come out of them. */
struct published {
    const char *name, *arch;
    double layers, d, ff, heads, kv, hd, window, context;
    double query_dim, divisor; /* expected */
    int32_t globals;           /* expected */
    bool last_local;           /* expected */
};

static const struct published published[] = {
    { "gemma2-2b", "gemma2", 26, 2304, 9216, 8, 4, 256, 4096, 8192, 256, 1, 13, false },
    { "gemma2-9b", "gemma2", 42, 3584, 14336, 16, 8, 256, 4096, 8192, 256, 1, 21, false },
    { "gemma2-27b", "gemma2", 46, 4608, 36864, 32, 16, 128, 4096, 8192, 144, 1, 23, false },
    { "gemma3-270m", "gemma3", 18, 640, 2048, 4, 1, 256, 512, 32768, 256, 1, 3, false },
    { "gemma3-1b", "gemma3", 26, 1152, 6912, 4, 1, 256, 512, 32768, 256, 1, 4, true },
    { "gemma3-4b", "gemma3", 34, 2560, 10240, 8, 4, 256, 1024, 131072, 256, 8, 5, true },
    { "gemma3-12b", "gemma3", 48, 3840, 15360, 16, 8, 256, 1024, 131072, 256, 8, 8, false },
    { "gemma3-27b", "gemma3", 62, 5376, 21504, 32, 16, 128, 1024, 131072, 168, 8, 10, true },
};

/* The keys of one variant as a converter writes them; returns how many. */
static size_t keys_of(const struct published *p, bool second, struct item *out)
{
    bool large = p->divisor != 1.0, two = strcmp(p->arch, "gemma2") == 0;
    const struct item items[] = {
        { ".block_count", WHOLE, p->layers, NULL },
        { ".embedding_length", WHOLE, p->d, NULL },
        { ".feed_forward_length", WHOLE, p->ff, NULL },
        { ".attention.head_count", WHOLE, p->heads, NULL },
        { ".attention.head_count_kv", WHOLE, p->kv, NULL },
        { ".attention.key_length", WHOLE, p->hd, NULL },
        { ".attention.value_length", WHOLE, p->hd, NULL },
        { ".attention.sliding_window", WHOLE, p->window, NULL },
        { ".context_length", WHOLE, p->context, NULL },
        { ".attention.layer_norm_rms_epsilon", second && large ? NONE : REAL, 1e-6, NULL },
        { ".attn_logit_softcapping", two ? REAL : NONE, 50, NULL },
        { ".final_logit_softcapping", two || (second && !large) ? REAL : NONE, 30, NULL },
        { ".rope.freq_base", two || second ? NONE : REAL, 1e6, NULL },
        { ".rope.global.freq_base", !two && second && !large ? REAL : NONE, 1e6, NULL },
        { ".rope.local.freq_base", !two && second && !large ? REAL : NONE, 1e4, NULL },
        { ".rope.scaling.type", large && !second ? TEXT : NONE, 0, "linear" },
        { ".rope.scaling.factor", large && !second ? REAL : NONE, 8, NULL },
        { ".mm.tokens_per_image", large && second ? WHOLE : NONE, 256, NULL },
    };
    memcpy(out, items, sizeof items);
    return sizeof items / sizeof items[0];
}

static void check_published(const struct published *p, bool second)
{
    static const struct item nothing = { NULL, NONE, 0, NULL };
    struct item items[KEYS_MAX];
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    size_t n = keys_of(p, second, items);
    bool two = strcmp(p->arch, "gemma2") == 0;
    if (open_changed(p->arch, &nothing, items, n, &c, &err) != GM_OK) {
        printf("\n  %s: %s", p->name, err.text);
        CU_FAIL("a published file is refused");
        return;
    }
    int32_t globals = 0, wrong = 0, period = two ? 2 : 6;
    for (int32_t i = 0; i < c.layers; i++) {
        globals += !c.local[i];
        wrong += c.local[i] != ((i + 1) % period != 0);
    }
    CU_ASSERT_STRING_EQUAL(c.name, p->name);
    CU_ASSERT(globals == p->globals && wrong == 0);
    CU_ASSERT_EQUAL(c.local[c.layers - 1], p->last_local);
    CU_ASSERT(fabs((double)c.query_scale * sqrt(p->query_dim) - 1.0) < 1e-6);
    CU_ASSERT((double)c.rope_divisor_global == p->divisor && c.norm_eps == 1e-6f);
    CU_ASSERT(c.rope_base_local == 1e4f && c.rope_base_global == (two ? 1e4f : 1e6f));
    CU_ASSERT(c.attn_softcap == (two ? 50.0f : 0.0f) && c.final_softcap == (two ? 30.0f : 0.0f));
    CU_ASSERT(c.window == (int32_t)p->window && c.context == (int32_t)p->context);
    CU_ASSERT_EQUAL(c.qk_norm, !two);
}

static void test_published(void)
{
    for (size_t i = 0; i < sizeof published / sizeof published[0]; i++) {
        check_published(&published[i], false);
        check_published(&published[i], true);
    }
}

/* A window of 0 in a file whose shape is in the table. */
static void test_published_without_window(void)
{
    static const struct item nothing = { NULL, NONE, 0, NULL };
    struct item items[KEYS_MAX];
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    size_t n = keys_of(&published[4], false, items);
    for (size_t i = 0; i < n; i++)
        if (strcmp(items[i].key, ".attention.sliding_window") == 0)
            items[i].number = 0;
    CU_ASSERT_EQUAL(open_changed("gemma3", &nothing, items, n, &c, &err), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "sliding_window is 0"));
}

static int open_file(void)
{
    int fd = mkstemp(path);
    return fd < 0 || close(fd) != 0;
}

static int remove_file(void)
{
    return unlink(path);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("shapes refused", open_file, remove_file);
    if (!suite || !CU_add_test(suite, "sound files", test_sound) ||
        !CU_add_test(suite, "one wrong thing", test_wrong_numbers) ||
        !CU_add_test(suite, "two that do not fit", test_wrong_pairs) ||
        !CU_add_test(suite, "foreign architectures", test_foreign) ||
        !CU_add_test(suite, "published files", test_published) ||
        !CU_add_test(suite, "a known size without a window", test_published_without_window))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
