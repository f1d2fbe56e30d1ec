/* test_lane.c - short messages of the ring between two buses of one machine.
 *
 * Owns:      the ways a short message goes: over the lane, over ZeroMQ where the lane cannot take
 * it (too long, full, nobody there), and what a bad datagram does. Does not:  test calls or order
 * over ZeroMQ (test_net.c).
 */
#include "common/net.h"
#include "common/net/lane.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <ftw.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { PATIENCE_MS = 2000, TEXT = 120, MANY = 60, LONG_FLOATS = 20000, OTHER = 1 << 30 };

static char dir[TEXT], end_a[GM_ENDPOINT_MAX], end_b[GM_ENDPOINT_MAX];
static struct gm_bus *a, *b;

static void open_both(void)
{
    CU_ASSERT_EQUAL_FATAL(gm_bus_open(&a, "a", end_a, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_bus_open(&b, "b", end_b, NULL), GM_OK);
}

static void close_both(void)
{
    gm_bus_close(&a);
    gm_bus_close(&b);
}

static enum gm_status send_pos(uint32_t pos, const float *rows, size_t n)
{
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    chosen.ticket = 7;
    chosen.pos = pos;
    chosen.id = 42;
    return gm_bus_post_short(b, gm_bus_peer(b, end_a, NULL), GM__KIND__CHOSEN, &chosen.base, rows,
                             n * sizeof *rows, NULL);
}

/* Takes one message of `a`; -1: none came. The payload must be n floats 0, 1, 2 ... */
static int64_t take_pos(int patience_ms, size_t n)
{
    struct gm_msg msg;
    int64_t pos = -1;
    for (int ms = 0; ms <= patience_ms && pos < 0; ms += 10) {
        CU_ASSERT_EQUAL(gm_bus_wait(a, 10, NULL, 0, NULL), GM_OK);
        if (!gm_bus_take(a, &msg))
            continue;
        Gm__Chosen *c = gm_msg_unpack(&msg, &gm__chosen__descriptor, NULL);
        CU_ASSERT_PTR_NOT_NULL_FATAL(c);
        CU_ASSERT(msg.env->has_made_us && msg.env->boot == gm_bus_boot(b));
        CU_ASSERT_EQUAL(msg.payload_len, n * sizeof(float));
        CU_ASSERT_EQUAL((uintptr_t)msg.payload % 16, 0);
        const float *f = (const float *)(const void *)msg.payload;
        for (size_t i = 0; i < n; i++)
            CU_ASSERT_EQUAL(f[i], (float)i);
        pos = c->pos;
        protobuf_c_message_free_unpacked(&c->base, NULL);
        gm_msg_free(&msg);
    }
    return pos;
}

static void paths(void)
{
    char out[GM_LANE_PATH_MAX];
    CU_ASSERT_TRUE(gm_lane_path(out, "ipc:///run/x/shard-0.sock"));
    CU_ASSERT_STRING_EQUAL(out, "/run/x/shard-0.lane");
    CU_ASSERT_FALSE(gm_lane_path(out, "tcp://10.0.0.1:5555"));
    CU_ASSERT_FALSE(gm_lane_path(out, "ipc://.sock"));
    CU_ASSERT_FALSE(gm_lane_path(out, "ipc:///run/x/shard-0"));
}

/* Short ones with and without rows; long ones, which cannot go over the lane, arrive all the same.
 */
static void arrive(void)
{
    static float rows[LONG_FLOATS];
    for (size_t i = 0; i < LONG_FLOATS; i++)
        rows[i] = (float)i;
    open_both();
    CU_ASSERT_EQUAL(send_pos(1, NULL, 0), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, 0), 1);
    CU_ASSERT_EQUAL(send_pos(2, rows, 640), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, 640), 2);
    CU_ASSERT(LONG_FLOATS * sizeof(float) > GM_LANE_BYTES_MAX);
    CU_ASSERT_EQUAL(send_pos(3, rows, LONG_FLOATS), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, LONG_FLOATS), 3);
    close_both();
}

/* More than the lane's queue holds while nobody reads: none is lost. */
static void full(void)
{
    bool seen[MANY] = { false };
    open_both();
    for (uint32_t i = 0; i < MANY; i++)
        CU_ASSERT_EQUAL(send_pos(i, NULL, 0), GM_OK);
    for (int i = 0; i < MANY; i++) {
        const int64_t pos = take_pos(PATIENCE_MS, 0);
        CU_ASSERT_FATAL(pos >= 0 && pos < MANY && !seen[pos]);
        seen[pos] = true;
    }
    CU_ASSERT_EQUAL(take_pos(0, 0), -1);
    close_both();
}

