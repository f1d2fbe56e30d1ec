/* keyring.c - the gateway's cache of API keys: see keyring.h.
 *
 * Owns:      as keyring.h.
 * Does not:  as keyring.h.
 */
#include "services/gateway/keyring.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/base/map.h"
#include "common/base/sys.h"

enum {
    FIRST_KEYS = 16,
    SLOTS_MAX = GM_KEYRING_DAY_SLOTS,
    SECOND_MS = 1000,
    QUARTER_MS = 15 * 60 * 1000,
};

/* A sliding window: counts of the last `n` slots; the slot of a time is time / slot_ms. */
struct window {
    int64_t last; /* slot of the newest count */
    uint64_t sum;
    uint64_t counts[SLOTS_MAX]; /* at slot % n */
};

struct entry {
    struct gm_key key;
    bool fresh; /* false: dropped by a change; kept for its windows */
    int64_t put_ms;
    struct window minute, day;
};

struct absent {
    char id[GM_KEY_ID_DIGITS + 1]; /* "": free */
    int64_t put_ms;
};

struct gm_keyring {
    uint8_t secret[GM_KEY_SECRET_BYTES];
    uint8_t nobody[GM_KEY_HASH_BYTES]; /* what is compared where there is no key */
    bool heard;
    int64_t version, n_keys;
    uint64_t seed;
    struct gm_strmap entries; /* id -> struct entry */
    struct absent absent[GM_KEYRING_ABSENT_MAX];
};

/* ---- windows -----------------------------------------------------------------------------------
 */
static void window_turn(struct window *w, int64_t n, int64_t slot_ms, int64_t now_ms)
{
    const int64_t slot = now_ms / slot_ms;
    const int64_t steps = slot - w->last < n ? slot - w->last : n;
    for (int64_t i = 1; i <= steps; i++) {
        uint64_t *old = &w->counts[(slot - steps + i) % n];
        w->sum -= *old;
        *old = 0;
    }
    if (slot > w->last)
        w->last = slot;
}

static void window_add(struct window *w, int64_t n, uint64_t count)
{
    w->counts[w->last % n] += count;
    w->sum += count;
}

/* Milliseconds until the sum is below `limit`; 0: it is. The window was turned to now_ms. */
static int64_t window_wait_ms(const struct window *w, int64_t n, int64_t slot_ms, uint64_t limit,
                              int64_t now_ms)
{
    uint64_t sum = w->sum;
    if (sum < limit)
        return 0;
    int64_t slot = w->last - n + 1;
    for (; slot < w->last; slot++) {
        sum -= w->counts[(slot + n) % n];
        if (sum < limit)
            break;
    }
    return (slot + n) * slot_ms - now_ms;
}

/* ---- the cache ---------------------------------------------------------------------------------
 */
enum gm_status gm_keyring_open(struct gm_keyring **out, const uint8_t secret[GM_KEY_SECRET_BYTES],
                               struct gm_err *err)
{
    struct gm_keyring *r = calloc(1, sizeof *r);
    *out = NULL;
    if (!r)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the keys");
    memcpy(r->secret, secret, sizeof r->secret);
    r->seed = gm_random_u64();
    gm_random_bytes(r->nobody, sizeof r->nobody);
    enum gm_status rc = gm_strmap_open(&r->entries, FIRST_KEYS, GM_KEYRING_KEYS_MAX, err);
    if (rc == GM_OK && sodium_init() < 0)
        rc = gm_fail(err, GM_INTERNAL, "libsodium cannot start; reinstall it");
    *out = r;
    if (rc != GM_OK)
        gm_keyring_close(out);
    return rc;
}

void gm_keyring_close(struct gm_keyring **ring)
{
    struct gm_keyring *r = *ring;
    if (!r)
        return;
    for (size_t i = 0; i < r->entries.map.n; i++)
        free(r->entries.map.entries[i].value);
    gm_strmap_close(&r->entries);
    sodium_memzero(r, sizeof *r);
    free(r);
    *ring = NULL;
}

void gm_keyring_version(struct gm_keyring *r, int64_t version, int64_t n_keys)
{
    if (!r->heard || version != r->version) {
        for (size_t i = 0; i < r->entries.map.n; i++)
            ((struct entry *)r->entries.map.entries[i].value)->fresh = false;
        memset(r->absent, 0, sizeof r->absent);
    }
    r->heard = true;
    r->version = version;
    r->n_keys = n_keys;
}

enum gm_keyring_door gm_keyring_door(const struct gm_keyring *r)
{
    if (!r->heard)
        return GM_KEYRING_UNSURE;
    return r->n_keys > 0 ? GM_KEYRING_SHUT : GM_KEYRING_OPEN;
}

static struct absent *absent_of(struct gm_keyring *r, const char *id)
{
    return &r->absent[XXH64(id, strlen(id), r->seed) % GM_KEYRING_ABSENT_MAX];
}

