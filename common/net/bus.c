/* bus.c - ZeroMQ by role: see bus.h.
 *
 * Owns:      the context, the inbox, the table of peers, the frames of a message.
 * Does not:  wait (bus_wait.c) or know what a message means (rpc.c, the services' edges).
 */
#include "common/net/bus_inner.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <zmq.h>

#include "common/base/log.h"
#include "common/base/sys.h"
#include "common/net/accept.h"
#include "common/net/zap.h"

/* A socket with the options that every one has. */
static enum gm_status socket_new(struct gm_bus *bus, int type, struct reader *out,
                                 struct gm_err *err)
{
    size_t fd_len = sizeof out->fd;
    const int hwm = GM_QUEUE_MAX, linger = LINGER_MS, ivl = RECONNECT_MS,
              ivl_max = RECONNECT_MAX_MS;
    const int64_t max = GM_MESSAGE_BYTES_MAX;
    void *s = zmq_socket(bus->ctx, type);
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no further socket: %s", zmq_strerror(zmq_errno()));
    zmq_setsockopt(s, ZMQ_SNDHWM, &hwm, sizeof hwm);
    zmq_setsockopt(s, ZMQ_RCVHWM, &hwm, sizeof hwm);
    zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s, ZMQ_RECONNECT_IVL, &ivl, sizeof ivl);
    zmq_setsockopt(s, ZMQ_RECONNECT_IVL_MAX, &ivl_max, sizeof ivl_max);
    zmq_setsockopt(s, ZMQ_MAXMSGSIZE, &max, sizeof max);
    out->sock = s;
    zmq_getsockopt(s, ZMQ_FD, &out->fd, &fd_len);
    return GM_OK;
}

static enum gm_status check_endpoint(const char *endpoint, struct gm_err *err)
{
    const size_t len = strlen(endpoint);
    if (len >= GM_ENDPOINT_MAX)
        return gm_fail(err, GM_INVALID, "the endpoint %.40s... is longer than %d bytes", endpoint,
                       GM_ENDPOINT_MAX - 1);
    if (strncmp(endpoint, "ipc://", 6) == 0 && len - 6 > SUN_PATH_MAX)
        return gm_fail(err, GM_INVALID,
                       "the socket path %s is longer than %d bytes; choose a shorter folder",
                       endpoint + 6, SUN_PATH_MAX);
    return GM_OK;
}

static enum gm_status bind_inbox(struct gm_bus *bus, const char *endpoint, struct gm_err *err)
{
    const int on = 1;
    enum gm_status rc = check_endpoint(endpoint, err);
    if (rc == GM_OK)
        rc = socket_new(bus, ZMQ_ROUTER, &bus->inbox, err);
    if (rc != GM_OK)
        return rc;
    gm_accept_guard();
    zmq_setsockopt(bus->inbox.sock, ZMQ_ROUTER_MANDATORY, &on, sizeof on);
    zmq_setsockopt(bus->inbox.sock, ZMQ_ROUTER_HANDOVER, &on, sizeof on);
    if (bus->net && (rc = gm_bus_tcp_inbox(bus, endpoint, err)) != GM_OK)
        return rc;
    if (zmq_bind(bus->inbox.sock, endpoint) != 0)
        return gm_fail(err, GM_UNAVAILABLE, "cannot listen on %s: %s", endpoint,
                       zmq_strerror(zmq_errno()));
    gm_lane_open(&bus->lane, endpoint);
    return GM_OK;
}

enum gm_status gm_bus_open(struct gm_bus **out, const char *identity, const char *bind,
                           struct gm_err *err)
{
    return gm_bus_open_net(out, identity, bind, NULL, err);
}

enum gm_status gm_bus_open_net(struct gm_bus **out, const char *identity, const char *bind,
                               const struct gm_net *net, struct gm_err *err)
{
    struct gm_bus *bus = calloc(1, sizeof *bus);
    *out = NULL;
    if (!bus)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the bus");
    bus->boot = gm_random_u64();
    bus->lane = GM_LANE_NONE;
    bus->net = net;
    snprintf(bus->identity, sizeof bus->identity, "%.30s", identity);
    enum gm_status rc = gm_versions_own(&bus->versions, err);
    if (rc == GM_OK && !(bus->ctx = zmq_ctx_new()))
        rc = gm_fail(err, GM_EXHAUSTED, "no ZeroMQ context can be made");
    if (rc == GM_OK && bind)
        rc = bind_inbox(bus, bind, err);
    if (rc != GM_OK) {
        gm_bus_close(&bus);
        return rc;
    }
    *out = bus;
    return GM_OK;
}

