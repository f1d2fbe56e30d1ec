/* test_curve.c - TCP with CURVE: who is let in, what each may send, and what is said of the others.
 *
 * Owns:      an inbox over TCP and its callers, all in this process; the log they write.
 * Does not:  read books (test_book.c) or start processes (tests/system/test_tcp.py).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "common/net.h"
#include "common/net/zap.h"

enum { PATIENCE_MS = 20000, SILENCE_MS = 400, LOG_BYTES_MAX = 1 << 20, TEXT_MAX = 4096 };

/* The processes of the book. Orchestrator 0 is who is called; the sampler has an inbox too. */
enum { ORCHESTRATOR, OTHER, SAMPLER, SHARD, CLIENT, GATEWAY, MEMBERS };
static const char *const names[MEMBERS] = { "orchestrator-0", "orchestrator-1", "sampler-0",
                                            "shard-1",        "client-0",       "gateway-0" };

static struct gm_book book;
static struct gm_net nets[MEMBERS];
static char endpoints[MEMBERS][GM_ENDPOINT_MAX]; /* "": none */
static int log_fd;

/* ---- the inbox, and callers -------------------------------------------------------------------
 */

static struct gm_bus *inbox;
static struct gm_rpc *inbox_rpc;
static struct gm_msg last; /* the last ring message that was let in; its text copied */
static char last_who[64];
static int ring_messages;

struct caller {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_peer *peer;
    int done;
    struct gm_err err;
};

static enum gm_status run_info(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    Gm__Empty out = GM__EMPTY__INIT;
    (void)self;
    (void)request;
    (void)err;
    return gm_rpc_reply(s, &out.base);
}

/* Stands in for every service's methods: what is refused must be refused before it. */
static const struct gm_method methods[] = {
    { "Orchestrator.Info", &gm__empty__descriptor, run_info },
    { "Shard.Forget", &gm__empty__descriptor, run_info },
    { "Sampler.Close", &gm__empty__descriptor, run_info },
    { "Health.Check", &gm__empty__descriptor, run_info },
    { "Tokenizer.Vocab", &gm__empty__descriptor, run_info },
    { NULL, NULL, NULL },
};

static void inbox_turn(void)
{
    struct gm_msg msg;
    (void)gm_bus_wait(inbox, 2, NULL, 0, NULL);
    while (gm_bus_take(inbox, &msg)) {
        if (!gm_rpc_handle(inbox_rpc, &msg)) {
            ring_messages++;
            (void)snprintf(last_who, sizeof last_who, "%s", msg.who ? msg.who : "nobody");
            last.from_len = msg.from_len;
            memcpy(last.from, msg.from, sizeof last.from);
        }
        gm_msg_free(&msg);
    }
}

static void caller_turn(struct caller *c)
{
    struct gm_msg msg;
    (void)gm_bus_wait(c->bus, 2, NULL, 0, NULL);
    while (gm_bus_take(c->bus, &msg)) {
        (void)gm_rpc_handle(c->rpc, &msg);
        gm_msg_free(&msg);
    }
}

static bool open_inbox(int who)
{
    struct gm_err err = GM_ERR_NONE;
    return gm_bus_open_net(&inbox, names[who], nets[who].bind, &nets[who], &err) == GM_OK &&
           gm_rpc_open(&inbox_rpc, inbox, methods, NULL, &err) == GM_OK;
}

static void close_inbox(void)
{
    gm_rpc_close(&inbox_rpc);
    gm_bus_close(&inbox);
}

static bool open_caller(struct caller *c, int who, int to)
{
    struct gm_err err = GM_ERR_NONE;
    memset(c, 0, sizeof *c);
    return gm_bus_open_net(&c->bus, names[who], NULL, &nets[who], &err) == GM_OK &&
           gm_rpc_open(&c->rpc, c->bus, methods, NULL, &err) == GM_OK &&
           (c->peer = gm_bus_peer(c->bus, endpoints[to], &err)) != NULL;
}

static void close_caller(struct caller *c)
{
    gm_rpc_close(&c->rpc);
    gm_bus_close(&c->bus);
}

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct caller *c = ctx;
    (void)body;
    c->done += done;
    c->err = *err;
}

