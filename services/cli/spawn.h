/* spawn.h - one process of a pipeline: its command line, its log, its last words.
 *
 * Owns:      nothing.
 * Does not:  restart (supervise.c).
 */
#ifndef GM_CLI_SPAWN_H
#define GM_CLI_SPAWN_H

#include "services/cli/cli.h"

/* Forks and executes the program of p->role with the options of st->set, in a session of its own,
 * stdin from nothing, stdout and stderr in HOME/logs/ROLE-INDEX.log (`again`: appended). Fills pid,
 * start, started_ms and pidfd, and stores the state before the program runs: a supervisor that dies
 * in between leaves no process that the next one does not know. p is one of st. */
enum gm_status gm_spawn(const struct gm_home *home, const struct gm_state *st, struct gm_proc *p,
                        bool again, struct gm_err *err);

/* Why it ended: the message of the last line of its log that is an error, else the last line. */
enum gm_status gm_spawn_sentence(const struct gm_home *home, const struct gm_proc *p,
                                 struct gm_err *err);

#endif
