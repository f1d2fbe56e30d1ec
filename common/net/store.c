/* store.c - Redis, asynchronously: see store.h.
 *
 * Owns:      the connection (hiredis's async context driven by our poll), the queue of kept writes.
 * Does not:  know keys or records.
 */
#include "common/net/store.h"

#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/sys.h"

enum { AWAY_RETRY_MS = 1000, RECONNECT_MS = 100 };

/* One command on its way. Kept ones (writes) stay in the list until Redis has acknowledged them. */
struct op {
    struct gm_store *store;
    struct op *prev, *next; /* all ops in flight or waiting, oldest first */
    gm_store_reply *fn;
    void *ctx;
    bool keep, sent;
    uint64_t id;         /* never used twice: a late answer must not meet another op */
    int64_t deadline_ms; /* asks only */
    int argc;
    size_t bytes;
    char **argv; /* kept writes: owned copies */
    size_t *lens;
};

struct gm_store {
    char path[108];
    redisAsyncContext *ac; /* NULL: not connected and not trying */
    bool up;
    bool doubt;    /* it did not answer or was not ready: a PING must succeed before it is up */
    uint64_t life; /* counts connections: answers of an older one are ignored */
    bool want_read, want_write;
    int64_t retry_ms;
    int64_t asked_ms; /* since when an answer is due; 0: none is */
    uint64_t next_id;
    struct op *first, *last;
    size_t n_kept, kept_bytes;
    bool closing;
};

/* ---- the list of ops
 * ------------------------------------------------------------------------------ */

static void op_link(struct op *op)
{
    struct gm_store *s = op->store;
    op->id = ++s->next_id;
    op->prev = s->last;
    if (s->last)
        s->last->next = op;
    else
        s->first = op;
    s->last = op;
    s->n_kept += op->keep;
    s->kept_bytes += op->keep ? op->bytes : 0;
}

static void op_free(struct op *op)
{
    struct gm_store *s = op->store;
    if (op->prev)
        op->prev->next = op->next;
    else
        s->first = op->next;
    if (op->next)
        op->next->prev = op->prev;
    else
        s->last = op->prev;
    s->n_kept -= op->keep;
    s->kept_bytes -= op->keep ? op->bytes : 0;
    for (int i = 0; op->argv && i < op->argc; i++)
        free(op->argv[i]);
    free(op->argv);
    free(op->lens);
    free(op);
}

static void op_end(struct op *op, const redisReply *reply, enum gm_status status, const char *text)
{
    struct gm_err err = GM_ERR_NONE;
    gm_store_reply *fn = op->fn;
    void *ctx = op->ctx;
    if (status != GM_OK) {
        gm_fail(&err, status, "%s", text);
        err.retry_ms = AWAY_RETRY_MS;
    }
    op_free(op);
    if (fn)
        fn(ctx, reply, &err);
}

/* ---- hiredis's side
 * -------------------------------------------------------------------------------- */

static void add_read(void *p)
{
    ((struct gm_store *)p)->want_read = true;
}
static void del_read(void *p)
{
    ((struct gm_store *)p)->want_read = false;
}
static void add_write(void *p)
{
    ((struct gm_store *)p)->want_write = true;
}
static void del_write(void *p)
{
    ((struct gm_store *)p)->want_write = false;
}
static void cleanup(void *p)
{
    struct gm_store *s = p;
    s->want_read = s->want_write = false;
}

/* Asks of a lost connection fail; kept writes wait for the next one. */
static void connection_lost(struct gm_store *s)
{
    struct op *op = s->first;
    s->ac = NULL;
    s->up = false;
    s->asked_ms = 0;
    s->retry_ms = gm_now_ms() + RECONNECT_MS;
    while (op) {
        struct op *next = op->next;
        if (op->keep)
            op->sent = false;
        else
            op_end(op, NULL, GM_UNAVAILABLE, "Redis is away; try again in a moment");
        op = next;
    }
}

static void on_connect(const redisAsyncContext *ac, int status)
{
    struct gm_store *s = ac->data;
    if (status != REDIS_OK)
        connection_lost(s); /* hiredis frees the context itself */
}