/* The status of a call; -1: no answer. */
static int call(struct caller *c, const char *method)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    c->done = 0;
    c->err = GM_ERR_NONE;
    if (!gm_rpc_call(c->rpc,
                     &(struct gm_call){ c->peer, method, &empty.base, &gm__empty__descriptor, 0, 0,
                                        on_answer, c },
                     &c->err))
        return -1;
    while (!c->done && gm_now_ms() < until) {
        inbox_turn();
        caller_turn(c);
    }
    return c->done ? (int)c->err.status : -1;
}

/* Posts a ring message and lets both sides work; how many were let in. */
static int post(struct caller *c, Gm__Kind kind, const ProtobufCMessage *body)
{
    const int before = ring_messages;
    CU_ASSERT_EQUAL(gm_bus_post(c->bus, c->peer, kind, body, NULL, 0, NULL), GM_OK);
    CU_ASSERT_EQUAL(call(c, "Health.Check"), GM_OK); /* it came before this answer */
    return ring_messages - before;
}

static int hello(struct caller *c, const char *role, uint32_t index)
{
    Gm__Hello h = GM__HELLO__INIT;
    h.role = (char *)(uintptr_t)role;
    h.index = index;
    return post(c, GM__KIND__HELLO, &h.base);
}

/* The good caller is served: whatever happened before did no harm. */
static bool still_served(void)
{
    struct caller c;
    const bool good = open_caller(&c, CLIENT, ORCHESTRATOR) && call(&c, "Orchestrator.Info") == 0;
    close_caller(&c);
    return good;
}

/* ---- the log ----------------------------------------------------------------------------------
 */

/* Lines that hold the text, and `more` too when it is not NULL. */
static int lines_with(const char *text, const char *more)
{
    static char all[LOG_BYTES_MAX];
    const ssize_t n = pread(log_fd, all, sizeof all - 1, 0);
    int lines = 0;
    all[n > 0 ? n : 0] = '\0';
    for (char *line = all, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        lines += strstr(line, text) && (!more || strstr(line, more));
    }
    return lines;
}

static void fresh_log(void)
{
    CU_ASSERT(ftruncate(log_fd, 0) == 0);
}

/* The thread writes when it likes: waits for the line. */
static bool logged(const char *text, const char *more)
{
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    while (!lines_with(text, more) && gm_now_ms() < until)
        inbox_turn();
    return lines_with(text, more) > 0;
}

/* ---- strangers --------------------------------------------------------------------------------
 */

struct raw {
    void *ctx, *sock;
};

