/* ring.c - attempts: a ticket for a turn, opened on the sampler and the shards, lost and made
 * again.
 *
 * Owns:      tickets; what comes from the ring (emitted tokens, scored rows, faults, hello).
 * Does not:  know sessions (session.c) or clients (turn.c).
 */
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

/* Carries a turn through a call: the turn may be gone or have another ticket when it answers. */
struct about {
    struct gm_orch *orch;
    uint64_t serial, ticket;
};

static struct gm_turn *turn_of(const struct about *a)
{
    struct gm_turn *t = gm_turn_of(a->orch, a->serial);
    return t && t->ticket == a->ticket ? t : NULL;
}

static void ask_next(struct gm_turn *t);

static void on_opened(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct about *a = ctx;
    struct gm_turn *t = turn_of(a);
    (void)done;
    free(a);
    if (!t || t->state != GM_TURN_OPEN)
        return;
    if (err->status == GM_UNAVAILABLE || err->status == GM_DEADLINE) {
        gm_ring_unanswered(t);
    } else if (err->status == GM_EXHAUSTED) { /* pages come back */
        gm_ring_lost(t, err);
    } else if (err->status != GM_OK) {
        gm_turn_fail(t, err);
    } else {
        if (t->step >= 0) {
            const Gm__ReserveReply *r = (const Gm__ReserveReply *)body;
            t->have = r->have < t->have ? r->have : t->have;
            t->rewind_min = r->rewind_min > t->rewind_min ? r->rewind_min : t->rewind_min;
        }
        t->step++;
        ask_next(t);
    }
}

static void call(struct gm_turn *t, const struct gm_member *to, const char *method,
                 const ProtobufCMessage *body, const ProtobufCMessageDescriptor *reply)
{
    struct gm_err err = GM_ERR_NONE;
    struct about *a = malloc(sizeof *a);
    if (!a) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a call");
        gm_turn_fail(t, &err);
        return;
    }
    *a = (struct about){ t->orch, t->serial, t->ticket };
    const struct gm_call_more more = gm_turn_trace(t);
    if (!gm_rpc_call_with(
            t->orch->base.rpc,
            &(struct gm_call){ to->peer, method, body, reply, GM_CALL_MS, 0, on_opened, a }, &more,
            &err)) {
        free(a);
        gm_ring_unanswered(t);
    }
}

static const struct gm_member *last_shard(const struct gm_orch *o)
{
    return &o->roster.shard[o->roster.shards - 1];
}

static void ask_sampler(struct gm_turn *t)
{
    struct gm_orch *o = t->orch;
    Gm__OpenRequest r = GM__OPEN_REQUEST__INIT;
    int32_t *so_far = malloc((t->n_tokens + 1) * sizeof *so_far);
    struct gm_err err = GM_ERR_NONE;
    if (!so_far) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a turn");
        gm_turn_fail(t, &err);
        return;
    }
    for (size_t i = 0; i < t->n_tokens; i++)
        so_far[i] = t->tokens[i]->id;
    r.ticket = t->ticket;
    r.sampling = t->sampling;
    r.prompt_len = (uint32_t)t->n_prompt;
    r.n_so_far = t->n_tokens;
    r.so_far = so_far;
    r.n_end_ids = o->roster.n_end;
    r.end_ids = o->roster.end_ids;
    r.first = o->roster.shard[0].endpoint;
    r.last = (char *)last_shard(o)->endpoint;
    r.home = o->home;
    r.has_credit = r.has_home_boot = 1;
    r.home_boot = gm_bus_boot(o->base.bus);
    r.credit = t->granted > t->n_tokens ? t->granted - (uint32_t)t->n_tokens : 0;
    call(t, &o->roster.sampler, "Sampler.Open", &r.base, &gm__empty__descriptor);
    free(so_far);
}

/* The ids of the whole context: prompt and what was generated. Owned by the caller. */
static int32_t *context_of(const struct gm_turn *t, size_t *n)
{
    int32_t *ids = malloc((t->n_prompt + t->n_tokens + 1) * sizeof *ids);
    if (!ids)
        return NULL;
    memcpy(ids, t->prompt, t->n_prompt * sizeof *ids);
    for (size_t i = 0; i < t->n_tokens; i++)
        ids[t->n_prompt + i] = t->tokens[i]->id;
    *n = t->n_prompt + t->n_tokens;
    return ids;
}

