/* keys.c - API keys in Redis: see keys.h.
 *
 * Owns:      as keys.h.
 * Does not:  as keys.h.
 */
#include "common/net/keys.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

#define KEY_ALL     "gm:keys"
#define KEY_NAMES   "gm:keys:names"
#define KEY_VERSION "gm:keys:version"
#define KEY_RECORD  "gm:key:"

/* ---- scripts: each runs whole or not at all ----------------------------------------------------
 */

/* KEYS: all, names, version, record. ARGV: id, most keys, name, then the fields and values. */
static const char ADD[] =
    "local held = redis.call('HGET', KEYS[2], ARGV[3])\n"
    "if held == ARGV[1] then return 'ok' end\n"
    "if held then return 'exists' end\n"
    "if redis.call('SCARD', KEYS[1]) >= tonumber(ARGV[2]) then\n"
    "  local oldest, since\n"
    "  for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do\n"
    "    local at = tonumber(redis.call('HGET', 'gm:key:' .. id, 'revoked') or '1') or 1\n"
    "    if at > 0 and (not since or at < since) then oldest, since = id, at end\n"
    "  end\n"
    "  if not oldest then return 'full' end\n"
    "  redis.call('DEL', 'gm:key:' .. oldest)\n"
    "  redis.call('SREM', KEYS[1], oldest)\n"
    "end\n"
    "for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end\n"
    "redis.call('SADD', KEYS[1], ARGV[1])\n"
    "redis.call('HSET', KEYS[2], ARGV[3], ARGV[1])\n"
    "redis.call('INCR', KEYS[3])\n"
    "return 'ok'\n";

/* KEYS: all, names, version. ARGV: name or id, now. The names are searched by value, so that a key
 * whose record is damaged can be revoked by its ID too. */
static const char REVOKE[] =
    "local id = ARGV[1]\n"
    "if redis.call('SISMEMBER', KEYS[1], id) == 0 then\n"
    "  id = redis.call('HGET', KEYS[2], ARGV[1])\n"
    "end\n"
    "if not id then return {'none'} end\n"
    "local at = redis.pcall('HGET', 'gm:key:' .. id, 'revoked')\n"
    "if type(at) == 'table' then\n" /* no hash: no record of ours */
    "  redis.call('DEL', 'gm:key:' .. id)\n"
    "  at = false\n"
    "end\n"
    "if at == ARGV[2] then return {'ok', id} end\n"
    "if at and at ~= '0' then return {'before', id} end\n"
    "local names = redis.call('HGETALL', KEYS[2])\n"
    "for i = 1, #names, 2 do\n"
    "  if names[i + 1] == id then redis.call('HDEL', KEYS[2], names[i]) end\n"
    "end\n"
    "redis.call('HSET', 'gm:key:' .. id, 'revoked', ARGV[2], 'hash', '')\n"
    "redis.call('INCR', KEYS[3])\n"
    "return {'ok', id}\n";

/* KEYS: version, all. */
static const char POLL[] =
    "return {tonumber(redis.call('GET', KEYS[1]) or '0'), redis.call('SCARD', KEYS[2])}\n";

/* KEYS: all. ARGV: the fields. */
static const char LIST[] = "local out = {}\n"
                           "for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do\n"
                           "  local fields = redis.pcall('HMGET', 'gm:key:' .. id, unpack(ARGV))\n"
                           "  if fields.err then\n" /* as if there were no record */
                           "    fields = {}\n"
                           "    for i = 1, #ARGV do fields[i] = false end\n"
                           "  end\n"
                           "  out[#out + 1] = {id, fields}\n"
                           "end\n"
                           "return out\n";

/* ---- commands ----------------------------------------------------------------------------------
 */
static void put(struct gm_keys_command *c, const char *text)
{
    c->argv[c->n++] = text;
}

static void put_script(struct gm_keys_command *c, const char *script, const char *n_keys)
{
    c->n = 0;
    put(c, "EVAL");
    put(c, script);
    put(c, n_keys);
}

static void put_field_names(struct gm_keys_command *c)
{
    for (size_t i = 0; i < GM_KEY_FIELDS; i++)
        put(c, gm_key_field_name(i));
}

static const char *record_of(struct gm_keys_command *c, const char *id)
{
    snprintf(c->key, sizeof c->key, KEY_RECORD "%s", id);
    return c->key;
}

void gm_keys_get(struct gm_keys_command *c, const char *id)
{
    c->n = 0;
    put(c, "HMGET");
    put(c, record_of(c, id));
    put_field_names(c);
}

void gm_keys_poll(struct gm_keys_command *c)
{
    put_script(c, POLL, "2");
    put(c, KEY_VERSION);
    put(c, KEY_ALL);
}

void gm_keys_add(struct gm_keys_command *c, const struct gm_key *key)
{
    gm_key_to_fields(key, &c->fields);
    snprintf(c->number, sizeof c->number, "%d", GM_KEYS_MAX);
    put_script(c, ADD, "4");
    put(c, KEY_ALL);
    put(c, KEY_NAMES);
    put(c, KEY_VERSION);
    put(c, record_of(c, key->id));
    put(c, key->id);
    put(c, c->number);
    put(c, key->name);
    for (size_t i = 0; i < GM_KEY_FIELDS; i++) {
        put(c, gm_key_field_name(i));
        put(c, c->fields.text[i]);
    }
}

