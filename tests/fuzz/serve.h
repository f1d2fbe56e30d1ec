/* serve.h - a service's real loop (common/net/service.c) driven by the steps of an input.
 *
 * Owns:      what each code of a step does, the clients and peers of the service, the calls that it
 *            made and nobody has answered.
 * Does not:  know a service: a target fills struct gm_service and checks its state at the end.
 *
 *   code              bytes of the step
 *   SERVE_ADVANCE     u16: hundredths of a second that go by
 *   SERVE_RAW         u16 length, an envelope; the rest is the body; to the inbox
 *   SERVE_RAW_PEER    u8 which connection; then as SERVE_RAW
 *   SERVE_CONTROL     u8 kind (CREDIT, CANCEL, PING), u8 how many calls ago, u16 credit
 *   SERVE_ANSWER      body of a REPLY to the oldest open call of the service
 *   SERVE_ITEM        body of an ITEM of it, which leaves it open
 *   SERVE_REFUSE      u8 status, text
 *   SERVE_PAYLOAD     u16 floats, then the bytes that they repeat: rows of the next message
 *   SERVE_LANE        a datagram
 *   SERVE_FAIL        u8: so many next messages of the service are not taken
 *   SERVE_SEND        u8 how many calls ago; the rest is a message of that client stream
 *   SERVE_DONE        u8 how many calls ago: no further message follows
 *   SERVE_ROOM        u16 credit for the messages of the service's oldest open call
 *   16 .. 31          body of a ring message of that kind
 *   SERVE_CALL + m    body of a call of method m of the service, with ample credit
 *   SERVE_STREAM + m  the same with a credit of one
 *   SERVE_OWN + x     the target's own
 */
#ifndef GM_TESTS_FUZZ_SERVE_H
#define GM_TESTS_FUZZ_SERVE_H

#include "common/net.h"
#include "tests/fuzz/script.h"

enum {
    SERVE_ADVANCE = 0,
    SERVE_RAW = 1,
    SERVE_RAW_PEER = 2,
    SERVE_CONTROL = 3,
    SERVE_ANSWER = 4,
    SERVE_ITEM = 5,
    SERVE_REFUSE = 6,
    SERVE_PAYLOAD = 7,
    SERVE_LANE = 8,
    SERVE_FAIL = 9,
    SERVE_SEND = 10,
    SERVE_DONE = 11,
    SERVE_ROOM = 12,
    SERVE_OWN = 0x30,    /* 16 codes */
    SERVE_CALL = 0x40,   /* 64 codes; behind its own come those of every process */
    SERVE_STREAM = 0x80, /* 64 codes */
};

/* The link options that a target with serve.c needs in its `libs:` line:
 *   -Wl,--wrap=gm_now_us,--wrap=gm_now_ms,--wrap=gm_wall_ms,--wrap=gm_sleep_ms
 *   -Wl,--wrap=gm_random_u64,--wrap=gm_random_id,--wrap=gm_stop_signals,--wrap=gm_stopping
 *   -Wl,--wrap=poll,--wrap=gm_lane_recv,--wrap=gm_lane_open                                    */

/* Opens the service, runs the input's steps, lets time go by until what waits has ended, and
 * closes it. own: called with steps of SERVE_OWN; may be NULL. `end` is called before the service
 * is closed; may be NULL. */
struct serve_to {
    struct gm_service *service; /* NULL: the target runs its own loop between begin and end */
    void (*own)(const struct step *step);
    void (*end)(struct gm_service *service);
    int idle_rounds; /* waits after the last step, a moment each; 0: a few */
};
void serve_run(const struct serve_to *to, const uint8_t *data, size_t size);

/* For a target that opens its service or client itself: from begin on, steps come where it waits,
 * and gm_stopping says when they are over. */
void serve_begin(const struct serve_to *to, const uint8_t *data, size_t size);
void serve_service(struct gm_service *service); /* it is open now */
void serve_end(void);

#endif