static void ask_shard(struct gm_turn *t, int index)
{
    struct gm_orch *o = t->orch;
    const bool last = index == o->roster.shards - 1;
    char name[2 * GM_ID_MAX + 3];
    Gm__ReserveRequest r = GM__RESERVE_REQUEST__INIT;
    struct gm_err err = GM_ERR_NONE;
    int32_t *ids = context_of(t, &r.n_ids);
    if (!ids) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a turn");
        gm_turn_fail(t, &err);
        return;
    }
    snprintf(name, sizeof name, "%s/%s", t->sess.tenant, t->score ? t->id : t->sess.id);
    r.ticket = t->ticket;
    r.session = name;
    r.ids = ids;
    r.positions = (uint32_t)t->n_prompt + (t->score ? 0 : (uint32_t)t->sampling->max_tokens);
    r.prompt_len = (uint32_t)t->n_prompt;
    r.sampling = t->sampling;
    r.has_top_n = r.has_score = r.has_every = r.has_ephemeral = r.has_order = 1;
    r.ephemeral = gm_turn_ephemeral(t);
    r.order = t->serial;
    r.top_n = t->top_n;
    r.score = t->score;
    r.every = t->every;
    r.n_banned = t->score ? 0 : o->roster.n_banned;
    r.banned = o->roster.banned;
    r.numerics = (char *)gm_roster_numerics(o);
    r.next = last ? o->roster.sampler.endpoint : o->roster.shard[index + 1].endpoint;
    r.home = o->home;
    r.has_home_boot = 1;
    r.home_boot = gm_bus_boot(o->base.bus);
    r.first = o->roster.shard[0].endpoint;
    const int64_t left = t->stream ? (int64_t)gm_stream_deadline_us(t->stream) - gm_now_us() : 0;
    r.has_deadline_us = t->stream && gm_stream_deadline_us(t->stream) > 0 && left > 0;
    r.deadline_us = r.has_deadline_us ? (uint64_t)left : 0;
    call(t, &o->roster.shard[index], "Shard.Reserve", &r.base, &gm__reserve_reply__descriptor);
    free(ids);
}

/* All shards have reserved: the prompt may be computed from what all of them hold. */
static void send_prompt(struct gm_turn *t)
{
    struct gm_orch *o = t->orch;
    struct gm_err err = GM_ERR_NONE;
    Gm__Span span = GM__SPAN__INIT;
    Gm__TokenRows rows = GM__TOKEN_ROWS__INIT;
    const uint32_t from = t->score || t->have < t->rewind_min ? 0 : t->have;
    if (!t->cached_known)
        t->cached = from < t->n_prompt ? from : (uint32_t)t->n_prompt - 1;
    t->cached_known = true;
    span.ticket = t->ticket;
    span.pos = from;
    span.has_start = span.has_last = 1;
    span.start = span.last = 1;
    rows.span = &span;
    t->pages_ms = 0;
    gm_turn_state_set(t, GM_TURN_RUN);
    if (gm_bus_post(o->base.bus, o->roster.shard[0].peer, GM__KIND__TOKEN_ROWS, &rows.base, NULL, 0,
                    &err) != GM_OK) {
        gm_ring_unanswered(t);
        return;
    }
    t->wait_ms = 0;
    gm_turn_flush(t);
}

static void ask_next(struct gm_turn *t)
{
    if (t->step < 0)
        ask_sampler(t);
    else if (t->step < t->orch->roster.shards)
        ask_shard(t, t->step);
    else
        send_prompt(t);
}

/* Whether a turn that is older waits for pages: those that come back are its own. */
static bool older_waits(const struct gm_turn *t)
{
    const struct gm_orch *o = t->orch;
    for (size_t i = 0; i < o->turns.map.n; i++) {
        const struct gm_turn *other = o->turns.map.entries[i].value;
        if (other->pages_ms && other->state <= GM_TURN_OPEN && other->serial < t->serial)
            return true;
    }
    return false;
}

static void wait_for_pages(struct gm_turn *t)
{
    const int64_t now = gm_now_ms();
    t->pages_ms = t->pages_ms ? t->pages_ms : now;
    t->retry_ms = now + GM_PAGES_RETRY_MS;
    t->wait_ms = 0; /* the ring answers */
}