void gm_keys_revoke(struct gm_keys_command *c, const char *who, int64_t now_ms)
{
    snprintf(c->number, sizeof c->number, "%lld", (long long)now_ms);
    put_script(c, REVOKE, "3");
    put(c, KEY_ALL);
    put(c, KEY_NAMES);
    put(c, KEY_VERSION);
    put(c, who);
    put(c, c->number);
}

void gm_keys_list(struct gm_keys_command *c)
{
    put_script(c, LIST, "1");
    put(c, KEY_ALL);
    put_field_names(c);
}

/* ---- answers -----------------------------------------------------------------------------------
 */
static enum gm_status strange(struct gm_err *err)
{
    return gm_fail(err, GM_DATA_LOSS,
                   "Redis answered something strange about API keys; see "
                   "whether another program writes into it");
}

static const char *text_of(const redisReply *r)
{
    return r->type == REDIS_REPLY_STRING ? r->str : NULL;
}

static bool is_array(const redisReply *r, size_t n)
{
    return r->type == REDIS_REPLY_ARRAY && r->elements == n;
}

enum gm_status gm_keys_read_get(const struct redisReply *reply, const char *id, struct gm_key *key,
                                struct gm_err *err)
{
    const char *values[GM_KEY_FIELDS];
    size_t n = 0;
    if (!is_array(reply, GM_KEY_FIELDS))
        return strange(err);
    for (size_t i = 0; i < GM_KEY_FIELDS; i++) {
        values[i] = text_of(reply->element[i]);
        n += values[i] != NULL;
    }
    if (n == 0)
        return gm_fail(err, GM_NOT_FOUND, "there is no key %.16s; see gemline key list", id);
    return gm_key_from_fields(key, id, values, err);
}

enum gm_status gm_keys_read_poll(const struct redisReply *reply, int64_t *version, int64_t *n,
                                 struct gm_err *err)
{
    if (!is_array(reply, 2) || reply->element[0]->type != REDIS_REPLY_INTEGER ||
        reply->element[1]->type != REDIS_REPLY_INTEGER)
        return strange(err);
    *version = reply->element[0]->integer;
    *n = reply->element[1]->integer;
    return GM_OK;
}

enum gm_status gm_keys_read_add(const struct redisReply *reply, struct gm_err *err)
{
    const char *said = text_of(reply);
    if (said && strcmp(said, "ok") == 0)
        return GM_OK;
    if (said && strcmp(said, "exists") == 0)
        return gm_fail(err, GM_EXISTS,
                       "there is a key of this name; revoke it first, or choose "
                       "another name");
    if (said && strcmp(said, "full") == 0)
        return gm_fail(err, GM_EXHAUSTED, "%d keys live, which is the limit; revoke some",
                       GM_KEYS_MAX);
    return strange(err);
}

enum gm_status gm_keys_read_revoke(const struct redisReply *reply, char id[GM_KEY_ID_DIGITS + 1],
                                   struct gm_err *err)
{
    const bool list = reply->type == REDIS_REPLY_ARRAY && reply->elements >= 1;
    const char *said = list ? text_of(reply->element[0]) : NULL;
    const char *found = list && reply->elements == 2 ? text_of(reply->element[1]) : NULL;
    id[0] = 0;
    if (said && strcmp(said, "none") == 0)
        return gm_fail(err, GM_NOT_FOUND,
                       "no living key has this name or id; see gemline key list");
    if (!said || !found || strlen(found) != GM_KEY_ID_DIGITS)
        return strange(err);
    memcpy(id, found, GM_KEY_ID_DIGITS + 1);
    if (strcmp(said, "before") == 0)
        return gm_fail(err, GM_PRECONDITION, "the key %s was revoked before", id);
    return strcmp(said, "ok") == 0 ? GM_OK : strange(err);
}

static int by_making(const void *a, const void *b)
{
    const struct gm_key *x = a, *y = b;
    if (x->created_ms != y->created_ms)
        return x->created_ms < y->created_ms ? -1 : 1;
    return strcmp(x->id, y->id);
}

/* A damaged record that was revoked troubles nobody any more. */
static bool was_revoked(const redisReply *fields)
{
    int64_t at;
    for (size_t i = 0; is_array(fields, GM_KEY_FIELDS) && i < GM_KEY_FIELDS; i++) {
        const char *text = text_of(fields->element[i]);
        if (text && strcmp(gm_key_field_name(i), "revoked") == 0)
            return gm_parse_i64(text, 1, INT64_MAX, &at, NULL) == GM_OK;
    }
    return false;
}

enum gm_status gm_keys_read_list(const struct redisReply *reply, struct gm_key **keys, size_t *n,
                                 size_t *damaged, struct gm_err *err)
{
    *keys = NULL;
    *n = *damaged = 0;
    if (reply->type != REDIS_REPLY_ARRAY)
        return strange(err);
    struct gm_key *all = calloc(reply->elements + 1, sizeof *all);
    if (!all)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the list of keys");
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *pair = reply->element[i];
        const char *id = is_array(pair, 2) ? text_of(pair->element[0]) : NULL;
        if (id && gm_keys_read_get(pair->element[1], id, &all[*n], NULL) == GM_OK)
            (*n)++;
        else if (!id || !was_revoked(pair->element[1]))
            (*damaged)++;
    }
    qsort(all, *n, sizeof *all, by_making);
    *keys = all;
    return GM_OK;
}
