/* gguf.c - opens a GGUF file: maps it, walks every byte before the data once, checks everything.
 *
 * Owns:      the parser of header, metadata and tensor table, and the lookup by tensor name.
 * Does not:  hand out metadata (gguf_meta.c) or look at weights.
 * Format:    ggml's gguf.h, versions 2 and 3, little endian. Every count and length is compared
 *            with what is left of the file before it is used or anything is allocated.
 */
#include "common/model/gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/gguf_inner.h"

enum {
    VERSION_MIN = 2,
    VERSION_MAX = 3,
    KEYS_MAX = 1 << 16,
    TENSORS_MAX = 1 << 16,
    KEY_BYTES_MAX = 256,
    TENSOR_NAME_BYTES_MAX = 127,
    KV_BYTES_MIN = 8 + 4 + 1,                 /* empty key, type, one byte */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* one-letter name, one dimension */
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8,
    ALIGNMENT_MAX = 1 << 20,
};

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "fields are copied as they lie");

const uint8_t gm_gguf_type_bytes[GM_GGUF_TYPES] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
const char *const gm_gguf_type_names[GM_GGUF_TYPES] = { "u8",  "i8",  "u16",  "i16",  "u32",
                                                        "i32", "f32", "bool", "text", "array",
                                                        "u64", "i64", "f64" };

/* Reading position. */
struct cursor {
    const uint8_t *base;
    size_t size;
    size_t at;
    char *names; /* where the next terminated name goes; room for size - header bytes */
    struct gm_err *err;
};

static enum gm_status cut_short(const struct cursor *c, const char *what)
{
    return gm_fail(c->err, GM_INVALID,
                   "the file ends at byte %zu inside %s (at byte %zu); fetch it again", c->size,
                   what, c->at);
}

static enum gm_status take(struct cursor *c, void *out, size_t n, const char *what)
{
    if (c->size - c->at < n)
        return cut_short(c, what);
    memcpy(out, c->base + c->at, n);
    c->at += n;
    return GM_OK;
}

/* A length-prefixed text inside the file; no NUL in it. */
static enum gm_status take_text(struct cursor *c, struct gm_text_view *out, size_t max,
                                const char *what)
{
    uint64_t n;
    size_t start = c->at;
    enum gm_status st = take(c, &n, sizeof n, what);
    if (st != GM_OK)
        return st;
    if (n > max)
        return gm_fail(c->err, GM_INVALID,
                       "%s at byte %zu says it is %" PRIu64 " bytes long, at most %zu are possible",
                       what, start, n, max);
    if (c->size - c->at < n)
        return cut_short(c, what);
    out->ptr = (const char *)c->base + c->at;
    out->len = (size_t)n;
    c->at += (size_t)n;
    if (n && memchr(out->ptr, 0, out->len))
        return gm_fail(c->err, GM_INVALID, "%s at byte %zu has a zero byte in it", what, start);
    return GM_OK;
}

/* The same, copied to the names with an ending 0. */
static enum gm_status take_name(struct cursor *c, const char **out, size_t max, const char *what)
{
    struct gm_text_view text;
    size_t start = c->at;
    enum gm_status st = take_text(c, &text, max, what);
    if (st != GM_OK)
        return st;
    if (text.len == 0)
        return gm_fail(c->err, GM_INVALID, "%s at byte %zu is empty", what, start);
    memcpy(c->names, text.ptr, text.len);
    c->names[text.len] = '\0';
    *out = c->names;
    c->names += text.len + 1;
    return GM_OK;
}

/* ---- metadata --------------------------------------------------------------------------------
 */

/* Walks the elements of one value and leaves the cursor behind it. */
static enum gm_status skip_value(struct cursor *c, const struct gm_gguf_kv *kv)
{
    size_t bytes = gm_gguf_type_bytes[kv->type];
    size_t left = c->size - c->at;
    if (bytes) {
        if (kv->n > left / bytes)
            return gm_fail(c->err, GM_INVALID,
                           "%s claims %" PRIu64 " values of %zu bytes, the file has %zu bytes left",
                           kv->key, kv->n, bytes, left);
        if (kv->type == GM_GGUF_BOOL)
            for (uint64_t i = 0; i < kv->n; i++)
                if (c->base[c->at + i] > 1)
                    return gm_fail(c->err, GM_INVALID, "%s has a truth value of %d", kv->key,
                                   c->base[c->at + i]);
        c->at += (size_t)kv->n * bytes;
        return GM_OK;
    }
    if (kv->n > left / sizeof(uint64_t))
        return gm_fail(c->err, GM_INVALID,
                       "%s claims %" PRIu64 " texts, the file has %zu bytes left", kv->key, kv->n,
                       left);
    for (uint64_t i = 0; i < kv->n; i++) {
        struct gm_text_view text;
        enum gm_status st = take_text(c, &text, c->size, kv->key);
        if (st != GM_OK)
            return st;
    }
    return GM_OK;
}

