/* guard.h - which web pages may speak to us: Host, Origin and Sec-Fetch-Site of a request.
 *
 * Owns:      the rules against pages of other origins and against rebound names.
 * Does not:  know keys (keyring.c) or answer (edge.c).
 */
#ifndef GM_GATEWAY_GUARD_H
#define GM_GATEWAY_GUARD_H

#include <stdbool.h>

struct gm_guard {
    const char *address; /* where we listen, "127.0.0.1:8080" */
    bool local;          /* only this machine reaches it: Host must name this machine */
    const char *origins; /* allowed ones with commas between, or "" */
};

/* What a request says; NULL: nothing. */
struct gm_guarded {
    const char *host, *origin, *fetch_site;
};

/* NULL: it may go on; else a sentence (static) for 403. *listed: its origin is one of the list, so
 * the answer says so (CORS). */
const char *gm_guard_check(const struct gm_guard *g, const struct gm_guarded *r, bool *listed);

#endif
