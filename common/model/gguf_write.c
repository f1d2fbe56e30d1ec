/* gguf_write.c - the writer declared in gguf_write.h.
 *
 * Owns:      the byte order of header, keys and table; padding; the count of bytes that came.
 * Does not:  check that keys and names differ (the reader refuses such a file).
 * Format:    ggml's gguf.h, version 3, little endian, the default alignment of 32.
 */
#include "common/model/gguf_write.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/fs.h"
#include "common/model/gguf_inner.h"

enum {
    VERSION = 3,
    ALIGNMENT = 32,
    KEY_BYTES_MAX = 256,
    TENSOR_NAME_BYTES_MAX = 63, /* what ggml reads */
    PART_BYTES_MAX = 256 << 20, /* metadata; the table of tensors */
    FILE_MODE = 0644,
};

struct out_tensor {
    uint64_t at, bytes; /* in the data */
};

struct gm_gguf_out {
    struct gm_buf keys, table;
    uint64_t n_keys;
    struct out_tensor *tensors;
    size_t n_tensors, cap;
    uint64_t data_bytes; /* with the padding between tensors */
    uint64_t data_at;    /* in the file */
    _Atomic uint64_t written;
    struct gm_newfile file;
};

static uint64_t aligned(uint64_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

enum gm_status gm_gguf_out_new(struct gm_gguf_out **out, struct gm_err *err)
{
    struct gm_gguf_out *o = calloc(1, sizeof *o);
    *out = o;
    if (!o)
        return gm_fail(err, GM_EXHAUSTED, "no memory to write a model file");
    o->keys = GM_BUF(PART_BYTES_MAX);
    o->table = GM_BUF(PART_BYTES_MAX);
    o->file.fd = -1;
    return GM_OK;
}

void gm_gguf_out_close(struct gm_gguf_out **out)
{
    struct gm_gguf_out *o = *out;
    if (!o)
        return;
    gm_newfile_drop(&o->file);
    gm_buf_free(&o->keys);
    gm_buf_free(&o->table);
    free(o->tensors);
    free(o);
    *out = NULL;
}

/* ---- keys ------------------------------------------------------------------------------------
 */

static enum gm_status add_u32(struct gm_buf *b, uint32_t x, struct gm_err *err)
{
    return gm_buf_append(b, &x, sizeof x, err);
}

static enum gm_status add_u64(struct gm_buf *b, uint64_t x, struct gm_err *err)
{
    return gm_buf_append(b, &x, sizeof x, err);
}

static enum gm_status add_text(struct gm_buf *b, const char *text, size_t n, struct gm_err *err)
{
    enum gm_status st = add_u64(b, n, err);
    return st == GM_OK ? gm_buf_append(b, text, n, err) : st;
}

/* The key and the type of its value, which the caller adds. */
static enum gm_status add_key(struct gm_gguf_out *o, const char *key, uint32_t type,
                              struct gm_err *err)
{
    size_t n = strlen(key);
    if (n == 0 || n > KEY_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "a key has 1 to %d bytes, \"%.60s\" has %zu", KEY_BYTES_MAX,
                       key, n);
    enum gm_status st = add_text(&o->keys, key, n, err);
    if (st == GM_OK)
        st = add_u32(&o->keys, type, err);
    o->n_keys += st == GM_OK;
    return st;
}

enum gm_status gm_gguf_put_u32(struct gm_gguf_out *o, const char *key, uint32_t value,
                               struct gm_err *err)
{
    enum gm_status st = add_key(o, key, GM_GGUF_U32, err);
    return st == GM_OK ? add_u32(&o->keys, value, err) : st;
}

enum gm_status gm_gguf_put_f32(struct gm_gguf_out *o, const char *key, float value,
                               struct gm_err *err)
{
    enum gm_status st = add_key(o, key, GM_GGUF_F32, err);
    return st == GM_OK ? gm_buf_append(&o->keys, &value, sizeof value, err) : st;
}

enum gm_status gm_gguf_put_text(struct gm_gguf_out *o, const char *key, const char *value,
                                struct gm_err *err)
{
    size_t n = strnlen(value, GM_GGUF_PUT_TEXT_MAX + 1);
    if (n > GM_GGUF_PUT_TEXT_MAX)
        return gm_fail(err, GM_INVALID, "the text of %.60s is longer than %d bytes", key,
                       (int)GM_GGUF_PUT_TEXT_MAX);
    enum gm_status st = add_key(o, key, GM_GGUF_TEXT, err);
    return st == GM_OK ? add_text(&o->keys, value, n, err) : st;
}

/* Bytes of the first n elements; their lengths were checked when the file was opened. */
static size_t value_bytes(const struct gm_gguf_kv *kv, uint64_t n)
{
    size_t bytes = gm_gguf_type_bytes[kv->type], at = 0;
    if (bytes)
        return (size_t)n * bytes;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len;
        memcpy(&len, kv->value + at, sizeof len);
        at += sizeof len + (size_t)len;
    }
    return at;
}

