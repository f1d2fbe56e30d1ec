/* wear.c - restarts at once, then with pauses: see wear.h.
 *
 * Owns:      the arithmetic.
 * Does not:  start processes or read clocks.
 */
#include "services/cli/wear.h"

#include <string.h>

void gm_wear_started(struct gm_wear *w, int64_t now)
{
    w->started_ms = now;
}

bool gm_wear_died(struct gm_wear *w, int64_t now)
{
    const int64_t oldest = w->recent_ms[w->next];
    const bool was = w->failed;
    w->started_ms = 0;
    w->due_ms = now;
    w->failed = was || (oldest && now - oldest < GM_WEAR_WINDOW_MS);
    w->recent_ms[w->next] = now;
    w->next = (w->next + 1) % GM_WEAR_RESTARTS;
    if (!w->failed)
        return false;
    w->pause_ms = w->pause_ms ? 2 * w->pause_ms : GM_WEAR_PAUSE_MS;
    if (w->pause_ms > GM_WEAR_PAUSE_MS_MAX)
        w->pause_ms = GM_WEAR_PAUSE_MS_MAX;
    w->due_ms = now + w->pause_ms;
    return !was;
}

bool gm_wear_healed(struct gm_wear *w, int64_t now)
{
    if (!w->failed || !w->started_ms || now - w->started_ms < GM_WEAR_WELL_MS)
        return false;
    const int64_t since = w->started_ms;
    memset(w, 0, sizeof *w);
    w->started_ms = since;
    return true;
}

int64_t gm_wear_wait_ms(const struct gm_wear *w, int64_t now)
{
    const int64_t at = w->started_ms ? w->started_ms + GM_WEAR_WELL_MS : w->due_ms;
    if (w->started_ms && !w->failed)
        return -1;
    return at > now ? at - now : 0;
}
