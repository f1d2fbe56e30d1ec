/* draft.c - guesses of the next tokens: the search backwards, and the turn's pace.
 *
 * Owns:      everything behind draft.h.
 * Does not:  decide how many turns may guess at once (batch.c) or judge a guess (the sampler does).
 */
#include "services/shard/draft.h"

/* The average starts somewhat below a half, and an outcome counts a quarter. Up to HIT_SURE only
 * the longest matches are taken. A row beside another costs about an eighth of a step, so a guess
 * less likely than that is none. */
#define HIT_START  0.4f
#define HIT_WEIGHT 0.25f
#define HIT_SURE   0.5f
#define ROW_COST   0.125f

void gm_draft_pace_init(struct gm_draft_pace *p)
{
    *p = (struct gm_draft_pace){ .hit = HIT_START, .pause = GM_DRAFT_PAUSE_MIN };
}

int32_t gm_draft_want(struct gm_draft_pace *p, int32_t most, int32_t *match_min)
{
    int32_t n = 0;
    *match_min = p->hit > HIT_SURE ? GM_DRAFT_MATCH_MIN : GM_DRAFT_MATCH_MAX;
    if (most <= 0)
        return 0;
    if (p->rest > 0) {
        p->rest--;
        return 0;
    }
    if (p->hit <= ROW_COST) /* a pause is over: one try */
        return 1;
    for (float all = p->hit; n < most && all > ROW_COST; all *= p->hit)
        n++;
    return n;
}

void gm_draft_result(struct gm_draft_pace *p, int32_t drafted, int32_t accepted)
{
    for (int32_t i = 0; i < accepted; i++)
        p->hit += (1.0f - p->hit) * HIT_WEIGHT;
    if (accepted > 0)
        p->pause = GM_DRAFT_PAUSE_MIN;
    if (accepted < drafted)
        p->hit -= p->hit * HIT_WEIGHT;
    if (drafted == 0 || p->hit > ROW_COST)
        return;
    p->rest = p->pause;
    p->pause = p->pause < GM_DRAFT_PAUSE_MAX / 2 ? p->pause * 2 : GM_DRAFT_PAUSE_MAX;
}

int32_t gm_draft_find(const int32_t *ids, int32_t n, int32_t id, int32_t match_min, int32_t *out,
                      int32_t want)
{
    const int32_t low = n > GM_DRAFT_LOOK_BACK ? n - GM_DRAFT_LOOK_BACK : 0;
    int32_t best = match_min - 1, at = -1;
    for (int32_t j = n - 1; j >= low && best < GM_DRAFT_MATCH_MAX; j--) {
        int32_t m = 1;
        if (ids[j] != id)
            continue;
        while (m < GM_DRAFT_MATCH_MAX && m <= j && ids[j - m] == ids[n - m])
            m++;
        if (m > best) {
            best = m;
            at = j;
        }
    }
    if (at < 0)
        return 0;
    for (int32_t i = 0; i < want; i++) {
        const int32_t from = at + 1 + i;
        out[i] = from < n ? ids[from] : from == n ? id : out[from - n - 1];
    }
    return want;
}
