/* bus_admit.c - which messages are let in: see bus.h and version.h.
 *
 * Owns:      the stamp of what is sent, the judgement of what came, the answer to what is refused.
 * Does not:  take messages apart (bus.c) or look into bodies.
 */
#include "common/net/bus_inner.h"

#include <stdio.h>

#include "common/base/log.h"

enum { LOG_BURST = 10, LOG_PER_MS = 10000 };

const char *gm_bus_name(const struct gm_bus *bus)
{
    return bus->identity;
}

struct gm_versions gm_bus_versions(const struct gm_bus *bus)
{
    return bus->versions;
}

uint64_t gm_bus_refused(const struct gm_bus *bus)
{
    return bus->refused;
}

void gm_bus_stamp(const struct gm_bus *bus, Gm__Envelope *env)
{
    env->version = bus->versions.max;
    env->has_version_min = bus->versions.min < bus->versions.max;
    env->version_min = bus->versions.min;
    env->has_boot = 1;
    env->boot = bus->boot;
    if (env->kind == GM__KIND__CALL || env->kind == GM__KIND__PING || env->kind == GM__KIND__PONG ||
        env->kind == GM__KIND__HELLO)
        env->sender = (char *)(uintptr_t)bus->identity;
}

static bool is_known(Gm__Kind kind)
{
    return kind != GM__KIND__KIND_NONE &&
           protobuf_c_enum_descriptor_get_value(&gm__kind__descriptor, (int)kind);
}

/* The book's name of a connection's key is proof; what an envelope says is a claim. */
static void name_sender(char out[GM_SENDER_MAX], const struct gm_msg *msg)
{
    if (msg->who)
        snprintf(out, GM_SENDER_MAX, "%s", msg->who);
    else
        gm_versions_sender(out, msg->env, msg->from, msg->from_len);
}

enum gm_status gm_bus_admit(const struct gm_bus *bus, struct gm_msg *msg, struct gm_err *err)
{
    const struct gm_versions theirs = gm_versions_of(msg->env);
    char sender[GM_SENDER_MAX];
    msg->version = gm_versions_common(bus->versions, theirs);
    if (msg->version == 0 && !gm_versions_timeless(msg->env)) {
        name_sender(sender, msg);
        return gm_versions_refuse(err, sender, theirs, bus->identity, bus->versions);
    }
    if (is_known(msg->env->kind))
        return GM_OK;
    name_sender(sender, msg);
    return gm_fail(err, GM_UNSUPPORTED,
                   "%s does not know messages of kind %d, which %s sent; start both from one "
                   "release",
                   bus->identity, (int)msg->env->kind, sender);
}

/* Answered is what a caller may wait for: a call, and a kind that we do not know. An answer must
 * never lead to another. */
static bool wants_answer(const struct gm_msg *msg)
{
    return msg->env && msg->from_len > 0 &&
           (msg->env->kind == GM__KIND__CALL || (msg->env->has_call && !is_known(msg->env->kind)));
}

void gm_bus_deny(struct gm_bus *bus, const struct gm_msg *msg, enum gm_status status,
                 const char *why)
{
    bus->refused++;
    if (!wants_answer(msg))
        return;
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.kind = GM__KIND__REPLY;
    env.has_call = 1;
    env.call = msg->env->call;
    env.has_status = 1;
    env.status = status;
    env.text = (char *)(uintptr_t)why;
    gm_bus_answer(bus, msg, &env, NULL, NULL);
}

void gm_bus_refuse(struct gm_bus *bus, const struct gm_msg *msg, enum gm_status status,
                   const char *why)
{
    static struct gm_log_limit limit = { .burst = LOG_BURST, .per_ms = LOG_PER_MS };
    if (gm_log_pass(&limit, NULL))
        gm_log(GM_LOG_WARN, "message dropped: %s", why);
    gm_bus_deny(bus, msg, status, why);
}
