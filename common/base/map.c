/* map.c - the hash maps and the ring of map.h.
 *
 * Owns:      probing, growth, removal.
 * Does not:  own values, or keep an order through removals.
 * Layout:    linear probing over `slots` at most half full; removal shifts later slots back, so
 *            there are no tombstones and a lookup stays short for ever.
 * Hash:      SipHash-1-3 (Aumasson and Bernstein 2012) under a random key per map.
 * Invariant: every entry is pointed at by exactly one slot, found by probing from its hash.
 */
#include "common/base/map.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/sys.h"

/* ---- SipHash-1-3 --------------------------------------------------------------------------- */

static uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

static uint64_t sip_hash(const uint64_t seed[2], const void *bytes, size_t n)
{
    uint64_t v[4] = { seed[0] ^ UINT64_C(0x736f6d6570736575),
                      seed[1] ^ UINT64_C(0x646f72616e646f6d),
                      seed[0] ^ UINT64_C(0x6c7967656e657261),
                      seed[1] ^ UINT64_C(0x7465646279746573) };
    const uint8_t *p = bytes;
    size_t left = n;
    for (bool last = false; !last; p += 8) {
        uint64_t word = 0;
        last = left < 8;
        memcpy(&word, p, last ? left : 8);
        if (last)
            word |= (uint64_t)n << 56;
        else
            left -= 8;
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
        if (last)
            break;
    }
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* ---- the table both maps share ------------------------------------------------------------- */

/* Slot at which the probe for an entry starts. A text key is a hash already. */
static size_t home_slot(const struct gm_idmap *m, uint64_t key, bool text)
{
    uint64_t hash = text ? key : sip_hash(m->seed, &key, sizeof key);
    return (size_t)hash & m->slots_mask;
}

/* Slot of the key, or the free slot where it would go. The table always has free slots. */
static size_t find_slot(const struct gm_idmap *m, uint64_t key, const char *name)
{
    size_t at = home_slot(m, key, name != NULL);
    for (; m->slots[at] != 0; at = (at + 1) & m->slots_mask) {
        const struct gm_map_entry *e = &m->entries[m->slots[at] - 1];
        if (e->key == key && (name == NULL || strcmp(e->name, name) == 0))
            break;
    }
    return at;
}

/* Makes room for n_cap entries (<= n_max): new slots, refilled. On failure the map is as before. */
static enum gm_status map_resize(struct gm_idmap *m, size_t n_cap, struct gm_err *err)
{
    size_t n_slots = 8;
    while (n_slots < 2 * n_cap)
        n_slots *= 2;
    uint32_t *slots = calloc(n_slots, sizeof slots[0]);
    struct gm_map_entry *entries =
        slots == NULL ? NULL : realloc(m->entries, n_cap * sizeof entries[0]);
    if (entries == NULL) {
        free(slots);
        return gm_fail(err, GM_EXHAUSTED, "out of memory for a map of %zu entries", n_cap);
    }
    free(m->slots);
    m->slots = slots;
    m->slots_mask = n_slots - 1;
    m->entries = entries;
    m->n_cap = n_cap;
    for (size_t i = 0; i < m->n; i++) {
        size_t at = home_slot(m, entries[i].key, entries[i].name != NULL);
        while (slots[at] != 0)
            at = (at + 1) & m->slots_mask;
        slots[at] = (uint32_t)(i + 1);
    }
    return GM_OK;
}

static enum gm_status map_put(struct gm_idmap *m, uint64_t key, const char *name, void *value,
                              struct gm_err *err)
{
    if (value == NULL || m->slots == NULL)
        return gm_fail(err, GM_INVALID, "a map takes no NULL value and must be open");
    if (m->slots[find_slot(m, key, name)] != 0)
        return gm_fail(err, GM_EXISTS, "the key is in the map already");
    if (m->n >= m->n_max)
        return gm_fail(err, GM_EXHAUSTED, "all %zu entries of the map are used", m->n_max);
    if (m->n == m->n_cap) {
        size_t n_cap = m->n_cap > m->n_max / 2 ? m->n_max : m->n_cap * 2;
        enum gm_status rc = map_resize(m, n_cap, err);
        if (rc != GM_OK)
            return rc;
    }
    char *copy = NULL;
    if (name != NULL && (copy = strdup(name)) == NULL)
        return gm_fail(err, GM_EXHAUSTED, "out of memory for a key of a map");
    m->entries[m->n] = (struct gm_map_entry){ key, copy, value };
    m->n++;
    m->slots[find_slot(m, key, name)] = (uint32_t)m->n;
    return GM_OK;
}

/* Frees slot `hole` by moving back every later slot whose probe would stop at it. */
static void slot_remove(struct gm_idmap *m, size_t hole)
{
    for (size_t at = (hole + 1) & m->slots_mask; m->slots[at] != 0; at = (at + 1) & m->slots_mask) {
        const struct gm_map_entry *e = &m->entries[m->slots[at] - 1];
        size_t home = home_slot(m, e->key, e->name != NULL);
        size_t way = (at - home) & m->slots_mask;
        if (way >= ((at - hole) & m->slots_mask)) {
            m->slots[hole] = m->slots[at];
            hole = at;
        }
    }
    m->slots[hole] = 0;
}

static void *map_take(struct gm_idmap *m, uint64_t key, const char *name)
{
    if (m->slots == NULL)
        return NULL;
    size_t at = find_slot(m, key, name);
    if (m->slots[at] == 0)
        return NULL;
    size_t i = m->slots[at] - 1;
    void *value = m->entries[i].value;
    free(m->entries[i].name);
    /* The last entry moves into the hole; its slot must be found while the table is whole. */
    size_t last = m->n - 1;
    if (i != last) {
        struct gm_map_entry *moved = &m->entries[last];
        m->slots[find_slot(m, moved->key, moved->name)] = (uint32_t)(i + 1);
        m->entries[i] = *moved;
    }
    m->n--;
    slot_remove(m, at);
    return value;
}

/* ---- number -> pointer ----------------------------------------------------------------------- */

enum gm_status gm_idmap_open(struct gm_idmap *m, size_t n_first, size_t n_max, struct gm_err *err)
{
    *m = (struct gm_idmap){ 0 };
    if (n_first == 0 || n_first > n_max || n_max > GM_MAP_N_MAX)
        return gm_fail(err, GM_INVALID, "a map of %zu to %zu entries: use 1 to %d", n_first, n_max,
                       (int)GM_MAP_N_MAX);
    m->n_max = n_max;
    gm_random_bytes(m->seed, sizeof m->seed);
    enum gm_status rc = map_resize(m, n_first, err);
    if (rc != GM_OK)
        gm_idmap_close(m);
    return rc;
}

void gm_idmap_clear(struct gm_idmap *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->entries[i].name);
    m->n = 0;
    if (m->slots != NULL)
        memset(m->slots, 0, (m->slots_mask + 1) * sizeof m->slots[0]);
}

