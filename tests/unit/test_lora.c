/* test_lora.c - adapters, and the JSON and safetensors readers below them, good and hostile.
 *
 * Owns:      expectations for common/model/json.c, safetensors.c and lora.c.
 * Does not:  apply adapters. GM_SEED=n repeats a run.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/model/json.h"
#include "common/model/lora.h"
#include "common/model/safetensors.h"
#include "tests/unit/support_check.h"
#include "tests/unit/support_gguf.h"

enum { RANK = 4, FLIPS = 1000, FILE_BYTES_MAX = 1 << 26 };

static char dir[] = "/tmp/gm-lora-XXXXXX";
static char config_path[GM_PATH_MAX], tensors_path[GM_PATH_MAX];
static struct gm_check check;
static struct gm_config cfg;

static int suite_open(void)
{
    gm_check_init(&check);
    (void)gm_check_begin(&check, "lora");
    cfg = gm_fake_config(GM_ARCH_GEMMA3);
    cfg.layers = 3;
    cfg.d_model = 32;
    cfg.d_ff = 64;
    cfg.head_dim = 32;
    if (!mkdtemp(dir))
        return 1;
    return gm_path_join(config_path, GM_PATH_MAX, dir, "adapter_config.json", NULL) != GM_OK ||
           gm_path_join(tensors_path, GM_PATH_MAX, dir, "adapter_model.safetensors", NULL) != GM_OK;
}

static int suite_close(void)
{
    (void)unlink(config_path);
    (void)unlink(tensors_path);
    gm_check_end(&check);
    return rmdir(dir);
}

static void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, n, f) != n || fclose(f) != 0)
        abort();
}

static enum gm_status try_open(int32_t begin, int32_t end, struct gm_err *err)
{
    struct gm_lora *lora;
    *err = GM_ERR_NONE;
    enum gm_status st = gm_lora_open(&lora, dir, &cfg, begin, end, err);
    CU_ASSERT_EQUAL(st == GM_OK, lora != NULL);
    gm_lora_close(&lora);
    return st;
}

static void expect(enum gm_status want, const char *word)
{
    struct gm_err err;
    enum gm_status st = try_open(0, 3, &err);
    if (st != want || (word && !strstr(err.text, word))) {
        printf("\n  wanted %s with \"%s\", got %s: %s", gm_status_name((int)want), word,
               gm_status_name((int)st), err.text);
        CU_FAIL("another answer was expected");
    }
}

/* ---- JSON ------------------------------------------------------------------------------------
 */

static enum gm_status parse(const char *text)
{
    struct gm_json *json;
    enum gm_status st = gm_json_parse(&json, text, strlen(text), NULL);
    gm_json_free(&json);
    return st;
}

static void test_json_good(void)
{
    static const char text[] = " {\"a\":[1,-2.5e3,true,false,null,{}],\"\\u00e9\\ud83d\\ude00\":"
                               "\"x\\n\\\"\\\\\\/\",\"b\":{\"c\":[[]]}} ";
    struct gm_json *json;
    struct gm_err err = GM_ERR_NONE;
    int64_t whole;
    double real;
    CU_ASSERT_EQUAL_FATAL(gm_json_parse(&json, text, strlen(text), &err), GM_OK);
    const struct gm_json_node *root = gm_json_root(json), *a = gm_json_get(json, root, "a");
    CU_ASSERT(root->n == 3 && a->n == 6 && a->kind == GM_JSON_ARRAY);
    const struct gm_json_node *e = gm_json_first(json, a);
    CU_ASSERT(gm_json_int(e, 0, 5, &whole, &err) == GM_OK && whole == 1);
    CU_ASSERT_EQUAL(gm_json_int(e, 2, 5, &whole, &err), GM_RANGE);
    e = gm_json_next(json, e);
    CU_ASSERT(gm_json_real(e, -1e9, 1e9, &real, &err) == GM_OK && real == -2500.0);
    CU_ASSERT_EQUAL(gm_json_int(e, -9999, 9999, &whole, &err), GM_INVALID);
    e = gm_json_next(json, e);
    CU_ASSERT_EQUAL(e->kind, GM_JSON_TRUE);
    CU_ASSERT_EQUAL(gm_json_real(e, 0, 1, &real, &err), GM_INVALID);
    e = gm_json_get(json, root, "\u00e9\U0001f600");
    CU_ASSERT(e && strcmp(e->text, "x\n\"\\/") == 0);
    CU_ASSERT_PTR_NULL(gm_json_get(json, root, "zzz"));
    CU_ASSERT_PTR_NULL(gm_json_get(json, a, "a"));
    gm_json_free(&json);
    gm_json_free(&json);
    CU_ASSERT_EQUAL(parse("0"), GM_OK);
    CU_ASSERT_EQUAL(parse("[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"), GM_OK);
}