static enum gm_status put_copy(struct gm_gguf_out *o, const struct gm_gguf_kv *kv,
                               uint64_t array_max, struct gm_err *err)
{
    uint64_t n = kv->n;
    enum gm_status st = add_key(o, kv->key, kv->array ? GM_GGUF_ARRAY : kv->type, err);
    if (st == GM_OK && kv->array) {
        n = n < array_max ? n : array_max;
        st = add_u32(&o->keys, kv->type, err);
        if (st == GM_OK)
            st = add_u64(&o->keys, n, err);
    }
    return st == GM_OK ? gm_buf_append(&o->keys, kv->value, value_bytes(kv, n), err) : st;
}

enum gm_status gm_gguf_put_copies(struct gm_gguf_out *o, const struct gm_gguf *from,
                                  const char *prefix, uint64_t array_max, size_t *n,
                                  struct gm_err *err)
{
    enum gm_status st = GM_OK;
    size_t copied = 0;
    for (size_t i = 0; i < from->n_kvs && st == GM_OK; i++) {
        if (strncmp(from->kvs[i].key, prefix, strlen(prefix)) != 0)
            continue;
        st = put_copy(o, &from->kvs[i], array_max, err);
        copied++;
    }
    if (n)
        *n = copied;
    return st;
}

/* ---- tensors ---------------------------------------------------------------------------------
 */

/* Room for one more tensor in the table of offsets. */
static enum gm_status grow(struct gm_gguf_out *o, struct gm_err *err)
{
    if (o->n_tensors < o->cap)
        return GM_OK;
    size_t cap = o->cap ? 2 * o->cap : 64;
    struct out_tensor *more = realloc(o->tensors, cap * sizeof *more);
    if (!more)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %zu tensors", cap);
    o->tensors = more;
    o->cap = cap;
    return GM_OK;
}

static enum gm_status tensor_size(const char *name, enum gm_type type, uint32_t n_dims,
                                  const int64_t *dims, uint64_t *bytes, struct gm_err *err)
{
    const struct gm_type_info *info = gm_type_info((uint32_t)type);
    if (!info || n_dims < 1 || n_dims > GM_TENSOR_DIMS)
        return gm_fail(err, GM_INVALID, "tensor %.60s has a type or a rank that is not known",
                       name);
    for (uint32_t i = 0; i < n_dims; i++)
        if (dims[i] < 1)
            return gm_fail(err, GM_INVALID, "tensor %.60s has a dimension of %" PRId64, name,
                           dims[i]);
    if ((uint64_t)dims[0] % info->block_elems != 0)
        return gm_fail(err, GM_INVALID,
                       "tensor %.60s is %" PRId64 " wide, %s needs multiples of %u", name, dims[0],
                       info->name, info->block_elems);
    uint64_t total = (uint64_t)dims[0] / info->block_elems;
    bool wide = __builtin_mul_overflow(total, (uint64_t)info->block_bytes, &total);
    for (uint32_t i = 1; i < n_dims; i++)
        wide |= __builtin_mul_overflow(total, (uint64_t)dims[i], &total);
    if (wide || total > INT64_MAX / 2)
        return gm_fail(err, GM_RANGE, "tensor %.60s is too large for a file", name);
    *bytes = total;
    return GM_OK;
}

