/* admission.h - how many requests run and wait, and who is refused when there are too many.
 *
 * Owns:      the rule. A burst is taken whole (GM_RUNNING_MAX, then GM_WAITING_MAX wait); but when
 *            more than GM_SUSTAINED_MAX have been running for longer than GM_BURST_MS, new ones are
 *            refused at once, so that those who are served keep their speed.
 * Does not:  keep requests (edge_job.c) or read clocks.
 */
#ifndef GM_GATEWAY_ADMISSION_H
#define GM_GATEWAY_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

enum {
    GM_RUNNING_MAX = 256,  /* turns given to the pipeline at once */
    GM_WAITING_MAX = 256,  /* turns that wait for one of these to end */
    GM_SUSTAINED_MAX = 32, /* turns at once that the pipeline may have for long */
    GM_BURST_MS = 3000,    /* how long it may have more */
    GM_WAIT_MS = 30000,    /* the longest wait; then 429 */
    GM_RETRY_S_MAX = 30,   /* the longest Retry-After */
    GM_PACE_REQUESTS = 32, /* ends of turns that the pace is taken from */
};

/* Zero-initialise. */
struct gm_admission {
    uint32_t running, waiting; /* turns */
    int64_t calm_ms;           /* when there were last fewer than GM_SUSTAINED_MAX */
    int64_t ends_ms[GM_PACE_REQUESTS];
    uint64_t n_ends;
};

enum gm_admit { GM_ADMIT_RUN, GM_ADMIT_WAIT, GM_ADMIT_REFUSE };

/* Whether `turns` more may come in now; *retry_s: when to ask again, if not. Counts nothing. */
enum gm_admit gm_admission_ask(struct gm_admission *a, uint32_t turns, int64_t now_ms,
                               long *retry_s);
/* Counting: a turn begins to run or to wait, and ends. */
void gm_admission_run(struct gm_admission *a, uint32_t turns);
void gm_admission_end(struct gm_admission *a, int64_t now_ms);

#endif
