/* model_small.c - see model_small.h.
 *
 * Owns:      the writers and the double forward pass.
 * Does not:  round anything to float on the way, so results agree with exact kernels only within
 *            a tolerance.
 */
#include "tests/unit/model_small.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 32, ALPHA = 8, NAME_MAX_BYTES = 128 };

static uint64_t state;

static uint32_t next(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static float between(float low, float high)
{
    return low + (high - low) * (float)(next() >> 8) / (float)(1 << 24);
}

/* Where a block's f16 scales stand and how large they are, so that weights are about 0.1. */
static const struct scales {
    enum gm_type type;
    int at[2]; /* -1: none */
    float value[2];
} types[] = {
    { GM_TYPE_F32, { -1, -1 }, { 0, 0 } },           { GM_TYPE_Q4_0, { 0, -1 }, { 0.015f, 0 } },
    { GM_TYPE_Q4_K, { 0, 2 }, { 0.0004f, 0.003f } }, { GM_TYPE_F16, { -1, -1 }, { 0, 0 } },
    { GM_TYPE_Q4_1, { 0, 2 }, { 0.015f, -0.11f } },  { GM_TYPE_Q6_K, { 208, -1 }, { 0.00007f, 0 } },
    { GM_TYPE_Q5_0, { 0, -1 }, { 0.008f, 0 } },      { GM_TYPE_BF16, { -1, -1 }, { 0, 0 } },
    { GM_TYPE_Q5_K, { 0, 2 }, { 0.0002f, 0.003f } }, { GM_TYPE_Q5_1, { 0, 2 }, { 0.008f, -0.12f } },
    { GM_TYPE_Q8_0, { 0, -1 }, { 0.001f, 0 } },
};
enum { TYPES = sizeof types / sizeof types[0] };

static void fill_data(struct small_map *m, const struct scales *s)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)m->type);
    const size_t n = (size_t)m->rows * (size_t)m->cols;
    for (size_t i = 0; info->block_elems == 1 && i < n; i++) {
        float x = between(-0.12f, 0.12f);
        uint16_t h = m->type == GM_TYPE_F16 ? gm_f32_to_f16(x) : gm_f32_to_bf16(x);
        memcpy(m->data + i * info->block_bytes, m->type == GM_TYPE_F32 ? (void *)&x : (void *)&h,
               info->block_bytes);
    }
    for (size_t b = 0; info->block_elems > 1 && b < n / info->block_elems; b++) {
        uint8_t *block = m->data + b * info->block_bytes;
        for (size_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)next();
        for (int i = 0; i < 2 && s->at[i] >= 0; i++) {
            uint16_t h = gm_f32_to_f16(s->value[i] * between(0.5f, 1.5f));
            memcpy(block + s->at[i], &h, sizeof h);
        }
    }
}

static void make_map(struct small_map *m, int32_t rows, int32_t cols, int type)
{
    const size_t n = (size_t)rows * (size_t)cols;
    m->rows = rows;
    m->cols = cols;
    m->type = types[type % TYPES].type;
    m->bytes = gm_type_row_bytes(m->type, (size_t)cols) * (size_t)rows;
    m->data = malloc(m->bytes);
    m->w = malloc(n * sizeof *m->w);
    m->a = malloc(SMALL_RANK * (size_t)cols * sizeof *m->a);
    m->b = malloc(SMALL_RANK * (size_t)rows * sizeof *m->b);
    m->lora = next() % 4 != 0;
    fill_data(m, &types[type % TYPES]);
    float row[SMALL_DIM];
    for (int32_t r = 0; r < rows; r++) {
        gm_dequant_row(row, m->data + (size_t)r * (m->bytes / (size_t)rows), m->type, (size_t)cols);
        for (int32_t c = 0; c < cols; c++)
            m->w[(size_t)r * (size_t)cols + (size_t)c] = (double)row[c];
    }
    for (int32_t i = 0; i < SMALL_RANK * cols; i++)
        m->a[i] = between(-0.1f, 0.1f);
    for (int32_t i = 0; i < SMALL_RANK * rows; i++)
        m->b[i] = between(-0.1f, 0.1f);
}