void gm_bus_close(struct gm_bus **bus)
{
    struct gm_bus *b = *bus;
    if (!b)
        return;
    for (int i = 0; i < b->n_peers; i++) {
        zmq_close(b->peers[i]->in.sock);
        free(b->peers[i]);
    }
    gm_lane_close(&b->lane);
    if (b->zap)
        zmq_socket_monitor(b->inbox.sock, NULL, 0);
    if (b->inbox.sock)
        zmq_close(b->inbox.sock);
    if (b->zap)
        zmq_ctx_shutdown(b->ctx);
    gm_zap_close(&b->zap);
    if (b->ctx)
        while (zmq_ctx_term(b->ctx) != 0 && zmq_errno() == EINTR)
            ;
    free(b);
    *bus = NULL;
}

uint64_t gm_bus_boot(const struct gm_bus *bus)
{
    return bus->boot;
}

/* A name of this connection alone, which nobody else can know: who takes a routing id over gets the
 * answers of its owner. */
static void set_routing_id(const struct gm_bus *bus, struct gm_peer *p)
{
    char id[64];
    const int n =
        snprintf(id, sizeof id, "%s-%016llx", bus->identity, (unsigned long long)gm_random_u64());
    zmq_setsockopt(p->in.sock, ZMQ_ROUTING_ID, id, (size_t)n);
}

struct gm_peer *gm_bus_peer(struct gm_bus *bus, const char *endpoint, struct gm_err *err)
{
    for (int i = 0; i < bus->n_peers; i++)
        if (strcmp(bus->peers[i]->endpoint, endpoint) == 0)
            return bus->peers[i];
    if (check_endpoint(endpoint, err) != GM_OK)
        return NULL;
    if (bus->n_peers == PEERS_MAX) {
        gm_fail(err, GM_EXHAUSTED, "this process has %d connections already", PEERS_MAX);
        return NULL;
    }
    struct gm_peer *p = calloc(1, sizeof *p);
    if (!p || socket_new(bus, ZMQ_DEALER, &p->in, err) != GM_OK) {
        free(p);
        return NULL;
    }
    snprintf(p->endpoint, sizeof p->endpoint, "%s", endpoint);
    if (!gm_lane_path(p->lane, endpoint))
        p->lane[0] = '\0';
    set_routing_id(bus, p);
    enum gm_status rc = bus->net ? gm_bus_tcp_peer(bus, p, err) : GM_OK;
    if (rc == GM_OK && zmq_connect(p->in.sock, endpoint) != 0)
        rc = gm_fail(err, GM_INVALID, "cannot connect to %s: %s", endpoint,
                     zmq_strerror(zmq_errno()));
    if (rc != GM_OK) {
        zmq_close(p->in.sock);
        free(p);
        return NULL;
    }
    bus->peers[bus->n_peers++] = p;
    return p;
}

const char *gm_peer_endpoint(const struct gm_peer *peer)
{
    return peer->endpoint;
}

/* ---- receiving ---------------------------------------------------------------------------------
 */

void gm_msg_free(struct gm_msg *msg)
{
    for (int i = 0; i < msg->n_frames; i++) {
        zmq_msg_close(msg->frames[i]);
        free(msg->frames[i]);
    }
    if (msg->env)
        gm__envelope__free_unpacked(msg->env, NULL);
    free(msg->copy);
    memset(msg, 0, sizeof *msg);
}