static enum gm_status read_kv(struct cursor *c, struct gm_gguf_kv *kv)
{
    enum gm_status st = take_name(c, &kv->key, KEY_BYTES_MAX, "a key");
    if (st == GM_OK)
        st = take(c, &kv->type, sizeof kv->type, kv->key);
    if (st != GM_OK)
        return st;
    kv->n = 1;
    if (kv->type == GM_GGUF_ARRAY) {
        kv->array = true;
        st = take(c, &kv->type, sizeof kv->type, kv->key);
        if (st == GM_OK)
            st = take(c, &kv->n, sizeof kv->n, kv->key);
        if (st != GM_OK)
            return st;
        if (kv->type == GM_GGUF_ARRAY)
            return gm_fail(c->err, GM_INVALID, "%s is an array of arrays; none is allowed",
                           kv->key);
    }
    if (kv->type >= GM_GGUF_TYPES)
        return gm_fail(c->err, GM_INVALID, "%s has the unknown value type %" PRIu32, kv->key,
                       kv->type);
    kv->value = c->base + c->at;
    return skip_value(c, kv);
}

static int compare_kvs(const void *a, const void *b)
{
    return strcmp(((const struct gm_gguf_kv *)a)->key, ((const struct gm_gguf_kv *)b)->key);
}

static enum gm_status read_kvs(struct gm_gguf *g, struct cursor *c, uint64_t n)
{
    g->kvs = calloc(n ? (size_t)n : 1, sizeof *g->kvs);
    if (!g->kvs)
        return gm_fail(c->err, GM_EXHAUSTED, "no memory for %" PRIu64 " keys", n);
    for (uint64_t i = 0; i < n; i++) {
        enum gm_status st = read_kv(c, &g->kvs[i]);
        if (st != GM_OK)
            return st;
        g->n_kvs++;
    }
    qsort(g->kvs, g->n_kvs, sizeof *g->kvs, compare_kvs);
    for (size_t i = 1; i < g->n_kvs; i++)
        if (strcmp(g->kvs[i - 1].key, g->kvs[i].key) == 0)
            return gm_fail(c->err, GM_INVALID, "the key %s stands in the file twice",
                           g->kvs[i].key);
    return GM_OK;
}

const struct gm_gguf_kv *gm_gguf_find(const struct gm_gguf *g, const char *key)
{
    struct gm_gguf_kv want = { .key = key };
    if (!g->n_kvs)
        return NULL;
    return bsearch(&want, g->kvs, g->n_kvs, sizeof *g->kvs, compare_kvs);
}

/* ---- tensors ---------------------------------------------------------------------------------
 */

/* Type and size of one tensor; `bytes` never overflows because rows are counted against the file.
 */
static enum gm_status size_tensor(struct cursor *c, struct gm_tensor *t, uint32_t type)
{
    const struct gm_type_info *info = gm_type_info(type);
    if (!info)
        return gm_fail(c->err, GM_UNSUPPORTED,
                       "tensor %s has weight type %" PRIu32 ", which is retired or not supported; "
                       "use a file with F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K "
                       "or Q6_K weights",
                       t->name, type);
    t->type = (enum gm_type)type;
    for (uint32_t i = 0; i < GM_TENSOR_DIMS; i++)
        if (t->dims[i] < 1 || t->dims[i] > INT32_MAX)
            return gm_fail(c->err, GM_INVALID, "tensor %s has a dimension of %" PRId64, t->name,
                           t->dims[i]);
    if (t->dims[0] % info->block_elems != 0)
        return gm_fail(c->err, GM_INVALID,
                       "tensor %s has rows of %" PRId64 " values, not a multiple of %" PRIu32
                       " as %s needs",
                       t->name, t->dims[0], info->block_elems, info->name);
    size_t bytes = gm_type_row_bytes(t->type, (size_t)t->dims[0]);
    for (uint32_t i = 1; i < GM_TENSOR_DIMS; i++) {
        if ((uint64_t)t->dims[i] > c->size / bytes)
            return gm_fail(c->err, GM_INVALID,
                           "tensor %s is larger than the whole file (%zu bytes)", t->name, c->size);
        bytes *= (size_t)t->dims[i];
    }
    t->bytes = bytes;
    return GM_OK;
}

/* `offsets` keeps where the data starts, counted from the data's beginning, which is not known
 * before the last tensor is read. */