static void make_norm(float *w, int n)
{
    for (int i = 0; i < n; i++)
        w[i] = between(0.6f, 1.4f);
}

static const struct shape {
    const char *file, *peft;
    int32_t rows, cols;
} shapes[GM_MAPS] = {
    [GM_MAP_Q] = { "attn_q", "self_attn.q_proj", SMALL_HEADS *SMALL_HEAD_DIM, SMALL_DIM },
    [GM_MAP_K] = { "attn_k", "self_attn.k_proj", SMALL_KV_HEADS *SMALL_HEAD_DIM, SMALL_DIM },
    [GM_MAP_V] = { "attn_v", "self_attn.v_proj", SMALL_KV_HEADS *SMALL_HEAD_DIM, SMALL_DIM },
    [GM_MAP_O] = { "attn_output", "self_attn.o_proj", SMALL_DIM, SMALL_HEADS *SMALL_HEAD_DIM },
    [GM_MAP_GATE] = { "ffn_gate", "mlp.gate_proj", SMALL_FF, SMALL_DIM },
    [GM_MAP_UP] = { "ffn_up", "mlp.up_proj", SMALL_FF, SMALL_DIM },
    [GM_MAP_DOWN] = { "ffn_down", "mlp.down_proj", SMALL_DIM, SMALL_FF },
};
static const char *const norm_names[] = { "attn_norm", "post_attention_norm", "ffn_norm",
                                          "post_ffw_norm" };
static const char *const qk_names[] = { "attn_q_norm", "attn_k_norm" };

void small_make(struct small_model *m, bool gemma2, uint64_t seed)
{
    memset(m, 0, sizeof *m);
    state = seed;
    m->gemma2 = gemma2;
    int type = gemma2 ? 4 : 0;
    for (int l = 0; l < SMALL_LAYERS; l++) {
        for (int i = 0; i < GM_MAPS; i++)
            make_map(&m->layer[l].map[i], shapes[i].rows, shapes[i].cols, type++);
        for (int i = 0; i < 4; i++)
            make_norm(m->layer[l].norm[i], SMALL_DIM);
        for (int i = 0; i < 2; i++)
            make_norm(m->layer[l].qk_norm[i], SMALL_HEAD_DIM);
    }
    make_map(&m->embed, SMALL_VOCAB, SMALL_DIM, type);
    make_norm(m->final_norm, SMALL_DIM);
}

static void free_map(struct small_map *m)
{
    free(m->data);
    free(m->w);
    free(m->a);
    free(m->b);
}

void small_free(struct small_model *m)
{
    for (int l = 0; l < SMALL_LAYERS; l++)
        for (int i = 0; i < GM_MAPS; i++)
            free_map(&m->layer[l].map[i]);
    free_map(&m->embed);
}

/* ---- the GGUF file ----------------------------------------------------------------------------
 */

struct writer {
    FILE *f;
    uint64_t offset; /* of the next tensor's data */
    uint64_t count;
    int data; /* second pass: write data instead of the table */
};

static void put(struct writer *w, const void *p, size_t n)
{
    (void)fwrite(p, 1, n, w->f);
}

static void put_text(struct writer *w, const char *s)
{
    uint64_t n = strlen(s);
    put(w, &n, sizeof n);
    put(w, s, n);
}

static void put_u32(struct writer *w, const char *key, uint32_t value)
{
    const uint32_t type = 4;
    put_text(w, key);
    put(w, &type, sizeof type);
    put(w, &value, sizeof value);
}

static void put_f32(struct writer *w, const char *key, float value)
{
    const uint32_t type = 6;
    put_text(w, key);
    put(w, &type, sizeof type);
    put(w, &value, sizeof value);
}

static void tensor(struct writer *w, const char *name, enum gm_type type, int32_t cols,
                   int32_t rows, const void *data, size_t bytes)
{
    static const uint8_t zeros[ALIGN];
    const size_t padded = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    w->count++;
    if (w->data) {
        put(w, data, bytes);
        put(w, zeros, padded - bytes);
        return;
    }
    const uint32_t n_dims = rows > 1 ? 2 : 1, number = (uint32_t)type;
    const uint64_t dims[] = { (uint64_t)cols, (uint64_t)rows };
    put_text(w, name);
    put(w, &n_dims, sizeof n_dims);
    put(w, dims, n_dims * sizeof dims[0]);
    put(w, &number, sizeof number);
    put(w, &w->offset, sizeof w->offset);
    w->offset += padded;
}

