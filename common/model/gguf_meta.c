/* gguf_meta.c - values of an open GGUF file by key, the model's config from them, its identity.
 *
 * Owns:      typed access with checked conversions; both dialects of Gemma's keys.
 * Does not:  parse the file (gguf.c) or know the variants (config.c).
 * Source:    llama.cpp's key names ("gemma3.block_count" ...) and those of ollama's early one-file
 *            Gemma 3 (rope.global.freq_base, rope.local.freq_base, no epsilon, no rope scaling, a
 *            final soft cap of 30 that is the converter's and not the model's; mm.* keys where the
 *            vision tower is in the same file).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/model/gguf_inner.h"

enum {
    KEY_MAX = GM_NAME_MAX + 64,
    SAMPLE_BYTES = 4096,         /* hashed at the start, middle and end of each tensor */
    LINEAR_CONTEXT_MIN = 131072, /* second dialect: from this context on, positions are divided */
    LINEAR_FACTOR = 8,
    SECOND_SOFTCAP = 30, /* second dialect: what its converter wrote where the model has none */
    SHOWN_MAX = 60,      /* bytes of a foreign text in a sentence */
};

/* The value of a key: GM_NOT_FOUND, or GM_INVALID when it is an array and should not be, or the
 * other way round. */
static enum gm_status find(const struct gm_gguf *g, const char *key, bool array,
                           const struct gm_gguf_kv **out, struct gm_err *err)
{
    *out = gm_gguf_find(g, key);
    if (!*out)
        return gm_fail(err, GM_NOT_FOUND, "the model file has no key %s", key);
    if ((*out)->array != array)
        return gm_fail(err, GM_INVALID, "%s is %s, expected %s", key,
                       array ? "one value" : "an array", array ? "an array" : "one value");
    return GM_OK;
}

static enum gm_status wrong_type(const struct gm_gguf_kv *kv, const char *want, struct gm_err *err)
{
    return gm_fail(err, GM_INVALID, "%s has the type %s, expected %s", kv->key,
                   gm_gguf_type_names[kv->type], want);
}

/* Element i as an integer, whatever its width. */
static enum gm_status int_at(const struct gm_gguf_kv *kv, size_t i, int64_t *out,
                             struct gm_err *err)
{
    size_t bytes = gm_gguf_type_bytes[kv->type];
    uint64_t raw = 0;
    if (kv->type == GM_GGUF_F32 || kv->type == GM_GGUF_F64 || bytes == 0)
        return wrong_type(kv, "a whole number", err);
    memcpy(&raw, kv->value + i * bytes, bytes);
    switch (kv->type) {
    case GM_GGUF_I8:
        *out = (int8_t)raw;
        return GM_OK;
    case GM_GGUF_I16:
        *out = (int16_t)raw;
        return GM_OK;
    case GM_GGUF_I32:
        *out = (int32_t)raw;
        return GM_OK;
    case GM_GGUF_I64:
        *out = (int64_t)raw;
        return GM_OK;
    default:
        break;
    }
    if (raw > INT64_MAX)
        return gm_fail(err, GM_INVALID, "%s is %" PRIu64 ", which is too large", kv->key, raw);
    *out = (int64_t)raw;
    return GM_OK;
}

static enum gm_status float_at(const struct gm_gguf_kv *kv, size_t i, double *out,
                               struct gm_err *err)
{
    if (kv->type == GM_GGUF_F32) {
        float x;
        memcpy(&x, kv->value + i * sizeof x, sizeof x);
        *out = (double)x;
        return GM_OK;
    }
    if (kv->type == GM_GGUF_F64) {
        memcpy(out, kv->value + i * sizeof *out, sizeof *out);
        return GM_OK;
    }
    return wrong_type(kv, "f32 or f64", err);
}

enum gm_status gm_gguf_int(const struct gm_gguf *g, const char *key, int64_t *out,
                           struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find(g, key, false, &kv, err);
    return st == GM_OK ? int_at(kv, 0, out, err) : st;
}

