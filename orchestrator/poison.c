/* poison.c - which turn kills, and which only die with it.
 *
 * Owns:      the count of attempts that a turn lost without coming further, and who runs alone; who
 *            asks a restarted tokenizer again, and when.
 * Does not:  make attempts (ring.c) or end turns (turn.c).
 *
 * A process that dies takes the attempts of all turns with it, and one row of one of them may be
 * why. A turn at work that loses two in a row with the same process, without a row or token more
 * than ever before, is a suspect: it goes on alone, the oldest first, while the others wait. As
 * soon as it has come further it is none any more, and lets the next one try; its rows are kept
 * meanwhile. Three deaths that it was alone with, of one process and at one place, are its own
 * doing, since a row is computed the same way each time; whoever kills from outside hits another.
 */
#include "orchestrator/orch.h"

enum {
    SUSPECT_DEATHS = 2, /* in a row without coming further */
    PLACE_ROWS = 512,   /* a chunk of a prompt is at most so long: no place is known better */
};

/* Whether rows of it are with the sampler or the shards. Without credit the ring holds none. */
static bool at_work(const struct gm_turn *t)
{
    return t->state == GM_TURN_OPEN ||
           (t->state == GM_TURN_RUN && (t->score || t->n_tokens < t->granted));
}

static bool suspect(const struct gm_turn *t)
{
    return t->deaths >= SUSPECT_DEATHS;
}

/* A suspect that waits for pages lets the others run: theirs come back. */
static bool wants_ring(const struct gm_turn *t)
{
    return at_work(t) || (t->state == GM_TURN_WAIT && !t->pages_ms);
}

void gm_poison_progress(struct gm_turn *t, uint32_t position)
{
    t->reached = position > t->reached ? position : t->reached;
    if (position <= t->best)
        return;
    t->best = position;
    t->deaths = t->own_deaths = t->faults = 0;
}

static bool same_place(uint32_t a, uint32_t b)
{
    return (a > b ? a - b : b - a) <= PLACE_ROWS;
}

bool gm_poison_died(struct gm_turn *t, const struct gm_member *who)
{
    if (!at_work(t))
        return false;
    if (t->killed != who)
        t->deaths = t->own_deaths = 0;
    t->killed = who;
    t->deaths++;
    if (!t->alone)
        return false;
    if (!same_place(t->reached, t->died_at))
        t->own_deaths = 0;
    t->died_at = t->reached;
    return ++t->own_deaths >= GM_DEATHS_MAX;
}

bool gm_poison_fault(struct gm_turn *t)
{
    return ++t->faults >= GM_DEATHS_MAX;
}

bool gm_poison_yields(const struct gm_turn *t)
{
    const struct gm_orch *o = t->orch;
    bool others = false;
    for (size_t i = 0; !suspect(t) && at_work(t) && !others && i < o->turns.map.n; i++) {
        const struct gm_turn *other = o->turns.map.entries[i].value;
        others = other != t && suspect(other) && wants_ring(other);
    }
    return others;
}

bool gm_poison_waits(struct gm_turn *t)
{
    const struct gm_orch *o = t->orch;
    const bool own = suspect(t);
    bool beside = false;
    for (size_t i = 0; i < o->turns.map.n; i++) {
        const struct gm_turn *other = o->turns.map.entries[i].value;
        if (other == t)
            continue;
        beside = beside || at_work(other);
        if (own && at_work(other))
            return true;
        if (suspect(other) && wants_ring(other) && (!own || other->serial < t->serial))
            return true;
    }
    for (size_t i = 0; beside && i < o->turns.map.n; i++)
        ((struct gm_turn *)o->turns.map.entries[i].value)->alone = false;
    t->alone = !beside;
    t->reached = 0;
    return false;
}

/* ---- the tokenizer -----------------------------------------------------------------------------
 */

void gm_encode_died(struct gm_orch *o)
{
    for (size_t i = o->turns.map.n; i-- > 0;) {
        struct gm_turn *t = i < o->turns.map.n ? o->turns.map.entries[i].value : NULL;
        struct gm_err err = GM_ERR_NONE;
        if (!t || t->state != GM_TURN_ENCODE || t->encode_due)
            continue;
        t->encode_due = t->encodings < GM_DEATHS_MAX;
        if (t->encode_due)
            continue;
        gm_fail(&err, GM_INTERNAL, "the turn was given up: the tokenizer died %d times of its text",
                t->encodings);
        gm_turn_fail(t, &err);
    }
    gm_encode_next(o);
}

void gm_encode_next(struct gm_orch *o)
{
    struct gm_turn *next = NULL;
    for (size_t i = 0; i < o->turns.map.n; i++) {
        struct gm_turn *t = o->turns.map.entries[i].value;
        if (t->state != GM_TURN_ENCODE)
            continue;
        if (!t->encode_due && t->encodings > 1)
            return; /* one is asked again already: a death now would be its own */
        if (t->encode_due && (!next || t->serial < next->serial))
            next = t;
    }
    if (!next)
        return;
    next->encode_due = false;
    gm_turn_encode(next);
}
