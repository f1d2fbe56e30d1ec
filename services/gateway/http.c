/* http.c - the server: connections, their states and deadlines, requests as they come in.
 *
 * Owns:      the libmicrohttpd daemon, the lists of connections, refusals that need no handler.
 * Does not:  know what an exchange answers (exchange.c) or what a path means.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "services/gateway/http_inner.h"

/* libmicrohttpd itself takes some more than the limit, so that those past it hear why. */
enum { REFUSED_ROOM = 256, WATCH_BURST = 64, ERROR_BYTES_MAX = 4096, NO_LINGER_S = 0 };

/* ---- connections ------------------------------------------------------------------------------
 */

static void unlink_conn(struct gm_http *http, struct gm_http_conn *c)
{
    struct gm_conn_list *list = &http->lists[c->state];
    *(c->prev ? &c->prev->next : &list->first) = c->next;
    *(c->next ? &c->next->prev : &list->last) = c->prev;
    c->prev = c->next = NULL;
}

static void link_conn(struct gm_http *http, struct gm_http_conn *c, enum gm_conn_state state)
{
    struct gm_conn_list *list = &http->lists[state];
    c->state = state;
    c->since_ms = gm_now_ms();
    c->prev = list->last;
    *(list->last ? &list->last->next : &list->first) = c;
    list->last = c;
}

static void move_conn(struct gm_http *http, struct gm_http_conn *c, enum gm_conn_state state)
{
    unlink_conn(http, c);
    link_conn(http, c, state);
}

/* The socket ends; libmicrohttpd sees it and frees the connection. */
static void shut(struct gm_http *http, struct gm_http_conn *c)
{
    if (!c->shut)
        shutdown(c->fd, SHUT_RDWR);
    c->shut = true;
    http->again = true;
}