static void test_json_bad(void)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "}",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "[1 2]",
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "-",
        "NaN",
        "nul",
        "truex",
        "\"abc",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\u0000\"",
        "\"a\nb\"",
        "\"\\",
        "[1]]",
        "{} {}",
        "\"\xff\"",
        "\"\xc0\x80\"",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "'a'",
        "[1,,2]",
        "// c\n1",
        "[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]",
        "1111111111111111111111111111111111111111111111111111111111",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (parse(bad[i]) != GM_INVALID)
            printf("\n  accepted: %s", bad[i]);
        CU_ASSERT_EQUAL(parse(bad[i]), GM_INVALID);
    }
}

/* ---- safetensors -------------------------------------------------------------------------------
 */

/* Header and that many bytes of data. */
static enum gm_status try_header(const char *header, size_t data_bytes)
{
    struct gm_buf file = GM_BUF(1 << 16);
    uint64_t n = strlen(header);
    static const uint8_t zeros[256];
    struct gm_safetensors *s;
    struct gm_err err = GM_ERR_NONE;
    if (gm_buf_append(&file, &n, sizeof n, NULL) || gm_buf_append(&file, header, n, NULL) ||
        gm_buf_append(&file, zeros, data_bytes, NULL))
        abort();
    write_file(tensors_path, file.data, file.len);
    gm_buf_free(&file);
    enum gm_status st = gm_safetensors_open(&s, tensors_path, &err);
    CU_ASSERT_EQUAL(st == GM_OK, s != NULL);
    CU_ASSERT(st == GM_OK || err.text[0]);
    gm_safetensors_close(&s);
    return st;
}

#define ENTRY(type, shape, from, to)                                                               \
    "{\"dtype\":\"" type "\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"

static void test_safetensors(void)
{
    static const struct {
        const char *header;
        size_t bytes;
        enum gm_status want;
    } cases[] = {
        { "{}", 0, GM_OK },
        { "{\"__metadata__\":{\"format\":\"pt\"},\"a\":" ENTRY("F32", "2", "0", "8") "}  ", 8,
          GM_OK },
        { "{\"b\":" ENTRY("U8", "4", "8", "12") ",\"a\":" ENTRY("F32", "2", "0", "8") "}", 12,
          GM_OK },
        { "{\"a\":" ENTRY("F32", "", "0", "4") ",\"e\":" ENTRY("F32", "0", "4", "4") "}", 4,
          GM_OK },
        { "{}", 1, GM_INVALID },                                        /* bytes of nobody */
        { "[]", 0, GM_INVALID },                                        /* no object */
        { "{\"a\":" ENTRY("F32", "2", "0", "8") "}", 7, GM_INVALID },   /* cut */
        { "{\"a\":" ENTRY("F32", "2", "0", "8") "}", 9, GM_INVALID },   /* longer */
        { "{\"a\":" ENTRY("F32", "3", "0", "8") "}", 8, GM_INVALID },   /* shape */
        { "{\"a\":" ENTRY("F32", "2", "8", "0") "}", 8, GM_INVALID },   /* backwards */
        { "{\"a\":" ENTRY("F32", "-2", "0", "8") "}", 8, GM_INVALID },  /* negative */
        { "{\"a\":" ENTRY("F32", "1.5", "0", "8") "}", 8, GM_INVALID }, /* fraction */
        { "{\"a\":" ENTRY("F32", "4294967296,4294967296,4294967296", "0", "8") "}", 8, GM_INVALID },
        { "{\"a\":" ENTRY("F32", "1,1,1,1,1,1,1,1,1", "0", "4") "}", 4, GM_INVALID },
        { "{\"a\":" ENTRY("F4", "2", "0", "8") "}", 8, GM_UNSUPPORTED },
        { "{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("F32", "1", "2", "6") "}", 6,
          GM_INVALID }, /* overlap */
        { "{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("F32", "1", "0", "4") "}", 4,
          GM_INVALID }, /* the same place */
        { "{\"a\":" ENTRY("F32", "1", "0", "4") ",\"b\":" ENTRY("F32", "1", "8", "12") "}", 12,
          GM_INVALID }, /* hole */
        { "{\"a\":" ENTRY("F32", "1", "0", "4") ",\"a\":" ENTRY("F32", "1", "4", "8") "}", 8,
          GM_INVALID }, /* twice */
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, GM_INVALID },
        { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, GM_INVALID },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, GM_INVALID },
        { "{\"a\":7}", 0, GM_INVALID },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        enum gm_status st = try_header(cases[i].header, cases[i].bytes);
        if (st != cases[i].want)
            printf("\n  case %zu: %s", i, gm_status_name((int)st));
        CU_ASSERT_EQUAL(st, cases[i].want);
    }
    struct gm_safetensors *s;
    static const uint64_t huge[2] = { UINT64_MAX, 0 };
    write_file(tensors_path, huge, sizeof huge);
    CU_ASSERT_EQUAL(gm_safetensors_open(&s, tensors_path, NULL), GM_INVALID);
    write_file(tensors_path, huge, 7);
    CU_ASSERT_EQUAL(gm_safetensors_open(&s, tensors_path, NULL), GM_INVALID);
    (void)unlink(tensors_path);
    CU_ASSERT_EQUAL(gm_safetensors_open(&s, tensors_path, NULL), GM_NOT_FOUND);
}

