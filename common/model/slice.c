/* slice.c - opening and closing a slice: weights, adapter, cache, threads, scratch.
 *
 * Owns:      the check of the options, the memory check and its table in the log, scratch sizes,
 *            the numerics text.
 * Does not:  run a step (block.c).
 * Memory:    scratch is one mapping, resident where it is used; after the opening a step allocates
 *            nothing.
 */
#include "common/model/exec.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/log.h"
#include "common/base/mapguard.h"
#include "common/base/sys.h"

enum { LINE = 64 };

#define MIB                ((double)(1 << 20))
#define MEMORY_SPARE_BYTES ((uint64_t)64 << 20) /* left for the process itself */
#define SCRATCH_BYTES_MAX  ((uint64_t)1 << 40)

static const char *const kv_names[] = {
    [GM_KV_F32] = "f32",
    [GM_KV_BF16] = "bf16",
    [GM_KV_F16] = "f16",
    [GM_KV_Q8] = "q8",
};
enum { KV_TYPES = sizeof kv_names / sizeof kv_names[0] };

static enum gm_status check_opts(const struct gm_slice_opts *o, struct gm_err *err)
{
    if (!o->model_path || !o->kernels)
        return gm_fail(err, GM_INVALID, "a slice needs a model file and a kernel set");
    if (o->threads < 1 || o->threads > GM_THREADS_MAX)
        return gm_fail(err, GM_INVALID, "threads are 1 to %d, not %d", GM_THREADS_MAX, o->threads);
    if (o->rows_max < 1 || o->rows_max > GM_BATCH_ROWS_MAX)
        return gm_fail(err, GM_INVALID, "rows of a step are 1 to %d, not %d", GM_BATCH_ROWS_MAX,
                       o->rows_max);
    if (o->context < 1 || o->kv_tokens < 1)
        return gm_fail(err, GM_INVALID,
                       "context and cached tokens must be at least 1, not %d, %lld", o->context,
                       (long long)o->kv_tokens);
    if ((unsigned)o->kv_type >= KV_TYPES)
        return gm_fail(err, GM_INVALID, "key/value type %d is none of f32, bf16, f16, q8",
                       (int)o->kv_type);
    return GM_OK;
}

/* What the kernels' contract asks of a model. */
static enum gm_status check_config(const struct gm_config *cfg, struct gm_err *err)
{
    if (cfg->head_dim < GM_QK || cfg->head_dim > GM_HEAD_DIM_MAX || cfg->head_dim % GM_QK != 0)
        return gm_fail(err, GM_UNSUPPORTED,
                       "heads have %d values: only multiples of %d up to %d do", cfg->head_dim,
                       GM_QK, GM_HEAD_DIM_MAX);
    if (cfg->kv_heads < 1 || cfg->heads < cfg->kv_heads || cfg->heads > GM_HEADS_MAX ||
        cfg->heads % cfg->kv_heads != 0)
        return gm_fail(err, GM_UNSUPPORTED,
                       "%d heads over %d key/value heads: at most %d, a multiple", cfg->heads,
                       cfg->kv_heads, GM_HEADS_MAX);
    return GM_OK;
}

/* ---- scratch ----------------------------------------------------------------------------------
 */

static size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* One part of the scratch: where its pointer goes and how many bytes it has. */
struct part {
    void *at; /* the address of a pointer */
    uint64_t bytes;
};

/* Room for the parts of every row of a step at the end of the longest sequence, up to the limit; a
 * single thread shares nothing. */
static uint64_t parts_floats(const struct gm_slice *s, int threads)
{
    const struct gm_config *c = &s->w.cfg;
    const uint64_t pages = (uint64_t)(s->context - 1) / GM_PAGE + 1;
    const uint64_t page = (uint64_t)c->heads * GM_PART_FLOATS(c->head_dim); /* of one row */
    const uint64_t most_pages = GM_ATTN_PARTS_BYTES_MAX / sizeof(float) / page;
    const uint64_t want = pages * (uint64_t)s->rows_max;
    return threads > 1 ? page * (want < most_pages ? want : most_pages) : 0;
}

