/* admit.c - who may begin: admission, release, sessions whose rows are kept or change hands.
 *
 * Owns:      tickets and sessions.
 * Does not:  decide how long an answer may be (orchestrator), who loses pages (evict.c) or which
 *            session begins like a prompt (prefix.c); copy rows (kv.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/shard/shard.h"

enum gm_status gm_shard_init(struct gm_shard *s, struct gm_err *err)
{
    const struct gm_config *cfg = gm_slice_config(s->slice);
    const size_t d = (size_t)cfg->d_model, vocab = (size_t)cfg->vocab;
    enum gm_status rc = gm_idmap_open(&s->tickets, 64, GM_TICKETS_MAX, err);
    if (rc == GM_OK)
        rc = gm_strmap_open(&s->sessions, 64, GM_SESSIONS_MAX, err);
    if (rc == GM_OK)
        rc = gm_prefix_open(&s->prefix, gm_slice_numerics(s->slice), err);
    if (rc == GM_OK)
        rc = gm_ring_open(&s->decode, sizeof(struct gm_work), GM_QUEUE_WORKS_MAX, err);
    if (rc == GM_OK)
        rc = gm_ring_open(&s->prefill, sizeof(struct gm_work), GM_QUEUE_WORKS_MAX, err);
    if (rc != GM_OK)
        return rc;
    s->hidden = aligned_alloc(64, (GM_BATCH_ROWS_MAX * d * sizeof(float) + 63) / 64 * 64);
    if (s->is_last)
        s->score_logits = malloc(GM_SCORE_ROWS * vocab * sizeof(float));
    if (s->is_last)
        s->lse =
            malloc(GM_HEAD_ROWS_MAX * 2 * (size_t)gm_head_chunks((int32_t)vocab) * sizeof(double));
    if (!s->hidden || (s->is_last && (!s->score_logits || !s->lse)))
        return gm_fail(err, GM_EXHAUSTED, "no memory for the rows of a step");
    return GM_OK;
}

/* Logits of rows after the first go back. */
static void logits_give(struct gm_shard *s, struct gm_ticket *t)
{
    while (t->n_logits > 1)
        s->spare[s->n_spare++] = t->logits[--t->n_logits];
}

int32_t gm_shard_logits(struct gm_shard *s, struct gm_ticket *t, int32_t n)
{
    const size_t bytes = (size_t)gm_slice_config(s->slice)->vocab * sizeof(float);
    logits_give(s, t);
    while (t->n_logits < n && t->n_logits < GM_RUN_ROWS_MAX) {
        float *one = NULL;
        if (s->n_spare > 0)
            one = s->spare[--s->n_spare];
        else if (s->n_logits < GM_DRAFT_LOGITS_MAX)
            s->n_logits += (one = malloc(bytes)) != NULL;
        if (!one)
            break;
        t->logits[t->n_logits++] = one;
    }
    return t->n_logits < n ? t->n_logits : n;
}

static void ticket_free(struct gm_shard *s, struct gm_ticket *t)
{
    if (!t)
        return;
    logits_give(s, t);
    free(t->prompt);
    free(t->rules.bias_ids);
    free(t->rules.bias_values);
    free(t->rules.banned);
    free(t->logits[0]);
    free(t);
}

void gm_session_free(struct gm_shard *s, struct gm_session *session)
{
    if (!session)
        return;
    gm_prefix_cut(&s->prefix, session, 0);
    if (session->name[0])
        gm_strmap_take(&s->sessions, session->name);
    gm_kv_seq_free(gm_slice_kv(s->slice), &session->seq);
    free(session);
}

void gm_shard_close(struct gm_shard *s)
{
    struct gm_work w;
    while (s->tickets.n > 0)
        gm_shard_release(s, s->tickets.entries[0].key, false);
    while (s->sessions.map.n > 0)
        gm_session_free(s, s->sessions.map.entries[0].value);
    while (s->decode.items && gm_ring_pop(&s->decode, &w))
        gm_work_free(&w);
    while (s->prefill.items && gm_ring_pop(&s->prefill, &w))
        gm_work_free(&w);
    gm_ring_close(&s->decode);
    gm_ring_close(&s->prefill);
    gm_idmap_close(&s->tickets);
    gm_strmap_close(&s->sessions);
    gm_prefix_close(&s->prefix);
    free(s->hidden);
    free(s->score_logits);
    free(s->lse);
    while (s->n_spare > 0)
        free(s->spare[--s->n_spare]);
}

struct gm_ticket *gm_shard_ticket(struct gm_shard *s, uint64_t ticket)
{
    return gm_idmap_get(&s->tickets, ticket);
}

