/* version.h - which versions of the protocol two processes share, and the words when it is none.
 *
 * Owns:      the range that this build speaks, GM_PROTOCOL, the rule which messages are readable at
 *            every version, the sentence of a refusal.
 * Does not:  send or log (bus.c), or know what a version changes.
 *
 * Every envelope says the whole range of its sender, so nothing is remembered between messages and
 * a peer that comes back as another release is understood from its first one on.
 */
#ifndef GM_NET_VERSION_H
#define GM_NET_VERSION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "envelope.pb-c.h"

enum {
    GM_PROTOCOL_MIN = 1, /* the oldest version that this build speaks */
    GM_PROTOCOL_MAX = 1, /* and the newest */
    GM_PROTOCOL_LIMIT = 65535,
    GM_SENDER_MAX = 48, /* bytes of a process's name in a sentence, with the ending 0 */
};

struct gm_versions {
    uint32_t min, max; /* 0, 0: not known */
};

/* What this process speaks: the build's range, or GM_PROTOCOL="MIN:MAX" of the environment, which
 * is there for drills. GM_INVALID: the variable is malformed. */
enum gm_status gm_versions_own(struct gm_versions *out, struct gm_err *err);

/* The highest version that both speak; 0: there is none. */
uint32_t gm_versions_common(struct gm_versions a, struct gm_versions b);

/* What the sender of an envelope speaks. An envelope without version_min speaks one version. */
struct gm_versions gm_versions_of(const Gm__Envelope *env);

/* Whether a message is readable at every version: HELLO, calls of Health and Reflection, and all
 * that belongs to a call that was let in. */
bool gm_versions_timeless(const Gm__Envelope *env);

/* Who sent an envelope, as it says of itself; else the routing id [len] up to its last dash. "a
 * peer": neither is a name. */
void gm_versions_sender(char out[GM_SENDER_MAX], const Gm__Envelope *env, const uint8_t *id,
                        size_t len);

/* GM_PRECONDITION, always: "shard-1 speaks version 3 to 4 of the protocol and orchestrator-0 1 to
 * 2; start both from one release". */
enum gm_status gm_versions_refuse(struct gm_err *err, const char *a, struct gm_versions speaks_a,
                                  const char *b, struct gm_versions speaks_b);

#endif