static void all_tensors(struct writer *w, const struct small_model *m)
{
    char name[NAME_MAX_BYTES];
    for (int l = 0; l < SMALL_LAYERS; l++) {
        const struct small_layer *x = &m->layer[l];
        for (int i = 0; i < GM_MAPS; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, shapes[i].file);
            tensor(w, name, x->map[i].type, x->map[i].cols, x->map[i].rows, x->map[i].data,
                   x->map[i].bytes);
        }
        for (int i = 0; i < 4; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, norm_names[i]);
            tensor(w, name, GM_TYPE_F32, SMALL_DIM, 1, x->norm[i], sizeof x->norm[i]);
        }
        for (int i = 0; i < 2 && !m->gemma2; i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, qk_names[i]);
            tensor(w, name, GM_TYPE_F32, SMALL_HEAD_DIM, 1, x->qk_norm[i], sizeof x->qk_norm[i]);
        }
    }
    tensor(w, "token_embd.weight", m->embed.type, SMALL_DIM, SMALL_VOCAB, m->embed.data,
           m->embed.bytes);
    tensor(w, "output_norm.weight", GM_TYPE_F32, SMALL_DIM, 1, m->final_norm, sizeof m->final_norm);
}

static void all_keys(struct writer *w, const struct small_model *m)
{
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        { "block_count", SMALL_LAYERS },
        { "embedding_length", SMALL_DIM },
        { "feed_forward_length", SMALL_FF },
        { "attention.head_count", SMALL_HEADS },
        { "attention.head_count_kv", SMALL_KV_HEADS },
        { "attention.key_length", SMALL_HEAD_DIM },
        { "attention.value_length", SMALL_HEAD_DIM },
        { "attention.sliding_window", SMALL_WINDOW },
        { "attention.sliding_window_pattern", 2 },
        { "context_length", 4096 },
    };
    const char *arch = m->gemma2 ? "gemma2" : "gemma3";
    const uint32_t text = 8;
    char key[NAME_MAX_BYTES];
    put_text(w, "general.architecture");
    put(w, &text, sizeof text);
    put_text(w, arch);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++, w->count++) {
        snprintf(key, sizeof key, "%s.%s", arch, numbers[i].key);
        put_u32(w, key, numbers[i].value);
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", arch);
    put_f32(w, key, 1e-6f);
    w->count += 2;
    if (m->gemma2) {
        put_f32(w, "gemma2.attn_logit_softcapping", 50.0f);
        put_f32(w, "gemma2.final_logit_softcapping", 30.0f);
        w->count += 2;
    }
}

int small_write_gguf(const struct small_model *m, const char *path)
{
    static const uint8_t zeros[ALIGN];
    struct writer w = { .f = fopen(path, "wb") };
    if (!w.f)
        return 0;
    struct header {
        char magic[4];
        uint32_t version;
        uint64_t tensors, keys;
    } h = { { 'G', 'G', 'U', 'F' }, 3, 0, 0 };
    put(&w, &h, sizeof h);
    all_keys(&w, m);
    h.keys = w.count;
    w.count = 0;
    all_tensors(&w, m);
    h.tensors = w.count;
    long at = ftell(w.f);
    put(&w, zeros, (size_t)((ALIGN - at % ALIGN) % ALIGN));
    w.data = 1;
    all_tensors(&w, m);
    rewind(w.f);
    put(&w, &h, sizeof h);
    int ok = !ferror(w.f);
    return fclose(w.f) == 0 && ok;
}

/* ---- the adapter ------------------------------------------------------------------------------
 */

double small_lora_scale(void)
{
    return (double)ALPHA / SMALL_RANK;
}

/* One entry of the safetensors header; returns where the next one's data starts. */
static size_t entry(FILE *head, const char *comma, const char *name, int32_t rows, int32_t cols,
                    size_t at)
{
    size_t end = at + (size_t)rows * (size_t)cols * sizeof(float);
    fprintf(head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}",
            comma, name, rows, cols, at, end);
    return end;
}