/* Sizes by the shapes in exec.h; *n parts. */
static void scratch_parts(struct gm_slice *s, int threads, struct part *part, int *n)
{
    const struct gm_config *c = &s->w.cfg;
    struct gm_scratch *x = &s->s;
    const uint64_t rows = (uint64_t)s->rows_max, f = sizeof(float);
    const uint64_t dim = (uint64_t)c->d_model, ff = (uint64_t)c->d_ff;
    const uint64_t q = (uint64_t)c->heads * (uint64_t)c->head_dim;
    const uint64_t kv = (uint64_t)c->kv_heads * (uint64_t)c->head_dim;
    const uint64_t head = (uint64_t)c->head_dim;
    const uint64_t joint = q + 2 * kv > 2 * ff ? q + 2 * kv : 2 * ff;
    const uint64_t rank = s->lora ? (uint64_t)s->lora->rank_max : 0;
    const size_t act = most(most(s->k->act_bytes(c->d_model), s->k->act_bytes(c->d_ff)),
                            s->k->act_bytes(c->heads * c->head_dim));
    x->attend_floats = GM_ATTEND_SCRATCH(GM_ATTN_TILE_ROWS, c->heads / c->kv_heads, c->head_dim);
    x->parts_floats = (size_t)parts_floats(s, threads);
    x->lora_act_bytes = 0;
    for (uint64_t r = 1; r <= rank; r++)
        x->lora_act_bytes = most(x->lora_act_bytes, s->k->act_bytes((int32_t)r));
    const struct part all[] = {
        { &x->act, rows * act },
        { &x->norm, rows * dim * f },
        { &x->q, rows * q * f },
        { &x->k, rows * kv * f },
        { &x->v, rows * kv * f },
        { &x->mix, rows * q * f },
        { &x->out, rows * dim * f },
        { &x->gate, rows * ff * f },
        { &x->up, rows * ff * f },
        { &x->cs_local, rows * head * f },
        { &x->cs_global, rows * head * f },
        { &x->head,
          s->w.final_norm ? (uint64_t)threads * GM_HEAD_ROWS_MAX * GM_HEAD_CHUNK * f : 0 },
        { &x->attend, (uint64_t)threads * x->attend_floats * f },
        { &x->parts, x->parts_floats * f },
        { &x->jobs, rows * sizeof *x->jobs },
        { &x->pos, rows * sizeof(int32_t) },
        { &x->span, rows * sizeof(int32_t) },
        { &x->bad, rows },
        { &x->lora_t, rank ? GM_JOINT_MAX * rows * rank * f : 0 },
        { &x->lora_act, rank ? GM_JOINT_MAX * rows * x->lora_act_bytes : 0 },
        { &x->lora_y, rank ? rows * (joint > dim ? joint : dim) * f : 0 },
    };
    *n = (int)(sizeof all / sizeof all[0]);
    memcpy(part, all, sizeof all);
}

enum { PARTS_MAX = 24 };

