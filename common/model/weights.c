/* weights.c - finds a slice's tensors by table and checks each one's shape and type.
 *
 * Owns:      the table of names, the float copies of norms, the refusal of tensors nobody uses.
 * Does not:  copy matrices or compute.
 * Source:    llama.cpp's tensor names for gemma2 and gemma3; norms in such files include the "+1".
 */
#include "common/model/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TENSOR_NAME_MAX = GM_WEIGHT_NAME_MAX, NORMS_PER_LAYER = 4, HEAD_NORMS_PER_LAYER = 2 };

/* Lengths that tensors are made of. */
enum length { LEN_MODEL, LEN_Q, LEN_KV, LEN_QKV, LEN_FF, LEN_HEAD, LEN_VOCAB };

static int64_t length_of(const struct gm_config *cfg, enum length which)
{
    int64_t hd = cfg->head_dim;
    switch (which) {
    case LEN_MODEL:
        return cfg->d_model;
    case LEN_Q:
        return cfg->heads * hd;
    case LEN_KV:
        return cfg->kv_heads * hd;
    case LEN_QKV:
        return (cfg->heads + 2 * (int64_t)cfg->kv_heads) * hd;
    case LEN_FF:
        return cfg->d_ff;
    case LEN_HEAD:
        return hd;
    case LEN_VOCAB:
        return cfg->vocab;
    }
    return 0;
}

static const struct map_row {
    const char *name;
    enum length in, out;
} map_rows[GM_MAPS] = {
    [GM_MAP_Q] = { "attn_q", LEN_MODEL, LEN_Q },
    [GM_MAP_K] = { "attn_k", LEN_MODEL, LEN_KV },
    [GM_MAP_V] = { "attn_v", LEN_MODEL, LEN_KV },
    [GM_MAP_O] = { "attn_output", LEN_Q, LEN_MODEL },
    [GM_MAP_GATE] = { "ffn_gate", LEN_MODEL, LEN_FF },
    [GM_MAP_UP] = { "ffn_up", LEN_MODEL, LEN_FF },
    [GM_MAP_DOWN] = { "ffn_down", LEN_FF, LEN_MODEL },
};
static const char fused_name[] = "attn_qkv";

static const struct norm_row {
    const char *name;
    size_t at; /* offset of the pointer in struct gm_layer */
    enum length length;
    bool qk; /* only where cfg.qk_norm */
} norm_rows[] = {
    { "attn_norm", offsetof(struct gm_layer, attn_norm), LEN_MODEL, false },
    { "post_attention_norm", offsetof(struct gm_layer, post_attn_norm), LEN_MODEL, false },
    { "ffn_norm", offsetof(struct gm_layer, ffn_norm), LEN_MODEL, false },
    { "post_ffw_norm", offsetof(struct gm_layer, post_ffn_norm), LEN_MODEL, false },
    { "attn_q_norm", offsetof(struct gm_layer, q_norm), LEN_HEAD, true },
    { "attn_k_norm", offsetof(struct gm_layer, k_norm), LEN_HEAD, true },
};
enum { NORM_ROWS = sizeof norm_rows / sizeof norm_rows[0] };

const char *gm_map_name(enum gm_map_kind map)
{
    return (unsigned)map < GM_MAPS ? map_rows[map].name : "unknown";
}

struct binding {
    struct gm_weights *w;
    const struct gm_gguf *g;
    struct gm_err *err;
    size_t copies; /* floats used of w->owned */
};

/* ---- one tensor ------------------------------------------------------------------------------
 */

/* The tensor with its shape checked; a vector has rows 1. */
static enum gm_status find(const struct binding *b, const char *name, int64_t cols, int64_t rows,
                           const struct gm_tensor **out)
{
    const struct gm_tensor *t = gm_gguf_tensor(b->g, name);
    if (!t)
        return gm_fail(b->err, GM_INVALID,
                       "tensor %s is missing; a %s model needs it with %" PRId64 " x %" PRId64
                       " values",
                       name, b->w->cfg.name, cols, rows);
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return gm_fail(b->err, GM_INVALID,
                       "tensor %s is %" PRId64 " x %" PRId64 " x %" PRId64 " x %" PRId64
                       ", expected %" PRId64 " x %" PRId64 " for %s",
                       name, t->dims[0], t->dims[1], t->dims[2], t->dims[3], cols, rows,
                       b->w->cfg.name);
    *out = t;
    return GM_OK;
}

static enum gm_status bind_mat(struct binding *b, const char *name, int64_t cols, int64_t rows,
                               struct gm_mat *m)
{
    const struct gm_tensor *t;
    enum gm_status st = find(b, name, cols, rows, &t);
    if (st != GM_OK)
        return st;
    m->data = t->data;
    m->type = t->type;
    m->rows = (int32_t)rows;
    m->cols = (int32_t)cols;
    m->row_bytes = gm_type_row_bytes(t->type, (size_t)cols);
    return GM_OK;
}

