/* http.h - HTTP without knowing what is served: connections, requests, answers, event streams.
 *
 * Owns:      libmicrohttpd (external epoll mode), every limit of a connection in bytes and time,
 *            suspended requests and the watch for their hang-up, the buffer of an answer.
 * Does not:  know routes, keys or JSON (route.c, edge.c), or start threads.
 * Threads:   the loop thread only.
 *
 * A request that waits is suspended: libmicrohttpd then neither reads its socket nor counts time
 * for it, so this file watches the socket and keeps the deadlines.
 */
#ifndef GM_GATEWAY_HTTP_H
#define GM_GATEWAY_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum {
    GM_HTTP_CONNECTIONS_MAX = 12000,       /* past it: 503 */
    GM_HTTP_POOL_BYTES = 8192,             /* of one connection: bounds request line and headers */
    GM_HTTP_BODY_BYTES_MAX = 8 << 20,      /* one request's body: 413 */
    GM_HTTP_BODIES_BYTES_MAX = 64 << 20,   /* bodies in flight over all connections: 503 */
    GM_HTTP_BODIES_MAX = 2048,             /* requests whose bodies are on their way: 503 */
    GM_HTTP_EVENT_BYTES_MAX = 8 << 20,     /* one event of a stream */
    GM_HTTP_ANSWER_BYTES_MAX = 32 << 20,   /* events that wait for a slow reader: it is cut off */
    GM_HTTP_ANSWERS_BYTES_MAX = 256 << 20, /* answers in flight over all connections: 503 */
    GM_HTTP_CHUNK_BYTES = 4096,            /* one event is one chunk, a longer one several */
    GM_HTTP_HEADERS_MS = 15000, /* from a connection, or a request line, to all headers */
    GM_HTTP_BODY_MS = 30000,    /* from the headers to the end of the body: 408 */
    GM_HTTP_IDLE_MS = 300000,   /* between two requests of a connection */
    GM_HTTP_STALL_MS = 60000,   /* a reader that takes nothing of what waits for it */
    GM_HTTP_PING_MS = 10000,    /* silence of an event stream before a comment is sent */
    GM_STATUS_GONE = 499,       /* nginx's number for a client that left before its answer */
    GM_HTTP_BACKLOG = 1024,
    GM_HTTP_ID_BYTES = 65, /* of a request id, with the ending 0 */
};

/* What an operator may set otherwise; the other limits are fixed. */
struct gm_http_limits {
    size_t connections;
    int64_t headers_ms, body_ms, idle_ms, stall_ms;
};

struct MHD_Connection;
struct gm_http;

/* One request and its answer. Read what stands here; change it only through the functions.
 * It lives from the headers to the end of the answer. */
struct gm_exchange {
    struct gm_http *http;
    const char *method;
    const char *target;        /* path and query as they stand in the request line */
    struct gm_buf body;        /* whole when `handle` is called */
    char id[GM_HTTP_ID_BYTES]; /* x-request-id: the client's, or made here */
    int64_t begun_ms;
    int status;        /* of the answer; 0: none yet; 499: the client left before it */
    bool streaming;    /* an event stream was begun */
    void *user;        /* the handler's */
    const char *label; /* the handler's: a static name of the route, for counting */
    /* The client went away before the answer was complete; the exchange is gone after it returns.
     * Not called after gm_exchange_reply or gm_exchange_end. May be NULL. */
    void (*on_gone)(void *user);
    /* private to http.c and exchange.c */
    struct MHD_Connection *conn;
    struct gm_http_conn *link;
    struct gm_answer_queue *queue;
    bool checked, suspended, handled, replied, ended, close_after, cut;
    size_t counted; /* bytes of the body that are counted in bodies in flight */
    size_t held;    /* bytes of the answer that are counted in answers in flight */
    struct gm_buf reply;
    char headers[768]; /* further headers: "Name: value\n" lines */
    const char *type;
    const void *fixed; /* a static answer instead of `reply` */
    size_t fixed_len;
};

struct gm_http_hooks {
    void *self;
    /* The headers are there, the body is not. To refuse: answer (gm_exchange_reply). */
    void (*check)(void *self, struct gm_exchange *x);
    /* The whole request is there. Answers now, or keeps x (set on_gone) and answers later. */
    void (*handle)(void *self, struct gm_exchange *x);
    /* The exchange ends, answered or not. */
    void (*done)(void *self, const struct gm_exchange *x);
    /* Appends the JSON of an error to out, for refusals that http.c makes itself. */
    void (*error)(void *self, struct gm_buf *out, int status, const char *sentence);
};

/* Serves on a listening socket, which becomes ours. GM_EXHAUSTED: no memory or descriptors. */
enum gm_status gm_http_open(struct gm_http **out, int listen_fd, const struct gm_http_hooks *hooks,
                            const struct gm_http_limits *limits, struct gm_err *err);
void gm_http_close(struct gm_http **http);
/* No further connections; idle ones are closed, and each other one after its answer. */
void gm_http_drain(struct gm_http *http);

struct pollfd;
int gm_http_fds(struct gm_http *http, struct pollfd *fds, int max);
/* Does what is ready: call it when a descriptor is, when something was resumed, and after
 * gm_http_next_ms. */
void gm_http_run(struct gm_http *http);
/* Milliseconds until gm_http_run must be called (0: now); -1: never. */
int gm_http_next_ms(struct gm_http *http);
size_t gm_http_connections(const struct gm_http *http);
size_t gm_http_streams(const struct gm_http *http);
/* Bytes of bodies and answers: taken and given since the start, and held in memory now. */
struct gm_http_bytes {
    uint64_t in, out, held;
};
struct gm_http_bytes gm_http_bytes(const struct gm_http *http);

/* ---- one exchange -----------------------------------------------------------------------------
 */
/* The value of a header or a cookie; NULL: not sent. Valid while the exchange lives. */
const char *gm_exchange_header(const struct gm_exchange *x, const char *name);
const char *gm_exchange_cookie(const struct gm_exchange *x, const char *name);
/* Adds a header to the answer; one that does not fit is left out and logged. */
void gm_exchange_set(struct gm_exchange *x, const char *name, const char *value);

/* Answers with a body of `type`, taken over from *body (which is empty after). Once. */
void gm_exchange_reply(struct gm_exchange *x, int status, const char *type, struct gm_buf *body);
/* The same with bytes that outlive the server. */
void gm_exchange_fixed(struct gm_exchange *x, int status, const char *type, const void *bytes,
                       size_t n);
/* Begins an event stream (200, text/event-stream); then events, each one text with its empty line;
 * then the end. close: the connection is closed behind it. */
void gm_exchange_stream(struct gm_exchange *x);
void gm_exchange_event(struct gm_exchange *x, const char *text, size_t n);
void gm_exchange_end(struct gm_exchange *x, bool close);

#endif