static void on_disconnect(const redisAsyncContext *ac, int status)
{
    struct gm_store *s = ac->data;
    (void)status;
    if (!s->closing && s->ac == ac)
        connection_lost(s);
}

/* Leaves a connection that cannot be relied on; the next one has to answer a PING first. */
static void drop(struct gm_store *s)
{
    redisAsyncContext *ac = s->ac;
    if (!ac)
        return;
    s->life++;
    s->doubt = true;
    connection_lost(s);
    redisAsyncFree(ac);
}

struct sent {
    struct gm_store *store;
    uint64_t id;
    uint64_t life;
};

/* Answers come in the order of the list, so it is nearly always the first. NULL: it has ended. */
static struct op *op_find(const struct gm_store *s, uint64_t id)
{
    for (struct op *o = s->first; o && o->id <= id; o = o->next)
        if (o->id == id)
            return o;
    return NULL;
}

/* Errors that pass, or that whoever runs Redis has to mend: it did not run the command and will run
 * it later. */
static bool passes(const char *text)
{
    static const char *const codes[] = {
        "LOADING ",    "BUSY ",        "MISCONF ",    "OOM ",           "READONLY ",
        "MASTERDOWN ", "CLUSTERDOWN ", "NOREPLICAS ", "NOAUTH ",        "NOPERM ",
        "WRONGPASS ",  "TRYAGAIN ",    "UNBLOCKED ",  "ERR max number",
    };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (strncmp(text, codes[i], strlen(codes[i])) == 0)
            return true;
    return false;
}

/* A write that was refused for now. Those sent behind it must not overtake it: all are sent again,
 * in order, after a while. */
static void wait_and_repeat(struct gm_store *s, const char *text)
{
    gm_log(GM_LOG_WARN, "Redis takes no writes now (%.200s): %zu wait", text, s->n_kept);
    drop(s);
    s->retry_ms = gm_now_ms() + AWAY_RETRY_MS;
}

static void op_unready(struct op *op, const char *text)
{
    char why[GM_ERR_TEXT_MAX];
    snprintf(why, sizeof why, "Redis is not ready (%.*s); try again in a moment",
             (int)strcspn(text, " "), text);
    op_end(op, NULL, GM_UNAVAILABLE, why);
}

/* What Redis' refusal is to whoever asked. */
static void op_refused(struct op *op, const char *text)
{
    static const char lost[] = "the lease is lost";
    char why[GM_ERR_TEXT_MAX];
    enum gm_status status = GM_PRECONDITION;
    gm_log(GM_LOG_ERROR, "Redis refused a command: %.300s", text);
    if (strncmp(text, lost, sizeof lost - 1) == 0) {
        status = GM_ABORTED;
        snprintf(why, sizeof why, "another turn has taken over this session; try again");
    } else if (strstr(text, "WRONGTYPE")) {
        status = GM_DATA_LOSS;
        snprintf(why, sizeof why,
                 "Redis holds a value of another kind under a key that this needs; remove what is "
                 "damaged, or give the pipeline a Redis of its own");
    } else {
        snprintf(why, sizeof why, "Redis refused a command (%.200s); see its configuration", text);
    }
    op_end(op, NULL, status, why);
}

static void on_reply(redisAsyncContext *ac, void *r, void *ctx)
{
    struct sent *sent = ctx;
    struct gm_store *s = sent->store;
    const redisReply *reply = r;
    const bool current = sent->life == s->life && !s->closing;
    struct op *op = current ? op_find(s, sent->id) : NULL;
    (void)ac;
    free(sent);
    if (!reply || !current)
        return; /* the connection is going: connection_lost settles it */
    s->asked_ms = gm_now_ms();
    if (!op || !op->sent)
        return; /* it ran out of time before */
    if (reply->type != REDIS_REPLY_ERROR) {
        op_end(op, reply, GM_OK, "");
    } else if (passes(reply->str)) {
        if (op->keep)
            wait_and_repeat(s, reply->str);
        else
            op_unready(op, reply->str);
    } else {
        op_refused(op, reply->str);
    }
}

