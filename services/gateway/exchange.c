/* exchange.c - one request and its answer: see http.h.
 *
 * Owns:      what is known of a request, the answer's headers, the queue of an event stream, pings,
 *            readers that stand still.
 * Does not:  know connections that have no request (http.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "services/gateway/http_inner.h"

static const char ping[] = ": ping\n\n";
static const char event_stream[] = "text/event-stream; charset=utf-8";
enum {
    PIECE_BYTES = 32 << 10, /* a whole answer larger than this is handed on in such pieces */
};

/* What the answer holds in memory now. False: all answers together would hold too much. */
static bool hold(struct gm_exchange *x, size_t bytes)
{
    struct gm_http *http = x->http;
    if (bytes > x->held && http->answers_bytes + (bytes - x->held) > GM_HTTP_ANSWERS_BYTES_MAX)
        return false;
    http->answers_bytes += bytes - x->held; /* modulo arithmetic: also less */
    x->held = bytes;
    return true;
}

/* A client may name its request, in characters that are safe in a header and in a log. */
static bool id_ok(const char *id)
{
    const size_t n = id ? strlen(id) : 0;
    return n > 0 && n < GM_HTTP_ID_BYTES &&
           strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

struct gm_exchange *gm_exchange_new(struct gm_http *http, struct MHD_Connection *conn,
                                    struct gm_http_conn *link, const char *method)
{
    struct gm_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return NULL;
    x->http = http;
    x->conn = conn;
    x->link = link;
    x->target = link->target ? link->target : strdup("/");
    link->target = NULL;
    if (!x->target) {
        free(x);
        return NULL;
    }
    x->method = method;
    x->begun_ms = gm_now_ms();
    x->body = GM_BUF(GM_HTTP_BODY_BYTES_MAX);
    const char *id = gm_exchange_header(x, "X-Request-Id");
    if (id_ok(id)) {
        snprintf(x->id, sizeof x->id, "%s", id);
    } else {
        memcpy(x->id, "req-", 4);
        gm_random_id(x->id + 4, 24);
    }
    return x;
}

static void queue_free(struct gm_exchange *x)
{
    struct gm_answer_queue *q = x->queue;
    if (!q)
        return;
    if (q->prev)
        q->prev->queue->next = q->next;
    else
        x->http->streams = q->next;
    if (q->next)
        q->next->queue->prev = q->prev;
    gm_buf_free(&q->bytes);
    free(q->ends);
    free(q);
    x->queue = NULL;
}

void gm_exchange_free(struct gm_exchange *x)
{
    queue_free(x);
    (void)hold(x, 0);
    x->http->bodies_bytes -= x->counted;
    gm_buf_free(&x->body);
    gm_buf_free(&x->reply);
    free((void *)(uintptr_t)x->target);
    free(x);
}

/* ---- what the request says ------------------------------------------------------------------- */

const char *gm_exchange_header(const struct gm_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->conn, MHD_HEADER_KIND, name);
}

const char *gm_exchange_cookie(const struct gm_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->conn, MHD_COOKIE_KIND, name);
}

/* ---- waiting ----------------------------------------------------------------------------------
 */

void gm_exchange_suspend(struct gm_exchange *x)
{
    if (x->suspended)
        return;
    x->suspended = true;
    MHD_suspend_connection(x->conn);
    x->http->again |= x->link->hung; /* nobody waits for the answer */
}

void gm_exchange_resume(struct gm_exchange *x)
{
    if (!x->suspended)
        return;
    x->suspended = false;
    MHD_resume_connection(x->conn);
    x->http->again = true;
}

void gm_exchange_gone(struct gm_exchange *x)
{
    x->cut = true;
    if (x->handled && !x->replied && !x->ended) {
        void (*tell)(void *) = x->on_gone;
        x->on_gone = NULL;
        x->ended = true;
        if (!x->status)
            x->status = GM_STATUS_GONE;
        if (tell)
            tell(x->user);
    }
}

/* ---- answering --------------------------------------------------------------------------------
 */