enum gm_status gm_gguf_float(const struct gm_gguf *g, const char *key, double *out,
                             struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find(g, key, false, &kv, err);
    return st == GM_OK ? float_at(kv, 0, out, err) : st;
}

/* The text at `at`, moved behind it; lengths were checked when the file was opened. */
static struct gm_text_view text_at(const uint8_t **at)
{
    uint64_t n;
    memcpy(&n, *at, sizeof n);
    struct gm_text_view text = { (const char *)*at + sizeof n, (size_t)n };
    *at += sizeof n + (size_t)n;
    return text;
}

enum gm_status gm_gguf_text(const struct gm_gguf *g, const char *key, struct gm_text_view *out,
                            struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find(g, key, false, &kv, err);
    if (st != GM_OK)
        return st;
    if (kv->type != GM_GGUF_TEXT)
        return wrong_type(kv, "text", err);
    const uint8_t *at = kv->value;
    *out = text_at(&at);
    return GM_OK;
}

enum gm_status gm_gguf_array_len(const struct gm_gguf *g, const char *key, size_t *n,
                                 struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find(g, key, true, &kv, err);
    if (st == GM_OK)
        *n = (size_t)kv->n;
    return st;
}

static enum gm_status find_array(const struct gm_gguf *g, const char *key, size_t n,
                                 const struct gm_gguf_kv **kv, struct gm_err *err)
{
    enum gm_status st = find(g, key, true, kv, err);
    if (st == GM_OK && (*kv)->n != n)
        st =
            gm_fail(err, GM_INVALID, "%s has %" PRIu64 " elements, expected %zu", key, (*kv)->n, n);
    return st;
}

enum gm_status gm_gguf_texts(const struct gm_gguf *g, const char *key, struct gm_text_view *out,
                             size_t n, struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find_array(g, key, n, &kv, err);
    if (st != GM_OK)
        return st;
    if (kv->type != GM_GGUF_TEXT)
        return wrong_type(kv, "texts", err);
    const uint8_t *at = kv->value;
    for (size_t i = 0; i < n; i++)
        out[i] = text_at(&at);
    return GM_OK;
}

enum gm_status gm_gguf_floats(const struct gm_gguf *g, const char *key, float *out, size_t n,
                              struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find_array(g, key, n, &kv, err);
    for (size_t i = 0; i < n && st == GM_OK; i++) {
        double x;
        st = float_at(kv, i, &x, err);
        if (st == GM_OK)
            out[i] = (float)x;
    }
    return st;
}

enum gm_status gm_gguf_ints(const struct gm_gguf *g, const char *key, int32_t *out, size_t n,
                            struct gm_err *err)
{
    const struct gm_gguf_kv *kv;
    enum gm_status st = find_array(g, key, n, &kv, err);
    for (size_t i = 0; i < n && st == GM_OK; i++) {
        int64_t x;
        st = int_at(kv, i, &x, err);
        if (st == GM_OK && (x < INT32_MIN || x > INT32_MAX))
            st = gm_fail(err, GM_INVALID, "element %zu of %s is %" PRId64 ", which is too large", i,
                         key, x);
        if (st == GM_OK)
            out[i] = (int32_t)x;
    }
    return st;
}

/* ---- checks over several keys ------------------------------------------------------------------
 */

enum gm_status gm_gguf_check_keys(const struct gm_gguf *g, struct gm_err *err)
{
    static const char *const pieces = "tokenizer.ggml.tokens";
    static const char *const beside[] = { "tokenizer.ggml.scores", "tokenizer.ggml.token_type" };
    int64_t parts = 1;
    if (gm_gguf_find(g, "split.count")) {
        enum gm_status st = gm_gguf_int(g, "split.count", &parts, err);
        if (st != GM_OK)
            return st;
    }
    if (parts > 1)
        return gm_fail(err, GM_UNSUPPORTED,
                       "this file is one of %" PRId64 " parts of a split model; join them into one "
                       "file first (llama-gguf-split --merge)",
                       parts);
    const struct gm_gguf_kv *a = gm_gguf_find(g, pieces);
    if (a && !(a->array && a->type == GM_GGUF_TEXT))
        return gm_fail(err, GM_INVALID, "%s is no array of texts", pieces);
    for (size_t i = 0; a && i < sizeof beside / sizeof beside[0]; i++) {
        const struct gm_gguf_kv *b = gm_gguf_find(g, beside[i]);
        if (b && (!b->array || b->n != a->n))
            return gm_fail(err, GM_INVALID,
                           "%s has %" PRIu64 " elements but %s has %" PRIu64
                           "; the file is damaged",
                           beside[i], b->n, pieces, a->n);
    }
    return GM_OK;
}