/* ---- adapters --------------------------------------------------------------------------------
 */

static void test_open(void)
{
    struct gm_lora *all, *part;
    struct gm_err err = GM_ERR_NONE;
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed);
    CU_ASSERT_EQUAL_FATAL(gm_lora_open(&all, dir, &cfg, 0, 3, &err), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_lora_open(&part, dir, &cfg, 1, 3, &err), GM_OK);
    CU_ASSERT(all->rank_max == RANK && all->identity == part->identity && all->identity != 0);
    for (int map = 0; map < GM_MAPS; map++) {
        const struct gm_lora_map *x = &all->layer[2][map], *y = &part->layer[1][map];
        CU_ASSERT(x->scale == 1.5f && x->a.rows == RANK && x->b.cols == RANK);
        CU_ASSERT(x->a.cols % 32 == 0 && x->a.row_bytes == (size_t)x->a.cols * sizeof(float));
        CU_ASSERT(memcmp(x->a.data, y->a.data, RANK * x->a.row_bytes) == 0);
        CU_ASSERT(memcmp(x->b.data, y->b.data, (size_t)x->b.rows * x->b.row_bytes) == 0);
        CU_ASSERT_NOT_EQUAL(*(const float *)x->a.data, *(const float *)all->layer[1][map].a.data);
    }
    CU_ASSERT(all->layer[0][GM_MAP_DOWN].a.cols == 64 && all->layer[0][GM_MAP_DOWN].b.rows == 32);
    CU_ASSERT(all->layer[0][GM_MAP_O].a.cols == 128 && all->layer[0][GM_MAP_K].b.rows == 64);
    uint64_t identity = all->identity;
    gm_lora_close(&all);
    gm_lora_close(&part);
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed + 1);
    CU_ASSERT_EQUAL_FATAL(gm_lora_open(&all, dir, &cfg, 0, 3, &err), GM_OK);
    CU_ASSERT_NOT_EQUAL(all->identity, identity);
    gm_lora_close(&all);
    CU_ASSERT_EQUAL(try_open(0, 4, &err), GM_INVALID);
    CU_ASSERT_EQUAL(try_open(2, 2, &err), GM_INVALID);
}

