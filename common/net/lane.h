/* lane.h - short messages between processes of one machine, from thread to thread.
 *
 * Owns:      one datagram socket beside a process's inbox ("X.lane" beside "X.sock").
 * Does not:  queue, retry or reach another machine: what it cannot take at once goes over ZeroMQ,
 *            which is always there. Nor does it keep the order of what goes the two ways.
 *
 * Why: a message over ZeroMQ wakes three threads, one after the other, and between two tokens the
 * weights have swept their code and data out of the caches. A datagram wakes one.
 */
#ifndef GM_NET_LANE_H
#define GM_NET_LANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_LANE_BYTES_MAX = 48 << 10, /* of one message; longer ones go over ZeroMQ */
    GM_LANE_PATH_MAX = 108,       /* a Unix socket's path with its ending 0 */
};

struct gm_lane {
    int fd; /* -1: none */
    char path[GM_LANE_PATH_MAX];
};
#define GM_LANE_NONE ((struct gm_lane){ -1, "" })

/* The lane's path of an endpoint "ipc://DIR/NAME.sock" into out; false: it has none. */
bool gm_lane_path(char out[GM_LANE_PATH_MAX], const char *endpoint);

/* Binds the lane of this process's inbox; an old socket file is replaced. Without one (no ipc
 * endpoint, no socket to be had) the lane stays NONE: everything goes over ZeroMQ. */
void gm_lane_open(struct gm_lane *lane, const char *endpoint);
void gm_lane_close(struct gm_lane *lane); /* idempotent */

/* Sends parts[0 .. n) as one message. False: nothing was sent (nobody listens, its queue is full,
 * it is too long, this process has no lane). */
struct iovec;
bool gm_lane_send(const struct gm_lane *lane, const char *path, const struct iovec *parts, int n);

/* Takes one message of at most GM_LANE_BYTES_MAX into buf; its length, or 0: there is none. Longer
 * ones are cut to GM_LANE_BYTES_MAX + 1. */
size_t gm_lane_recv(const struct gm_lane *lane, uint8_t buf[GM_LANE_BYTES_MAX + 1]);

#endif
