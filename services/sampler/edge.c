/* edge.c - the sampler's messages: candidates in, chosen and emitted tokens out, and its calls.
 *
 * Owns:      the open sequences, their credit, what waits for credit.
 * Does not:  choose (pick.c, seq.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/sampler/edge.h"

enum { SEQ_PEERS = 3 }; /* processes that a sequence names */

/* One open ticket. A sequence without credit keeps its next token here instead of sending it. */
struct open_seq {
    uint64_t ticket;
    struct gm_seq *seq;
    struct gm_peer *first, *last, *home;
    int64_t credit; /* below 0 after a run that released more than was left */
    bool parked;
    Gm__Chosen next; /* what goes to shard 0 when credit comes; valid when parked */
};

static const char *piece(const void *ctx, int32_t id, size_t *len)
{
    return gm_vocab_piece(ctx, id, len);
}

bool gm_sampler_vocab(struct gm_sampler_service *s)
{
    struct gm_err err = GM_ERR_NONE;
    if (!s->vocab_open && gm_path_exists(s->vocab_path))
        s->vocab_open = gm_vocab_open(&s->vocab, s->vocab_path, &err) == GM_OK;
    return s->vocab_open;
}

static void seq_free(struct open_seq *q)
{
    if (q)
        gm_seq_close(&q->seq);
    free(q);
}

void gm_sampler_close_all(struct gm_sampler_service *s)
{
    for (size_t i = s->seqs.n; i-- > 0;)
        seq_free(gm_idmap_take(&s->seqs, s->seqs.entries[i].key));
    gm_idmap_close(&s->seqs);
    if (s->vocab_open)
        gm_vocab_close(&s->vocab);
}

/* ---- out ------------------------------------------------------------------------------------- */

static void send_chosen(struct gm_sampler_service *s, struct open_seq *q)
{
    struct gm_err err = GM_ERR_NONE;
    q->parked = false;
    if (gm_bus_post_short(s->base.bus, q->first, GM__KIND__CHOSEN, &q->next.base, NULL, 0, &err) !=
        GM_OK)
        gm_log_err(GM_LOG_WARN, "chosen token not sent", &err);
}