/* Reads all frames of one message; too many ones are read and dropped. False: nothing there. */
static bool read_frames(void *sock, struct gm_msg *msg, int most, bool *ok)
{
    bool more = true;
    *ok = true;
    while (more) {
        zmq_msg_t *f = malloc(sizeof *f);
        if (!f)
            return false;
        zmq_msg_init(f);
        if (zmq_msg_recv(f, sock, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(f);
            free(f);
            return false;
        }
        more = zmq_msg_more(f);
        if (msg->n_frames < most) {
            msg->frames[msg->n_frames++] = f;
        } else {
            *ok = false;
            zmq_msg_close(f);
            free(f);
        }
    }
    return true;
}

static const void *payload_aligned(struct gm_msg *msg, zmq_msg_t *f)
{
    const size_t n = zmq_msg_size(f);
    void *p = zmq_msg_data(f);
    if (((uintptr_t)p & 15) == 0)
        return p;
    msg->copy = aligned_alloc(16, (n + 15) / 16 * 16 + 16);
    if (msg->copy)
        memcpy(msg->copy, p, n);
    return msg->copy;
}

static const char *unpack_envelope(struct gm_msg *msg, const void *p, size_t len)
{
    if (len > ENVELOPE_BYTES_MAX)
        return "an envelope is too large";
    msg->env = gm__envelope__unpack(NULL, len, p);
    if (!msg->env)
        return "an envelope cannot be read";
    return NULL;
}

/* Takes the frames apart. A sentence says what is wrong with a bad message, else NULL. */
static const char *parse(struct gm_msg *msg, bool inbox)
{
    int i = 0;
    if (inbox) {
        const size_t n = zmq_msg_size(msg->frames[0]);
        if (n > sizeof msg->from)
            return "a routing id is too long";
        memcpy(msg->from, zmq_msg_data(msg->frames[0]), n);
        msg->from_len = (uint8_t)n;
        i = 1;
    }
    if (msg->n_frames < i + 2)
        return "a message has an envelope and a body";
    const char *why =
        unpack_envelope(msg, zmq_msg_data(msg->frames[i]), zmq_msg_size(msg->frames[i]));
    if (why)
        return why;
    msg->body = zmq_msg_data(msg->frames[i + 1]);
    msg->body_len = zmq_msg_size(msg->frames[i + 1]);
    if (msg->body_len > GM_BODY_BYTES_MAX)
        return "the message is larger than the limit of 8 MiB";
    if (msg->n_frames > i + 2) {
        msg->payload_len = zmq_msg_size(msg->frames[i + 2]);
        if (msg->payload_len > GM_PAYLOAD_BYTES_MAX)
            return "the rows of a message are larger than the limit";
        msg->payload = payload_aligned(msg, msg->frames[i + 2]);
        if (!msg->payload)
            return "no memory for the rows of a message";
    }
    return NULL;
}

/* A message of the lane: its parts follow each other at p. It is copied, because p is used again.
 */
static const char *parse_lane(struct gm_msg *msg, const uint8_t *p, size_t env_len, size_t body_len,
                              size_t payload_len)
{
    const char *why = unpack_envelope(msg, p, env_len);
    if (why)
        return why;
    const size_t at = (body_len + 15) / 16 * 16;
    uint8_t *copy = msg->copy = aligned_alloc(16, at + (payload_len + 31) / 16 * 16);
    if (!copy)
        return "no memory for a short message";
    memcpy(copy, p + env_len, body_len);
    memcpy(copy + at, p + env_len + body_len, payload_len);
    msg->body = copy;
    msg->body_len = body_len;
    msg->payload = payload_len ? copy + at : NULL;
    msg->payload_len = payload_len;
    return NULL;
}

/* Whether a message may be taken; `why`: it may not. Who may not send it learns nothing more. */
static bool admitted(struct gm_bus *bus, struct gm_msg *msg, const char *why)
{
    struct gm_err err = GM_ERR_NONE;
    if (why) {
        gm_bus_refuse(bus, msg, GM_INVALID, why);
        return false;
    }
    if (gm_bus_tcp_check(bus, msg, &err) != GM_OK) {
        gm_bus_deny(bus, msg, err.status, err.text); /* it has been logged */
        return false;
    }
    if (gm_bus_admit(bus, msg, &err) != GM_OK) {
        gm_bus_refuse(bus, msg, err.status, err.text);
        return false;
    }
    return true;
}

/* Takes one message from a ready socket. False: it holds none that is good. */
static bool take_from(struct gm_bus *bus, struct gm_peer *peer, struct gm_msg *msg)
{
    struct reader *r = peer ? &peer->in : &bus->inbox;
    while (r->ready) {
        bool ok = true;
        memset(msg, 0, sizeof *msg);
        msg->peer = peer;
        if (!read_frames(r->sock, msg, peer ? 3 : 4, &ok)) {
            gm_msg_free(msg);
            r->ready = false;
            return false;
        }
        const char *why = ok ? parse(msg, !peer) : "a message has too many frames";
        if (admitted(bus, msg, why))
            return true;
        gm_msg_free(msg);
    }
    return false;
}

/* What stands before the parts of a lane's message. */
struct lane_head {
    uint32_t env_len, body_len;
};

/* One message from the lane. False: it holds none that is good. */
static bool take_lane(struct gm_bus *bus, struct gm_msg *msg)
{
    static uint8_t buf[GM_LANE_BYTES_MAX + 1];
    while (bus->lane_ready) {
        const size_t n = gm_lane_recv(&bus->lane, buf);
        struct lane_head h;
        memset(msg, 0, sizeof *msg);
        if (n == 0) {
            bus->lane_ready = false;
            return false;
        }
        memcpy(&h, buf, n < sizeof h ? n : sizeof h);
        const char *why = "a short message is cut or too long";
        if (n >= sizeof h && n <= GM_LANE_BYTES_MAX && h.env_len <= n - sizeof h &&
            h.body_len <= n - sizeof h - h.env_len)
            why = parse_lane(msg, buf + sizeof h, h.env_len, h.body_len,
                             n - sizeof h - h.env_len - h.body_len);
        if (!why && msg->env->kind < GM__KIND__TOKEN_ROWS)
            why = "a call came where only the ring's short messages go";
        if (admitted(bus, msg, why))
            return true;
        gm_msg_free(msg);
    }
    return false;
}

bool gm_bus_take(struct gm_bus *bus, struct gm_msg *msg)
{
    if (!bus->lane_last && take_lane(bus, msg))
        return bus->lane_last = true;
    bus->lane_last = false;
    const int n = bus->n_peers + 1;
    for (int i = 0; i < n; i++) {
        const int at = (bus->turn + i) % n;
        struct gm_peer *peer = at < bus->n_peers ? bus->peers[at] : NULL;
        if (take_from(bus, peer, msg)) {
            bus->turn = at + 1; /* the next one is asked first: none starves */
            return true;
        }
    }
    return take_lane(bus, msg);
}

void *gm_msg_unpack(const struct gm_msg *msg, const ProtobufCMessageDescriptor *desc,
                    struct gm_err *err)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(desc, NULL, msg->body_len, msg->body);
    if (!m)
        gm_fail(err, GM_INVALID, "the body is no %s", desc->name);
    return m;
}