void gm_exchange_set(struct gm_exchange *x, const char *name, const char *value)
{
    const size_t have = strlen(x->headers), left = sizeof x->headers - have;
    const int n = snprintf(x->headers + have, left, "%s: %s\n", name, value);
    if (n < 0 || (size_t)n >= left) {
        x->headers[have] = 0;
        gm_warn("a header did not fit name=%s", name);
    }
}

static void answered(struct gm_exchange *x, int status, const char *type)
{
    x->replied = true;
    x->status = status;
    x->type = type;
    if (x->suspended)
        gm_exchange_resume(x);
}

void gm_exchange_reply(struct gm_exchange *x, int status, const char *type, struct gm_buf *body)
{
    static const char full[] =
        "{\"error\":{\"message\":\"the answers in flight fill the 256 MiB that the server has for "
        "them; try again in a moment\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    if (x->replied || x->streaming || x->cut)
        return;
    if (!hold(x, body->cap)) {
        gm_exchange_set(x, "Retry-After", "1");
        gm_exchange_fixed(x, 503, "application/json", full, sizeof full - 1);
        return;
    }
    x->reply = *body;
    *body = GM_BUF(body->max);
    answered(x, status, type);
}

void gm_exchange_fixed(struct gm_exchange *x, int status, const char *type, const void *bytes,
                       size_t n)
{
    if (x->replied || x->streaming || x->cut)
        return;
    x->fixed = bytes;
    x->fixed_len = n;
    answered(x, status, type);
}

static void put_headers(const struct gm_exchange *x, struct MHD_Response *r)
{
    char line[sizeof x->headers];
    MHD_add_response_header(r, "Content-Type", x->type);
    MHD_add_response_header(r, "X-Request-Id", x->id);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    memcpy(line, x->headers, sizeof line);
    for (char *at = line, *next; *at; at = next) {
        next = at + strcspn(at, "\n");
        if (*next)
            *next++ = 0;
        char *value = strstr(at, ": ");
        if (!value)
            continue;
        *value = 0;
        MHD_add_response_header(r, at, value + 2);
    }
}

/* libmicrohttpd asks for bytes of the stream: one event, or a part of a long one. */
static ssize_t take_events(void *ctx, uint64_t pos, char *out, size_t max)
{
    struct gm_exchange *x = ctx;
    struct gm_answer_queue *q = x->queue;
    (void)pos;
    if (x->cut)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    q->moved_ms = gm_now_ms();
    if (q->first == q->n) {
        if (x->ended)
            return MHD_CONTENT_READER_END_OF_STREAM;
        q->idle = true;
        gm_exchange_suspend(x);
        return 0;
    }
    size_t n = q->ends[q->first] - q->at;
    if (n > max)
        n = max;
    if (n > GM_HTTP_CHUNK_BYTES)
        n = GM_HTTP_CHUNK_BYTES;
    memcpy(out, q->bytes.data + q->at, n);
    x->http->bytes_out += n;
    q->at += n;
    if (q->at == q->ends[q->first])
        q->first++;
    if (q->first == q->n) {
        gm_buf_free(&q->bytes);
        (void)hold(x, 0);
        q->first = q->n = q->at = 0;
    }
    return (ssize_t)n;
}

/* libmicrohttpd asks for more of a large answer: the reader has taken what was before. */
static ssize_t take_piece(void *ctx, uint64_t pos, char *out, size_t max)
{
    struct gm_exchange *x = ctx;
    const char *bytes = x->fixed ? x->fixed : x->reply.data;
    const size_t all = x->fixed ? x->fixed_len : x->reply.len;
    if (pos >= all)
        return MHD_CONTENT_READER_END_OF_STREAM;
    const size_t n = all - (size_t)pos < max ? all - (size_t)pos : max;
    memcpy(out, bytes + pos, n);
    gm_conn_move(x->http, x->link, GM_CONN_SENDING); /* its time begins again */
    return (ssize_t)n;
}

static struct MHD_Response *whole(struct gm_exchange *x)
{
    const size_t n = x->fixed ? x->fixed_len : x->reply.len;
    gm_conn_move(x->http, x->link, GM_CONN_SENDING);
    x->http->bytes_out += n;
    if (n > PIECE_BYTES)
        return MHD_create_response_from_callback(n, PIECE_BYTES, take_piece, x, NULL);
    return MHD_create_response_from_buffer(
        n, x->fixed ? (void *)(uintptr_t)x->fixed : (void *)(uintptr_t)gm_buf_text(&x->reply),
        MHD_RESPMEM_PERSISTENT);
}