/* A socket with these keys; mine NULL: none, as any client of ZeroMQ. Sends a call of Info. */
static void raw_open(struct raw *r, const uint8_t *server_key, const char *shared,
                     const char *secret)
{
    const int linger = 0;
    uint8_t bytes[256];
    Gm__Envelope env = GM__ENVELOPE__INIT;
    r->ctx = zmq_ctx_new();
    r->sock = zmq_socket(r->ctx, ZMQ_DEALER);
    (void)zmq_setsockopt(r->sock, ZMQ_LINGER, &linger, sizeof linger);
    if (server_key) {
        CU_ASSERT(zmq_setsockopt(r->sock, ZMQ_CURVE_SERVERKEY, server_key, GM_CURVE_BYTES) == 0);
        CU_ASSERT(zmq_setsockopt(r->sock, ZMQ_CURVE_PUBLICKEY, shared, GM_CURVE_TEXT) == 0);
        CU_ASSERT(zmq_setsockopt(r->sock, ZMQ_CURVE_SECRETKEY, secret, GM_CURVE_TEXT) == 0);
    }
    CU_ASSERT(zmq_connect(r->sock, endpoints[ORCHESTRATOR]) == 0);
    env.version = 1;
    env.kind = GM__KIND__CALL;
    env.has_call = 1;
    env.call = 5;
    env.method = (char *)(uintptr_t) "Orchestrator.Info";
    const size_t n = gm__envelope__pack(&env, bytes);
    (void)zmq_send(r->sock, bytes, n, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    (void)zmq_send(r->sock, "", 0, ZMQ_DONTWAIT);
}

/* Whether an answer came; gives the stranger a while. */
static bool raw_heard(struct raw *r, int patience_ms)
{
    const int64_t until = gm_now_ms() + patience_ms;
    uint8_t frame[512];
    int n = -1;
    while (n < 0 && gm_now_ms() < until) {
        inbox_turn();
        n = zmq_recv(r->sock, frame, sizeof frame, ZMQ_DONTWAIT);
    }
    return n >= 0;
}

static void raw_close(struct raw *r)
{
    (void)zmq_close(r->sock);
    (void)zmq_ctx_term(r->ctx);
}

/* ---- tests ------------------------------------------------------------------------------------
 */

static void test_good(void)
{
    struct caller c;
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    for (int who = OTHER; who < MEMBERS; who++) {
        CU_ASSERT_FATAL(open_caller(&c, who, ORCHESTRATOR));
        CU_ASSERT_EQUAL(call(&c, "Health.Check"), GM_OK);
        close_caller(&c);
    }
    CU_ASSERT_FATAL(open_caller(&c, SHARD, ORCHESTRATOR));
    CU_ASSERT_EQUAL(hello(&c, "shard", 1), 1);
    CU_ASSERT_STRING_EQUAL(last_who, "shard-1");
    close_caller(&c);
    CU_ASSERT_EQUAL(lines_with("refused", NULL), 0);
    close_inbox();
}

static void test_unlisted(void)
{
    char shared[GM_CURVE_TEXT + 1], secret[GM_CURVE_TEXT + 1];
    struct raw r;
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    CU_ASSERT_FATAL(zmq_curve_keypair(shared, secret) == 0);
    raw_open(&r, nets[ORCHESTRATOR].shared, shared, secret);
    CU_ASSERT(logged("a key that the address book does not list", shared));
    CU_ASSERT_FALSE(raw_heard(&r, SILENCE_MS));
    CU_ASSERT(lines_with("from=127.0.0.1", shared) > 0);
    CU_ASSERT_EQUAL(lines_with(secret, NULL), 0);
    CU_ASSERT(still_served());
    raw_close(&r);
    close_inbox();
}

static void test_plain(void)
{
    struct raw r;
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    raw_open(&r, NULL, NULL, NULL);
    CU_ASSERT(logged("a plain client", "from="));
    CU_ASSERT_FALSE(raw_heard(&r, SILENCE_MS));
    CU_ASSERT(still_served());
    raw_close(&r);
    close_inbox();
}

/* A listed client that was told the sampler's key for this server: a book that is out of date. */
static void test_other_server(void)
{
    char shared[GM_CURVE_TEXT + 1], secret[GM_CURVE_TEXT + 1];
    struct raw r;
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    gm_curve_text(nets[CLIENT].shared, shared);
    gm_curve_text(nets[CLIENT].secret, secret);
    raw_open(&r, nets[SAMPLER].shared, shared, secret);
    CU_ASSERT(logged("another key of this server", "from="));
    CU_ASSERT_FALSE(raw_heard(&r, SILENCE_MS));
    raw_close(&r);
    raw_open(&r, nets[ORCHESTRATOR].shared, shared, secret); /* the same with the right one */
    CU_ASSERT(raw_heard(&r, PATIENCE_MS));
    raw_close(&r);
    /* A listed public key without its secret half is nobody's. */
    char none[GM_CURVE_TEXT + 1], stolen[GM_CURVE_TEXT + 1];
    CU_ASSERT_FATAL(zmq_curve_keypair(none, stolen) == 0);
    raw_open(&r, nets[ORCHESTRATOR].shared, shared, stolen);
    CU_ASSERT_FALSE(raw_heard(&r, SILENCE_MS));
    raw_close(&r);
    CU_ASSERT(still_served());
    close_inbox();
}

/* Bytes of other protocols, and those who hang up at once. */
static void test_noise(void)
{
    static const char *const bytes[] = { "", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                                         "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                                         "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x03zzzzzzzzzz" };
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        struct sockaddr_in a = { .sin_family = AF_INET };
        a.sin_port = htons((uint16_t)strtol(strrchr(endpoints[ORCHESTRATOR], ':') + 1, NULL, 10));
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        CU_ASSERT_FATAL(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) == 0);
        CU_ASSERT(send(fd, bytes[i], strlen(bytes[i]), MSG_NOSIGNAL) == (ssize_t)strlen(bytes[i]));
        inbox_turn();
        close(fd);
    }
    CU_ASSERT(logged("connection refused", "from="));
    CU_ASSERT(still_served());
    close_inbox();
}

