/* test_store.c - the store against a real redis-server of its own.
 *
 * Owns:      a temporary folder with a redis-server on a Unix socket: killed, restarted, stopped.
 * Does not:  touch a Redis that others use, or open a TCP port.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "common/net/store.h"

enum { START_MS = 10000, STEP_MS = 10 };

static char dir[] = "/tmp/gm-store-XXXXXX";
static char sock[64];
static pid_t redis;

struct answer {
    int calls, order;
    enum gm_status status;
    char text[64];
};
static int order;

static void on_answer(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct answer *a = ctx;
    a->calls++;
    a->order = ++order;
    a->status = err->status;
    if (reply && reply->str)
        snprintf(a->text, sizeof a->text, "%s", reply->str);
    CU_ASSERT_EQUAL(reply == NULL, err->status != GM_OK);
}

static void redis_start(void)
{
    redis = fork();
    if (redis == 0) {
        if (!freopen("/dev/null", "w", stdout))
            _exit(126);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", sock, "--dir", dir,
               "--appendonly", "yes", "--appendfsync", "always", "--save", "", (char *)NULL);
        _exit(127);
    }
}

static void redis_kill(void)
{
    if (redis <= 0)
        return;
    kill(redis, SIGKILL);
    waitpid(redis, NULL, 0);
    redis = 0;
}

static int open_all(void)
{
    gm_log_set_level(GM_LOG_ERROR);
    if (!mkdtemp(dir))
        return 1;
    snprintf(sock, sizeof sock, "%s/redis.sock", dir);
    redis_start();
    for (int64_t end = gm_now_ms() + START_MS; gm_now_ms() < end; gm_sleep_ms(STEP_MS))
        if (access(sock, F_OK) == 0)
            return 0;
    return 1;
}

static int close_all(void)
{
    redis_kill();
    const pid_t pid = fork();
    if (pid == 0) {
        execlp("rm", "rm", "-rf", dir, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1;
}

static void turn_once(struct gm_store *s)
{
    struct pollfd fd;
    gm_store_tick(s);
    const int n = gm_store_fd(s, &fd);
    if (poll(&fd, (nfds_t)n, STEP_MS) > 0 && n > 0)
        gm_store_on_fd(s, &fd);
}

/* Runs the store until *calls reaches n, or ms have passed. Returns the time taken. */
static int64_t run_until(struct gm_store *s, const int *calls, int n, int64_t ms)
{
    const int64_t start = gm_now_ms();
    while (gm_now_ms() - start < ms && !(calls && *calls >= n))
        turn_once(s);
    return gm_now_ms() - start;
}

static bool run_until_up(struct gm_store *s, bool up, int64_t ms)
{
    for (int64_t end = gm_now_ms() + ms; gm_now_ms() < end && gm_store_up(s) != up;)
        turn_once(s);
    return gm_store_up(s) == up;
}

static void ask(struct gm_store *s, struct answer *a, const char *verb, const char *key)
{
    const char *argv[] = { verb, key };
    *a = (struct answer){ 0 };
    gm_store_ask(s, on_answer, a, 2, argv, NULL);
}

static void put(struct gm_store *s, struct answer *a, const char *key, const char *value)
{
    const char *argv[] = { "SET", key, value };
    struct gm_err err = GM_ERR_NONE;
    *a = (struct answer){ 0 };
    CU_ASSERT_EQUAL(gm_store_write(s, on_answer, a, 3, argv, NULL, &err), GM_OK);
}

static struct gm_store *open_store(void)
{
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    if (gm_store_open(&s, sock, &err) != GM_OK)
        CU_FAIL_FATAL("the store does not open");
    return s;
}

static void test_ask(void)
{
    struct gm_store *s = open_store();
    struct answer echo, nil, wrong, write;
    ask(s, &echo, "ECHO", "hello");
    ask(s, &nil, "GET", "nothing");
    ask(s, &wrong, "NOSUCHVERB", "x");
    put(s, &write, "list", "a");
    CU_ASSERT_EQUAL(gm_store_pending(s), 1);
    run_until(s, &write.calls, 1, 3000);
    CU_ASSERT_EQUAL(gm_store_pending(s), 0);
    CU_ASSERT_STRING_EQUAL(echo.text, "hello");
    CU_ASSERT_EQUAL(nil.status, GM_OK);
    CU_ASSERT_EQUAL(wrong.status, GM_DATA_LOSS);
    CU_ASSERT_TRUE(echo.order < nil.order && nil.order < wrong.order);
    CU_ASSERT_TRUE(wrong.order < write.order);
    gm_store_close(&s);
    CU_ASSERT_PTR_NULL(s);
}

