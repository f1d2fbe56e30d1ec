/* gguf_inner.h - what gguf.c and gguf_meta.c share: the parsed tables of one open file.
 *
 * Owns:      the layout of struct gm_gguf and the value types of the format.
 * Does not:  belong to the interface: others include gguf.h.
 */
#ifndef GM_MODEL_GGUF_INNER_H
#define GM_MODEL_GGUF_INNER_H

#include "common/base/fs.h"
#include "common/model/gguf.h"

/* Value types by the format's numbers. */
enum gm_gguf_type {
    GM_GGUF_U8,
    GM_GGUF_I8,
    GM_GGUF_U16,
    GM_GGUF_I16,
    GM_GGUF_U32,
    GM_GGUF_I32,
    GM_GGUF_F32,
    GM_GGUF_BOOL,
    GM_GGUF_TEXT,
    GM_GGUF_ARRAY,
    GM_GGUF_U64,
    GM_GGUF_I64,
    GM_GGUF_F64,
    GM_GGUF_TYPES
};

/* Bytes of one value; 0 for texts and arrays. */
extern const uint8_t gm_gguf_type_bytes[GM_GGUF_TYPES];
extern const char *const gm_gguf_type_names[GM_GGUF_TYPES];

struct gm_gguf_kv {
    const char *key; /* terminated, in gm_gguf.names */
    uint32_t type;   /* enum gm_gguf_type; never GM_GGUF_ARRAY */
    bool array;
    uint64_t n;           /* elements; 1 unless array */
    const uint8_t *value; /* first byte of the first element; checked to lie in the file */
};

struct gm_gguf {
    struct gm_map map;
    size_t data_at;         /* offset of the tensor data */
    struct gm_gguf_kv *kvs; /* sorted by key */
    size_t n_kvs;
    struct gm_tensor *tensors;        /* in the file's order */
    const struct gm_tensor **by_name; /* sorted by name */
    size_t n_tensors;
    char *names; /* every key and tensor name, terminated */
};

/* NULL when absent. */
const struct gm_gguf_kv *gm_gguf_find(const struct gm_gguf *g, const char *key);

/* Checks what needs several keys: vocabulary arrays of one length, split files. */
enum gm_status gm_gguf_check_keys(const struct gm_gguf *g, struct gm_err *err);

#endif
