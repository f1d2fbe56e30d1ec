/* keys.h - API keys in Redis: the commands, and what their answers mean.
 *
 * Owns:      gm:key:ID (hash: the fields of common/base/key.h), gm:keys (set of the IDs of all
 * keys, revoked ones too), gm:keys:names (hash: name of a living key -> ID), gm:keys:version (goes
 * up with each change, so that a cache notices). Does not:  send or wait: the caller gives a
 * command to gm_store_ask and the reply to its reader.
 *
 *     struct gm_keys_command c;
 *     gm_keys_get(&c, id);
 *     gm_store_ask(store, on_reply, ctx, c.n, c.argv, NULL);
 *     ... in on_reply, where reply is not NULL: gm_keys_read_get(reply, id, &key, &err)
 *
 * Revoked keys stay in gm:keys without their hash: a server that has once had a key asks for one
 * for ever. Every change may be sent again when its answer was lost: the second time changes
 * nothing.
 */
#ifndef GM_NET_KEYS_H
#define GM_NET_KEYS_H

#include "common/base/key.h"

enum {
    GM_KEYS_MAX = 4096, /* of one home; past it an add drops the key revoked longest ago */
    GM_KEYS_ARGS_MAX = 32,
    GM_KEYS_NUMBER_MAX = 24,
};

struct redisReply;

/* Points into itself and into what it was made from: neither may move before it is sent. */
struct gm_keys_command {
    int n;
    const char *argv[GM_KEYS_ARGS_MAX]; /* C strings */
    char key[GM_KEY_ID_DIGITS + 8];
    char number[GM_KEYS_NUMBER_MAX];
    struct gm_key_fields fields;
};

void gm_keys_get(struct gm_keys_command *c, const char *id); /* an ID by gm_key_split */
void gm_keys_poll(struct gm_keys_command *c);
void gm_keys_add(struct gm_keys_command *c, const struct gm_key *key);
/* who: a name or an ID. now_ms: wall clock, the same when sent again. */
void gm_keys_revoke(struct gm_keys_command *c, const char *who, int64_t now_ms);
void gm_keys_list(struct gm_keys_command *c);

/* All: GM_DATA_LOSS when the reply is none of the command's. */

/* GM_NOT_FOUND: there is no such key. A revoked key is found. */
enum gm_status gm_keys_read_get(const struct redisReply *reply, const char *id, struct gm_key *key,
                                struct gm_err *err);
/* *version changes with each change, *n counts all keys ever made (0: a loopback server is open).
 */
enum gm_status gm_keys_read_poll(const struct redisReply *reply, int64_t *version, int64_t *n,
                                 struct gm_err *err);
/* GM_EXISTS: a living key has the name. GM_EXHAUSTED: GM_KEYS_MAX keys live. */
enum gm_status gm_keys_read_add(const struct redisReply *reply, struct gm_err *err);
/* id: of the key. GM_NOT_FOUND: no key has this name or ID. GM_PRECONDITION: revoked before. */
enum gm_status gm_keys_read_revoke(const struct redisReply *reply, char id[GM_KEY_ID_DIGITS + 1],
                                   struct gm_err *err);
/* *keys (owned: free()) in the order of their making. A damaged record is left out, and
 * counted in *damaged unless it was revoked. */
enum gm_status gm_keys_read_list(const struct redisReply *reply, struct gm_key **keys, size_t *n,
                                 size_t *damaged, struct gm_err *err);

#endif
