/* edge.h - the orchestrator's calls.
 *
 * Owns:      the names of what edge.c and recover.c give to main.c.
 * Does not:  hold state.
 */
#ifndef GM_ORCH_EDGE_H
#define GM_ORCH_EDGE_H

#include "orchestrator/orch.h"

/* Reads the turns that were running when this orchestrator's last life ended, and goes on with
 * them. */
void gm_orch_recover(struct gm_orch *o);

/* Calls about stored sessions (session_calls.c). */
gm_rpc_method gm_call_sessions, gm_call_session, gm_call_undo, gm_call_remove;
gm_store_reply gm_sessions_listed;

#endif