/* A lane that is never empty: what came over ZeroMQ is taken all the same. */
static void fair(void)
{
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    bool seen = false;
    open_both();
    chosen.pos = OTHER;
    struct gm_peer *to = gm_bus_peer(b, end_a, NULL);
    CU_ASSERT_EQUAL(gm_bus_post(b, to, GM__KIND__CHOSEN, &chosen.base, NULL, 0, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_bus_wait(a, PATIENCE_MS, NULL, 0, NULL), GM_OK); /* it is there */
    const int64_t until = gm_now_ms() + PATIENCE_MS; /* threads of ZeroMQ bring it */
    for (uint32_t i = 0; gm_now_ms() < until && !seen; i++) {
        CU_ASSERT_EQUAL(send_pos(2 * i, NULL, 0), GM_OK);
        CU_ASSERT_EQUAL(send_pos(2 * i + 1, NULL, 0), GM_OK);
        for (int take = 0; take < 2; take++)
            seen |= take_pos(PATIENCE_MS, 0) == OTHER;
    }
    CU_ASSERT_TRUE(seen);
    close_both();
}

/* A receiver that was killed and came back: what is sent meanwhile waits in ZeroMQ's queue, what
 * comes after goes over the new lane. */
static void reborn(void)
{
    open_both();
    CU_ASSERT_EQUAL(send_pos(1, NULL, 0), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, 0), 1);
    gm_bus_close(&a);
    CU_ASSERT_EQUAL_FATAL(gm_bus_open(&a, "a", end_a, NULL), GM_OK);
    CU_ASSERT_EQUAL(send_pos(2, NULL, 0), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, 0), 2);
    close_both();
}

/* Sends raw bytes to the lane of `a`. */
static void raw(const void *bytes, size_t n)
{
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    CU_ASSERT_TRUE_FATAL(fd >= 0 && gm_lane_path(to.sun_path, end_a));
    CU_ASSERT_EQUAL(sendto(fd, bytes, n, 0, (const struct sockaddr *)&to, sizeof to), (ssize_t)n);
    (void)close(fd);
}

/* Cut, lying, oversized and foreign datagrams are dropped; the next good message is taken. */
static void hostile(void)
{
    static uint8_t big[GM_LANE_BYTES_MAX + 100];
    const uint32_t lie[3] = { 0xfffffff0u, 0x20, 0 }, none[2] = { 0, 0 }, body[2] = { 0, 9 };
    uint8_t call[64];
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.version = 1;
    env.kind = GM__KIND__CALL;
    env.method = (char *)"Health.Check";
    const uint32_t head[2] = { (uint32_t)gm__envelope__get_packed_size(&env), 0 };
    memcpy(call, head, sizeof head);
    gm__envelope__pack(&env, call + sizeof head);
    open_both();
    for (size_t n = 1; n < 8; n++)
        raw(big, n);
    CU_ASSERT_EQUAL(take_pos(20, 0), -1);
    raw(lie, sizeof lie);
    raw(none, sizeof none);
    raw(body, sizeof body);
    raw(big, sizeof big);
    raw(call, sizeof head + head[0]);
    CU_ASSERT_EQUAL(take_pos(20, 0), -1);
    CU_ASSERT_EQUAL(send_pos(5, NULL, 0), GM_OK);
    CU_ASSERT_EQUAL(take_pos(PATIENCE_MS, 0), 5);
    close_both();
}

static int drop(const char *name, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(name);
}

int main(void)
{
    snprintf(dir, sizeof dir, "/tmp/gm-lane-XXXXXX");
    if (!mkdtemp(dir) || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    snprintf(end_a, sizeof end_a, "ipc://%s/a-0.sock", dir);
    snprintf(end_b, sizeof end_b, "ipc://%s/b-0.sock", dir);
    gm_log_set_level(GM_LOG_ERROR);
    CU_pSuite s = CU_add_suite("lane", NULL, NULL);
    CU_add_test(s, "paths", paths);
    CU_add_test(s, "short and long messages arrive", arrive);
    CU_add_test(s, "a full queue loses nothing", full);
    CU_add_test(s, "a full lane keeps nothing waiting", fair);
    CU_add_test(s, "a receiver that came back", reborn);
    CU_add_test(s, "bad datagrams", hostile);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    (void)nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS);
    return failed ? 1 : 0;
}