static void write_tensors(const struct small_model *m, FILE *head, FILE *body, float b_factor)
{
    char name[NAME_MAX_BYTES];
    size_t at = 0;
    for (int l = 0; l < SMALL_LAYERS; l++)
        for (int i = 0; i < GM_MAPS; i++) {
            const struct small_map *x = &m->layer[l].map[i];
            if (!x->lora)
                continue;
            snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_A.weight", l,
                     shapes[i].peft);
            at = entry(head, at ? "," : "{", name, SMALL_RANK, x->cols, at);
            snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.lora_B.weight", l,
                     shapes[i].peft);
            at = entry(head, ",", name, x->rows, SMALL_RANK, at);
            fwrite(x->a, sizeof(float), (size_t)(SMALL_RANK * x->cols), body);
            for (int32_t j = 0; j < SMALL_RANK * x->rows; j++) {
                float b = x->b[j] * b_factor;
                fwrite(&b, sizeof b, 1, body);
            }
        }
    fputc('}', head);
}

int small_write_adapter(const struct small_model *m, const char *dir, float b_factor)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    FILE *f = fopen(path, "wb");
    if (!f)
        return 0;
    fprintf(f,
            "{\"peft_type\":\"LORA\",\"task_type\":\"CAUSAL_LM\",\"r\":%d,\"lora_alpha\":%d,"
            "\"bias\":\"none\",\"target_modules\":[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\","
            "\"gate_proj\",\"up_proj\",\"down_proj\"]}",
            SMALL_RANK, ALPHA);
    int ok = fclose(f) == 0;
    char *head_text = NULL, *body_text = NULL;
    size_t head_len = 0, body_len = 0;
    FILE *head = open_memstream(&head_text, &head_len),
         *body = open_memstream(&body_text, &body_len);
    write_tensors(m, head, body, b_factor);
    while (ftell(head) % 8 != 0)
        fputc(' ', head);
    fclose(head);
    fclose(body);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    f = fopen(path, "wb");
    if (f) {
        uint64_t n = head_len;
        fwrite(&n, sizeof n, 1, f);
        fwrite(head_text, 1, head_len, f);
        fwrite(body_text, 1, body_len, f);
        ok = fclose(f) == 0 && ok;
    }
    free(head_text);
    free(body_text);
    return f != NULL && ok;
}

/* ---- the forward pass in double ---------------------------------------------------------------
 */

static void norm(double *y, const double *x, const float *w, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / n + 1e-6) * (double)w[i];
}

static void linear(double *y, const struct small_map *m, const double *x, bool lora)
{
    double t[SMALL_RANK] = { 0 };
    for (int k = 0; k < SMALL_RANK && lora && m->lora; k++)
        for (int c = 0; c < m->cols; c++)
            t[k] += (double)m->a[k * m->cols + c] * x[c];
    for (int r = 0; r < m->rows; r++) {
        double sum = 0.0, add = 0.0;
        for (int c = 0; c < m->cols; c++)
            sum += m->w[r * m->cols + c] * x[c];
        for (int k = 0; k < SMALL_RANK; k++)
            add += (double)m->b[r * SMALL_RANK + k] * t[k];
        y[r] = sum + small_lora_scale() * add;
    }
}

static void rope(double *x, int pos, double base)
{
    const int half = SMALL_HEAD_DIM / 2;
    for (int i = 0; i < half; i++) {
        double angle = pos / pow(base, 2.0 * i / SMALL_HEAD_DIM);
        double a = x[i], b = x[i + half];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + half] = b * cos(angle) + a * sin(angle);
    }
}

struct cache {
    double k[SMALL_POSITIONS_MAX][SMALL_KV_HEADS][SMALL_HEAD_DIM];
    double v[SMALL_POSITIONS_MAX][SMALL_KV_HEADS][SMALL_HEAD_DIM];
};

static double cap(double x, double limit)
{
    return limit > 0.0 ? limit * tanh(x / limit) : x;
}

