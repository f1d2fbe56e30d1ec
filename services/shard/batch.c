/* batch.c - what a step computes: decode rows first, then prefill rows within a budget.
 *
 * Owns:      the queues, the round robin over prompts, the count of chunks in flight.
 * Does not:  compute (step.c) or admit (admit.c). Results never depend on what is chosen here (P2).
 */
#include <stdlib.h>
#include <string.h>

#include "services/shard/shard.h"

void gm_work_free(struct gm_work *w)
{
    free(w->ids);
    free(w->rows);
    w->ids = NULL;
    w->rows = NULL;
}

enum gm_status gm_shard_prompt(struct gm_shard *s, uint64_t ticket, int32_t pos, bool start,
                               struct gm_err *err)
{
    struct gm_ticket *t = gm_shard_ticket(s, ticket);
    if (!t)
        return GM_OK; /* an older attempt */
    if (pos < 0 || pos >= t->n_prompt)
        return gm_fail(err, GM_INVALID, "prompt rows from %d of a prompt of %d", pos, t->n_prompt);
    t->send_from = pos;
    t->send_end = t->n_prompt;
    t->send_start = start;
    return GM_OK;
}

enum gm_status gm_shard_chosen(struct gm_shard *s, uint64_t ticket, int32_t pos, int32_t id,
                               struct gm_err *err)
{
    struct gm_ticket *t = gm_shard_ticket(s, ticket);
    if (!t)
        return GM_OK;
    if (pos < 0) /* too large ones have a fault when the row is computed */
        return gm_fail(err, GM_INVALID, "a token for position %d", pos);
    if (t->has_decode || t->send_from < t->send_end)
        return gm_fail(err, GM_DATA_LOSS, "a token for position %d while rows before it wait", pos);
    if (!s->back_us)
        s->back_us = gm_now_us();
    if (t->drafts > 0 && pos > t->decode_pos && pos <= t->decode_pos + t->drafts + 1)
        gm_draft_result(&t->pace, t->drafts, pos - t->decode_pos - 1);
    t->drafts = 0;
    t->has_decode = t->decodes = true;
    t->decode_pos = pos;
    t->decode_id = id;
    return GM_OK;
}

void gm_shard_chunk_done(struct gm_shard *s, uint64_t ticket)
{
    struct gm_ticket *t = gm_shard_ticket(s, ticket);
    if (t && t->chunks > 0)
        t->chunks--;
}

enum gm_status gm_shard_arrived(struct gm_shard *s, struct gm_work *w, struct gm_err *err)
{
    struct gm_ticket *t = gm_shard_ticket(s, w->ticket);
    struct gm_err why = GM_ERR_NONE;
    if (!t)
        return GM_OK;
    enum gm_status rc = GM_OK;
    if (t->waiting >= GM_TICKET_WORKS_MAX)
        rc = gm_fail(&why, GM_DATA_LOSS, "%d spans of one turn wait: no shard sends so many",
                     t->waiting);
    else if (!gm_ring_push(w->decode ? &s->decode : &s->prefill, w))
        rc = gm_fail(&why, GM_EXHAUSTED, "%d spans wait at this shard already", GM_QUEUE_WORKS_MAX);
    if (rc != GM_OK) {
        s->out.fault(s->out.ctx, t, &why);
        return gm_fail(err, rc, "%s", why.text);
    }
    t->waiting++;
    w->ids = NULL;
    w->rows = NULL;
    return GM_OK;
}

/* Whether some turn is being decoded: its row may be elsewhere in the ring at this moment. */
static bool beside(const struct gm_shard *s)
{
    return s->decode_us && gm_now_us() - s->decode_us < GM_BESIDE_US;
}

/* Averages over about the last eight steps. A step's time depends on how many rows decode and how
 * long their contexts are, which changes slowly. */
static void average(double *mean, double us)
{
    *mean = *mean > 0.0 ? *mean + (us - *mean) / 8.0 : us;
}

