// uses: services/gateway/http.c services/gateway/exchange.c services/gateway/conns.c
// uses: services/gateway/listen.c
// libs: -lmicrohttpd
/* test_http.c - the HTTP server over loopback sockets, its handler being this file.
 *
 * Owns:      when the handler hears that a client is gone, what slow readers and full tables lead
 * to, the end of a server with requests in every state. Does not:  serve routes (tests/system).
 */
#include <CUnit/Basic.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/sys.h"
#include "services/gateway/http.h"
#include "services/gateway/listen.h"

enum { WAIT_MS = 5000, EVENT_BYTES = 64 << 10, FIRST_PORT = 18180 };

/* What the handler saw. */
static struct seen {
    struct gm_exchange *kept; /* waits for its answer */
    int handled, gone, done, status;
    bool inside; /* of gm_exchange_event */
    bool gone_inside;
} seen;

static struct gm_http *http;
static char address[GM_ADDRESS_MAX];

static void on_gone(void *user)
{
    struct seen *s = user;
    s->gone++;
    s->gone_inside |= s->inside;
    s->kept = NULL;
}

static void check(void *self, struct gm_exchange *x)
{
    (void)self;
    (void)x;
}

/* /now is answered at once; anything else waits. */
static void handle(void *self, struct gm_exchange *x)
{
    struct seen *s = self;
    s->handled++;
    if (strcmp(x->target, "/now") == 0) {
        gm_exchange_fixed(x, 200, "text/plain", "now", 3);
        return;
    }
    s->kept = x;
    x->user = s;
    x->on_gone = on_gone;
}

static void done(void *self, const struct gm_exchange *x)
{
    struct seen *s = self;
    s->done++;
    s->status = x->status;
}

static void error(void *self, struct gm_buf *out, int status, const char *sentence)
{
    (void)self;
    (void)gm_buf_printf(out, NULL, "{\"status\":%d,\"message\":\"%s\"}", status, sentence);
}

