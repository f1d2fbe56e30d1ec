/* turn.c - the life of a turn: its states, what its client hears, how it ends.
 *
 * Owns:      struct gm_turn, the stream of its client, credit, the clock of each state.
 * Does not:  speak to shards (ring.c) or Redis (session.c).
 *
 *   LOAD -> ENCODE -> RECORD -> WAIT -> OPEN -> RUN -> SAVE -> (gone)
 *                                ^----------------'  a lost attempt
 *   a score:                    WAIT -> OPEN -> RUN -> (gone)
 */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

void gm_turn_state_set(struct gm_turn *t, enum gm_turn_state state)
{
    t->state = state;
    t->state_ms = gm_now_ms();
    t->progress_ms = t->state_ms;
}

int64_t gm_turn_patience_ms(const struct gm_turn *t)
{
    const bool own = t->request && t->request->has_patience_ms && t->request->patience_ms > 0;
    if (!own)
        return GM_ORPHAN_MS;
    return t->request->patience_ms < GM_PATIENCE_MS_MAX ? t->request->patience_ms
                                                        : GM_PATIENCE_MS_MAX;
}

bool gm_turn_ephemeral(const struct gm_turn *t)
{
    return t->request && t->request->has_ephemeral && t->request->ephemeral;
}

struct gm_turn *gm_turn_of(struct gm_orch *o, uint64_t serial)
{
    return gm_idmap_get(&o->serials, serial);
}

struct gm_turn *gm_turn_new(struct gm_orch *o, const char *tenant, const char *id,
                            struct gm_err *err)
{
    struct gm_turn *t;
    if (o->turns.map.n >= GM_TURNS_MAX) {
        gm_fail(err, GM_EXHAUSTED, "%d turns are running already; try again in a moment",
                GM_TURNS_MAX);
        err->retry_ms = GM_RETRY_HINT_MS;
        return NULL;
    }
    t = calloc(1, sizeof *t);
    if (!t) {
        gm_fail(err, GM_EXHAUSTED, "no memory for another turn");
        return NULL;
    }
    t->orch = o;
    t->serial = ++o->next_serial;
    t->every = 1;
    t->client_ms = t->taken_ms = gm_now_ms();
    t->end = GM_ERR_NONE;
    snprintf(t->id, sizeof t->id, "%s", id);
    snprintf(t->sess.tenant, sizeof t->sess.tenant, "%s", tenant);
    snprintf(t->key, sizeof t->key, "%s/%s", tenant, id);
    if (gm_strmap_put(&o->turns, t->key, t, err) != GM_OK) {
        free(t);
        return NULL;
    }
    if (gm_idmap_put(&o->serials, t->serial, t, err) != GM_OK) {
        gm_strmap_take(&o->turns, t->key);
        free(t);
        return NULL;
    }
    return t;
}

void gm_turn_free(struct gm_turn *t)
{
    struct gm_orch *o = t->orch;
    if (t->stream)
        gm_stream_on_event(t->stream, NULL, NULL);
    if (t->ticket)
        gm_idmap_take(&o->tickets, t->ticket);
    gm_strmap_take(&o->turns, t->key);
    gm_idmap_take(&o->serials, t->serial);
    gm_sess_free(&t->sess);
    if (t->request)
        gm__start_request__free_unpacked(t->request, NULL);
    if (t->sampling)
        gm__sampling__free_unpacked(t->sampling, NULL);
    for (size_t i = 0; i < t->n_tokens; i++)
        gm__token__free_unpacked(t->tokens[i], NULL);
    for (size_t i = t->score ? t->sent : 0; i < t->n_rows; i++)
        gm__score_row__free_unpacked(t->rows[i], NULL);
    free(t->tokens);
    free(t->rows);
    free(t->prompt);
    free(t);
}

/* ---- the client's stream ------------------------------------------------------------------------
 */

static void on_stream(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    struct gm_turn *t = ctx;
    t->client_ms = gm_now_ms();
    if (gone) {
        t->stream = NULL;
        if (t->score) {
            gm_ring_release(t, false);
            gm_turn_free(t);
            return;
        }
        if (gm_stream_deadline_us(s) && (uint64_t)gm_now_us() >= gm_stream_deadline_us(s))
            gm_turn_end(t, "cancelled");
        return; /* else the client may come back with Resume until its patience is over */
    }
    if (credit > 0)
        gm_turn_flush(t);
}

void gm_turn_attach(struct gm_turn *t, struct gm_stream *stream, uint32_t from)
{
    if (t->stream) {
        struct gm_err err = GM_ERR_NONE;
        gm_stream_on_event(t->stream, NULL, NULL);
        gm_fail(&err, GM_ABORTED, "another client has taken over this turn");
        gm_stream_end(t->stream, &err);
    }
    t->stream = stream;
    t->client_ms = t->taken_ms = gm_now_ms();
    t->started_sent = false;
    t->sent = from > t->n_prompt ? from - (uint32_t)t->n_prompt : 0;
    if (t->sent > t->n_tokens)
        t->sent = (uint32_t)t->n_tokens;
    gm_stream_on_event(stream, on_stream, t);
    gm_turn_flush(t);
}

