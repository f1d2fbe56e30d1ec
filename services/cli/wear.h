/* wear.h - when a process that died is started again, and when it counts as failed.
 *
 * Owns:      struct gm_wear. All times are of gm_now_ms's clock and given by the caller.
 * Does not:  start processes or read clocks.
 *
 * The first GM_WEAR_RESTARTS deaths within GM_WEAR_WINDOW_MS cost no pause. The next one marks the
 * process as failed: it is started after a second, then two, up to a minute, and is well again once
 * it has lived for GM_WEAR_WELL_MS.
 */
#ifndef GM_CLI_WEAR_H
#define GM_CLI_WEAR_H

#include <stdbool.h>
#include <stdint.h>

enum {
    GM_WEAR_RESTARTS = 5,
    GM_WEAR_WINDOW_MS = 60000,
    GM_WEAR_PAUSE_MS = 1000, /* the first, and from then on twice as long each time */
    GM_WEAR_PAUSE_MS_MAX = 60000,
    GM_WEAR_WELL_MS = 5000,
};

/* All zero: well. */
struct gm_wear {
    bool failed;
    int64_t recent_ms[GM_WEAR_RESTARTS]; /* the last restarts, a ring; 0: none */
    int next;
    int64_t pause_ms;   /* the last one; 0: none yet */
    int64_t due_ms;     /* not to be started before */
    int64_t started_ms; /* of the process that lives; 0: none does */
};

void gm_wear_started(struct gm_wear *w, int64_t now);
/* It died. Returns true when this made it a failed one. */
bool gm_wear_died(struct gm_wear *w, int64_t now);
/* Returns true, once, when a failed one has lived for long enough: it is well again. */
bool gm_wear_healed(struct gm_wear *w, int64_t now);
/* ms until something changes by itself: a start that is due, or health; -1: nothing will. */
int64_t gm_wear_wait_ms(const struct gm_wear *w, int64_t now);

#endif