/* The session's struct with a sequence; made if absent. */
static enum gm_status session_get(struct gm_shard *s, const struct gm_reserve *in,
                                  struct gm_session **out, struct gm_err *err)
{
    struct gm_session *c = in->score ? NULL : gm_strmap_get(&s->sessions, in->session);
    if (c) {
        c->ephemeral = in->ephemeral;
        *out = c;
        return GM_OK;
    }
    if (strlen(in->session) >= GM_SESSION_NAME_MAX)
        return gm_fail(err, GM_INVALID, "a session's name has at most %d bytes",
                       GM_SESSION_NAME_MAX - 1);
    c = calloc(1, sizeof *c);
    if (!c)
        return gm_fail(err, GM_EXHAUSTED, "no memory for another session");
    c->ephemeral = in->ephemeral;
    c->seq = gm_kv_seq_new(gm_slice_kv(s->slice));
    while (!c->seq && gm_shard_evict(s, NULL, NULL))
        c->seq = gm_kv_seq_new(gm_slice_kv(s->slice));
    enum gm_status rc = GM_OK;
    if (!c->seq)
        rc = gm_fail(err, GM_EXHAUSTED, "all %d sequences of the shard are in use", GM_SEQS_MAX);
    if (rc == GM_OK && !in->score) {
        memcpy(c->name, in->session, strlen(in->session) + 1);
        while (s->sessions.map.n >= GM_SESSIONS_MAX && gm_shard_evict(s, NULL, NULL))
            ;
        rc = gm_strmap_put(&s->sessions, c->name, c, err);
        if (rc != GM_OK)
            c->name[0] = 0;
    }
    if (rc != GM_OK) {
        gm_session_free(s, c);
        return rc;
    }
    *out = c;
    return GM_OK;
}

static void *copy_of(const void *from, size_t bytes)
{
    void *to = malloc(bytes ? bytes : 1);
    if (to && bytes)
        memcpy(to, from, bytes);
    return to;
}

static enum gm_status ticket_new(struct gm_shard *s, const struct gm_reserve *in,
                                 struct gm_ticket **out, struct gm_err *err)
{
    const struct gm_config *cfg = gm_slice_config(s->slice);
    struct gm_ticket *t = calloc(1, sizeof *t);
    if (!t)
        return gm_fail(err, GM_EXHAUSTED, "no memory for another turn");
    t->id = in->ticket;
    t->order = in->order;
    t->n_prompt = in->n_ids;
    t->positions = in->positions;
    t->prompt_len = in->prompt_len;
    t->rules = in->rules;
    t->score = in->score;
    t->every = in->every > 0 ? in->every : 1;
    t->deadline_us = in->deadline_us;
    t->next = in->next;
    t->home = in->home;
    t->first = in->first;
    t->logits_pos = -1;
    gm_draft_pace_init(&t->pace);
    t->prompt = copy_of(in->ids, (size_t)in->n_ids * sizeof *in->ids);
    t->rules.bias_ids = copy_of(in->rules.bias_ids, (size_t)in->rules.n_bias * sizeof(int32_t));
    t->rules.bias_values = copy_of(in->rules.bias_values, (size_t)in->rules.n_bias * sizeof(float));
    t->rules.banned = copy_of(in->rules.banned, (size_t)in->rules.n_banned * sizeof(int32_t));
    if (s->is_last && !in->score)
        t->logits[0] = malloc((size_t)cfg->vocab * sizeof(float));
    t->n_logits = t->logits[0] != NULL;
    if (!t->prompt || !t->rules.bias_ids || !t->rules.bias_values || !t->rules.banned ||
        (s->is_last && !in->score && !t->logits[0])) {
        ticket_free(s, t);
        return gm_fail(err, GM_EXHAUSTED, "no memory for another turn");
    }
    *out = t;
    return GM_OK;
}

