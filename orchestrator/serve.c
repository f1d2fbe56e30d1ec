/* serve.c - the orchestrator's loop: from its options to its end.
 *
 * Owns:      struct gm_orch, the clock of turns, what it says of its health.
 * Does not:  answer calls (edge.c) or run turns (turn.c).
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "orchestrator/orch.h"

enum { TICK_MS = 100, SERIAL_BITS = 16 }; /* serials of a millisecond, on the average at most */

static int fill_fds(void *self, struct pollfd *fds, int max)
{
    struct gm_orch *o = self;
    return max > 0 ? gm_store_fd(o->store, fds) : 0;
}

static void on_fds(void *self, const struct pollfd *fds, int n)
{
    struct gm_orch *o = self;
    if (n > 0)
        gm_store_on_fd(o->store, fds);
}

/* After a time in which this process did not run, for example because the machine stood still,
 * nobody could be heard: it counts against no client and no ring. */
static int64_t forgive_pause(struct gm_orch *o)
{
    const int64_t now = gm_now_ms(), gap = now - o->step_ms;
    const int64_t paused = o->step_ms && gap > GM_PAUSE_MS ? gap : 0;
    for (size_t i = 0; paused > 0 && i < o->turns.map.n; i++) {
        struct gm_turn *t = o->turns.map.entries[i].value;
        t->client_ms += paused;
        t->taken_ms += paused;
        t->progress_ms += paused;
        t->wait_ms += t->wait_ms ? paused : 0;
    }
    if (paused > 0)
        gm_roster_forgive(o, paused);
    o->step_ms = now;
    return paused;
}

static enum gm_status step(void *self, bool *again, struct gm_err *err)
{
    struct gm_orch *o = self;
    (void)err;
    *again = false;
    gm_replay_tick(o, forgive_pause(o));
    gm_store_tick(o->store);
    gm_orch_recover(o);
    gm_encode_next(o);
    for (size_t i = o->turns.map.n; i-- > 0;)
        if (i < o->turns.map.n)
            gm_turn_tick(o->turns.map.entries[i].value);
    return GM_OK;
}

static int next_ms(void *self)
{
    struct gm_orch *o = self;
    const bool idle = o->turns.map.n == 0 && o->recovered && gm_store_pending(o->store) == 0;
    return idle && gm_store_up(o->store) ? 1000 : TICK_MS;
}

static void say_health(void *self, Gm__HealthReply *h)
{
    struct gm_orch *o = self;
    bool failed = false;
    const char *missing = gm_roster_missing(o, &failed);
    uint32_t waiting = 0;
    for (size_t i = 0; i < o->turns.map.n; i++)
        waiting += ((const struct gm_turn *)o->turns.map.entries[i].value)->state < GM_TURN_RUN;
    h->state = (char *)(failed ? "failed" : missing ? "starting" : "ready");
    h->text = (char *)missing;
    h->has_sessions = h->has_waiting = 1;
    h->sessions = (uint32_t)o->turns.map.n - waiting;
    h->waiting = waiting;
    h->model = (char *)o->model;
}

static enum gm_status open_and_run(struct gm_orch *o, const struct gm_orch_options *opt,
                                   struct gm_err *err)
{
    o->model = opt->model ? opt->model : "custom";
    o->context = (uint32_t)opt->context;
    o->session_ttl_ms = opt->session_ttl_ms;
    o->unread_ms = opt->unread_ms;
    o->roster.shards = (int)opt->shards;
    o->next_serial = (uint64_t)gm_wall_ms() << SERIAL_BITS;
    snprintf(o->instance, sizeof o->instance, "orchestrator-%d", (int)opt->index);
    o->base = (struct gm_service){ .role = "orchestrator",
                                   .index = (uint32_t)opt->index,
                                   .run_dir = opt->run_dir,
                                   .net_options = &opt->net,
                                   .methods = gm_orch_methods,
                                   .self = o,
                                   .on_message = gm_ring_message,
                                   .step = step,
                                   .next_ms = next_ms,
                                   .health = say_health,
                                   .fds = fill_fds,
                                   .on_fds = on_fds };
    enum gm_status rc = gm_strmap_open(&o->turns, 64, GM_TURNS_MAX, err);
    if (rc == GM_OK)
        rc = gm_idmap_open(&o->serials, 64, GM_TURNS_MAX, err);
    if (rc == GM_OK)
        rc = gm_idmap_open(&o->tickets, 64, GM_TURNS_MAX, err);
    if (rc == GM_OK)
        rc = gm_store_open(&o->store, opt->redis, err);
    if (rc == GM_OK)
        rc = gm_service_open(&o->base, err);
    snprintf(o->home, sizeof o->home, "%s", o->base.endpoint);
    return rc == GM_OK ? gm_service_run(&o->base, err) : rc;
}

enum gm_status gm_orch_serve(const struct gm_orch_options *opt, struct gm_err *err)
{
    static struct gm_orch o; /* one at a time in a process */
    memset(&o, 0, sizeof o);
    const enum gm_status rc = open_and_run(&o, opt, err);
    while (o.turns.map.n > 0)
        gm_turn_free(o.turns.map.entries[0].value);
    gm_service_close(&o.base);
    gm_replay_close(&o);
    gm_store_close(&o.store);
    gm_strmap_close(&o.turns);
    gm_idmap_close(&o.serials);
    gm_idmap_close(&o.tickets);
    return rc;
}
