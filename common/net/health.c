/* health.c - Health and Reflection, which every process serves: see health.h.
 *
 * Owns:      the replies, the watchers.
 * Does not:  run the loop (service.c).
 */
#include "common/net/health.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/sys.h"
#include "common/net/reflect.h"

enum { HOPS = 512, HOP_US_MAX = 1000000 };

static struct gm_service *the_service;
static struct gm_method table[GM_METHODS_MAX + 4];

/* ---- hops ------------------------------------------------------------------------------------ */

static struct {
    uint32_t us[HOPS];
    uint64_t n;
} hops;

/* A clock of another machine shows as nonsense and is left out. */
void gm_health_hop(const Gm__Envelope *env)
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

/* ---- Health ---------------------------------------------------------------------------------- */

static void fill(Gm__HealthReply *reply)
{
    struct gm_service *s = the_service;
    gm__health_reply__init(reply);
    reply->role = (char *)s->role;
    reply->index = s->index;
    reply->boot = gm_bus_boot(s->bus);
    reply->state = (char *)"ready";
    say_hops(reply);
    if (s->health)
        s->health(s->self, reply);
}

static enum gm_status check(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    Gm__HealthReply reply;
    (void)self;
    (void)request;
    (void)err;
    fill(&reply);
    return gm_rpc_reply(stream, &reply.base);
}

/* One stream of Health.Watch, and the state it was told last. */
struct watcher {
    struct gm_stream *stream; /* NULL: a free place */
    uint64_t told;
};
static struct watcher watchers[GM_WATCHERS_MAX];
static int n_watchers;

static uint64_t mix(uint64_t h, const char *text)
{
    for (; text && *text; text++)
        h = (h ^ (uint8_t)*text) * 1099511628211u;
    return h * 1099511628211u;
}

/* What a watcher waits for: whether and with what this process can serve, not how busy it is. */
static uint64_t state_of(const Gm__HealthReply *h)
{
    return mix(mix(mix(1469598103934665603u, h->state), h->text), h->numerics) | 1;
}

static void tell(struct watcher *w, const Gm__HealthReply *reply)
{
    const uint64_t now = state_of(reply);
    if (w->stream && w->told != now && gm_stream_item(w->stream, &reply->base))
        w->told = now; /* without credit it is told later: the state as it is then */
}

void gm_health_look(void)
{
    Gm__HealthReply reply;
    if (n_watchers == 0)
        return;
    fill(&reply);
    for (int i = 0; i < GM_WATCHERS_MAX; i++)
        tell(&watchers[i], &reply);
}

static void on_watcher(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct watcher *w = ctx;
    (void)s;
    (void)credit;
    if (!gone)
        return; /* the look after this turn of the loop tells it */
    w->stream = NULL;
    n_watchers--;
}

static enum gm_status watch(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    int i = 0;
    (void)self;
    (void)request;
    while (i < GM_WATCHERS_MAX && watchers[i].stream)
        i++;
    if (i == GM_WATCHERS_MAX)
        return gm_fail(err, GM_EXHAUSTED, "%d streams watch this process already", GM_WATCHERS_MAX);
    watchers[i] = (struct watcher){ stream, 0 };
    n_watchers++;
    gm_stream_on_event(stream, on_watcher, &watchers[i]);
    return GM_OK;
}

/* ---- Reflection ------------------------------------------------------------------------------ */

static enum gm_status describe(void *self, struct gm_stream *stream,
                               const ProtobufCMessage *request, struct gm_err *err)
{
    Gm__Description d = GM__DESCRIPTION__INIT;
    char *names[GM_METHODS_MAX + 4];
    size_t n;
    (void)self;
    (void)request;
    (void)err;
    for (const struct gm_method *m = table; m->name; m++)
        names[d.n_methods++] = (char *)m->name;
    const uint8_t *set = gm_reflect_set(&n);
    d.methods = names;
    d.set = (ProtobufCBinaryData){ n, (uint8_t *)(uintptr_t)set };
    d.release = (char *)GM_RELEASE;
    d.version_min = gm_bus_versions(the_service->bus).min;
    d.version_max = gm_bus_versions(the_service->bus).max;
    return gm_rpc_reply(stream, &d.base);
}

enum gm_status gm_health_methods(struct gm_service *s, const struct gm_method **out,
                                 struct gm_err *err)
{
    static const struct gm_method own[] = {
        { "Health.Check", &gm__empty__descriptor, check },
        { "Health.Watch", &gm__empty__descriptor, watch },
        { "Reflection.Describe", &gm__empty__descriptor, describe },
    };
    size_t n = sizeof own / sizeof own[0];
    the_service = s;
    memcpy(table, own, sizeof own);
    for (const struct gm_method *m = s->methods; m && m->name; m++) {
        if (n == GM_METHODS_MAX || gm_reflect_shape(m->name) == GM_SHAPE_UNKNOWN)
            return gm_fail(err, GM_INTERNAL,
                           "%s has too many methods, or no file of proto declares %s", s->role,
                           m->name);
        table[n++] = *m;
    }
    table[n] = (struct gm_method){ NULL, NULL, NULL };
    *out = table;
    return GM_OK;
}
