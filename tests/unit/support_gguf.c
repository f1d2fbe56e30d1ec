/* support_gguf.c - the builder, the random models and adapters declared in support_gguf.h.
 *
 * Owns:      the writing side of GGUF and safetensors, for tests only.
 * Does not:  encode weights (kernels/quant_enc.c).
 */
#include "tests/unit/support_gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/model/gguf_inner.h"
#include "kernels/quant_enc.h"

enum { NAME_MAX_BYTES = 128 };
#define PART_BYTES_MAX ((size_t)1 << 30)

static void must(enum gm_status st)
{
    if (st != GM_OK)
        abort();
}

static void put(struct gm_buf *b, const void *bytes, size_t n)
{
    must(gm_buf_append(b, bytes, n, NULL));
}

static void put_u32(struct gm_buf *b, uint32_t x)
{
    put(b, &x, sizeof x);
}

static void put_u64(struct gm_buf *b, uint64_t x)
{
    put(b, &x, sizeof x);
}

static void put_text(struct gm_buf *b, const char *text)
{
    put_u64(b, strlen(text));
    put(b, text, strlen(text));
}

static void pad(struct gm_buf *b, size_t alignment)
{
    while (b->len % alignment != 0)
        put(b, "", 1);
}

/* ---- builder ---------------------------------------------------------------------------------
 */

void gm_fake_open(struct gm_fake *f)
{
    *f = (struct gm_fake){ .kvs = GM_BUF(PART_BYTES_MAX),
                           .infos = GM_BUF(PART_BYTES_MAX),
                           .data = GM_BUF(PART_BYTES_MAX),
                           .version = 3,
                           .alignment = 32 };
}

void gm_fake_close(struct gm_fake *f)
{
    gm_buf_free(&f->kvs);
    gm_buf_free(&f->infos);
    gm_buf_free(&f->data);
}

static void put_key(struct gm_fake *f, const char *key, uint32_t type)
{
    put_text(&f->kvs, key);
    put_u32(&f->kvs, type);
    f->n_kvs++;
}

void gm_fake_u32(struct gm_fake *f, const char *key, uint32_t value)
{
    put_key(f, key, GM_GGUF_U32);
    put_u32(&f->kvs, value);
}

void gm_fake_f32(struct gm_fake *f, const char *key, float value)
{
    put_key(f, key, GM_GGUF_F32);
    put(&f->kvs, &value, sizeof value);
}

void gm_fake_bool(struct gm_fake *f, const char *key, bool value)
{
    put_key(f, key, GM_GGUF_BOOL);
    put(&f->kvs, value ? "\1" : "\0", 1);
}

void gm_fake_text(struct gm_fake *f, const char *key, const char *value)
{
    put_key(f, key, GM_GGUF_TEXT);
    put_text(&f->kvs, value);
}

void gm_fake_array(struct gm_fake *f, const char *key, uint32_t type, size_t n, const void *values,
                   size_t bytes)
{
    put_key(f, key, GM_GGUF_ARRAY);
    put_u32(&f->kvs, type);
    put_u64(&f->kvs, n);
    put(&f->kvs, values, bytes);
}

void gm_fake_texts(struct gm_fake *f, const char *key, const char *const *values, size_t n)
{
    gm_fake_array(f, key, GM_GGUF_TEXT, n, "", 0);
    for (size_t i = 0; i < n; i++)
        put_text(&f->kvs, values[i]);
}

void gm_fake_info(struct gm_fake *f, const char *name, uint32_t type, uint32_t n_dims,
                  const int64_t *dims, uint64_t offset)
{
    put_text(&f->infos, name);
    put_u32(&f->infos, n_dims);
    put(&f->infos, dims, n_dims * sizeof *dims);
    put_u32(&f->infos, type);
    put_u64(&f->infos, offset);
    f->n_tensors++;
}

void gm_fake_tensor(struct gm_fake *f, const char *name, uint32_t type, uint32_t n_dims,
                    const int64_t *dims, const void *data, size_t bytes)
{
    pad(&f->data, f->alignment);
    gm_fake_info(f, name, type, n_dims, dims, f->data.len);
    put(&f->data, data, bytes);
}

void gm_fake_bytes(const struct gm_fake *f, struct gm_buf *out)
{
    put(out, "GGUF", 4);
    put_u32(out, f->version);
    put_u64(out, f->n_tensors);
    put_u64(out, f->n_kvs);
    put(out, gm_buf_text(&f->kvs), f->kvs.len);
    put(out, gm_buf_text(&f->infos), f->infos.len);
    pad(out, f->alignment);
    put(out, gm_buf_text(&f->data), f->data.len);
}

