/* edge_key.c - who asks: API keys, the page's cookie, and the tenant that follows from them.
 *
 * Owns:      the questions to Redis about keys; the cookie.
 * Does not:  keep keys or count their use (keyring.c), or know their form (common/base/key.h).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "services/gateway/edge.h"

static const char cookie_name[] = "gemline";
static const char bearer[] = "Bearer ";
enum { COOKIE_DIGITS = 32 };

/* ---- the page's cookie ------------------------------------------------------------------------ */

/* 128 random bits in hex digits, made here. */
static bool cookie_ok(const char *text)
{
    return text && strlen(text) == COOKIE_DIGITS &&
           strspn(text, "0123456789abcdef") == COOKIE_DIGITS;
}

void gm_keys_cookie(struct gm_job *j)
{
    char id[COOKIE_DIGITS + 1], line[160];
    if (cookie_ok(gm_exchange_cookie(j->x, cookie_name)))
        return;
    gm_random_id(id, COOKIE_DIGITS);
    snprintf(line, sizeof line, "%s=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000",
             cookie_name, id);
    gm_exchange_set(j->x, "Set-Cookie", line);
}

/* ---- what is known of keys -------------------------------------------------------------------- */

enum gm_status gm_keys_open(struct gm_gateway *g, const char *home, struct gm_err *err)
{
    uint8_t secret[GM_KEY_SECRET_BYTES];
    enum gm_status rc = gm_key_secret_open(home, secret, err);
    return rc == GM_OK ? gm_keyring_open(&g->keys, secret, err) : rc;
}

void gm_keys_close(struct gm_gateway *g)
{
    gm_keyring_close(&g->keys);
}

static void on_poll(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct gm_gateway *g = ctx;
    int64_t version = 0, n = 0;
    (void)err;
    g->keys_asking = false;
    if (reply && gm_keys_read_poll(reply, &version, &n, NULL) == GM_OK && g->keys)
        gm_keyring_version(g->keys, version, n);
}

/* Until Redis was heard for the first time it is asked often. */
static int64_t poll_pause_ms(const struct gm_gateway *g)
{
    return gm_keyring_door(g->keys) == GM_KEYRING_UNSURE ? GM_KEYRING_POLL_MS / 40
                                                          : GM_KEYRING_POLL_MS;
}

int64_t gm_keys_next_ms(const struct gm_gateway *g)
{
    return g->keys_asking ? GM_KEYRING_POLL_MS
                          : g->keys_asked_ms + poll_pause_ms(g) - gm_now_ms();
}

void gm_keys_tick(struct gm_gateway *g)
{
    struct gm_keys_command c;
    if (g->keys_asking || gm_keys_next_ms(g) > 0)
        return;
    g->keys_asked_ms = gm_now_ms();
    g->keys_asking = true;
    gm_keys_poll(&c);
    gm_store_ask(g->store, on_poll, g, c.n, c.argv, NULL);
}

enum gm_status gm_gateway_may_open(struct gm_gateway *g, bool *open, struct gm_err *err)
{
    const enum gm_keyring_door door = gm_keyring_door(g->keys);
    *open = g->vocab_open && g->ready && door != GM_KEYRING_UNSURE;
    if (*open && door == GM_KEYRING_OPEN && !g->local && !g->insecure)
        return gm_fail(err, GM_DENIED,
                       "%s is reached beyond this machine and there is no API key: make one with "
                       "gemline key add NAME, or say --insecure",
                       g->address);
    return GM_OK;
}

/* ---- a request -------------------------------------------------------------------------------- */

/* A request that waits for its key. */
struct asking {
    struct gm_key key;
    void (*then)(struct gm_job *j);
};

static void refuse(struct gm_job *j, int http, const char *code, const char *sentence)
{
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    gm_problem_set(&why, http, code, NULL, "%s", sentence);
    why.retry_s = http == 503;
    gm_job_fail(j, &why);
}

static void no_key(struct gm_job *j, bool given)
{
    refuse(j, 401, "invalid_api_key",
           given ? "this API key is not known here, or was revoked"
                 : "an API key is needed: send Authorization: Bearer gm-..., made with gemline key "
                   "add NAME");
}