/* What each role may call and send: a refusal is answered or dropped, and logged once. */
static void test_roles(void)
{
    static const struct {
        int who;
        const char *method;
        enum gm_status status;
    } calls[] = {
        { OTHER, "Shard.Forget", GM_OK },
        { OTHER, "Sampler.Close", GM_OK },
        { CLIENT, "Orchestrator.Info", GM_OK },
        { CLIENT, "Tokenizer.Vocab", GM_OK },
        { CLIENT, "Shard.Forget", GM_DENIED },
        { CLIENT, "Sampler.Close", GM_DENIED },
        { GATEWAY, "Orchestrator.Info", GM_OK },
        { GATEWAY, "Shard.Forget", GM_DENIED },
        { SHARD, "Orchestrator.Info", GM_DENIED },
        { SHARD, "Health.Check", GM_OK },
        { SAMPLER, "Shard.Forget", GM_DENIED },
        { CLIENT, "ShardX", GM_DENIED },
        { CLIENT, "Orchestrator.No", GM_UNSUPPORTED },
    };
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        struct caller c;
        CU_ASSERT_FATAL(open_caller(&c, calls[i].who, ORCHESTRATOR));
        CU_ASSERT_EQUAL(call(&c, calls[i].method), (int)calls[i].status);
        if (calls[i].status == GM_DENIED) {
            CU_ASSERT(strstr(c.err.text, names[calls[i].who]) != NULL);
            CU_ASSERT(strstr(c.err.text, calls[i].method) != NULL);
            CU_ASSERT(logged(names[calls[i].who], calls[i].method));
        }
        close_caller(&c);
    }
    CU_ASSERT(still_served());
    close_inbox();
}

static void test_ring(void)
{
    static const struct {
        int who;
        Gm__Kind kind;
        int in; /* let in */
    } rows[] = {
        { SHARD, GM__KIND__HIDDEN_ROWS, 1 },  { SHARD, GM__KIND__CANDIDATES, 1 },
        { SHARD, GM__KIND__CHUNK_DONE, 1 },   { SHARD, GM__KIND__SCORED, 1 },
        { SHARD, GM__KIND__FAULT, 1 },        { SAMPLER, GM__KIND__CHOSEN, 1 },
        { SAMPLER, GM__KIND__MORE, 1 },       { SAMPLER, GM__KIND__EMITTED, 1 },
        { OTHER, GM__KIND__TOKEN_ROWS, 1 },   { SHARD, GM__KIND__CHOSEN, 0 },
        { SHARD, GM__KIND__EMITTED, 0 },      { SAMPLER, GM__KIND__HIDDEN_ROWS, 0 },
        { SAMPLER, GM__KIND__TOKEN_ROWS, 0 }, { CLIENT, GM__KIND__CHOSEN, 0 },
        { CLIENT, GM__KIND__HIDDEN_ROWS, 0 }, { CLIENT, GM__KIND__FAULT, 0 },
        { GATEWAY, GM__KIND__EMITTED, 0 },    { CLIENT, (Gm__Kind)63, 0 },
        { CLIENT, (Gm__Kind)64, 0 },          { SHARD, (Gm__Kind)-1, 0 },
        { CLIENT, (Gm__Kind)(INT32_MAX), 0 },
    };
    const Gm__Empty empty = GM__EMPTY__INIT;
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct caller c;
        CU_ASSERT_FATAL(open_caller(&c, rows[i].who, ORCHESTRATOR));
        CU_ASSERT_EQUAL(post(&c, rows[i].kind, &empty.base), rows[i].in);
        close_caller(&c);
    }
    close_inbox();
}

