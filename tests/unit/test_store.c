/* test_store.c - the store against a private redis-server that is killed, stopped and restarted.
 *
 * Owns:      the checks of store.h; one redis-server on a Unix socket in a temporary folder.
 * Does not:  know the orchestrator's keys.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <fcntl.h>
#include <ftw.h>
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

enum { PATIENCE_MS = 8000, WRITES = 50, LARGE_BYTES = 1 << 20 };

static char dir[64];
static char sock[96];
static pid_t redis;

/* ---- a private server ------------------------------------------------------------------------ */

static bool redis_start(void)
{
    (void)unlink(sock);
    redis = fork();
    if (redis == 0) {
        int null = open("/dev/null", O_RDWR);
        if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
            _exit(126);
        (void)execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", sock,
                     "--unixsocketperm", "600", "--dir", dir, "--appendonly", "yes",
                     "--appendfsync", "always", "--save", "", "--daemonize", "no", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; redis > 0 && i < PATIENCE_MS / 10; i++) {
        if (access(sock, F_OK) == 0)
            return true;
        gm_sleep_ms(10);
    }
    return false;
}

static void redis_kill(void)
{
    int status;
    if (redis > 0) {
        (void)kill(redis, SIGCONT);
        (void)kill(redis, SIGKILL);
        (void)waitpid(redis, &status, 0);
    }
    redis = 0;
}

/* ---- the loop's part ------------------------------------------------------------------------- */

struct got {
    int n;     /* replies */
    int order; /* of the last reply among all */
    int type;
    char text[64];
    struct gm_err err;
};

static int replies;

static void on_reply(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct got *g = ctx;
    g->n++;
    g->order = ++replies;
    g->err = *err;
    g->type = reply != NULL ? reply->type : -1;
    if (reply != NULL && reply->str != NULL)
        (void)snprintf(g->text, sizeof g->text, "%s", reply->str);
}

/* Runs the store as a service's loop does, until *until is set or ms have passed; gives the longest
 * time that one turn of the loop took beyond its wait. */
static int64_t pump(struct gm_store *s, int ms, const int *until)
{
    int64_t end = gm_now_ms() + ms, worst_ms = 0;
    while (gm_now_ms() < end && (until == NULL || *until == 0)) {
        struct pollfd fd;
        int64_t start = gm_now_ms();
        int wait = gm_store_tick(s);
        int n = gm_store_fd(s, &fd);
        int64_t busy_ms = gm_now_ms() - start;
        wait = wait < 0 || wait > 20 ? 20 : wait;
        int ready = poll(&fd, (nfds_t)n, wait);
        start = gm_now_ms();
        if (n > 0 && ready > 0)
            gm_store_on_fd(s, &fd);
        busy_ms += gm_now_ms() - start;
        worst_ms = busy_ms > worst_ms ? busy_ms : worst_ms;
    }
    return worst_ms;
}

static void ask(struct gm_store *s, struct got *g, int argc, const char **argv)
{
    memset(g, 0, sizeof *g);
    gm_store_ask(s, on_reply, g, argc, argv, NULL);
}

static enum gm_status write_to(struct gm_store *s, struct got *g, int argc, const char **argv)
{
    struct gm_err err = GM_ERR_NONE;
    memset(g, 0, sizeof *g);
    return gm_store_write(s, on_reply, g, argc, argv, NULL, &err);
}

