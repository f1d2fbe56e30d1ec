/* config.c - the table of Gemma variants, what follows from it, and the cut of layers into shards.
 *
 * Owns:      the rows, the check of stated metadata against a row, the defaults of custom models,
 *            the balanced cut.
 * Does not:  read files: gguf_meta.c fills struct gm_config_meta.
 * Source:    google-deepmind/gemma gm/nn/_gemma.py for the rows; the query scale of the two 27B is
 *            1/sqrt(d_model / heads) with integer division, not 1/sqrt(head_dim).
 */
#include "common/model/config.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/text.h"
#include "kernels/kernels.h"

enum {
    D_MODEL_MAX = 1 << 16,
    D_FF_MAX = 1 << 20,
    VOCAB_MAX = 1 << 20,
    POSITIONS_MAX = 1 << 24,  /* window and context */
    ACT_BLOCK = 32,           /* kernels quantise activations in blocks of this many */
    CUSTOM_CONTEXT = 8192,    /* where a custom model does not say */
    GEMMA2_WINDOW = 4096,     /* where a custom Gemma 2 does not say */
    CUT_POSITIONS_MAX = 4096, /* positions the cut assumes in a global layer */
};

static const double rope_base_local = 10000.0;
static const double norm_eps_default = 1e-6;
static const double meta_tolerance = 1e-4; /* relative; stated floats are float32 */

struct variant {
    const char *name;
    enum gm_arch arch;
    int32_t layers, d_model, heads, kv_heads, head_dim, d_ff, vocab, window, context;
    int32_t query_dim; /* query scale = 1 / sqrt(query_dim) */
    float rope_divisor;
};

static const struct variant variants[] = {
    { "gemma2-2b", GM_ARCH_GEMMA2, 26, 2304, 8, 4, 256, 9216, 256128, 4096, 8192, 256, 1.0f },
    { "gemma2-9b", GM_ARCH_GEMMA2, 42, 3584, 16, 8, 256, 14336, 256128, 4096, 8192, 256, 1.0f },
    { "gemma2-27b", GM_ARCH_GEMMA2, 46, 4608, 32, 16, 128, 36864, 256128, 4096, 8192, 144, 1.0f },
    { "gemma3-270m", GM_ARCH_GEMMA3, 18, 640, 4, 1, 256, 2048, 262144, 512, 32768, 256, 1.0f },
    { "gemma3-1b", GM_ARCH_GEMMA3, 26, 1152, 4, 1, 256, 6912, 262144, 512, 32768, 256, 1.0f },
    { "gemma3-4b", GM_ARCH_GEMMA3, 34, 2560, 8, 4, 256, 10240, 262144, 1024, 131072, 256, 8.0f },
    { "gemma3-12b", GM_ARCH_GEMMA3, 48, 3840, 16, 8, 256, 15360, 262144, 1024, 131072, 256, 8.0f },
    { "gemma3-27b", GM_ARCH_GEMMA3, 62, 5376, 32, 16, 128, 21504, 262144, 1024, 131072, 168, 8.0f },
};
enum { VARIANTS = sizeof variants / sizeof variants[0] };

/* What differs between the two families whatever the size. */
struct family {
    const char *name;
    enum gm_arch arch;
    int32_t pattern; /* every pattern-th layer is global */
    float rope_base_global, attn_softcap, final_softcap;
    bool qk_norm;
};

static const struct family families[] = {
    { "gemma2", GM_ARCH_GEMMA2, 2, 10000.0f, 50.0f, 30.0f, false },
    { "gemma3", GM_ARCH_GEMMA3, 6, 1000000.0f, 0.0f, 0.0f, true },
};

static const struct family *family_find(const char *name)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].name, name) == 0)
            return &families[i];
    return NULL;
}

static const struct variant *variant_find(enum gm_arch arch, const struct gm_config_meta *m)
{
    for (size_t i = 0; i < VARIANTS; i++) {
        const struct variant *v = &variants[i];
        if (v->arch == arch && v->layers == m->layers && v->d_model == m->d_model &&
            v->d_ff == m->d_ff)
            return v;
    }
    return NULL;
}