static int32_t pace_rows(int32_t decode_rows)
{
    return decode_rows < GM_PACE_ROWS ? decode_rows : GM_PACE_ROWS;
}

/* A step of so many decode rows alone; where none was seen, the next larger or smaller one says
 * it. */
static double decode_us(const struct gm_pace *p, int32_t rows)
{
    for (int32_t i = 0; i <= GM_PACE_ROWS; i++) {
        if (rows + i <= GM_PACE_ROWS && p->decode_us[rows + i] > 0.0)
            return p->decode_us[rows + i];
        if (rows - i > 0 && p->decode_us[rows - i] > 0.0)
            return p->decode_us[rows - i];
    }
    return 0.0;
}

void gm_shard_pace(struct gm_pace *p, int32_t decode_rows, int32_t prefill_rows, double us)
{
    const int32_t rows = pace_rows(decode_rows);
    if (rows > 0)
        p->decode_rows = rows;
    if (prefill_rows == 0) {
        if (rows > 0)
            average(&p->decode_us[rows], us);
        return;
    }
    const double alone = rows > 0 ? p->decode_us[rows] : 0.0;
    if (rows == 0 || alone > 0.0)
        average(&p->row_us, (us > alone ? us - alone : 0.0) / (double)prefill_rows);
}

static bool may_send(const struct gm_ticket *t)
{
    return t->send_from < t->send_end && t->chunks < GM_CHUNKS_IN_FLIGHT;
}

/* What prefill rows may add to a step of decode rows: more where several prompts wait, or their
 * line would grow while few decode. */
static int32_t beside_percent(const struct gm_shard *s)
{
    int32_t percent = GM_BESIDE_PERCENT - GM_BESIDE_MORE;
    for (size_t i = 0; i < s->tickets.n && percent < GM_BESIDE_MOST; i++)
        percent += may_send(s->tickets.entries[i].value) ? GM_BESIDE_MORE : 0;
    return percent > GM_BESIDE_PERCENT ? percent : GM_BESIDE_PERCENT;
}

/* Prefill rows of the next step, beside `used` rows. */
static int32_t budget_rows(const struct gm_shard *s, int32_t used)
{
    if (!beside(s))
        return GM_CHUNK_ALONE;
    const double alone = decode_us(&s->pace, s->pace.decode_rows);
    if (alone <= 0.0 || s->pace.row_us <= 0.0)
        return GM_CHUNK_BESIDE;
    const double most = alone * beside_percent(s) / 100.0 / s->pace.row_us;
    const int32_t rows = most < GM_CHUNK_ALONE ? (int32_t)most : GM_CHUNK_ALONE;
    const int32_t all = (used + rows + GM_ROWS_TOGETHER / 2) / GM_ROWS_TOGETHER * GM_ROWS_TOGETHER;
    return all - used > GM_CHUNK_BESIDE_MIN ? all - used : GM_CHUNK_BESIDE_MIN;
}

/* Rows that wait in the queues of a later shard; beside decode rows one prefill span at a time. */
static int32_t form_queued(struct gm_shard *s, struct gm_work *works)
{
    int32_t n = 0, rows = 0;
    struct gm_ring *queues[2] = { &s->decode, &s->prefill };
    for (int q = 0; q < 2; q++) {
        const struct gm_work *w;
        while (n < GM_WORKS_MAX && (w = gm_ring_at(queues[q], 0)) != NULL &&
               rows + w->n <= GM_BATCH_ROWS_MAX) {
            if (w->decode)
                s->decode_us = gm_now_us();
            rows += w->n;
            struct gm_ticket *t = gm_shard_ticket(s, w->ticket);
            if (t && t->waiting > 0)
                t->waiting--;
            gm_ring_pop(queues[q], &works[n++]);
            if (q == 1 && beside(s))
                break;
        }
    }
    return n;
}