/* The key is known: what it may do, and whether it has not done too much. */
static void with_key(struct gm_job *j, const struct gm_key *key, void (*then)(struct gm_job *j))
{
    struct gm_err err = GM_ERR_NONE;
    const enum gm_key_scope scope =
        j->path.row->scope == GM_SCOPE_METRICS ? GM_KEY_METRICS : GM_KEY_CHAT;
    if (gm_keyring_allows(key, scope, &err) != GM_OK) {
        refuse(j, 403, "insufficient_scope", err.text);
        return;
    }
    if (gm_keyring_charge(j->g->keys, key, gm_now_ms(), &err) != GM_OK) {
        j->g->metrics.refused[GM_REFUSAL_RATE]++;
        gm_job_fail_err(j, &err);
        return;
    }
    snprintf(j->tenant, sizeof j->tenant, "%s", key->tenant);
    snprintf(j->key_id, sizeof j->key_id, "%s", key->id);
    then(j);
}

static void find(struct gm_job *j, bool again, void (*then)(struct gm_job *j));

static void on_key(struct gm_job *j, const struct redisReply *reply, const struct gm_err *err)
{
    struct asking *a = j->own;
    struct gm_err why = GM_ERR_NONE;
    struct gm_key key;
    char id[sizeof a->key.id];
    void (*then)(struct gm_job *) = a->then;
    memcpy(id, a->key.id, sizeof id);
    free(a);
    j->own = NULL;
    j->own_free = NULL;
    if (!reply) {
        gm_log_err(GM_LOG_WARN, "a key could not be read", err);
        refuse(j, 503, "keys_unavailable",
               "API keys cannot be checked now, Redis is away; try again in a moment");
        return;
    }
    const enum gm_status rc = gm_keys_read_get(reply, id, &key, &why);
    if (rc == GM_OK && gm_keyring_put(j->g->keys, &key, gm_now_ms(), &why) != GM_OK) {
        gm_job_fail_err(j, &why);
        return;
    }
    if (rc != GM_OK)
        gm_keyring_absent(j->g->keys, id, gm_now_ms());
    find(j, true, then);
}

static void ask(struct gm_job *j, const struct gm_key *key, void (*then)(struct gm_job *j))
{
    struct gm_keys_command c;
    struct asking *a = calloc(1, sizeof *a);
    if (!a) {
        refuse(j, 503, "overloaded", "no memory for a request; try again");
        return;
    }
    a->key = *key;
    a->then = then;
    j->own = a;
    j->own_free = free;
    gm_keys_get(&c, key->id);
    (void)gm_job_redis(j, on_key, c.n, c.argv, NULL);
}

static void find(struct gm_job *j, bool again, void (*then)(struct gm_job *j))
{
    const char *header = gm_exchange_header(j->x, "Authorization");
    struct gm_key key;
    const bool given = header && strncasecmp(header, bearer, sizeof bearer - 1) == 0;
    const char *token = given ? header + sizeof bearer - 1 : "";
    switch (gm_keyring_find(j->g->keys, token, strlen(token), gm_now_ms(), &key)) {
    case GM_KEYRING_KNOWN:
        with_key(j, &key, then);
        break;
    case GM_KEYRING_ASK:
        if (!again)
            ask(j, &key, then);
        else
            no_key(j, given);
        break;
    default:
        no_key(j, given);
    }
}

void gm_keys_check(struct gm_job *j, void (*then)(struct gm_job *j))
{
    struct gm_gateway *g = j->g;
    const enum gm_scope scope = j->path.row->scope;
    const char *cookie = gm_exchange_cookie(j->x, cookie_name);
    if (cookie_ok(cookie))
        snprintf(j->tenant, sizeof j->tenant, "%s%s", GM_KEY_TENANT_WEB, cookie);
    if (scope == GM_SCOPE_NONE || scope == GM_SCOPE_PAGE) {
        then(j);
        return;
    }
    switch (gm_keyring_door(g->keys)) {
    case GM_KEYRING_OPEN:
        if (scope == GM_SCOPE_METRICS && !g->local)
            refuse(j, 403, "insufficient_scope",
                   "metrics are shown on loopback, or to a key of that scope: gemline key add NAME "
                   "--scope metrics");
        else
            then(j);
        break;
    case GM_KEYRING_SHUT:
        find(j, false, then);
        break;
    default:
        refuse(j, 503, "keys_unavailable",
               "API keys cannot be checked yet, Redis is away; try again in a moment");
    }
}

void gm_keys_charge(struct gm_job *j, uint32_t tokens)
{
    if (j->key_id[0])
        gm_keyring_spend(j->g->keys, j->key_id, tokens, gm_now_ms());
}
