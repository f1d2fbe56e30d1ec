/* follow.h - a turn followed without blocking, through the death of the orchestrator.
 *
 * Owns:      StartTurn, and Resume as often as needed: it pings, notices another boot or a gap, asks
 *            again from what it has, drops tokens it had already, and grants credit as items come.
 * Does not:  wait or sleep: it lives on the loop that calls gm_follow_tick.
 * Threads:   the loop thread only.
 */
#ifndef GM_NET_FOLLOW_H
#define GM_NET_FOLLOW_H

#include "common/net/rpc.h"

enum {
    GM_FOLLOW_PING_MS = 300,        /* between two questions whether the server still knows us */
    GM_FOLLOW_LOST_MS = 1000,       /* no answer to them for so long: it is gone */
    GM_FOLLOW_RETRY_MS = 20,        /* between two attempts to reach it */
    GM_FOLLOW_PATIENCE_MS = 60000,  /* from its last word until it is given up */
    GM_FOLLOW_GAPS_MAX = 16,        /* streams with a token missing */
};

struct gm_follow;

/* Started, tokens, progress, finished as they come; each position once, in order. The event is
 * borrowed. It may call gm_follow_cancel, _leave and _let. */
typedef void gm_follow_event(void *ctx, const Gm__TurnEvent *event);
/* Once, last: err->status is GM_OK when `finished` was given on. The follow is gone. */
typedef void gm_follow_end(void *ctx, const struct gm_err *err);

struct gm_follow_to {
    struct gm_rpc *rpc;
    struct gm_bus *bus;
    const char *endpoint; /* of the orchestrator; copied */
    uint32_t timeout_ms;  /* of the whole turn; 0: none */
    gm_follow_event *event;
    gm_follow_end *end;
    void *ctx;
};

/* Starts a turn; the request is copied. NULL: it could not, and `end` is not called. */
struct gm_follow *gm_follow_start(const struct gm_follow_to *to, const Gm__StartRequest *request,
                                  struct gm_err *err);
/* Goes on with a turn that runs or has ended; the request is copied. */
struct gm_follow *gm_follow_resume(const struct gm_follow_to *to, const Gm__ResumeRequest *request,
                                   struct gm_err *err);

/* Asks for the turn's end, again after a restart of the server; what comes of it comes. */
void gm_follow_cancel(struct gm_follow *f);
/* The caller goes: nothing more is called. leave: the turn is cancelled; let: it goes on. */
void gm_follow_leave(struct gm_follow *f);
void gm_follow_let(struct gm_follow *f);

/* Pings and attempts that are due, of all turns followed over rpc; ms to the next, -1: none. */
int gm_follow_tick(struct gm_rpc *rpc);

#endif