static enum gm_status check_reserve(struct gm_shard *s, const struct gm_reserve *in,
                                    struct gm_err *err)
{
    const int32_t vocab = gm_slice_config(s->slice)->vocab;
    if (strcmp(in->numerics, gm_slice_numerics(s->slice)) != 0)
        return gm_fail(err, GM_ABORTED, "this shard computes as %s, the turn was begun as %s",
                       gm_slice_numerics(s->slice), in->numerics);
    if (!in->score && !in->session[0]) /* "" is the mark of a score's rows */
        return gm_fail(err, GM_INVALID,
                       "a turn's rows are kept by its session's name, and it is empty");
    if (in->n_ids < 1 || in->positions < in->n_ids)
        return gm_fail(err, GM_INVALID, "a turn of %d positions for a prompt of %d tokens",
                       in->positions, in->n_ids);
    if (!in->score && (in->prompt_len < 1 || in->prompt_len > in->n_ids))
        return gm_fail(err, GM_INVALID, "an output that begins at %d in a prompt of %d tokens",
                       in->prompt_len, in->n_ids);
    if (!in->score && !in->session[0])
        return gm_fail(err, GM_INVALID, "a turn needs the name of its session");
    const int32_t most = gm_kv_positions_max(gm_slice_kv(s->slice));
    if (in->positions > most)
        return gm_fail(err, GM_PRECONDITION,
                       "the turn may need %d positions and the pipeline keeps %d in all: ask for a "
                       "shorter answer or start it with a larger --kv-tokens",
                       in->positions, most);
    for (int32_t i = 0; i < in->n_ids; i++)
        if (in->ids[i] < 0 || in->ids[i] >= vocab)
            return gm_fail(err, GM_INVALID, "token id %d is not in 0..%d", in->ids[i], vocab - 1);
    for (int32_t i = 0; i < in->rules.n_bias; i++)
        if (in->rules.bias_ids[i] < 0 || in->rules.bias_ids[i] >= vocab)
            return gm_fail(err, GM_INVALID, "logit bias names token %d, allowed are 0..%d",
                           in->rules.bias_ids[i], vocab - 1);
    for (int32_t i = 0; i < in->rules.n_banned; i++)
        if (in->rules.banned[i] < 0 || in->rules.banned[i] >= vocab)
            return gm_fail(err, GM_INVALID, "token %d is forbidden, and ids are 0..%d",
                           in->rules.banned[i], vocab - 1);
    return GM_OK;
}

/* How much of the prompt the session's rows hold; the last prompt token is always computed again.
 * Rows of guesses that were wrong may stand behind the last turn's answer: they are rows of other
 * ids, so the common prefix ends before them, and the new turn's first rows cut them off. */
static void reuse(struct gm_shard *s, const struct gm_ticket *t, int32_t *have, int32_t *rewind_min)
{
    *have = gm_kv_common(t->session->seq, t->prompt, t->n_prompt - 1);
    *rewind_min = gm_kv_rewind_min(gm_slice_kv(s->slice), t->session->seq);
}

/* The rows of `from`, which nobody runs, become those of *session; its own go. */
static enum gm_status take_over(struct gm_shard *s, const struct gm_reserve *in,
                                struct gm_session *from, struct gm_session **session,
                                struct gm_err *err)
{
    gm_session_free(s, *session);
    *session = NULL;
    gm_strmap_take(&s->sessions, from->name);
    memcpy(from->name, in->session, strlen(in->session) + 1);
    enum gm_status rc = gm_strmap_put(&s->sessions, from->name, from, err);
    if (rc != GM_OK) {
        from->name[0] = 0;
        gm_session_free(s, from);
        return rc;
    }
    from->ephemeral = in->ephemeral;
    *session = from;
    return GM_OK;
}

/* Where another session of the tenant gives more of the prompt than *session holds, its rows are
 * taken over or copied. No pages for a copy: the session has what it had, or nothing. */
static enum gm_status take_prefix(struct gm_shard *s, const struct gm_reserve *in, int32_t first,
                                  struct gm_session **session, struct gm_err *err)
{
    struct gm_kv *kv = gm_slice_kv(s->slice);
    struct gm_kv_seq *own = (*session)->seq;
    int32_t usable, have = gm_kv_common(own, in->ids, in->n_ids - 1);
    have = have < gm_kv_rewind_min(kv, own) ? 0 : have;
    struct gm_session *from =
        gm_prefix_find(&s->prefix, kv, *session, in->ids, in->n_ids - 1, &usable);
    if (!from || usable - have < GM_PREFIX_GAIN_MIN)
        return GM_OK;
    const bool movable = from->ephemeral && !from->running;
    if (movable && gm_kv_len(from->seq) - usable <= GM_MOVE_LEFT_MAX)
        return take_over(s, in, from, session, err);
    gm_prefix_cut(&s->prefix, *session, 0);
    (void)gm_kv_rewind(kv, own, 0, NULL); /* to 0 it may always go */
    gm_kv_trim(kv, own);
    if (gm_shard_pages(s, *session, first, from, NULL) != GM_OK)
        return movable ? take_over(s, in, from, session, err) : GM_OK;
    from->touched_us = gm_now_us();
    if (gm_kv_fork(kv, own, from->seq, usable, NULL) == GM_OK)
        gm_prefix_grow(&s->prefix, *session);
    return GM_OK;
}

