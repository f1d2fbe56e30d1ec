/* safetensors.c - the reader declared in safetensors.h.
 *
 * Owns:      the header's parsed form and the check that tensors tile the data.
 * Does not:  read sub-byte types: a file that has one is refused by its name.
 * Source:    the safetensors README and the rules its reference reader enforces.
 */
#include "common/model/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/base/fs.h"
#include "common/model/json.h"

static const struct dtype {
    const char *name;
    uint32_t bytes;
} dtypes[] = {
    { "F32", 4 },     { "BF16", 2 },    { "F16", 2 },  { "F64", 8 }, { "I64", 8 },
    { "I32", 4 },     { "I16", 2 },     { "I8", 1 },   { "U64", 8 }, { "U32", 4 },
    { "U16", 2 },     { "U8", 1 },      { "BOOL", 1 }, { "C64", 8 }, { "F8_E4M3", 1 },
    { "F8_E5M2", 1 }, { "F8_E8M0", 1 },
};

struct gm_safetensors {
    struct gm_map map;
    struct gm_json *json;
    struct gm_st_tensor *tensors;
    size_t n;
};

/* Type and shape; the number of bytes the shape needs goes to *bytes. */
static enum gm_status read_shape(const struct gm_safetensors *s, const struct gm_json_node *entry,
                                 struct gm_st_tensor *t, struct gm_err *err)
{
    const struct gm_json_node *dtype = gm_json_get(s->json, entry, "dtype");
    const struct gm_json_node *shape = gm_json_get(s->json, entry, "shape");
    if (!dtype || dtype->kind != GM_JSON_TEXT || !shape || shape->kind != GM_JSON_ARRAY)
        return gm_fail(err, GM_INVALID, "tensor %.120s lacks a dtype or a shape", t->name);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, dtype->text) == 0) {
            t->dtype = dtypes[i].name;
            t->elem_bytes = dtypes[i].bytes;
        }
    if (!t->dtype)
        return gm_fail(err, GM_UNSUPPORTED, "tensor %.120s has the type %.20s, which is not known",
                       t->name, dtype->text);
    if (shape->n > GM_ST_DIMS_MAX)
        return gm_fail(err, GM_INVALID, "tensor %.120s has %u dimensions", t->name, shape->n);
    size_t bytes = t->elem_bytes;
    for (const struct gm_json_node *d = gm_json_first(s->json, shape); d;
         d = gm_json_next(s->json, d)) {
        int64_t dim;
        if (gm_json_int(d, 0, INT64_MAX, &dim, NULL) != GM_OK)
            return gm_fail(err, GM_INVALID, "tensor %.120s has a shape that is no list of numbers",
                           t->name);
        if (dim > 0 && bytes > s->map.len / (uint64_t)dim)
            return gm_fail(err, GM_INVALID, "tensor %.120s is larger than the file", t->name);
        bytes *= (size_t)dim;
        t->dims[t->n_dims++] = dim;
    }
    t->bytes = bytes;
    return GM_OK;
}

static enum gm_status read_entry(const struct gm_safetensors *s, const struct gm_json_node *entry,
                                 const uint8_t *data, size_t data_bytes, struct gm_st_tensor *t,
                                 struct gm_err *err)
{
    t->name = entry->key;
    if (entry->kind != GM_JSON_OBJECT)
        return gm_fail(err, GM_INVALID, "the header's entry %.120s is no object", t->name);
    enum gm_status st = read_shape(s, entry, t, err);
    if (st != GM_OK)
        return st;
    const struct gm_json_node *offsets = gm_json_get(s->json, entry, "data_offsets");
    int64_t begin, end;
    if (!offsets || offsets->kind != GM_JSON_ARRAY || offsets->n != 2)
        return gm_fail(err, GM_INVALID, "tensor %.120s lacks two data_offsets", t->name);
    const struct gm_json_node *first = gm_json_first(s->json, offsets);
    if (gm_json_int(first, 0, INT64_MAX, &begin, NULL) != GM_OK ||
        gm_json_int(gm_json_next(s->json, first), 0, INT64_MAX, &end, NULL) != GM_OK ||
        begin > end || (uint64_t)end > data_bytes)
        return gm_fail(err, GM_INVALID,
                       "tensor %.120s lies outside the file; it is cut short or damaged", t->name);
    if ((uint64_t)(end - begin) != t->bytes)
        return gm_fail(err, GM_INVALID, "tensor %.120s has %" PRId64 " bytes, its shape needs %zu",
                       t->name, end - begin, t->bytes);
    t->data = data + begin;
    return GM_OK;
}

