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

struct gm_zap {
    pthread_t thread;
    bool running;
    void *handler, *monitor;
    const struct gm_book *book;
    struct gm_log_limit limit;
    /* Who is behind a descriptor: a failed handshake names none, the hang-up behind it does. */
    struct {
        int fd; /* + 1; 0: free */
        char text[ADDRESS_MAX];
    } address[ADDRESSES];
    size_t next;        /* the one to be written over */
    const char *failed; /* of the connection that ends next; NULL: none has */
};

static void say(struct gm_zap *z, const char *address, const char *why)
{
    uint32_t dropped = 0;
    if (!gm_log_pass(&z->limit, &dropped))
        return;
    gm_warn("connection refused: %s from=%s before=%u", why, address, dropped);
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
                                       const char **why)
{
    *why = "it speaks another version of authentication";
    if (!frame_is(r, VERSION, "1.0") || !frame_is(r, DOMAIN_, GM_ZAP_DOMAIN))
        return NULL;
    *why = "a plain client: it has no key (CURVE)";
    if (!frame_is(r, MECHANISM, "CURVE") || r->len[KEY] != GM_CURVE_BYTES)
        return NULL;
    *why = "a key that the address book does not list";
    return gm_book_key(z->book, r->frame[KEY]);
}

static void say_key(struct gm_zap *z, const struct request *r, const char *why)
{
    char text[FRAME_MAX], key[GM_CURVE_TEXT + 1], address[ADDRESS_MAX];
    snprintf(text, sizeof text, "%s", why);
    if (r->len[KEY] == GM_CURVE_BYTES) {
        gm_curve_text(r->frame[KEY], key);
        snprintf(text, sizeof text, "%s key=%s", why, key);
    }
    snprintf(address, sizeof address, "%.*s", (int)r->len[ADDRESS],
             (const char *)r->frame[ADDRESS]);
    say(z, address, text);
}

static void answer_request(struct gm_zap *z)
{
    static const char version[] = "1.0";
    struct request r;
    const char *why = "it asks in another form";
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
 */

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

static void on_accepted(struct gm_zap *z, int fd)
{
    size_t at = 0;
    while (at < ADDRESSES && z->address[at].fd && z->address[at].fd != fd + 1)
        at++;
    if (at == ADDRESSES)
        at = z->next++ % ADDRESSES;
    z->address[at].fd = fd + 1;
    address_of(fd, z->address[at].text);
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
    if (z->failed)
        say(z, text, z->failed);
    z->failed = NULL;
}

static const char *reason_of(uint32_t event, uint32_t value)
{
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL)
        return "it did not finish the handshake";
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
        return "a plain client: it has no key (CURVE)";
    if (value == ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC)
        return "it was told another key of this server than ours";
    return "it breaks the protocol of the handshake";
}

/* One event: a frame of a number and a value, and a frame with our own address. */
static void take_event(struct gm_zap *z)
{
    uint8_t head[6], rest[FRAME_MAX];
    uint16_t event;
    uint32_t value;
    if (zmq_recv(z->monitor, head, sizeof head, ZMQ_DONTWAIT) != (int)sizeof head ||
        zmq_recv(z->monitor, rest, sizeof rest, ZMQ_DONTWAIT) < 0)
        return;
    memcpy(&event, head, sizeof event);
    memcpy(&value, head + sizeof event, sizeof value);
    if (event == ZMQ_EVENT_ACCEPTED)
        on_accepted(z, (int)value);
    else if (event == ZMQ_EVENT_DISCONNECTED)
        on_disconnected(z, (int)value);
    else if (event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL ||
             event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL)
        z->failed = reason_of(event, value);
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
            take_event(z);
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
    z->limit = (struct gm_log_limit){ .burst = GM_ZAP_LOG_BURST, .per_ms = GM_ZAP_LOG_MS };
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