/* A HELLO as somebody else would make the orchestrator send that one's work elsewhere. */
static void test_hello(void)
{
    struct caller c;
    const Gm__Empty empty = GM__EMPTY__INIT;
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    CU_ASSERT_FATAL(open_caller(&c, SHARD, ORCHESTRATOR));
    CU_ASSERT_EQUAL(hello(&c, "shard", 1), 1);
    CU_ASSERT_EQUAL(hello(&c, "shard", 0), 0);
    CU_ASSERT_EQUAL(hello(&c, "sampler", 1), 0);
    CU_ASSERT_EQUAL(hello(&c, "shard-1", 1), 0);
    CU_ASSERT_EQUAL(hello(&c, "", 1), 0);
    CU_ASSERT_EQUAL(post(&c, GM__KIND__HELLO, &empty.base), 0);
    close_caller(&c);
    CU_ASSERT_FATAL(open_caller(&c, CLIENT, ORCHESTRATOR));
    CU_ASSERT_EQUAL(hello(&c, "client", 0), 0);
    close_caller(&c);
    close_inbox();
}

/* What comes back over a connection is of the role that listens there. */
static void test_backwards(void)
{
    struct caller c;
    struct gm_msg msg;
    CU_ASSERT_FATAL(open_inbox(SAMPLER));
    CU_ASSERT_FATAL(open_caller(&c, OTHER, SAMPLER));
    const Gm__Empty empty = GM__EMPTY__INIT;
    CU_ASSERT_EQUAL(post(&c, GM__KIND__TOKEN_ROWS, &empty.base), 1); /* its address is known */
    static const Gm__Kind kinds[] = { GM__KIND__CALL, GM__KIND__TOKEN_ROWS, GM__KIND__CHOSEN };
    int taken = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        Gm__Envelope env = GM__ENVELOPE__INIT;
        env.kind = kinds[i];
        env.has_call = 1;
        env.call = 1;
        env.method = (char *)(uintptr_t) "Orchestrator.Info";
        CU_ASSERT_EQUAL(gm_bus_answer(inbox, &last, &env, &empty.base, NULL), GM_OK);
    }
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    while (!taken && gm_now_ms() < until) {
        inbox_turn();
        (void)gm_bus_wait(c.bus, 2, NULL, 0, NULL);
        while (gm_bus_take(c.bus, &msg)) {
            CU_ASSERT_EQUAL(msg.env->kind, GM__KIND__CHOSEN); /* the last one, a sampler's own */
            CU_ASSERT_STRING_EQUAL(msg.who, "sampler-0");
            taken++;
            gm_msg_free(&msg);
        }
    }
    CU_ASSERT_EQUAL(taken, 1);
    close_caller(&c);
    close_inbox();
}

/* An endpoint in a message is one of the book, or nobody connects to it. Each connection has a
 * routing id of its own: with one of another's connection its answers could be had. */
static void test_endpoints(void)
{
    static const char *const others[] = { "tcp://127.0.0.1:1", "tcp://example.org:5600",
                                          "ipc:///tmp/gm-nowhere.sock", "inproc://a", "" };
    struct caller c;
    struct gm_err err = GM_ERR_NONE;
    uint8_t id[sizeof last.from];
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    CU_ASSERT_FATAL(open_caller(&c, SHARD, ORCHESTRATOR));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        CU_ASSERT_PTR_NULL(gm_bus_peer(c.bus, others[i], &err));
        CU_ASSERT_EQUAL(err.status, GM_INVALID);
        CU_ASSERT(strstr(err.text, "address book") != NULL);
    }
    CU_ASSERT_PTR_EQUAL(gm_bus_peer(c.bus, endpoints[ORCHESTRATOR], &err), c.peer);
    CU_ASSERT_EQUAL(hello(&c, "shard", 1), 1);
    memcpy(id, last.from, sizeof id);
    CU_ASSERT(last.from_len > 20);
    close_inbox();
    CU_ASSERT_FATAL(open_inbox(SAMPLER));
    CU_ASSERT_PTR_NOT_NULL_FATAL(c.peer = gm_bus_peer(c.bus, endpoints[SAMPLER], &err));
    CU_ASSERT_EQUAL(hello(&c, "shard", 1), 1);
    CU_ASSERT(memcmp(id, last.from, last.from_len) != 0);
    close_caller(&c);
    close_inbox();
}