static void attend(double *out, const double *q, const struct cache *c, int kv, int first, int last,
                   double softcap)
{
    double score[SMALL_POSITIONS_MAX], largest = -INFINITY, sum = 0.0;
    for (int p = first; p <= last; p++) {
        double s = 0.0;
        for (int i = 0; i < SMALL_HEAD_DIM; i++)
            s += q[i] * c->k[p][kv][i];
        score[p] = cap(s / sqrt((double)SMALL_HEAD_DIM), softcap);
        largest = score[p] > largest ? score[p] : largest;
    }
    memset(out, 0, SMALL_HEAD_DIM * sizeof *out);
    for (int p = first; p <= last; p++)
        sum += exp(score[p] - largest);
    for (int p = first; p <= last; p++)
        for (int i = 0; i < SMALL_HEAD_DIM; i++)
            out[i] += exp(score[p] - largest) / sum * c->v[p][kv][i];
}

static void block(const struct small_model *m, int l, struct cache *c, double *h, int pos,
                  bool lora)
{
    enum { QD = SMALL_HEADS * SMALL_HEAD_DIM };
    const struct small_layer *x = &m->layer[l];
    const bool local = l % 2 == 0;
    const double base = m->gemma2 || local ? 1e4 : 1e6;
    const int first = local && pos >= SMALL_WINDOW ? pos - SMALL_WINDOW + 1 : 0;
    double n[SMALL_DIM], q[QD], mix[QD], out[SMALL_DIM], gate[SMALL_FF], up[SMALL_FF];
    norm(n, h, x->norm[0], SMALL_DIM);
    linear(q, &x->map[GM_MAP_Q], n, lora);
    linear(c->k[pos][0], &x->map[GM_MAP_K], n, lora);
    linear(c->v[pos][0], &x->map[GM_MAP_V], n, lora);
    for (int i = 0; i < SMALL_KV_HEADS; i++) {
        if (!m->gemma2)
            norm(c->k[pos][i], c->k[pos][i], x->qk_norm[1], SMALL_HEAD_DIM);
        rope(c->k[pos][i], pos, base);
    }
    for (int i = 0; i < SMALL_HEADS; i++) {
        double *head = q + i * SMALL_HEAD_DIM;
        if (!m->gemma2)
            norm(head, head, x->qk_norm[0], SMALL_HEAD_DIM);
        rope(head, pos, base);
        attend(mix + i * SMALL_HEAD_DIM, head, c, i / (SMALL_HEADS / SMALL_KV_HEADS), first, pos,
               m->gemma2 ? 50.0 : 0.0);
    }
    linear(out, &x->map[GM_MAP_O], mix, lora);
    norm(n, out, x->norm[1], SMALL_DIM);
    for (int i = 0; i < SMALL_DIM; i++)
        h[i] += n[i];
    norm(n, h, x->norm[2], SMALL_DIM);
    linear(gate, &x->map[GM_MAP_GATE], n, lora);
    linear(up, &x->map[GM_MAP_UP], n, lora);
    for (int i = 0; i < SMALL_FF; i++) {
        double z = gate[i];
        gate[i] = z / 2 * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z))) * up[i];
    }
    linear(out, &x->map[GM_MAP_DOWN], gate, lora);
    norm(n, out, x->norm[3], SMALL_DIM);
    for (int i = 0; i < SMALL_DIM; i++)
        h[i] += n[i];
}

void small_forward(const struct small_model *m, const int32_t *ids, int32_t n, bool lora,
                   double *logits)
{
    struct cache *c = calloc(SMALL_LAYERS, sizeof *c);
    double h[SMALL_DIM];
    for (int32_t pos = 0; pos < n; pos++) {
        for (int i = 0; i < SMALL_DIM; i++)
            h[i] = sqrt((double)SMALL_DIM) * m->embed.w[ids[pos] * SMALL_DIM + i];
        for (int l = 0; l < SMALL_LAYERS; l++)
            block(m, l, &c[l], h, pos, lora);
        norm(h, h, m->final_norm, SMALL_DIM);
        linear(logits + pos * SMALL_VOCAB, &m->embed, h, false);
        for (int i = 0; i < SMALL_VOCAB && m->gemma2; i++)
            logits[pos * SMALL_VOCAB + i] = cap(logits[pos * SMALL_VOCAB + i], 30.0);
    }
    free(c);
}