/* ---- the stated numbers ------------------------------------------------------------------------
 */

struct range {
    const char *name;
    size_t at; /* offset of the int64 in struct gm_config_meta */
    int64_t min, max, multiple;
};

/* 0 (not stated) is allowed where min is 0. */
static const struct range ranges[] = {
    { "block_count", offsetof(struct gm_config_meta, layers), 1, GM_LAYERS_MAX, 1 },
    { "embedding_length", offsetof(struct gm_config_meta, d_model), 1, D_MODEL_MAX, ACT_BLOCK },
    { "attention.head_count", offsetof(struct gm_config_meta, heads), 1, GM_HEADS_MAX, 1 },
    { "attention.head_count_kv", offsetof(struct gm_config_meta, kv_heads), 0, GM_HEADS_MAX, 1 },
    { "attention.key_length", offsetof(struct gm_config_meta, key_len), 0, GM_HEAD_DIM_MAX,
      ACT_BLOCK },
    { "attention.value_length", offsetof(struct gm_config_meta, value_len), 0, GM_HEAD_DIM_MAX,
      ACT_BLOCK },
    { "feed_forward_length", offsetof(struct gm_config_meta, d_ff), 1, D_FF_MAX, ACT_BLOCK },
    { "the vocabulary's size", offsetof(struct gm_config_meta, vocab), 1, VOCAB_MAX, 1 },
    { "attention.sliding_window", offsetof(struct gm_config_meta, window), 0, POSITIONS_MAX, 1 },
    { "context_length", offsetof(struct gm_config_meta, context), 0, POSITIONS_MAX, 1 },
    { "attention.sliding_window_pattern", offsetof(struct gm_config_meta, pattern), 0,
      POSITIONS_MAX, 1 },
};

static int64_t meta_int(const struct gm_config_meta *meta, size_t at)
{
    int64_t value;
    memcpy(&value, (const char *)meta + at, sizeof value);
    return value;
}

static enum gm_status check_ranges(const struct gm_config_meta *meta, struct gm_err *err)
{
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        const struct range *r = &ranges[i];
        int64_t value = meta_int(meta, r->at);
        if (value < r->min || value > r->max)
            return gm_fail(err, GM_INVALID,
                           "%s is %" PRId64 ", expected %" PRId64 " to %" PRId64
                           "; the model file is damaged or of another kind",
                           r->name, value, r->min, r->max);
        if (value % r->multiple != 0)
            return gm_fail(err, GM_INVALID, "%s is %" PRId64 ", expected a multiple of %" PRId64,
                           r->name, value, r->multiple);
    }
    return GM_OK;
}

struct real {
    const char *name;
    size_t at; /* offset of the double in struct gm_config_meta */
    double min, max;
};

/* 0 (not stated) is always allowed. */
static const struct real reals[] = {
    { "attention.layer_norm_rms_epsilon", offsetof(struct gm_config_meta, norm_eps), 1e-12, 0.1 },
    { "rope.freq_base", offsetof(struct gm_config_meta, rope_base), 1.0, 1e12 },
    { "rope.freq_base_swa", offsetof(struct gm_config_meta, rope_base_swa), 1.0, 1e12 },
    { "rope.scaling.factor", offsetof(struct gm_config_meta, rope_factor), 1e-3, 1e6 },
    { "attn_logit_softcapping", offsetof(struct gm_config_meta, attn_softcap), 1e-3, 1e6 },
    { "final_logit_softcapping", offsetof(struct gm_config_meta, final_softcap), 1e-3, 1e6 },
    { "gemline.query_scale", offsetof(struct gm_config_meta, query_scale), 1e-6, 1e3 },
};

static double meta_real(const struct gm_config_meta *meta, size_t at)
{
    double value;
    memcpy(&value, (const char *)meta + at, sizeof value);
    return value;
}