/* ---- the model's config ------------------------------------------------------------------------
 */

/* One key of the architecture -> one field; of alternatives the last one that is in the file
 * counts. 0 means "not stated" in the fields, so a file may not state it, except where Gemma 3
 * means "none" by it. */
enum field_kind { FIELD_INT, FIELD_FLOAT };
enum field_zero { ZERO_WRONG, ZERO_IS_NONE };
struct field {
    const char *key; /* without the architecture */
    size_t at;       /* offset in struct gm_config_meta */
    enum field_kind kind;
    enum field_zero zero;
};
#define AT(member) offsetof(struct gm_config_meta, member)

static const struct field fields[] = {
    { "block_count", AT(layers), FIELD_INT, ZERO_WRONG },
    { "embedding_length", AT(d_model), FIELD_INT, ZERO_WRONG },
    { "feed_forward_length", AT(d_ff), FIELD_INT, ZERO_WRONG },
    { "attention.head_count", AT(heads), FIELD_INT, ZERO_WRONG },
    { "attention.head_count_kv", AT(kv_heads), FIELD_INT, ZERO_WRONG },
    { "attention.key_length", AT(key_len), FIELD_INT, ZERO_WRONG },
    { "attention.value_length", AT(value_len), FIELD_INT, ZERO_WRONG },
    { "attention.sliding_window", AT(window), FIELD_INT, ZERO_IS_NONE },
    { "context_length", AT(context), FIELD_INT, ZERO_WRONG },
    { "attention.layer_norm_rms_epsilon", AT(norm_eps), FIELD_FLOAT, ZERO_WRONG },
    { "rope.freq_base", AT(rope_base), FIELD_FLOAT, ZERO_WRONG },
    { "rope.global.freq_base", AT(rope_base), FIELD_FLOAT, ZERO_WRONG },
    { "rope.freq_base_swa", AT(rope_base_swa), FIELD_FLOAT, ZERO_WRONG },
    { "rope.local.freq_base", AT(rope_base_swa), FIELD_FLOAT, ZERO_WRONG },
    { "rope.scaling.factor", AT(rope_factor), FIELD_FLOAT, ZERO_WRONG },
    { "attn_logit_softcapping", AT(attn_softcap), FIELD_FLOAT, ZERO_IS_NONE },
    { "final_logit_softcapping", AT(final_softcap), FIELD_FLOAT, ZERO_IS_NONE },
};

static void arch_key(char *out, const struct gm_config_meta *meta, const char *key)
{
    (void)snprintf(out, KEY_MAX, "%s.%s", meta->arch, key);
}

/* A whole number, or an array of the same one for every layer. */
static enum gm_status same_int(const struct gm_gguf *g, const char *key, int64_t *out,
                               struct gm_err *err)
{
    const struct gm_gguf_kv *kv = gm_gguf_find(g, key);
    if (kv->n == 0)
        return gm_fail(err, GM_INVALID, "%s is an empty array", key);
    enum gm_status st = int_at(kv, 0, out, err);
    for (size_t i = 1; i < kv->n && st == GM_OK; i++) {
        int64_t other;
        st = int_at(kv, i, &other, err);
        if (st == GM_OK && other != *out)
            return gm_fail(err, GM_UNSUPPORTED,
                           "%s differs between layers (%" PRId64 " and %" PRId64
                           "), which no Gemma 2 or Gemma 3 does",
                           key, *out, other);
    }
    return st;
}

