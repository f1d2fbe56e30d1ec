/* gguf_write.h - writing a GGUF file: keys, then the table of tensors, then data in any order.
 *
 * Owns:      header, metadata and table in memory until they are written; the offsets; the new file
 *            until its commit.
 * Does not:  know a model's keys or tensors, or make weights.
 * Threads:   one, except that gm_gguf_out_data may be called by several at once.
 *
 *     gm_gguf_out_new -> gm_gguf_put_* -> gm_gguf_out_tensor for each -> gm_gguf_out_begin
 *     -> gm_gguf_out_data until all is there -> gm_gguf_out_commit; gm_gguf_out_close in any case
 */
#ifndef GM_MODEL_GGUF_WRITE_H
#define GM_MODEL_GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/model/gguf.h"

struct gm_gguf_out;

/* GM_EXHAUSTED: no memory. */
enum gm_status gm_gguf_out_new(struct gm_gguf_out **out, struct gm_err *err);
/* Drops what was not committed; idempotent. */
void gm_gguf_out_close(struct gm_gguf_out **out);

/* One key each, in the order of the calls. The key and a text are copied; a text may not be longer
 * than GM_GGUF_PUT_TEXT_MAX. A key must not be put twice: the file could not be opened. Errors:
 * GM_EXHAUSTED (the metadata passes 256 MiB), GM_INVALID (an empty or too long key). */
enum { GM_GGUF_PUT_TEXT_MAX = 1 << 20 };
enum gm_status gm_gguf_put_u32(struct gm_gguf_out *o, const char *key, uint32_t value,
                               struct gm_err *err);
enum gm_status gm_gguf_put_f32(struct gm_gguf_out *o, const char *key, float value,
                               struct gm_err *err);
enum gm_status gm_gguf_put_text(struct gm_gguf_out *o, const char *key, const char *value,
                                struct gm_err *err);

/* Copies every key of `from` that begins with `prefix`, with the bytes of its value, in the order
 * of the keys' names. Arrays longer than array_max are cut to that many elements. *n (may be NULL)
 * is how many keys that were. */
enum gm_status gm_gguf_put_copies(struct gm_gguf_out *o, const struct gm_gguf *from,
                                  const char *prefix, uint64_t array_max, size_t *n,
                                  struct gm_err *err);

/* Adds a tensor of n_dims dimensions, innermost first, behind those added before. GM_INVALID: a
 * dimension below 1, dims[0] no multiple of the type's block, a name that is empty or too long;
 * GM_RANGE: the sizes pass 2^63. */
enum gm_status gm_gguf_out_tensor(struct gm_gguf_out *o, const char *name, enum gm_type type,
                                  uint32_t n_dims, const int64_t *dims, struct gm_err *err);

/* Bytes of tensor i, and of the whole file. */
uint64_t gm_gguf_out_tensor_bytes(const struct gm_gguf_out *o, size_t i);
uint64_t gm_gguf_out_bytes(const struct gm_gguf_out *o);

/* Opens the new file and writes all but the data. Errors as gm_newfile_open. */
enum gm_status gm_gguf_out_begin(struct gm_gguf_out *o, const char *path, struct gm_err *err);

/* Writes n bytes of tensor i from its byte `at` on. GM_RANGE: past its end. */
enum gm_status gm_gguf_out_data(struct gm_gguf_out *o, size_t i, uint64_t at, const void *bytes,
                                size_t n, struct gm_err *err);

/* The file gets its name. GM_INTERNAL: not as many bytes came as the tensors have; else as
 * gm_newfile_commit. */
enum gm_status gm_gguf_out_commit(struct gm_gguf_out *o, bool replace, struct gm_err *err);

#endif
