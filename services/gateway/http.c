/* http.c - the server: connections, their states and deadlines, requests as they come in.
 *
 * Owns:      the libmicrohttpd daemon, the way of a request, refusals that need no handler.
 * Does not:  know what an exchange answers (exchange.c), what a path means, or whose time is over
 *            (conns.c).
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "services/gateway/http_inner.h"

/* libmicrohttpd itself takes some more than the limit, so that those past it hear why. */
enum { REFUSED_ROOM = 256, ERROR_BYTES_MAX = 4096 };

/* ---- connections ------------------------------------------------------------------------------
 */

static void on_connection(void *self, struct MHD_Connection *conn, void **ctx,
                          enum MHD_ConnectionNotificationCode code)
{
    struct gm_http *http = self;
    struct gm_http_conn *c = *ctx;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const int on = 1;
        const int fd = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        *ctx = gm_conn_new(http, fd); /* NULL: its requests are refused */
    } else if (c) {
        gm_conn_free(http, c);
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
        gm_conn_move(self, c, GM_CONN_HEADERS);
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

/* Headers that say where a request ends and for whom it is: once each, or others between the client
 * and us may read another request than we do. */
static const char *const once[] = { "Content-Length", "Transfer-Encoding", "Host", "Origin" };
enum { ONCE_N = sizeof once / sizeof once[0] };

static enum MHD_Result count_header(void *ctx, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    unsigned *seen = ctx;
    (void)kind;
    (void)value;
    for (size_t i = 0; i < ONCE_N; i++)
        seen[i] += strcasecmp(name, once[i]) == 0;
    return MHD_YES;
}

/* The request's end is clear and its declared length within the limit, or it is refused. */
static void check_frame(struct gm_http *http, struct gm_exchange *x)
{
    const char *length = gm_exchange_header(x, "Content-Length");
    const char *coding = gm_exchange_header(x, "Transfer-Encoding");
    unsigned seen[ONCE_N] = { 0 };
    char why[128];
    int64_t n = 0;
    MHD_get_connection_values(x->conn, MHD_HEADER_KIND, count_header, seen);
    for (size_t i = 0; i < ONCE_N; i++)
        if (seen[i] > 1) {
            snprintf(why, sizeof why, "the header %s stands more than once; send it once", once[i]);
            refuse(http, x, MHD_HTTP_BAD_REQUEST, why);
            return;
        }
    if (coding && (length || strcasecmp(coding, "chunked") != 0)) {
        refuse(http, x, MHD_HTTP_BAD_REQUEST,
               "a body has a Content-Length or is sent chunked: not both, and no other coding");
    } else if (length && gm_parse_i64(length, 0, INT64_MAX, &n, NULL) != GM_OK) {
        refuse(http, x, MHD_HTTP_BAD_REQUEST, "Content-Length is no number of bytes");
    } else if (n > GM_HTTP_BODY_BYTES_MAX) {
        snprintf(why, sizeof why, "the body has %lld bytes, the limit is %d; send less",
                 (long long)n, GM_HTTP_BODY_BYTES_MAX);
        gm_conn_refuse(http, x->link, MHD_HTTP_CONTENT_TOO_LARGE, why);
    }
}

/* One more body is on its way: the oldest may have to go. */
static void count_body(struct gm_http *http)
{
    struct gm_conn_list *list = &http->lists[GM_CONN_BODY];
    if (list->n > GM_HTTP_BODIES_MAX && list->first->x)
        gm_conn_refuse(http, list->first, MHD_HTTP_SERVICE_UNAVAILABLE,
                       "more requests wait for their bodies than the server takes at once, and "
                       "yours waited longest; try again");
}

/* The headers are there. Refuses (true: go on to queue the answer) or waits for the body. */
static enum MHD_Result begin(struct gm_http *http, struct gm_exchange *x)
{
    x->checked = true;
    gm_conn_move(http, x->link, GM_CONN_BODY);
    count_body(http);
    if (gm_conn_full(http))
        refuse(http, x, MHD_HTTP_SERVICE_UNAVAILABLE,
               "the server has all the connections it may have; try again in a moment");
    if (!x->replied)
        check_frame(http, x);
    if (!x->replied && !x->link->refused)
        http->hooks.check(http->hooks.self, x);
    return x->replied ? gm_exchange_queue(x) : MHD_YES;
}

/* A part of the body. */
static enum MHD_Result take_body(struct gm_http *http, struct gm_exchange *x, const char *bytes,
                                 size_t n)
{
    char why[96];
    if (x->link->refused)
        return MHD_YES; /* read and dropped */
    if (x->body.len + n > GM_HTTP_BODY_BYTES_MAX) {
        snprintf(why, sizeof why, "the body has more than %d bytes, the limit; send less",
                 GM_HTTP_BODY_BYTES_MAX);
        gm_conn_refuse(http, x->link, MHD_HTTP_CONTENT_TOO_LARGE, why);
        return MHD_YES;
    }
    if (!gm_conn_make_room(http, x->link, n) || gm_buf_append(&x->body, bytes, n, NULL) != GM_OK) {
        gm_conn_refuse(http, x->link, MHD_HTTP_SERVICE_UNAVAILABLE, gm_bodies_full);
        return MHD_YES;
    }
    x->counted += n;
    http->bodies_bytes += n;
    http->bytes_in += n;
    return MHD_YES;
}

static enum MHD_Result finish_request(struct gm_http *http, struct gm_exchange *x)
{
    if (x->cut || x->link->refused)
        return MHD_NO; /* the client left while it waited, or has its answer */
    if (!x->handled) {
        x->handled = true;
        gm_conn_move(http, x->link, GM_CONN_BUSY);
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
    gm_conn_move(http, x->link, GM_CONN_IDLE);
    if (x->close_after || http->draining)
        gm_conn_shut(http, x->link);
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
                            const struct gm_http_limits *limits, struct gm_err *err)
{
    struct gm_http *http = calloc(1, sizeof *http);
    *out = NULL;
    if (!http)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the HTTP server");
    http->hooks = *hooks;
    http->limits = *limits;
    raise_files();
    http->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (http->watch_fd >= 0)
        http->daemon = MHD_start_daemon(
            MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request,
            http, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET, listen_fd,
            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)GM_HTTP_POOL_BYTES,
            MHD_OPTION_CONNECTION_LIMIT, (unsigned)(limits->connections + REFUSED_ROOM),
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
            gm_conn_shut(http, c);
}

int gm_http_fds(struct gm_http *http, struct pollfd *fds, int max)
{
    if (max < 2)
        return 0;
    fds[0] = (struct pollfd){ .fd = http->epoll_fd, .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = http->watch_fd, .events = POLLIN };
    return 2;
}

void gm_http_run(struct gm_http *http)
{
    enum { ROUNDS_MAX = 8 };
    gm_conn_watch(http);
    gm_conn_look_for_late(http);
    (void)gm_exchange_tick(http);
    for (int i = 0; i < ROUNDS_MAX; i++) {
        http->again = false;
        MHD_run(http->daemon);
        gm_conn_look_for_hung(http);
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
    unsigned long long wait = 0;
    int ms = -1;
    if (http->again)
        return 0;
    if (MHD_get_timeout(http->daemon, &wait) == MHD_YES)
        ms = sooner(ms, wait > GM_HTTP_IDLE_MS ? GM_HTTP_IDLE_MS : (int64_t)wait);
    if (http->hung)
        ms = sooner(ms, GM_HUNG_MS);
    const int64_t late = gm_conn_next_ms(http);
    if (late >= 0)
        ms = sooner(ms, late);
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

struct gm_http_bytes gm_http_bytes(const struct gm_http *http)
{
    return (struct gm_http_bytes){ http->bytes_in, http->bytes_out,
                                   http->bodies_bytes + http->answers_bytes };
}
