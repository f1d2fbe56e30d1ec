/* conns.c - connections by what they wait for: deadlines, and who goes when there is no room.
 *
 * Owns:      the lists of connections (oldest first), answers past libmicrohttpd, shedding, the
 * watch for clients that hang up. Does not:  know what is asked (http.c) or answered (exchange.c).
 */
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "services/gateway/http_inner.h"

enum {
    ERROR_BYTES_MAX = 4096,
    WATCH_BURST = 64,
    YOUNG_MS = 1000,    /* a connection without a request may only just have come */
    LINGER_MS = 2000,   /* a refused body is read on and dropped, so that its client hears why */
    LINGERING_MAX = 64, /* past it the oldest of these ends at once */
    HUNG_MS = 1000,     /* what a client that hung up had sent is read by then, or not at all */
};

static const char full[] =
    "the server has all the connections it may have, and yours waited longest; try again";

/* ---- lists ------------------------------------------------------------------------------------
 */

static void unlink_conn(struct gm_http *http, struct gm_http_conn *c)
{
    struct gm_conn_list *list = &http->lists[c->state];
    *(c->prev ? &c->prev->next : &list->first) = c->next;
    *(c->next ? &c->next->prev : &list->last) = c->prev;
    c->prev = c->next = NULL;
    list->n--;
}

static void link_conn(struct gm_http *http, struct gm_http_conn *c, enum gm_conn_state state)
{
    struct gm_conn_list *list = &http->lists[state];
    c->state = state;
    c->since_ms = gm_now_ms();
    c->prev = list->last;
    *(list->last ? &list->last->next : &list->first) = c;
    list->last = c;
    list->n++;
}

void gm_conn_move(struct gm_http *http, struct gm_http_conn *c, enum gm_conn_state state)
{
    unlink_conn(http, c);
    link_conn(http, c, state);
}

struct gm_http_conn *gm_conn_new(struct gm_http *http, int fd)
{
    struct gm_http_conn *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->fd = fd;
    struct epoll_event e = { .events = EPOLLRDHUP | EPOLLET, .data.ptr = c };
    if (epoll_ctl(http->watch_fd, EPOLL_CTL_ADD, fd, &e) != 0)
        gm_warn("a connection is not watched for hang-up");
    http->n_conns++;
    gm_conn_shed(http);
    link_conn(http, c, GM_CONN_NEW);
    return c;
}

static void unlink_hung(struct gm_http *http, struct gm_http_conn *c)
{
    *(c->prev_hung ? &c->prev_hung->next_hung : &http->hung) = c->next_hung;
    if (c->next_hung)
        c->next_hung->prev_hung = c->prev_hung;
}

void gm_conn_free(struct gm_http *http, struct gm_http_conn *c)
{
    (void)epoll_ctl(http->watch_fd, EPOLL_CTL_DEL, c->fd, NULL);
    unlink_conn(http, c);
    if (c->hung)
        unlink_hung(http, c);
    http->n_conns--;
    if (c->shut)
        http->n_shut--;
    free(c->target);
    free(c);
}

/* ---- ended by us ------------------------------------------------------------------------------
 */

void gm_conn_shut(struct gm_http *http, struct gm_http_conn *c)
{
    if (c->shut)
        return;
    shutdown(c->fd, SHUT_RDWR);
    c->shut = true;
    http->n_shut++;
    http->again = true;
}

