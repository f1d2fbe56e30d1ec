/* map.h - two hash maps (number -> pointer, text -> pointer) and a fixed ring queue.
 *
 * Owns:      their tables; a ceiling given at open; a random seed per map, so that keys chosen by
 *            a client cannot be made to collide.
 * Does not:  own the values, lock, or shrink.
 * Layout:    entries are dense in insertion order; an index of slots points at them. A removal
 *            moves the last entry into the hole, so a loop from the last entry to the first may
 *            remove the entry it stands on:
 *                for (size_t i = map.n; i-- > 0;)
 *                    if (old(map.entries[i].value))
 *                        gm_idmap_take(&map, map.entries[i].key);
 */
#ifndef GM_BASE_MAP_H
#define GM_BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_MAP_N_MAX = 1 << 30,   /* largest ceiling of a map, in entries */
    GM_STRMAP_KEY_MAX = 4096, /* longest text key, in bytes */
};
#define GM_RING_BYTES_MAX ((size_t)1 << 36) /* largest ring */

struct gm_map_entry {
    uint64_t key; /* gm_strmap: the hash of name */
    char *name;   /* gm_strmap: owned copy of the key; gm_idmap: NULL */
    void *value;  /* never NULL */
};

/* number -> pointer; read n and entries freely, change only through the functions */
struct gm_idmap {
    struct gm_map_entry *entries;
    uint32_t *slots; /* entry number + 1; 0 is free */
    uint64_t seed[2];
    size_t n;     /* entries now */
    size_t n_cap; /* entries that fit without growing */
    size_t n_max; /* ceiling */
    size_t slots_mask;
};

/* Room for n_first entries now, growing up to n_max (n_first == n_max: never allocates again).
 * GM_INVALID unless 1 <= n_first <= n_max <= GM_MAP_N_MAX; GM_EXHAUSTED when memory is out.
 * On failure *m is closed.                                                                     */
enum gm_status gm_idmap_open(struct gm_idmap *m, size_t n_first, size_t n_max, struct gm_err *err);
void gm_idmap_close(struct gm_idmap *m); /* idempotent; accepts a zeroed map */
void gm_idmap_clear(struct gm_idmap *m); /* removes all, keeps the memory */

/* NULL when the key is absent. */
void *gm_idmap_get(const struct gm_idmap *m, uint64_t key);

/* Adds. value must not be NULL (GM_INVALID); GM_EXISTS when the key is there (nothing changes);
 * GM_EXHAUSTED at the ceiling or out of memory.                                                */
enum gm_status gm_idmap_put(struct gm_idmap *m, uint64_t key, void *value, struct gm_err *err);

/* Removes and returns the value; NULL when absent. */
void *gm_idmap_take(struct gm_idmap *m, uint64_t key);

/* text -> pointer; iterate over map.entries[].name */
struct gm_strmap {
    struct gm_idmap map;
};

/* As above. Keys are C strings of at most GM_STRMAP_KEY_MAX bytes (else GM_INVALID), copied. */
enum gm_status gm_strmap_open(struct gm_strmap *m, size_t n_first, size_t n_max,
                              struct gm_err *err);
void gm_strmap_close(struct gm_strmap *m);
void *gm_strmap_get(const struct gm_strmap *m, const char *key);
enum gm_status gm_strmap_put(struct gm_strmap *m, const char *key, void *value, struct gm_err *err);
void *gm_strmap_take(struct gm_strmap *m, const char *key);

/* ---- ring queue of fixed-size items: first in, first out ------------------------------------- */
struct gm_ring {
    uint8_t *items;
    size_t item_bytes;
    size_t n;     /* items now */
    size_t n_max; /* capacity, fixed */
    size_t head;  /* index of the oldest */
};

/* GM_INVALID for 0 or more than GM_RING_BYTES_MAX in all; GM_EXHAUSTED when memory is out. */
enum gm_status gm_ring_open(struct gm_ring *r, size_t item_bytes, size_t n_max, struct gm_err *err);
void gm_ring_close(struct gm_ring *r);                  /* idempotent */
bool gm_ring_push(struct gm_ring *r, const void *item); /* copies; false when full */
bool gm_ring_pop(struct gm_ring *r, void *item); /* copies out (item may be NULL); false: empty */
void *gm_ring_at(const struct gm_ring *r, size_t i); /* i-th oldest in place; NULL past the end */

#endif
