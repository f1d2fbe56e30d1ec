/* orch_ring.c - a ring that computes nothing, for tests of the orchestrator: see orch_ring.h.
 *
 * Owns:      three services' sockets, the tickets they know, Redis's and the orchestrator's
 * process. Does not:  check anything.
 */
#include "tests/unit/orch_ring.h"

#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "orchestrator/orch.h"

enum { TICKETS = 2 * GM_TURNS_MAX, HELLO_EACH_MS = 100, BURST = 16 };

struct ring_trace ring_trace;
struct ring ring;
struct gm_bus *bus;
struct gm_rpc *rpc;
char orch_endpoint[GM_ENDPOINT_MAX];

static char dir[64], sock[96];
static pid_t redis, orch;

static struct part {
    const char *role;
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_peer *home;
} parts[3];

static struct ticket {
    uint64_t id; /* 0: free */
    uint32_t prompt, n, max;
    uint32_t credit; /* it may emit so many more */
    bool runs;
} tickets[TICKETS];

static int64_t hello_ms;

int32_t orch_token(uint32_t pos)
{
    return 10 + (int32_t)(pos * 7 % 900);
}

/* ---- methods -----------------------------------------------------------------------------------
 */

static struct ticket *ticket_of(uint64_t id)
{
    for (struct ticket *t = tickets; t < tickets + TICKETS; t++)
        if (t->id == id)
            return t;
    return NULL;
}

static void note_trace(char out[GM_TRACE_MAX], const struct gm_stream *s)
{
    (void)snprintf(out, GM_TRACE_MAX, "%s", gm_stream_trace(s));
}

static enum gm_status done(struct gm_stream *s)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    return gm_rpc_reply(s, &empty.base);
}

static enum gm_status run_vocab(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    Gm__VocabReply r = GM__VOCAB_REPLY__INIT;
    int32_t end = 1, close[2] = { 2, 3 };
    (void)self, (void)request, (void)err;
    r.path = (char *)"vocab";
    r.hash = 1;
    r.n_end_ids = 1;
    r.end_ids = &end;
    r.n_close_ids = 2;
    r.close_ids = close;
    return gm_rpc_reply(s, &r.base);
}

static enum gm_status run_encode(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                 struct gm_err *err)
{
    Gm__IdsReply r = GM__IDS_REPLY__INIT;
    int32_t ids[RING_ENCODED];
    (void)self, (void)request, (void)err;
    note_trace(ring_trace.encode, s);
    for (int i = 0; i < RING_ENCODED; i++)
        ids[i] = 20 + i;
    r.n_ids = ring.empty ? 0 : RING_ENCODED;
    r.ids = ids;
    ring.encoded++;
    return gm_rpc_reply(s, &r.base);
}

static enum gm_status run_open(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    const Gm__OpenRequest *in = (const Gm__OpenRequest *)request;
    struct ticket *t = ticket_of(0);
    (void)self;
    note_trace(ring_trace.open, s);
    if (!t)
        return gm_fail(err, GM_EXHAUSTED, "the test's ring is too small");
    *t = (struct ticket){ .id = in->ticket,
                          .prompt = in->prompt_len,
                          .n = (uint32_t)in->n_so_far,
                          .max = (uint32_t)in->sampling->max_tokens,
                          .credit = in->has_credit ? in->credit : GM_STREAM_CREDIT };
    return done(s);
}

static enum gm_status run_credit(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                 struct gm_err *err)
{
    const Gm__CreditRequest *in = (const Gm__CreditRequest *)request;
    struct ticket *t = ticket_of(in->ticket);
    (void)self, (void)err;
    if (t)
        t->credit += in->credit;
    return done(s);
}

static enum gm_status run_close(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                struct gm_err *err)
{
    (void)self, (void)request, (void)err;
    note_trace(ring_trace.close, s);
    return done(s);
}

static enum gm_status run_nothing(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                  struct gm_err *err)
{
    (void)self, (void)request, (void)err;
    return done(s);
}

static enum gm_status run_reserve(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                  struct gm_err *err)
{
    const Gm__ReserveRequest *in = (const Gm__ReserveRequest *)request;
    Gm__ReserveReply r = GM__RESERVE_REPLY__INIT;
    const struct part *p = self;
    note_trace(ring_trace.reserve, s);
    if (ring.full)
        return gm_retry_after(err, 77, gm_fail(err, GM_EXHAUSTED, "no pages are free"));
    ring.reserved++;
    ring.ticket = in->ticket;
    ring.n_prompt = in->n_ids < RING_CONTEXT ? in->n_ids : RING_CONTEXT;
    memcpy(ring.prompt, in->ids, ring.n_prompt * sizeof *ring.prompt);
    r.boot = gm_bus_boot(p->bus);
    return gm_rpc_reply(s, &r.base);
}