static enum gm_status check_reals(const struct gm_config_meta *meta, struct gm_err *err)
{
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        double value = meta_real(meta, reals[i].at);
        if (value != 0.0 && !(value >= reals[i].min && value <= reals[i].max))
            return gm_fail(err, GM_INVALID, "%s is %g, expected %g to %g", reals[i].name, value,
                           reals[i].min, reals[i].max);
    }
    if (meta->rope_scaling[0] && strcmp(meta->rope_scaling, "linear") != 0 &&
        strcmp(meta->rope_scaling, "none") != 0)
        return gm_fail(err, GM_UNSUPPORTED,
                       "rope.scaling.type is \"%s\"; only \"linear\" and \"none\" are known",
                       meta->rope_scaling);
    return GM_OK;
}

/* ---- filling ---------------------------------------------------------------------------------
 */

/* Shape and sizes of a known variant; the vocabulary follows the file, where rows are cut or
 * padded by the converter. */
static void fill_variant(struct gm_config *cfg, const struct variant *v)
{
    (void)snprintf(cfg->name, sizeof cfg->name, "%s", v->name);
    cfg->heads = v->heads;
    cfg->kv_heads = v->kv_heads;
    cfg->head_dim = v->head_dim;
    cfg->window = v->window;
    cfg->context = v->context;
    cfg->query_scale = (float)(1.0 / sqrt((double)v->query_dim));
    cfg->rope_divisor_global = v->rope_divisor;
}

/* What a table row knows and a file in no row must say itself: a wrong guess would only show as
 * worse answers. */
static enum gm_status check_custom(const struct gm_config_meta *m, const struct family *f,
                                   struct gm_err *err)
{
    const struct {
        bool missing;
        const char *name, *why;
    } needs[] = {
        { f->attn_softcap > 0.0f && m->attn_softcap == 0.0, "attn_logit_softcapping",
          "a Gemma 2 of no known size needs it" },
        { f->final_softcap > 0.0f && m->final_softcap == 0.0, "final_logit_softcapping",
          "a Gemma 2 of no known size needs it" },
        { m->pattern > 1 && m->window == 0, "attention.sliding_window above 0",
          "its attention.sliding_window_pattern has layers with a window" },
        { strcmp(m->rope_scaling, "linear") == 0 && m->rope_factor == 0.0, "rope.scaling.factor",
          "its rope.scaling.type is linear" },
    };
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++)
        if (needs[i].missing)
            return gm_fail(err, GM_INVALID, "the model file has no %s, but %s; convert it again",
                           needs[i].name, needs[i].why);
    return GM_OK;
}

/* Defaults of a model that is in no row. */
static enum gm_status fill_custom(struct gm_config *cfg, const struct gm_config_meta *m,
                                  struct gm_err *err)
{
    (void)snprintf(cfg->name, sizeof cfg->name, "custom");
    int64_t head_dim = m->key_len ? m->key_len : m->d_model / m->heads;
    if (head_dim < ACT_BLOCK || head_dim > GM_HEAD_DIM_MAX || head_dim % ACT_BLOCK != 0)
        return gm_fail(err, GM_INVALID,
                       "the head size is %" PRId64 ", expected a multiple of %d up to %d", head_dim,
                       (int)ACT_BLOCK, (int)GM_HEAD_DIM_MAX);
    cfg->heads = (int32_t)m->heads;
    cfg->kv_heads = (int32_t)(m->kv_heads ? m->kv_heads : m->heads);
    cfg->head_dim = (int32_t)head_dim;
    cfg->window = (int32_t)m->window;
    if (cfg->window == 0 && cfg->arch == GM_ARCH_GEMMA2)
        cfg->window = GEMMA2_WINDOW;
    cfg->context = CUSTOM_CONTEXT;
    cfg->query_scale =
        m->query_scale != 0.0 ? (float)m->query_scale : (float)(1.0 / sqrt((double)head_dim));
    cfg->rope_divisor_global = 1.0f;
    if (m->rope_factor != 0.0 && strcmp(m->rope_scaling, "none") != 0)
        cfg->rope_divisor_global = (float)m->rope_factor;
    if (m->rope_base != 0.0)
        cfg->rope_base_global = (float)m->rope_base;
    cfg->rope_base_local =
        cfg->arch == GM_ARCH_GEMMA2 ? cfg->rope_base_global : cfg->rope_base_local;
    if (m->rope_base_swa != 0.0)
        cfg->rope_base_local = (float)m->rope_base_swa;
    if (m->norm_eps != 0.0)
        cfg->norm_eps = (float)m->norm_eps;
    if (m->attn_softcap != 0.0)
        cfg->attn_softcap = (float)m->attn_softcap;
    if (m->final_softcap != 0.0)
        cfg->final_softcap = (float)m->final_softcap;
    return GM_OK;
}