/* Room for n floats in one block that fits every norm of the slice. */
static float *copy_room(struct binding *b, size_t n)
{
    const struct gm_config *cfg = &b->w->cfg;
    if (!b->w->owned) {
        size_t layers = (size_t)(b->w->end - b->w->begin);
        size_t floats = layers * (NORMS_PER_LAYER * (size_t)cfg->d_model +
                                  HEAD_NORMS_PER_LAYER * (size_t)cfg->head_dim) +
                        (size_t)cfg->d_model;
        b->w->owned = calloc(floats, sizeof(float));
        if (!b->w->owned)
            return NULL;
    }
    float *at = (float *)b->w->owned + b->copies;
    b->copies += n;
    return at;
}

static enum gm_status bind_norm(struct binding *b, const char *name, int64_t n, const float **out)
{
    const struct gm_tensor *t;
    enum gm_status st = find(b, name, n, 1, &t);
    if (st != GM_OK)
        return st;
    if (t->type != GM_TYPE_F32 && t->type != GM_TYPE_F16 && t->type != GM_TYPE_BF16)
        return gm_fail(b->err, GM_INVALID, "tensor %s has type %s, expected F32, F16 or BF16", name,
                       gm_type_info((uint32_t)t->type)->name);
    if (t->type == GM_TYPE_F32) {
        *out = (const float *)(const void *)t->data;
    } else {
        float *copy = copy_room(b, (size_t)n);
        if (!copy)
            return gm_fail(b->err, GM_EXHAUSTED, "no memory to convert %s", name);
        gm_dequant_row(copy, t->data, t->type, (size_t)n);
        *out = copy;
    }
    for (int64_t i = 0; i < n; i++)
        if (!isfinite((*out)[i]))
            return gm_fail(b->err, GM_DATA_LOSS,
                           "value %" PRId64 " of tensor %s is not finite; fetch the file again", i,
                           name);
    return GM_OK;
}

/* ---- a layer ---------------------------------------------------------------------------------
 */

static void layer_name(char out[TENSOR_NAME_MAX], int32_t layer, const char *part)
{
    (void)snprintf(out, TENSOR_NAME_MAX, "blk.%d.%s.weight", (int)layer, part);
}

bool gm_weights_want(const struct gm_config *cfg, size_t i, struct gm_weight_want *out)
{
    const struct norm_row *norm[NORM_ROWS];
    size_t norms = 0, layers = (size_t)cfg->layers;
    for (size_t k = 0; k < NORM_ROWS; k++)
        if (cfg->qk_norm || !norm_rows[k].qk)
            norm[norms++] = &norm_rows[k];
    size_t in_layer = GM_MAPS + norms, at = i > 0 ? (i - 1) % in_layer : 0;
    *out = (struct gm_weight_want){ .rows = 1, .layer = -1, .map = GM_MAPS };
    out->cols = length_of(cfg, LEN_MODEL);
    if (i == 0) {
        (void)snprintf(out->name, sizeof out->name, "token_embd.weight");
        out->rows = length_of(cfg, LEN_VOCAB);
        return true;
    }
    if (i > layers * in_layer) {
        (void)snprintf(out->name, sizeof out->name, "output_norm.weight");
        out->norm = true;
        return i == layers * in_layer + 1;
    }
    out->layer = (int32_t)((i - 1) / in_layer);
    if (at < GM_MAPS) {
        layer_name(out->name, out->layer, map_rows[at].name);
        out->cols = length_of(cfg, map_rows[at].in);
        out->rows = length_of(cfg, map_rows[at].out);
        out->map = (int)at;
        return true;
    }
    layer_name(out->name, out->layer, norm[at - GM_MAPS]->name);
    out->cols = length_of(cfg, norm[at - GM_MAPS]->length);
    out->norm = true;
    return true;
}

/* Q, K and V as row ranges of one tensor. */
static enum gm_status bind_fused(struct binding *b, const char *name, struct gm_layer *layer)
{
    const struct gm_config *cfg = &b->w->cfg;
    struct gm_mat all;
    enum gm_status st = bind_mat(b, name, length_of(cfg, LEN_MODEL), length_of(cfg, LEN_QKV), &all);
    if (st != GM_OK)
        return st;
    const uint8_t *data = all.data;
    for (int map = GM_MAP_Q; map <= GM_MAP_V; map++) {
        struct gm_mat *m = &layer->map[map];
        *m = all;
        m->data = data;
        m->rows = (int32_t)length_of(cfg, map_rows[map].out);
        data += (size_t)m->rows * m->row_bytes;
    }
    return GM_OK;
}

