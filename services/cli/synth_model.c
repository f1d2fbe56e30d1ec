/* synth_model.c - the random model files of synth_model.h.
 *
 * Owns:      the recipes (which tensor gets which type), the keys of such a file, the random
 *            numbers, the threads that make them.
 * Does not:  know shapes and names (common/model/config.c, weights.c) or byte layouts
 *            (kernels/quant_enc.c, common/model/gguf_write.c).
 * Source:    the recipes follow llama.cpp's quantiser (src/llama-quant.cpp), without importance
 *            matrices, so that speed and size are those of files in the wild.
 */
#include "services/cli/synth_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/model/gguf_write.h"
#include "common/model/weights.h"
#include "kernels/pool.h"
#include "kernels/quant_enc.h"

enum {
    PIECE_BYTES = 1 << 20, /* about what one write holds */
    BATCH_PIECES = 64,     /* between two looks at progress and stop */
    KEY_MAX = 80,
    QUANT_VERSION = 2, /* general.quantization_version of ggml's present layouts */
};

/* ---- recipes ---------------------------------------------------------------------------------
 */

static const struct recipe {
    uint32_t file_type;              /* general.file_type, llama.cpp's numbers */
    enum gm_type map, better, embed; /* better: attn_v and ffn_down of half the layers */
} recipes[] = {
    { 0, GM_TYPE_F32, GM_TYPE_F32, GM_TYPE_F32 },
    { 32, GM_TYPE_BF16, GM_TYPE_BF16, GM_TYPE_BF16 },
    { 1, GM_TYPE_F16, GM_TYPE_F16, GM_TYPE_F16 },
    { 7, GM_TYPE_Q8_0, GM_TYPE_Q8_0, GM_TYPE_Q8_0 },
    { 2, GM_TYPE_Q4_0, GM_TYPE_Q4_0, GM_TYPE_Q6_K },
    { 8, GM_TYPE_Q5_0, GM_TYPE_Q5_0, GM_TYPE_Q6_K },
    { 15, GM_TYPE_Q4_K, GM_TYPE_Q6_K, GM_TYPE_Q6_K },
};
enum { RECIPES = sizeof recipes / sizeof recipes[0] };

/* What stands in where a row is no multiple of 256. */
static const struct {
    enum gm_type wide, narrow;
} narrower[] = {
    { GM_TYPE_Q4_K, GM_TYPE_Q5_0 },
    { GM_TYPE_Q5_K, GM_TYPE_Q5_1 },
    { GM_TYPE_Q6_K, GM_TYPE_Q8_0 },
};

/* The first and the last eighth of the layers, and every third between. */
static bool layer_gets_more(int32_t layer, int32_t layers)
{
    int32_t eighth = layers / 8;
    return layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2;
}

static enum gm_type type_of(const struct recipe *r, const struct gm_config *cfg,
                            const struct gm_weight_want *w)
{
    if (w->norm)
        return GM_TYPE_F32;
    bool better =
        (w->map == GM_MAP_V || w->map == GM_MAP_DOWN) && layer_gets_more(w->layer, cfg->layers);
    enum gm_type type = w->map == GM_MAPS ? r->embed : better ? r->better : r->map;
    if (w->cols % gm_type_info((uint32_t)type)->block_elems == 0)
        return type;
    for (size_t i = 0; i < sizeof narrower / sizeof narrower[0]; i++)
        if (narrower[i].wide == type)
            return narrower[i].narrow;
    return type;
}

/* ---- keys ------------------------------------------------------------------------------------
 */

struct making {
    const struct gm_synth *s;
    const struct recipe *recipe;
    struct gm_config cfg;
    struct gm_gguf *vocab;
    struct gm_gguf_out *out;
    struct gm_err *err;
};

static void arch_key(char key[KEY_MAX], const struct gm_config *cfg, const char *part)
{
    (void)snprintf(key, KEY_MAX, "gemma%d.%s", (int)cfg->arch, part);
}

static enum gm_status put_ints(const struct making *m)
{
    const struct gm_config *c = &m->cfg;
    const struct {
        const char *key;
        int32_t value;
    } rows[] = { { "context_length", c->context },
                 { "embedding_length", c->d_model },
                 { "block_count", c->layers },
                 { "feed_forward_length", c->d_ff },
                 { "attention.head_count", c->heads },
                 { "attention.head_count_kv", c->kv_heads },
                 { "attention.key_length", c->head_dim },
                 { "attention.value_length", c->head_dim },
                 { "attention.sliding_window", c->window } };
    enum gm_status st = GM_OK;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && st == GM_OK; i++) {
        char key[KEY_MAX];
        arch_key(key, c, rows[i].key);
        st = gm_gguf_put_u32(m->out, key, (uint32_t)rows[i].value, m->err);
    }
    return st;
}

