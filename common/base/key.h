/* key.h - an API key: its form gm-ID-SECRET, what is kept of it, and the secret file of a home.
 *
 * Owns:      the form of keys and names, the keyed hash, HOME/key-secret, the text of a record's
 * fields. Does not:  speak Redis (common/net/keys.h), cache keys or count their use (the gateway).
 *
 * Of a key only BLAKE2b(key-secret, ID, SECRET) is kept. The key-secret lies in a file beside
 * Redis's data, so who can write Redis but not read that file cannot make a key.
 *
 * A key belongs to one tenant: the names under which sessions, caches and responses are kept. The
 * tenant is the key's name unless it is given, so a new key of the same name goes on with the
 * conversations of the old one, and keys of one tenant share them. Two kinds of tenants are
 * others': "web-..." (visitors of the web page) no key can have, and "local" (the command line, and
 * a loopback server without keys) only a key that asks for it.
 */
#ifndef GM_BASE_KEY_H
#define GM_BASE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_KEY_ID_DIGITS = 16,     /* hex digits of an ID (64 bits; no secret) */
    GM_KEY_SECRET_DIGITS = 64, /* hex digits of a SECRET (256 bits) */
    GM_KEY_TOKEN_CHARS = 3 + GM_KEY_ID_DIGITS + 1 + GM_KEY_SECRET_DIGITS,
    GM_KEY_HASH_BYTES = 32,
    GM_KEY_SECRET_BYTES = 32, /* of the file */
    GM_KEY_NAME_MAX = 64,     /* characters of a name and of a tenant */
    GM_KEY_RATE_MAX = 1000000,
};
#define GM_KEY_TOKENS_MAX    1000000000000 /* tokens a day */
#define GM_KEY_SECRET_FILE   "key-secret"
#define GM_KEY_TENANT_LOCAL  "local"
#define GM_KEY_TENANT_WEB    "web-"
#define GM_KEY_SCOPES_TEXT_N 24 /* bytes of "chat,metrics" and every other list of scopes */

/* What a key may do; bits. */
enum gm_key_scope {
    GM_KEY_CHAT = 1,    /* everything but /metrics, within its own tenant */
    GM_KEY_METRICS = 2, /* /metrics */
};

struct gm_key {
    char id[GM_KEY_ID_DIGITS + 1];
    uint8_t hash[GM_KEY_HASH_BYTES]; /* zeros once revoked */
    char name[GM_KEY_NAME_MAX + 1];
    char tenant[GM_KEY_NAME_MAX + 1];
    uint32_t scopes;         /* gm_key_scope bits; never 0 */
    uint32_t rate_per_min;   /* requests; 0: no limit */
    uint64_t tokens_per_day; /* prompt and answer together; 0: no limit */
    int64_t created_ms;      /* since 1970 */
    int64_t revoked_ms;      /* 0: it lives */
};

/* The secret file of the folder `home`, made on first use (mode 0600) by whoever comes first; all
 * who come at once get the same. GM_DENIED when others may read the file, GM_DATA_LOSS when it is
 * no 32 bytes; else the errors of fs.h. */
enum gm_status gm_key_secret_open(const char *home, uint8_t secret[GM_KEY_SECRET_BYTES],
                                  struct gm_err *err);

/* A new ID and secret: fills key->id and key->hash and writes the token with its ending 0. The
 * token is nowhere else afterwards. GM_INTERNAL when libsodium cannot start. */
enum gm_status gm_key_make(struct gm_key *key, const uint8_t secret[GM_KEY_SECRET_BYTES],
                           char token[GM_KEY_TOKEN_CHARS + 1], struct gm_err *err);

/* True when the n bytes have the form of a key; id then holds its ID. Secrets are not judged. */
bool gm_key_split(const char *token, size_t n, char id[GM_KEY_ID_DIGITS + 1]);

/* The hash of a token of the right form (gm_key_split). GM_INTERNAL as gm_key_make. */
enum gm_status gm_key_hash(const char *token, const uint8_t secret[GM_KEY_SECRET_BYTES],
                           uint8_t hash[GM_KEY_HASH_BYTES], struct gm_err *err);
/* In constant time. */
bool gm_key_same(const uint8_t a[GM_KEY_HASH_BYTES], const uint8_t b[GM_KEY_HASH_BYTES]);

/* 1-64 of A-Za-z0-9._-, and not of the form of an ID. GM_INVALID with a sentence. */
enum gm_status gm_key_check_name(const char *name, struct gm_err *err);
/* Sets key->tenant: `tenant`, or key->name when NULL. GM_INVALID where another's may not be had. */
enum gm_status gm_key_set_tenant(struct gm_key *key, const char *tenant, struct gm_err *err);

/* The bit of a scope's name; 0: there is no such scope. */
uint32_t gm_key_scope_of(const char *name);
/* "chat,metrics" */
void gm_key_scopes_text(uint32_t scopes, char out[GM_KEY_SCOPES_TEXT_N]);

/* "60" or "60/min", at least 1. Errors as gm_parse_u64, with the option's form in the sentence. */
enum gm_status gm_key_parse_rate(const char *text, uint32_t *out, struct gm_err *err);
/* "50000" or "50000/day". */
enum gm_status gm_key_parse_tokens(const char *text, uint64_t *out, struct gm_err *err);

/* ---- the fields of a record, as texts ----------------------------------------------------------
 * hash (hex), name, tenant, scopes, rate, tokens, created, revoked; numbers in decimal.
 */
enum { GM_KEY_FIELDS = 8, GM_KEY_FIELD_MAX = 2 * GM_KEY_HASH_BYTES };
struct gm_key_fields {
    char text[GM_KEY_FIELDS][GM_KEY_FIELD_MAX + 1];
};
const char *gm_key_field_name(size_t i); /* i < GM_KEY_FIELDS */
void gm_key_to_fields(const struct gm_key *key, struct gm_key_fields *fields);
/* values[i] may be NULL (absent). GM_DATA_LOSS, with the ID, when the record makes no key. */
enum gm_status gm_key_from_fields(struct gm_key *key, const char *id,
                                  const char *const values[GM_KEY_FIELDS], struct gm_err *err);

#endif
