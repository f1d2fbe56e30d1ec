/* test_config.c - the table of variants, the check of stated metadata, the cuts.
 *
 * Owns:      expectations for common/model/config.c, taken from the published model cards' numbers.
 * Does not:  read files (test_gguf.c does).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/model/config.h"

static struct gm_config_meta meta_of(const char *arch, int64_t layers, int64_t d, int64_t ff)
{
    struct gm_config_meta m;
    memset(&m, 0, sizeof m);
    (void)snprintf(m.arch, sizeof m.arch, "%s", arch);
    m.layers = layers;
    m.d_model = d;
    m.d_ff = ff;
    m.heads = 4;
    m.vocab = 262144;
    return m;
}

/* name, shape, then what must come out */
static const struct row {
    const char *name, *arch;
    int64_t layers, d, ff, heads;
    int32_t kv, head_dim, window, globals;
    bool last_local;
    double query, divisor, softcap;
} rows[] = {
    { "gemma2-2b", "gemma2", 26, 2304, 9216, 8, 4, 256, 4096, 13, false, 256, 1, 50 },
    { "gemma2-9b", "gemma2", 42, 3584, 14336, 16, 8, 256, 4096, 21, false, 256, 1, 50 },
    { "gemma2-27b", "gemma2", 46, 4608, 36864, 32, 16, 128, 4096, 23, false, 144, 1, 50 },
    { "gemma3-270m", "gemma3", 18, 640, 2048, 4, 1, 256, 512, 3, false, 256, 1, 0 },
    { "gemma3-1b", "gemma3", 26, 1152, 6912, 4, 1, 256, 512, 4, true, 256, 1, 0 },
    { "gemma3-4b", "gemma3", 34, 2560, 10240, 8, 4, 256, 1024, 5, true, 256, 8, 0 },
    { "gemma3-12b", "gemma3", 48, 3840, 15360, 16, 8, 256, 1024, 8, false, 256, 8, 0 },
    { "gemma3-27b", "gemma3", 62, 5376, 21504, 32, 16, 128, 1024, 10, true, 168, 8, 0 },
};

/* The same rows by name, whole and short. */
static void test_names(void)
{
    struct gm_config c, cut;
    struct gm_err err = GM_ERR_NONE;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        bool gemma3 = strcmp(r->arch, "gemma3") == 0;
        CU_ASSERT_EQUAL(gm_config_variant(&c, r->name, 0, &err), GM_OK);
        CU_ASSERT_STRING_EQUAL(c.name, r->name);
        CU_ASSERT(c.layers == r->layers && c.d_model == r->d && c.d_ff == r->ff);
        CU_ASSERT(c.heads == r->heads && c.vocab == (gemma3 ? 262144 : 256128));
        CU_ASSERT_EQUAL(gm_config_variant(&cut, r->name, 3, &err), GM_OK);
        CU_ASSERT_STRING_EQUAL(cut.name, "custom");
        CU_ASSERT(cut.layers == 3 && cut.kv_heads == r->kv && cut.window == r->window);
        CU_ASSERT(fabs((double)cut.query_scale * sqrt(r->query) - 1.0) < 1e-6);
        CU_ASSERT((double)cut.rope_divisor_global == r->divisor);
        CU_ASSERT((double)cut.attn_softcap == r->softcap);
    }
    CU_ASSERT_EQUAL(gm_config_variant(&c, "27b", 0, &err), GM_OK); /* short: Gemma 3's */
    CU_ASSERT_STRING_EQUAL(c.name, "gemma3-27b");
    CU_ASSERT_EQUAL(gm_config_variant(&c, "2b", 0, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_config_variant(&c, "", 0, &err), GM_NOT_FOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "gemma2-2b"));
    CU_ASSERT_EQUAL(gm_config_variant(&c, "1b", GM_LAYERS_MAX + 1, &err), GM_INVALID);
}