void gm_fake_save(const struct gm_fake *f, const char *path)
{
    struct gm_buf out = GM_BUF(2 * PART_BYTES_MAX);
    gm_fake_bytes(f, &out);
    must(gm_file_write(path, out.data, out.len, 0600, NULL));
    gm_buf_free(&out);
}

/* ---- random models -----------------------------------------------------------------------------
 */

/* splitmix64: uniform in [-1, 1). */
static float draw(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)((double)(z >> 40) / (double)(1 << 23) - 1.0);
}

struct gm_config gm_fake_config(enum gm_arch arch)
{
    struct gm_config cfg = { .name = "custom", .arch = arch, .layers = 6, .d_model = 256 };
    cfg.heads = 4;
    cfg.kv_heads = 2;
    cfg.head_dim = 64;
    cfg.d_ff = 512;
    cfg.vocab = 320;
    cfg.window = 16;
    cfg.context = 512;
    cfg.query_scale = 0.125f;
    cfg.norm_eps = 1e-6f;
    cfg.rope_base_local = 10000.0f;
    cfg.rope_base_global = arch == GM_ARCH_GEMMA2 ? 10000.0f : 1000000.0f;
    cfg.rope_divisor_global = 1.0f;
    cfg.attn_softcap = arch == GM_ARCH_GEMMA2 ? 50.0f : 0.0f;
    cfg.final_softcap = arch == GM_ARCH_GEMMA2 ? 30.0f : 0.0f;
    cfg.qk_norm = arch == GM_ARCH_GEMMA3;
    int32_t pattern = arch == GM_ARCH_GEMMA2 ? 2 : 6;
    for (int32_t i = 0; i < GM_LAYERS_MAX; i++)
        cfg.local[i] = i < cfg.layers && i % pattern < pattern - 1;
    return cfg;
}

struct gm_fake_spec gm_fake_spec_of(const struct gm_config *cfg, enum gm_type type, uint64_t seed)
{
    struct gm_fake_spec spec = { .cfg = *cfg, .embed = type, .head = type, .norm = GM_TYPE_F32 };
    for (int i = 0; i < GM_MAPS; i++)
        spec.map[i] = type;
    spec.seed = seed;
    return spec;
}

static void put_pieces(struct gm_fake *f, int32_t vocab)
{
    static const char *const control[] = { "<pad>", "<eos>", "<bos>", "<unk>" };
    gm_fake_text(f, "tokenizer.ggml.model", "llama");
    gm_fake_texts(f, "tokenizer.ggml.tokens", NULL, 0);
    size_t count_at = f->kvs.len - sizeof(uint64_t);
    for (int32_t i = 0; i < vocab; i++) {
        char piece[NAME_MAX_BYTES];
        (void)snprintf(piece, sizeof piece, "t%d", (int)i);
        put_text(&f->kvs, i < 4 ? control[i] : piece);
    }
    uint64_t count = (uint64_t)vocab;
    memcpy(f->kvs.data + count_at, &count, sizeof count);
    gm_fake_array(f, "tokenizer.ggml.scores", GM_GGUF_F32, count, "", 0);
    for (int32_t i = 0; i < vocab; i++) {
        float score = (float)-i;
        put(&f->kvs, &score, sizeof score);
    }
    gm_fake_array(f, "tokenizer.ggml.token_type", GM_GGUF_I32, count, "", 0);
    for (int32_t i = 0; i < vocab; i++)
        put_u32(&f->kvs, i == 3 ? 2 : i < 4 ? 3 : 1);
    gm_fake_u32(f, "tokenizer.ggml.bos_token_id", 2);
    gm_fake_u32(f, "tokenizer.ggml.eos_token_id", 1);
    gm_fake_bool(f, "tokenizer.ggml.add_bos_token", true);
}

/* Per layer: does it slide? */
static void put_pattern(struct gm_fake *f, const char *key, const struct gm_config *cfg)
{
    uint8_t slides[GM_LAYERS_MAX];
    for (int32_t i = 0; i < cfg->layers; i++)
        slides[i] = cfg->local[i];
    gm_fake_array(f, key, GM_GGUF_BOOL, (size_t)cfg->layers, slides, (size_t)cfg->layers);
}

static const char *arch_key(const struct gm_config *cfg, const char *part)
{
    static char key[NAME_MAX_BYTES];
    (void)snprintf(key, sizeof key, "gemma%d.%s", (int)cfg->arch, part);
    return key;
}