static void open_server(const struct gm_http_limits *limits)
{
    const struct gm_http_hooks hooks = { &seen, check, handle, done, error };
    char first[GM_ADDRESS_MAX];
    int fd = -1;
    memset(&seen, 0, sizeof seen);
    snprintf(first, sizeof first, "127.0.0.1:%d", FIRST_PORT);
    CU_ASSERT_EQUAL_FATAL(gm_listen(first, true, &fd, address, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_http_open(&http, fd, &hooks, limits, NULL), GM_OK);
}

static const struct gm_http_limits usual = { 100, 10000, 10000, 10000, 10000 };

static int client(const char *request)
{
    struct sockaddr_in to = { .sin_family = AF_INET,
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                              .sin_port =
                                  htons((uint16_t)strtoul(strchr(address, ':') + 1, NULL, 10)) };
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CU_ASSERT_EQUAL_FATAL(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    if (request[0])
        CU_ASSERT_EQUAL(send(fd, request, strlen(request), MSG_NOSIGNAL), (ssize_t)strlen(request));
    return fd;
}

/* Runs the server until *what is `want`, or too long. */
static bool until(const int *what, int want)
{
    const int64_t end = gm_now_ms() + WAIT_MS;
    while (*what != want && gm_now_ms() < end) {
        struct pollfd fds[4];
        const int n = gm_http_fds(http, fds, 4), ms = gm_http_next_ms(http);
        (void)poll(fds, (nfds_t)n, ms < 0 || ms > 20 ? 20 : ms);
        gm_http_run(http);
    }
    return *what == want;
}

/* The same until it has n connections. */
static bool until_connections(size_t n)
{
    const int64_t end = gm_now_ms() + WAIT_MS;
    while (gm_http_connections(http) != n && gm_now_ms() < end) {
        struct pollfd fds[4];
        const int n_fds = gm_http_fds(http, fds, 4);
        (void)poll(fds, (nfds_t)n_fds, 10);
        gm_http_run(http);
    }
    return gm_http_connections(http) == n;
}

static const char wait_request[] = "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n";
static const char now_request[] = "GET /now HTTP/1.1\r\nHost: a\r\n\r\n";

/* ---- tests ------------------------------------------------------------------------------------
 */

/* The handler is in the middle of an answer when its event is one too many: it must not be told
 * then that the client is gone, for it would free what it works on. */
static void a_reader_too_slow(void)
{
    static char event[EVENT_BYTES];
    int n = 0;
    open_server(&usual);
    const int fd = client(wait_request);
    CU_ASSERT_TRUE_FATAL(until(&seen.handled, 1));
    memset(event, 'x', sizeof event);
    gm_exchange_stream(seen.kept);
    CU_ASSERT_EQUAL(gm_http_streams(http), 1);
    for (; seen.kept && n < 2 * GM_HTTP_ANSWER_BYTES_MAX / EVENT_BYTES; n++) {
        seen.inside = true;
        gm_exchange_event(seen.kept, event, sizeof event);
        seen.inside = false;
    }
    CU_ASSERT_FALSE(seen.gone_inside);
    CU_ASSERT_TRUE(until(&seen.done, 1));
    CU_ASSERT_EQUAL(seen.gone, 1);
    CU_ASSERT_EQUAL(gm_http_streams(http), 0);
    CU_ASSERT_TRUE(until_connections(0));
    close(fd);
    gm_http_close(&http);
    CU_ASSERT_EQUAL(seen.done, 1);
}

/* The end comes together with the last bytes: libmicrohttpd does not see it. */
static void hang_up_behind_the_last_byte(void)
{
    static const char *const parts[] = { "", "GET /n", "GET /now HTTP/1.1\r\nHos",
                                         "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
                                         "\r\nabc",
                                         now_request };
    open_server(&usual);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const int fd = client(parts[i]);
        shutdown(fd, SHUT_WR);
        gm_http_run(http); /* takes it; the end may be seen in the same round */
        CU_ASSERT_TRUE(until_connections(0));
        close(fd);
    }
    gm_http_close(&http);
}

static void hang_up_while_it_waits(void)
{
    open_server(&usual);
    int fd = client(wait_request);
    CU_ASSERT_TRUE_FATAL(until(&seen.handled, 1));
    close(fd);
    CU_ASSERT_TRUE(until(&seen.gone, 1));
    CU_ASSERT_TRUE(until(&seen.done, 1));
    CU_ASSERT_EQUAL(seen.status, 499);
    fd = client(wait_request); /* and in a stream that is silent */
    CU_ASSERT_TRUE_FATAL(until(&seen.handled, 2));
    gm_exchange_stream(seen.kept);
    gm_exchange_event(seen.kept, "data: 1\n\n", 9);
    CU_ASSERT_TRUE(until_connections(1));
    close(fd);
    CU_ASSERT_TRUE(until(&seen.gone, 2));
    CU_ASSERT_TRUE(until(&seen.done, 2));
    CU_ASSERT_TRUE(until_connections(0));
    gm_http_close(&http);
}

/* A stop while one request waits, one streams, one has half a body, one is between requests. */
static void close_in_every_state(void)
{
    open_server(&usual);
    const int fds[] = { client(wait_request), client(wait_request),
                        client("POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc"),
                        client(now_request), client("GET /") };
    CU_ASSERT_TRUE(until(&seen.handled, 3));
    gm_exchange_stream(seen.kept);
    gm_exchange_event(seen.kept, "data: 1\n\n", 9);
    CU_ASSERT_TRUE(until_connections(5));
    gm_http_close(&http);
    CU_ASSERT_PTR_NULL(http);
    CU_ASSERT_EQUAL(seen.done, 4);
    CU_ASSERT_EQUAL(seen.gone, 2);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        close(fds[i]);
}

static void times(void)
{
    static const struct gm_http_limits fast = { 100, 200, 400, 300, 10000 };
    static const char *const parts[] = { "", "GET /now HTTP/1.1\r\n",
                                         "POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n"
                                         "\r\nabc" };
    char text[600];
    open_server(&fast);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        const int fd = client(parts[i]);
        CU_ASSERT_TRUE(until_connections(1));
        CU_ASSERT_TRUE(until_connections(0));
        const ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
        CU_ASSERT_TRUE_FATAL(n > 12);
        text[n] = 0;
        CU_ASSERT_PTR_NOT_NULL(strstr(text, "HTTP/1.1 408 "));
        CU_ASSERT_PTR_NOT_NULL(strstr(text, i < 2 ? "time for headers" : "time for bodies"));
        close(fd);
    }
    gm_http_close(&http);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("http", NULL, NULL);
    CU_add_test(s, "a reader that is too slow", a_reader_too_slow);
    CU_add_test(s, "hang-up behind the last byte", hang_up_behind_the_last_byte);
    CU_add_test(s, "hang-up while a request waits", hang_up_while_it_waits);
    CU_add_test(s, "a stop in every state", close_in_every_state);
    CU_add_test(s, "times for headers and bodies", times);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