static enum gm_status read_tensor(struct cursor *c, struct gm_tensor *t, uint64_t *offset)
{
    uint32_t type;
    enum gm_status st = take_name(c, &t->name, TENSOR_NAME_BYTES_MAX, "a tensor's name");
    if (st == GM_OK)
        st = take(c, &t->n_dims, sizeof t->n_dims, t->name);
    if (st != GM_OK)
        return st;
    if (t->n_dims < 1 || t->n_dims > GM_TENSOR_DIMS)
        return gm_fail(c->err, GM_INVALID, "tensor %s has %" PRIu32 " dimensions, expected 1 to %d",
                       t->name, t->n_dims, (int)GM_TENSOR_DIMS);
    for (uint32_t i = 0; i < GM_TENSOR_DIMS; i++)
        t->dims[i] = 1;
    st = take(c, t->dims, t->n_dims * sizeof t->dims[0], t->name);
    if (st == GM_OK)
        st = take(c, &type, sizeof type, t->name);
    if (st == GM_OK)
        st = take(c, offset, sizeof *offset, t->name);
    return st == GM_OK ? size_tensor(c, t, type) : st;
}

static int compare_names(const void *a, const void *b)
{
    const struct gm_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_data(const void *a, const void *b)
{
    const struct gm_tensor *const *x = a, *const *y = b;
    return ((*x)->data > (*y)->data) - ((*x)->data < (*y)->data);
}

/* Gives every tensor its place and checks that each lies in the file and none in another. */
static enum gm_status place_tensors(struct gm_gguf *g, struct cursor *c, const uint64_t *offsets,
                                    size_t alignment)
{
    size_t data_bytes = c->size - g->data_at;
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct gm_tensor *t = &g->tensors[i];
        if (offsets[i] % alignment != 0)
            return gm_fail(c->err, GM_INVALID,
                           "tensor %s starts at %" PRIu64 ", not a multiple of the alignment %zu",
                           t->name, offsets[i], alignment);
        if (offsets[i] > data_bytes || t->bytes > data_bytes - offsets[i])
            return gm_fail(c->err, GM_INVALID,
                           "tensor %s ends past the end of the file: the file is cut short at %zu "
                           "bytes; fetch it again",
                           t->name, c->size);
        t->data = c->base + g->data_at + offsets[i];
        g->by_name[i] = t;
    }
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, compare_data);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (g->by_name[i - 1]->data + g->by_name[i - 1]->bytes > g->by_name[i]->data)
            return gm_fail(c->err, GM_INVALID, "tensors %s and %s overlap", g->by_name[i - 1]->name,
                           g->by_name[i]->name);
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, compare_names);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (strcmp(g->by_name[i - 1]->name, g->by_name[i]->name) == 0)
            return gm_fail(c->err, GM_INVALID, "the tensor %s stands in the file twice",
                           g->by_name[i]->name);
    return GM_OK;
}

static enum gm_status read_alignment(const struct gm_gguf *g, size_t *alignment, struct gm_err *err)
{
    int64_t value = ALIGNMENT_DEFAULT;
    enum gm_status st = GM_OK;
    if (gm_gguf_find(g, "general.alignment"))
        st = gm_gguf_int(g, "general.alignment", &value, err);
    if (st != GM_OK)
        return st;
    if (value < ALIGNMENT_MIN || value > ALIGNMENT_MAX || (value & (value - 1)) != 0)
        return gm_fail(err, GM_INVALID,
                       "general.alignment is %" PRId64 ", expected a power of two from %d to %d",
                       value, (int)ALIGNMENT_MIN, (int)ALIGNMENT_MAX);
    *alignment = (size_t)value;
    return GM_OK;
}

static enum gm_status read_tensors(struct gm_gguf *g, struct cursor *c, uint64_t n)
{
    size_t alignment = ALIGNMENT_DEFAULT, count = n ? (size_t)n : 1;
    enum gm_status st = read_alignment(g, &alignment, c->err);
    if (st != GM_OK)
        return st;
    g->tensors = calloc(count, sizeof *g->tensors);
    g->by_name = calloc(count, sizeof *g->by_name);
    uint64_t *offsets = calloc(count, sizeof *offsets);
    if (!g->tensors || !g->by_name || !offsets)
        st = gm_fail(c->err, GM_EXHAUSTED, "no memory for %" PRIu64 " tensors", n);
    for (uint64_t i = 0; i < n && st == GM_OK; i++)
        st = read_tensor(c, &g->tensors[i], &offsets[i]);
    if (st == GM_OK) {
        g->n_tensors = (size_t)n;
        g->data_at = (c->at + alignment - 1) / alignment * alignment;
        if (g->data_at > c->size) {
            g->data_at = c->size;
            if (n)
                st = cut_short(c, "the padding before the weights");
        }
    }
    if (st == GM_OK)
        st = place_tensors(g, c, offsets, alignment);
    free(offsets);
    return st;
}

