/* http_inner.h - what http.c and exchange.c share.
 *
 * Owns:      the struct of the server, of a connection and of an event stream's queue.
 * Does not:  go to anybody else.
 */
#ifndef GM_GATEWAY_HTTP_INNER_H
#define GM_GATEWAY_HTTP_INNER_H

#include <microhttpd.h>

#include "services/gateway/http.h"

/* What a connection waits for; each state has a list, oldest first, so that a deadline is a look at
 * its head. */
enum gm_conn_state {
    GM_CONN_NEW,     /* connected, no request yet */
    GM_CONN_IDLE,    /* between two requests */
    GM_CONN_HEADERS, /* a request line has come */
    GM_CONN_BODY,    /* the headers have */
    GM_CONN_BUSY,    /* the request is whole: its answer is made or sent */
    GM_CONN_STATES
};

struct gm_http_conn {
    int fd;
    enum gm_conn_state state;
    int64_t since_ms;
    bool shut;    /* we ended it */
    char *target; /* owned: of the request that comes in; the exchange takes it over */
    struct gm_exchange *x;
    struct gm_http_conn *prev, *next;
};

struct gm_conn_list {
    struct gm_http_conn *first, *last;
};

/* Events that wait for the reader: bytes, and the ends of the events in them. */
struct gm_answer_queue {
    struct gm_buf bytes;
    size_t at;      /* bytes the reader has taken */
    uint32_t *ends; /* owned: offsets behind each event; a ring would not pay: it empties quickly */
    size_t n, first; /* ends in use, the first not taken */
    size_t cap;
    bool idle; /* the reader waits, suspended */
    int64_t moved_ms;
    struct gm_exchange *prev, *next; /* streams of the server */
};

struct gm_http {
    struct gm_http_hooks hooks;
    struct MHD_Daemon *daemon;
    int epoll_fd, watch_fd;
    struct gm_conn_list lists[GM_CONN_STATES];
    struct gm_exchange *streams;
    size_t n_conns;
    size_t bodies_bytes;
    bool again, draining;
};

/* ---- exchange.c ---- */
struct gm_exchange *gm_exchange_new(struct gm_http *http, struct MHD_Connection *conn,
                                    struct gm_http_conn *link, const char *method);
void gm_exchange_free(struct gm_exchange *x);
/* Hands what was answered to libmicrohttpd; MHD_NO closes the connection. */
enum MHD_Result gm_exchange_queue(struct gm_exchange *x);
void gm_exchange_suspend(struct gm_exchange *x);
void gm_exchange_resume(struct gm_exchange *x);
/* The client is gone: tells the handler once. */
void gm_exchange_gone(struct gm_exchange *x);
/* Pings silent streams and cuts off readers that stand still; ms to the next look, -1: none. */
int gm_exchange_tick(struct gm_http *http);

#endif