static void test_rows(void)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *r = &rows[i];
        struct gm_config_meta m = meta_of(r->arch, r->layers, r->d, r->ff);
        struct gm_config c;
        struct gm_err err = GM_ERR_NONE;
        m.heads = r->heads;
        CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_OK);
        CU_ASSERT_STRING_EQUAL(c.name, r->name);
        CU_ASSERT_EQUAL(c.kv_heads, r->kv);
        CU_ASSERT_EQUAL(c.head_dim, r->head_dim);
        CU_ASSERT_EQUAL(c.window, r->window);
        CU_ASSERT(fabs((double)c.query_scale * sqrt(r->query) - 1.0) < 1e-6);
        CU_ASSERT((double)c.rope_divisor_global == r->divisor);
        CU_ASSERT((double)c.attn_softcap == r->softcap);
        CU_ASSERT_EQUAL(c.qk_norm, c.arch == GM_ARCH_GEMMA3);
        CU_ASSERT(c.rope_base_global == (c.qk_norm ? 1e6f : 1e4f) && c.rope_base_local == 1e4f);
        int globals = 0;
        for (int l = 0; l < c.layers; l++)
            globals += !c.local[l];
        CU_ASSERT_EQUAL(globals, r->globals);
        CU_ASSERT_EQUAL(c.local[c.layers - 1], r->last_local);
        CU_ASSERT(c.local[0] && !c.local[c.qk_norm ? 5 : 1]);
    }
}

/* One wrong number in a 270M's metadata; the sentence must name it. */
static const struct wrong {
    const char *name;
    size_t at;
    bool real;
    double value;
} wrongs[] = {
#define FIELD(member) offsetof(struct gm_config_meta, member)
    { "head_count", FIELD(heads), false, 8 },
    { "head_count_kv", FIELD(kv_heads), false, 2 },
    { "key_length", FIELD(key_len), false, 128 },
    { "value_length", FIELD(value_len), false, 128 },
    { "sliding_window", FIELD(window), false, 1024 },
    { "sliding_window_pattern", FIELD(pattern), false, 5 },
    { "epsilon", FIELD(norm_eps), true, 1e-5 },
    { "epsilon", FIELD(norm_eps), true, NAN },
    { "freq_base", FIELD(rope_base), true, 10000 },
    { "freq_base_swa", FIELD(rope_base_swa), true, 20000 },
    { "scaling.factor", FIELD(rope_factor), true, 8 },
    { "attn_logit_softcapping", FIELD(attn_softcap), true, 50 },
    { "final_logit_softcapping", FIELD(final_softcap), true, INFINITY },
    { "query_scale", FIELD(query_scale), true, 0.1 },
    { "block_count", FIELD(layers), false, 129 },
    { "block_count", FIELD(layers), false, -1 },
    { "embedding_length", FIELD(d_model), false, 641 },
    { "embedding_length", FIELD(d_model), false, 0 },
    { "feed_forward_length", FIELD(d_ff), false, 9e18 },
    { "vocabulary", FIELD(vocab), false, 0 },
    { "context_length", FIELD(context), false, -5 },
};

static void test_wrong_numbers(void)
{
    for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
        struct gm_config_meta m = meta_of("gemma3", 18, 640, 2048);
        struct gm_config c;
        struct gm_err err = GM_ERR_NONE;
        int64_t whole = wrongs[i].real ? 0 : (int64_t)wrongs[i].value;
        if (wrongs[i].real)
            memcpy((char *)&m + wrongs[i].at, &wrongs[i].value, sizeof(double));
        else
            memcpy((char *)&m + wrongs[i].at, &whole, sizeof whole);
        CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_INVALID);
        if (!strstr(err.text, wrongs[i].name)) {
            printf("\n  case %zu: %s", i, err.text);
            CU_FAIL("the sentence does not name the number");
        }
    }
}

static void test_custom(void)
{
    struct gm_config_meta m = meta_of("gemma3", 7, 256, 512);
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    m.kv_heads = 2;
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(c.name, "custom");
    CU_ASSERT_EQUAL(c.head_dim, 64);
    CU_ASSERT(c.query_scale == 0.125f);
    for (int i = 0; i < 7; i++)
        CU_ASSERT_FALSE(c.local[i]); /* no window: no local layer */
    m.window = 8;
    m.pattern = 3;
    m.query_scale = 0.5;
    m.rope_factor = 4;
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_OK);
    CU_ASSERT(c.query_scale == 0.5f && c.rope_divisor_global == 4.0f);
    CU_ASSERT(c.local[0] && c.local[1] && !c.local[2] && !c.local[5] && c.local[6]);
    m.kv_heads = 3;
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_INVALID);
    m.kv_heads = 0;
    m.heads = 7; /* 256 / 7 is no head size */
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_INVALID);
    m = meta_of("gemma2", 4, 256, 512);
    m.attn_softcap = 50.0;
    m.final_softcap = 30.0;
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_OK);
    CU_ASSERT(c.window == 4096 && c.attn_softcap == 50.0f && c.final_softcap == 30.0f);
}

