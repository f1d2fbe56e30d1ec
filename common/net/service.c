/* service.c - the loop every process is: see service.h.
 *
 * Owns:      the loop, HELLO.
 * Does not:  know what a step does, or say how it is (health.c).
 */
#include "common/net/health.h"

#include <poll.h>
#include <stdio.h>

#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/sys.h"

enum { FDS_MAX = 8 };

enum gm_status gm_endpoint(char out[GM_ENDPOINT_MAX], const char *run_dir, const char *role,
                           uint32_t index, struct gm_err *err)
{
    const int n = snprintf(out, GM_ENDPOINT_MAX, "ipc://%s/%s-%u.sock", run_dir, role, index);
    if (n < 0 || n >= GM_ENDPOINT_MAX)
        return gm_fail(err, GM_INVALID, "the run directory %s is too long for a socket's path",
                       run_dir);
    return GM_OK;
}

enum gm_status gm_net_endpoint(const struct gm_net *net, char out[GM_ENDPOINT_MAX],
                               const char *run_dir, const char *role, uint32_t index,
                               struct gm_err *err)
{
    if (!net)
        return gm_endpoint(out, run_dir, role, index, err);
    const struct gm_book_row *row = gm_book_find(&net->book, role, index);
    if (!row || !row->endpoint[0])
        return gm_fail(err, GM_NOT_FOUND, "the address book has no endpoint of %s-%u; add its line",
                       role, index);
    snprintf(out, GM_ENDPOINT_MAX, "%s", row->endpoint);
    return GM_OK;
}

enum gm_status gm_service_endpoint(const struct gm_service *s, char out[GM_ENDPOINT_MAX],
                                   const char *role, uint32_t index, struct gm_err *err)
{
    return gm_net_endpoint(s->net, out, s->run_dir, role, index, err);
}

bool gm_net_has(const struct gm_net *net, const char *run_dir, const char *role, uint32_t index)
{
    static const char scheme[] = "ipc://";
    char endpoint[GM_ENDPOINT_MAX];
    return gm_net_endpoint(net, endpoint, run_dir, role, index, NULL) == GM_OK &&
           (net || gm_path_exists(endpoint + sizeof scheme - 1));
}

/* Over TCP a process may do without an inbox: then nobody asks how it is. */
static enum gm_status open_bus(struct gm_service *s, const char *identity, struct gm_err *err)
{
    enum gm_status rc = gm_net_open(&s->net, s->net_options, s->role, s->index, err);
    const bool inbox = rc == GM_OK && (!s->net || s->net->bind[0]);
    if (inbox)
        rc = gm_service_endpoint(s, s->endpoint, s->role, s->index, err);
    if (rc == GM_OK)
        rc = gm_bus_open_net(&s->bus, identity,
                             !inbox   ? NULL
                             : s->net ? s->net->bind
                                      : s->endpoint,
                             s->net, err);
    return rc;
}

enum gm_status gm_service_open(struct gm_service *s, struct gm_err *err)
{
    const struct gm_method *methods = NULL;
    char identity[64];
    snprintf(identity, sizeof identity, "%s-%u", s->role, s->index);
    enum gm_status rc = gm_stop_signals(err);
    if (rc == GM_OK)
        rc = gm_health_methods(s, &methods, err);
    if (rc == GM_OK)
        rc = open_bus(s, identity, err);
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
    gm_net_close(&s->net);
}

void gm_service_hello(struct gm_service *s)
{
    char endpoint[GM_ENDPOINT_MAX];
    Gm__Hello hello = GM__HELLO__INIT;
    if (!s->hello || gm_service_endpoint(s, endpoint, "orchestrator", 0, NULL) != GM_OK)
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
            gm_health_hop(msg.env);
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
        gm_health_look();
    }
    return GM_OK;
}
