/* reflect.c - the descriptor set inside the program: see reflect.h.
 *
 * Owns:      the embedded bytes, the tree read from them.
 * Does not:  free the tree: it lives as long as the process.
 */
#include "common/net/reflect.h"

#include <stdlib.h>
#include <string.h>

#include "reflect.pb-c.h"

/* GM_DESCRIPTORS: the file that the Makefile made of proto/. */
__asm__(".section .rodata\n"
        "gm_descriptors_begin:\n"
        ".incbin \"" GM_DESCRIPTORS "\"\n"
        "gm_descriptors_end:\n"
        ".byte 0\n"
        ".previous\n");
extern const uint8_t gm_descriptors_begin[], gm_descriptors_end[];

static struct {
    uint8_t *bytes; /* NULL: the embedded ones, untouched */
    size_t n;
    Gm__SetShape *tree; /* NULL: not read yet */
} all;

const uint8_t *gm_reflect_set(size_t *n)
{
    *n = all.bytes ? all.n : (size_t)(gm_descriptors_end - gm_descriptors_begin);
    return all.bytes ? all.bytes : gm_descriptors_begin;
}

static const Gm__SetShape *tree(void)
{
    if (!all.tree) {
        size_t n;
        const uint8_t *set = gm_reflect_set(&n);
        all.tree = gm__set_shape__unpack(NULL, n, set);
    }
    return all.tree;
}

enum gm_status gm_reflect_add(const uint8_t *set, size_t n, struct gm_err *err)
{
    size_t have;
    const uint8_t *before = gm_reflect_set(&have);
    Gm__SetShape *read = gm__set_shape__unpack(NULL, n, set);
    if (!read)
        return gm_fail(err, GM_INVALID,
                       "the bytes are no descriptor set; make one with protoc "
                       "--descriptor_set_out --include_imports");
    gm__set_shape__free_unpacked(read, NULL);
    uint8_t *joined = malloc(have + n);
    if (!joined)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a descriptor set");
    memcpy(joined, before, have);
    memcpy(joined + have, set, n);
    free(all.bytes);
    all.bytes = joined;
    all.n = have + n;
    if (all.tree)
        gm__set_shape__free_unpacked(all.tree, NULL);
    all.tree = NULL;
    return GM_OK;
}

static enum gm_shape shape_of(const Gm__MethodShape *m)
{
    const bool sends = m->has_client_streaming && m->client_streaming;
    const bool items = m->has_server_streaming && m->server_streaming;
    if (sends)
        return items ? GM_SHAPE_BOTH : GM_SHAPE_CLIENT;
    return items ? GM_SHAPE_SERVER : GM_SHAPE_UNARY;
}

/* "Service.Method" without a copy of either. */
static bool named(const char *full, const char *service, const char *method)
{
    const size_t n = service ? strlen(service) : 0;
    return n > 0 && method && strncmp(full, service, n) == 0 && full[n] == '.' &&
           strcmp(full + n + 1, method) == 0;
}

enum gm_shape gm_reflect_shape(const char *method)
{
    const Gm__SetShape *set = tree();
    for (size_t f = 0; set && method && f < set->n_file; f++)
        for (size_t s = 0; s < set->file[f]->n_service; s++) {
            const Gm__ServiceShape *of = set->file[f]->service[s];
            for (size_t m = 0; m < of->n_method; m++)
                if (named(method, of->name, of->method[m]->name))
                    return shape_of(of->method[m]);
        }
    return GM_SHAPE_UNKNOWN;
}