static bool work_make(struct gm_work *w, const struct gm_ticket *t, int32_t pos, int32_t n)
{
    memset(w, 0, sizeof *w);
    w->ids = malloc((size_t)n * sizeof *w->ids);
    w->ticket = t->id;
    w->pos = pos;
    w->n = n;
    return w->ids != NULL;
}

/* Guesses that each turn's decode row may carry: the rows that all turns may have in flight share
 * GM_DRAFT_STEP_ROWS; none where a prompt waits or is on its way. */
static int32_t drafts_each(const struct gm_shard *s)
{
    int32_t turns = 0;
    if (!s->speculate)
        return 0;
    for (size_t i = 0; i < s->tickets.n; i++) {
        const struct gm_ticket *t = s->tickets.entries[i].value;
        if (t->send_from < t->send_end || t->chunks > 0)
            return 0;
        turns += t->decodes;
    }
    return turns > 0 ? GM_DRAFT_STEP_ROWS / turns - 1 : 0;
}

/* Guesses for the ticket's decode row, into out[0..most). The last position of the turn is never a
 * row: nothing is chosen after it. */
static int32_t draft(struct gm_ticket *t, int32_t most, int32_t *out)
{
    const struct gm_kv_seq *seq = t->session ? t->session->seq : NULL;
    const int32_t room = t->positions - 2 - t->decode_pos;
    int32_t match_min;
    most = most < room ? most : room;
    if (most <= 0 || !seq || t->decode_pos > gm_kv_len(seq))
        return 0;
    const int32_t want = gm_draft_want(&t->pace, most, &match_min);
    return want > 0
               ? gm_draft_find(gm_kv_ids(seq), t->decode_pos, t->decode_id, match_min, out, want)
               : 0;
}

/* *rows: of all works. */
static int32_t form_decode(struct gm_shard *s, struct gm_work *works, int32_t *rows)
{
    const int32_t most = drafts_each(s);
    int32_t n = 0, guess[GM_DRAFT_MAX];
    for (size_t i = 0; i < s->tickets.n && *rows < GM_BATCH_ROWS_MAX; i++) {
        struct gm_ticket *t = s->tickets.entries[i].value;
        if (!t->has_decode)
            continue;
        const int32_t k = most > 0 ? draft(t, most, guess) : 0;
        if (!work_make(&works[n], t, t->decode_pos, 1 + k))
            continue;
        works[n].ids[0] = t->decode_id;
        memcpy(works[n].ids + 1, guess, (size_t)k * sizeof *guess);
        works[n].decode = true;
        works[n].last = true;
        works[n].drafts = t->drafts = k;
        t->has_decode = false;
        *rows += 1 + k;
        n++;
    }
    if (n > 0) {
        s->decode_us = gm_now_us();
        s->step_rows = n;
        s->back_us = 0;
    }
    return n;
}

/* Whether it is better to wait a moment than to compute now: tokens of one step come back one after
 * the other, and each step reads all weights; and a chunk that goes without them is one more that
 * they wait for. Where other shards follow, their work lies between and nothing is held for it. */
static bool hold(const struct gm_shard *s)
{
    const int64_t now = gm_now_us();
    int32_t ready = 0;
    for (size_t i = 0; i < s->tickets.n; i++)
        ready += ((const struct gm_ticket *)s->tickets.entries[i].value)->has_decode;
    if (ready > 0)
        return ready < s->step_rows && now - s->back_us < GM_GATHER_US;
    return s->is_last && s->step_rows > 0 && now - s->step_us < GM_HOLD_US;
}

/* The next `rows` rows of the ticket's prompt. */
static bool send_chunk(struct gm_work *w, struct gm_ticket *t, int32_t rows)
{
    if (!work_make(w, t, t->send_from, rows))
        return false;
    memcpy(w->ids, t->prompt + t->send_from, (size_t)rows * sizeof(int32_t));
    w->start = t->send_start;
    w->last = rows == t->send_end - t->send_from;
    t->send_start = false;
    t->send_from += rows;
    t->chunks++;
    return true;
}

