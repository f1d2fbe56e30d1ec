/* zap.c - the door of an inbox over TCP: see zap.h.
 *
 * Owns:      the thread, its two sockets, the table of addresses behind descriptors.
 * Does not:  share anything that changes with the loop.
 */
#include "common/net/zap.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <zmq.h>

#include "common/base/log.h"

enum {
    FRAME_MAX = 256,   /* bytes of a request's frame that are looked at */
    FRAMES_MAX = 7,    /* of a request with a key */
    ADDRESSES = 256,   /* connections whose address is remembered */
    ADDRESS_MAX = 64,  /* bytes of "[ADDRESS]:PORT" */
    MONITOR_QUEUE = 0, /* unlimited: ZeroMQ's own thread would wait for us */
    EVENTS_MAX = 64,   /* that are taken at a time */
    EVENTS = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
             ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL,
};

static const char handler_name[] = "inproc://zeromq.zap.01";
static const char monitor_name[] = "inproc://gemline.monitor";

/* The frames of a request, in order. */
enum { VERSION, ID, DOMAIN_, ADDRESS, ROUTING_ID, MECHANISM, KEY };

struct request {
    size_t len[FRAMES_MAX];
    uint8_t frame[FRAMES_MAX][FRAME_MAX];
};

/* Why a connection is refused. Each has a limit of its own: many of one kind hide no other. */
enum reason { REASON_NONE, PLAIN, UNLISTED, OTHER_KEY, UNFINISHED, BROKEN, REASONS };
static const char *const reason_text[REASONS] = {
    [PLAIN] = "a plain client: it has no key (CURVE)",
    [UNLISTED] = "a key that the address book does not list",
    [OTHER_KEY] = "keys that do not fit: it was told another key of this server, or has not the "
                  "secret half of its own",
    /* Where both notice that their mechanisms differ, either may hang up first. */
    [UNFINISHED] = "it left before it showed a key: a plain client, a scan or a probe",
    [BROKEN] = "it breaks the protocol of the handshake",
};

struct event {
    uint16_t what;
    uint32_t value;
};

struct gm_zap {
    pthread_t thread;
    bool running;
    void *handler, *monitor;
    const struct gm_book *book;
    struct gm_log_limit limit[REASONS];
    /* Who is behind a descriptor: a failed handshake names none, the hang-up behind it does. */
    struct {
        int fd; /* + 1; 0: free */
        char text[ADDRESS_MAX];
    } address[ADDRESSES];
    size_t next;        /* the one to be written over */
    enum reason failed; /* of the connection that ends next */
    struct event events[EVENTS_MAX];
    size_t n_events;
};

/* key: "" or what else is known of it. */
static void say(struct gm_zap *z, enum reason why, const char *address, const char *key)
{
    uint32_t dropped = 0;
    if (!gm_log_pass(&z->limit[why], &dropped))
        return;
    gm_warn("connection refused: %s%s%s from=%s before=%u", reason_text[why], key[0] ? " key=" : "",
            key, address, dropped);
}

/* ---- keys -------------------------------------------------------------------------------------
 */

/* Reads one request. False: it has another form, or the context ends. */
static bool take_request(void *handler, struct request *r)
{
    int more = 1, n = 0;
    size_t size = sizeof more;
    memset(r, 0, sizeof *r);
    for (; more; n++) {
        uint8_t rest[FRAME_MAX];
        const bool wanted = n < FRAMES_MAX;
        const int len = zmq_recv(handler, wanted ? r->frame[n] : rest, FRAME_MAX, 0);
        if (len < 0 || zmq_getsockopt(handler, ZMQ_RCVMORE, &more, &size) != 0)
            return false;
        if (wanted)
            r->len[n] = len < FRAME_MAX ? (size_t)len : FRAME_MAX;
    }
    return n == FRAMES_MAX;
}

static bool frame_is(const struct request *r, int frame, const char *text)
{
    return r->len[frame] == strlen(text) && memcmp(r->frame[frame], text, r->len[frame]) == 0;
}