/* False: the turn waits for pages, or has ended while it did. Who has shown nothing is told to come
 * again; who has shown something waits as long as its client does. */
static bool may_look_for_pages(struct gm_turn *t)
{
    struct gm_err err = GM_ERR_NONE;
    const int64_t now = gm_now_ms();
    if (t->pages_ms && now < t->retry_ms)
        return false;
    if (t->pages_ms && !t->score && now - t->client_ms > gm_turn_patience_ms(t)) {
        gm_turn_end(t, "cancelled");
        return false;
    }
    if (t->pages_ms && t->n_tokens == 0 && t->deaths == 0 && now - t->pages_ms > GM_PAGES_WAIT_MS) {
        gm_fail(&err, GM_EXHAUSTED,
                "the turns that run left no room for this one in %d s: try again in a moment, or "
                "start the pipeline with a larger --kv-tokens",
                GM_PAGES_WAIT_MS / 1000);
        err.retry_ms = GM_RETRY_HINT_MS;
        gm_turn_fail(t, &err);
        return false;
    }
    if (!older_waits(t))
        return true;
    wait_for_pages(t);
    return false;
}

/* Whether the ring is whole and this turn's to use; false: the turn waits, or has ended since the
 * ring was not for too long. */
static bool ring_ready(struct gm_turn *t)
{
    struct gm_err err = GM_ERR_NONE;
    const int64_t now = gm_now_ms();
    bool failed = false;
    t->wait_ms = t->wait_ms ? t->wait_ms : now;
    const char *missing = gm_roster_missing(t->orch, &failed);
    const char *what = missing ? missing : gm_roster_silent(t->orch);
    const bool no_weights = failed && t->lost == GM_DATA_LOSS; /* waiting mends no file */
    if (now - t->wait_ms > GM_RING_WAIT_MS || no_weights) {
        if (failed)
            gm_fail(&err, no_weights ? GM_DATA_LOSS : GM_UNAVAILABLE, "%s", what);
        else
            gm_fail(&err, GM_UNAVAILABLE, "the pipeline waits for %s; try again in a moment",
                    what ? what : "a process that does not answer");
        err.retry_ms = GM_RETRY_HINT_MS;
        gm_turn_fail(t, &err);
        return false;
    }
    if (what)
        return false;
    if (!gm_poison_waits(t))
        return true;
    t->wait_ms = now; /* the ring is there: this is no fault of it */
    return false;
}

void gm_ring_begin(struct gm_turn *t)
{
    struct gm_err err = GM_ERR_NONE;
    if (!may_look_for_pages(t) || !ring_ready(t))
        return;
    if (t->numerics[0] && strcmp(t->numerics, gm_roster_numerics(t->orch)) != 0) {
        gm_fail(&err, GM_ABORTED,
                "the turn was begun as %s and the shards compute as %s: send it again", t->numerics,
                gm_roster_numerics(t->orch));
        gm_turn_fail(t, &err);
        return;
    }
    t->ticket = gm_random_u64() | 1;
    if (gm_idmap_put(&t->orch->tickets, t->ticket, t, &err) != GM_OK) {
        t->ticket = 0;
        gm_turn_fail(t, &err);
        return;
    }
    t->lost = GM_OK;
    t->have = UINT32_MAX;
    t->rewind_min = 0;
    t->step = t->score ? 0 : -1;
    gm_turn_state_set(t, GM_TURN_OPEN);
    ask_next(t);
}

void gm_ring_release(struct gm_turn *t, bool keep)
{
    struct gm_orch *o = t->orch;
    const struct gm_call_more more = gm_turn_trace(t);
    Gm__ReleaseRequest r = GM__RELEASE_REQUEST__INIT;
    if (!t->ticket)
        return;
    r.ticket = t->ticket;
    r.has_keep = 1;
    r.keep = keep;
    for (int i = 0; i < o->roster.shards; i++)
        if (o->roster.shard[i].peer)
            gm_rpc_call_with(o->base.rpc,
                             &(struct gm_call){ o->roster.shard[i].peer, "Shard.Release", &r.base,
                                                &gm__empty__descriptor, GM_CALL_MS, 0, NULL, NULL },
                             &more, NULL);
    if (o->roster.sampler.peer && !t->score)
        gm_rpc_call_with(o->base.rpc,
                         &(struct gm_call){ o->roster.sampler.peer, "Sampler.Close", &r.base,
                                            &gm__empty__descriptor, GM_CALL_MS, 0, NULL, NULL },
                         &more, NULL);
    gm_idmap_take(&o->tickets, t->ticket);
    t->ticket = 0;
}