static enum gm_status bind_layer(struct binding *b, int32_t number, struct gm_layer *layer)
{
    const struct gm_config *cfg = &b->w->cfg;
    char name[TENSOR_NAME_MAX], first[TENSOR_NAME_MAX];
    enum gm_status st = GM_OK;
    int map = GM_MAP_Q;
    layer_name(name, number, fused_name);
    layer_name(first, number, map_rows[GM_MAP_Q].name);
    if (gm_gguf_tensor(b->g, name) && !gm_gguf_tensor(b->g, first)) {
        st = bind_fused(b, name, layer);
        map = GM_MAP_O;
    }
    for (; map < GM_MAPS && st == GM_OK; map++) {
        layer_name(name, number, map_rows[map].name);
        st = bind_mat(b, name, length_of(cfg, map_rows[map].in), length_of(cfg, map_rows[map].out),
                      &layer->map[map]);
    }
    for (size_t i = 0; i < NORM_ROWS && st == GM_OK; i++) {
        const float *norm = NULL;
        if (norm_rows[i].qk && !cfg->qk_norm)
            continue;
        layer_name(name, number, norm_rows[i].name);
        st = bind_norm(b, name, length_of(cfg, norm_rows[i].length), &norm);
        memcpy((char *)layer + norm_rows[i].at, &norm, sizeof norm);
    }
    for (int i = 0; i < GM_MAPS && st == GM_OK; i++)
        b->w->bytes += (uint64_t)layer->map[i].rows * layer->map[i].row_bytes;
    return st;
}

/* Whether a layer of ours uses "part.weight"; `fused` where Q, K and V are one tensor. */
static bool part_known(const struct gm_config *cfg, const char *part, bool fused)
{
    char name[TENSOR_NAME_MAX];
    for (int map = fused ? GM_MAP_O : GM_MAP_Q; map < GM_MAPS; map++) {
        (void)snprintf(name, sizeof name, "%s.weight", map_rows[map].name);
        if (strcmp(part, name) == 0)
            return true;
    }
    for (size_t i = 0; i < NORM_ROWS; i++) {
        (void)snprintf(name, sizeof name, "%s.weight", norm_rows[i].name);
        if (strcmp(part, name) == 0)
            return cfg->qk_norm || !norm_rows[i].qk;
    }
    return fused && strcmp(part, "attn_qkv.weight") == 0;
}

/* A tensor of our layers that no table names would silently change nothing: refuse it. */
static enum gm_status check_unused(const struct binding *b)
{
    const struct gm_weights *w = b->w;
    for (size_t i = 0; i < gm_gguf_tensor_count(b->g); i++) {
        const char *name = gm_gguf_tensor_at(b->g, i)->name;
        char first[TENSOR_NAME_MAX];
        int layer = 0, at = 0;
        if (sscanf(name, "blk.%4d.%n", &layer, &at) != 1 || at == 0 || layer < w->begin ||
            layer >= w->end)
            continue;
        layer_name(first, layer, map_rows[GM_MAP_Q].name);
        if (!part_known(&w->cfg, name + at, !gm_gguf_tensor(b->g, first)))
            return gm_fail(b->err, GM_UNSUPPORTED,
                           "tensor %s is not part of a %s model; the file is of another kind", name,
                           w->cfg.arch == GM_ARCH_GEMMA2 ? "Gemma 2" : "Gemma 3");
    }
    return GM_OK;
}

/* ---- the slice -------------------------------------------------------------------------------
 */

static enum gm_status bind_ends(struct binding *b, const struct gm_slice_spec *spec)
{
    struct gm_weights *w = b->w;
    int64_t d = w->cfg.d_model, vocab = w->cfg.vocab;
    bool own_head = gm_gguf_tensor(b->g, "output.weight") != NULL;
    enum gm_status st = GM_OK;
    if (spec->embed || (spec->head && !own_head))
        st = bind_mat(b, "token_embd.weight", d, vocab, &w->embed);
    if (st == GM_OK && spec->head) {
        w->head = w->embed;
        if (own_head)
            st = bind_mat(b, "output.weight", d, vocab, &w->head);
        if (st == GM_OK)
            st = bind_norm(b, "output_norm.weight", d, &w->final_norm);
        w->bytes += (uint64_t)w->head.rows * w->head.row_bytes;
    }
    if (st == GM_OK && spec->embed && !spec->head)
        w->bytes += w->embed.row_bytes; /* one row a token */
    return st;
}

enum gm_status gm_weights_bind(struct gm_weights *w, const struct gm_gguf *g,
                               const struct gm_slice_spec *spec, struct gm_err *err)
{
    memset(w, 0, sizeof *w);
    enum gm_status st = gm_gguf_config(g, &w->cfg, err);
    if (st != GM_OK)
        return st;
    if (spec->begin < 0 || spec->begin >= spec->end || spec->end > w->cfg.layers)
        return gm_fail(err, GM_INVALID, "layers %d to %d asked for; the model has layers 0 to %d",
                       (int)spec->begin, (int)spec->end, (int)w->cfg.layers);
    struct binding b = { w, g, err, 0 };
    w->begin = spec->begin;
    w->end = spec->end;
    w->layer = calloc((size_t)(w->end - w->begin), sizeof *w->layer);
    if (!w->layer)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the table of layers");
    st = check_unused(&b);
    for (int32_t i = w->begin; i < w->end && st == GM_OK; i++)
        st = bind_layer(&b, i, &w->layer[i - w->begin]);
    if (st == GM_OK)
        st = bind_ends(&b, spec);
    if (st != GM_OK)
        gm_weights_close(w);
    return st;
}

void gm_weights_close(struct gm_weights *w)
{
    free(w->layer);
    free(w->owned);
    memset(w, 0, sizeof *w);
}