void gm_fake_model_keys(struct gm_fake *f, const struct gm_fake_spec *spec)
{
    const struct gm_config *c = &spec->cfg;
    bool second = spec->second_dialect;
    const struct {
        const char *key;
        int32_t value;
    } ints[] = { { "block_count", c->layers },
                 { "embedding_length", c->d_model },
                 { "feed_forward_length", c->d_ff },
                 { "attention.head_count", c->heads },
                 { "attention.head_count_kv", c->kv_heads },
                 { "attention.key_length", c->head_dim },
                 { "attention.value_length", c->head_dim },
                 { "attention.sliding_window", c->window },
                 { "context_length", c->context } };
    const struct {
        const char *key;
        float value;
    } floats[] = { { "attention.layer_norm_rms_epsilon", second ? 0.0f : c->norm_eps },
                   { second ? "rope.global.freq_base" : "rope.freq_base", c->rope_base_global },
                   { second ? "rope.local.freq_base" : "rope.freq_base_swa", c->rope_base_local },
                   { "attn_logit_softcapping", c->attn_softcap },
                   { "final_logit_softcapping", c->final_softcap } };
    gm_fake_text(f, "general.architecture", c->arch == GM_ARCH_GEMMA2 ? "gemma2" : "gemma3");
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        gm_fake_u32(f, arch_key(c, ints[i].key), (uint32_t)ints[i].value);
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++)
        if (floats[i].value != 0.0f)
            gm_fake_f32(f, arch_key(c, floats[i].key), floats[i].value);
    if (!second && c->rope_divisor_global != 1.0f) {
        gm_fake_text(f, arch_key(c, "rope.scaling.type"), "linear");
        gm_fake_f32(f, arch_key(c, "rope.scaling.factor"), c->rope_divisor_global);
    }
    if (!second && c->window > 0)
        put_pattern(f, arch_key(c, "attention.sliding_window_pattern"), c);
    gm_fake_f32(f, "gemline.query_scale", c->query_scale);
    if (spec->pieces)
        put_pieces(f, c->vocab);
}

/* A random matrix, or vector with rows 1, around `centre`. */
static void put_random(struct gm_fake *f, const char *name, enum gm_type type, int32_t cols,
                       int32_t rows, float centre, uint64_t seed)
{
    size_t row_bytes = gm_type_row_bytes(type, (size_t)cols);
    float *x = malloc((size_t)cols * sizeof *x);
    uint8_t *data = malloc((size_t)rows * row_bytes);
    if (!x || !data || (uint32_t)cols % gm_type_info((uint32_t)type)->block_elems != 0)
        abort();
    uint64_t state = seed;
    for (const char *p = name; *p; p++)
        state = (state ^ (uint8_t)*p) * 0x100000001b3u;
    float scale = rows > 1 ? sqrtf(3.0f / (float)cols) : 0.25f;
    for (int32_t r = 0; r < rows; r++) {
        for (int32_t i = 0; i < cols; i++)
            x[i] = centre + scale * draw(&state);
        gm_quant_row(data + (size_t)r * row_bytes, x, type, (size_t)cols);
    }
    const int64_t dims[] = { cols, rows };
    gm_fake_tensor(f, name, (uint32_t)type, rows > 1 ? 2 : 1, dims, data, (size_t)rows * row_bytes);
    free(x);
    free(data);
}

/* {inputs, outputs} of a map. */
static void shape_of(const struct gm_config *c, int map, int32_t *in, int32_t *out)
{
    int32_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    const int32_t shapes[GM_MAPS][2] = { { c->d_model, q },       { c->d_model, kv },
                                         { c->d_model, kv },      { q, c->d_model },
                                         { c->d_model, c->d_ff }, { c->d_model, c->d_ff },
                                         { c->d_ff, c->d_model } };
    *in = shapes[map][0];
    *out = shapes[map][1];
}

