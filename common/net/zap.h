/* zap.h - the door of an inbox over TCP: which keys may connect, and who is told of the others.
 *
 * Owns:      one thread of its own, the handler of ZeroMQ's authentication protocol (RFC 27) and
 *            the monitor of the inbox. It only reads the book, so it needs no lock, and it answers
 *            while the loop computes a long step.
 * Does not:  know what a role may send (roles.h), or let anybody in by itself: a key of the book
 *            gives its row's name to each message of the connection ("User-Id").
 */
#ifndef GM_NET_ZAP_H
#define GM_NET_ZAP_H

#include "common/net/book.h"

#define GM_ZAP_DOMAIN "gemline"

enum {
    GM_ZAP_LOG_BURST = 10, /* lines about connections refused for one reason .. */
    GM_ZAP_LOG_MS = 10000, /* .. in so many milliseconds */
};

struct gm_zap;

/* Starts the thread. Before the inbox is bound: without a handler ZeroMQ lets every key in. The
 * book is borrowed and must not change. */
enum gm_status gm_zap_open(struct gm_zap **out, void *zmq_context, void *inbox,
                           const struct gm_book *book, struct gm_err *err);
/* Waits for the thread's end: after zmq_ctx_shutdown of its context and before zmq_ctx_term.
 * Idempotent. */
void gm_zap_close(struct gm_zap **zap);

#endif