static enum gm_status check_zero(const struct field *f, struct gm_config_meta *meta,
                                 const char *key, struct gm_err *err)
{
    if (f->zero == ZERO_WRONG || strcmp(meta->arch, "gemma3") != 0)
        return gm_fail(err, GM_INVALID, "%s is 0; the model file is damaged or of another kind",
                       key);
    if (f->at == AT(window))
        meta->no_window = true;
    return GM_OK;
}

static enum gm_status read_fields(const struct gm_gguf *g, struct gm_config_meta *meta,
                                  struct gm_err *err)
{
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const struct field *f = &fields[i];
        char key[KEY_MAX], *to = (char *)meta + f->at;
        double real = 0.0;
        int64_t whole = 0;
        arch_key(key, meta, f->key);
        if (!gm_gguf_find(g, key))
            continue;
        enum gm_status st = f->kind == FIELD_INT ? same_int(g, key, &whole, err)
                                                 : gm_gguf_float(g, key, &real, err);
        if (st == GM_OK && whole == 0 && real == 0.0)
            st = check_zero(f, meta, key, err);
        if (st != GM_OK)
            return st;
        if (f->kind == FIELD_INT)
            memcpy(to, &whole, sizeof whole);
        else
            memcpy(to, &real, sizeof real);
    }
    return GM_OK;
}

/* sliding_window_pattern: a number, or per layer whether it slides; the latter must repeat. */
static enum gm_status read_pattern(const struct gm_gguf *g, struct gm_config_meta *meta,
                                   struct gm_err *err)
{
    char key[KEY_MAX];
    arch_key(key, meta, "attention.sliding_window_pattern");
    const struct gm_gguf_kv *kv = gm_gguf_find(g, key);
    if (!kv)
        return GM_OK;
    if (!kv->array) {
        enum gm_status st = gm_gguf_int(g, key, &meta->pattern, err);
        if (st == GM_OK && meta->pattern < 1)
            st = gm_fail(err, GM_INVALID, "%s is %" PRId64 ", expected 1 or more", key,
                         meta->pattern);
        return st;
    }
    if (meta->layers < 0 || kv->n != (uint64_t)meta->layers || kv->n > GM_LAYERS_MAX)
        return gm_fail(err, GM_INVALID, "%s has %" PRIu64 " elements, expected one per layer", key,
                       kv->n);
    int64_t period = (int64_t)kv->n + 1; /* no global layer at all */
    for (size_t i = 0; i < kv->n; i++) {
        int64_t slides;
        enum gm_status st = int_at(kv, i, &slides, err);
        if (st != GM_OK)
            return st;
        if (!slides && period > (int64_t)kv->n)
            period = (int64_t)i + 1;
        if ((slides == 0) != (((int64_t)i + 1) % period == 0))
            return gm_fail(err, GM_UNSUPPORTED,
                           "%s does not repeat: layer %zu is not like the layers before it", key,
                           i);
    }
    meta->pattern = period;
    return GM_OK;
}

/* Copies a text of at most GM_NAME_MAX - 1 bytes; absent leaves "". */
static enum gm_status read_name(const struct gm_gguf *g, const char *key, char out[GM_NAME_MAX],
                                struct gm_err *err)
{
    struct gm_text_view text;
    if (!gm_gguf_find(g, key))
        return GM_OK;
    enum gm_status st = gm_gguf_text(g, key, &text, err);
    if (st != GM_OK)
        return st;
    if (text.len >= GM_NAME_MAX)
        return gm_fail(err, GM_UNSUPPORTED, "%s is \"%.*s...\", which is not known", key,
                       (int)SHOWN_MAX, text.ptr);
    memcpy(out, text.ptr, text.len);
    out[text.len] = '\0';
    return GM_OK;
}