static void op_send(struct op *op, const char **argv, const size_t *lens)
{
    struct gm_store *s = op->store;
    struct sent *sent = malloc(sizeof *sent);
    if (!sent)
        return;
    *sent = (struct sent){ s, op->id, s->life };
    if (redisAsyncCommandArgv(s->ac, on_reply, sent, op->argc, argv, lens) != REDIS_OK) {
        free(sent);
        return;
    }
    op->sent = true;
    if (!s->asked_ms)
        s->asked_ms = gm_now_ms();
}

/* Stops at the first that cannot be sent, so that no later one overtakes it. */
static void send_waiting(struct gm_store *s)
{
    for (struct op *op = s->first; op && s->up; op = op->next) {
        if (!op->sent && op->keep)
            op_send(op, (const char **)op->argv, op->lens);
        if (!op->sent)
            return;
    }
}

static void ask(struct gm_store *s, gm_store_reply *fn, void *ctx, int argc, const char **argv,
                const size_t *lens)
{
    struct op *op = calloc(1, sizeof *op);
    struct gm_err err = GM_ERR_NONE;
    if (!op) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a command");
        if (fn)
            fn(ctx, NULL, &err);
        return;
    }
    *op = (struct op){ .store = s,
                       .fn = fn,
                       .ctx = ctx,
                       .argc = argc,
                       .deadline_ms = gm_now_ms() + GM_STORE_TIMEOUT_MS };
    op_link(op);
    op_send(op, argv, lens);
    if (!op->sent)
        op_end(op, NULL, GM_UNAVAILABLE, "Redis takes no command now");
}

static void on_probe(void *ctx, const redisReply *reply, const struct gm_err *err)
{
    struct gm_store *s = ctx;
    (void)err;
    if (!reply) {
        drop(s); /* nothing to do when the connection is gone already */
        return;
    }
    s->doubt = false;
    s->up = true;
    gm_log(GM_LOG_INFO, "Redis answers again; %zu writes wait", s->n_kept);
    send_waiting(s);
}

static void connect_now(struct gm_store *s)
{
    redisAsyncContext *ac = redisAsyncConnectUnix(s->path);
    if (!ac || ac->err) {
        if (ac)
            redisAsyncFree(ac);
        s->retry_ms = gm_now_ms() + RECONNECT_MS;
        return;
    }
    s->ac = ac;
    s->life++;
    ac->data = s;
    ac->ev.data = s;
    ac->ev.addRead = add_read;
    ac->ev.delRead = del_read;
    ac->ev.addWrite = add_write;
    ac->ev.delWrite = del_write;
    ac->ev.cleanup = cleanup;
    redisAsyncSetConnectCallback(ac, on_connect);
    redisAsyncSetDisconnectCallback(ac, on_disconnect);
    s->want_write = true;
    s->up = !s->doubt;
    if (s->doubt)
        ask(s, on_probe, s, 1, (const char *[]){ "PING" }, NULL);
    send_waiting(s);
}

/* ---- the interface
 * ---------------------------------------------------------------------------------- */

enum gm_status gm_store_open(struct gm_store **out, const char *unix_path, struct gm_err *err)
{
    struct gm_store *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the store");
    if (strlen(unix_path) >= sizeof s->path) {
        free(s);
        return gm_fail(err, GM_INVALID, "the socket path %s is too long", unix_path);
    }
    memcpy(s->path, unix_path, strlen(unix_path) + 1);
    connect_now(s);
    *out = s;
    return GM_OK;
}

void gm_store_close(struct gm_store **store)
{
    struct gm_store *s = *store;
    if (!s)
        return;
    s->closing = true;
    if (s->ac)
        redisAsyncFree(s->ac);
    while (s->first)
        op_free(s->first);
    free(s);
    *store = NULL;
}

bool gm_store_up(const struct gm_store *store)
{
    return store->up;
}

size_t gm_store_pending(const struct gm_store *store)
{
    return store->n_kept;
}