void gm_ring_forget_lives(struct gm_orch *o, const struct gm_member *m, bool sampler)
{
    Gm__ReleaseRequest r = GM__RELEASE_REQUEST__INIT;
    r.home = o->home;
    r.has_home_boot = 1;
    r.home_boot = gm_bus_boot(o->base.bus);
    gm_rpc_call(o->base.rpc,
                &(struct gm_call){ m->peer, sampler ? "Sampler.Close" : "Shard.Release", &r.base,
                                   &gm__empty__descriptor, GM_CALL_MS, 0, NULL, NULL },
                NULL);
}

static bool has_attempt(const struct gm_turn *t)
{
    return t->state == GM_TURN_OPEN || t->state == GM_TURN_RUN;
}

/* The attempt is over; the next one begins when it may. */
static void to_wait(struct gm_turn *t)
{
    gm_ring_release(t, true);
    for (size_t i = 0; i < t->n_rows; i++) /* a score begins again */
        if (i >= t->sent)
            gm__score_row__free_unpacked(t->rows[i], NULL);
    t->n_rows = t->score ? t->sent : 0;
    gm_turn_state_set(t, GM_TURN_WAIT);
}

static void give_up(struct gm_turn *t, const struct gm_err *why)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, GM_INTERNAL,
            "the turn was given up: %d attempts came no further; the last ended with: %s",
            GM_DEATHS_MAX, why->text);
    gm_turn_fail(t, &err);
}

void gm_ring_lost(struct gm_turn *t, const struct gm_err *why)
{
    if (!has_attempt(t))
        return;
    t->lost = why->status;
    if (why->status == GM_EXHAUSTED)
        wait_for_pages(t);
    else if (gm_poison_fault(t)) {
        give_up(t, why);
        return;
    }
    to_wait(t);
}

void gm_ring_died(struct gm_turn *t, const struct gm_member *who, const struct gm_err *why)
{
    if (!has_attempt(t))
        return;
    t->lost = why->status;
    if (gm_poison_died(t, who))
        give_up(t, why);
    else
        to_wait(t);
}

void gm_ring_unanswered(struct gm_turn *t)
{
    if (has_attempt(t))
        to_wait(t);
}

void gm_ring_credit(struct gm_turn *t, uint32_t more)
{
    struct gm_orch *o = t->orch;
    const struct gm_call_more trace = gm_turn_trace(t);
    Gm__CreditRequest r = GM__CREDIT_REQUEST__INIT;
    t->granted = more > UINT32_MAX - t->granted ? UINT32_MAX : t->granted + more;
    if (!t->ticket || t->score)
        return;
    r.ticket = t->ticket;
    r.credit = more;
    gm_rpc_call_with(o->base.rpc,
                     &(struct gm_call){ o->roster.sampler.peer, "Sampler.Credit", &r.base,
                                        &gm__empty__descriptor, GM_CALL_MS, 0, NULL, NULL },
                     &trace, NULL);
}

/* ---- what comes from the ring -------------------------------------------------------------------
 */

static void on_emitted(struct gm_turn *t, Gm__Emitted *e)
{
    for (size_t i = 0; i < e->n_tokens; i++) {
        if (e->tokens[i]->pos != t->n_prompt + t->n_tokens)
            continue; /* we have it, or it belongs to no answer of ours */
        if (t->n_tokens == t->tokens_cap) {
            const size_t cap = t->tokens_cap ? t->tokens_cap * 2 : 256;
            Gm__Token **more = realloc(t->tokens, cap * sizeof *more);
            if (!more)
                return;
            t->tokens = more;
            t->tokens_cap = cap;
        }
        t->tokens[t->n_tokens++] = e->tokens[i];
        e->tokens[i] = NULL; /* ours now */
    }
    size_t left = 0;
    for (size_t i = 0; i < e->n_tokens; i++)
        if (e->tokens[i])
            e->tokens[left++] = e->tokens[i];
    e->n_tokens = left;
    t->progress_ms = gm_now_ms();
    if (t->n_tokens > 0)
        gm_poison_progress(t, (uint32_t)(t->n_prompt + t->n_tokens));
    if (e->finish)
        gm_turn_end(t, strcmp(e->finish, "length") == 0 ? "length" : "stop");
    else
        gm_turn_flush(t);
}