/* What is 0 is not written. */
static enum gm_status put_floats(const struct making *m)
{
    const struct gm_config *c = &m->cfg;
    bool scaled = c->rope_divisor_global != 1.0f;
    const struct {
        const char *key;
        float value;
    } rows[] = { { "attention.layer_norm_rms_epsilon", c->norm_eps },
                 { "rope.freq_base", c->rope_base_global },
                 { "rope.freq_base_swa", c->arch == GM_ARCH_GEMMA3 ? c->rope_base_local : 0.0f },
                 { "rope.scaling.factor", scaled ? c->rope_divisor_global : 0.0f },
                 { "attn_logit_softcapping", c->attn_softcap },
                 { "final_logit_softcapping", c->final_softcap } };
    enum gm_status st = GM_OK;
    char key[KEY_MAX];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0] && st == GM_OK; i++) {
        arch_key(key, c, rows[i].key);
        if (rows[i].value != 0.0f)
            st = gm_gguf_put_f32(m->out, key, rows[i].value, m->err);
    }
    arch_key(key, c, "rope.scaling.type");
    if (st == GM_OK && scaled)
        st = gm_gguf_put_text(m->out, key, "linear", m->err);
    if (st == GM_OK) /* the scale of the 27B models does not follow from the other keys */
        st = gm_gguf_put_f32(m->out, "gemline.query_scale", c->query_scale, m->err);
    return st;
}

static enum gm_status put_general(const struct making *m)
{
    char name[3 * GM_NAME_MAX];
    (void)snprintf(name, sizeof name, "%.60s with %d layers, random weights, seed %llu",
                   m->s->variant, (int)m->cfg.layers, (unsigned long long)m->s->seed);
    enum gm_status st =
        gm_gguf_put_text(m->out, "general.architecture",
                         m->cfg.arch == GM_ARCH_GEMMA2 ? "gemma2" : "gemma3", m->err);
    if (st == GM_OK)
        st = gm_gguf_put_text(m->out, "general.type", "model", m->err);
    if (st == GM_OK)
        st = gm_gguf_put_text(m->out, "general.name", name, m->err);
    if (st == GM_OK)
        st = gm_gguf_put_u32(m->out, "general.file_type", m->recipe->file_type, m->err);
    if (st == GM_OK)
        st = gm_gguf_put_u32(m->out, "general.quantization_version", QUANT_VERSION, m->err);
    return st;
}

/* Opens the vocabulary and fits the embedding's rows to it. */
static enum gm_status open_vocab(struct making *m)
{
    static const char kind[] = "llama";
    struct gm_text_view text;
    size_t n = 0;
    enum gm_status st = gm_gguf_open(&m->vocab, m->s->vocab, m->err);
    if (st == GM_OK)
        st = gm_gguf_text(m->vocab, "tokenizer.ggml.model", &text, m->err);
    if (st == GM_OK)
        st = gm_gguf_array_len(m->vocab, "tokenizer.ggml.tokens", &n, m->err);
    if (st == GM_OK && (text.len != sizeof kind - 1 || memcmp(text.ptr, kind, text.len) != 0))
        st = gm_fail(m->err, GM_UNSUPPORTED,
                     "the tokenizer is \"%.*s\"; Gemma's is a sentencepiece one, called \"%s\"",
                     text.len < GM_NAME_MAX ? (int)text.len : GM_NAME_MAX, text.ptr, kind);
    if (st == GM_OK && n == 0)
        st = gm_fail(m->err, GM_INVALID, "it has no pieces");
    if (st != GM_OK)
        return gm_err_prefix(m->err, "the vocabulary of %.200s", m->s->vocab);
    if (n < (size_t)m->cfg.vocab)
        m->cfg.vocab = (int32_t)n;
    return GM_OK;
}

static enum gm_status put_keys(const struct making *m)
{
    enum gm_status st = put_general(m);
    if (st == GM_OK)
        st = put_ints(m);
    if (st == GM_OK)
        st = put_floats(m);
    if (st == GM_OK)
        st = gm_gguf_put_copies(m->out, m->vocab, "tokenizer.", (uint64_t)m->cfg.vocab, NULL,
                                m->err);
    return st;
}

/* ---- random numbers --------------------------------------------------------------------------
 */

/* The finaliser of splitmix64 (Steele, Lea, Flood 2014): number i of a stream is mix of key plus i
 * times the golden gamma, so any row can be made alone. */