static void test_config(void)
{
    static const struct {
        const char *rest;
        enum gm_status want;
        const char *word;
    } cases[] = {
        { "\"r\":4,\"lora_alpha\":8", GM_OK, NULL },
        { "\"r\":4,\"lora_alpha\":8,\"use_rslora\":true,\"task_type\":null,\"rank_pattern\":{}",
          GM_OK, NULL },
        { "\"lora_alpha\":8", GM_INVALID, "r must" },
        { "\"r\":0,\"lora_alpha\":8", GM_INVALID, "r must" },
        { "\"r\":513,\"lora_alpha\":8", GM_INVALID, "r must" },
        { "\"r\":4.5,\"lora_alpha\":8", GM_INVALID, "r must" },
        { "\"r\":4", GM_INVALID, "lora_alpha" },
        { "\"r\":4,\"lora_alpha\":\"8\"", GM_INVALID, "lora_alpha" },
        { "\"r\":4,\"lora_alpha\":1e300", GM_INVALID, "lora_alpha" },
        { "\"r\":8,\"lora_alpha\":8", GM_INVALID, "another model" },
        { "\"r\":4,\"lora_alpha\":8,\"use_rslora\":1", GM_INVALID, "use_rslora" },
        { "\"r\":4,\"lora_alpha\":8,\"use_dora\":true", GM_UNSUPPORTED, "use_dora" },
        { "\"r\":4,\"lora_alpha\":8,\"bias\":\"all\"", GM_UNSUPPORTED, "bias" },
        { "\"r\":4,\"lora_alpha\":8,\"fan_in_fan_out\":true", GM_UNSUPPORTED, "fan_in_fan_out" },
        { "\"r\":4,\"lora_alpha\":8,\"modules_to_save\":[\"lm_head\"]", GM_UNSUPPORTED,
          "modules_to_save" },
        { "\"r\":4,\"lora_alpha\":8,\"rank_pattern\":{\"q\":2}", GM_UNSUPPORTED, "rank_pattern" },
        { "\"r\":4,\"lora_alpha\":8,\"alpha_pattern\":{\"q\":2}", GM_UNSUPPORTED, "alpha_pattern" },
        { "\"r\":4,\"lora_alpha\":8,\"task_type\":\"SEQ_CLS\"", GM_UNSUPPORTED, "task_type" },
        { "\"r\":4,\"lora_alpha\":8,\"peft_type\":\"IA3\"", GM_INVALID, "twice" },
        { "\"r\":4,\"lora_alpha\":8,", GM_INVALID, "JSON" },
    };
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[300];
        int n = snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",%s}", cases[i].rest);
        write_file(config_path, text, (size_t)n);
        expect(cases[i].want, cases[i].word);
    }
    write_file(config_path, "{\"peft_type\":\"IA3\"}", 19);
    expect(GM_UNSUPPORTED, "peft_type");
    write_file(config_path, "[]", 2);
    expect(GM_INVALID, "peft_type");
    static const char rslora[] =
        "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"use_rslora\":true}";
    struct gm_lora *lora;
    write_file(config_path, rslora, sizeof rslora - 1);
    CU_ASSERT_EQUAL_FATAL(gm_lora_open(&lora, dir, &cfg, 0, 1, NULL), GM_OK);
    CU_ASSERT(lora->layer[0][GM_MAP_Q].scale == 4.0f);
    gm_lora_close(&lora);
    (void)unlink(config_path);
    expect(GM_NOT_FOUND, "adapter_config.json");
}

/* Rewrites one spelling in the tensors' file by another of the same length. */
static void rewrite(const char *from, const char *to, enum gm_status want, const char *word)
{
    struct gm_buf file = GM_BUF(FILE_BYTES_MAX);
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed);
    if (gm_file_read(tensors_path, &file, NULL) != GM_OK || strlen(from) != strlen(to))
        abort();
    char *at = memmem(file.data, file.len, from, strlen(from));
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    memcpy(at, to, strlen(to));
    write_file(tensors_path, file.data, file.len);
    gm_buf_free(&file);
    expect(want, word);
}

static void test_names(void)
{
    rewrite("self_attn.q_proj.lora_A", "self_attn.x_proj.lora_A", GM_UNSUPPORTED, "x_proj");
    rewrite("self_attn.q_proj.lora_A", "self_attn.q_proj.lora_C", GM_UNSUPPORTED, "lora_C");
    rewrite("base_model.model.model.layers.0", "base_model.model.vision.layer.0", GM_UNSUPPORTED,
            "vision");
    rewrite("model.layers.2.", "model.layers.9.", GM_INVALID, "layer 9");
    rewrite("self_attn.k_proj.lora_A", "self_attn.v_proj.lora_A", GM_INVALID, "twice");
    rewrite("[4,32]", "[32,4]", GM_INVALID, "another model");
    rewrite("[4,32]", "[8,16]", GM_INVALID, "another model");
    rewrite("F32", "I32", GM_UNSUPPORTED, "I32");
    struct gm_config other = cfg;
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed);
    cfg.layers = 2; /* fewer layers than the adapter has: refused for any slice */
    struct gm_err err;
    CU_ASSERT_EQUAL(try_open(0, 1, &err), GM_INVALID);
    cfg = other;
    cfg.d_ff = 96;
    CU_ASSERT_EQUAL(try_open(0, 1, &err), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "another model"));
    cfg = other;
    CU_ASSERT_EQUAL(try_header("{}", 0), GM_OK);
    expect(GM_INVALID, "no tensors");
}

