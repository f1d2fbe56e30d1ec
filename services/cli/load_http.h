/* load_http.h - reading an HTTP/1.1 reply and server-sent events, wherever the bytes are cut.
 *
 * Owns:      the state of one reply, the state of one stream of events, their limits.
 * Does not:  know sockets (load_link.h), JSON, or what is asked.
 */
#ifndef GM_LOAD_HTTP_H
#define GM_LOAD_HTTP_H

#include "common/common.h"

enum {
    GM_HTTP_LINE_MAX = 16 << 10,  /* status line, one header, one chunk's size */
    GM_HTTP_HEADS_MAX = 64 << 10, /* all header lines of a reply, trailers with them */
    GM_HTTP_INTERIM_MAX = 8,      /* replies 1xx before the real one */
    GM_SSE_EVENT_MAX = 1 << 20,   /* one line, and the data of one event */
};

/* What takes a piece of a body, or an event; a status that is not GM_OK ends the reading. */
typedef enum gm_status gm_http_sink(void *ctx, const char *bytes, size_t n, struct gm_err *err);

enum gm_http_at {
    GM_HTTP_STATUS,
    GM_HTTP_HEADER,
    GM_HTTP_BODY,       /* `left` bytes to come */
    GM_HTTP_BODY_CLOSE, /* until the connection is closed */
    GM_HTTP_CHUNK_SIZE,
    GM_HTTP_CHUNK_DATA,
    GM_HTTP_CHUNK_END,
    GM_HTTP_TRAILER,
    GM_HTTP_DONE,
};

struct gm_http_reply {
    enum gm_http_at at;
    int status;            /* 200 ... ; 0 before the status line */
    bool keep;             /* the connection may carry another request after this reply */
    bool chunked, sized;   /* how the body's end is found; neither: close */
    bool started;          /* at least one byte was read */
    int interim;           /* replies 1xx so far */
    uint64_t left;         /* of the body, or of the chunk */
    int64_t retry_after_s; /* -1: no such header, or one that is a date */
    size_t heads;          /* bytes of header lines so far */
    struct gm_buf line;    /* the line that is not whole yet; owned */
};

/* Ready for the first byte of a reply; keeps the memory of an earlier one. A zeroed struct will
 * do before the first call. */
void gm_http_reply_begin(struct gm_http_reply *r);
void gm_http_reply_free(struct gm_http_reply *r);

/* Takes bytes until the reply is done (at == GM_HTTP_DONE) or they end; *used says how many. Body
 * bytes go to `sink` as they come. GM_DATA_LOSS: this is no HTTP reply, with a sentence that says
 * what is wrong; GM_EXHAUSTED: a line or the headers are too long; else what the sink gave. */
enum gm_status gm_http_reply_feed(struct gm_http_reply *r, const char *bytes, size_t n,
                                  size_t *used, gm_http_sink *sink, void *ctx, struct gm_err *err);

/* The connection was closed. GM_OK: the reply is whole (it is GM_HTTP_DONE now); GM_DATA_LOSS: it
 * is cut. */
enum gm_status gm_http_reply_end(struct gm_http_reply *r, struct gm_err *err);

struct gm_sse {
    bool after_cr; /* a line feed that follows belongs to the carriage return before it */
    bool has_data;
    struct gm_buf line, data; /* owned */
};

void gm_sse_begin(struct gm_sse *s);
void gm_sse_free(struct gm_sse *s);

/* Calls `event` with the data of each event that is whole (lines of data joined by line feeds);
 * comments and other fields are skipped. GM_EXHAUSTED: an event is too long; else what the event
 * gave. */
enum gm_status gm_sse_feed(struct gm_sse *s, const char *bytes, size_t n, gm_http_sink *event,
                           void *ctx, struct gm_err *err);

#endif
