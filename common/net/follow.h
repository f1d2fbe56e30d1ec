/* follow.h - turns of an orchestrator followed without waiting: many at once, beside any loop.
 *
 * Owns:      the state of each followed turn: StartTurn, and Resume as often as the orchestrator
 *            or the stream was lost; which tokens its caller has; credit; pings.
 * Does not:  wait or sleep (gm_follows_tick is the clock), keep tokens, or know sessions.
 */
#ifndef GM_NET_FOLLOW_H
#define GM_NET_FOLLOW_H

#include "common/net/rpc.h"

enum {
    GM_FOLLOWS_MAX = 1024,         /* turns of one set */
    GM_FOLLOW_PING_MS = 200,       /* a stream asks so often whether it is still known; */
    GM_FOLLOW_PING_MS_MAX = 1000,  /* with many streams less often, but all together more often */
    GM_FOLLOW_PATIENCE_MS = 60000, /* no living stream for so long: UNAVAILABLE */
};

struct gm_follows; /* the turns that one loop follows at one orchestrator */
struct gm_follow;  /* one of them; owned by its set */

/* What has not been told before: started and finished once each, progress as it comes, each token
 * once and in order without gaps. Borrowed until return. */
typedef void gm_follow_event(void *ctx, const Gm__TurnEvent *event);
/* Called once, last: GM_OK when the turn finished. The follow is freed after it returns. */
typedef void gm_follow_end(void *ctx, const struct gm_err *err);

/* Who hears of a turn. Either function may start, cancel and leave turns of the set, this one too;
 * neither may close the set. */
struct gm_follow_to {
    gm_follow_event *event;
    gm_follow_end *end;
    void *ctx;
    uint32_t timeout_ms; /* of the whole turn; 0: none */
    const char *trace;   /* traceparent of the caller's span, copied; NULL: none */
};

/* endpoint: the orchestrator's, copied. The bus and the RPC must live until the set is closed. */
enum gm_status gm_follows_open(struct gm_follows **out, struct gm_bus *bus, struct gm_rpc *rpc,
                               const char *endpoint, struct gm_err *err);
/* Forgets all of them: nothing more is called, and the turns go on until their patience is over. */
void gm_follows_close(struct gm_follows **all);
/* Pings and retries. The loop calls it each time round; returns ms to the next (-1: none). */
int gm_follows_tick(struct gm_follows *all);
size_t gm_follows_n(const struct gm_follows *all); /* those that were left count until they ended */

/* Starts a turn; request is copied. NULL on failure: `end` is then not called. A failure before
 * the first event passes through `end` with its status and retry_ms; later ones too, except that
 * the orchestrator is away or does not know the stream any more: then the turn is resumed. */
struct gm_follow *gm_follow_start(struct gm_follows *all, const struct gm_follow_to *to,
                                  const Gm__StartRequest *request, struct gm_err *err);
/* Attaches to a turn that runs or has ended, by its id or its session; request is copied.
 * otherwise (may be NULL; copied): what to start when no such turn is known. Needs a turn's id. */
struct gm_follow *gm_follow_resume(struct gm_follows *all, const struct gm_follow_to *to,
                                   const Gm__ResumeRequest *request,
                                   const Gm__StartRequest *otherwise, struct gm_err *err);

/* Asks for the turn's end, again after a restart. Events go on to finished (reason "cancelled"),
 * or `end` says CANCELLED where nothing had begun. */
void gm_follow_cancel(struct gm_follow *f);
/* The caller is gone: cancels, and calls nothing more. f must not be used after it. */
void gm_follow_leave(struct gm_follow *f);
/* The same, but the turn goes on: somebody may ask for it later. */
void gm_follow_let(struct gm_follow *f);

#endif
