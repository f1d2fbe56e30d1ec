/* version.c - versions of the protocol: see version.h.
 *
 * Owns:      the arithmetic of ranges and their words.
 * Does not:  send or log (bus.c).
 */
#include "common/net/version.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A whole number from 1 to the limit; *end: what follows it. 0: there is none. */
static uint32_t number(const char *text, const char **end)
{
    uint32_t n = 0;
    for (*end = text; **end >= '0' && **end <= '9' && n <= GM_PROTOCOL_LIMIT; ++*end)
        n = n * 10 + (uint32_t)(**end - '0');
    return n <= GM_PROTOCOL_LIMIT ? n : 0;
}

enum gm_status gm_versions_own(struct gm_versions *out, struct gm_err *err)
{
    const char *text = getenv("GM_PROTOCOL"), *at;
    *out = (struct gm_versions){ GM_PROTOCOL_MIN, GM_PROTOCOL_MAX };
    if (!text || !text[0])
        return GM_OK;
    struct gm_versions v = { number(text, &at), 0 };
    if (*at == ':')
        v.max = number(at + 1, &at);
    if (*at != '\0' || v.min == 0 || v.max < v.min)
        return gm_fail(
            err, GM_INVALID,
            "GM_PROTOCOL is \"%.40s\"; give MIN:MAX, two versions from 1 to %d, or leave "
            "it unset",
            text, GM_PROTOCOL_LIMIT);
    *out = v;
    return GM_OK;
}

uint32_t gm_versions_common(struct gm_versions a, struct gm_versions b)
{
    const uint32_t low = a.min > b.min ? a.min : b.min, high = a.max < b.max ? a.max : b.max;
    return low <= high ? high : 0;
}

struct gm_versions gm_versions_of(const Gm__Envelope *env)
{
    struct gm_versions v = { env->version, env->version };
    if (env->has_version_min && env->version_min > 0 && env->version_min < v.min)
        v.min = env->version_min;
    return v;
}

bool gm_versions_timeless(const Gm__Envelope *env)
{
    static const char *const services[] = { "Health.", "Reflection." };
    if (env->kind == GM__KIND__HELLO)
        return true;
    if (env->kind != GM__KIND__CALL)
        return env->kind > GM__KIND__CALL && env->kind <= GM__KIND__DONE;
    for (size_t i = 0; env->method && i < sizeof services / sizeof *services; i++)
        if (strncmp(env->method, services[i], strlen(services[i])) == 0)
            return true;
    return false;
}

void gm_versions_sender(char out[GM_SENDER_MAX], const Gm__Envelope *env, const uint8_t *id,
                        size_t len)
{
    const uint8_t *name = id;
    if (env && env->sender && env->sender[0]) {
        name = (const uint8_t *)env->sender;
        len = strlen(env->sender);
    } else {
        size_t dash = len;
        while (dash > 0 && id[dash - 1] != '-')
            dash--;
        len = dash > 1 ? dash - 1 : len;
    }
    len = len < GM_SENDER_MAX - 1 ? len : GM_SENDER_MAX - 1;
    size_t n = 0;
    while (n < len && name[n] > 0x20 && name[n] < 0x7f)
        n++;
    if (n == len && n > 0)
        snprintf(out, GM_SENDER_MAX, "%.*s", (int)n, (const char *)name);
    else
        snprintf(out, GM_SENDER_MAX, "a peer");
}

static void range(char out[32], struct gm_versions v)
{
    if (v.min == v.max)
        snprintf(out, 32, "%u", v.max);
    else
        snprintf(out, 32, "%u to %u", v.min, v.max);
}

enum gm_status gm_versions_refuse(struct gm_err *err, const char *a, struct gm_versions speaks_a,
                                  const char *b, struct gm_versions speaks_b)
{
    char of_a[32], of_b[32];
    range(of_a, speaks_a);
    range(of_b, speaks_b);
    return gm_fail(err, GM_PRECONDITION,
                   "%s speaks version %s of the protocol and %s %s; start both from one release", a,
                   of_a, b, of_b);
}
