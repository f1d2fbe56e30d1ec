/* key.c - `gemline key`: add, list, revoke the API keys of a home.
 *
 * Owns:      the command: its options, its exchange with Redis, what is printed. A key is shown
 * once. Does not:  define records (common/base/key.h) or Redis's side of them (common/net/keys.h).
 */
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "services/cli/cli.h"

enum {
    ANSWER_MS = 10000, /* for an answer, a restart of Redis included */
    RETRY_MS = 100,
    POLL_MS = 50,
    LIST_BYTES_MAX = 4 << 20,
    WHEN_MAX = 32,
};

struct options {
    struct gm_up_options up;
    const char *tenant, *rate, *tokens;
    struct gm_opt_list scopes;
    bool json;
};

/* clang-format off */
static const struct gm_opt opts[] = {
    { .name = "tenant", .kind = GM_OPT_TEXT, .arg = "T", .at = offsetof(struct options, tenant),
      .help = "whose conversations it sees; keys of one tenant share them (default: NAME)" },
    { .name = "rate", .kind = GM_OPT_TEXT, .arg = "N/min", .at = offsetof(struct options, rate),
      .help = "requests in a minute (default: no limit)" },
    { .name = "tokens", .kind = GM_OPT_TEXT, .arg = "N/day", .at = offsetof(struct options, tokens),
      .help = "tokens in 24 hours, prompts and answers together (default: no limit)" },
    { .name = "scope", .kind = GM_OPT_LIST, .arg = "S", .at = offsetof(struct options, scopes),
      .help = "chat: everything but metrics; metrics: /metrics (default: chat)" },
    { .name = "json", .kind = GM_OPT_FLAG, .at = offsetof(struct options, json),
      .help = "JSON on one line" },
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline key",
    .usage = "add NAME | list | revoke NAME|ID  [options]",
    .about =
        "add     make a key and print it, once; it cannot be shown again\n"
        "list    the keys of this home, revoked ones too\n"
        "revoke  end a key; requests with it are refused within 5 seconds\n"
        "From the first key on, every request to the HTTP gateway needs one, also when all are "
        "revoked.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 2,
};

/* ---- one exchange with Redis -------------------------------------------------------------------
 */
struct asking {
    bool done;
    enum gm_status (*read)(struct asking *a, const struct redisReply *reply, struct gm_err *err);
    char id[GM_KEY_ID_DIGITS + 1]; /* revoke */
    struct gm_key *keys;           /* list; owned */
    size_t n, damaged;
    struct gm_err err;
};

static enum gm_status read_add(struct asking *a, const struct redisReply *reply, struct gm_err *err)
{
    (void)a;
    return gm_keys_read_add(reply, err);
}

static enum gm_status read_revoke(struct asking *a, const struct redisReply *reply,
                                  struct gm_err *err)
{
    return gm_keys_read_revoke(reply, a->id, err);
}

static enum gm_status read_list(struct asking *a, const struct redisReply *reply,
                                struct gm_err *err)
{
    return gm_keys_read_list(reply, &a->keys, &a->n, &a->damaged, err);
}

static void on_reply(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct asking *a = ctx;
    a->done = true;
    a->err = *err;
    if (reply)
        (void)a->read(a, reply, &a->err);
}

/* Lets the store work for at most `ms`, or until a->done. */
static void pump(struct gm_store *store, const struct asking *a, int64_t ms)
{
    const int64_t until = gm_now_ms() + ms;
    while (!a->done && gm_now_ms() < until && !gm_stopping()) {
        struct pollfd fd;
        const int next = gm_store_tick(store);
        const int n = gm_store_fd(store, &fd);
        if (poll(&fd, (nfds_t)n, next < 0 || next > POLL_MS ? POLL_MS : next) > 0 && n > 0)
            gm_store_on_fd(store, &fd);
    }
}

