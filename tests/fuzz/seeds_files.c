/* seeds_files.c - seeds that are files: small models, tensors, vocabularies.
 *
 * Owns:      which shapes there are.
 * Does not:  write them (make_seeds.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/make_seeds.h"
#include "tests/unit/support_gguf.h"

enum { BLOCK = 32, SEED_BYTES_MAX = 1 << 20 };

static void put_u16(struct gm_buf *b, size_t n)
{
    const uint8_t bytes[2] = { (uint8_t)n, (uint8_t)(n >> 8) };
    (void)gm_buf_append(b, (const char *)bytes, sizeof bytes, NULL);
}

static void put(struct gm_buf *b, const void *bytes, size_t n)
{
    (void)gm_buf_append(b, bytes, n, NULL);
}

/* ---- gguf ------------------------------------------------------------------------------------ */

static struct gm_config tiny(enum gm_arch arch)
{
    struct gm_config c = gm_fake_config(arch);
    c.layers = 1;
    c.d_model = 32;
    c.heads = 2;
    c.kv_heads = 1;
    c.head_dim = 32;
    c.d_ff = 32;
    c.vocab = 8;
    c.window = 4;
    c.context = 64;
    return c;
}

/* What stands before the data, and as many zeros as the data has bytes. */
static void put_model(const char *name, const struct gm_fake_spec *spec)
{
    struct gm_fake f;
    struct gm_buf file = GM_BUF(SEED_BYTES_MAX), out = GM_BUF(SEED_BYTES_MAX);
    char cut[64];
    gm_fake_open(&f);
    gm_fake_model_keys(&f, spec);
    gm_fake_model_tensors(&f, spec);
    gm_fake_bytes(&f, &file);
    put_u16(&out, (f.data.len + BLOCK - 1) / BLOCK);
    put(&out, file.data, file.len - f.data.len);
    seed_write("gguf", name, out.data, out.len);
    (void)snprintf(cut, sizeof cut, "%s-cut", name);
    seed_write("gguf", cut, out.data, out.len * 2 / 3);
    gm_buf_free(&file);
    gm_buf_free(&out);
    gm_fake_close(&f);
}

static void models(void)
{
    struct gm_config c3 = tiny(GM_ARCH_GEMMA3), c2 = tiny(GM_ARCH_GEMMA2);
    struct gm_fake_spec s = gm_fake_spec_of(&c3, GM_TYPE_F32, 1);
    put_model("gemma3-f32", &s);
    s.second_dialect = true;
    put_model("gemma3-dialect", &s);
    s = gm_fake_spec_of(&c3, GM_TYPE_Q8_0, 2);
    s.own_head = s.fused_qkv = true;
    put_model("gemma3-fused", &s);
    s = gm_fake_spec_of(&c3, GM_TYPE_BF16, 3);
    s.norm = GM_TYPE_BF16;
    s.pieces = true;
    put_model("gemma3-pieces", &s);
    s = gm_fake_spec_of(&c2, GM_TYPE_F32, 4);
    put_model("gemma2-f32", &s);
    c2.d_model = c2.d_ff = 256;
    s = gm_fake_spec_of(&c2, GM_TYPE_Q4_K, 5);
    s.map[GM_MAP_O] = GM_TYPE_Q8_0;
    put_model("gemma2-q4k", &s);
}

/* ---- safetensors ----------------------------------------------------------------------------- */

static void put_tensors(const char *name, const char *config, const char *header, size_t data)
{
    struct gm_buf out = GM_BUF(SEED_BYTES_MAX);
    const uint64_t n = strlen(header);
    put_u16(&out, data / BLOCK);
    put_u16(&out, strlen(config));
    put(&out, config, strlen(config));
    put(&out, &n, sizeof n);
    put(&out, header, n);
    seed_write("safetensors", name, out.data, out.len);
    gm_buf_free(&out);
}

#define LAYER0 "base_model.model.model.layers.0."

static void tensors(void)
{
    static const char config[] = "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":2,"
                                 "\"lora_alpha\":4,\"bias\":\"none\",\"use_rslora\":true}";
    put_tensors("plain", "",
                "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,4],"
                "\"data_offsets\":[0,32]},\"b\":{\"dtype\":\"BF16\",\"shape\":[16],"
                "\"data_offsets\":[32,64]}}",
                64);
    put_tensors("adapter", config,
                "{\"" LAYER0 "self_attn.q_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[2,8],"
                "\"data_offsets\":[0,64]},\"" LAYER0 "self_attn.q_proj.lora_B.weight\":{"
                "\"dtype\":\"F32\",\"shape\":[8,2],\"data_offsets\":[64,128]}}",
                128);
    put_tensors("adapter-half", config,
                "{\"" LAYER0 "mlp.down_proj.lora_A.weight\":{\"dtype\":\"F16\",\"shape\":[2,8],"
                "\"data_offsets\":[0,32]}}",
                32);
    put_tensors("empty", config, "{}      ", 0);
}

void seeds_of_files(void)
{
    models();
    tensors();
}