/* The sampler may run GM_STREAM_CREDIT tokens ahead of what the client's stream has taken. */
static void grant(struct gm_turn *t)
{
    const uint32_t allowed = t->sent + GM_STREAM_CREDIT;
    if (t->granted + GM_STREAM_CREDIT / 4 <= allowed || t->granted < GM_STREAM_CREDIT)
        gm_ring_credit(t, allowed - t->granted);
}

static bool send_started(struct gm_turn *t)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__StartedEvent started = GM__STARTED_EVENT__INIT;
    started.session = t->sess.id;
    started.seed = t->sampling->seed;
    started.prompt_tokens = (uint32_t)t->n_prompt;
    started.cached_tokens = t->cached;
    started.turn = t->id;
    event.started = &started;
    t->started_sent = gm_stream_item(t->stream, &event.base);
    return t->started_sent;
}

static void flush_score(struct gm_turn *t)
{
    while (t->stream && t->sent < t->n_rows) {
        Gm__ScoreEvent event = GM__SCORE_EVENT__INIT;
        const size_t left = t->n_rows - t->sent;
        event.n_rows = left < GM_EVENT_TOKENS_MAX ? left : GM_EVENT_TOKENS_MAX;
        event.rows = t->rows + t->sent;
        if (!gm_stream_item(t->stream, &event.base))
            return;
        t->taken_ms = gm_now_ms();
        for (size_t i = 0; i < event.n_rows; i++)
            gm__score_row__free_unpacked(t->rows[t->sent + i], NULL);
        t->sent += (uint32_t)event.n_rows;
    }
    if (t->sent == t->rows_want && t->rows_want > 0) {
        struct gm_stream *s = t->stream;
        gm_ring_release(t, false);
        gm_stream_on_event(s, NULL, NULL);
        t->stream = NULL;
        gm_turn_free(t);
        gm_stream_end(s, NULL);
    }
}

static void send_finished(struct gm_turn *t, bool saved)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__FinishedEvent finished = GM__FINISHED_EVENT__INIT;
    struct gm_stream *s = t->stream;
    if (!s || t->finished_sent || t->sent < t->n_tokens)
        return;
    finished.reason = (char *)t->finish;
    finished.saved = saved;
    finished.completion_tokens = (uint32_t)t->n_tokens;
    event.finished = &finished;
    if (t->end.status == GM_OK && !gm_stream_item(s, &event.base))
        return;
    t->finished_sent = true;
    gm_stream_on_event(s, NULL, NULL);
    t->stream = NULL;
    gm_stream_end(s, &t->end);
}

void gm_turn_flush(struct gm_turn *t)
{
    if (t->score) {
        flush_score(t);
        return;
    }
    grant(t);
    if (t->state < GM_TURN_RUN)
        return;
    if (t->stream && !t->started_sent && !send_started(t))
        return;
    while (t->stream && t->sent < t->n_tokens) {
        Gm__TurnEvent event = GM__TURN_EVENT__INIT;
        const size_t left = t->n_tokens - t->sent;
        event.n_tokens = left < GM_EVENT_TOKENS_MAX ? left : GM_EVENT_TOKENS_MAX;
        event.tokens = t->tokens + t->sent;
        if (!gm_stream_item(t->stream, &event.base))
            break;
        t->sent += (uint32_t)event.n_tokens;
        t->taken_ms = gm_now_ms();
    }
    grant(t); /* a client that came late took all at once, and the sampler may wait for this */
    gm_sess_journal(t);
    if (t->state == GM_TURN_SAVE && (t->stored || gm_now_ms() - t->state_ms > GM_SAVE_PATIENCE_MS))
        send_finished(t, t->written);
}

void gm_turn_progress(struct gm_turn *t, uint32_t done)
{
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__ProgressEvent progress = GM__PROGRESS_EVENT__INIT;
    t->progress_ms = gm_now_ms();
    gm_poison_progress(t, done);
    if (t->score || !t->stream || !t->started_sent || gm_stream_credit(t->stream) < 2)
        return; /* the last credit is for what counts */
    progress.done = done;
    progress.total = (uint32_t)t->n_prompt;
    event.progress = &progress;
    gm_stream_item(t->stream, &event.base);
}

/* ---- how it ends
 * --------------------------------------------------------------------------------- */

void gm_turn_end(struct gm_turn *t, const char *finish)
{
    if (t->state == GM_TURN_SAVE)
        return;
    if (t->score || t->state < GM_TURN_WAIT) { /* there is nothing to keep */
        struct gm_err err = GM_ERR_NONE;
        gm_fail(&err, GM_CANCELLED, t->score ? "cancelled" : "cancelled before the first token");
        gm_turn_fail(t, &err);
        return;
    }
    t->finish = finish;
    gm_ring_release(t, true);
    gm_turn_state_set(t, GM_TURN_SAVE);
    gm_sess_save(t);
    gm_turn_flush(t);
}