/* Sends the command until it is answered: a lost answer does no harm (common/net/keys.h). */
static enum gm_status exchange(const struct gm_conn *conn, struct gm_keys_command *c,
                               struct asking *a, struct gm_err *err)
{
    char path[GM_PATH_MAX];
    struct gm_store *store = NULL;
    const int64_t until = gm_now_ms() + ANSWER_MS;
    if (gm_path_join(path, sizeof path, conn->home.run, "redis.sock", err) != GM_OK ||
        gm_store_open(&store, path, err) != GM_OK)
        return err->status;
    for (;;) {
        a->done = false;
        a->err = GM_ERR_NONE;
        gm_store_ask(store, on_reply, a, c->n, c->argv, NULL);
        pump(store, a, until - gm_now_ms());
        if (!a->done)
            gm_fail(&a->err, gm_stopping() ? GM_CANCELLED : GM_DEADLINE,
                    "no answer from Redis; see gemline status, and gemline key list before you "
                    "try again");
        if (a->err.status != GM_UNAVAILABLE || gm_now_ms() > until)
            break;
        a->done = false;
        pump(store, a, RETRY_MS);
    }
    gm_store_close(&store);
    *err = a->err;
    return err->status;
}

/* ---- what is printed ---------------------------------------------------------------------------
 */
static enum gm_status put_limit(struct gm_buf *b, const char *name, uint64_t limit,
                                struct gm_err *err)
{
    if (limit)
        return gm_buf_printf(b, err, ", \"%s\": %llu", name, (unsigned long long)limit);
    return gm_buf_printf(b, err, ", \"%s\": null", name);
}

/* Names, tenants and scopes hold nothing that JSON escapes. */
static enum gm_status put_json(struct gm_buf *b, const struct gm_key *k, const char *token,
                               struct gm_err *err)
{
    static const char *const scopes[] = { "chat", "metrics" };
    enum gm_status rc = gm_buf_printf(b, err,
                                      "{\"id\": \"%s\", \"name\": \"%s\", \"tenant\": \"%s\", "
                                      "\"scopes\": [",
                                      k->id, k->name, k->tenant);
    bool first = true;
    for (size_t i = 0; rc == GM_OK && i < sizeof scopes / sizeof scopes[0]; i++) {
        if (!(k->scopes & gm_key_scope_of(scopes[i])))
            continue;
        rc = gm_buf_printf(b, err, "%s\"%s\"", first ? "" : ", ", scopes[i]);
        first = false;
    }
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, "]", err);
    if (rc == GM_OK)
        rc = put_limit(b, "rate_per_min", k->rate_per_min, err);
    if (rc == GM_OK)
        rc = put_limit(b, "tokens_per_day", k->tokens_per_day, err);
    if (rc == GM_OK)
        rc = put_limit(b, "created_ms", (uint64_t)k->created_ms, err);
    if (rc == GM_OK)
        rc = put_limit(b, "revoked_ms", (uint64_t)k->revoked_ms, err);
    if (rc == GM_OK && token)
        rc = gm_buf_printf(b, err, ", \"key\": \"%s\"", token);
    return rc == GM_OK ? gm_buf_append_text(b, "}", err) : rc;
}

