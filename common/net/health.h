/* health.h - what every process says of itself: Health.Check, Health.Watch, Reflection.Describe.
 *
 * Owns:      their methods, who watches, the times of the last hops.
 * Does not:  know what a service does: its `health` fills the reply.
 * One process is one service: the state is the process's.
 */
#ifndef GM_NET_HEALTH_H
#define GM_NET_HEALTH_H

#include "common/net/service.h"

enum {
    GM_WATCHERS_MAX = 64, /* streams of Health.Watch at once */
    GM_METHODS_MAX = 64,  /* of one service */
};

/* A message that carries a token's way on: the time since its sender was done with it. */
void gm_health_hop(const Gm__Envelope *env);

/* The methods of a service with those of this file, NULL-name terminated; s and s->methods are
 * borrowed for the life of the process. GM_INTERNAL: more than GM_METHODS_MAX, or one that
 * service.proto does not declare. */
enum gm_status gm_health_methods(struct gm_service *s, const struct gm_method **out,
                                 struct gm_err *err);

/* After each turn of the loop: tells watchers when the state has changed. */
void gm_health_look(void);

#endif