static enum gm_status run_release(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                                  struct gm_err *err)
{
    const Gm__ReleaseRequest *in = (const Gm__ReleaseRequest *)request;
    struct ticket *t = ticket_of(in->ticket);
    (void)self, (void)err;
    note_trace(ring_trace.release, s);
    if (t)
        t->id = 0;
    return done(s);
}

static const struct gm_method methods[] = {
    { "Tokenizer.Vocab", &gm__empty__descriptor, run_vocab },
    { "Tokenizer.EncodeTurn", &gm__turn_request__descriptor, run_encode },
    { "Sampler.Open", &gm__open_request__descriptor, run_open },
    { "Sampler.Credit", &gm__credit_request__descriptor, run_credit },
    { "Sampler.Close", &gm__release_request__descriptor, run_close },
    { "Shard.Reserve", &gm__reserve_request__descriptor, run_reserve },
    { "Shard.Release", &gm__release_request__descriptor, run_release },
    { "Shard.Forget", &gm__forget_request__descriptor, run_nothing },
    { NULL, NULL, NULL },
};

/* ---- the loop ----------------------------------------------------------------------------------
 */

static void say_hello(void)
{
    if (gm_now_ms() < hello_ms)
        return;
    hello_ms = gm_now_ms() + HELLO_EACH_MS;
    for (struct part *p = parts; p < parts + 3; p++) {
        Gm__Hello h = GM__HELLO__INIT;
        h.role = (char *)p->role;
        h.boot = gm_bus_boot(p->bus);
        h.numerics = (char *)(uintptr_t)(ring.numerics ? ring.numerics : "none");
        h.has_end = h.has_ready = h.has_vocab = 1;
        h.ready = 1;
        h.end = 1;
        h.vocab = RING_VOCAB;
        gm_bus_post(p->bus, p->home, GM__KIND__HELLO, &h.base, NULL, 0, NULL);
    }
}

/* Up to BURST more tokens of an answer. */
static void emit(struct ticket *t)
{
    Gm__Token tokens[BURST], *rows[BURST];
    Gm__Emitted e = GM__EMITTED__INIT;
    const uint32_t most = ring.hold && ring.hold < t->max ? ring.hold : t->max;
    while (t->n < most && t->credit > 0 && e.n_tokens < BURST) {
        t->credit--;
        Gm__Token *token = &tokens[e.n_tokens];
        gm__token__init(token);
        token->pos = t->prompt + t->n++;
        token->id = orch_token(token->pos);
        rows[e.n_tokens++] = token;
    }
    e.ticket = t->id;
    e.tokens = rows;
    if (t->n == t->max)
        e.finish = (char *)"length";
    ring.emitted += (int)e.n_tokens;
    if (e.n_tokens > 0)
        gm_bus_post(parts[1].bus, parts[1].home, GM__KIND__EMITTED, &e.base, NULL, 0, NULL);
}

static void take_rows(const struct gm_msg *msg)
{
    struct gm_err err = GM_ERR_NONE;
    Gm__TokenRows *rows = gm_msg_unpack(msg, &gm__token_rows__descriptor, &err);
    struct ticket *t = rows ? ticket_of(rows->span->ticket) : NULL;
    if (t)
        t->runs = true;
    if (rows)
        gm__token_rows__free_unpacked(rows, NULL);
}

static void take(struct gm_bus *from, struct gm_rpc *calls)
{
    struct gm_msg msg;
    gm_rpc_tick(calls);
    gm_bus_wait(from, 0, NULL, 0, NULL);
    while (gm_bus_take(from, &msg)) {
        if (!gm_rpc_handle(calls, &msg) && msg.env->kind == GM__KIND__TOKEN_ROWS)
            take_rows(&msg);
        gm_msg_free(&msg);
    }
}

void orch_turn(int wait_ms)
{
    say_hello();
    for (struct part *p = parts; p < parts + 3; p++)
        take(p->bus, p->rpc);
    for (struct ticket *t = tickets; t < tickets + TICKETS; t++)
        if (t->id && t->runs)
            emit(t);
    take(bus, rpc);
    if (wait_ms > 0)
        gm_sleep_ms(wait_ms);
}

