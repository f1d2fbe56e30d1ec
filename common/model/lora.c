/* lora.c - reads a PEFT adapter and binds its matrices to the layers of a slice.
 *
 * Owns:      the tables of what a config must and must not say and of tensor names; copies of the
 *            slice's matrices, so that the file is closed again.
 * Does not:  merge or apply (block.c), or read DeepMind's or GGUF's adapters.
 * Source:    PEFT's save format; y += alpha / r * B (A x), with use_rslora alpha / sqrt(r).
 */
#include "common/model/lora.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/base/fs.h"
#include "common/base/mapguard.h"
#include "common/base/text.h"
#include "common/model/json.h"
#include "common/model/safetensors.h"

enum { CONFIG_BYTES_MAX = 1 << 20, COPY_ALIGN = 64 };
static const double alpha_max = 1e6;

/* ---- adapter_config.json -----------------------------------------------------------------------
 */

/* What a key may hold if it stands there at all. Empty: null, false, "", [] or {}. */
enum must { MUST_EMPTY, MUST_TEXT, MUST_TEXT_OR_NULL };
static const struct rule {
    const char *key;
    enum must must;
    const char *text;
} rules[] = {
    { "peft_type", MUST_TEXT, "LORA" },
    { "task_type", MUST_TEXT_OR_NULL, "CAUSAL_LM" },
    { "bias", MUST_TEXT, "none" },
    { "use_dora", MUST_EMPTY, NULL },
    { "fan_in_fan_out", MUST_EMPTY, NULL },
    { "modules_to_save", MUST_EMPTY, NULL },
    { "lora_bias", MUST_EMPTY, NULL },
    { "rank_pattern", MUST_EMPTY, NULL },
    { "alpha_pattern", MUST_EMPTY, NULL },
    { "layer_replication", MUST_EMPTY, NULL },
    { "use_qalora", MUST_EMPTY, NULL },
    { "target_parameters", MUST_EMPTY, NULL },
    { "trainable_token_indices", MUST_EMPTY, NULL },
    { "alora_invocation_tokens", MUST_EMPTY, NULL },
};

static bool rule_holds(const struct rule *r, const struct gm_json_node *at)
{
    if (r->must == MUST_EMPTY)
        return at->kind == GM_JSON_NULL || at->kind == GM_JSON_FALSE ||
               (at->kind == GM_JSON_TEXT && at->text[0] == '\0') ||
               ((at->kind == GM_JSON_ARRAY || at->kind == GM_JSON_OBJECT) && at->n == 0);
    if (at->kind == GM_JSON_NULL)
        return r->must == MUST_TEXT_OR_NULL;
    return at->kind == GM_JSON_TEXT && strcmp(at->text, r->text) == 0;
}

struct facts {
    int64_t rank;
    float scale;
    uint64_t hash;
};

static enum gm_status read_scale(const struct gm_json *json, struct facts *facts,
                                 struct gm_err *err)
{
    const struct gm_json_node *root = gm_json_root(json);
    const struct gm_json_node *rank = gm_json_get(json, root, "r");
    const struct gm_json_node *alpha = gm_json_get(json, root, "lora_alpha");
    const struct gm_json_node *rslora = gm_json_get(json, root, "use_rslora");
    double value;
    if (!rank || gm_json_int(rank, 1, GM_LORA_RANK_MAX, &facts->rank, NULL) != GM_OK)
        return gm_fail(err, GM_INVALID, "r must be a whole number from 1 to %d",
                       (int)GM_LORA_RANK_MAX);
    if (!alpha || gm_json_real(alpha, -alpha_max, alpha_max, &value, NULL) != GM_OK)
        return gm_fail(err, GM_INVALID, "lora_alpha must be a number within %g", alpha_max);
    if (rslora && rslora->kind != GM_JSON_TRUE && rslora->kind != GM_JSON_FALSE)
        return gm_fail(err, GM_INVALID, "use_rslora must be true or false");
    bool root_of_rank = rslora && rslora->kind == GM_JSON_TRUE;
    double divisor = root_of_rank ? sqrt((double)facts->rank) : (double)facts->rank;
    facts->scale = (float)(value / divisor);
    return GM_OK;
}

static enum gm_status check_config(const struct gm_json *json, struct facts *facts,
                                   struct gm_err *err)
{
    const struct gm_json_node *root = gm_json_root(json);
    if (root->kind != GM_JSON_OBJECT || !gm_json_get(json, root, "peft_type"))
        return gm_fail(err, GM_INVALID, "this is no adapter config (it has no peft_type)");
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        const struct gm_json_node *at = gm_json_get(json, root, rules[i].key);
        if (at && !rule_holds(&rules[i], at))
            return gm_fail(err, GM_UNSUPPORTED,
                           "this adapter uses %s, which is not supported; it must be %s%s",
                           rules[i].key, rules[i].text ? rules[i].text : "absent, null or false",
                           rules[i].text ? "" : " (train a plain LoRA)");
    }
    return read_scale(json, facts, err);
}