/* B without A; a value that is not a number; halves of other types. */
static void test_tensors(void)
{
#define STEM "\"base_model.model.model.layers.1.self_attn.k_proj.lora_"
    static const char lone[] = "{" STEM "A.weight\":" ENTRY("BF16", "1,32", "0", "64") "}";
    static const char pair[] = "{" STEM "A.weight\":" ENTRY(
        "BF16", "1,32", "0", "64") "," STEM "B.weight\":" ENTRY("F16", "64,1", "64", "192") "}";
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1}";
    write_file(config_path, config, sizeof config - 1);
    CU_ASSERT_EQUAL(try_header(lone, 64), GM_OK);
    expect(GM_INVALID, "without its lora_B");
    CU_ASSERT_EQUAL(try_header(pair, 192), GM_OK);
    struct gm_lora *lora;
    CU_ASSERT_EQUAL_FATAL(gm_lora_open(&lora, dir, &cfg, 0, 3, NULL), GM_OK);
    CU_ASSERT_PTR_NULL(lora->layer[0][GM_MAP_K].a.data);
    CU_ASSERT_PTR_NULL(lora->layer[1][GM_MAP_Q].a.data);
    CU_ASSERT(lora->layer[1][GM_MAP_K].a.type == GM_TYPE_BF16);
    CU_ASSERT(lora->layer[1][GM_MAP_K].b.type == GM_TYPE_F16);
    gm_lora_close(&lora);
    struct gm_buf file = GM_BUF(FILE_BYTES_MAX);
    if (gm_file_read(tensors_path, &file, NULL) != GM_OK)
        abort();
    memcpy(file.data + file.len - 2, "\0\x7c", 2); /* infinity as f16 */
    write_file(tensors_path, file.data, file.len);
    gm_buf_free(&file);
    expect(GM_DATA_LOSS, "not finite");
}

/* Wrong bits in the header, and every kind of cut: any answer, no crash. */
static void test_damage(void)
{
    struct gm_buf file = GM_BUF(FILE_BYTES_MAX);
    struct gm_err err;
    uint64_t header;
    gm_fake_adapter(dir, &cfg, RANK, 6.0, check.seed);
    if (gm_file_read(tensors_path, &file, NULL) != GM_OK)
        abort();
    memcpy(&header, file.data, sizeof header);
    for (int i = 0; i < FLIPS; i++) {
        uint32_t bit = gm_check_below(&check, (uint32_t)(header + 8) * 8);
        file.data[bit / 8] = (char)(file.data[bit / 8] ^ (1 << bit % 8));
        write_file(tensors_path, file.data, file.len);
        if (try_open(0, 3, &err) != GM_OK)
            CU_ASSERT(err.text[0] != '\0');
        file.data[bit / 8] = (char)(file.data[bit / 8] ^ (1 << bit % 8));
    }
    for (size_t n = 0; n < file.len; n += n < header + 16 ? 13 : 1009) {
        write_file(tensors_path, file.data, n);
        CU_ASSERT_EQUAL(try_open(0, 3, &err), GM_INVALID);
    }
    gm_buf_free(&file);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("lora", suite_open, suite_close);
    if (!suite || !CU_add_test(suite, "JSON that is right", test_json_good) ||
        !CU_add_test(suite, "JSON that is wrong", test_json_bad) ||
        !CU_add_test(suite, "safetensors headers", test_safetensors) ||
        !CU_add_test(suite, "an adapter and its slices", test_open) ||
        !CU_add_test(suite, "adapter configs", test_config) ||
        !CU_add_test(suite, "tensor names and shapes", test_names) ||
        !CU_add_test(suite, "single tensors", test_tensors) ||
        !CU_add_test(suite, "damaged files", test_damage))
        return 1;
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