/* Many strangers cannot fill the disk with lines. */
static void test_log_limit(void)
{
    enum { MANY = 3 * GM_ZAP_LOG_BURST };
    char shared[GM_CURVE_TEXT + 1], secret[GM_CURVE_TEXT + 1];
    CU_ASSERT_FATAL(zmq_curve_keypair(shared, secret) == 0);
    struct raw r[MANY];
    fresh_log();
    CU_ASSERT_FATAL(open_inbox(ORCHESTRATOR));
    for (int i = 0; i < MANY; i++)
        raw_open(&r[i], nets[ORCHESTRATOR].shared, shared, secret);
    CU_ASSERT(logged("does not list", NULL));
    CU_ASSERT(still_served());
    for (int i = 0; i < MANY; i++)
        CU_ASSERT_FALSE(raw_heard(&r[i], 10));
    CU_ASSERT(lines_with("refused", NULL) <= 2 * GM_ZAP_LOG_BURST); /* of two windows at most */
    for (int i = 0; i < MANY; i++)
        raw_close(&r[i]);
    close_inbox();
}

/* ---- the network ------------------------------------------------------------------------------
 */

/* A port that nobody has now, far from those that connections get by themselves. */
static int free_port(int from)
{
    for (int port = from; port < 20000; port++) {
        const struct sockaddr_in a = { .sin_family = AF_INET,
                                       .sin_port = htons((uint16_t)port),
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        const bool free_now = bind(fd, (const struct sockaddr *)&a, sizeof a) == 0;
        close(fd);
        if (free_now)
            return port;
    }
    return 0;
}

static bool make_net(void)
{
    char text[TEXT_MAX] = "", shared[GM_CURVE_TEXT + 1], secret[GM_CURVE_TEXT + 1];
    struct gm_err err = GM_ERR_NONE;
    int port = 12000 + (int)(gm_random_u64() % 7000);
    size_t n = 0;
    for (int i = 0; i < MEMBERS; i++) {
        if (zmq_curve_keypair(shared, secret) != 0 || !(port = free_port(port + 1)))
            return false;
        (void)zmq_z85_decode(nets[i].secret, secret);
        (void)zmq_z85_decode(nets[i].shared, shared);
        if (i < CLIENT)
            (void)snprintf(endpoints[i], sizeof endpoints[i], "tcp://127.0.0.1:%d", port);
        memcpy(nets[i].bind, endpoints[i], sizeof nets[i].bind);
        n += (size_t)snprintf(text + n, sizeof text - n, "%s %s %s\n", names[i],
                              endpoints[i][0] ? endpoints[i] : "-", shared);
    }
    if (gm_book_parse(&book, text, n, &err) != GM_OK)
        return false;
    for (int i = 0; i < MEMBERS; i++) {
        nets[i].book = book;
        nets[i].self = gm_book_key(&book, nets[i].shared);
    }
    return true;
}

int main(void)
{
    char path[] = "/tmp/gmcurveXXXXXX";
    log_fd = mkostemp(path, O_APPEND);
    if (log_fd < 0 || unlink(path) != 0 || !make_net() || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    gm_log_open("test_curve", log_fd);
    CU_pSuite suite = CU_add_suite("net: CURVE over TCP", NULL, NULL);
    if (!suite || !CU_add_test(suite, "keys of the book", test_good) ||
        !CU_add_test(suite, "a key that is not listed", test_unlisted) ||
        !CU_add_test(suite, "a plain client", test_plain) ||
        !CU_add_test(suite, "another server's key", test_other_server) ||
        !CU_add_test(suite, "noise", test_noise) ||
        !CU_add_test(suite, "calls of each role", test_roles) ||
        !CU_add_test(suite, "ring messages of each role", test_ring) ||
        !CU_add_test(suite, "HELLO as another", test_hello) ||
        !CU_add_test(suite, "messages backwards", test_backwards) ||
        !CU_add_test(suite, "endpoints", test_endpoints) ||
        !CU_add_test(suite, "lines of the log", test_log_limit))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    gm_book_close(&book);
    return failures > 0;
}