static const uint64_t gamma64 = 0x9e3779b97f4a7c15u;

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* The stream of a tensor: FNV-1a of its name over the seed. */
static uint64_t stream_key(uint64_t seed, const char *name)
{
    uint64_t h = mix(seed + gamma64);
    for (const char *p = name; *p; p++)
        h = (h ^ (uint8_t)*p) * 0x100000001b3u;
    return mix(h);
}

/* x[n] about normal around `centre`: the sum of the four 16-bit parts of a number, which has the
 * mean 131070 and the variance 4 (2^32 - 1) / 12, and no value beyond 3.5 sigma. */
static void fill(float *x, size_t n, uint64_t key, uint64_t first, const float centre_sigma[2])
{
    const float unit = centre_sigma[1] / 37837.227f;
    uint64_t at = key + first * gamma64;
    for (size_t i = 0; i < n; i++, at += gamma64) {
        uint64_t z = mix(at);
        uint64_t pair = (z & 0x0000ffff0000ffffu) + (z >> 16 & 0x0000ffff0000ffffu);
        int32_t sum = (int32_t)(uint32_t)pair + (int32_t)(pair >> 32);
        x[i] = centre_sigma[0] + unit * (float)(sum - 131070);
    }
}

/* ---- tensors ---------------------------------------------------------------------------------
 */

struct desk { /* of one thread */
    float *row;
    uint8_t *piece;
    struct gm_err err;
};

struct job {
    struct gm_gguf_out *out;
    size_t tensor;
    struct gm_weight_want want;
    enum gm_type type;
    size_t row_bytes;
    int64_t piece_rows;
    int64_t first_piece; /* of this batch */
    uint64_t key;
    float centre_sigma[2];
    struct desk *desks;
};

static void make_piece(const struct job *j, int64_t piece, struct desk *desk)
{
    int64_t begin = piece * j->piece_rows, end = begin + j->piece_rows;
    size_t cols = (size_t)j->want.cols;
    if (end > j->want.rows)
        end = j->want.rows;
    for (int64_t r = begin; r < end; r++) {
        fill(desk->row, cols, j->key, (uint64_t)r * cols, j->centre_sigma);
        gm_quant_row(desk->piece + (size_t)(r - begin) * j->row_bytes, desk->row, j->type, cols);
    }
    (void)gm_gguf_out_data(j->out, j->tensor, (uint64_t)begin * j->row_bytes, desk->piece,
                           (size_t)(end - begin) * j->row_bytes, &desk->err);
}

static void make_pieces(void *ctx, int32_t begin, int32_t end, int worker)
{
    const struct job *j = ctx;
    struct desk *desk = &j->desks[worker];
    for (int32_t i = begin; i < end && desk->err.status == GM_OK; i++)
        make_piece(j, j->first_piece + i, desk);
}

static int64_t rows_of_piece(size_t row_bytes)
{
    return row_bytes < PIECE_BYTES ? (int64_t)(PIECE_BYTES / row_bytes) : 1;
}

/* One tensor; *done counts the bytes of all. */
static enum gm_status write_tensor(const struct making *m, struct job *j, struct gm_pool *pool,
                                   uint64_t *done)
{
    j->type = type_of(m->recipe, &m->cfg, &j->want);
    j->row_bytes = gm_type_row_bytes(j->type, (size_t)j->want.cols);
    j->piece_rows = rows_of_piece(j->row_bytes);
    j->key = stream_key(m->s->seed, j->want.name);
    j->centre_sigma[0] = j->want.norm ? 1.0f : 0.0f;
    j->centre_sigma[1] = j->want.norm ? 0.0f : 1.0f / sqrtf((float)j->want.cols);
    int64_t pieces = (j->want.rows + j->piece_rows - 1) / j->piece_rows;
    uint64_t before = *done, bytes = gm_gguf_out_tensor_bytes(j->out, j->tensor);
    for (int64_t at = 0; at < pieces; at += BATCH_PIECES) {
        int64_t n = pieces - at < BATCH_PIECES ? pieces - at : BATCH_PIECES;
        j->first_piece = at;
        gm_pool_run(pool, (int32_t)n, 1, make_pieces, j);
        for (int t = 0; t < m->s->threads; t++)
            if (j->desks[t].err.status != GM_OK) {
                *m->err = j->desks[t].err;
                return m->err->status;
            }
        if (gm_stopping())
            return gm_fail(m->err, GM_CANCELLED, "stopped; %.250s was not written", m->s->out);
        *done = before + bytes * (uint64_t)(at + n) / (uint64_t)pieces;
        if (m->s->progress)
            m->s->progress(m->s->ctx, *done, gm_gguf_out_bytes(j->out));
    }
    return GM_OK;
}

