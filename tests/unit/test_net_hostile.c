// uses: tests/unit/net_ends.c
/* test_net_hostile.c - bad frames, noise, forged answers: nothing ends or fools a process.
 *
 * Owns:      the checks of bus.h and rpc.h with peers that mean harm.
 * Does not:  test well-formed traffic (test_net.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "tests/unit/net_ends.h"

enum { FUZZ_N = 400 };

/* ---- hostile frames -------------------------------------------------------------------------- */

struct raw {
    void *ctx, *sock;
};

static void raw_open(struct raw *r, const char *id, size_t id_len)
{
    int linger = 0, timeout_ms = PATIENCE_MS;
    r->ctx = zmq_ctx_new();
    r->sock = zmq_socket(r->ctx, ZMQ_DEALER);
    (void)zmq_setsockopt(r->sock, ZMQ_LINGER, &linger, sizeof linger);
    (void)zmq_setsockopt(r->sock, ZMQ_SNDTIMEO, &timeout_ms, sizeof timeout_ms);
    if (id != NULL)
        (void)zmq_setsockopt(r->sock, ZMQ_ROUTING_ID, id, id_len);
    (void)zmq_connect(r->sock, gm_peer_endpoint(peer));
}

static void raw_close(struct raw *r)
{
    (void)zmq_close(r->sock);
    (void)zmq_ctx_term(r->ctx);
}

static size_t raw_envelope(uint8_t out[256], Gm__Kind kind, uint32_t version, const char *method)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.version = version;
    env.kind = kind;
    env.has_call = 1;
    env.call = 77;
    env.method = (char *)(uintptr_t)method;
    return gm__envelope__pack(&env, out);
}

/* Waits for the status of an answer; -1: none came. */
static int raw_status(struct raw *r)
{
    int64_t end = gm_now_ms() + PATIENCE_MS;
    int status = -1;
    while (status < 0 && gm_now_ms() < end) {
        uint8_t frame[512];
        pump(5, NULL);
        int n = zmq_recv(r->sock, frame, sizeof frame, ZMQ_DONTWAIT);
        if (n < 0)
            continue;
        Gm__Envelope *env = gm__envelope__unpack(NULL, (size_t)n, frame);
        status = env != NULL && env->call == 77 && env->has_status ? (int)env->status : -2;
        if (env != NULL)
            gm__envelope__free_unpacked(env, NULL);
        (void)zmq_recv(r->sock, frame, sizeof frame, ZMQ_DONTWAIT);
    }
    return status;
}

static void test_malformed(void)
{
    struct raw r;
    uint8_t env[256];
    CU_ASSERT_FATAL(ends_open(true));
    raw_open(&r, NULL, 0);
    (void)zmq_send(r.sock, "", 0, 0);
    (void)zmq_send(r.sock, "\xff\xff\xff", 3, 0);
    for (int i = 0; i < 9; i++)
        (void)zmq_send(r.sock, "x", 1, i < 8 ? ZMQ_SNDMORE : 0);
    size_t large = 1 << 20;
    uint8_t *zeros = calloc(1, GM_BODY_BYTES_MAX + 1);
    CU_ASSERT_FATAL(zeros != NULL);
    (void)zmq_send(r.sock, zeros, large, ZMQ_SNDMORE); /* an envelope of 1 MiB */
    (void)zmq_send(r.sock, "", 0, 0);
    CU_ASSERT(echo_works("after bad frames"));

    size_t n = raw_envelope(env, GM__KIND__CALL, 9, "Test.Echo");
    (void)zmq_send(r.sock, env, n, ZMQ_SNDMORE);
    (void)zmq_send(r.sock, "", 0, 0);
    CU_ASSERT(raw_status(&r) > 0); /* another version is answered */
    n = raw_envelope(env, GM__KIND__CALL, 1, "Test.Echo");
    (void)zmq_send(r.sock, env, n, ZMQ_SNDMORE);
    (void)zmq_send(r.sock, zeros, GM_BODY_BYTES_MAX + 1, 0);
    CU_ASSERT(raw_status(&r) > 0); /* and so is a large body */
    free(zeros);
    n = raw_envelope(env, GM__KIND__PING, 1, NULL);
    (void)zmq_send(r.sock, env, n, ZMQ_SNDMORE);
    (void)zmq_send(r.sock, "", 0, 0);
    CU_ASSERT_EQUAL(raw_status(&r), GM_NOT_FOUND); /* a ping of an unknown call */
    for (int kind = -3; kind < 40; kind++) {       /* every kind out of place */
        if (kind == GM__KIND__PING)
            continue;
        n = raw_envelope(env, (Gm__Kind)kind, 1, NULL);
        (void)zmq_send(r.sock, env, n, ZMQ_SNDMORE);
        (void)zmq_send(r.sock, "", 0, 0);
    }
    CU_ASSERT(echo_works("after odd kinds"));
    raw_close(&r);

    char id[200];
    memset(id, 'i', sizeof id);
    raw_open(&r, id, sizeof id); /* a routing id longer than ours */
    n = raw_envelope(env, GM__KIND__CALL, 1, "Test.Echo");
    (void)zmq_send(r.sock, env, n, ZMQ_SNDMORE);
    (void)zmq_send(r.sock, "", 0, 0);
    CU_ASSERT(echo_works("after a long id"));
    raw_close(&r);
    ends_close();
}