static enum gm_status read_config(const char *dir, struct facts *facts, struct gm_err *err)
{
    char path[GM_PATH_MAX];
    struct gm_buf text = GM_BUF(CONFIG_BYTES_MAX);
    struct gm_json *json = NULL;
    enum gm_status st = gm_path_join(path, sizeof path, dir, "adapter_config.json", err);
    if (st == GM_OK)
        st = gm_file_read(path, &text, err);
    if (st != GM_OK) {
        gm_buf_free(&text);
        return st;
    }
    facts->hash = XXH3_64bits(gm_buf_text(&text), text.len);
    st = gm_json_parse(&json, gm_buf_text(&text), text.len, err);
    if (st == GM_OK)
        st = check_config(json, facts, err);
    if (st != GM_OK && err)
        (void)gm_err_prefix(err, "%s", path);
    gm_json_free(&json);
    gm_buf_free(&text);
    return st;
}

/* ---- tensor names ------------------------------------------------------------------------------
 */

/* Text-only models; Gemma3ForConditionalGeneration from transformers 4.52 on, and before. */
static const char *const prefixes[] = {
    "base_model.model.model.layers.",
    "base_model.model.model.language_model.layers.",
    "base_model.model.language_model.model.layers.",
};

static const char *const modules[GM_MAPS] = {
    [GM_MAP_Q] = "self_attn.q_proj", [GM_MAP_K] = "self_attn.k_proj",
    [GM_MAP_V] = "self_attn.v_proj", [GM_MAP_O] = "self_attn.o_proj",
    [GM_MAP_GATE] = "mlp.gate_proj", [GM_MAP_UP] = "mlp.up_proj",
    [GM_MAP_DOWN] = "mlp.down_proj",
};

/* Which matrix a tensor is. */
struct place {
    int32_t layer;
    enum gm_map_kind map;
    bool b;
};

/* Moves *at behind `part`. */
static bool skip(const char **at, const char *part)
{
    size_t n = strlen(part);
    if (strncmp(*at, part, n) != 0)
        return false;
    *at += n;
    return true;
}

static bool name_place(const char *name, struct place *p)
{
    const char *at = name;
    bool found = false;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0] && !found; i++)
        found = skip(&at, prefixes[i]);
    size_t n = strspn(at, "0123456789");
    if (!found || n == 0 || n > 3 || (n > 1 && at[0] == '0') || at[n] != '.')
        return false;
    p->layer = 0;
    for (size_t i = 0; i < n; i++)
        p->layer = p->layer * 10 + (at[i] - '0');
    at += n + 1;
    for (int map = 0; map < GM_MAPS; map++) {
        if (!skip(&at, modules[map]))
            continue;
        p->map = (enum gm_map_kind)map;
        p->b = strcmp(at, ".lora_B.weight") == 0;
        return p->b || strcmp(at, ".lora_A.weight") == 0;
    }
    return false;
}

/* Inputs and outputs of a map. */
static void map_shape(const struct gm_config *cfg, enum gm_map_kind map, int64_t *in, int64_t *out)
{
    int64_t d = cfg->d_model, ff = cfg->d_ff;
    int64_t q = (int64_t)cfg->heads * cfg->head_dim, kv = (int64_t)cfg->kv_heads * cfg->head_dim;
    const int64_t shapes[GM_MAPS][2] = {
        [GM_MAP_Q] = { d, q },     [GM_MAP_K] = { d, kv },    [GM_MAP_V] = { d, kv },
        [GM_MAP_O] = { q, d },     [GM_MAP_GATE] = { d, ff }, [GM_MAP_UP] = { d, ff },
        [GM_MAP_DOWN] = { ff, d },
    };
    *in = shapes[map][0];
    *out = shapes[map][1];
}

/* ---- binding ---------------------------------------------------------------------------------
 */

struct binding {
    const struct gm_config *cfg;
    const struct facts *facts;
    struct gm_lora *lora;
    uint8_t (*seen)[GM_MAPS]; /* [layers]; bit 0: A, bit 1: B */
    uint8_t *copies;          /* next free byte of lora->owned */
    struct gm_err *err;
};

static size_t copy_bytes(size_t bytes)
{
    return (bytes + COPY_ALIGN - 1) / COPY_ALIGN * COPY_ALIGN;
}

