/* reflect.h - what this program's services look like, from the descriptor set inside it.
 *
 * Owns:      the embedded FileDescriptorSet of proto/, and those that were added; which methods
 *            stream, and in which direction.
 * Does not:  serve it (service.c does) or know messages' fields.
 * Threads:   the loop's alone.
 */
#ifndef GM_NET_REFLECT_H
#define GM_NET_REFLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum gm_shape {
    GM_SHAPE_UNKNOWN, /* not declared: served as a unary call or a server stream */
    GM_SHAPE_UNARY,
    GM_SHAPE_SERVER, /* one request, a stream of items */
    GM_SHAPE_CLIENT, /* a stream of messages, one answer */
    GM_SHAPE_BOTH,
};

/* Of "Service.Method"; NULL is unknown. */
enum gm_shape gm_reflect_shape(const char *method);

/* All descriptor sets in one (sets may be joined end to end); borrowed until the next add. */
const uint8_t *gm_reflect_set(size_t *n);

/* Adds services that are not in proto/: a set of protoc --descriptor_set_out --include_imports.
 * Copied. GM_INVALID: it is no descriptor set; GM_EXHAUSTED: memory. */
enum gm_status gm_reflect_add(const uint8_t *set, size_t n, struct gm_err *err);

#endif
