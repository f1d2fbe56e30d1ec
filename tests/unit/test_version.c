// uses: tests/unit/net_ends.c
/* test_version.c - peers of two releases: they work, or refuse each other by name.
 *
 * Owns:      the checks of version.h, and of what the bus does with envelopes of other versions.
 * Does not:  start a pipeline (tests/system/test_version.py).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/net_ends.h"

/* ---- ranges ---------------------------------------------------------------------------------- */

static struct gm_versions v(uint32_t min, uint32_t max)
{
    return (struct gm_versions){ min, max };
}

static void test_common(void)
{
    CU_ASSERT_EQUAL(gm_versions_common(v(1, 1), v(1, 1)), 1);
    CU_ASSERT_EQUAL(gm_versions_common(v(1, 2), v(2, 3)), 2);
    CU_ASSERT_EQUAL(gm_versions_common(v(2, 5), v(1, 4)), 4);
    CU_ASSERT_EQUAL(gm_versions_common(v(1, 9), v(3, 4)), 4);
    CU_ASSERT_EQUAL(gm_versions_common(v(1, 1), v(2, 2)), 0);
    CU_ASSERT_EQUAL(gm_versions_common(v(3, 4), v(1, 2)), 0);
    CU_ASSERT_EQUAL(gm_versions_common(v(0, 0), v(1, 2)), 0);

    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.version = 7;
    CU_ASSERT(gm_versions_of(&env).min == 7 && gm_versions_of(&env).max == 7);
    env.has_version_min = 1;
    env.version_min = 5;
    CU_ASSERT(gm_versions_of(&env).min == 5 && gm_versions_of(&env).max == 7);
    env.version_min = 9; /* nonsense: one version */
    CU_ASSERT(gm_versions_of(&env).min == 7 && gm_versions_of(&env).max == 7);
    env.version_min = 0;
    CU_ASSERT_EQUAL(gm_versions_of(&env).min, 7);
}

static void test_variable(void)
{
    static const char *const bad[] = { "1",
                                       ":",
                                       "1:",
                                       ":2",
                                       "2:1",
                                       "0:1",
                                       "0:0",
                                       "a:b",
                                       "1:2:3",
                                       " 1:2",
                                       "1:2 ",
                                       "1:65536",
                                       "-1:2",
                                       "+1:2",
                                       "1:",
                                       "1:99999999999999999999",
                                       "18446744073709551617:1" };
    struct gm_err err = GM_ERR_NONE;
    struct gm_versions got;
    (void)unsetenv("GM_PROTOCOL");
    CU_ASSERT_EQUAL(gm_versions_own(&got, &err), GM_OK);
    CU_ASSERT(got.min == GM_PROTOCOL_MIN && got.max == GM_PROTOCOL_MAX);
    (void)setenv("GM_PROTOCOL", "3:65535", 1);
    CU_ASSERT_EQUAL(gm_versions_own(&got, &err), GM_OK);
    CU_ASSERT(got.min == 3 && got.max == 65535);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct gm_bus *none = NULL;
        (void)setenv("GM_PROTOCOL", bad[i], 1);
        err = GM_ERR_NONE;
        CU_ASSERT_EQUAL(gm_versions_own(&got, &err), GM_INVALID);
        CU_ASSERT_PTR_NOT_NULL(strstr(err.text, bad[i]));
        CU_ASSERT_EQUAL(gm_bus_open(&none, "shard-0", NULL, &err), GM_INVALID);
        CU_ASSERT_PTR_NULL(none);
    }
    (void)unsetenv("GM_PROTOCOL");
}