static bool rows_room(struct gm_turn *t, size_t more)
{
    const size_t cap = t->n_rows + more > 2 * t->rows_cap ? t->n_rows + more : 2 * t->rows_cap;
    if (t->n_rows + more <= t->rows_cap)
        return true;
    Gm__ScoreRow **rows = realloc(t->rows, cap * sizeof *rows);
    if (!rows)
        return false;
    t->rows = rows;
    t->rows_cap = cap;
    return true;
}

static void on_scored(struct gm_turn *t, Gm__Scored *s)
{
    size_t left = 0;
    t->progress_ms = gm_now_ms();
    if (!rows_room(t, s->n_rows))
        return;
    for (size_t i = 0; i < s->n_rows; i++) {
        Gm__ScoreRow *row = s->rows[i];
        if (t->n_rows < t->rows_want && row->pos == t->n_rows * t->every)
            t->rows[t->n_rows++] = row; /* ours now */
        else
            s->rows[left++] = row;
    }
    s->n_rows = left;
    gm_poison_progress(t, (uint32_t)t->n_rows * t->every);
    gm_turn_flush(t);
}

static void on_fault(struct gm_turn *t, const Gm__Fault *f)
{
    char id[GM_TRACE_ID_MAX];
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, f->status <= GM_UNAUTHENTICATED ? (enum gm_status)f->status : GM_UNKNOWN, "%s",
            f->text);
    gm_warn("fault of the ring: %s status=%s turn=%s trace=%s", err.text,
            gm_status_name(err.status), t->id, gm_trace_id(id, t->trace));
    if (err.status == GM_DEADLINE || err.status == GM_INVALID)
        gm_turn_fail(t, &err);
    else
        gm_ring_lost(t, &err);
}

enum gm_status gm_ring_message(void *self, const struct gm_msg *msg, struct gm_err *err)
{
    struct gm_orch *o = self;
    struct gm_turn *t = NULL;
    if (msg->env->kind == GM__KIND__HELLO) {
        Gm__Hello *h = gm_msg_unpack(msg, &gm__hello__descriptor, err);
        if (!h)
            return err->status;
        gm_roster_speaks(o, h, gm_versions_of(msg->env));
        gm_roster_hello(o, h);
    } else if (msg->env->kind == GM__KIND__EMITTED) {
        Gm__Emitted *e = gm_msg_unpack(msg, &gm__emitted__descriptor, err);
        if (!e)
            return err->status;
        if ((t = gm_idmap_get(&o->tickets, e->ticket)) && !t->score &&
            (t->state == GM_TURN_RUN || t->state == GM_TURN_OPEN))
            on_emitted(t, e);
        gm__emitted__free_unpacked(e, NULL);
    } else if (msg->env->kind == GM__KIND__SCORED) {
        Gm__Scored *s = gm_msg_unpack(msg, &gm__scored__descriptor, err);
        if (!s)
            return err->status;
        if ((t = gm_idmap_get(&o->tickets, s->ticket)) && t->score && t->state == GM_TURN_RUN)
            on_scored(t, s);
        gm__scored__free_unpacked(s, NULL);
    } else if (msg->env->kind == GM__KIND__CHUNK_DONE) {
        Gm__ChunkDone *d = gm_msg_unpack(msg, &gm__chunk_done__descriptor, err);
        if (!d)
            return err->status;
        if ((t = gm_idmap_get(&o->tickets, d->ticket)))
            gm_turn_progress(t, d->pos + (d->has_rows ? d->rows : 0));
        gm__chunk_done__free_unpacked(d, NULL);
    } else if (msg->env->kind == GM__KIND__FAULT) {
        Gm__Fault *f = gm_msg_unpack(msg, &gm__fault__descriptor, err);
        if (!f)
            return err->status;
        if ((t = gm_idmap_get(&o->tickets, f->ticket)))
            on_fault(t, f);
        gm__fault__free_unpacked(f, NULL);
    } else {
        return gm_fail(err, GM_UNSUPPORTED, "the orchestrator takes no message of kind %d",
                       (int)msg->env->kind);
    }
    return GM_OK;
}
