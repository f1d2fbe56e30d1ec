/* admission.c - who comes in: see admission.h.
 *
 * Owns:      the rule and the estimate of when to ask again.
 * Does not:  know requests.
 */
#include "services/gateway/admission.h"

/* Seconds until the pipeline has worked off what is above the sustained number. */
static long retry_after(const struct gm_admission *a, int64_t now_ms)
{
    const uint64_t n = a->n_ends < GM_PACE_REQUESTS ? a->n_ends : GM_PACE_REQUESTS;
    const uint32_t all = a->running + a->waiting;
    const uint32_t above = all > GM_SUSTAINED_MAX ? all - GM_SUSTAINED_MAX + 1 : 1;
    if (n < 2)
        return 1;
    const int64_t oldest = a->ends_ms[(a->n_ends - n) % GM_PACE_REQUESTS];
    const int64_t ms = (now_ms - oldest) * (int64_t)above / (int64_t)n;
    const long s = (long)((ms + 999) / 1000);
    return s < 1 ? 1 : s > GM_RETRY_S_MAX ? GM_RETRY_S_MAX : s;
}

enum gm_admit gm_admission_ask(struct gm_admission *a, uint32_t turns, int64_t now_ms,
                               long *retry_s)
{
    const uint32_t all = a->running + a->waiting;
    if (all < GM_SUSTAINED_MAX)
        a->calm_ms = now_ms;
    *retry_s = retry_after(a, now_ms);
    if (all >= GM_SUSTAINED_MAX && now_ms - a->calm_ms > GM_BURST_MS)
        return GM_ADMIT_REFUSE;
    if (a->waiting == 0 && a->running + turns <= GM_RUNNING_MAX)
        return GM_ADMIT_RUN;
    return a->waiting + turns <= GM_WAITING_MAX ? GM_ADMIT_WAIT : GM_ADMIT_REFUSE;
}

void gm_admission_run(struct gm_admission *a, uint32_t turns)
{
    a->running += turns;
}

void gm_admission_end(struct gm_admission *a, int64_t now_ms)
{
    if (a->running > 0)
        a->running--;
    a->ends_ms[a->n_ends++ % GM_PACE_REQUESTS] = now_ms;
    if (a->running + a->waiting < GM_SUSTAINED_MAX)
        a->calm_ms = now_ms;
}