enum MHD_Result gm_exchange_queue(struct gm_exchange *x)
{
    struct MHD_Response *r =
        x->streaming ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, GM_HTTP_CHUNK_BYTES,
                                                         take_events, x, NULL)
                     : whole(x);
    if (!r)
        return MHD_NO;
    put_headers(x, r);
    if (x->http->draining)
        MHD_add_response_header(r, "Connection", "close");
    const enum MHD_Result rc = MHD_queue_response(x->conn, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return rc;
}

/* ---- event streams ----------------------------------------------------------------------------
 */

void gm_exchange_stream(struct gm_exchange *x)
{
    if (x->replied || x->streaming || x->cut)
        return;
    x->queue = calloc(1, sizeof *x->queue);
    if (!x->queue) {
        x->fixed = "";
        answered(x, 503, "text/plain");
        return;
    }
    x->queue->bytes = GM_BUF(GM_HTTP_ANSWER_BYTES_MAX);
    x->queue->moved_ms = gm_now_ms();
    x->queue->next = x->http->streams;
    if (x->http->streams)
        x->http->streams->queue->prev = x;
    x->http->streams = x;
    x->streaming = true;
    x->status = 200;
    x->type = event_stream;
    gm_exchange_set(x, "Cache-Control", "no-cache");
    gm_exchange_set(x, "X-Accel-Buffering", "no");
    gm_exchange_resume(x); /* of the wait for an answer */
}

static bool add_event(struct gm_exchange *x, const char *text, size_t n)
{
    struct gm_answer_queue *q = x->queue;
    if (q->n == q->cap) {
        const size_t cap = q->cap ? q->cap * 2 : 16;
        uint32_t *more = realloc(q->ends, cap * sizeof *more);
        if (!more)
            return false;
        q->ends = more;
        q->cap = cap;
    }
    if (gm_buf_append(&q->bytes, text, n, NULL) != GM_OK || !hold(x, q->bytes.cap))
        return false;
    q->ends[q->n++] = (uint32_t)q->bytes.len;
    return true;
}

void gm_exchange_event(struct gm_exchange *x, const char *text, size_t n)
{
    struct gm_answer_queue *q = x->queue;
    if (!x->streaming || x->ended || x->cut || n == 0)
        return;
    if (n > GM_HTTP_EVENT_BYTES_MAX || !add_event(x, text, n)) {
        /* the handler is told later, by on_completed: it is in the middle of an answer now */
        gm_warn("a reader is too slow for its answer and is cut off id=%s", x->id);
        x->cut = true;
        gm_conn_shut(x->http, x->link);
    }
    if (q->idle) {
        q->idle = false;
        q->moved_ms = gm_now_ms();
        gm_exchange_resume(x);
    }
}

void gm_exchange_end(struct gm_exchange *x, bool close)
{
    if (!x->streaming || x->ended)
        return;
    x->ended = true;
    x->close_after = close;
    if (x->queue->idle) {
        x->queue->idle = false;
        gm_exchange_resume(x);
    }
}

int gm_exchange_tick(struct gm_http *http)
{
    const int64_t now = gm_now_ms();
    int64_t least = -1;
    for (struct gm_exchange *x = http->streams, *next; x; x = next) {
        struct gm_answer_queue *q = x->queue;
        next = q->next;
        const int64_t limit = q->idle ? GM_HTTP_PING_MS : http->limits.stall_ms;
        int64_t left = q->moved_ms + limit - now;
        if (left <= 0 && q->idle) {
            gm_exchange_event(x, ping, sizeof ping - 1);
            left = GM_HTTP_PING_MS;
        } else if (left <= 0 && !x->cut) {
            gm_warn("a reader takes nothing and is cut off id=%s", x->id);
            x->cut = true;
            gm_conn_shut(http, x->link);
        }
        if (left > 0 && (least < 0 || left < least))
            least = left;
    }
    return (int)least;
}