static enum gm_status send_emitted(struct gm_sampler_service *s, struct open_seq *q,
                                   const struct gm_outcome *out, struct gm_err *err)
{
    static const char *const names[] = { NULL, "stop", "length" };
    const size_t n = out->n_released;
    Gm__Emitted msg = GM__EMITTED__INIT;
    enum gm_status rc = GM_OK;
    size_t tops = 0, at = 0;
    for (size_t i = 0; i < n; i++)
        tops += out->released[i].n_tops;
    Gm__Token *tokens = calloc(n + 1, sizeof *tokens);
    Gm__Token **rows = calloc(n + 1, sizeof *rows);
    Gm__TopId *top = calloc(tops + 1, sizeof *top);
    Gm__TopId **top_rows = calloc(tops + 1, sizeof *top_rows);
    if (!tokens || !rows || !top || !top_rows) {
        rc = gm_fail(err, GM_EXHAUSTED, "no memory for %zu emitted tokens", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const struct gm_released *r = &out->released[i];
        gm__token__init(&tokens[i]);
        tokens[i].pos = r->position;
        tokens[i].id = r->id;
        tokens[i].has_logprob = r->has_logprob;
        tokens[i].logprob = r->logprob;
        tokens[i].n_top = r->n_tops;
        tokens[i].top = &top_rows[at];
        for (uint32_t t = 0; t < r->n_tops; t++, at++) {
            gm__top_id__init(&top[at]);
            top[at].id = r->tops[t].id;
            top[at].logprob = r->tops[t].logprob;
            top_rows[at] = &top[at];
        }
        rows[i] = &tokens[i];
    }
    msg.ticket = q->ticket;
    msg.n_tokens = n;
    msg.tokens = rows;
    msg.finish = (char *)names[out->finish];
    rc = gm_bus_post(s->base.bus, q->home, GM__KIND__EMITTED, &msg.base, NULL, 0, err);
out:
    free(tokens);
    free(rows);
    free(top);
    free(top_rows);
    return rc;
}

static void send_fault(struct gm_sampler_service *s, struct open_seq *q, const struct gm_err *why)
{
    Gm__Fault fault = GM__FAULT__INIT;
    fault.ticket = q->ticket;
    fault.status = (uint32_t)why->status;
    fault.text = (char *)why->text;
    gm_bus_post(s->base.bus, q->home, GM__KIND__FAULT, &fault.base, NULL, 0, NULL);
}

/* Sends what a step led to. The next token goes to the ring at once, or waits for credit. */
static enum gm_status send_outcome(struct gm_sampler_service *s, struct open_seq *q,
                                   const struct gm_outcome *out, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    if (out->has_next) {
        q->next = (Gm__Chosen)GM__CHOSEN__INIT;
        q->next.ticket = q->ticket;
        q->next.pos = out->next_position;
        q->next.id = out->next_id;
        q->parked = true;
    }
    q->credit -= out->n_released;
    if (q->parked && q->credit > 0)
        send_chosen(s, q); /* before the copy for the client: the ring turns first */
    if (out->n_released > 0 || out->finish != GM_FINISH_NONE)
        rc = send_emitted(s, q, out, err);
    return rc;
}

/* ---- in: candidates -------------------------------------------------------------------------- */

/* One row of a message: its sizes are checked, its log-probabilities copied to tops. */
static enum gm_status row_from(struct gm_cands *c, const Gm__AheadRow *in, struct gm_alt *tops,
                               struct gm_err *err)
{
    if (in->n_logits != in->n_ids || in->n_raw != in->n_ids || in->n_ids == 0 ||
        in->n_top > GM_LOGPROBS_MAX)
        return gm_fail(err, GM_INVALID, "candidates of %zu ids, %zu logits, %zu raw, %zu top",
                       in->n_ids, in->n_logits, in->n_raw, in->n_top);
    for (size_t i = 0; i < in->n_top; i++)
        tops[i] = (struct gm_alt){ in->top[i]->id, in->top[i]->logprob };
    c->n = (uint32_t)in->n_ids;
    c->ids = in->ids;
    c->logits = in->logits;
    c->raw = in->raw;
    c->lse_raw = in->lse_raw;
    c->lse_temp = in->lse_t;
    c->n_tops = (uint32_t)in->n_top;
    c->tops = in->n_top ? tops : NULL;
    return GM_OK;
}

/* The rows of a message in order, the first one's fields among them; returns how many. Rows of
 * guesses that are bad or too many are left out: the ring computes them again when their turn
 * comes. 0: the first row is bad. */
static uint32_t rows_from(const Gm__Candidates *in, struct gm_cands rows[GM_RUN_MAX],
                          int32_t drafts[GM_RUN_MAX], struct gm_err *err)
{
    static struct gm_alt tops[GM_RUN_MAX][GM_LOGPROBS_MAX]; /* one thread */
    Gm__AheadRow head = GM__AHEAD_ROW__INIT;
    head.n_ids = in->n_ids;
    head.n_logits = in->n_logits;
    head.n_raw = in->n_raw;
    head.n_top = in->n_top;
    head.ids = in->ids;
    head.logits = in->logits;
    head.raw = in->raw;
    head.lse_raw = in->lse_raw;
    head.lse_t = in->lse_t;
    head.top = in->top;
    uint32_t n = 0;
    for (; n < GM_RUN_MAX && n <= in->n_ahead; n++) {
        const Gm__AheadRow *row = n > 0 ? in->ahead[n - 1] : &head;
        rows[n] = (struct gm_cands){ .position = in->pos + 1 + n, .n_vocab = in->vocab };
        drafts[n] = row->id;
        if (row_from(&rows[n], row, tops[n], n > 0 ? NULL : err) != GM_OK)
            break;
    }
    return n;
}

static enum gm_status step(struct gm_sampler_service *s, struct open_seq *q,
                           const Gm__Candidates *in, struct gm_err *err)
{
    struct gm_cands rows[GM_RUN_MAX];
    int32_t drafts[GM_RUN_MAX];
    struct gm_outcome out;
    const uint32_t before = gm_seq_position(q->seq), n = rows_from(in, rows, drafts, err);
    if (n == 0)
        return err->status;
    enum gm_status rc = gm_seq_run(q->seq, rows, drafts, n, &out, err);
    if (rc != GM_OK)
        return rc;
    s->chosen += gm_seq_position(q->seq) - before;
    if (out.need > 0) {
        Gm__More more = GM__MORE__INIT;
        more.ticket = q->ticket;
        more.pos = gm_seq_position(q->seq) - 1;
        more.k = out.need;
        rc = gm_bus_post(s->base.bus, q->last, GM__KIND__MORE, &more.base, NULL, 0, err);
    }
    const enum gm_status sent = send_outcome(s, q, &out, err);
    return rc == GM_OK ? sent : rc;
}

enum gm_status gm_sampler_on_message(void *self, const struct gm_msg *msg, struct gm_err *err)
{
    struct gm_sampler_service *s = self;
    if (msg->env->kind != GM__KIND__CANDIDATES)
        return gm_fail(err, GM_UNSUPPORTED, "the sampler takes no message of kind %d",
                       (int)msg->env->kind);
    Gm__Candidates *in = gm_msg_unpack(msg, &gm__candidates__descriptor, err);
    if (!in)
        return err->status;
    struct open_seq *q = gm_idmap_get(&s->seqs, in->ticket);
    enum gm_status rc = GM_OK;
    if (q && in->pos + 1 == gm_seq_position(q->seq)) { /* else an old attempt's or a doubled row */
        rc = step(s, q, in, err);
        if (rc != GM_OK)
            send_fault(s, q, err);
    }
    protobuf_c_message_free_unpacked(&in->base, NULL);
    return rc;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void from_proto(struct gm_sampling *p, const Gm__Sampling *in)
{
    gm_sampling_default(p);
    p->temperature = in->has_temperature ? in->temperature : p->temperature;
    p->top_k = in->has_top_k ? in->top_k : p->top_k;
    p->top_p = in->has_top_p ? in->top_p : p->top_p;
    p->min_p = in->has_min_p ? in->min_p : p->min_p;
    p->repeat_penalty = in->has_repeat_penalty ? in->repeat_penalty : p->repeat_penalty;
    p->presence_penalty = in->has_presence_penalty ? in->presence_penalty : 0.0f;
    p->frequency_penalty = in->has_frequency_penalty ? in->frequency_penalty : 0.0f;
    p->rules = in->has_rules ? (int32_t)in->rules : p->rules;
    p->seed = in->has_seed ? in->seed : p->seed;
    p->max_tokens = in->has_max_tokens ? in->max_tokens : p->max_tokens;
    p->logprobs = in->has_logprobs ? in->logprobs : p->logprobs;
    p->ignore_eos = in->has_ignore_eos && in->ignore_eos;
}

static enum gm_status stops_from_proto(struct gm_sampling *p, const Gm__Sampling *in,
                                       struct gm_err *err)
{
    if (in->n_stops > GM_STOPS_MAX)
        return gm_fail(err, GM_INVALID, "%zu stop strings, at most %d", in->n_stops, GM_STOPS_MAX);
    for (size_t i = 0; i < in->n_stops; i++) {
        if (in->stops[i].len == 0 || in->stops[i].len > GM_STOP_BYTES_MAX)
            return gm_fail(err, GM_INVALID, "a stop string has %zu bytes, allowed are 1..%d",
                           in->stops[i].len, GM_STOP_BYTES_MAX);
        p->stops[i].len = (uint16_t)in->stops[i].len;
        memcpy(p->stops[i].bytes, in->stops[i].data, in->stops[i].len);
    }
    p->n_stops = (uint32_t)in->n_stops;
    return gm_sampling_check(p, err);
}

static bool peer_used(const void *ctx, const struct gm_peer *peer)
{
    const struct gm_sampler_service *s = ctx;
    for (size_t i = 0; i < s->seqs.n; i++) {
        const struct open_seq *q = s->seqs.entries[i].value;
        if (q->first == peer || q->last == peer || q->home == peer)
            return true;
    }
    return false;
}

static enum gm_status seq_of(struct gm_sampler_service *s, const Gm__OpenRequest *in,
                             struct open_seq *q, struct gm_outcome *first, struct gm_err *err)
{
    static struct gm_sampling sampling; /* large; one thread */
    from_proto(&sampling, in->sampling);
    enum gm_status rc = stops_from_proto(&sampling, in->sampling, err);
    if (rc != GM_OK)
        return rc;
    const struct gm_seq_args args = {
        .sampling = &sampling,
        .end_ids = in->end_ids,
        .n_end = (uint32_t)in->n_end_ids,
        .n_vocab = gm_vocab_n(&s->vocab),
        .prompt_len = in->prompt_len,
        .done = in->so_far,
        .n_done = (uint32_t)in->n_so_far,
        .piece = piece,
        .piece_ctx = &s->vocab,
    };
    q->ticket = in->ticket;
    q->credit = in->has_credit ? in->credit : GM_STREAM_CREDIT;
    gm_bus_room(s->base.bus, SEQ_PEERS, peer_used, s);
    q->first = gm_bus_peer(s->base.bus, in->first, err);
    q->last = gm_bus_peer(s->base.bus, in->last, err);
    q->home = gm_bus_peer(s->base.bus, in->home, err);
    if (!q->first || !q->last || !q->home)
        return err->status;
    return gm_seq_open(&q->seq, &args, first, err);
}

static enum gm_status open_seq(void *self, struct gm_stream *stream,
                               const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_sampler_service *s = self;
    const Gm__OpenRequest *in = (const Gm__OpenRequest *)request;
    const Gm__Empty reply = GM__EMPTY__INIT;
    struct gm_outcome first;
    if (!gm_sampler_vocab(s)) {
        return gm_retry_after(
            err, GM_VOCAB_RETRY_MS,
            gm_fail(err, GM_UNAVAILABLE, "the vocabulary is not there yet; try again"));
    }
    if (gm_idmap_get(&s->seqs, in->ticket))
        return gm_rpc_reply(stream, &reply.base); /* a repeated call changes nothing */
    struct open_seq *q = calloc(1, sizeof *q);
    if (!q)
        return gm_fail(err, GM_EXHAUSTED, "no memory for another sequence");
    enum gm_status rc = seq_of(s, in, q, &first, err);
    if (rc == GM_OK)
        rc = gm_idmap_put(&s->seqs, in->ticket, q, err);
    if (rc != GM_OK) {
        seq_free(q);
        return rc;
    }
    rc = gm_rpc_reply(stream, &reply.base);
    if (rc == GM_OK && first.finish != GM_FINISH_NONE)
        rc = send_emitted(s, q, &first, err);
    return rc;
}

static enum gm_status give_credit(void *self, struct gm_stream *stream,
                                  const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_sampler_service *s = self;
    const Gm__CreditRequest *in = (const Gm__CreditRequest *)request;
    const Gm__Empty reply = GM__EMPTY__INIT;
    struct open_seq *q = gm_idmap_get(&s->seqs, in->ticket);
    if (!q)
        return gm_fail(err, GM_NOT_FOUND, "no such ticket here");
    q->credit = q->credit > UINT32_MAX ? q->credit : q->credit + in->credit;
    if (q->parked && q->credit > 0)
        send_chosen(s, q);
    return gm_rpc_reply(stream, &reply.base);
}

static enum gm_status close_seq(void *self, struct gm_stream *stream,
                                const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_sampler_service *s = self;
    const Gm__ReleaseRequest *in = (const Gm__ReleaseRequest *)request;
    const Gm__Empty reply = GM__EMPTY__INIT;
    (void)err;
    seq_free(gm_idmap_take(&s->seqs, in->ticket));
    return gm_rpc_reply(stream, &reply.base);
}

const struct gm_method gm_sampler_methods[] = {
    { "Sampler.Open", &gm__open_request__descriptor, open_seq },
    { "Sampler.Credit", &gm__credit_request__descriptor, give_credit },
    { "Sampler.Close", &gm__release_request__descriptor, close_seq },
    { NULL, NULL, NULL },
};