/* ---- the file --------------------------------------------------------------------------------
 */

struct header {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_kvs;
};

static enum gm_status read_header(struct cursor *c, struct header *h)
{
    if (c->size < sizeof h->magic || memcmp(c->base, "GGUF", sizeof h->magic) != 0)
        return gm_fail(c->err, GM_INVALID, "this is no GGUF file (it does not begin with GGUF)");
    enum gm_status st = take(c, h->magic, sizeof h->magic, "the header");
    if (st == GM_OK)
        st = take(c, &h->version, sizeof h->version, "the header");
    if (st != GM_OK)
        return st;
    if ((h->version & 0xffffu) == 0)
        return gm_fail(c->err, GM_UNSUPPORTED,
                       "this GGUF file was written for big-endian machines; use the usual one");
    if (h->version < VERSION_MIN || h->version > VERSION_MAX)
        return gm_fail(c->err, GM_UNSUPPORTED,
                       "GGUF version %" PRIu32 " is not supported, only %d and %d", h->version,
                       (int)VERSION_MIN, (int)VERSION_MAX);
    st = take(c, &h->n_tensors, sizeof h->n_tensors, "the header");
    if (st == GM_OK)
        st = take(c, &h->n_kvs, sizeof h->n_kvs, "the header");
    if (st != GM_OK)
        return st;
    size_t left = c->size - c->at;
    if (h->n_kvs > KEYS_MAX || h->n_kvs > left / KV_BYTES_MIN)
        return gm_fail(c->err, GM_INVALID,
                       "the header claims %" PRIu64 " keys; the file is damaged", h->n_kvs);
    if (h->n_tensors > TENSORS_MAX || h->n_tensors > left / TENSOR_BYTES_MIN)
        return gm_fail(c->err, GM_INVALID,
                       "the header claims %" PRIu64 " tensors; the file is damaged", h->n_tensors);
    return GM_OK;
}

static enum gm_status parse(struct gm_gguf *g, struct gm_err *err)
{
    struct cursor c = { g->map.ptr, g->map.len, 0, NULL, err };
    struct header h;
    enum gm_status st = read_header(&c, &h);
    if (st != GM_OK)
        return st;
    /* A name takes at least its length's eight bytes more in the file than here. */
    size_t names_bytes =
        (size_t)h.n_kvs * (KEY_BYTES_MAX + 1) + (size_t)h.n_tensors * (TENSOR_NAME_BYTES_MAX + 1);
    size_t left = c.size - c.at;
    g->names = malloc((names_bytes < left ? names_bytes : left) + 1);
    if (!g->names)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the names in the file");
    c.names = g->names;
    st = read_kvs(g, &c, h.n_kvs);
    if (st == GM_OK)
        st = gm_gguf_check_keys(g, err);
    return st == GM_OK ? read_tensors(g, &c, h.n_tensors) : st;
}

enum gm_status gm_gguf_open(struct gm_gguf **out, const char *path, struct gm_err *err)
{
    *out = NULL;
    struct gm_gguf *g = calloc(1, sizeof *g);
    if (!g)
        return gm_fail(err, GM_EXHAUSTED, "no memory to open %s", path);
    enum gm_status st = gm_map_open(&g->map, path, 0, err);
    if (st == GM_OK) {
        st = parse(g, err);
        if (st != GM_OK && err)
            (void)gm_err_prefix(err, "%s", path);
    }
    if (st != GM_OK) {
        gm_gguf_close(&g);
        return st;
    }
    *out = g;
    return GM_OK;
}

void gm_gguf_close(struct gm_gguf **g)
{
    if (!*g)
        return;
    gm_map_close(&(*g)->map);
    free((*g)->kvs);
    free((*g)->tensors);
    free((*g)->by_name);
    free((*g)->names);
    free(*g);
    *g = NULL;
}

size_t gm_gguf_tensor_count(const struct gm_gguf *g)
{
    return g->n_tensors;
}

const struct gm_tensor *gm_gguf_tensor_at(const struct gm_gguf *g, size_t i)
{
    return i < g->n_tensors ? &g->tensors[i] : NULL;
}

const struct gm_tensor *gm_gguf_tensor(const struct gm_gguf *g, const char *name)
{
    struct gm_tensor want = { .name = name };
    const struct gm_tensor *key = &want;
    if (!g->n_tensors)
        return NULL;
    const struct gm_tensor **found =
        bsearch(&key, g->by_name, g->n_tensors, sizeof *g->by_name, compare_names);
    return found ? *found : NULL;
}