static void test_words(void)
{
    char name[GM_SENDER_MAX];
    struct gm_err err = GM_ERR_NONE;
    Gm__Envelope env = GM__ENVELOPE__INIT;
    CU_ASSERT_EQUAL(gm_versions_refuse(&err, "shard-1", v(3, 4), "orchestrator-0", v(1, 2)),
                    GM_PRECONDITION);
    CU_ASSERT_STRING_EQUAL(err.text, "shard-1 speaks version 3 to 4 of the protocol and "
                                     "orchestrator-0 1 to 2; start both from one release");
    gm_versions_sender(name, &env, (const uint8_t *)"shard-1-0123456789abcdef", 24);
    CU_ASSERT_STRING_EQUAL(name, "shard-1");
    gm_versions_sender(name, &env, (const uint8_t *)"\x01\xff\n", 3);
    CU_ASSERT_STRING_EQUAL(name, "a peer"); /* as ZeroMQ makes them */
    gm_versions_sender(name, &env, (const uint8_t *)"", 0);
    CU_ASSERT_STRING_EQUAL(name, "a peer");
    char sender[] = "sampler-0";
    env.sender = sender;
    gm_versions_sender(name, &env, (const uint8_t *)"other-9-00", 10);
    CU_ASSERT_STRING_EQUAL(name, "sampler-0");
    char longer[200];
    memset(longer, 'l', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    env.sender = longer;
    gm_versions_sender(name, &env, NULL, 0);
    CU_ASSERT_EQUAL(strlen(name), GM_SENDER_MAX - 1);
}

/* ---- two ends -------------------------------------------------------------------------------- */

/* A server and a caller that speak what they are told to. */
static bool ends_of(const char *server, const char *caller)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    char endpoint[GM_ENDPOINT_MAX];
    struct gm_err err = GM_ERR_NONE;
    (void)setenv("GM_PROTOCOL", server, 1);
    if (!ends_open(true))
        return false;
    (void)memcpy(endpoint, gm_peer_endpoint(peer), sizeof endpoint);
    gm_rpc_close(&rpc);
    gm_bus_close(&bus);
    (void)setenv("GM_PROTOCOL", caller, 1);
    bool ok = gm_bus_open(&bus, "tester", NULL, &err) == GM_OK &&
              gm_rpc_open(&rpc, bus, none, NULL, &err) == GM_OK;
    peer = ok ? gm_bus_peer(bus, endpoint, &err) : NULL;
    (void)unsetenv("GM_PROTOCOL");
    return peer != NULL;
}

static void test_meet(void)
{
    static const char *const pairs[][2] = {
        { "1:2", "2:3" }, { "2:3", "1:2" }, { "1:1", "1:9" }, { "1:9", "9:9" }, { "4:4", "4:4" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct got g;
        CU_ASSERT_FATAL(ends_of(pairs[i][0], pairs[i][1]));
        CU_ASSERT(echo_works(pairs[i][1]));
        (void)call_empty("Test.Count", PATIENCE_MS, COUNT_TO, &g); /* a stream, all its kinds */
        pump(PATIENCE_MS, &g.done);
        CU_ASSERT(g.items == COUNT_TO && g.in_order && g.err.status == GM_OK);
        CU_ASSERT_EQUAL(gm_bus_refused(sv.bus) + gm_bus_refused(bus), 0);
        ends_close();
    }
}

static void test_refused(void)
{
    struct got g;
    CU_ASSERT_FATAL(ends_of("1:1", "2:2"));
    (void)call_empty("Test.Count", PATIENCE_MS, 1, &g);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_PRECONDITION);
    CU_ASSERT_STRING_EQUAL(g.err.text, "tester speaks version 2 of the protocol and server-0 1; "
                                       "start both from one release");
    CU_ASSERT_EQUAL(gm_bus_refused(sv.bus), 1);
    ends_close();

    CU_ASSERT_FATAL(ends_of("1:2", "3:4"));
    (void)call_empty("Test.Count", PATIENCE_MS, 1, &g);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_PRECONDITION);
    CU_ASSERT_PTR_NOT_NULL(strstr(g.err.text, "tester speaks version 3 to 4 of"));
    CU_ASSERT_PTR_NOT_NULL(strstr(g.err.text, "server-0 1 to 2;"));
    /* Not refused, and so answered by the method's table, whatever the versions are. */
    static const char *const timeless[] = { "Health.Nothing", "Reflection.Nothing" };
    for (size_t i = 0; i < sizeof timeless / sizeof *timeless; i++) {
        (void)call_empty(timeless[i], PATIENCE_MS, 0, &g);
        pump(PATIENCE_MS, &g.done);
        CU_ASSERT_EQUAL(g.err.status, GM_UNSUPPORTED);
    }
    (void)call_empty("Healthy.Nothing", PATIENCE_MS, 0, &g);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_PRECONDITION);
    ends_close();
}

