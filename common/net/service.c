/* service.c - the loop every process is: see service.h.
 *
 * Owns:      the loop, HELLO, Health.Check.
 * Does not:  know what a step does.
 */
#include "common/net/service.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/sys.h"

enum { METHODS_MAX = 64, FDS_MAX = 8 };

enum gm_status gm_endpoint(char out[GM_ENDPOINT_MAX], const char *run_dir, const char *role,
                           uint32_t index, struct gm_err *err)
{
    const int n = snprintf(out, GM_ENDPOINT_MAX, "ipc://%s/%s-%u.sock", run_dir, role, index);
    if (n < 0 || n >= GM_ENDPOINT_MAX)
        return gm_fail(err, GM_INVALID, "the run directory %s is too long for a socket's path",
                       run_dir);
    return GM_OK;
}

/* ---- hops ------------------------------------------------------------------------------------ */

enum { HOPS = 512, HOP_US_MAX = 1000000 };

/* The last hops' times; one process is one service. */
static struct {
    uint32_t us[HOPS];
    uint64_t n;
} hops;

/* A message that carries a token's way on: the time since its sender was done with it. A clock of
 * another machine shows as nonsense and is left out. */
static void note_hop(const Gm__Envelope *env)
{
    if (!env->has_made_us || (env->kind != GM__KIND__HIDDEN_ROWS &&
                              env->kind != GM__KIND__CANDIDATES && env->kind != GM__KIND__CHOSEN))
        return;
    const uint64_t us = (uint64_t)gm_now_us() - env->made_us; /* a time to come wraps: too large */
    if (us < HOP_US_MAX)
        hops.us[hops.n++ % HOPS] = (uint32_t)us;
}

static int by_size(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void say_hops(Gm__HealthReply *h)
{
    uint32_t sorted[HOPS];
    const uint32_t n = hops.n < HOPS ? (uint32_t)hops.n : HOPS;
    if (n == 0)
        return;
    memcpy(sorted, hops.us, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_size);
    h->has_hop_us = h->has_hops = 1;
    h->hop_us = sorted[n / 2];
    h->hops = n;
}

/* The service's own methods run with its `self`; Health.Check needs the service: one table entry of
 * ours comes first and finds it here. One process is one service. */
static struct gm_service *the_service;

static enum gm_status check(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    struct gm_service *s = the_service;
    Gm__HealthReply reply = GM__HEALTH_REPLY__INIT;
    (void)self;
    (void)request;
    (void)err;
    reply.role = (char *)s->role;
    reply.index = s->index;
    reply.boot = gm_bus_boot(s->bus);
    reply.state = (char *)"ready";
    say_hops(&reply);
    if (s->health)
        s->health(s->self, &reply);
    return gm_rpc_reply(stream, &reply.base);
}

enum gm_status gm_service_open(struct gm_service *s, struct gm_err *err)
{
    static struct gm_method methods[METHODS_MAX + 2];
    char endpoint[GM_ENDPOINT_MAX], identity[64];
    size_t n = 0;
    the_service = s;
    methods[n++] = (struct gm_method){ "Health.Check", &gm__empty__descriptor, check };
    for (const struct gm_method *m = s->methods; m && m->name && n <= METHODS_MAX; m++)
        methods[n++] = *m;
    methods[n] = (struct gm_method){ NULL, NULL, NULL };
    snprintf(identity, sizeof identity, "%s-%u", s->role, s->index);
    enum gm_status rc = gm_stop_signals(err);
    if (rc == GM_OK)
        rc = gm_endpoint(endpoint, s->run_dir, s->role, s->index, err);
    if (rc == GM_OK)
        rc = gm_bus_open(&s->bus, identity, endpoint, err);
    if (rc == GM_OK)
        rc = gm_rpc_open(&s->rpc, s->bus, methods, s->self, err);
    if (rc == GM_OK)
        gm_service_hello(s);
    return rc;
}

void gm_service_close(struct gm_service *s)
{
    gm_rpc_close(&s->rpc);
    gm_bus_close(&s->bus);
}

void gm_service_hello(struct gm_service *s)
{
    char endpoint[GM_ENDPOINT_MAX];
    Gm__Hello hello = GM__HELLO__INIT;
    if (!s->hello || gm_endpoint(endpoint, s->run_dir, "orchestrator", 0, NULL) != GM_OK)
        return;
    struct gm_peer *peer = gm_bus_peer(s->bus, endpoint, NULL);
    hello.role = (char *)s->role;
    hello.index = s->index;
    hello.boot = gm_bus_boot(s->bus);
    s->hello(s->self, &hello);
    if (peer)
        gm_bus_post(s->bus, peer, GM__KIND__HELLO, &hello.base, NULL, 0, NULL);
}

static int min_ms(int a, int b)
{
    if (a < 0)
        return b;
    return b < 0 || a < b ? a : b;
}

/* A peer that sends nonsense without end must not fill the disk. */
static void log_refused(const struct gm_err *why)
{
    static struct gm_log_limit limit = { .burst = 10, .per_ms = 10000 };
    uint32_t dropped = 0;
    if (!gm_log_pass(&limit, &dropped))
        return;
    if (dropped > 0)
        gm_log(GM_LOG_WARN, "%u more messages were refused", dropped);
    gm_log_err(GM_LOG_WARN, "message refused", why);
}

/* Takes what has arrived, at most a burst. One bad message never stops the loop. */
static void take(struct gm_service *s)
{
    struct gm_msg msg;
    for (int n = 0; n < GM_BURST_MAX && gm_bus_take(s->bus, &msg); n++) {
        struct gm_err why = GM_ERR_NONE;
        if (!gm_rpc_handle(s->rpc, &msg)) {
            note_hop(msg.env);
            enum gm_status rc =
                s->on_message ? s->on_message(s->self, &msg, &why)
                              : gm_fail(&why, GM_UNSUPPORTED, "%s takes no message of kind %d",
                                        s->role, (int)msg.env->kind);
            if (rc != GM_OK)
                log_refused(&why);
        }
        gm_msg_free(&msg);
    }
}

enum gm_status gm_service_run(struct gm_service *s, struct gm_err *err)
{
    int64_t hello_ms = gm_now_ms() + GM_HELLO_MS;
    bool again = true, draining = false;
    for (;;) {
        if (gm_stopping()) {
            if (draining || !s->drain)
                break;
            draining = true;
            gm_stop_clear();
        }
        if (draining && s->drain(s->self))
            break;
        struct pollfd fds[FDS_MAX];
        const int n_fds = s->fds ? s->fds(s->self, fds, FDS_MAX) : 0;
        int wait = gm_rpc_tick(s->rpc);
        if (s->hello) {
            const int64_t left = hello_ms - gm_now_ms();
            wait = min_ms(wait, left > 0 ? (int)left : 0);
        }
        if (s->next_ms)
            wait = min_ms(wait, s->next_ms(s->self));
        enum gm_status rc = gm_bus_wait(s->bus, again ? 0 : wait, fds, n_fds, err);
        if (rc != GM_OK)
            return rc;
        take(s);
        if (n_fds > 0 && s->on_fds)
            s->on_fds(s->self, fds, n_fds);
        if (s->hello && gm_now_ms() >= hello_ms) {
            gm_service_hello(s);
            hello_ms = gm_now_ms() + GM_HELLO_MS;
        }
        again = false;
        if (s->step && (rc = s->step(s->self, &again, err)) != GM_OK)
            return rc;
    }
    return GM_OK;
}