static void when(int64_t ms, char out[WHEN_MAX])
{
    const time_t s = (time_t)(ms / 1000);
    struct tm tm;
    if (!localtime_r(&s, &tm) || !strftime(out, WHEN_MAX, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, WHEN_MAX, "?");
}

static enum gm_status put_line(struct gm_buf *b, const struct gm_key *k, struct gm_err *err)
{
    char scopes[GM_KEY_SCOPES_TEXT_N], made[WHEN_MAX], revoked[WHEN_MAX];
    gm_key_scopes_text(k->scopes, scopes);
    when(k->created_ms, made);
    when(k->revoked_ms, revoked);
    enum gm_status rc = gm_buf_printf(b, err, "%s  %-20s  tenant %-20s  %-12s  made %s", k->id,
                                      k->name, k->tenant, scopes, made);
    if (rc == GM_OK && k->rate_per_min)
        rc = gm_buf_printf(b, err, "  %u/min", k->rate_per_min);
    if (rc == GM_OK && k->tokens_per_day)
        rc = gm_buf_printf(b, err, "  %llu tokens/day", (unsigned long long)k->tokens_per_day);
    if (rc == GM_OK && k->revoked_ms)
        rc = gm_buf_printf(b, err, "  revoked %s", revoked);
    return rc == GM_OK ? gm_buf_append_text(b, "\n", err) : rc;
}

/* ---- the verbs ---------------------------------------------------------------------------------
 */
static enum gm_status print_new(const struct gm_key *key, const char *token, bool json,
                                struct gm_err *err)
{
    struct gm_buf b = GM_BUF(LIST_BYTES_MAX);
    enum gm_status rc = json ? put_json(&b, key, token, err) : gm_buf_append_text(&b, token, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(&b, "\n", err);
    if (rc == GM_OK)
        rc = gm_cli_write(b.data, b.len, err);
    if (b.data)
        sodium_memzero(b.data, b.len);
    gm_buf_free(&b);
    if (rc == GM_OK && !json)
        fprintf(stderr, "key %s (id %s) of tenant %s; keep it, it cannot be shown again\n",
                key->name, key->id, key->tenant);
    return rc;
}

/* A key that could not be printed is of no use to anyone: it is revoked at once. */
static enum gm_status do_add(const struct gm_conn *conn, const struct options *o,
                             struct gm_key *key, struct gm_err *err)
{
    static struct gm_keys_command c;
    struct asking a = { .read = read_add };
    char token[GM_KEY_TOKEN_CHARS + 1];
    uint8_t secret[GM_KEY_SECRET_BYTES];
    key->created_ms = gm_wall_ms();
    enum gm_status rc = gm_key_secret_open(conn->home.dir, secret, err);
    if (rc == GM_OK)
        rc = gm_key_make(key, secret, token, err);
    sodium_memzero(secret, sizeof secret);
    if (rc == GM_OK) {
        gm_keys_add(&c, key);
        rc = exchange(conn, &c, &a, err);
    }
    if (rc == GM_OK)
        rc = print_new(key, token, o->json, err);
    else
        return rc;
    sodium_memzero(token, sizeof token);
    if (rc != GM_OK) {
        struct asking undo = { .read = read_revoke };
        gm_keys_revoke(&c, key->id, gm_wall_ms());
        (void)exchange(conn, &c, &undo, &(struct gm_err){ GM_OK });
    }
    return rc;
}

static enum gm_status do_list(const struct gm_conn *conn, const struct options *o,
                              struct gm_key *key, struct gm_err *err)
{
    static struct gm_keys_command c;
    struct asking a = { .read = read_list };
    struct gm_buf b = GM_BUF(LIST_BYTES_MAX);
    (void)key;
    gm_keys_list(&c);
    enum gm_status rc = exchange(conn, &c, &a, err);
    if (rc == GM_OK && o->json)
        rc = gm_buf_append_text(&b, "{\"keys\": [", err);
    for (size_t i = 0; rc == GM_OK && i < a.n; i++) {
        if (o->json && i > 0)
            rc = gm_buf_append_text(&b, ", ", err);
        if (rc == GM_OK)
            rc = o->json ? put_json(&b, &a.keys[i], NULL, err) : put_line(&b, &a.keys[i], err);
    }
    if (rc == GM_OK && o->json)
        rc = gm_buf_append_text(&b, "]}\n", err);
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&b), b.len, err);
    if (rc == GM_OK && a.damaged)
        rc = gm_fail(err, GM_DATA_LOSS, "%zu more keys have damaged records and let nobody in",
                     a.damaged);
    gm_buf_free(&b);
    free(a.keys);
    return rc;
}