static bool type_of(const struct gm_st_tensor *t, enum gm_type *type)
{
    static const struct {
        const char *dtype;
        enum gm_type type;
    } types[] = { { "F32", GM_TYPE_F32 }, { "F16", GM_TYPE_F16 }, { "BF16", GM_TYPE_BF16 } };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].dtype, t->dtype) == 0) {
            *type = types[i].type;
            return true;
        }
    return false;
}

/* Every value must be finite: one that is not would end every answer. */
static bool all_finite(const struct gm_st_tensor *t, enum gm_type type)
{
    for (size_t i = 0; i < t->bytes; i += t->elem_bytes) {
        float x;
        gm_dequant_row(&x, t->data + i, type, 1);
        if (!isfinite(x))
            return false;
    }
    return true;
}

static enum gm_status check_tensor(struct binding *b, const struct gm_st_tensor *t, struct place *p,
                                   enum gm_type *type)
{
    int64_t in, out;
    if (!name_place(t->name, p))
        return gm_fail(b->err, GM_UNSUPPORTED,
                       "tensor %.160s is none of a plain LoRA of Gemma's text layers", t->name);
    if (p->layer >= b->cfg->layers)
        return gm_fail(b->err, GM_INVALID,
                       "tensor %.160s is for layer %d, %s has %d layers: the adapter was made for "
                       "another model",
                       t->name, (int)p->layer, b->cfg->name, (int)b->cfg->layers);
    map_shape(b->cfg, p->map, &in, &out);
    int64_t rows = p->b ? out : b->facts->rank, cols = p->b ? b->facts->rank : in;
    if (t->n_dims != 2 || t->dims[0] != rows || t->dims[1] != cols)
        return gm_fail(b->err, GM_INVALID,
                       "tensor %.160s is %" PRId64 " x %" PRId64 ", expected %" PRId64 " x %" PRId64
                       " for %s and r %" PRId64 ": the adapter was made for another model",
                       t->name, t->dims[0], t->dims[1], rows, cols, b->cfg->name, b->facts->rank);
    if (!type_of(t, type))
        return gm_fail(b->err, GM_UNSUPPORTED,
                       "tensor %.160s has type %s, expected F32, F16 or BF16", t->name, t->dtype);
    if (!all_finite(t, *type))
        return gm_fail(b->err, GM_DATA_LOSS, "tensor %.160s has values that are not finite",
                       t->name);
    uint8_t bit = p->b ? 2 : 1;
    if (b->seen[p->layer][p->map] & bit)
        return gm_fail(b->err, GM_INVALID, "tensor %.160s stands in the file twice", t->name);
    b->seen[p->layer][p->map] |= bit;
    return GM_OK;
}

static enum gm_status bind_tensor(struct binding *b, const struct gm_st_tensor *t)
{
    struct place p = { 0, GM_MAP_Q, false };
    enum gm_type type = GM_TYPE_F32;
    enum gm_status st = check_tensor(b, t, &p, &type);
    if (st != GM_OK || p.layer < b->lora->begin || p.layer >= b->lora->end)
        return st;
    struct gm_lora_map *map = &b->lora->layer[p.layer - b->lora->begin][p.map];
    struct gm_mat *m = p.b ? &map->b : &map->a;
    memcpy(b->copies, t->data, t->bytes);
    *m = (struct gm_mat){ .data = b->copies,
                          .type = type,
                          .rows = (int32_t)t->dims[0],
                          .cols = (int32_t)t->dims[1],
                          .row_bytes = gm_type_row_bytes(type, (size_t)t->dims[1]) };
    map->scale = b->facts->scale;
    b->copies += copy_bytes(t->bytes);
    return GM_OK;
}

static enum gm_status check_pairs(const struct binding *b)
{
    for (int32_t i = 0; i < b->cfg->layers; i++)
        for (int map = 0; map < GM_MAPS; map++)
            if (b->seen[i][map] == 1 || b->seen[i][map] == 2)
                return gm_fail(b->err, GM_INVALID, "layer %d has %s of %s without its %s", (int)i,
                               b->seen[i][map] == 1 ? "lora_A" : "lora_B", modules[map],
                               b->seen[i][map] == 1 ? "lora_B" : "lora_A");
    return GM_OK;
}