enum gm_keyring_answer gm_keyring_find(struct gm_keyring *r, const char *token, size_t n,
                                       int64_t now_ms, struct gm_key *key)
{
    uint8_t hash[GM_KEY_HASH_BYTES];
    memset(key, 0, sizeof *key);
    if (!gm_key_split(token, n, key->id))
        return GM_KEYRING_UNKNOWN;
    const struct entry *e = gm_strmap_get(&r->entries, key->id);
    const struct absent *none = absent_of(r, key->id);
    const bool known = e && e->fresh && now_ms - e->put_ms < GM_KEYRING_FRESH_MS;
    const bool absent =
        strcmp(none->id, key->id) == 0 && now_ms - none->put_ms < GM_KEYRING_ABSENT_MS;
    if (gm_key_hash(token, r->secret, hash, NULL) != GM_OK)
        return GM_KEYRING_UNKNOWN;
    const bool living = known && !e->key.revoked_ms;
    const bool same = gm_key_same(hash, living ? e->key.hash : r->nobody);
    if (!known && !absent)
        return GM_KEYRING_ASK;
    if (!living || !same)
        return GM_KEYRING_UNKNOWN;
    *key = e->key;
    return GM_KEYRING_KNOWN;
}

/* Makes room: what was asked for longest ago goes. Needed only where Redis holds more keys than it
 * should. */
static void evict(struct gm_keyring *r)
{
    const struct gm_idmap *m = &r->entries.map;
    size_t oldest = 0;
    for (size_t i = 1; i < m->n; i++)
        if (((const struct entry *)m->entries[i].value)->put_ms <
            ((const struct entry *)m->entries[oldest].value)->put_ms)
            oldest = i;
    free(gm_strmap_take(&r->entries, ((struct entry *)m->entries[oldest].value)->key.id));
}

enum gm_status gm_keyring_put(struct gm_keyring *r, const struct gm_key *key, int64_t now_ms,
                              struct gm_err *err)
{
    struct entry *e = gm_strmap_get(&r->entries, key->id);
    if (!e) {
        e = calloc(1, sizeof *e);
        if (!e)
            return gm_fail(err, GM_EXHAUSTED, "no memory for a key");
        if (r->entries.map.n == GM_KEYRING_KEYS_MAX)
            evict(r);
        if (gm_strmap_put(&r->entries, key->id, e, err) != GM_OK) {
            free(e);
            return GM_EXHAUSTED;
        }
    }
    e->key = *key;
    e->fresh = true;
    e->put_ms = now_ms;
    return GM_OK;
}

void gm_keyring_absent(struct gm_keyring *r, const char *id, int64_t now_ms)
{
    struct absent *none = absent_of(r, id);
    const size_t n = strlen(id);
    if (n != GM_KEY_ID_DIGITS)
        return;
    free(gm_strmap_take(&r->entries, id));
    memcpy(none->id, id, n + 1);
    none->put_ms = now_ms;
}

/* ---- use ---------------------------------------------------------------------------------------
 */
enum gm_status gm_keyring_charge(struct gm_keyring *r, const struct gm_key *key, int64_t now_ms,
                                 struct gm_err *err)
{
    struct entry *e = gm_strmap_get(&r->entries, key->id);
    if (!e || (!key->rate_per_min && !key->tokens_per_day))
        return GM_OK;
    window_turn(&e->minute, GM_KEYRING_MINUTE_SLOTS, SECOND_MS, now_ms);
    window_turn(&e->day, GM_KEYRING_DAY_SLOTS, QUARTER_MS, now_ms);
    int64_t wait = key->tokens_per_day ? window_wait_ms(&e->day, GM_KEYRING_DAY_SLOTS, QUARTER_MS,
                                                        key->tokens_per_day, now_ms)
                                       : 0;
    if (wait > 0)
        return gm_retry_after(err, (long)wait,
                              gm_fail(err, GM_EXHAUSTED,
                                      "this key has used its %llu tokens of a day; wait, or ask "
                                      "for more",
                                      (unsigned long long)key->tokens_per_day));
    wait = key->rate_per_min ? window_wait_ms(&e->minute, GM_KEYRING_MINUTE_SLOTS, SECOND_MS,
                                              key->rate_per_min, now_ms)
                             : 0;
    if (wait > 0)
        return gm_retry_after(err, (long)wait,
                              gm_fail(err, GM_EXHAUSTED,
                                      "this key has made its %u requests of a minute; wait, or "
                                      "ask for more",
                                      key->rate_per_min));
    window_add(&e->minute, GM_KEYRING_MINUTE_SLOTS, 1);
    return GM_OK;
}

void gm_keyring_spend(struct gm_keyring *r, const char *id, uint64_t tokens, int64_t now_ms)
{
    struct entry *e = gm_strmap_get(&r->entries, id);
    if (!e)
        return;
    window_turn(&e->day, GM_KEYRING_DAY_SLOTS, QUARTER_MS, now_ms);
    window_add(&e->day, GM_KEYRING_DAY_SLOTS, tokens);
}

enum gm_status gm_keyring_allows(const struct gm_key *key, enum gm_key_scope scope,
                                 struct gm_err *err)
{
    char need[GM_KEY_SCOPES_TEXT_N];
    if (key->scopes & scope)
        return GM_OK;
    gm_key_scopes_text(scope, need);
    return gm_fail(err, GM_DENIED, "the key %s lacks the scope %s; make one with --scope %s",
                   key->name, need, need);
}