/* An answer past libmicrohttpd, which cannot answer a request that is not complete. */
static void shut_with(struct gm_http *http, struct gm_http_conn *c, int status, const char *text)
{
    struct gm_buf body = GM_BUF(ERROR_BYTES_MAX), all = GM_BUF(2 * ERROR_BYTES_MAX);
    char id[33];
    gm_random_id(id, 24);
    http->hooks.error(http->hooks.self, &body, status, text);
    if (gm_buf_printf(&all, NULL,
                      "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nX-Request-Id: req-%s\r\n"
                      "Connection: close\r\nContent-Length: %zu\r\n\r\n%s",
                      status, MHD_get_reason_phrase_for((unsigned)status), id, body.len,
                      gm_buf_text(&body)) == GM_OK &&
        send(c->fd, all.data, all.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        gm_debug("a refusal was not sent");
    gm_buf_free(&body);
    gm_buf_free(&all);
    shut(http, c);
}

/* Room for a new connection: the oldest one without a request goes. */
static void shed(struct gm_http *http)
{
    static const enum gm_conn_state order[] = { GM_CONN_NEW, GM_CONN_HEADERS, GM_CONN_IDLE };
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        for (struct gm_http_conn *c = http->lists[order[i]].first; c; c = c->next)
            if (!c->shut) {
                shut(http, c);
                return;
            }
}

static void on_connection(void *self, struct MHD_Connection *conn, void **ctx,
                          enum MHD_ConnectionNotificationCode code)
{
    struct gm_http *http = self;
    struct gm_http_conn *c = *ctx;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const int on = 1;
        c = calloc(1, sizeof *c);
        if (!c)
            return; /* its requests are refused */
        c->fd = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (++http->n_conns > GM_HTTP_CONNECTIONS_MAX)
            shed(http);
        link_conn(http, c, GM_CONN_NEW);
        *ctx = c;
    } else if (c) {
        unlink_conn(http, c);
        http->n_conns--;
        free(c->target);
        free(c);
        *ctx = NULL;
    }
}

static struct gm_http_conn *link_of(struct MHD_Connection *conn)
{
    return MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* A request line has come. */
static void *on_uri(void *self, const char *uri, struct MHD_Connection *conn)
{
    struct gm_http_conn *c = link_of(conn);
    if (c) {
        move_conn(self, c, GM_CONN_HEADERS);
        free(c->target);
        c->target = strdup(uri);
    }
    return NULL;
}

/* ---- a request --------------------------------------------------------------------------------
 */

static void refuse(struct gm_http *http, struct gm_exchange *x, int status, const char *sentence)
{
    struct gm_buf body = GM_BUF(ERROR_BYTES_MAX);
    http->hooks.error(http->hooks.self, &body, status, sentence);
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        gm_exchange_set(x, "Retry-After", "1");
    gm_exchange_reply(x, status, "application/json", &body);
    gm_buf_free(&body);
}

/* The length that the client declares: true when it is within the limits. */
static bool length_ok(struct gm_http *http, struct gm_exchange *x)
{
    const char *text = gm_exchange_header(x, "Content-Length");
    int64_t n = 0;
    if (!text)
        return true;
    if (gm_parse_i64(text, 0, INT64_MAX, &n, NULL) != GM_OK) {
        refuse(http, x, MHD_HTTP_BAD_REQUEST, "Content-Length is no number");
        return false;
    }
    if (n > GM_HTTP_BODY_BYTES_MAX) {
        char text_max[128];
        snprintf(text_max, sizeof text_max, "the body has %lld bytes, the limit is %d; send less",
                 (long long)n, GM_HTTP_BODY_BYTES_MAX);
        refuse(http, x, MHD_HTTP_CONTENT_TOO_LARGE, text_max);
        return false;
    }
    if (http->bodies_bytes + (size_t)n > GM_HTTP_BODIES_BYTES_MAX) {
        refuse(http, x, MHD_HTTP_SERVICE_UNAVAILABLE,
               "bodies of other requests fill the memory for them; try again");
        return false;
    }
    x->counted = (size_t)n; /* promised room: no later request may take it */
    http->bodies_bytes += x->counted;
    return true;
}

/* The headers are there. Refuses (true: go on to queue the answer) or waits for the body. */
static enum MHD_Result begin(struct gm_http *http, struct gm_exchange *x)
{
    x->checked = true;
    move_conn(http, x->link, GM_CONN_BODY);
    if (http->n_conns > GM_HTTP_CONNECTIONS_MAX)
        refuse(http, x, MHD_HTTP_SERVICE_UNAVAILABLE,
               "the server has all the connections it may have; try again in a moment");
    if (!x->replied)
        http->hooks.check(http->hooks.self, x);
    if (!x->replied)
        length_ok(http, x);
    if (!x->replied)
        return MHD_YES;
    move_conn(http, x->link, GM_CONN_BUSY);
    return gm_exchange_queue(x);
}

/* A part of the body; MHD_NO after the connection was told why and ended. */
static enum MHD_Result take_body(struct gm_http *http, struct gm_exchange *x, const char *bytes,
                                 size_t n)
{
    const size_t len = x->body.len + n;
    if (len > GM_HTTP_BODY_BYTES_MAX) {
        shut_with(http, x->link, MHD_HTTP_CONTENT_TOO_LARGE,
                  "the body is larger than the limit; send less");
        return MHD_NO;
    }
    if (len > x->counted) {
        if (http->bodies_bytes + len - x->counted > GM_HTTP_BODIES_BYTES_MAX) {
            shut_with(http, x->link, MHD_HTTP_SERVICE_UNAVAILABLE,
                      "bodies of other requests fill the memory for them; try again");
            return MHD_NO;
        }
        http->bodies_bytes += len - x->counted;
        x->counted = len;
    }
    return gm_buf_append(&x->body, bytes, n, NULL) == GM_OK ? MHD_YES : MHD_NO;
}

static enum MHD_Result finish_request(struct gm_http *http, struct gm_exchange *x)
{
    if (x->cut)
        return MHD_NO; /* the client left while it waited */
    if (!x->handled) {
        x->handled = true;
        move_conn(http, x->link, GM_CONN_BUSY);
        http->hooks.handle(http->hooks.self, x);
        http->bodies_bytes -= x->counted; /* the handler has read it */
        x->counted = 0;
        gm_buf_free(&x->body);
    }
    if (x->replied || x->streaming)
        return gm_exchange_queue(x);
    gm_exchange_suspend(x);
    return MHD_YES;
}

static enum MHD_Result on_request(void *self, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_n, void **ctx)
{
    struct gm_http *http = self;
    struct gm_exchange *x = *ctx;
    (void)version;
    (void)url;
    if (!x) {
        struct gm_http_conn *c = link_of(conn);
        x = c ? gm_exchange_new(http, conn, c, method) : NULL;
        if (!x)
            return MHD_NO;
        c->x = x;
        *ctx = x;
        return begin(http, x);
    }
    if (*data_n == 0)
        return finish_request(http, x);
    const size_t n = *data_n;
    *data_n = 0;
    return take_body(http, x, data, n);
}

static void on_completed(void *self, struct MHD_Connection *conn, void **ctx,
                         enum MHD_RequestTerminationCode why)
{
    struct gm_http *http = self;
    struct gm_exchange *x = *ctx;
    (void)conn;
    if (!x)
        return;
    if (why != MHD_REQUEST_TERMINATED_COMPLETED_OK || x->cut)
        gm_exchange_gone(x);
    http->hooks.done(http->hooks.self, x);
    x->link->x = NULL;
    move_conn(http, x->link, GM_CONN_IDLE);
    if (x->close_after || http->draining)
        shut(http, x->link);
    gm_exchange_free(x);
    *ctx = NULL;
}

/* ---- the daemon -------------------------------------------------------------------------------
 */

static void on_log(void *self, const char *format, va_list ap)
    __attribute__((format(printf, 2, 0)));
static void on_log(void *self, const char *format, va_list ap)
{
    static struct gm_log_limit limit = { .burst = 5, .per_ms = 10000 };
    char line[256];
    (void)self;
    vsnprintf(line, sizeof line, format, ap);
    line[strcspn(line, "\n")] = 0;
    if (gm_log_pass(&limit, NULL))
        gm_info("http: %s", line);
}

/* As many descriptors as the system lets us have: each connection is one. */
static void raise_files(void)
{
    struct rlimit l;
    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &l);
    }
}