/* The row that a request's key belongs to; NULL with the reason. */
static const struct gm_book_row *judge(const struct gm_zap *z, const struct request *r,
                                       enum reason *why)
{
    *why = BROKEN;
    if (!frame_is(r, VERSION, "1.0") || !frame_is(r, DOMAIN_, GM_ZAP_DOMAIN))
        return NULL;
    *why = PLAIN;
    if (!frame_is(r, MECHANISM, "CURVE") || r->len[KEY] != GM_CURVE_BYTES)
        return NULL;
    *why = UNLISTED;
    return gm_book_key(z->book, r->frame[KEY]);
}

static void say_key(struct gm_zap *z, const struct request *r, enum reason why)
{
    char key[GM_CURVE_TEXT + 1] = "", address[ADDRESS_MAX];
    if (r->len[KEY] == GM_CURVE_BYTES)
        gm_curve_text(r->frame[KEY], key);
    snprintf(address, sizeof address, "%.*s", (int)r->len[ADDRESS],
             (const char *)r->frame[ADDRESS]);
    say(z, why, address, key);
}

static void answer_request(struct gm_zap *z)
{
    static const char version[] = "1.0";
    struct request r;
    enum reason why = BROKEN;
    const bool whole = take_request(z->handler, &r);
    if (!r.len[ID])
        return; /* the context ends */
    const struct gm_book_row *row = whole ? judge(z, &r, &why) : NULL;
    if (!row)
        say_key(z, &r, why);
    const char *status = row ? "200" : "400", *text = row ? "OK" : "refused";
    const char *name = row ? row->name : "";
    (void)zmq_send(z->handler, version, strlen(version), ZMQ_SNDMORE);
    (void)zmq_send(z->handler, r.frame[ID], r.len[ID], ZMQ_SNDMORE);
    (void)zmq_send(z->handler, status, strlen(status), ZMQ_SNDMORE);
    (void)zmq_send(z->handler, text, strlen(text), ZMQ_SNDMORE);
    (void)zmq_send(z->handler, name, strlen(name), ZMQ_SNDMORE);
    (void)zmq_send(z->handler, "", 0, 0);
}

/* ---- connections that never got as far as a key -----------------------------------------------
 * ZeroMQ tells of them by their descriptor, and later than it acts: who hangs up at once may be
 * gone before we ask the kernel for the address. */

static void address_of(int fd, char text[ADDRESS_MAX])
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[INET6_ADDRSTRLEN] = "";
    snprintf(text, ADDRESS_MAX, "unknown");
    if (getpeername(fd, (struct sockaddr *)&a, &len) != 0)
        return; /* gone already */
    if (a.ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)&a;
        if (inet_ntop(AF_INET, &in->sin_addr, host, sizeof host))
            snprintf(text, ADDRESS_MAX, "%s:%u", host, ntohs(in->sin_port));
    } else if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)&a;
        if (inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof host))
            snprintf(text, ADDRESS_MAX, "[%s]:%u", host, ntohs(in->sin6_port));
    }
}

/* One event: a frame of a number and a value, and a frame with our own address. False: there is
 * none now. */
static bool read_event(struct gm_zap *z, struct event *e)
{
    uint8_t head[sizeof e->what + sizeof e->value], rest[FRAME_MAX];
    if (zmq_recv(z->monitor, head, sizeof head, ZMQ_DONTWAIT) != (int)sizeof head ||
        zmq_recv(z->monitor, rest, sizeof rest, ZMQ_DONTWAIT) < 0)
        return false;
    memcpy(&e->what, head, sizeof e->what);
    memcpy(&e->value, head + sizeof e->what, sizeof e->value);
    return true;
}

static void read_events(struct gm_zap *z)
{
    while (z->n_events < EVENTS_MAX && read_event(z, &z->events[z->n_events]))
        z->n_events++;
}

/* Whether another connection may have the number of this one already: it was late that we asked. */
static bool number_taken(struct gm_zap *z, int fd)
{
    read_events(z);
    for (size_t i = 0; i < z->n_events; i++)
        if (z->events[i].what == ZMQ_EVENT_ACCEPTED && (int)z->events[i].value == fd)
            return true;
    return z->n_events == EVENTS_MAX;
}

static void on_accepted(struct gm_zap *z, int fd)
{
    size_t at = 0;
    while (at < ADDRESSES && z->address[at].fd && z->address[at].fd != fd + 1)
        at++;
    if (at == ADDRESSES)
        at = z->next++ % ADDRESSES;
    z->address[at].fd = fd + 1;
    address_of(fd, z->address[at].text);
    if (number_taken(z, fd))
        snprintf(z->address[at].text, ADDRESS_MAX, "unknown");
}