static uint64_t lines(uint64_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

static enum gm_status scratch_open(struct gm_slice *s, int threads, struct gm_err *err)
{
    struct part part[PARTS_MAX];
    int n = 0;
    scratch_parts(s, threads, part, &n);
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        if (part[i].bytes > SCRATCH_BYTES_MAX)
            return gm_fail(err, GM_EXHAUSTED,
                           "scratch would pass any machine's memory: lower rows, "
                           "threads or context");
        bytes += lines(part[i].bytes);
    }
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return gm_fail(err, GM_EXHAUSTED,
                       "no memory for %.0f MiB of scratch: lower rows, threads or context",
                       (double)bytes / MIB);
    s->s.owned = at;
    s->s.bytes = bytes;
    for (int i = 0; i < n; i++) {
        void *where = part[i].bytes ? at : NULL;
        memcpy(part[i].at, &where, sizeof where);
        at += lines(part[i].bytes);
    }
    return GM_OK;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static enum gm_status check_memory(struct gm_slice *s, int threads, struct gm_err *err)
{
    struct part part[PARTS_MAX];
    int n = 0;
    uint64_t scratch = 0, free_bytes = 0;
    scratch_parts(s, threads, part, &n);
    for (int i = 0; i < n; i++)
        scratch += lines(part[i].bytes);
    const uint64_t cache = gm_kv_bytes(s->kv);
    enum gm_status status = gm_memory_available_bytes(&free_bytes, err);
    if (status != GM_OK)
        return status;
    gm_info("memory layers=%d:%d weights_mib=%.1f kv_mib=%.1f scratch_mib=%.1f available_mib=%.1f",
            s->w.begin, s->w.end, (double)s->w.bytes / MIB, (double)cache / MIB,
            (double)scratch / MIB, (double)free_bytes / MIB);
    if (s->w.bytes + cache + scratch + MEMORY_SPARE_BYTES <= free_bytes)
        return GM_OK;
    return gm_fail(err, GM_EXHAUSTED,
                   "layers %d:%d need %.0f MiB of weights, %.0f of key/value cache and %.0f of "
                   "scratch, but only %.0f MiB are free: keep fewer tokens or cut the layers finer",
                   s->w.begin, s->w.end, (double)s->w.bytes / MIB, (double)cache / MIB,
                   (double)scratch / MIB, (double)free_bytes / MIB);
}

static void write_numerics(struct gm_slice *s, enum gm_kv_type type)
{
    char adapter[2 * sizeof(uint64_t) + 1] = "none";
    const uint64_t identity = gm_pack_identity(s->pack);
    if (s->lora)
        snprintf(adapter, sizeof adapter, "%016" PRIx64, s->lora->identity);
    snprintf(s->numerics, sizeof s->numerics, "%.32s/%s/%016" PRIx64 "/%.16s", s->k->id,
             kv_names[type], identity ? identity : gm_gguf_identity(s->gguf), adapter);
}

/* Whether anything of the slice reads prepared rows as floats. */
static bool reads_floats(const struct gm_slice *s)
{
    bool floats = s->lora || (s->w.head.data && gm_type_info(s->w.head.type)->block_elems == 1);
    for (int32_t i = 0; i < s->w.end - s->w.begin; i++)
        for (int m = 0; m < GM_MAPS; m++)
            floats |= gm_type_info(s->w.layer[i].map[m].type)->block_elems == 1;
    return floats;
}

static enum gm_status open_parts(struct gm_slice *s, const struct gm_slice_opts *o,
                                 struct gm_err *err)
{
    enum gm_status status = gm_gguf_open(&s->gguf, o->model_path, err);
    if (status == GM_OK)
        status = gm_weights_bind(&s->w, s->gguf, &o->spec, err);
    if (status == GM_OK)
        status = check_config(&s->w.cfg, err);
    if (status == GM_OK && o->adapter_dir)
        status = gm_lora_open(&s->lora, o->adapter_dir, &s->w.cfg, o->spec.begin, o->spec.end, err);
    if (status == GM_OK && s->lora)
        status = gm_lora_pack(s->lora, s->k, err);
    if (status == GM_OK)
        status =
            gm_kv_new(&s->kv, &s->w.cfg, o->spec.begin, o->spec.end, o->kv_tokens, o->kv_type, err);
    if (status == GM_OK)
        status = check_memory(s, o->threads, err);
    if (status == GM_OK)
        status = scratch_open(s, o->threads, err);
    if (status != GM_OK)
        return status;
    s->pool = gm_pool_new(o->threads);
    if (!s->pool)
        return gm_fail(err, GM_EXHAUSTED, "%d threads cannot be had: ask for fewer", o->threads);
    gm_pack_open(
        &s->pack, &s->w, s->gguf,
        &(struct gm_pack_opts){
            .model_path = o->model_path, .kernels = s->k, .pool = s->pool, .doubt = o->doubt });
    s->floats = reads_floats(s);
    const struct gm_config *c = &s->w.cfg;
    gm_attn_inv_freq(s->inv_freq_local, c->head_dim, c->rope_base_local, 1.0f);
    gm_attn_inv_freq(s->inv_freq_global, c->head_dim, c->rope_base_global,
                     c->rope_divisor_global > 0.0f ? c->rope_divisor_global : 1.0f);
    write_numerics(s, o->kv_type);
    return gm_mapguard_check(err);
}

enum gm_status gm_slice_open(struct gm_slice **out, const struct gm_slice_opts *opts,
                             struct gm_err *err)
{
    *out = NULL;
    enum gm_status status = check_opts(opts, err);
    if (status != GM_OK)
        return status;
    struct gm_slice *s = calloc(1, sizeof *s);
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory to open a slice");
    s->k = opts->kernels;
    s->rows_max = opts->rows_max;
    s->context = opts->context;
    status = open_parts(s, opts, err);
    if (status != GM_OK) {
        gm_slice_close(&s);
        return status;
    }
    *out = s;
    return GM_OK;
}

void gm_slice_close(struct gm_slice **slice)
{
    struct gm_slice *s = *slice;
    if (!s)
        return;
    gm_pool_free(&s->pool);
    if (s->s.owned)
        (void)munmap(s->s.owned, s->s.bytes);
    gm_kv_free(&s->kv);
    gm_lora_close(&s->lora);
    gm_weights_close(&s->w);
    gm_pack_close(&s->pack);
    gm_gguf_close(&s->gguf);
    free(s);
    *slice = NULL;
}

const struct gm_config *gm_slice_config(const struct gm_slice *slice)
{
    return &slice->w.cfg;
}

struct gm_kv *gm_slice_kv(struct gm_slice *slice)
{
    return slice->kv;
}

const char *gm_slice_numerics(const struct gm_slice *slice)
{
    return slice->numerics;
}

void gm_slice_hashes(const struct gm_slice *slice, struct gm_pack_hashes *out)
{
    gm_pack_hashes(slice->pack, out);
}