enum gm_status gm_http_open(struct gm_http **out, int listen_fd, const struct gm_http_hooks *hooks,
                            struct gm_err *err)
{
    struct gm_http *http = calloc(1, sizeof *http);
    *out = NULL;
    if (!http)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the HTTP server");
    http->hooks = *hooks;
    raise_files();
    http->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (http->watch_fd >= 0)
        http->daemon = MHD_start_daemon(
            MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
            http, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)GM_HTTP_POOL_BYTES,
            MHD_OPTION_CONNECTION_LIMIT, (unsigned)(GM_HTTP_CONNECTIONS_MAX + REFUSED_ROOM),
            MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
            on_connection, http, MHD_OPTION_URI_LOG_CALLBACK, on_uri, http,
            MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (!info) {
        gm_http_close(&http);
        return gm_fail(err, GM_EXHAUSTED, "the HTTP server cannot start: %s", strerror(errno));
    }
    http->epoll_fd = info->epoll_fd;
    *out = http;
    return GM_OK;
}

void gm_http_close(struct gm_http **http)
{
    struct gm_http *h = *http;
    if (!h)
        return;
    for (struct gm_http_conn *c = h->lists[GM_CONN_BUSY].first; c; c = c->next)
        if (c->x) {
            c->x->cut = true;
            gm_exchange_resume(c->x);
        }
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    if (h->watch_fd >= 0)
        close(h->watch_fd);
    free(h);
    *http = NULL;
}

