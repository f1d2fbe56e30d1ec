/* curve_ends.c - an inbox over TCP and its callers: see curve_ends.h.
 *
 * Owns:      what each of them runs.
 * Does not:  decide whether a test has passed.
 */
#include "tests/unit/curve_ends.h"

#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

enum { LOG_BYTES_MAX = 1 << 20, TEXT_MAX = 4096 };

const char *const names[MEMBERS] = { "orchestrator-0", "orchestrator-1", "sampler-0",
                                     "shard-1",        "client-0",       "gateway-0" };
struct gm_net nets[MEMBERS];
char endpoints[MEMBERS][GM_ENDPOINT_MAX];
static struct gm_book book;
static int log_fd;

/* ---- the inbox, and callers -------------------------------------------------------------------
 */

struct gm_bus *inbox;
static struct gm_rpc *inbox_rpc;
struct gm_msg last;
char last_who[64];
static int ring_messages;

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

void inbox_turn(void)
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

bool open_inbox(int who)
{
    struct gm_err err = GM_ERR_NONE;
    return gm_bus_open_net(&inbox, names[who], nets[who].bind, &nets[who], &err) == GM_OK &&
           gm_rpc_open(&inbox_rpc, inbox, methods, NULL, &err) == GM_OK;
}

void close_inbox(void)
{
    gm_rpc_close(&inbox_rpc);
    gm_bus_close(&inbox);
}

bool open_caller(struct caller *c, int who, int to)
{
    struct gm_err err = GM_ERR_NONE;
    memset(c, 0, sizeof *c);
    return gm_bus_open_net(&c->bus, names[who], NULL, &nets[who], &err) == GM_OK &&
           gm_rpc_open(&c->rpc, c->bus, methods, NULL, &err) == GM_OK &&
           (c->peer = gm_bus_peer(c->bus, endpoints[to], &err)) != NULL;
}

void close_caller(struct caller *c)
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
int call(struct caller *c, const char *method)
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
int post(struct caller *c, Gm__Kind kind, const ProtobufCMessage *body)
{
    const int before = ring_messages;
    CU_ASSERT_EQUAL(gm_bus_post(c->bus, c->peer, kind, body, NULL, 0, NULL), GM_OK);
    CU_ASSERT_EQUAL(call(c, "Health.Check"), GM_OK); /* it came before this answer */
    return ring_messages - before;
}

int hello(struct caller *c, const char *role, uint32_t index)
{
    Gm__Hello h = GM__HELLO__INIT;
    h.role = (char *)(uintptr_t)role;
    h.index = index;
    return post(c, GM__KIND__HELLO, &h.base);
}

/* The good caller is served: whatever happened before did no harm. */
bool still_served(void)
{
    struct caller c;
    const bool good = open_caller(&c, CLIENT, ORCHESTRATOR) && call(&c, "Orchestrator.Info") == 0;
    close_caller(&c);
    return good;
}

/* ---- the log ----------------------------------------------------------------------------------
 */

/* Lines that hold the text, and `more` too when it is not NULL. */
int lines_with(const char *text, const char *more)
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

void fresh_log(void)
{
    CU_ASSERT(ftruncate(log_fd, 0) == 0);
}

/* The thread writes when it likes: waits for the line. */
bool logged(const char *text, const char *more)
{
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    while (!lines_with(text, more) && gm_now_ms() < until)
        inbox_turn();
    return lines_with(text, more) > 0;
}

/* ---- strangers --------------------------------------------------------------------------------
 */

/* A socket with these keys; mine NULL: none, as any client of ZeroMQ. Sends a call of Info. */
void raw_open(struct raw *r, const uint8_t *server_key, const char *shared, const char *secret)
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
bool raw_heard(struct raw *r, int patience_ms)
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

void raw_close(struct raw *r)
{
    (void)zmq_close(r->sock);
    (void)zmq_ctx_term(r->ctx);
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

bool curve_start(void)
{
    char path[] = "/tmp/gmcurveXXXXXX";
    log_fd = mkostemp(path, O_APPEND);
    if (log_fd < 0 || unlink(path) != 0 || !make_net())
        return false;
    gm_log_open("test_curve", log_fd);
    return true;
}

void curve_stop(void)
{
    gm_book_close(&book);
    close(log_fd);
}