static enum gm_status bind_all(struct binding *b, const struct gm_safetensors *file)
{
    struct gm_lora *lora = b->lora;
    size_t bytes = COPY_ALIGN;
    for (size_t i = 0; i < gm_safetensors_count(file); i++) {
        struct place p;
        const struct gm_st_tensor *t = gm_safetensors_at(file, i);
        if (name_place(t->name, &p) && p.layer >= lora->begin && p.layer < lora->end)
            bytes += copy_bytes(t->bytes);
    }
    lora->owned = aligned_alloc(COPY_ALIGN, bytes);
    lora->layer = calloc((size_t)(lora->end - lora->begin), sizeof *lora->layer);
    if (!lora->owned || !lora->layer)
        return gm_fail(b->err, GM_EXHAUSTED, "no memory for an adapter of %zu bytes", bytes);
    b->copies = lora->owned;
    if (gm_safetensors_count(file) == 0)
        return gm_fail(b->err, GM_INVALID, "the adapter has no tensors");
    for (size_t i = 0; i < gm_safetensors_count(file); i++) {
        enum gm_status st = bind_tensor(b, gm_safetensors_at(file, i));
        if (st != GM_OK)
            return st;
    }
    return check_pairs(b);
}

static enum gm_status open_tensors(struct gm_lora *lora, const char *dir,
                                   const struct gm_config *cfg, const struct facts *facts,
                                   struct gm_err *err)
{
    char path[GM_PATH_MAX];
    struct gm_safetensors *file = NULL;
    uint8_t seen[GM_LAYERS_MAX][GM_MAPS];
    memset(seen, 0, sizeof seen);
    enum gm_status st = gm_path_join(path, sizeof path, dir, "adapter_model.safetensors", err);
    if (st == GM_OK)
        st = gm_safetensors_open(&file, path, err);
    if (st != GM_OK)
        return st;
    struct binding b = { cfg, facts, lora, seen, NULL, err };
    st = bind_all(&b, file);
    if (st != GM_OK && err)
        (void)gm_err_prefix(err, "%s", path);
    lora->identity = gm_safetensors_hash(file, facts->hash);
    if (st == GM_OK)
        st = gm_mapguard_check(err); /* copied in full; from here on the file is not needed */
    gm_safetensors_close(&file);
    return st;
}

enum gm_status gm_lora_open(struct gm_lora **out, const char *dir, const struct gm_config *cfg,
                            int32_t begin, int32_t end, struct gm_err *err)
{
    *out = NULL;
    if (cfg->layers > GM_LAYERS_MAX || begin < 0 || begin >= end || end > cfg->layers)
        return gm_fail(err, GM_INVALID, "layers %d to %d asked for; the model has layers 0 to %d",
                       (int)begin, (int)end, (int)cfg->layers);
    struct facts facts = { 0, 0.0f, 0 };
    enum gm_status st = read_config(dir, &facts, err);
    if (st != GM_OK)
        return st;
    struct gm_lora *lora = calloc(1, sizeof *lora);
    if (!lora)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the adapter %s", dir);
    lora->begin = begin;
    lora->end = end;
    lora->rank_max = (int32_t)facts.rank;
    st = open_tensors(lora, dir, cfg, &facts, err);
    if (st != GM_OK) {
        gm_lora_close(&lora);
        return st;
    }
    *out = lora;
    return GM_OK;
}

static size_t packed_bytes(const struct gm_kernels *k, const struct gm_mat *m)
{
    return m->data ? copy_bytes(k->pack_bytes(m->type, m->rows, m->cols)) : 0;
}

static void pack_mat(const struct gm_kernels *k, struct gm_mat *m, uint8_t **at)
{
    const size_t bytes = packed_bytes(k, m);
    if (bytes == 0)
        return;
    k->pack(*at, m, 0, m->rows);
    m->data = *at;
    m->packed = true;
    *at += bytes;
}

enum gm_status gm_lora_pack(struct gm_lora *lora, const struct gm_kernels *kernels,
                            struct gm_err *err)
{
    const int32_t layers = lora->end - lora->begin;
    size_t bytes = 0;
    if (!kernels->pack_bytes || lora->packed)
        return GM_OK;
    for (int32_t i = 0; i < layers * GM_MAPS; i++) {
        const struct gm_lora_map *map = &lora->layer[i / GM_MAPS][i % GM_MAPS];
        bytes += packed_bytes(kernels, &map->a) + packed_bytes(kernels, &map->b);
    }
    uint8_t *at = lora->packed = aligned_alloc(COPY_ALIGN, bytes + COPY_ALIGN);
    if (!at)
        return gm_fail(err, GM_EXHAUSTED, "no memory for an adapter of %zu bytes", bytes);
    for (int32_t i = 0; i < layers * GM_MAPS; i++) {
        struct gm_lora_map *map = &lora->layer[i / GM_MAPS][i % GM_MAPS];
        pack_mat(kernels, &map->a, &at);
        pack_mat(kernels, &map->b, &at);
    }
    free(lora->owned);
    lora->owned = NULL;
    return GM_OK;
}

void gm_lora_close(struct gm_lora **lora)
{
    if (!*lora)
        return;
    free((*lora)->layer);
    free((*lora)->owned);
    free((*lora)->packed);
    free(*lora);
    *lora = NULL;
}