void gm_http_drain(struct gm_http *http)
{
    static const enum gm_conn_state idle[] = { GM_CONN_NEW, GM_CONN_IDLE };
    http->draining = true;
    for (size_t i = 0; i < sizeof idle / sizeof idle[0]; i++)
        for (struct gm_http_conn *c = http->lists[idle[i]].first; c; c = c->next)
            shut(http, c);
}

int gm_http_fds(struct gm_http *http, struct pollfd *fds, int max)
{
    if (max < 2)
        return 0;
    fds[0] = (struct pollfd){ .fd = http->epoll_fd, .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = http->watch_fd, .events = POLLIN };
    return 2;
}

/* Clients that hung up while their requests were suspended. */
static void look_for_gone(struct gm_http *http)
{
    struct epoll_event e[WATCH_BURST];
    const int n = epoll_wait(http->watch_fd, e, WATCH_BURST, 0);
    for (int i = 0; i < n; i++) {
        struct gm_exchange *x = e[i].data.ptr;
        gm_exchange_gone(x);
        gm_exchange_resume(x);
    }
}

/* Connections whose time is over. */
static void look_for_late(struct gm_http *http)
{
    static const struct {
        enum gm_conn_state state;
        int64_t ms;
        const char *say; /* NULL: silence */
    } rules[] = {
        { GM_CONN_NEW, GM_HTTP_HEADERS_MS, "no request came in time; connect again" },
        { GM_CONN_HEADERS, GM_HTTP_HEADERS_MS, "the headers did not come in time; send again" },
        { GM_CONN_BODY, GM_HTTP_BODY_MS, "the body did not come in time; send again" },
        { GM_CONN_IDLE, GM_HTTP_IDLE_MS, NULL },
    };
    const int64_t now = gm_now_ms();
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        for (struct gm_http_conn *c = http->lists[rules[i].state].first;
             c && now - c->since_ms >= rules[i].ms; c = c->next)
            if (!c->shut && rules[i].say)
                shut_with(http, c, MHD_HTTP_REQUEST_TIMEOUT, rules[i].say);
            else
                shut(http, c);
}

void gm_http_run(struct gm_http *http)
{
    enum { ROUNDS_MAX = 8 };
    look_for_gone(http);
    look_for_late(http);
    (void)gm_exchange_tick(http);
    for (int i = 0; i < ROUNDS_MAX; i++) {
        http->again = false;
        MHD_run(http->daemon);
        if (!http->again)
            break;
    }
}

static int sooner(int a, int64_t b)
{
    if (b < 0)
        b = 0;
    return a < 0 || b < a ? (int)b : a;
}

int gm_http_next_ms(struct gm_http *http)
{
    static const int64_t limit[GM_CONN_STATES] = { [GM_CONN_NEW] = GM_HTTP_HEADERS_MS,
                                                   [GM_CONN_IDLE] = GM_HTTP_IDLE_MS,
                                                   [GM_CONN_HEADERS] = GM_HTTP_HEADERS_MS,
                                                   [GM_CONN_BODY] = GM_HTTP_BODY_MS };
    unsigned long long wait = 0;
    int ms = -1;
    if (http->again)
        return 0;
    if (MHD_get_timeout(http->daemon, &wait) == MHD_YES)
        ms = sooner(ms, wait > GM_HTTP_IDLE_MS ? GM_HTTP_IDLE_MS : (int64_t)wait);
    const int64_t now = gm_now_ms();
    for (int i = 0; i < GM_CONN_STATES; i++) {
        const struct gm_http_conn *c = http->lists[i].first;
        while (c && c->shut)
            c = c->next;
        if (c && limit[i])
            ms = sooner(ms, c->since_ms + limit[i] - now);
    }
    const int ping = gm_exchange_tick(http);
    return ping >= 0 ? sooner(ms, ping) : ms;
}

size_t gm_http_connections(const struct gm_http *http)
{
    return http->n_conns;
}

size_t gm_http_streams(const struct gm_http *http)
{
    size_t n = 0;
    for (const struct gm_exchange *x = http->streams; x; x = x->queue->next)
        n++;
    return n;
}