/* Takes one message of the server's inbox; false: none came. */
static bool take_one(struct gm_msg *msg, int ms)
{
    int64_t end = gm_now_ms() + ms;
    while (gm_now_ms() < end) {
        (void)gm_bus_wait(sv.bus, 5, NULL, 0, NULL);
        if (gm_bus_take(sv.bus, msg))
            return true;
    }
    return false;
}

/* The ring's messages of another version do not come in; HELLO does, and says the range. */
static void test_ring(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_msg msg;
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    Gm__Hello hello = GM__HELLO__INIT;
    char role[] = "shard";
    hello.role = role;
    CU_ASSERT_FATAL(ends_of("1:2", "3:4"));
    CU_ASSERT_EQUAL(gm_bus_post(bus, peer, GM__KIND__CHOSEN, &chosen.base, NULL, 0, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_bus_post_short(bus, peer, GM__KIND__CHOSEN, &chosen.base, NULL, 0, &err),
                    GM_OK); /* over the lane */
    CU_ASSERT_EQUAL(gm_bus_post(bus, peer, GM__KIND__HELLO, &hello.base, NULL, 0, &err), GM_OK);
    CU_ASSERT_FATAL(take_one(&msg, PATIENCE_MS));
    CU_ASSERT_EQUAL_FATAL(msg.env->kind, GM__KIND__HELLO);
    CU_ASSERT_EQUAL(msg.version, 0);
    CU_ASSERT(gm_versions_of(msg.env).min == 3 && gm_versions_of(msg.env).max == 4);
    CU_ASSERT_STRING_EQUAL(msg.env->sender, "tester");
    gm_msg_free(&msg);
    CU_ASSERT_FALSE(take_one(&msg, 100));
    CU_ASSERT_EQUAL(gm_bus_refused(sv.bus), 2);
    ends_close();

    CU_ASSERT_FATAL(ends_of("1:2", "2:4"));
    CU_ASSERT_EQUAL(gm_bus_post_short(bus, peer, GM__KIND__CHOSEN, &chosen.base, NULL, 0, &err),
                    GM_OK);
    CU_ASSERT_FATAL(take_one(&msg, PATIENCE_MS));
    CU_ASSERT_EQUAL(msg.version, 2);
    gm_msg_free(&msg);
    ends_close();
}

/* A kind that only a later release knows: answered where a call is named, else counted. */
static void test_kinds(void)
{
    enum { LATER = 99 };
    struct gm_err err = GM_ERR_NONE;
    struct got g;
    CU_ASSERT_FATAL(ends_of("1:1", "1:1"));
    const uint64_t id = call_empty("Test.Park", 0, 1, &g);
    pump(50, NULL);
    CU_ASSERT_EQUAL(g.done, 0);
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = (Gm__Kind)LATER;
    CU_ASSERT_EQUAL(gm_bus_send(bus, peer, &env, NULL, NULL, 0, &err), GM_OK);
    env.has_call = 1;
    env.call = id;
    CU_ASSERT_EQUAL(gm_bus_send(bus, peer, &env, NULL, NULL, 0, &err), GM_OK);
    pump(PATIENCE_MS, &g.done);
    CU_ASSERT_EQUAL(g.err.status, GM_UNSUPPORTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(g.err.text, "server-0 does not know messages of kind 99"));
    CU_ASSERT_PTR_NOT_NULL(strstr(g.err.text, "tester"));
    CU_ASSERT_EQUAL(gm_bus_refused(sv.bus), 2);
    CU_ASSERT(echo_works("after a later kind"));
    ends_close();
}

int main(void)
{
    if (!ends_start("test_version") || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("net: versions", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "the highest common version", test_common) ||
        !CU_add_test(suite, "GM_PROTOCOL", test_variable) ||
        !CU_add_test(suite, "the words of a refusal", test_words) ||
        !CU_add_test(suite, "ranges that meet", test_meet) ||
        !CU_add_test(suite, "ranges that do not", test_refused) ||
        !CU_add_test(suite, "the ring and HELLO", test_ring) ||
        !CU_add_test(suite, "kinds of a later release", test_kinds))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return ends_stop() != 0 || failures > 0;
}