static void say(struct gm_http *http, const struct gm_http_conn *c, int status, const char *text)
{
    struct gm_buf body = GM_BUF(ERROR_BYTES_MAX), all = GM_BUF(2 * ERROR_BYTES_MAX);
    char id[33];
    gm_random_id(id, 24);
    http->hooks.error(http->hooks.self, &body, status, text);
    if (gm_buf_printf(&all, NULL,
                      "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nX-Request-Id: req-%s\r\n"
                      "%sConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                      status, MHD_get_reason_phrase_for((unsigned)status), id,
                      status == MHD_HTTP_SERVICE_UNAVAILABLE ? "Retry-After: 1\r\n" : "", body.len,
                      gm_buf_text(&body)) == GM_OK &&
        send(c->fd, all.data, all.len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        gm_debug("a refusal was not sent");
    gm_buf_free(&body);
    gm_buf_free(&all);
}

void gm_conn_shut_with(struct gm_http *http, struct gm_http_conn *c, int status, const char *text)
{
    if (c->shut)
        return;
    say(http, c, status, text);
    if (c->x)
        c->x->status = status;
    gm_conn_shut(http, c);
}

void gm_conn_refuse(struct gm_http *http, struct gm_http_conn *c, int status, const char *text)
{
    struct gm_exchange *x = c->x;
    if (c->shut || c->refused)
        return;
    say(http, c, status, text);
    c->refused = true;
    x->status = status;
    http->bodies_bytes -= x->counted;
    x->counted = 0;
    gm_buf_free(&x->body);
    shutdown(c->fd, SHUT_WR);
    gm_conn_move(http, c, GM_CONN_REFUSED);
    for (struct gm_http_conn *old = http->lists[GM_CONN_REFUSED].first;
         old && http->lists[GM_CONN_REFUSED].n > LINGERING_MAX + http->n_shut; old = old->next)
        gm_conn_shut(http, old);
}

/* ---- room -------------------------------------------------------------------------------------
 */

bool gm_conn_full(const struct gm_http *http)
{
    return http->n_conns - http->n_shut > http->limits.connections;
}

void gm_conn_shed(struct gm_http *http)
{
    static const struct {
        enum gm_conn_state state;
        int64_t age_ms; /* at least */
    } order[] = { { GM_CONN_REFUSED, 0 }, { GM_CONN_NEW, YOUNG_MS }, { GM_CONN_HEADERS, YOUNG_MS },
                  { GM_CONN_IDLE, 0 },    { GM_CONN_NEW, 0 },        { GM_CONN_HEADERS, 0 },
                  { GM_CONN_BODY, 0 } };
    const int64_t now = gm_now_ms();
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        for (struct gm_http_conn *c = http->lists[order[i].state].first;
             c && gm_conn_full(http) && now - c->since_ms >= order[i].age_ms; c = c->next)
            if (c->state == GM_CONN_REFUSED || c->state == GM_CONN_IDLE)
                gm_conn_shut(http, c);
            else
                gm_conn_shut_with(http, c, MHD_HTTP_SERVICE_UNAVAILABLE, full);
}

bool gm_conn_make_room(struct gm_http *http, const struct gm_http_conn *self, size_t bytes)
{
    for (struct gm_http_conn *c = http->lists[GM_CONN_BODY].first, *next;
         c && c != self && http->bodies_bytes + bytes > GM_HTTP_BODIES_BYTES_MAX; c = next) {
        next = c->next;
        if (c->x && c->x->counted > 0)
            gm_conn_refuse(http, c, MHD_HTTP_SERVICE_UNAVAILABLE, gm_bodies_full);
    }
    return http->bodies_bytes + bytes <= GM_HTTP_BODIES_BYTES_MAX;
}

const char gm_bodies_full[] =
    "the bodies in flight fill the 64 MiB that the server has for them; try again in a moment";

/* ---- hang-up ----------------------------------------------------------------------------------
 */

void gm_conn_watch(struct gm_http *http)
{
    struct epoll_event e[WATCH_BURST];
    int n;
    do {
        n = epoll_wait(http->watch_fd, e, WATCH_BURST, 0);
        for (int i = 0; i < n; i++) {
            struct gm_http_conn *c = e[i].data.ptr;
            if (c->hung)
                continue;
            c->hung = true;
            c->hung_ms = gm_now_ms();
            c->next_hung = http->hung;
            if (http->hung)
                http->hung->prev_hung = c;
            http->hung = c;
        }
    } while (n == WATCH_BURST);
}

void gm_conn_look_for_hung(struct gm_http *http)
{
    for (struct gm_http_conn *c = http->hung; c; c = c->next_hung) {
        int unread = 0;
        if (c->shut)
            continue;
        if (c->x && c->x->suspended) {
            struct gm_exchange *x = c->x;
            gm_exchange_gone(x);
            gm_exchange_resume(x);
        } else if (c->state != GM_CONN_BUSY && c->state != GM_CONN_SENDING &&
                   (ioctl(c->fd, FIONREAD, &unread) != 0 || unread == 0 ||
                    gm_now_ms() - c->hung_ms > GM_HUNG_MS)) {
            gm_conn_shut(http, c); /* what it sent was read, and no more comes */
        }
    }
}

/* ---- time -------------------------------------------------------------------------------------
 */

/* Milliseconds a connection may be in a state; 0: as long as it likes. */
static int64_t limit_ms(const struct gm_http *http, enum gm_conn_state state)
{
    switch (state) {
    case GM_CONN_NEW:
    case GM_CONN_HEADERS:
        return http->limits.headers_ms;
    case GM_CONN_BODY:
        return http->limits.body_ms;
    case GM_CONN_IDLE:
        return http->limits.idle_ms;
    case GM_CONN_SENDING:
        return http->limits.stall_ms;
    case GM_CONN_REFUSED:
        return LINGER_MS;
    default:
        return 0;
    }
}

void gm_conn_look_for_late(struct gm_http *http)
{
    static const char *const sentences[GM_CONN_STATES] = {
        [GM_CONN_NEW] = "no request came in the time for headers; connect again",
        [GM_CONN_HEADERS] = "the headers did not come in the time for headers; send again",
        [GM_CONN_BODY] = "the body did not come in the time for bodies; send again",
    };
    const int64_t now = gm_now_ms();
    for (int i = 0; i < GM_CONN_STATES; i++) {
        const int64_t ms = limit_ms(http, (enum gm_conn_state)i);
        for (struct gm_http_conn *c = http->lists[i].first; ms && c && now - c->since_ms >= ms;
             c = c->next)
            if (sentences[i])
                gm_conn_shut_with(http, c, MHD_HTTP_REQUEST_TIMEOUT, sentences[i]);
            else
                gm_conn_shut(http, c);
    }
}

int64_t gm_conn_next_ms(const struct gm_http *http)
{
    const int64_t now = gm_now_ms();
    int64_t least = -1;
    for (int i = 0; i < GM_CONN_STATES; i++) {
        const int64_t ms = limit_ms(http, (enum gm_conn_state)i);
        const struct gm_http_conn *c = http->lists[i].first;
        while (c && c->shut)
            c = c->next;
        if (!ms || !c)
            continue;
        const int64_t left = c->since_ms + ms > now ? c->since_ms + ms - now : 0;
        if (least < 0 || left < least)
            least = left;
    }
    return least;
}