/* Asks until Redis answers: right after a restart one ask may still meet the old connection. */
static void ask_back(struct gm_store *s, struct got *g, int argc, const char **argv)
{
    int64_t end = gm_now_ms() + PATIENCE_MS;
    do {
        ask(s, g, argc, argv);
        pump(s, PATIENCE_MS, &g->n);
        if (g->err.status == GM_UNAVAILABLE)
            pump(s, 20, NULL);
    } while (g->err.status == GM_UNAVAILABLE && gm_now_ms() < end);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_ask(void)
{
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    struct got g, h;
    CU_ASSERT_FATAL(redis_start());
    CU_ASSERT_EQUAL_FATAL(gm_store_open(&s, sock, &err), GM_OK);
    ask_back(s, &g, 1, (const char *[]){ "PING" });
    CU_ASSERT_EQUAL(g.n, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_OK);
    CU_ASSERT_STRING_EQUAL(g.text, "PONG");
    CU_ASSERT(gm_store_up(s));
    CU_ASSERT_EQUAL(write_to(s, &h, 3, (const char *[]){ "SET", "k", "v" }), GM_OK);
    CU_ASSERT_EQUAL(gm_store_pending(s), 1);
    ask(s, &g, 2, (const char *[]){ "GET", "k" }); /* commands keep their order */
    pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT_STRING_EQUAL(g.text, "v");
    CU_ASSERT_EQUAL(h.n, 1);
    CU_ASSERT(h.order < g.order);
    CU_ASSERT_EQUAL(gm_store_pending(s), 0);
    ask(s, &g, 2, (const char *[]){ "LPUSH", "k" }); /* an error of Redis is not our end */
    pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT(g.n == 1 && g.err.status != GM_OK && g.type == -1);
    ask(s, &g, 2, (const char *[]){ "GET", "absent" });
    pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT(g.err.status == GM_OK && g.type == REDIS_REPLY_NIL);

    /* Values are bytes: a 0 byte inside, and more than one socket buffer. */
    char *large = malloc(LARGE_BYTES);
    CU_ASSERT_FATAL(large != NULL);
    memset(large, 0, LARGE_BYTES);
    const size_t lens[] = { 3, 5, LARGE_BYTES };
    memset(&h, 0, sizeof h);
    CU_ASSERT_EQUAL(
        gm_store_write(s, on_reply, &h, 3, (const char *[]){ "SET", "large", large }, lens, &err),
        GM_OK);
    free(large); /* copied */
    pump(s, PATIENCE_MS, &h.n);
    ask(s, &g, 2, (const char *[]){ "STRLEN", "large" });
    pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT_EQUAL(g.type, REDIS_REPLY_INTEGER);
    gm_store_ask(s, NULL, NULL, 1, (const char *[]){ "PING" }, NULL);
    CU_ASSERT_EQUAL(
        gm_store_write(s, NULL, NULL, 3, (const char *[]){ "SET", "k", "w" }, NULL, &err), GM_OK);
    gm_store_close(&s); /* with both on their way */
    gm_store_close(&s);
    CU_ASSERT_PTR_NULL(s);
    redis_kill();
}

static void test_away(void)
{
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    struct got g;
    char path[160];
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    CU_ASSERT_EQUAL(gm_store_open(&s, path, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(s);
    /* Started before Redis: asks fail at once, writes wait, and all is well when it comes. */
    (void)unlink(sock);
    CU_ASSERT_EQUAL_FATAL(gm_store_open(&s, sock, &err), GM_OK);
    pump(s, 100, NULL);
    CU_ASSERT_FALSE(gm_store_up(s));
    int64_t start = gm_now_ms();
    ask(s, &g, 1, (const char *[]){ "PING" });
    CU_ASSERT(g.n == 1 && gm_now_ms() - start < 100);
    CU_ASSERT_EQUAL(g.err.status, GM_UNAVAILABLE);
    CU_ASSERT_EQUAL(write_to(s, &g, 3, (const char *[]){ "SET", "early", "bird" }), GM_OK);
    CU_ASSERT_EQUAL(gm_store_pending(s), 1);
    pump(s, 100, &g.n);
    CU_ASSERT_EQUAL(g.n, 0);
    CU_ASSERT_FATAL(redis_start());
    pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT(g.n == 1 && g.err.status == GM_OK);
    CU_ASSERT_EQUAL(gm_store_pending(s), 0);
    gm_store_close(&s);
    redis_kill();
}

/* Writes given before, during and after a kill are all there afterwards, in order. */
static void test_kill(void)
{
    static struct got g[3 * WRITES];
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    struct got a;
    CU_ASSERT_FATAL(redis_start());
    CU_ASSERT_EQUAL_FATAL(gm_store_open(&s, sock, &err), GM_OK);
    ask_back(s, &a, 1, (const char *[]){ "FLUSHALL" });
    CU_ASSERT_EQUAL(a.err.status, GM_OK);
    for (int i = 0; i < 3 * WRITES; i++) {
        char at[16], value[16];
        (void)snprintf(at, sizeof at, "%d", i * 4);
        (void)snprintf(value, sizeof value, "%04d", i);
        if (i == WRITES) {
            pump(s, 20, NULL);
            redis_kill();
        } else if (i == 2 * WRITES) {
            pump(s, 200, NULL);
            CU_ASSERT_FALSE(gm_store_up(s));
            CU_ASSERT(gm_store_pending(s) >= WRITES);
            CU_ASSERT_FATAL(redis_start());
        }
        CU_ASSERT_EQUAL(write_to(s, &g[i], 4, (const char *[]){ "SETRANGE", "log", at, value }),
                        GM_OK);
        CU_ASSERT_EQUAL(
            gm_store_write(s, NULL, NULL, 3, (const char *[]){ "SET", "last", value }, NULL, &err),
            GM_OK);
    }
    for (int i = 0; i < PATIENCE_MS / 20 && gm_store_pending(s) > 0; i++)
        pump(s, 20, NULL);
    CU_ASSERT_EQUAL(gm_store_pending(s), 0);
    int wrong = 0;
    for (int i = 0; i < 3 * WRITES; i++)
        wrong += g[i].n != 1 || g[i].err.status != GM_OK || (i > 0 && g[i].order < g[i - 1].order);
    CU_ASSERT_EQUAL(wrong, 0);
    ask(s, &a, 2, (const char *[]){ "GET", "last" });
    pump(s, PATIENCE_MS, &a.n);
    CU_ASSERT_STRING_EQUAL(a.text, "0149");
    for (int i = 0; i < 3 * WRITES; i += 10) {
        char from[16], to[16], want[48] = "";
        (void)snprintf(from, sizeof from, "%d", i * 4);
        (void)snprintf(to, sizeof to, "%d", i * 4 + 39);
        for (int k = 0; k < 10; k++)
            (void)snprintf(want + 4 * k, sizeof want - (size_t)(4 * k), "%04d", i + k);
        ask(s, &a, 4, (const char *[]){ "GETRANGE", "log", from, to });
        pump(s, PATIENCE_MS, &a.n);
        CU_ASSERT_STRING_EQUAL(a.text, want);
    }
    gm_store_close(&s);
    redis_kill();
}

/* A stopped Redis looks like one that is away: the loop never stands still. */
static void test_stopped(void)
{
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    struct got g, w;
    CU_ASSERT_FATAL(redis_start());
    CU_ASSERT_EQUAL_FATAL(gm_store_open(&s, sock, &err), GM_OK);
    ask_back(s, &g, 1, (const char *[]){ "PING" });
    CU_ASSERT_EQUAL(g.err.status, GM_OK);
    CU_ASSERT_EQUAL_FATAL(kill(redis, SIGSTOP), 0);
    int64_t start = gm_now_ms();
    ask(s, &g, 2, (const char *[]){ "GET", "k" });
    CU_ASSERT_EQUAL(write_to(s, &w, 3, (const char *[]){ "SET", "kept", "yes" }), GM_OK);
    int64_t worst_ms = pump(s, PATIENCE_MS, &g.n);
    CU_ASSERT_EQUAL(g.n, 1);
    CU_ASSERT_EQUAL(g.err.status, GM_UNAVAILABLE);
    int64_t took_ms = gm_now_ms() - start;
    CU_ASSERT(took_ms >= GM_STORE_TIMEOUT_MS - 100 && took_ms < GM_STORE_TIMEOUT_MS + 1500);
    CU_ASSERT(worst_ms < 500);
    CU_ASSERT_EQUAL(w.n, 0);
    CU_ASSERT_EQUAL(gm_store_pending(s), 1);
    worst_ms = pump(s, 300, NULL);
    CU_ASSERT(worst_ms < 500);
    CU_ASSERT_FALSE(gm_store_up(s));
    CU_ASSERT_EQUAL_FATAL(kill(redis, SIGCONT), 0);
    pump(s, PATIENCE_MS, &w.n);
    CU_ASSERT(w.n == 1 && w.err.status == GM_OK);
    ask_back(s, &g, 2, (const char *[]){ "GET", "kept" });
    CU_ASSERT_STRING_EQUAL(g.text, "yes");
    gm_store_close(&s);
    redis_kill();
}

/* The queue has a ceiling, and says so at once. */
static void test_full(void)
{
    enum { PART = 4 << 20 };
    struct gm_store *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    (void)unlink(sock);
    char *part = calloc(1, PART);
    CU_ASSERT_FATAL(part != NULL);
    CU_ASSERT_EQUAL_FATAL(gm_store_open(&s, sock, &err), GM_OK);
    pump(s, 20, NULL);
    const size_t lens[] = { 3, 1, PART };
    size_t n = 0;
    while (n < 64 && gm_store_write(s, NULL, NULL, 3, (const char *[]){ "SET", "k", part }, lens,
                                    &err) == GM_OK)
        n++;
    CU_ASSERT(n >= 8 && n * PART <= GM_STORE_QUEUE_BYTES_MAX);
    CU_ASSERT_EQUAL(err.status, GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_store_pending(s), n);
    free(part);
    gm_store_close(&s);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(dir, sizeof dir, "%s/gmstoreXXXXXX",
                   tmp != NULL && strlen(tmp) < 30 ? tmp : "/tmp");
    gm_log_open("test_store", 2);
    if (mkdtemp(dir) == NULL || signal(SIGPIPE, SIG_IGN) == SIG_ERR ||
        CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    (void)snprintf(sock, sizeof sock, "%s/redis.sock", dir);
    CU_pSuite suite = CU_add_suite("net: store", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "asks and writes", test_ask) ||
        !CU_add_test(suite, "Redis comes later", test_away) ||
        !CU_add_test(suite, "writes outlive a kill", test_kill) ||
        !CU_add_test(suite, "a stopped Redis", test_stopped) ||
        !CU_add_test(suite, "a full queue", test_full))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    redis_kill(); /* after a test that gave up */
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS) != 0 || failures > 0;
}