/* Files that are no language model, or not with Gemma's tokenizer, are refused by name. */
static enum gm_status check_kind(const struct gm_gguf *g, struct gm_config_meta *meta,
                                 struct gm_err *err)
{
    char type[GM_NAME_MAX] = "", tokenizer[GM_NAME_MAX] = "";
    enum gm_status st = read_name(g, "general.type", type, err);
    if (st == GM_OK)
        st = read_name(g, "general.architecture", meta->arch, err);
    if (st == GM_OK)
        st = read_name(g, "tokenizer.ggml.model", tokenizer, err);
    if (st != GM_OK)
        return st;
    if (type[0] && strcmp(type, "model") != 0)
        return gm_fail(err, GM_UNSUPPORTED,
                       "this file holds a \"%s\", not a language model; give the text model's file",
                       type);
    if (!meta->arch[0])
        return gm_fail(err, GM_INVALID, "the file does not say its general.architecture");
    if (tokenizer[0] && strcmp(tokenizer, "llama") != 0)
        return gm_fail(err, GM_UNSUPPORTED,
                       "the tokenizer is \"%s\"; Gemma's is a sentencepiece one, called \"llama\"",
                       tokenizer);
    return GM_OK;
}

/* What the second dialect leaves out or writes without meaning it. */
static void settle_second(const struct gm_gguf *g, struct gm_config_meta *meta)
{
    static const char *const marks[] = { "gemma3.rope.global.freq_base",
                                         "gemma3.rope.local.freq_base",
                                         "gemma3.mm.tokens_per_image" };
    bool second = false;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        second = second || gm_gguf_find(g, marks[i]);
    if (!second || strcmp(meta->arch, "gemma3") != 0)
        return;
    if (!meta->rope_scaling[0] && meta->rope_factor == 0.0 && meta->context >= LINEAR_CONTEXT_MIN)
        meta->rope_factor = LINEAR_FACTOR;
    if (gm_gguf_find(g, marks[0]) && meta->final_softcap == (double)SECOND_SOFTCAP)
        meta->final_softcap = 0.0;
}

/* Ours, without the architecture before it. */
static enum gm_status read_query_scale(const struct gm_gguf *g, struct gm_config_meta *meta,
                                       struct gm_err *err)
{
    static const char *const key = "gemline.query_scale";
    if (!gm_gguf_find(g, key))
        return GM_OK;
    enum gm_status st = gm_gguf_float(g, key, &meta->query_scale, err);
    if (st == GM_OK && meta->query_scale == 0.0)
        st = gm_fail(err, GM_INVALID, "%s is 0, expected a factor above 0", key);
    return st;
}

enum gm_status gm_gguf_config(const struct gm_gguf *g, struct gm_config *cfg, struct gm_err *err)
{
    struct gm_config_meta meta;
    char key[KEY_MAX];
    memset(cfg, 0, sizeof *cfg);
    memset(&meta, 0, sizeof meta);
    enum gm_status st = check_kind(g, &meta, err);
    if (st != GM_OK)
        return st;
    if (strcmp(meta.arch, "gemma2") != 0 && strcmp(meta.arch, "gemma3") != 0)
        return gm_config_from_meta(cfg, &meta, err); /* says which are known */
    arch_key(key, &meta, "rope.scaling.type");
    st = read_name(g, key, meta.rope_scaling, err);
    if (st == GM_OK)
        st = read_fields(g, &meta, err);
    if (st == GM_OK)
        st = read_pattern(g, &meta, err);
    if (st == GM_OK)
        st = read_query_scale(g, &meta, err);
    if (st != GM_OK)
        return st;
    settle_second(g, &meta);
    const struct gm_tensor *embed = gm_gguf_tensor(g, "token_embd.weight");
    if (!embed)
        return gm_fail(err, GM_INVALID, "the file has no tensor token_embd.weight");
    meta.vocab = embed->dims[1];
    return gm_config_from_meta(cfg, &meta, err);
}

/* ---- identity --------------------------------------------------------------------------------
 */

uint64_t gm_gguf_identity(const struct gm_gguf *g)
{
    uint64_t size = g->map.len;
    XXH64_hash_t hash = XXH3_64bits_withSeed(g->map.ptr, g->data_at, size);
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct gm_tensor *t = &g->tensors[i];
        size_t n = t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES;
        const size_t starts[] = { 0, (t->bytes - n) / 2, t->bytes - n };
        for (size_t k = 0; k < sizeof starts / sizeof starts[0]; k++)
            hash = XXH3_64bits_withSeed(t->data + starts[k], n, hash);
    }
    return hash;
}