/* The connection that failed is the one whose end is told next: both come from one thread. */
static void on_disconnected(struct gm_zap *z, int fd)
{
    const char *text = "unknown";
    for (size_t at = 0; at < ADDRESSES; at++)
        if (z->address[at].fd == fd + 1) {
            text = z->address[at].text;
            z->address[at].fd = 0;
        }
    if (z->failed != REASON_NONE)
        say(z, z->failed, text, "");
    z->failed = REASON_NONE;
}

static enum reason reason_of(const struct event *e)
{
    if (e->what == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        return UNFINISHED;
    if (e->value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
        return PLAIN;
    return e->value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC ? OTHER_KEY : BROKEN;
}

static void take_events(struct gm_zap *z)
{
    read_events(z);
    while (z->n_events > 0) {
        const struct event e = z->events[0];
        memmove(z->events, z->events + 1, --z->n_events * sizeof e);
        if (e.what == ZMQ_EVENT_ACCEPTED)
            on_accepted(z, (int)e.value);
        else if (e.what == ZMQ_EVENT_DISCONNECTED)
            on_disconnected(z, (int)e.value);
        else if (e.what == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL ||
                 e.what == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
            z->failed = reason_of(&e);
    }
}

/* ---- the thread -------------------------------------------------------------------------------
 */

static void *run(void *ctx)
{
    struct gm_zap *z = ctx;
    for (;;) {
        zmq_pollitem_t items[] = { { z->handler, 0, ZMQ_POLLIN, 0 },
                                   { z->monitor, 0, ZMQ_POLLIN, 0 } };
        if (zmq_poll(items, 2, -1) < 0) {
            if (zmq_errno() == EINTR)
                continue;
            break;
        }
        if (items[0].revents)
            answer_request(z);
        if (items[1].revents)
            take_events(z);
    }
    zmq_close(z->handler);
    zmq_close(z->monitor);
    return NULL;
}

static enum gm_status start(struct gm_zap *z, struct gm_err *err)
{
    sigset_t all, before;
    sigfillset(&all); /* signals are the loop's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int problem = pthread_create(&z->thread, NULL, run, z);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    z->running = problem == 0;
    return z->running
               ? GM_OK
               : gm_fail(err, GM_EXHAUSTED, "no thread for authentication: %s", strerror(problem));
}

enum gm_status gm_zap_open(struct gm_zap **out, void *zmq_context, void *inbox,
                           const struct gm_book *book, struct gm_err *err)
{
    const int queue = MONITOR_QUEUE, linger = 0;
    struct gm_zap *z = calloc(1, sizeof *z);
    *out = z;
    if (!z)
        return gm_fail(err, GM_EXHAUSTED, "no memory for authentication");
    z->book = book;
    for (int i = 0; i < REASONS; i++)
        z->limit[i] = (struct gm_log_limit){ .burst = GM_ZAP_LOG_BURST, .per_ms = GM_ZAP_LOG_MS };
    z->handler = zmq_socket(zmq_context, ZMQ_REP);
    z->monitor = zmq_socket(zmq_context, ZMQ_PAIR);
    enum gm_status rc = GM_OK;
    if (!z->handler || !z->monitor || zmq_bind(z->handler, handler_name) != 0 ||
        zmq_socket_monitor(inbox, monitor_name, EVENTS) != 0 ||
        zmq_setsockopt(z->handler, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(z->monitor, ZMQ_LINGER, &linger, sizeof linger) != 0 ||
        zmq_setsockopt(z->monitor, ZMQ_RCVHWM, &queue, sizeof queue) != 0 ||
        zmq_connect(z->monitor, monitor_name) != 0)
        rc = gm_fail(err, GM_INTERNAL, "no sockets for authentication: %s",
                     zmq_strerror(zmq_errno()));
    return rc == GM_OK ? start(z, err) : rc;
}

void gm_zap_close(struct gm_zap **zap)
{
    struct gm_zap *z = *zap;
    if (!z)
        return;
    if (z->running) {
        (void)pthread_join(z->thread, NULL);
    } else {
        if (z->handler)
            zmq_close(z->handler);
        if (z->monitor)
            zmq_close(z->monitor);
    }
    free(z);
    *zap = NULL;
}