static void fill_family(struct gm_config *cfg, const struct family *f,
                        const struct gm_config_meta *m)
{
    cfg->arch = f->arch;
    cfg->layers = (int32_t)m->layers;
    cfg->d_model = (int32_t)m->d_model;
    cfg->d_ff = (int32_t)m->d_ff;
    cfg->vocab = (int32_t)m->vocab;
    cfg->norm_eps = (float)norm_eps_default;
    cfg->rope_base_local = (float)rope_base_local;
    cfg->rope_base_global = f->rope_base_global;
    cfg->attn_softcap = f->attn_softcap;
    cfg->final_softcap = f->final_softcap;
    cfg->qk_norm = f->qk_norm;
}

/* A stated number against the one the model will be run with. */
static enum gm_status expect(const char *name, double stated, double used, const char *variant,
                             struct gm_err *err)
{
    if (stated == 0.0 || fabs(stated - used) <= meta_tolerance * fabs(used))
        return GM_OK;
    return gm_fail(err, GM_INVALID,
                   "%s is %g but %s has %g; the file is damaged or is not what its shape says",
                   name, stated, variant, used);
}

static enum gm_status check_stated(const struct gm_config *cfg, const struct gm_config_meta *m,
                                   const struct family *f, struct gm_err *err)
{
    bool none = strcmp(m->rope_scaling, "none") == 0;
    if (m->no_window)
        return gm_fail(err, GM_INVALID,
                       "attention.sliding_window is 0 but %s has %d; the file is damaged or is not "
                       "what its shape says",
                       cfg->name, (int)cfg->window);
    const struct {
        const char *name;
        double stated, used;
    } pairs[] = {
        { "attention.head_count", (double)m->heads, cfg->heads },
        { "attention.head_count_kv", (double)m->kv_heads, cfg->kv_heads },
        { "attention.key_length", (double)m->key_len, cfg->head_dim },
        { "attention.value_length", (double)m->value_len, cfg->head_dim },
        { "attention.sliding_window", (double)m->window, cfg->window },
        { "attention.sliding_window_pattern", (double)m->pattern, f->pattern },
        { "attention.layer_norm_rms_epsilon", m->norm_eps, cfg->norm_eps },
        { "rope.freq_base", m->rope_base, cfg->rope_base_global },
        { "rope.freq_base_swa", m->rope_base_swa, cfg->rope_base_local },
        { "rope.scaling.factor", none ? 1.0 : m->rope_factor, cfg->rope_divisor_global },
        { "attn_logit_softcapping", m->attn_softcap, cfg->attn_softcap },
        { "final_logit_softcapping", m->final_softcap, cfg->final_softcap },
        { "gemline.query_scale", m->query_scale, cfg->query_scale },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        enum gm_status st = expect(pairs[i].name, pairs[i].stated, pairs[i].used, cfg->name, err);
        if (st != GM_OK)
            return st;
    }
    return GM_OK;
}