void gm_store_ask(struct gm_store *s, gm_store_reply *fn, void *ctx, int argc, const char **argv,
                  const size_t *lens)
{
    struct gm_err err = GM_ERR_NONE;
    if (s->up) {
        ask(s, fn, ctx, argc, argv, lens);
        return;
    }
    gm_fail(&err, GM_UNAVAILABLE, "Redis is away; try again in a moment");
    err.retry_ms = AWAY_RETRY_MS;
    if (fn)
        fn(ctx, NULL, &err);
}

static bool op_copy(struct op *op, const char **argv, const size_t *lens)
{
    op->argv = calloc((size_t)op->argc, sizeof *op->argv);
    op->lens = calloc((size_t)op->argc, sizeof *op->lens);
    for (int i = 0; op->argv && op->lens && i < op->argc; i++) {
        op->lens[i] = lens ? lens[i] : strlen(argv[i]);
        op->argv[i] = malloc(op->lens[i] + 1);
        if (!op->argv[i])
            return false;
        memcpy(op->argv[i], argv[i], op->lens[i]);
        op->bytes += op->lens[i] + 64;
    }
    return op->argv && op->lens;
}

enum gm_status gm_store_write(struct gm_store *s, gm_store_reply *fn, void *ctx, int argc,
                              const char **argv, const size_t *lens, struct gm_err *err)
{
    struct op *op = calloc(1, sizeof *op);
    if (!op)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a write");
    *op = (struct op){ .store = s, .fn = fn, .ctx = ctx, .argc = argc };
    const bool copied = op_copy(op, argv, lens);
    const bool full = s->kept_bytes + op->bytes > GM_STORE_QUEUE_BYTES_MAX;
    op->keep = true;
    op_link(op);
    if (!copied || full) {
        op_free(op);
        return gm_fail(err, GM_EXHAUSTED, "too many writes wait for Redis (limit %d MiB)",
                       GM_STORE_QUEUE_BYTES_MAX >> 20);
    }
    if (s->up && (!op->prev || op->prev->sent))
        op_send(op, (const char **)op->argv, op->lens);
    return GM_OK;
}

int gm_store_fd(struct gm_store *s, struct pollfd *fd)
{
    if (!s->ac)
        return 0;
    fd->fd = s->ac->c.fd;
    fd->events = (short)((s->want_read ? POLLIN : 0) | (s->want_write ? POLLOUT : 0));
    fd->revents = 0;
    return 1;
}

void gm_store_on_fd(struct gm_store *s, const struct pollfd *fd)
{
    if (s->ac && (fd->revents & (POLLIN | POLLERR | POLLHUP)))
        redisAsyncHandleRead(s->ac);
    if (s->ac && (fd->revents & POLLOUT))
        redisAsyncHandleWrite(s->ac);
}

static bool waits_for_answer(const struct gm_store *s)
{
    for (const struct op *op = s->first; op; op = op->next)
        if (op->sent)
            return true;
    return false;
}

/* Redis answers, but too slowly for these. (fn may only add to the end of the list.) */
static void end_late_asks(struct gm_store *s, int64_t now)
{
    for (struct op *op = s->first, *next; op; op = next) {
        next = op->next;
        if (!op->keep && now >= op->deadline_ms)
            op_end(op, NULL, GM_UNAVAILABLE, "Redis is too slow; try again in a moment");
    }
}

int gm_store_tick(struct gm_store *s)
{
    const int64_t now = gm_now_ms();
    if (!s->ac && now >= s->retry_ms)
        connect_now(s);
    if (!waits_for_answer(s))
        s->asked_ms = 0;
    if (s->ac && s->asked_ms && now - s->asked_ms >= GM_STORE_TIMEOUT_MS) {
        gm_log(GM_LOG_WARN, "Redis has not answered for %d ms: taken for away",
               GM_STORE_TIMEOUT_MS);
        drop(s);
    }
    end_late_asks(s, now);
    if (s->up)
        send_waiting(s);
    return !s->up || s->first ? RECONNECT_MS : -1;
}
