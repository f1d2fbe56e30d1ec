// uses: tests/unit/net_ends.c
/* test_net.c - calls, streams, queues and restarts, two ends over real sockets.
 *
 * Owns:      the checks of bus.h and rpc.h with peers that mean well; a server that it kills.
 * Does not:  send bad frames (test_net_hostile.c), or test Redis (test_store.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/net_ends.h"

/* ---- calls ----------------------------------------------------------------------------------- */

static void test_unary(void)
{
    struct got g;
    CU_ASSERT_FATAL(ends_open(true));
    CU_ASSERT(echo_works("hello"));
    CU_ASSERT(echo_works(""));
    CU_ASSERT(call_empty("Test.Fail", 1000, 0, &g) != 0);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_EXHAUSTED);
    CU_ASSERT_STRING_EQUAL(g.err.text, "needs 9, has 4");
    CU_ASSERT_EQUAL(g.err.retry_ms, 123);
    CU_ASSERT(call_empty("Test.None", 1000, 0, &g) != 0);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_UNSUPPORTED);
    CU_ASSERT(strstr(g.err.text, "Test.None") != NULL);
    CU_ASSERT(call_empty("Test.Echo", 1000, 0, &g) != 0); /* the required text is absent */
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_INVALID);
    CU_ASSERT(call_empty("Test.Large", 0, 0, &g) != 0); /* the answer is over the cap */
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_EXHAUSTED);
    CU_ASSERT(echo_works("still here"));
    ends_close();
}

static void test_deadline(void)
{
    struct got g;
    CU_ASSERT_FATAL(ends_open(true));
    int64_t start = gm_now_ms();
    CU_ASSERT(call_empty("Test.Park", 100, 0, &g) != 0);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_DEADLINE);
    CU_ASSERT(gm_now_ms() - start >= 95);
    CU_ASSERT_EQUAL(sv.gone, 1);
    CU_ASSERT_PTR_NULL(sv.open);
    /* A server that does not move at all: our own clock ends the call. */
    CU_ASSERT(call_empty("Test.Park", 100, 0, &g) != 0);
    for (start = gm_now_ms(); g.done == 0 && gm_now_ms() - start < PATIENCE_MS;)
        turn_once(bus, rpc, 10);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_DEADLINE);
    CU_ASSERT(gm_now_ms() - start < 2000);
    CU_ASSERT(echo_works("after"));
    ends_close();
}

static void test_stream(void)
{
    struct got g;
    CU_ASSERT_FATAL(ends_open(true));
    uint64_t id = call_empty("Test.Count", 0, 4, &g);
    CU_ASSERT(id != 0);
    pump(100, &g.done);
    CU_ASSERT_EQUAL(g.items, 4);
    CU_ASSERT_EQUAL(g.done, 0);
    CU_ASSERT(sv.open != NULL && gm_stream_credit(sv.open) == 0);
    CU_ASSERT(sv.open != NULL && gm_stream_deadline_us(sv.open) == 0);
    gm_rpc_credit(rpc, id, 3);
    pump(100, &g.done);
    CU_ASSERT_EQUAL(g.items, 7);
    gm_rpc_credit(rpc, id, UINT32_MAX); /* does not wrap */
    gm_rpc_credit(rpc, id, UINT32_MAX);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.items, COUNT_TO);
    CU_ASSERT(g.in_order);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_OK);
    ends_close();
}

static void test_cancel(void)
{
    struct got g;
    uint64_t boot = 0;
    bool lost = true;
    CU_ASSERT_FATAL(ends_open(true));
    uint64_t id = call_empty("Test.Count", 0, 4, &g);
    pump(50, &g.done);
    gm_rpc_ping(rpc, id);
    pump(50, &g.done);
    CU_ASSERT(gm_now_ms() - gm_rpc_last_pong_ms(rpc, id, &boot, &lost) < 1000);
    CU_ASSERT_EQUAL(boot, gm_bus_boot(sv.bus));
    CU_ASSERT_FALSE(lost);
    gm_rpc_cancel(rpc, id);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_CANCELLED);
    pump(PATIENCE_MS, &sv.gone);
    CU_ASSERT_EQUAL(sv.gone, 1);
    pump(50, NULL); /* the server's END finds no call any more */
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.items, 4);
    CU_ASSERT_EQUAL(gm_rpc_last_pong_ms(rpc, id, &boot, &lost), 0);
    CU_ASSERT(lost);
    gm_rpc_cancel(rpc, id); /* unknown ids are ignored */
    gm_rpc_credit(rpc, id, 1);
    CU_ASSERT(echo_works("after"));
    ends_close();
}

/* ---- order, limits, fairness ----------------------------------------------------------------- */