enum gm_status gm_config_from_meta(struct gm_config *cfg, const struct gm_config_meta *meta,
                                   struct gm_err *err)
{
    memset(cfg, 0, sizeof *cfg);
    const struct family *f = family_find(meta->arch);
    if (!f)
        return gm_fail(err, GM_UNSUPPORTED,
                       "the model's architecture is \"%.*s\"; use a Gemma 2 or Gemma 3 text model "
                       "(\"gemma2\", \"gemma3\")",
                       GM_NAME_MAX - 1, meta->arch);
    enum gm_status st = check_ranges(meta, err);
    if (st == GM_OK)
        st = check_reals(meta, err);
    if (st != GM_OK)
        return st;
    fill_family(cfg, f, meta);
    const struct variant *v = variant_find(f->arch, meta);
    int64_t pattern = f->pattern;
    if (v) {
        fill_variant(cfg, v);
        st = check_stated(cfg, meta, f, err);
    } else {
        st = check_custom(meta, f, err);
        if (st == GM_OK)
            st = fill_custom(cfg, meta, err);
        pattern = meta->pattern ? meta->pattern : pattern;
    }
    if (st != GM_OK)
        return st;
    if (cfg->heads % cfg->kv_heads != 0)
        return gm_fail(err, GM_INVALID, "%d heads cannot share %d key/value heads evenly",
                       (int)cfg->heads, (int)cfg->kv_heads);
    if (meta->value_len && meta->value_len != cfg->head_dim)
        return gm_fail(err, GM_INVALID,
                       "attention.value_length is %" PRId64 ", expected %d like the keys",
                       meta->value_len, (int)cfg->head_dim);
    if (meta->context)
        cfg->context = (int32_t)meta->context;
    for (int32_t i = 0; i < cfg->layers; i++)
        cfg->local[i] = cfg->window > 0 && i % pattern < pattern - 1;
    return GM_OK;
}

/* ---- by name -----------------------------------------------------------------------------------
 */

static const char short_prefix[] = "gemma3-"; /* may be left out */

static bool name_fits(const struct variant *v, const char *name)
{
    size_t n = sizeof short_prefix - 1;
    return strcmp(v->name, name) == 0 ||
           (strncmp(v->name, short_prefix, n) == 0 && strcmp(v->name + n, name) == 0);
}

static enum gm_status name_unknown(const char *name, struct gm_err *err)
{
    char list[GM_ERR_TEXT_MAX] = "";
    for (size_t i = 0; i < VARIANTS; i++) {
        size_t at = strlen(list);
        (void)snprintf(list + at, sizeof list - at, "%s%s", at ? ", " : "", variants[i].name);
    }
    return gm_fail(err, GM_NOT_FOUND, "there is no variant \"%.40s\"; known are %s", name, list);
}

enum gm_status gm_config_variant(struct gm_config *cfg, const char *name, int64_t layers,
                                 struct gm_err *err)
{
    const struct variant *v = NULL;
    struct gm_config_meta m;
    memset(&m, 0, sizeof m);
    memset(cfg, 0, sizeof *cfg);
    for (size_t i = 0; i < VARIANTS && !v; i++)
        if (name_fits(&variants[i], name))
            v = &variants[i];
    if (!v)
        return name_unknown(name, err);
    (void)snprintf(m.arch, sizeof m.arch, "gemma%d", (int)v->arch);
    m.layers = layers > 0 ? layers : v->layers;
    m.d_model = v->d_model;
    m.heads = v->heads;
    m.kv_heads = v->kv_heads;
    m.key_len = m.value_len = v->head_dim;
    m.d_ff = v->d_ff;
    m.vocab = v->vocab;
    m.window = v->window;
    m.context = v->context;
    m.attn_softcap = (double)family_find(m.arch)->attn_softcap;
    m.final_softcap = (double)family_find(m.arch)->final_softcap;
    m.query_scale = 1.0 / sqrt((double)v->query_dim);
    m.rope_factor = (double)v->rope_divisor;
    return gm_config_from_meta(cfg, &m, err);
}

/* ---- cuts ------------------------------------------------------------------------------------
 */

enum { WEIGHT_BITS = 5, HEAD_BITS = 7, KV_BITS = 16 }; /* of a typical 4-bit file, for the cut */

/* Bits read for one token by layer i; the head is added to the last layer. */
static double layer_cost(const struct gm_config *cfg, int32_t i)
{
    double d = cfg->d_model, hd = cfg->head_dim;
    double params = d * hd * (2.0 * cfg->heads + 2.0 * cfg->kv_heads) + 3.0 * d * cfg->d_ff;
    double seen = cfg->context < CUT_POSITIONS_MAX ? cfg->context : CUT_POSITIONS_MAX;
    if (cfg->local[i] && cfg->window < seen)
        seen = cfg->window;
    double cost = params * WEIGHT_BITS + seen * 2.0 * hd * cfg->kv_heads * KV_BITS;
    if (i == cfg->layers - 1)
        cost += d * cfg->vocab * HEAD_BITS;
    return cost;
}