/* Valid calls with changed bytes, cut and doubled frames. */
static void test_fuzz(void)
{
    struct raw r;
    uint64_t x = 88172645463325252u;
    CU_ASSERT_FATAL(ends_open(true));
    gm_log_set_level(GM_LOG_ERROR);
    raw_open(&r, NULL, 0);
    for (int i = 0; i < FUZZ_N; i++) {
        uint8_t env[256];
        size_t n = raw_envelope(env, (Gm__Kind)(1 + i % 8), 1, i % 2 ? "Test.Echo" : "Test.Count");
        for (int k = 0; k < 1 + i % 4; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            env[x % n] = (uint8_t)(x >> 32);
        }
        int frames = 1 + (int)(x >> 60) % 4;
        for (int f = 0; f < frames; f++)
            (void)zmq_send(r.sock, env, f > 0 ? n / 2 : n, f + 1 < frames ? ZMQ_SNDMORE : 0);
        if (i % 50 == 49) {
            CU_ASSERT(echo_works("after noise"));
        }
    }
    raw_close(&r);
    gm_log_set_level(GM_LOG_INFO);
    ends_close();
}

/* Only whom we asked may answer, and a time that would wrap is no time that is over. */
static void test_forged(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct got g;
    CU_ASSERT_FATAL(ends_open(true));
    memset(&g, 0, sizeof g);
    /* The server calls itself; a stranger answers into its inbox with the call's number. */
    struct gm_peer *self = gm_bus_peer(sv.bus, gm_peer_endpoint(peer), &err);
    CU_ASSERT_FATAL(self != NULL);
    Gm__Empty empty = GM__EMPTY__INIT;
    Gm__Envelope env = GM__ENVELOPE__INIT;
    uint64_t id = gm_rpc_call(sv.rpc,
                              &(struct gm_call){ .to = self,
                                                 .method = "Test.Park",
                                                 .request = &empty.base,
                                                 .reply = &gm__empty__descriptor,
                                                 .answer = on_answer,
                                                 .ctx = &g },
                              &err);
    CU_ASSERT(id != 0);
    pump(50, NULL);
    const Gm__Kind kinds[] = { GM__KIND__REPLY, GM__KIND__ITEM, GM__KIND__END, GM__KIND__PONG };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        env.kind = kinds[i];
        env.has_call = 1;
        env.call = id;
        env.has_status = kinds[i] == GM__KIND__PONG;
        env.status = GM_NOT_FOUND;
        CU_ASSERT_EQUAL(gm_bus_send(bus, peer, &env, NULL, NULL, 0, &err), GM_OK);
    }
    pump(50, &g.done);
    CU_ASSERT_EQUAL(g.done, 0);
    uint64_t boot;
    bool lost = true;
    (void)gm_rpc_last_pong_ms(sv.rpc, id, &boot, &lost);
    CU_ASSERT_FALSE(lost);
    env = (Gm__Envelope)GM__ENVELOPE__INIT;
    env.kind = GM__KIND__CALL;
    env.has_call = 1;
    env.call = 5;
    env.method = (char *)(uintptr_t) "Test.Park";
    env.has_timeout_us = 1;
    env.timeout_us = UINT64_MAX;
    sv.gone = 0;
    CU_ASSERT_EQUAL(gm_bus_send(bus, peer, &env, NULL, NULL, 0, &err), GM_OK);
    pump(50, NULL);
    CU_ASSERT_EQUAL(sv.gone, 0);
    ends_close();
}

