/* admission.h - how many turns run and wait, and who is refused when there are too many.
 *
 * Owns:      the rule. So many turns run at once as the machine serves at a useful speed; others
 *            wait for their places. A burst is taken whole, as far as there is room to wait; but
 *            when the line has not been empty for GM_BURST_MS, only those are taken who will wait
 *            no longer than GM_LINE_MS, and the rest is refused at once: who is served keeps the
 *            speed.
 * Does not:  keep requests (edge_turn.c) or read clocks.
 */
#ifndef GM_GATEWAY_ADMISSION_H
#define GM_GATEWAY_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

enum {
    GM_RUNNING_MAX = 256, /* turns given to the pipeline at once, on any machine */
    GM_RUNNING_MIN = 32,
    GM_RUNNING_PER_CPU = 16,
    GM_WAITING_MAX = 256, /* that wait beside GM_RUNNING_MAX, running or not: 512 in all */
    GM_BURST_MS = 2000,   /* how long a line may grow without a question */
    GM_LINE_MS = 2000,    /* later: the longest wait that is promised */
    GM_WAIT_MS = 180000,  /* the longest wait there is; then 429 */
    GM_RETRY_S_MAX = 30,  /* the longest Retry-After */
    GM_PACE_TURNS = 32,   /* ends of turns that the pace is taken from */
};

/* Zero-initialise, then set most. */
struct gm_admission {
    uint32_t most;             /* turns that run at once */
    uint32_t running, waiting; /* turns now */
    int64_t calm_ms;           /* when the line was last empty */
    int64_t ends_ms[GM_PACE_TURNS];
    uint64_t n_ends;
};

/* Turns at once on a machine with so many CPUs. */
uint32_t gm_admission_most(uint32_t cpus);

enum gm_admit { GM_ADMIT_RUN, GM_ADMIT_WAIT, GM_ADMIT_REFUSE };

/* Whether `turns` more may come in now; *retry_s: when to ask again, if not. Counts nothing. */
enum gm_admit gm_admission_ask(struct gm_admission *a, uint32_t turns, int64_t now_ms,
                               long *retry_s);
/* Whether the first of the line may begin: its `turns` fit, or nothing else runs. */
bool gm_admission_room(const struct gm_admission *a, uint32_t turns);
/* Counting: turns begin to run; one ends. Who waits is counted by the caller. */
void gm_admission_run(struct gm_admission *a, uint32_t turns);
void gm_admission_end(struct gm_admission *a, int64_t now_ms);

#endif
