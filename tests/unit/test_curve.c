// uses: tests/unit/curve_ends.c
/* test_curve.c - TCP with CURVE: who is let in, what each may send, and what is said of the others.
 *
 * Owns:      the checks of bus.h over TCP, roles.h and zap.h.
 * Does not:  read books (test_book.c) or start processes (tests/system/test_tcp.py).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/unit/curve_ends.h"

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
    struct raw plain; /* many of one kind hide no other */
    raw_open(&plain, NULL, NULL, NULL);
    CU_ASSERT(logged("a plain client", NULL));
    raw_close(&plain);
    for (int i = 0; i < MANY; i++)
        raw_close(&r[i]);
    close_inbox();
}

int main(void)
{
    if (!curve_start() || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
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
    curve_stop();
    return failures > 0;
}