static void test_binary(void)
{
    struct gm_store *s = open_store();
    struct answer set, len;
    const char *argv[] = { "SET", "bin", "a\0b\r\nc" };
    const size_t lens[] = { 3, 3, 6 };
    struct gm_err err = GM_ERR_NONE;
    set = (struct answer){ 0 };
    CU_ASSERT_EQUAL(gm_store_write(s, on_answer, &set, 3, argv, lens, &err), GM_OK);
    run_until(s, &set.calls, 1, 3000);
    ask(s, &len, "GETRANGE", "bin"); /* too few arguments: an error, not the end */
    run_until(s, &len.calls, 1, 3000);
    CU_ASSERT_EQUAL(len.status, GM_DATA_LOSS);
    redisContext *c = redisConnectUnix(sock);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    redisReply *r = redisCommand(c, "STRLEN bin");
    CU_ASSERT_TRUE(r && r->integer == 6);
    freeReplyObject(r);
    redisFree(c);
    gm_store_close(&s);
}

/* Writes made while Redis is dead arrive in order when it is back. */
static void test_killed(void)
{
    enum { WRITES = 200 };
    static struct answer w[WRITES];
    struct answer away, first;
    char value[16];
    struct gm_store *s = open_store();
    ask(s, &first, "ECHO", "x");
    run_until(s, &first.calls, 1, 3000);
    redis_kill();
    CU_ASSERT_TRUE(run_until_up(s, false, 1000));
    ask(s, &away, "ECHO", "x");
    CU_ASSERT_EQUAL(away.status, GM_UNAVAILABLE);
    for (int i = 0; i < WRITES; i++) {
        snprintf(value, sizeof value, "%d", i);
        put(s, &w[i], "kept", value);
    }
    run_until(s, NULL, 0, 250);
    CU_ASSERT_EQUAL(gm_store_pending(s), WRITES);
    redis_start();
    run_until(s, &w[WRITES - 1].calls, 1, START_MS);
    CU_ASSERT_EQUAL(gm_store_pending(s), 0);
    for (int i = 0; i < WRITES; i++)
        CU_ASSERT_TRUE(w[i].calls == 1 && w[i].status == GM_OK &&
                       (i == 0 || w[i].order == w[i - 1].order + 1));
    redisContext *c = redisConnectUnix(sock);
    CU_ASSERT_PTR_NOT_NULL_FATAL(c);
    redisReply *r = redisCommand(c, "GET kept"); /* the last write is the one that stays */
    CU_ASSERT_TRUE_FATAL(r && r->str);
    CU_ASSERT_EQUAL(strtol(r->str, NULL, 10), WRITES - 1);
    freeReplyObject(r);
    redisFree(c);
    gm_store_close(&s);
}

/* A stopped Redis is away after the timeout, stays so, and comes back with what was kept. */
static void test_stopped(void)
{
    struct gm_store *s = open_store();
    struct answer slow, kept, back;
    ask(s, &slow, "ECHO", "x");
    run_until(s, &slow.calls, 1, 3000);
    kill(redis, SIGSTOP);
    ask(s, &slow, "ECHO", "y");
    put(s, &kept, "stopped", "1");
    const int64_t ms = run_until(s, &slow.calls, 1, GM_STORE_TIMEOUT_MS + 1000);
    CU_ASSERT_TRUE(ms >= GM_STORE_TIMEOUT_MS - 50 && ms < GM_STORE_TIMEOUT_MS + 500);
    CU_ASSERT_EQUAL(slow.status, GM_UNAVAILABLE);
    for (int i = 0; i < 40; i++) { /* it still accepts connections: that is not being up */
        turn_once(s);
        CU_ASSERT_FALSE(gm_store_up(s));
    }
    CU_ASSERT_EQUAL(kept.calls, 0);
    CU_ASSERT_EQUAL(gm_store_pending(s), 1);
    kill(redis, SIGCONT);
    run_until(s, &kept.calls, 1, 3000);
    CU_ASSERT_TRUE(kept.calls == 1 && kept.status == GM_OK);
    CU_ASSERT_TRUE(gm_store_up(s));
    ask(s, &back, "ECHO", "z");
    run_until(s, &back.calls, 1, 3000);
    CU_ASSERT_STRING_EQUAL(back.text, "z");
    gm_store_close(&s);
}

/* The queue is bounded, and what it refuses leaves no trace. */
static void test_full(void)
{
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    const size_t n = 16 << 20;
    char *big = calloc(1, n);
    const char *argv[] = { "SET", "big", big };
    const size_t lens[] = { 3, 3, n };
    int taken = 0;
    CU_ASSERT_PTR_NOT_NULL_FATAL(big);
    CU_ASSERT_EQUAL(gm_store_open(&s, "/tmp/gm-store-nothing-here", &err), GM_OK);
    CU_ASSERT_FALSE(gm_store_up(s));
    while (taken < 9 && gm_store_write(s, NULL, NULL, 3, argv, lens, &err) == GM_OK)
        taken++;
    CU_ASSERT_EQUAL(taken, 3);
    CU_ASSERT_EQUAL(err.status, GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_store_pending(s), 3);
    free(big);
    gm_store_close(&s);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_TestInfo tests[] = {
        { "ask", test_ask },
        { "binary values", test_binary },
        { "writes are kept while Redis is dead", test_killed },
        { "a stopped Redis is away", test_stopped },
        { "the queue is bounded", test_full },
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = { { "store", open_all, close_all, NULL, NULL, tests },
                              CU_SUITE_INFO_NULL };
    if (CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures() + CU_get_number_of_suites_failed();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
