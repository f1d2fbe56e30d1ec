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
    GM_CONN_BUSY,    /* the request is whole: its answer is made, or its events are sent */
    GM_CONN_SENDING, /* the whole answer is there: since its last bytes were taken */
    GM_CONN_REFUSED, /* an answer was sent past libmicrohttpd; the body is read on and dropped */
    GM_CONN_STATES
};

enum { GM_HUNG_MS = 1000 }; /* what a client that hung up had sent is read by then, or never */

struct gm_http_conn {
    int fd;
    enum gm_conn_state state;
    int64_t since_ms;
    bool shut;       /* we ended it */
    bool refused;    /* in the middle of its body */
    bool hung;       /* the client sends no more */
    int64_t hung_ms; /* since when */
    char *target;    /* owned: of the request that comes in; the exchange takes it over */
    struct gm_exchange *x;
    struct gm_http_conn *prev, *next, *prev_hung, *next_hung;
};

struct gm_conn_list {
    struct gm_http_conn *first, *last;
    size_t n;
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
    struct gm_http_limits limits;
    struct MHD_Daemon *daemon;
    int epoll_fd, watch_fd;
    struct gm_conn_list lists[GM_CONN_STATES];
    struct gm_http_conn *hung;
    struct gm_exchange *streams;
    size_t n_conns, n_shut;
    size_t bodies_bytes;          /* of requests that are not whole */
    size_t answers_bytes;         /* that wait for their readers */
    uint64_t bytes_in, bytes_out; /* of bodies and answers, since the start */
    bool again, draining;
};

/* ---- conns.c ---- */
/* Counts and lists it, and sheds another one when there is no room; NULL: no memory. */
struct gm_http_conn *gm_conn_new(struct gm_http *http, int fd);
void gm_conn_free(struct gm_http *http, struct gm_http_conn *c);
/* To the end of the list of `state`, with its time beginning now. */
void gm_conn_move(struct gm_http *http, struct gm_http_conn *c, enum gm_conn_state state);
/* The socket ends, once; libmicrohttpd sees it and frees the connection in its next round. */
void gm_conn_shut(struct gm_http *http, struct gm_http_conn *c);
/* The same behind an answer past libmicrohttpd, which cannot answer what is not complete. */
void gm_conn_shut_with(struct gm_http *http, struct gm_http_conn *c, int status, const char *text);
/* Answers a request (c->x) in the middle of its body and gives the body's memory back; the rest is
 * read and dropped for a moment: a closed socket with unread bytes would reset the connection, and
 * the client might not see the answer. */
void gm_conn_refuse(struct gm_http *http, struct gm_http_conn *c, int status, const char *text);
bool gm_conn_full(const struct gm_http *http);
/* Ends unfinished connections, oldest first, until they are no more than may be. */
void gm_conn_shed(struct gm_http *http);
/* Refuses the oldest unfinished bodies before self's until `bytes` more fit; false: they do not. */
bool gm_conn_make_room(struct gm_http *http, const struct gm_http_conn *self, size_t bytes);
extern const char gm_bodies_full[];
/* Takes note of clients that hung up. libmicrohttpd misses it where the end came together with the
 * last bytes, and while a request is suspended. */
void gm_conn_watch(struct gm_http *http);
/* After libmicrohttpd has read what there was: ends what waits for these clients. One that has sent
 * a whole request and then only closed its side has hung up too, unless its answer is ready. */
void gm_conn_look_for_hung(struct gm_http *http);
/* Ends connections whose time is over. */
void gm_conn_look_for_late(struct gm_http *http);
int64_t gm_conn_next_ms(const struct gm_http *http); /* -1: never */

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
