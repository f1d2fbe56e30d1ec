/* seam_zmq.h - ZeroMQ without threads or sockets: what stands below the bus in a target.
 *
 * Owns:      the functions of libzmq that common/net calls, sockets that are queues in memory.
 * Does not:  know what a frame holds.
 * Why:       the real bus runs, each input gives the same run, and a frame is a block of exactly
 *            its bytes, so that a read behind it is seen.
 */
#ifndef GM_TESTS_FUZZ_SEAM_ZMQ_H
#define GM_TESTS_FUZZ_SEAM_ZMQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SEAM_FRAMES_MAX = 8 };

struct seam_frame {
    const uint8_t *data;
    size_t size;
};

/* Lets a message arrive (copied): endpoint NULL is the inbox, else the connection to it. False:
 * there is no such socket. */
bool seam_zmq_push(const char *endpoint, const struct seam_frame *frames, size_t n);

/* Called with every message that was sent, likewise; may push. NULL: nobody. */
typedef void seam_zmq_sent(const char *endpoint, const struct seam_frame *frames, size_t n);
void seam_zmq_on_send(seam_zmq_sent *fn);

/* The i-th connection, in the order they were made; NULL: there are fewer. */
const char *seam_zmq_endpoint(size_t i);

/* So many next messages are not taken by their peer. */
void seam_zmq_fail(uint32_t n);

#endif