/* A session for the turn, with pages for `first` positions. On failure its rows stay kept. */
static enum gm_status session_ready(struct gm_shard *s, const struct gm_reserve *in, int32_t first,
                                    struct gm_session **session, struct gm_err *err)
{
    struct gm_session *older = in->score ? NULL : gm_strmap_get(&s->sessions, in->session);
    if (older && older->running) /* an attempt that was lost */
        gm_shard_release(s, older->running->id, true);
    if (!gm_shard_room(s, first))
        return gm_retry_after(
            err, GM_RETRY_MS,
            gm_fail(err, GM_EXHAUSTED,
                    "%zu turns run and leave no room for another of %d tokens: try again, or start "
                    "the pipeline with a larger --kv-tokens",
                    s->tickets.n, first));
    enum gm_status rc = session_get(s, in, session, err);
    if (rc == GM_OK && !in->score)
        rc = take_prefix(s, in, first, session, err);
    if (rc == GM_OK)
        rc = gm_shard_pages(s, *session, first, NULL, err);
    return rc;
}

enum gm_status gm_shard_reserve(struct gm_shard *s, const struct gm_reserve *in, int32_t *have,
                                int32_t *rewind_min, struct gm_err *err)
{
    struct gm_session *session = NULL;
    struct gm_ticket *t = gm_shard_ticket(s, in->ticket);
    if (t) {
        reuse(s, t, have, rewind_min);
        return GM_OK;
    }
    enum gm_status rc = check_reserve(s, in, err);
    if (rc != GM_OK)
        return rc;
    const int32_t ahead = in->positions - in->n_ids;
    const int32_t first = in->n_ids + (ahead < GM_GROW_POSITIONS ? ahead : GM_GROW_POSITIONS);
    rc = session_ready(s, in, first, &session, err);
    if (rc == GM_OK)
        rc = ticket_new(s, in, &t, err);
    if (rc == GM_OK)
        rc = gm_idmap_put(&s->tickets, in->ticket, t, err);
    if (rc != GM_OK) {
        ticket_free(s, t);
        if (session && (in->score || gm_kv_len(session->seq) == 0))
            gm_session_free(s, session);
        else if (session)
            gm_kv_trim(gm_slice_kv(s->slice), session->seq);
        return rc == GM_EXHAUSTED ? gm_retry_after(err, GM_RETRY_MS, rc) : rc;
    }
    t->session = session;
    session->running = t;
    session->touched_us = gm_now_us();
    reuse(s, t, have, rewind_min);
    if (!in->score && in->n_ids == in->prompt_len) { /* an answer goes on: it was counted */
        s->prompt_tokens += (uint64_t)in->n_ids;
        s->prefix_tokens += *have < *rewind_min ? 0 : (uint64_t)*have;
    }
    return GM_OK;
}

void gm_shard_release(struct gm_shard *s, uint64_t ticket, bool keep)
{
    struct gm_ticket *t = gm_idmap_take(&s->tickets, ticket);
    if (!t)
        return;
    struct gm_session *session = t->session;
    session->running = NULL;
    session->touched_us = gm_now_us();
    if (keep && !t->score && gm_kv_len(session->seq) > 0)
        gm_kv_trim(gm_slice_kv(s->slice), session->seq);
    else
        gm_session_free(s, session);
    ticket_free(s, t);
}

void gm_shard_forget(struct gm_shard *s, const char *name)
{
    struct gm_session *session = gm_strmap_get(&s->sessions, name);
    if (!session)
        return;
    if (session->running)
        gm_shard_release(s, session->running->id, false);
    else
        gm_session_free(s, session);
}

void gm_shard_usage(struct gm_shard *s, uint64_t *total, uint64_t *used, uint64_t *kept)
{
    struct gm_kv_use use;
    gm_kv_usage(gm_slice_kv(s->slice), &use);
    int64_t lens[2] = { 0, 0 };
    for (size_t i = 0; i < s->tickets.n; i++) {
        const struct gm_ticket *t = s->tickets.entries[i].value;
        lens[0] += gm_kv_len(t->session->seq) + 1;
    }
    for (size_t i = 0; i < s->sessions.map.n; i++) {
        const struct gm_session *c = s->sessions.map.entries[i].value;
        lens[1] += c->running ? 0 : gm_kv_len(c->seq);
    }
    const double share = lens[0] + lens[1] > 0 ? (double)lens[1] / (double)(lens[0] + lens[1]) : 0;
    *total = (uint64_t)use.bytes_total;
    *kept = (uint64_t)((double)use.bytes_used * share);
    *used = (uint64_t)use.bytes_used - *kept;
}