enum gm_status gm_gguf_out_tensor(struct gm_gguf_out *o, const char *name, enum gm_type type,
                                  uint32_t n_dims, const int64_t *dims, struct gm_err *err)
{
    size_t n = strlen(name);
    uint64_t bytes = 0;
    if (n == 0 || n > TENSOR_NAME_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "a tensor's name has 1 to %d bytes, \"%.60s\" has %zu",
                       TENSOR_NAME_BYTES_MAX, name, n);
    enum gm_status st = tensor_size(name, type, n_dims, dims, &bytes, err);
    if (st == GM_OK && o->data_bytes > INT64_MAX / 2 - bytes)
        st = gm_fail(err, GM_RANGE, "the tensors together are too large for a file");
    if (st == GM_OK)
        st = grow(o, err);
    if (st == GM_OK)
        st = add_text(&o->table, name, n, err);
    if (st == GM_OK)
        st = add_u32(&o->table, n_dims, err);
    if (st == GM_OK)
        st = gm_buf_append(&o->table, dims, n_dims * sizeof *dims, err);
    if (st == GM_OK)
        st = add_u32(&o->table, (uint32_t)type, err);
    if (st == GM_OK)
        st = add_u64(&o->table, o->data_bytes, err);
    if (st != GM_OK)
        return st;
    o->tensors[o->n_tensors++] = (struct out_tensor){ o->data_bytes, bytes };
    o->data_bytes += aligned(bytes);
    return GM_OK;
}

uint64_t gm_gguf_out_tensor_bytes(const struct gm_gguf_out *o, size_t i)
{
    return i < o->n_tensors ? o->tensors[i].bytes : 0;
}

/* ---- the file --------------------------------------------------------------------------------
 */

struct header {
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_keys;
};

uint64_t gm_gguf_out_bytes(const struct gm_gguf_out *o)
{
    return aligned(sizeof(struct header) + o->keys.len + o->table.len) + o->data_bytes;
}

enum gm_status gm_gguf_out_begin(struct gm_gguf_out *o, const char *path, struct gm_err *err)
{
    const struct header h = { "GGUF", VERSION, o->n_tensors, o->n_keys };
    enum gm_status st = gm_newfile_open(&o->file, path, FILE_MODE, gm_gguf_out_bytes(o), err);
    if (st == GM_OK)
        st = gm_newfile_write(&o->file, 0, &h, sizeof h, err);
    if (st == GM_OK)
        st = gm_newfile_write(&o->file, sizeof h, gm_buf_text(&o->keys), o->keys.len, err);
    if (st == GM_OK)
        st = gm_newfile_write(&o->file, sizeof h + o->keys.len, gm_buf_text(&o->table),
                              o->table.len, err);
    o->data_at = gm_gguf_out_bytes(o) - o->data_bytes;
    return st;
}

enum gm_status gm_gguf_out_data(struct gm_gguf_out *o, size_t i, uint64_t at, const void *bytes,
                                size_t n, struct gm_err *err)
{
    if (i >= o->n_tensors || at > o->tensors[i].bytes || n > o->tensors[i].bytes - at)
        return gm_fail(err, GM_RANGE, "%zu bytes at %" PRIu64 " do not lie in tensor %zu", n, at,
                       i);
    atomic_fetch_add(&o->written, n);
    return gm_newfile_write(&o->file, o->data_at + o->tensors[i].at + at, bytes, n, err);
}

enum gm_status gm_gguf_out_commit(struct gm_gguf_out *o, bool replace, struct gm_err *err)
{
    uint64_t want = 0, have = atomic_load(&o->written);
    for (size_t i = 0; i < o->n_tensors; i++)
        want += o->tensors[i].bytes;
    if (have != want)
        return gm_fail(err, GM_INTERNAL, "%" PRIu64 " bytes of tensors came, expected %" PRIu64,
                       have, want);
    return gm_newfile_commit(&o->file, replace, err);
}
