/* poison.c - which turn kills, and which only die with it.
 *
 * Owns:      the count of attempts that a turn lost without coming further, and who runs alone.
 * Does not:  make attempts (ring.c) or end turns (turn.c).
 *
 * A process that dies takes the attempts of all turns with it, and one row of one of them may be
 * why. A turn at work that loses two in a row without a row or token more than ever before is a
 * suspect: it goes on alone, the oldest first, while the others wait. If a process dies then too,
 * this turn has ended itself; as soon as it comes further it is as the others.
 */
#include "orchestrator/orch.h"

/* Whether rows of it are with the sampler or the shards. Without credit the ring holds none. */
static bool at_work(const struct gm_turn *t)
{
    return t->state == GM_TURN_OPEN ||
           (t->state == GM_TURN_RUN && (t->score || t->n_tokens < t->granted));
}

static bool suspect(const struct gm_turn *t)
{
    return t->deaths >= GM_DEATHS_MAX - 1;
}

/* A suspect that waits for pages lets the others run: theirs come back. */
static bool wants_ring(const struct gm_turn *t)
{
    return at_work(t) || (t->state == GM_TURN_WAIT && !t->pages_ms);
}

void gm_poison_progress(struct gm_turn *t, uint32_t position)
{
    if (position <= t->best)
        return;
    t->best = position;
    t->deaths = t->faults = 0;
    t->alone = false;
}

bool gm_poison_died(struct gm_turn *t)
{
    if (!at_work(t))
        return false;
    if (suspect(t) && !t->alone)
        return false; /* it may have been another's: the next attempt tells */
    return ++t->deaths >= GM_DEATHS_MAX;
}

bool gm_poison_fault(struct gm_turn *t)
{
    return ++t->faults >= GM_DEATHS_MAX;
}

bool gm_poison_waits(struct gm_turn *t)
{
    const struct gm_orch *o = t->orch;
    const bool own = suspect(t);
    for (size_t i = 0; i < o->turns.map.n; i++) {
        const struct gm_turn *other = o->turns.map.entries[i].value;
        if (other == t)
            continue;
        if (own && at_work(other))
            return true;
        if (suspect(other) && wants_ring(other) && (!own || other->serial < t->serial))
            return true;
    }
    t->alone = own;
    return false;
}