/* One pass of the partition: best[s][e] for the first e layers in s shards. With limit < 0 it
 * minimises the largest shard; else the sum of squares under that limit, and notes the cuts. */
static double cut_pass(const double *sum, int32_t layers, int32_t n, double limit,
                       uint8_t (*from)[GM_LAYERS_MAX + 1])
{
    double best[2][GM_LAYERS_MAX + 1];
    for (int32_t e = 0; e <= layers; e++)
        best[0][e] = e == 0 ? 0.0 : INFINITY;
    for (int32_t s = 1; s <= n; s++) {
        const double *before = best[(s - 1) & 1];
        double *now = best[s & 1];
        for (int32_t e = 0; e <= layers; e++) {
            now[e] = INFINITY;
            for (int32_t b = s - 1; b < e; b++) {
                double cost = sum[e] - sum[b];
                if (limit >= 0.0 && cost > limit)
                    continue;
                double value = limit < 0.0 ? fmax(before[b], cost) : before[b] + cost * cost;
                if (value < now[e]) {
                    now[e] = value;
                    from[s][e] = (uint8_t)b;
                }
            }
        }
    }
    return best[n & 1][layers];
}

enum gm_status gm_config_cut(const struct gm_config *cfg, int32_t n, int32_t *first,
                             struct gm_err *err)
{
    if (cfg->layers < 1 || cfg->layers > GM_LAYERS_MAX || n < 1 || n > cfg->layers)
        return gm_fail(err, GM_INVALID,
                       "%d shards asked for; this model has %d layers, so use 1 to %d", (int)n,
                       (int)cfg->layers, (int)cfg->layers);
    double sum[GM_LAYERS_MAX + 1] = { 0.0 };
    uint8_t from[GM_SHARDS_MAX + 1][GM_LAYERS_MAX + 1];
    memset(from, 0, sizeof from);
    for (int32_t i = 0; i < cfg->layers; i++)
        sum[i + 1] = sum[i] + layer_cost(cfg, i);
    double limit = cut_pass(sum, cfg->layers, n, -1.0, from);
    (void)cut_pass(sum, cfg->layers, n, limit, from);
    first[n] = cfg->layers;
    for (int32_t s = n; s > 0; s--)
        first[s - 1] = from[s][first[s]];
    return GM_OK;
}

/* Reads the digits at *text and moves behind them; -1 when there are none or too many. */
static int64_t cut_number(const char **text)
{
    char digits[8];
    size_t n = strspn(*text, "0123456789");
    int64_t value;
    if (n == 0 || n >= sizeof digits)
        return -1;
    memcpy(digits, *text, n);
    digits[n] = '\0';
    *text += n;
    return gm_parse_i64(digits, 0, INT32_MAX, &value, NULL) == GM_OK ? value : -1;
}

enum gm_status gm_config_parse_cut(const struct gm_config *cfg, const char *text, int32_t *n,
                                   int32_t *first, struct gm_err *err)
{
    const char *at = text;
    int32_t shards = 0;
    int64_t next = 0;
    for (;;) {
        int64_t begin = cut_number(&at);
        if (begin < 0 || *at++ != ':')
            break;
        int64_t end = cut_number(&at);
        if (begin != next || end <= begin || end > cfg->layers || shards == GM_SHARDS_MAX)
            break;
        first[shards++] = (int32_t)begin;
        next = end;
        if (*at == '\0' && next == cfg->layers) {
            first[shards] = cfg->layers;
            *n = shards;
            return GM_OK;
        }
        if (*at++ != ',')
            break;
    }
    return gm_fail(err, GM_INVALID,
                   "the cut \"%.80s\" is wrong: write ranges like 0:%d,%d:%d that cover layers 0 "
                   "to %d in order without gaps",
                   text, (int)(cfg->layers + 1) / 2, (int)(cfg->layers + 1) / 2, (int)cfg->layers,
                   (int)cfg->layers);
}