void gm_idmap_close(struct gm_idmap *m)
{
    gm_idmap_clear(m);
    free(m->entries);
    free(m->slots);
    *m = (struct gm_idmap){ 0 };
}

void *gm_idmap_get(const struct gm_idmap *m, uint64_t key)
{
    if (m->slots == NULL)
        return NULL;
    uint32_t slot = m->slots[find_slot(m, key, NULL)];
    return slot == 0 ? NULL : m->entries[slot - 1].value;
}

enum gm_status gm_idmap_put(struct gm_idmap *m, uint64_t key, void *value, struct gm_err *err)
{
    return map_put(m, key, NULL, value, err);
}

void *gm_idmap_take(struct gm_idmap *m, uint64_t key)
{
    return map_take(m, key, NULL);
}

/* ---- text -> pointer ------------------------------------------------------------------------- */

/* False for a key that no map can hold. */
static bool name_hash(const struct gm_strmap *m, const char *key, uint64_t *hash)
{
    size_t n = key == NULL ? SIZE_MAX : strnlen(key, GM_STRMAP_KEY_MAX + 1);
    if (n > GM_STRMAP_KEY_MAX)
        return false;
    *hash = sip_hash(m->map.seed, key, n);
    return true;
}

enum gm_status gm_strmap_open(struct gm_strmap *m, size_t n_first, size_t n_max, struct gm_err *err)
{
    return gm_idmap_open(&m->map, n_first, n_max, err);
}

void gm_strmap_close(struct gm_strmap *m)
{
    gm_idmap_close(&m->map);
}

void *gm_strmap_get(const struct gm_strmap *m, const char *key)
{
    uint64_t hash = 0;
    if (m->map.slots == NULL || !name_hash(m, key, &hash))
        return NULL;
    uint32_t slot = m->map.slots[find_slot(&m->map, hash, key)];
    return slot == 0 ? NULL : m->map.entries[slot - 1].value;
}

enum gm_status gm_strmap_put(struct gm_strmap *m, const char *key, void *value, struct gm_err *err)
{
    uint64_t hash = 0;
    if (!name_hash(m, key, &hash))
        return gm_fail(err, GM_INVALID, "a key of a map is text of at most %d bytes",
                       (int)GM_STRMAP_KEY_MAX);
    return map_put(&m->map, hash, key, value, err);
}

void *gm_strmap_take(struct gm_strmap *m, const char *key)
{
    uint64_t hash = 0;
    return name_hash(m, key, &hash) ? map_take(&m->map, hash, key) : NULL;
}

/* ---- ring ------------------------------------------------------------------------------------ */

enum gm_status gm_ring_open(struct gm_ring *r, size_t item_bytes, size_t n_max, struct gm_err *err)
{
    *r = (struct gm_ring){ 0 };
    size_t bytes = 0;
    if (item_bytes == 0 || n_max == 0 || __builtin_mul_overflow(item_bytes, n_max, &bytes) ||
        bytes > GM_RING_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "a ring of %zu items of %zu bytes: use 1 to %zu in all",
                       n_max, item_bytes, GM_RING_BYTES_MAX);
    r->items = malloc(bytes);
    if (r->items == NULL)
        return gm_fail(err, GM_EXHAUSTED, "out of memory for a ring of %zu bytes", bytes);
    r->item_bytes = item_bytes;
    r->n_max = n_max;
    return GM_OK;
}

void gm_ring_close(struct gm_ring *r)
{
    free(r->items);
    *r = (struct gm_ring){ 0 };
}

void *gm_ring_at(const struct gm_ring *r, size_t i)
{
    if (i >= r->n)
        return NULL;
    size_t to_end = r->n_max - r->head;
    size_t at = i < to_end ? r->head + i : i - to_end;
    return r->items + at * r->item_bytes;
}

bool gm_ring_push(struct gm_ring *r, const void *item)
{
    if (r->n >= r->n_max)
        return false;
    r->n++;
    memcpy(gm_ring_at(r, r->n - 1), item, r->item_bytes);
    return true;
}

bool gm_ring_pop(struct gm_ring *r, void *item)
{
    if (r->n == 0)
        return false;
    if (item != NULL)
        memcpy(item, gm_ring_at(r, 0), r->item_bytes);
    r->head = r->head + 1 == r->n_max ? 0 : r->head + 1;
    r->n--;
    return true;
}