static void clear_desks(struct desk *desks, int n)
{
    for (int t = 0; desks && t < n; t++) {
        free(desks[t].row);
        free(desks[t].piece);
    }
    free(desks);
}

/* A desk a thread, large enough for every tensor. */
static struct desk *set_desks(const struct making *m)
{
    struct gm_weight_want w;
    size_t cols = 0, bytes = 0;
    for (size_t i = 0; gm_weights_want(&m->cfg, i, &w); i++) {
        size_t row = gm_type_row_bytes(type_of(m->recipe, &m->cfg, &w), (size_t)w.cols);
        size_t piece = (size_t)rows_of_piece(row) * row;
        cols = (size_t)w.cols > cols ? (size_t)w.cols : cols;
        bytes = piece > bytes ? piece : bytes;
    }
    struct desk *desks = calloc((size_t)m->s->threads, sizeof *desks);
    bool all = desks != NULL;
    for (int t = 0; all && t < m->s->threads; t++) {
        desks[t].row = malloc(cols * sizeof *desks[t].row);
        desks[t].piece = malloc(bytes);
        all = desks[t].row && desks[t].piece;
    }
    if (all)
        return desks;
    clear_desks(desks, m->s->threads);
    return NULL;
}

static enum gm_status write_tensors(const struct making *m)
{
    struct job j = { .out = m->out, .desks = set_desks(m) };
    struct gm_pool *pool = gm_pool_new(m->s->threads);
    enum gm_status st = GM_OK;
    uint64_t done = 0;
    if (!pool || !j.desks)
        st = gm_fail(m->err, GM_EXHAUSTED, "no memory or no threads to make weights with");
    while (st == GM_OK && gm_weights_want(&m->cfg, j.tensor, &j.want)) {
        st = write_tensor(m, &j, pool, &done);
        j.tensor++;
    }
    gm_pool_free(&pool);
    clear_desks(j.desks, m->s->threads);
    return st;
}

/* The table of tensors, in the order in which they are made. */
static enum gm_status plan_tensors(const struct making *m, uint64_t *weights)
{
    struct gm_weight_want w;
    enum gm_status st = GM_OK;
    *weights = 0;
    for (size_t i = 0; st == GM_OK && gm_weights_want(&m->cfg, i, &w); i++) {
        const int64_t dims[] = { w.cols, w.rows };
        *weights += (uint64_t)(w.cols * w.rows);
        st = gm_gguf_out_tensor(m->out, w.name, type_of(m->recipe, &m->cfg, &w), w.norm ? 1 : 2,
                                dims, m->err);
    }
    return st;
}

/* ---- the file --------------------------------------------------------------------------------
 */

enum gm_status gm_synth_check(const struct gm_synth *s, struct gm_err *err)
{
    struct gm_config cfg;
    if (s->type < 0 || s->type >= RECIPES)
        return gm_fail(err, GM_INVALID, "there is no type %d", (int)s->type);
    return gm_config_variant(&cfg, s->variant, s->layers, err);
}

enum gm_status gm_synth_write(const struct gm_synth *s, struct gm_synth_report *report,
                              struct gm_err *err)
{
    struct making m = { .s = s, .err = err };
    memset(report, 0, sizeof *report);
    enum gm_status st = gm_synth_check(s, err);
    if (st != GM_OK)
        return st;
    if (!s->replace && gm_path_exists(s->out))
        return gm_fail(err, GM_EXISTS,
                       "%.250s is there already; name another file, or ask to write over it",
                       s->out);
    m.recipe = &recipes[s->type];
    st = gm_config_variant(&m.cfg, s->variant, s->layers, err);
    if (st == GM_OK)
        st = open_vocab(&m);
    if (st == GM_OK)
        st = gm_gguf_out_new(&m.out, err);
    if (st == GM_OK)
        st = put_keys(&m);
    if (st == GM_OK)
        st = plan_tensors(&m, &report->weights);
    if (st == GM_OK)
        st = gm_gguf_out_begin(m.out, s->out, err);
    if (st == GM_OK)
        st = write_tensors(&m);
    if (st == GM_OK)
        st = gm_gguf_out_commit(m.out, s->replace, err);
    if (st == GM_OK) {
        report->layers = m.cfg.layers;
        report->bytes = gm_gguf_out_bytes(m.out);
    }
    gm_gguf_out_close(&m.out);
    gm_gguf_close(&m.vocab);
    return st;
}