void gm_turn_saved(struct gm_turn *t, bool saved)
{
    t->stored = true;
    t->written = saved;
    gm_turn_flush(t);
    if (!t->stream)
        gm_turn_free(t);
}

struct gm_call_more gm_turn_trace(const struct gm_turn *t)
{
    return (struct gm_call_more){ .traceparent = t->trace[0] ? t->trace : NULL };
}

void gm_turn_fail(struct gm_turn *t, const struct gm_err *why)
{
    struct gm_stream *s = t->stream;
    char id[GM_TRACE_ID_MAX];
    gm_info("turn failed: %s turn=%s trace=%s", why->text, t->id, gm_trace_id(id, t->trace));
    gm_ring_release(t, !t->score);
    if (!t->score && t->n_tokens > 0 && t->state != GM_TURN_SAVE) {
        t->end = *why; /* what was shown is kept; then the sentence */
        gm_turn_end(t, "cancelled");
        return;
    }
    if (!t->score)
        gm_sess_drop_record(t);
    if (s) {
        gm_stream_on_event(s, NULL, NULL);
        t->stream = NULL;
        gm_stream_end(s, why);
    }
    gm_turn_free(t);
}

/* Something is there for the client: tokens, rows, or the end. */
static bool has_unread(const struct gm_turn *t)
{
    const size_t n = t->score ? t->n_rows : t->n_tokens;
    return t->stream && (t->sent < n || t->state == GM_TURN_SAVE);
}

/* A client that says that it lives and takes nothing: what it holds is others' to have. */
static bool reads_nothing(struct gm_turn *t, int64_t now)
{
    if (!has_unread(t))
        t->taken_ms = now;
    return now - t->taken_ms > t->orch->unread_ms;
}

static void drop_client(struct gm_turn *t)
{
    struct gm_err err = GM_ERR_NONE;
    if (gm_now_ms() - t->taken_ms > t->orch->unread_ms)
        gm_fail(&err, GM_CANCELLED, "the client took nothing for %lld s",
                (long long)t->orch->unread_ms / 1000);
    else
        gm_fail(&err, GM_CANCELLED, "the client was not heard of for %lld s",
                (long long)(gm_turn_patience_ms(t) / 1000));
    gm_stream_on_event(t->stream, NULL, NULL);
    gm_stream_end(t->stream, &err);
    t->stream = NULL;
}

/* What was computed is kept, and can be asked for again. */
static void end_unread(struct gm_turn *t)
{
    drop_client(t);
    if (t->score) {
        gm_ring_release(t, false);
        gm_turn_free(t);
    } else if (t->state != GM_TURN_SAVE) {
        gm_turn_end(t, "cancelled");
    } else if (t->stored) {
        gm_turn_free(t);
    }
}

/* No token for longer than there may be none. While somebody of the ring stands still that is
 * nobody's fault: it may go on where it was. */
static void look_at_stall(struct gm_turn *t, int64_t over_ms)
{
    struct gm_err err = GM_ERR_NONE;
    const char *silent = gm_roster_silent(t->orch);
    if (silent && over_ms < GM_RING_WAIT_MS)
        return;
    if (silent) {
        gm_ring_unanswered(t);
        return;
    }
    gm_fail(&err, GM_UNAVAILABLE, "no token for %lld s",
            (long long)(gm_now_ms() - t->progress_ms) / 1000);
    gm_ring_lost(t, &err);
}

void gm_turn_tick(struct gm_turn *t)
{
    const int64_t now = gm_now_ms();
    const int64_t stall = GM_STALL_MS + (int64_t)t->n_prompt * GM_STALL_TOKEN_MS;
    const bool parked = t->n_tokens >= t->granted;
    if (!t->score && t->state >= GM_TURN_WAIT && now - t->lease_ms > GM_LEASE_MS / 3)
        gm_sess_renew(t);
    if (!t->score)
        gm_sess_journal(t);
    if (reads_nothing(t, now)) {
        end_unread(t);
        return;
    }
    if (gm_poison_yields(t))
        gm_ring_unanswered(t);
    else if (t->state == GM_TURN_WAIT) {
        gm_ring_begin(t);
    } else if (t->state == GM_TURN_SAVE) {
        gm_turn_flush(t);
        if (t->stream &&
            now - t->client_ms > gm_turn_patience_ms(t)) /* it can ask again: replay.c */
            drop_client(t);
        if (t->stored && !t->stream)
            gm_turn_free(t);
    } else if (t->state == GM_TURN_RUN && !parked && now - t->progress_ms > stall) {
        look_at_stall(t, now - t->progress_ms - stall);
    } else if (!t->score && t->state == GM_TURN_RUN &&
               now - t->client_ms > gm_turn_patience_ms(t)) {
        gm_turn_end(t, "cancelled");
    }
}