static void test_foreign(void)
{
    static const char *const names[] = { "llama", "gemma", "gemma3n", "gemma4", "clip", "" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct gm_config_meta m = meta_of(names[i], 18, 640, 2048);
        struct gm_config c;
        struct gm_err err = GM_ERR_NONE;
        CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_UNSUPPORTED);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, names[i]));
    }
    struct gm_config_meta m = meta_of("gemma3", 18, 640, 2048);
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    (void)snprintf(m.rope_scaling, sizeof m.rope_scaling, "yarn");
    CU_ASSERT_EQUAL(gm_config_from_meta(&c, &m, &err), GM_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "yarn"));
}

static void test_cuts(void)
{
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct gm_config_meta m = meta_of(rows[i].arch, rows[i].layers, rows[i].d, rows[i].ff);
        struct gm_config c;
        struct gm_err err = GM_ERR_NONE;
        int32_t first[GM_SHARDS_MAX + 1];
        m.heads = rows[i].heads;
        CU_ASSERT_EQUAL_FATAL(gm_config_from_meta(&c, &m, &err), GM_OK);
        for (int32_t n = 1; n <= c.layers; n++) {
            CU_ASSERT_EQUAL(gm_config_cut(&c, n, first, &err), GM_OK);
            CU_ASSERT(first[0] == 0 && first[n] == c.layers);
            for (int32_t s = 0; s < n; s++)
                CU_ASSERT(first[s + 1] > first[s]);
        }
        CU_ASSERT_EQUAL(gm_config_cut(&c, 0, first, &err), GM_INVALID);
        CU_ASSERT_EQUAL(gm_config_cut(&c, c.layers + 1, first, &err), GM_INVALID);
        CU_ASSERT_EQUAL(gm_config_cut(&c, 4, first, &err), GM_OK);
        int32_t spread = (first[1] - first[0]) - (first[3] - first[2]);
        CU_ASSERT(spread >= -2 && spread <= 2);                /* equal middle shards */
        CU_ASSERT(first[4] - first[3] <= first[1] - first[0]); /* the head weighs on the last */
    }
}

static void test_parse_cut(void)
{
    static const char *const bad[] = { "",          "0:18,",    "0:6",           "0:6,7:18",
                                       "0:6,5:18",  "0:0,0:18", "0:19",          "1:18",
                                       "0:6,6:18x", "0:6;6:18", "0:-6",          " 0:18",
                                       "0:6,,6:18", "6:18,0:6", "0:99999999999", ":",
                                       "a:b" };
    struct gm_config_meta m = meta_of("gemma3", 18, 640, 2048);
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    int32_t n = 0, first[GM_SHARDS_MAX + 1];
    CU_ASSERT_EQUAL_FATAL(gm_config_from_meta(&c, &m, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_config_parse_cut(&c, "0:6,6:12,12:18", &n, first, &err), GM_OK);
    CU_ASSERT(n == 3 && first[1] == 6 && first[2] == 12 && first[3] == 18);
    CU_ASSERT_EQUAL(gm_config_parse_cut(&c, "0:18", &n, first, &err), GM_OK);
    CU_ASSERT(n == 1 && first[0] == 0 && first[1] == 18);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CU_ASSERT_EQUAL(gm_config_parse_cut(&c, bad[i], &n, first, &err), GM_INVALID);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("config", NULL, NULL);
    if (!suite || !CU_add_test(suite, "every row of the table", test_rows) ||
        !CU_add_test(suite, "variants by name", test_names) ||
        !CU_add_test(suite, "wrong numbers are named", test_wrong_numbers) ||
        !CU_add_test(suite, "custom models", test_custom) ||
        !CU_add_test(suite, "foreign architectures", test_foreign) ||
        !CU_add_test(suite, "balanced cuts", test_cuts) ||
        !CU_add_test(suite, "typed cuts", test_parse_cut))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