void orch_post(Gm__Kind kind, const ProtobufCMessage *body)
{
    (void)gm_bus_post(parts[1].bus, parts[1].home, kind, body, NULL, 0, NULL);
}

/* ---- processes ---------------------------------------------------------------------------------
 */

static bool redis_start(void)
{
    redis = fork();
    if (redis == 0) {
        const int null = open("/dev/null", O_RDWR);
        if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
            _exit(126);
        (void)execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", sock, "--dir",
                     dir, "--save", "", "--daemonize", "no", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; redis > 0 && i < RING_PATIENCE_MS / 10 && access(sock, F_OK) != 0; i++)
        gm_sleep_ms(10);
    return redis > 0 && access(sock, F_OK) == 0;
}

static bool part_open(struct part *p, const char *role)
{
    struct gm_err err = GM_ERR_NONE;
    char endpoint[GM_ENDPOINT_MAX];
    p->role = role;
    return gm_endpoint(endpoint, dir, role, 0, &err) == GM_OK &&
           gm_bus_open(&p->bus, role, endpoint, &err) == GM_OK &&
           gm_rpc_open(&p->rpc, p->bus, methods, p, &err) == GM_OK &&
           (p->home = gm_bus_peer(p->bus, orch_endpoint, &err)) != NULL;
}

bool orch_start(void)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    static const char *const roles[3] = { "tokenizer", "sampler", "shard" };
    struct gm_err err = GM_ERR_NONE;
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/gmorchXXXXXX", tmp && strlen(tmp) < 30 ? tmp : "/tmp");
    gm_log_open("test_orch", 2);
    if (!mkdtemp(dir))
        return false;
    (void)snprintf(sock, sizeof sock, "%s/redis.sock", dir);
    if (!redis_start() || gm_endpoint(orch_endpoint, dir, "orchestrator", 0, &err) != GM_OK ||
        gm_bus_open(&bus, "tester", NULL, &err) != GM_OK ||
        gm_rpc_open(&rpc, bus, none, NULL, &err) != GM_OK)
        return false;
    for (int i = 0; i < 3; i++)
        if (!part_open(&parts[i], roles[i]))
            return false;
    return true;
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void end_process(pid_t *pid, int how)
{
    int status;
    if (*pid <= 0)
        return;
    (void)kill(*pid, how);
    (void)waitpid(*pid, &status, 0);
    *pid = 0;
}

int orch_stop(void)
{
    orch_down();
    for (int i = 0; i < 3; i++) {
        gm_rpc_close(&parts[i].rpc);
        gm_bus_close(&parts[i].bus);
    }
    gm_rpc_close(&rpc);
    gm_bus_close(&bus);
    end_process(&redis, SIGKILL);
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
}

static void on_info(void *ctx, bool last, const ProtobufCMessage *body, const struct gm_err *err)
{
    int *ready = ctx;
    (void)last, (void)err;
    *ready = body && ((const Gm__InfoReply *)body)->ready ? 1 : -1;
}

bool orch_up(void)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    struct gm_err err = GM_ERR_NONE;
    struct gm_peer *peer = gm_bus_peer(bus, orch_endpoint, &err);
    int ready = -1;
    orch = fork();
    if (orch == 0) {
        const struct gm_orch_options opt = { .run_dir = dir,
                                             .redis = sock,
                                             .model = "fake",
                                             .shards = 1,
                                             .context = RING_CONTEXT,
                                             .session_ttl_ms = 3600000 };
        _exit(gm_orch_serve(&opt, &err) != GM_OK);
    }
    for (const int64_t end = gm_now_ms() + RING_PATIENCE_MS; gm_now_ms() < end; orch_turn(1)) {
        if (ready == 1)
            return true;
        if (ready < 0) {
            ready = 0;
            gm_rpc_call(rpc,
                        &(struct gm_call){ peer, "Orchestrator.Info", &empty.base,
                                           &gm__info_reply__descriptor, 500, 0, on_info, &ready },
                        &err);
        }
    }
    return false;
}

void orch_down(void)
{
    end_process(&orch, SIGTERM);
}

void orch_signal(int how)
{
    if (how == SIGKILL)
        end_process(&orch, how);
    else
        (void)kill(orch, how);
}