/* Ticket i of this step's order: each step begins with another one. */
static struct gm_ticket *in_turn(const struct gm_shard *s, size_t i)
{
    return s->tickets.entries[(s->turn + i) % s->tickets.n].value;
}

/* A short prompt of which nothing was sent. */
static bool goes_whole(const struct gm_ticket *t)
{
    return may_send(t) && t->send_start && t->send_end - t->send_from <= GM_CHUNK_SHORT;
}

static struct gm_ticket *short_prompt(const struct gm_shard *s)
{
    for (size_t i = 0; i < s->tickets.n; i++)
        if (goes_whole(in_turn(s, i)))
            return in_turn(s, i);
    return NULL;
}

/* Whether rows of the ticket's prompt may go into what is left of a step. */
static bool fits(const struct gm_ticket *t, int32_t budget)
{
    return may_send(t) && (!goes_whole(t) || t->send_end - t->send_from <= budget);
}

/* The oldest prompt that a few steps complete: taken one after the other they are all done sooner
 * than in turn. Where a long one waits too, it has every other step. */
static struct gm_ticket *in_line(const struct gm_shard *s, int32_t budget)
{
    struct gm_ticket *first = NULL;
    bool any_long = false;
    for (size_t i = 0; i < s->tickets.n; i++) {
        struct gm_ticket *t = s->tickets.entries[i].value;
        const bool is_long = t->send_end - t->send_from > GM_CHUNK_ALONE;
        any_long |= may_send(t) && is_long;
        if (!is_long && fits(t, budget) && (!first || t->order < first->order))
            first = t;
    }
    return any_long && s->turn % 2 ? NULL : first;
}

/* A short prompt, then one chunk of one prompt after the other, until the budget is spent. `n`
 * works of `used` rows stand before. */
static int32_t form_prefill(struct gm_shard *s, struct gm_work *works, int32_t n, int32_t used)
{
    const int32_t allowed = budget_rows(s, used);
    const int32_t left_rows = GM_BATCH_ROWS_MAX - used;
    int32_t budget = allowed < left_rows ? allowed : left_rows;
    struct gm_ticket *whole = short_prompt(s);
    if (whole && n < GM_WORKS_MAX && whole->send_end - whole->send_from <= left_rows) {
        const int32_t rows = whole->send_end - whole->send_from;
        if (send_chunk(&works[n], whole, rows)) {
            budget -= rows; /* the others go on, whatever comes */
            if (budget < GM_CHUNK_BESIDE_MIN && rows + GM_CHUNK_BESIDE_MIN <= left_rows)
                budget = GM_CHUNK_BESIDE_MIN;
            n++;
        }
    }
    for (size_t i = 0; n < GM_WORKS_MAX && budget > 0; n++) {
        struct gm_ticket *t = in_line(s, budget);
        while (!t && i < s->tickets.n) {
            t = in_turn(s, i++);
            t = fits(t, budget) ? t : NULL;
        }
        const int32_t left = t ? t->send_end - t->send_from : 0;
        const int32_t rows = left < budget ? left : budget;
        if (!t || !send_chunk(&works[n], t, rows))
            break;
        budget -= rows;
    }
    s->turn++;
    return n;
}

int32_t gm_shard_form(struct gm_shard *s, struct gm_work works[GM_WORKS_MAX], bool *more)
{
    int32_t n, rows = 0;
    *more = false;
    if (!s->is_first) {
        n = form_queued(s, works);
        *more = s->decode.n + s->prefill.n > 0;
        return n;
    }
    s->held = hold(s);
    if (s->held)
        return 0;
    n = form_decode(s, works, &rows);
    n = form_prefill(s, works, n, rows);
    for (size_t i = 0; i < s->tickets.n && !*more; i++) {
        const struct gm_ticket *t = s->tickets.entries[i].value;
        *more = t->has_decode || may_send(t);
    }
    return n;
}
