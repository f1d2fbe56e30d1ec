/* keyring.h - the gateway's cache of API keys: who a token is, what it may do, how much it has
 * used.
 *
 * Owns:      what is known of keys and for how long, the windows of requests and tokens of each
 * key. Does not:  talk to Redis: where it answers GM_KEYRING_ASK the caller asks and tells the
 * result.
 *
 * Use: the caller polls Redis each GM_KEYRING_POLL_MS and gives what it hears to
 * gm_keyring_version. A request's token goes to gm_keyring_find; on ASK the caller reads the record
 * of key->id, calls gm_keyring_put or gm_keyring_absent, and then gm_keyring_find again, which does
 * not ask twice. When Redis is away it answers 503 instead. Such questions are as many as requests
 * that wait, so the limit of connections bounds them.
 *
 * A revoked key is refused within GM_KEYRING_POLL_MS and one answer of Redis. While Redis is away
 * nobody can revoke, and what is cached goes on for the rest of its GM_KEYRING_FRESH_MS.
 *
 * Use is counted here, in memory: several gateways side by side count each its own, so N of them
 * let through up to N times the rate, and a restart forgets. All times are gm_now_ms().
 */
#ifndef GM_GATEWAY_KEYRING_H
#define GM_GATEWAY_KEYRING_H

#include "common/base/key.h"

enum {
    GM_KEYRING_KEYS_MAX = 4096,   /* cached keys (all that a home may have) */
    GM_KEYRING_ABSENT_MAX = 1024, /* IDs known to be none; newer ones take the place of older */
    GM_KEYRING_FRESH_MS = 60000,
    GM_KEYRING_ABSENT_MS = 5000,
    GM_KEYRING_POLL_MS = 2000,
    GM_KEYRING_MINUTE_SLOTS = 60, /* of a second each */
    GM_KEYRING_DAY_SLOTS = 96,    /* of a quarter of an hour each */
};

struct gm_keyring;

enum gm_keyring_answer {
    GM_KEYRING_KNOWN,   /* *key is filled */
    GM_KEYRING_UNKNOWN, /* 401: no such key, a wrong secret, or revoked; which is not told */
    GM_KEYRING_ASK,     /* only key->id is filled: to be read from Redis */
};

enum gm_keyring_door {
    GM_KEYRING_UNSURE, /* Redis was never heard: 503 */
    GM_KEYRING_OPEN,   /* no key was ever made: a loopback server ignores Authorization */
    GM_KEYRING_SHUT,   /* a request needs a key */
};

/* `secret` is copied. GM_EXHAUSTED, GM_INTERNAL (libsodium). */
enum gm_status gm_keyring_open(struct gm_keyring **out, const uint8_t secret[GM_KEY_SECRET_BYTES],
                               struct gm_err *err);
void gm_keyring_close(struct gm_keyring **ring); /* idempotent */

/* What a poll said. Another version than before (also a lower one: another Redis) drops all that is
 * cached; what keys have used stays counted. */
void gm_keyring_version(struct gm_keyring *r, int64_t version, int64_t n_keys);
enum gm_keyring_door gm_keyring_door(const struct gm_keyring *r);

/* n bytes, as they stood behind "Bearer ". Whatever is known of the ID, a token of the right form
 * costs one hash and one comparison in constant time. */
enum gm_keyring_answer gm_keyring_find(struct gm_keyring *r, const char *token, size_t n,
                                       int64_t now_ms, struct gm_key *key);
/* What Redis has. GM_EXHAUSTED: no memory (503). */
enum gm_status gm_keyring_put(struct gm_keyring *r, const struct gm_key *key, int64_t now_ms,
                              struct gm_err *err);
void gm_keyring_absent(struct gm_keyring *r, const char *id, int64_t now_ms);

/* Counts one request of a key that was just found. GM_EXHAUSTED with a sentence that names the
 * limit, and in err->retry_ms when one request may be made again (429; Retry-After is that in
 * seconds, rounded up): its requests of the last minute, or its tokens of the last 24 hours (to a
 * quarter of an hour), are spent. A refused request is not counted. */
enum gm_status gm_keyring_charge(struct gm_keyring *r, const struct gm_key *key, int64_t now_ms,
                                 struct gm_err *err);
/* Adds tokens as they are known: a prompt's when it is taken, an answer's as it comes. What runs
 * already is let end, so a day may go over by the turns that run. An id that is gone is ignored. */
void gm_keyring_spend(struct gm_keyring *r, const char *id, uint64_t tokens, int64_t now_ms);

/* GM_DENIED (403) with a sentence when the key lacks the scope. */
enum gm_status gm_keyring_allows(const struct gm_key *key, enum gm_key_scope scope,
                                 struct gm_err *err);

#endif
