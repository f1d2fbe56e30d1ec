/* admission.c - who comes in: see admission.h.
 *
 * Owns:      the rule and the estimate of waits.
 * Does not:  know requests.
 */
#include "services/gateway/admission.h"

uint32_t gm_admission_most(uint32_t cpus)
{
    const uint32_t most = cpus < GM_RUNNING_MAX ? cpus * GM_RUNNING_PER_CPU : GM_RUNNING_MAX;
    return most < GM_RUNNING_MIN ? GM_RUNNING_MIN : most > GM_RUNNING_MAX ? GM_RUNNING_MAX : most;
}

/* Milliseconds until so many turns have ended, by the pace of the last ones; 0: not known. */
static int64_t time_of(const struct gm_admission *a, uint32_t turns, int64_t now_ms)
{
    const uint64_t n = a->n_ends < GM_PACE_TURNS ? a->n_ends : GM_PACE_TURNS;
    if (n < 2)
        return 0;
    const int64_t oldest = a->ends_ms[(a->n_ends - n) % GM_PACE_TURNS];
    return (now_ms - oldest) * (int64_t)turns / (int64_t)n;
}

enum gm_admit gm_admission_ask(struct gm_admission *a, uint32_t turns, int64_t now_ms,
                               long *retry_s)
{
    const uint32_t all = a->running + a->waiting;
    const int64_t wait = time_of(a, a->waiting + turns, now_ms);
    const long s = (long)((wait + 999) / 1000);
    *retry_s = s < 1 ? 1 : s > GM_RETRY_S_MAX ? GM_RETRY_S_MAX : s;
    if (a->waiting == 0) {
        a->calm_ms = now_ms;
        if (gm_admission_room(a, turns))
            return GM_ADMIT_RUN;
    }
    if (all + turns > GM_RUNNING_MAX + GM_WAITING_MAX)
        return GM_ADMIT_REFUSE;
    if (now_ms - a->calm_ms <= GM_BURST_MS || wait <= GM_LINE_MS)
        return GM_ADMIT_WAIT;
    return GM_ADMIT_REFUSE;
}

bool gm_admission_room(const struct gm_admission *a, uint32_t turns)
{
    return a->running == 0 || a->running + turns <= a->most;
}

void gm_admission_run(struct gm_admission *a, uint32_t turns)
{
    a->running += turns;
}

void gm_admission_end(struct gm_admission *a, int64_t now_ms)
{
    if (a->running > 0)
        a->running--;
    a->ends_ms[a->n_ends++ % GM_PACE_TURNS] = now_ms;
}