static void put_layer(struct gm_fake *f, const struct gm_fake_spec *spec, int32_t layer)
{
    static const char *const norms[] = { "attn_norm",     "post_attention_norm", "ffn_norm",
                                         "post_ffw_norm", "attn_q_norm",         "attn_k_norm" };
    const struct gm_config *c = &spec->cfg;
    char name[NAME_MAX_BYTES];
    int32_t in, out;
    if (spec->fused_qkv) {
        (void)snprintf(name, sizeof name, "blk.%d.attn_qkv.weight", (int)layer);
        put_random(f, name, spec->map[GM_MAP_Q], c->d_model,
                   (c->heads + 2 * c->kv_heads) * c->head_dim, 0.0f, spec->seed);
    }
    for (int map = spec->fused_qkv ? GM_MAP_O : GM_MAP_Q; map < GM_MAPS; map++) {
        shape_of(c, map, &in, &out);
        (void)snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer,
                       gm_map_name((enum gm_map_kind)map));
        put_random(f, name, spec->map[map], in, out, 0.0f, spec->seed);
    }
    for (int i = 0; i < (c->qk_norm ? 6 : 4); i++) {
        (void)snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer, norms[i]);
        put_random(f, name, spec->norm, i < 4 ? c->d_model : c->head_dim, 1, 1.0f, spec->seed);
    }
}

void gm_fake_model_tensors(struct gm_fake *f, const struct gm_fake_spec *spec)
{
    const struct gm_config *c = &spec->cfg;
    put_random(f, "token_embd.weight", spec->embed, c->d_model, c->vocab, 0.0f, spec->seed);
    for (int32_t i = 0; i < c->layers; i++)
        put_layer(f, spec, i);
    put_random(f, "output_norm.weight", spec->norm, c->d_model, 1, 1.0f, spec->seed);
    if (spec->own_head)
        put_random(f, "output.weight", spec->head, c->d_model, c->vocab, 0.0f, spec->seed);
}

void gm_fake_model(const struct gm_fake_spec *spec, const char *path)
{
    struct gm_fake f;
    gm_fake_open(&f);
    gm_fake_model_keys(&f, spec);
    gm_fake_model_tensors(&f, spec);
    gm_fake_save(&f, path);
    gm_fake_close(&f);
}

/* ---- adapters --------------------------------------------------------------------------------
 */

static void put_adapter_tensor(struct gm_buf *header, struct gm_buf *data, const char *name,
                               const int32_t shape[2], uint64_t *state)
{
    size_t begin = data->len;
    for (int64_t i = 0; i < (int64_t)shape[0] * shape[1]; i++) {
        float x = 0.1f * draw(state);
        put(data, &x, sizeof x);
    }
    must(gm_buf_printf(
        header, NULL, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
        header->len > 1 ? "," : "", name, (int)shape[0], (int)shape[1], begin, data->len));
}

void gm_fake_adapter(const char *dir, const struct gm_config *cfg, int32_t rank, double alpha,
                     uint64_t seed)
{
    static const char *const modules[GM_MAPS] = { "self_attn.q_proj", "self_attn.k_proj",
                                                  "self_attn.v_proj", "self_attn.o_proj",
                                                  "mlp.gate_proj",    "mlp.up_proj",
                                                  "mlp.down_proj" };
    struct gm_buf header = GM_BUF(PART_BYTES_MAX), data = GM_BUF(PART_BYTES_MAX);
    struct gm_buf file = GM_BUF(PART_BYTES_MAX);
    char name[2 * NAME_MAX_BYTES], path[GM_PATH_MAX];
    put(&header, "{", 1);
    for (int32_t layer = 0; layer < cfg->layers; layer++)
        for (int map = 0; map < GM_MAPS; map++) {
            int32_t in, out;
            shape_of(cfg, map, &in, &out);
            for (int b = 0; b < 2; b++) {
                const int32_t shape[2] = { b ? out : rank, b ? rank : in };
                (void)snprintf(name, sizeof name,
                               "base_model.model.model.layers.%d.%s.lora_%c.weight", (int)layer,
                               modules[map], b ? 'B' : 'A');
                put_adapter_tensor(&header, &data, name, shape, &seed);
            }
        }
    put(&header, "}", 1);
    while (header.len % 8 != 0)
        put(&header, " ", 1);
    put_u64(&file, header.len);
    put(&file, header.data, header.len);
    put(&file, data.data, data.len);
    must(gm_dir_make(dir, 0700, NULL));
    must(gm_path_join(path, sizeof path, dir, "adapter_model.safetensors", NULL));
    must(gm_file_write(path, file.data, file.len, 0600, NULL));
    gm_buf_clear(&file);
    must(gm_buf_printf(&file, NULL,
                       "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %d, "
                       "\"lora_alpha\": %g, \"bias\": \"none\", \"use_rslora\": false}",
                       (int)rank, alpha));
    must(gm_path_join(path, sizeof path, dir, "adapter_config.json", NULL));
    must(gm_file_write(path, file.data, file.len, 0600, NULL));
    gm_buf_free(&header);
    gm_buf_free(&data);
    gm_buf_free(&file);
}
