/* seeds_files.c - seeds that are files: small models, tensors, vocabularies.
 *
 * Owns:      which shapes there are.
 * Does not:  write them (make_seeds.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/vocab.h"
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

/* ---- vocabularies ---------------------------------------------------------------------------- */

/* A field of bytes of a protobuf message: tag, length below 128, bytes. */
static void put_field(struct gm_buf *b, int number, const void *bytes, size_t n)
{
    const uint8_t head[2] = { (uint8_t)(number << 3 | 2), (uint8_t)n };
    put(b, head, sizeof head);
    put(b, bytes, n);
}

static void put_piece(struct gm_buf *b, const char *text, int type, float score)
{
    struct gm_buf piece = GM_BUF(SEED_BYTES_MAX);
    const uint8_t tags[3] = { 2 << 3 | 5, 3 << 3, (uint8_t)type };
    put_field(&piece, 1, text, strlen(text));
    put(&piece, &tags[0], 1);
    put(&piece, &score, sizeof score);
    put(&piece, &tags[1], 2);
    put_field(b, 1, piece.data, piece.len);
    gm_buf_free(&piece);
}

/* A sentencepiece model as Gemma's: BPE, byte fallback, text as it is. */
static void sentencepiece(void)
{
    static const uint8_t trainer[] = { 3 << 3, 2, 0x98, 0x02, 1 }; /* 3: BPE; 35: byte fallback */
    static const uint8_t normalizer[] = { 3 << 3, 0, 4 << 3, 0, 5 << 3, 1 };
    static const char *const words[] = { "<unk>", "<s>", "<bos>", "<eos>", "<pad>",       "t",
                                         "h",     "e",   "th",    "the",   "\xE2\x96\x81" };
    struct gm_buf out = GM_BUF(SEED_BYTES_MAX);
    put(&out, "\2", 1);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        put_piece(&out, words[i], i == 0 ? 2 : i < 5 ? 3 : 1, -(float)i);
    for (unsigned i = 0; i < 256; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "<0x%02X>", i);
        put_piece(&out, name, 6, 0.0f);
    }
    put_field(&out, 2, trainer, sizeof trainer);
    put_field(&out, 3, normalizer, sizeof normalizer);
    seed_write("vocab", "sentencepiece", out.data, out.len);
    gm_buf_free(&out);
}

static void mapped(void)
{
    static const char *const pieces[] = { "<pad>", "<eos>", "<bos>", "a", "\n", "<0x41>", " the" };
    static const uint8_t kinds[] = { GM_PIECE_CONTROL, GM_PIECE_CONTROL, GM_PIECE_CONTROL,
                                     GM_PIECE_TEXT,    GM_PIECE_TEXT,    GM_PIECE_BYTE,
                                     GM_PIECE_TEXT };
    enum { N = sizeof pieces / sizeof *pieces };
    uint32_t lens[N];
    struct gm_vocab v;
    struct gm_buf out = GM_BUF(SEED_BYTES_MAX);
    for (int i = 0; i < N; i++)
        lens[i] = (uint32_t)strlen(pieces[i]);
    const struct gm_vocab_source source = { N, pieces, lens, kinds };
    if (gm_vocab_build(&v, &source, NULL) != GM_OK)
        abort();
    for (char how = 0; how < 2; how++) {
        gm_buf_clear(&out);
        put(&out, &how, 1);
        put(&out, v.image, v.image_bytes);
        seed_write("vocab", how ? "mapped-hash" : "mapped", out.data, out.len);
    }
    gm_buf_free(&out);
    gm_vocab_close(&v);
}

void seeds_of_files(void)
{
    sentencepiece();
    mapped();
    models();
    tensors();
}