static enum gm_status do_revoke(const struct gm_conn *conn, const struct options *o,
                                struct gm_key *key, struct gm_err *err)
{
    static struct gm_keys_command c;
    struct asking a = { .read = read_revoke };
    char line[64];
    gm_keys_revoke(&c, key->name, gm_wall_ms());
    const enum gm_status rc = exchange(conn, &c, &a, err);
    if (rc != GM_OK || !o->json)
        return rc;
    snprintf(line, sizeof line, "{\"id\": \"%s\"}\n", a.id);
    return gm_cli_write(line, strlen(line), err);
}

/* ---- the command -------------------------------------------------------------------------------
 */
struct verb {
    const char *name;
    size_t words;
    /* key: name is what was named; add: the whole record but id, hash and time. */
    enum gm_status (*run)(const struct gm_conn *conn, const struct options *o, struct gm_key *key,
                          struct gm_err *err);
};
static const struct verb verbs[] = { { "add", 2, do_add },
                                     { "list", 1, do_list },
                                     { "revoke", 2, do_revoke } };
enum { VERBS = sizeof verbs / sizeof verbs[0] };

static enum gm_status fill(const struct options *o, const char *name, struct gm_key *key,
                           struct gm_err *err)
{
    if (gm_key_check_name(name, err) != GM_OK)
        return err->status;
    memcpy(key->name, name, strlen(name) + 1);
    if (gm_key_set_tenant(key, o->tenant, err) != GM_OK ||
        (o->rate && gm_key_parse_rate(o->rate, &key->rate_per_min, err) != GM_OK) ||
        (o->tokens && gm_key_parse_tokens(o->tokens, &key->tokens_per_day, err) != GM_OK))
        return err->status;
    for (size_t i = 0; i < o->scopes.n; i++) {
        const uint32_t bit = gm_key_scope_of(o->scopes.items[i]);
        if (!bit)
            return gm_fail(err, GM_INVALID, "there is no scope \"%.40s\"; scopes are chat, metrics",
                           o->scopes.items[i]);
        key->scopes |= bit;
    }
    if (!key->scopes)
        key->scopes = GM_KEY_CHAT;
    return GM_OK;
}

static const struct verb *verb_of(const struct gm_args *args, const struct options *o,
                                  struct gm_key *key, struct gm_err *err)
{
    const struct verb *verb = NULL;
    for (int i = 0; i < VERBS && args->n; i++)
        if (strcmp(args->positionals[0], verbs[i].name) == 0)
            verb = &verbs[i];
    if (!verb)
        gm_fail(err, GM_INVALID, "say what to do: add NAME, list, or revoke NAME|ID");
    else if (args->n != verb->words)
        gm_fail(err, GM_INVALID, "gemline key %s takes %s", verb->name,
                verb->words == 1 ? "nothing more" : "the name of one key");
    else if (verb->run != do_add && (o->tenant || o->rate || o->tokens || o->scopes.n))
        gm_fail(err, GM_INVALID, "--tenant, --rate, --tokens and --scope go with gemline key add");
    else if (verb->run == do_add && fill(o, args->positionals[1], key, err) != GM_OK)
        return NULL;
    else if (verb->run == do_revoke && strlen(args->positionals[1]) > GM_KEY_NAME_MAX)
        gm_fail(err, GM_INVALID, "no name and no id is longer than %d", GM_KEY_NAME_MAX);
    else if (verb->run != do_revoke)
        return verb;
    else {
        snprintf(key->name, sizeof key->name, "%s", args->positionals[1]);
        return verb;
    }
    return NULL;
}

int gm_cmd_key(int argc, char **argv)
{
    static struct gm_conn conn;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_key key = { .id = "" };
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    const struct verb *verb = verb_of(&args, &o, &key, &err);
    if (!verb || gm_options_check(&program, &args, &o.up, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (gm_conn_open(&conn, &o.up, false, &err) != GM_OK)
        return gm_cli_fail(&err);
    enum gm_status rc =
        conn.temp
            ? gm_fail(&err, GM_UNAVAILABLE,
                      "keys are not in a temporary pipeline; try again when the other command "
                      "has ended, or keep one with gemline up")
            : verb->run(&conn, &o, &key, &err);
    gm_conn_close(&conn);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