static void test_bus(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_bus *b = NULL;
    char endpoint[GM_ENDPOINT_MAX];
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s", dir);
    for (size_t n = strlen(endpoint); n < strlen("ipc://") + 108; n++) {
        endpoint[n] = n == strlen("ipc://") + strlen(dir) ? '/' : 'a';
        endpoint[n + 1] = '\0';
    }
    CU_ASSERT_EQUAL(gm_bus_open(&b, "x", endpoint, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(b);
    CU_ASSERT(strlen(err.text) > 0);
    CU_ASSERT_NOT_EQUAL(gm_bus_open(&b, "x", "ipc:///nowhere/at/all.sock", &err), GM_OK);
    CU_ASSERT_EQUAL(gm_bus_open(&b, "x", NULL, &err), GM_OK);
    CU_ASSERT_PTR_NULL(gm_bus_peer(b, endpoint, &err));
    CU_ASSERT_PTR_NULL(gm_bus_peer(b, "nonsense", &err));

    /* No listener: messages are queued up to the limit, then refused at once. */
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/absent.sock", dir);
    struct gm_peer *p = gm_bus_peer(b, endpoint, &err);
    CU_ASSERT_FATAL(p != NULL);
    CU_ASSERT_PTR_EQUAL(p, gm_bus_peer(b, endpoint, &err));
    Gm__Empty empty = GM__EMPTY__INIT;
    int n = 0;
    while (n < 4 * GM_QUEUE_MAX &&
           gm_bus_post(b, p, GM__KIND__CHOSEN, &empty.base, NULL, 0, &err) == GM_OK)
        n++;
    CU_ASSERT(n >= GM_QUEUE_MAX / 2 && n <= 2 * GM_QUEUE_MAX);
    CU_ASSERT_EQUAL(err.status, GM_UNAVAILABLE);
    int fds[2];
    CU_ASSERT_EQUAL_FATAL(pipe(fds), 0);
    struct pollfd pfd = { .fd = fds[0], .events = POLLIN };
    int64_t start = gm_now_ms();
    CU_ASSERT_EQUAL(gm_bus_wait(b, 60, &pfd, 1, &err), GM_OK);
    CU_ASSERT(gm_now_ms() - start >= 50 && pfd.revents == 0);
    CU_ASSERT_EQUAL(write(fds[1], "x", 1), 1);
    CU_ASSERT_EQUAL(gm_bus_wait(b, PATIENCE_MS, &pfd, 1, &err), GM_OK);
    CU_ASSERT_EQUAL(pfd.revents, POLLIN);
    (void)close(fds[0]);
    (void)close(fds[1]);
    gm_bus_close(&b);
    gm_bus_close(&b);
}

/* A payload arrives whole and aligned. */
static void test_ring(void)
{
    enum { FLOATS = 10007 };
    static float rows[FLOATS];
    struct gm_err err = GM_ERR_NONE;
    struct gm_msg msg;
    CU_ASSERT_FATAL(ends_open(true));
    for (int i = 0; i < FLOATS; i++)
        rows[i] = (float)i;
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    for (size_t n = 1; n <= FLOATS; n += n < 40 ? 1 : 4983) {
        CU_ASSERT_EQUAL(gm_bus_post(bus, peer, GM__KIND__HIDDEN_ROWS, &chosen.base, rows,
                                    n * sizeof *rows, &err),
                        GM_OK);
        bool got = false;
        for (int k = 0; k < 100 && !got; k++) {
            (void)gm_bus_wait(sv.bus, 50, NULL, 0, &err);
            got = gm_bus_take(sv.bus, &msg);
        }
        CU_ASSERT_FATAL(got);
        CU_ASSERT_FALSE(gm_rpc_handle(sv.rpc, &msg));
        CU_ASSERT_EQUAL(msg.payload_len, n * sizeof *rows);
        CU_ASSERT_EQUAL((uintptr_t)msg.payload % 16, 0);
        CU_ASSERT(memcmp(msg.payload, rows, n * sizeof *rows) == 0);
        gm_msg_free(&msg);
    }
    ends_close();
}

/* One sender's messages keep their order; a full inbox does not keep a peer's answer waiting. */
static void test_fairness(void)
{
    enum { FLOOD = 200 };
    struct gm_err err = GM_ERR_NONE;
    struct gm_msg msg;
    CU_ASSERT_FATAL(ends_open(true));
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    /* The server is also a client of its own inbox: a PONG comes back over that peer while the
     * inbox is full of work. */
    struct gm_peer *self = gm_bus_peer(sv.bus, gm_peer_endpoint(peer), &err);
    CU_ASSERT_FATAL(self != NULL);
    Gm__Envelope ping = GM__ENVELOPE__INIT;
    ping.kind = GM__KIND__PING;
    CU_ASSERT_EQUAL(gm_bus_send(sv.bus, self, &ping, NULL, NULL, 0, &err), GM_OK);
    pump(100, NULL); /* answered: the PONG now waits on the peer's socket, or was taken */
    CU_ASSERT_EQUAL(gm_bus_send(sv.bus, self, &ping, NULL, NULL, 0, &err), GM_OK);
    gm_sleep_ms(50);
    for (uint32_t i = 0; i < FLOOD; i++) {
        chosen.pos = i;
        CU_ASSERT_EQUAL(gm_bus_post(bus, peer, GM__KIND__CHOSEN, &chosen.base, NULL, 0, &err),
                        GM_OK);
    }
    gm_sleep_ms(100);
    int pong_at = -1;
    uint32_t next = 0;
    for (int i = 0; i < FLOOD + 2; i++) {
        (void)gm_bus_wait(sv.bus, 0, NULL, 0, &err); /* as a service's loop does between bursts */
        if (!gm_bus_take(sv.bus, &msg)) {
            (void)gm_bus_wait(sv.bus, 10, NULL, 0, &err);
            continue;
        }
        if (msg.env->kind == GM__KIND__PING) {
            (void)gm_rpc_handle(sv.rpc, &msg);
            gm_sleep_ms(50);
        } else if (msg.env->kind == GM__KIND__PONG) {
            pong_at = i;
        } else {
            Gm__Chosen *c = gm_msg_unpack(&msg, &gm__chosen__descriptor, &err);
            CU_ASSERT_FATAL(c != NULL);
            CU_ASSERT_EQUAL(c->pos, next); /* one sender's messages keep their order */
            next++;
            gm__chosen__free_unpacked(c, NULL);
        }
        gm_msg_free(&msg);
    }
    CU_ASSERT_EQUAL(next, FLOOD);
    CU_ASSERT(pong_at >= 0 && pong_at < 10);
    ends_close();
}

/* ---- a server that dies ---------------------------------------------------------------------- */

#define SERVE "--serve" /* ENDPOINT: what this program is started with as the server */

static int serve(const char *endpoint)
{
    struct server own;
    if (!server_open(&own, endpoint))
        return 2;
    for (;;)
        turn_once(own.bus, own.rpc, 20);
}

/* A process of its own: a child of a process with threads may do no more than exec. */
static pid_t fork_server(const char *endpoint)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    execl("/proc/self/exe", "test_net", SERVE, endpoint, (char *)NULL);
    _exit(127);
}

static void kill_server(pid_t pid)
{
    int status;
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
}

static void test_restart(void)
{
    struct got g, late;
    uint64_t boots[2] = { 0, 0 };
    bool lost = true;
    CU_ASSERT_FATAL(ends_open(false));
    pid_t pid = fork_server(gm_peer_endpoint(peer));
    CU_ASSERT_FATAL(pid > 0);
    CU_ASSERT(echo_works("first"));
    uint64_t id = call_empty("Test.Park", 0, 1, &g);
    gm_rpc_ping(rpc, id);
    for (int i = 0; i < 100 && boots[0] == 0; i++) {
        pump(20, NULL);
        (void)gm_rpc_last_pong_ms(rpc, id, &boots[0], &lost);
    }
    CU_ASSERT(boots[0] != 0 && !lost);
    kill_server(pid);
    pump(50, NULL);
    Gm__EncodeRequest request = GM__ENCODE_REQUEST__INIT; /* asked while nobody listens */
    request.text = (ProtobufCBinaryData){ 4, (uint8_t *)(uintptr_t) "late" };
    CU_ASSERT(call("Test.Echo", &request.base, 0, 0, &late) != 0);
    pid = fork_server(gm_peer_endpoint(peer));
    CU_ASSERT_FATAL(pid > 0);
    pump(PATIENCE_MS, &late.done);
    CU_ASSERT_EQUAL(late.done, 1);
    CU_ASSERT_STRING_EQUAL(late.text, "late");
    gm_rpc_ping(rpc, id);
    for (int i = 0; i < 100 && !lost; i++) {
        pump(20, NULL);
        (void)gm_rpc_last_pong_ms(rpc, id, &boots[1], &lost);
    }
    CU_ASSERT(lost); /* the new process does not know the old one's stream */
    CU_ASSERT(boots[1] != 0 && boots[1] != boots[0]);
    CU_ASSERT_EQUAL(g.done, 0); /* what to do about it is the caller's choice */
    kill_server(pid);
    ends_close();
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], SERVE) == 0)
        return serve(argv[2]);
    if (!ends_start("test_net") || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("net: bus and calls", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "unary calls and their failures", test_unary) ||
        !CU_add_test(suite, "deadlines on both sides", test_deadline) ||
        !CU_add_test(suite, "a stream with credit", test_stream) ||
        !CU_add_test(suite, "cancel and ping", test_cancel) ||
        !CU_add_test(suite, "endpoints, full queues, waiting", test_bus) ||
        !CU_add_test(suite, "ring messages", test_ring) ||
        !CU_add_test(suite, "order and fairness", test_fairness) ||
        !CU_add_test(suite, "a server killed and started again", test_restart))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return ends_stop() != 0 || failures > 0;
}
