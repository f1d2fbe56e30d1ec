/* roles.h - which key may send what: the table of roles.
 *
 * Owns:      the names of roles, the calls and ring messages that each may send.
 * Does not:  know keys (book.h) or refuse by itself (bus.c does).
 */
#ifndef GM_NET_ROLES_H
#define GM_NET_ROLES_H

#include "common/net/bus.h"

enum { GM_ROLE_MAX = 16 }; /* bytes of a role's name with its ending 0 */

/* Whether others open connections to a process of the role. */
enum gm_role_inbox { GM_INBOX_NONE, GM_INBOX_MAY, GM_INBOX_MUST };

/* The role's inbox into *inbox; false: there is no such role. */
bool gm_role_find(const char *role, enum gm_role_inbox *inbox);
/* "orchestrator|shard|..." */
const char *gm_role_list(void);

/* GM_OK when the owner of the key, msg->who ("shard-1"), may send this message; else GM_DENIED and
 * a sentence that names it and the method or kind. A HELLO must name its own role and index. NULL
 * as `who` may send nothing. */
enum gm_status gm_role_check(const struct gm_msg *msg, struct gm_err *err);

#endif
