/* bus_tcp.c - what a socket of the bus needs over TCP: see bus.h.
 *
 * Owns:      the options of CURVE, heartbeats and keepalive; whom a message is from.
 * Does not:  decide which keys (zap.c) or messages (roles.c) are let in.
 */
#include <string.h>
#include <zmq.h>

#include "common/base/log.h"
#include "common/net/bus_inner.h"
#include "common/net/zap.h"

static void set_int(void *sock, int option, int value)
{
    zmq_setsockopt(sock, option, &value, sizeof value);
}

/* Both ends: a peer that is gone without a word is noticed, and none holds a half-open handshake.
 */
static void set_common(void *sock, const char *endpoint)
{
    set_int(sock, ZMQ_HEARTBEAT_IVL, GM_TCP_HEARTBEAT_MS);
    set_int(sock, ZMQ_HEARTBEAT_TIMEOUT, GM_TCP_SILENCE_MS);
    set_int(sock, ZMQ_HEARTBEAT_TTL, GM_TCP_SILENCE_MS);
    set_int(sock, ZMQ_HANDSHAKE_IVL, GM_TCP_HANDSHAKE_MS);
    set_int(sock, ZMQ_CONNECT_TIMEOUT, GM_TCP_HANDSHAKE_MS);
    set_int(sock, ZMQ_RECONNECT_IVL_MAX, GM_TCP_RECONNECT_MAX_MS);
    set_int(sock, ZMQ_TCP_KEEPALIVE, 1);
    set_int(sock, ZMQ_TCP_KEEPALIVE_IDLE, GM_TCP_KEEPALIVE_S);
    set_int(sock, ZMQ_TCP_KEEPALIVE_INTVL, GM_TCP_KEEPALIVE_S);
    set_int(sock, ZMQ_TCP_KEEPALIVE_CNT, GM_TCP_KEEPALIVE_N);
    if (strstr(endpoint, "//["))
        set_int(sock, ZMQ_IPV6, 1);
}

enum gm_status gm_bus_tcp_inbox(struct gm_bus *bus, const char *endpoint, struct gm_err *err)
{
    const struct gm_net *net = bus->net;
    void *sock = bus->inbox.sock;
    set_common(sock, endpoint);
    set_int(sock, ZMQ_CURVE_SERVER, 1);
    if (zmq_setsockopt(sock, ZMQ_CURVE_SECRETKEY, net->secret, sizeof net->secret) != 0 ||
        zmq_setsockopt(sock, ZMQ_ZAP_DOMAIN, GM_ZAP_DOMAIN, strlen(GM_ZAP_DOMAIN)) != 0)
        return gm_fail(err, GM_UNSUPPORTED, "this libzmq has no CURVE; install one with libsodium");
    return gm_zap_open(&bus->zap, bus->ctx, sock, &net->book, err);
}

enum gm_status gm_bus_tcp_peer(struct gm_bus *bus, struct gm_peer *peer, struct gm_err *err)
{
    const struct gm_net *net = bus->net;
    const struct gm_book_row *row = gm_book_endpoint(&net->book, peer->endpoint);
    void *sock = peer->in.sock;
    if (!row)
        return gm_fail(err, GM_INVALID,
                       "the address book does not list the endpoint %.100s: nothing is sent there",
                       peer->endpoint);
    peer->who = row->name;
    set_common(sock, peer->endpoint);
    if (zmq_setsockopt(sock, ZMQ_CURVE_SERVERKEY, row->key, sizeof row->key) != 0 ||
        zmq_setsockopt(sock, ZMQ_CURVE_PUBLICKEY, net->shared, sizeof net->shared) != 0 ||
        zmq_setsockopt(sock, ZMQ_CURVE_SECRETKEY, net->secret, sizeof net->secret) != 0)
        return gm_fail(err, GM_UNSUPPORTED, "this libzmq has no CURVE; install one with libsodium");
    return GM_OK;
}

enum gm_status gm_bus_tcp_check(const struct gm_bus *bus, struct gm_msg *msg, struct gm_err *err)
{
    static struct gm_log_limit limit = { .burst = GM_ZAP_LOG_BURST, .per_ms = GM_ZAP_LOG_MS };
    struct gm_err why = GM_ERR_NONE;
    uint32_t dropped = 0;
    if (!bus->net)
        return GM_OK;
    zmq_msg_t *frame = msg->frames[msg->n_frames - 1];
    msg->who = msg->peer ? msg->peer->who : zmq_msg_gets(frame, "User-Id");
    if (gm_role_check(msg, &why) == GM_OK)
        return GM_OK;
    if (gm_log_pass(&limit, &dropped)) {
        const char *address = zmq_msg_gets(frame, "Peer-Address");
        gm_warn("message refused: %s from=%s before=%u", why.text, address ? address : "unknown",
                dropped);
    }
    return gm_fail(err, why.status, "%s", why.text);
}