/* ---- sending -----------------------------------------------------------------------------------
 */

static bool frame_of(zmq_msg_t *f, const ProtobufCMessage *m)
{
    const size_t n = m ? protobuf_c_message_get_packed_size(m) : 0;
    if (zmq_msg_init_size(f, n) != 0) {
        zmq_msg_init(f);
        return false;
    }
    if (m)
        protobuf_c_message_pack(m, zmq_msg_data(f));
    return true;
}

static bool frame_fill(zmq_msg_t *f, const void *bytes, size_t n)
{
    if (zmq_msg_init_size(f, n) != 0) {
        zmq_msg_init(f);
        return false;
    }
    memcpy(zmq_msg_data(f), bytes, n);
    return true;
}

/* The first frame. A socket that is never read learns of a new connection when it is asked. */
static bool send_first(void *sock, zmq_msg_t *f, int flags)
{
    int events;
    size_t len = sizeof events;
    if (zmq_msg_send(f, sock, flags) >= 0)
        return true;
    if (zmq_errno() != EAGAIN || zmq_getsockopt(sock, ZMQ_EVENTS, &events, &len) != 0 ||
        !(events & ZMQ_POLLOUT))
        return false;
    return zmq_msg_send(f, sock, flags) >= 0;
}

/* Sends [id] env body [payload]. The first frame decides whether anything is sent. */
static enum gm_status send_frames(void *sock, const struct gm_msg *to, zmq_msg_t *f, int n,
                                  struct gm_err *err)
{
    if (to && zmq_send(sock, to->from, to->from_len, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        goto failed;
    if (!send_first(sock, &f[0], ZMQ_DONTWAIT | (n > 1 ? ZMQ_SNDMORE : 0)))
        goto failed;
    for (int i = 1; i < n; i++)
        if (zmq_msg_send(&f[i], sock, ZMQ_DONTWAIT | (i + 1 < n ? ZMQ_SNDMORE : 0)) < 0)
            goto failed;
    return GM_OK;
failed:;
    const int why = zmq_errno();
    for (int i = 0; i < n; i++)
        zmq_msg_close(&f[i]);
    if (why == EHOSTUNREACH) /* a client that has gone */
        return gm_fail(err, GM_NOT_FOUND, "the peer is not there any more");
    return gm_fail(err, GM_UNAVAILABLE, "the peer takes no message now: %s", zmq_strerror(why));
}

/* What is sent: `to` NULL goes over a peer's socket, else back to who sent it. */
struct parcel {
    void *sock;
    const struct gm_msg *to;
    Gm__Envelope *env;
    const ProtobufCMessage *body;
    const void *payload;
    size_t payload_len;
};

static enum gm_status put(struct gm_bus *bus, const struct parcel *p, struct gm_err *err)
{
    zmq_msg_t f[3];
    Gm__Envelope *env = p->env;
    if (p->body && protobuf_c_message_get_packed_size(p->body) > GM_BODY_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "a message is larger than the limit of %d MiB",
                       GM_BODY_BYTES_MAX >> 20);
    if (p->payload_len > GM_PAYLOAD_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the rows of a message are larger than %d MiB",
                       GM_PAYLOAD_BYTES_MAX >> 20);
    gm_bus_stamp(bus, env);
    const int n = p->payload_len > 0 ? 3 : 2; /* what is made is sent or closed */
    for (int i = 0; i < n; i++)
        zmq_msg_init(&f[i]);
    if (!frame_of(&f[0], &env->base) || !frame_of(&f[1], p->body) ||
        (n == 3 && !frame_fill(&f[2], p->payload, p->payload_len))) {
        for (int i = 0; i < n; i++)
            zmq_msg_close(&f[i]);
        return gm_fail(err, GM_EXHAUSTED, "no memory for a message");
    }
    return send_frames(p->sock, p->to, f, n, err);
}

enum gm_status gm_bus_send(struct gm_bus *bus, struct gm_peer *to, Gm__Envelope *env,
                           const ProtobufCMessage *body, const void *payload, size_t payload_len,
                           struct gm_err *err)
{
    to->answers = true;
    return put(bus, &(struct parcel){ to->in.sock, NULL, env, body, payload, payload_len }, err);
}

enum gm_status gm_bus_answer(struct gm_bus *bus, const struct gm_msg *to, Gm__Envelope *env,
                             const ProtobufCMessage *body, struct gm_err *err)
{
    if (to->peer)
        return gm_bus_send(bus, to->peer, env, body, NULL, 0, err);
    return put(bus, &(struct parcel){ bus->inbox.sock, to, env, body, NULL, 0 }, err);
}

static void ring_envelope(Gm__Envelope *env, Gm__Kind kind, size_t payload_len)
{
    gm__envelope__init(env);
    env->kind = kind;
    env->has_made_us = 1;
    env->made_us = (uint64_t)gm_now_us();
    env->has_payload_bytes = payload_len > 0;
    env->payload_bytes = (uint32_t)payload_len;
}

enum gm_status gm_bus_post(struct gm_bus *bus, struct gm_peer *to, Gm__Kind kind,
                           const ProtobufCMessage *body, const void *payload, size_t payload_len,
                           struct gm_err *err)
{
    Gm__Envelope env;
    ring_envelope(&env, kind, payload_len);
    return put(bus, &(struct parcel){ to->in.sock, NULL, &env, body, payload, payload_len }, err);
}

/* Packs and sends over the lane; false: it did not take the message. */
static bool put_lane(struct gm_bus *bus, const struct gm_peer *to, Gm__Envelope *env,
                     const ProtobufCMessage *body, const void *payload, size_t payload_len)
{
    static uint8_t buf[GM_LANE_BYTES_MAX];
    if (!to->lane[0] || payload_len > GM_LANE_BYTES_MAX)
        return false;
    gm_bus_stamp(bus, env);
    const size_t env_len = gm__envelope__get_packed_size(env);
    const size_t body_len = body ? protobuf_c_message_get_packed_size(body) : 0;
    struct lane_head h = { (uint32_t)env_len, (uint32_t)body_len };
    if (env_len > sizeof buf || body_len > sizeof buf - env_len)
        return false;
    gm__envelope__pack(env, buf);
    if (body)
        protobuf_c_message_pack(body, buf + env_len);
    const struct iovec parts[] = { { &h, sizeof h },
                                   { buf, env_len + body_len },
                                   { (void *)(uintptr_t)payload, payload_len } };
    return gm_lane_send(&bus->lane, to->lane, parts, payload_len > 0 ? 3 : 2);
}

enum gm_status gm_bus_post_short(struct gm_bus *bus, struct gm_peer *to, Gm__Kind kind,
                                 const ProtobufCMessage *body, const void *payload,
                                 size_t payload_len, struct gm_err *err)
{
    Gm__Envelope env;
    ring_envelope(&env, kind, payload_len);
    if (put_lane(bus, to, &env, body, payload, payload_len))
        return GM_OK;
    return put(bus, &(struct parcel){ to->in.sock, NULL, &env, body, payload, payload_len }, err);
}