/* By place; where a tensor is empty, it comes before the one that starts at the same byte. */
static int compare_places(const void *a, const void *b)
{
    const struct gm_st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data > y->data ? 1 : -1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static enum gm_status check_tiling(const struct gm_safetensors *s, const uint8_t *data,
                                   size_t data_bytes, struct gm_err *err)
{
    const uint8_t *at = data;
    for (size_t i = 0; i < s->n; i++) {
        if (s->tensors[i].data != at)
            return gm_fail(err, GM_INVALID, "tensor %.120s %s", s->tensors[i].name,
                           s->tensors[i].data < at ? "overlaps another one"
                                                   : "has a hole before its data");
        at += s->tensors[i].bytes;
    }
    if (at != data + data_bytes)
        return gm_fail(err, GM_INVALID, "%zu bytes of the file belong to no tensor",
                       (size_t)(data + data_bytes - at));
    return GM_OK;
}

static enum gm_status parse(struct gm_safetensors *s, struct gm_err *err)
{
    const uint8_t *base = s->map.ptr;
    uint64_t header;
    if (s->map.len < sizeof header)
        return gm_fail(err, GM_INVALID, "this is no safetensors file (too short)");
    memcpy(&header, base, sizeof header);
    if (header > s->map.len - sizeof header || header > GM_JSON_BYTES_MAX)
        return gm_fail(err, GM_INVALID,
                       "the header says it is %" PRIu64 " bytes long; the file is cut short or no "
                       "safetensors file",
                       header);
    const char *text = (const char *)base + sizeof header;
    if (header == 0 || text[0] != '{')
        return gm_fail(err, GM_INVALID, "this is no safetensors file (its header is no object)");
    enum gm_status st = gm_json_parse(&s->json, text, (size_t)header, err);
    if (st != GM_OK)
        return st;
    const struct gm_json_node *root = gm_json_root(s->json);
    const uint8_t *data = base + sizeof header + header;
    size_t data_bytes = s->map.len - sizeof header - (size_t)header;
    s->tensors = calloc(root->n ? root->n : 1, sizeof *s->tensors);
    if (!s->tensors)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %u tensors", root->n);
    for (const struct gm_json_node *e = gm_json_first(s->json, root); e;
         e = gm_json_next(s->json, e)) {
        if (strcmp(e->key, "__metadata__") == 0)
            continue;
        st = read_entry(s, e, data, data_bytes, &s->tensors[s->n], err);
        if (st != GM_OK)
            return st;
        s->n++;
    }
    qsort(s->tensors, s->n, sizeof *s->tensors, compare_places);
    return check_tiling(s, data, data_bytes, err);
}

enum gm_status gm_safetensors_open(struct gm_safetensors **out, const char *path,
                                   struct gm_err *err)
{
    *out = NULL;
    struct gm_safetensors *s = calloc(1, sizeof *s);
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory to open %s", path);
    enum gm_status st = gm_map_open(&s->map, path, 0, err);
    if (st == GM_OK) {
        st = parse(s, err);
        if (st != GM_OK && err)
            (void)gm_err_prefix(err, "%s", path);
    }
    if (st != GM_OK) {
        gm_safetensors_close(&s);
        return st;
    }
    *out = s;
    return GM_OK;
}

void gm_safetensors_close(struct gm_safetensors **s)
{
    if (!*s)
        return;
    gm_map_close(&(*s)->map);
    gm_json_free(&(*s)->json);
    free((*s)->tensors);
    free(*s);
    *s = NULL;
}

size_t gm_safetensors_count(const struct gm_safetensors *s)
{
    return s->n;
}

const struct gm_st_tensor *gm_safetensors_at(const struct gm_safetensors *s, size_t i)
{
    return i < s->n ? &s->tensors[i] : NULL;
}

uint64_t gm_safetensors_hash(const struct gm_safetensors *s, uint64_t seed)
{
    return XXH3_64bits_withSeed(s->map.ptr, s->map.len, seed);
}
