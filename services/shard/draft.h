/* draft.h - guesses of the next tokens, found in the sequence's own ids (prompt lookup).
 *
 * Owns:      the search for a draft, and how long a turn's drafts are by what became of the last
 *            ones. Does not:  know tickets, batches or messages; a wrong guess costs time only.
 * Threads:   pure functions on the caller's data.
 */
#ifndef GM_SHARD_DRAFT_H
#define GM_SHARD_DRAFT_H

#include <stdbool.h>
#include <stdint.h>

enum {
    GM_DRAFT_MAX = 7,           /* guesses of one span, beside the chosen token's row */
    GM_DRAFT_STEP_ROWS = 8,     /* decode rows of a step with guesses: they share one reading of
                                   the weights */
    GM_DRAFT_MATCH_MIN = 2,     /* ids that must have stood together before */
    GM_DRAFT_MATCH_MAX = 4,     /* more are not compared */
    GM_DRAFT_LOOK_BACK = 16384, /* ids that are searched, counted from the end */
    GM_DRAFT_PAUSE_MIN = 16,    /* rows without a guess after a run of misses */
    GM_DRAFT_PAUSE_MAX = 256,   /* the pause doubles up to this while misses go on */
};

/* How well the guesses of one turn do. All zero bits are no start: gm_draft_pace_init. */
struct gm_draft_pace {
    float hit;     /* running average: a guess is right when those before it were */
    int32_t pause; /* rows of the next pause */
    int32_t rest;  /* rows that are left of this one */
};

void gm_draft_pace_init(struct gm_draft_pace *p);

/* How many guesses the next span is worth, 0..most: as long as the chance that all of them are
 * right is above what a row costs beside another. *match_min: ids that must match;
 * GM_DRAFT_MATCH_MAX until the guesses have been good. Counts down a pause. */
int32_t gm_draft_want(struct gm_draft_pace *p, int32_t most, int32_t *match_min);

/* What became of `drafted` guesses; accepted: 0..drafted of them, the first ones, were right. */
void gm_draft_result(struct gm_draft_pace *p, int32_t drafted, int32_t accepted);

/* The text is ids[0..n) and then `id`. Looks for the latest place before its end where its last
 * match_min .. GM_DRAFT_MATCH_MAX ids stood, taking a longer match before a later one, and copies
 * what followed there to out[0..want), going on into the guesses themselves where the text repeats
 * with a short period. Returns want, or 0 where nothing matches. 1 <= match_min. */
int32_t gm_draft_find(const int32_t *ids, int32_t n, int32_t id, int32_t match_min, int32_t *out,
                      int32_t want);

#endif