/* ---- a server that answers wrongly ----------------------------------------------------------- */

/* Takes one call off the socket and answers it; false: none has come. */
static bool answer_raw(void *router, Gm__Kind kind, uint32_t status, const char *text)
{
    uint8_t id[64], frame[1024];
    const int id_len = zmq_recv(router, id, sizeof id, ZMQ_DONTWAIT);
    const int n = id_len < 0 ? -1 : zmq_recv(router, frame, sizeof frame, ZMQ_DONTWAIT);
    Gm__Envelope *call = n < 0 ? NULL : gm__envelope__unpack(NULL, (size_t)n, frame);
    if (id_len >= 0)
        (void)zmq_recv(router, frame, sizeof frame, ZMQ_DONTWAIT); /* the body */
    if (call == NULL)
        return false;
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.version = 1;
    env.kind = kind;
    env.has_call = 1;
    env.call = call->call;
    env.has_status = status > 0;
    env.status = status;
    env.text = (char *)(uintptr_t)text;
    const size_t env_n = gm__envelope__pack(&env, frame);
    (void)zmq_send(router, id, (size_t)id_len, ZMQ_SNDMORE);
    (void)zmq_send(router, frame, env_n, ZMQ_SNDMORE);
    (void)zmq_send(router, "", 0, 0);
    gm__envelope__free_unpacked(call, NULL);
    return true;
}

/* One call, answered so; what its caller heard. */
static struct got answered(void *router, Gm__Kind kind, uint32_t status, const char *text)
{
    const int64_t end = gm_now_ms() + PATIENCE_MS;
    struct got g;
    CU_ASSERT_FATAL(call_empty("Test.Count", 0, 0, &g) != 0);
    while (gm_now_ms() < end && !answer_raw(router, kind, status, text))
        pump(5, NULL);
    pump(PATIENCE_MS, &g.done);
    return g;
}

/* Found by fuzzing: an item or an end for a call of one reply told its caller of success without a
 * body, or told it more than once. */
static void test_wrong_answers(void)
{
    char endpoint[GM_ENDPOINT_MAX];
    const int linger = 0;
    struct gm_err err = GM_ERR_NONE;
    void *ctx = zmq_ctx_new(), *router = zmq_socket(ctx, ZMQ_ROUTER);
    CU_ASSERT_FATAL(ends_open(false));
    (void)zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof linger);
    (void)snprintf(endpoint, sizeof endpoint, "ipc://%s/wrong.sock", dir);
    CU_ASSERT_EQUAL_FATAL(zmq_bind(router, endpoint), 0);
    peer = gm_bus_peer(bus, endpoint, &err);
    CU_ASSERT_FATAL(peer != NULL);
    struct got g = answered(router, GM__KIND__ITEM, 0, NULL);
    CU_ASSERT(g.done == 1 && g.items == 0);
    CU_ASSERT_EQUAL(g.err.status, GM_INTERNAL);
    g = answered(router, GM__KIND__END, 0, NULL);
    CU_ASSERT_EQUAL(g.done, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_INTERNAL);
    g = answered(router, GM__KIND__REPLY, GM_EXHAUSTED, "");
    CU_ASSERT_EQUAL(g.err.status, GM_EXHAUSTED);
    CU_ASSERT(g.err.text[0] != '\0');               /* every failure has a sentence */
    g = answered(router, GM__KIND__REPLY, 0, NULL); /* an empty body is a message here */
    CU_ASSERT(g.done == 1 && g.err.status == GM_OK);
    (void)zmq_close(router);
    (void)zmq_ctx_term(ctx);
    ends_close();
}

int main(void)
{
    if (!ends_start("test_net_hostile") || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("net: hostile peers", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "malformed and oversized frames", test_malformed) ||
        !CU_add_test(suite, "noise", test_fuzz) ||
        !CU_add_test(suite, "forged answers", test_forged) ||
        !CU_add_test(suite, "wrong answers", test_wrong_answers))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return ends_stop() != 0 || failures > 0;
}
