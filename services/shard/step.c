/* step.c - one batch through the slice: rows in, hidden rows or candidates out.
 *
 * Owns:      the order of a step; the check that a row's position equals the KV length.
 * Does not:  send (shard_out), choose the batch (batch.c), do maths (common/model).
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/shard/shard.h"

/* The batch of one step; static because it is large and there is one loop thread. */
static struct step {
    struct gm_work works[GM_WORKS_MAX];
    struct gm_work *live[GM_WORKS_MAX]; /* works that are computed, in batch order */
    struct gm_ticket *owner[GM_WORKS_MAX];
    struct gm_span spans[GM_WORKS_MAX];
    int32_t n_works, n, rows;
} st;

/* Whether the weights that this step read are not to be trusted: then nothing of it may be sent.
 * Who runs the steps tells the turns (edge_lost.c). */
static bool weights_lost(struct gm_shard *s)
{
    return s->lost.status != GM_OK || gm_mapguard_check(&s->lost) != GM_OK;
}

static void fault(struct gm_shard *s, struct gm_ticket *t, const struct gm_err *why)
{
    s->out.fault(s->out.ctx, t, why);
}

/* What a work that entered says of the tokens before it. */
static void count(struct gm_shard *s, struct gm_ticket *t, const struct gm_work *w)
{
    if (w->decode) {
        s->decoded += (uint64_t)(w->pos + 1 - t->accepted);
        s->accepted += (uint64_t)(w->pos - t->accepted);
        s->drafted += (uint64_t)w->drafts;
    }
    t->accepted = w->decode ? w->pos + 1 : w->pos + w->n;
}

/* Pages for the rows of each work, before any of them is opened: a turn that is pushed out for
 * another's sake is in no batch then. */
static void make_room(struct gm_shard *s)
{
    for (int32_t i = 0; i < st.n_works; i++) {
        const struct gm_work *w = &st.works[i];
        struct gm_ticket *t = gm_shard_ticket(s, w->ticket);
        if (t && w->pos >= 0 && w->pos <= gm_kv_len(t->session->seq) &&
            w->n <= t->positions - w->pos)
            (void)gm_shard_grow(s, t, w->pos + w->n);
    }
}

/* Rows of a work that were opened and not computed are nobody's. */
static void undo(struct gm_shard *s, struct gm_ticket *t, const struct gm_work *w)
{
    struct gm_err err = GM_ERR_NONE;
    gm_prefix_cut(&s->prefix, t->session, w->pos);
    if (gm_kv_rewind(gm_slice_kv(s->slice), t->session->seq, w->pos, &err) != GM_OK)
        gm_log_err(GM_LOG_ERROR, "rows that were not computed", &err);
}

/* Opens the rows of a work in its sequence's cache. A decode row may stand where a wrong guess
 * stood, never below what was accepted before it. */
static enum gm_status enter(struct gm_shard *s, struct gm_ticket *t, const struct gm_work *w,
                            struct gm_err *err)
{
    struct gm_kv *kv = gm_slice_kv(s->slice);
    struct gm_kv_seq *seq = t->session->seq;
    const int32_t len = gm_kv_len(seq);
    const bool guessed = w->decode && w->pos >= t->accepted;
    enum gm_status rc = GM_OK;
    if (t->deadline_us && gm_now_us() > t->deadline_us)
        return gm_fail(err, GM_DEADLINE, "the turn's time is over");
    if (w->pos < 0 || w->n > t->positions - w->pos)
        return gm_fail(err, GM_DATA_LOSS, "%d rows from position %d, but the turn has %d", w->n,
                       w->pos, t->positions);
    if ((w->start || guessed) && w->pos < len)
        gm_prefix_cut(&s->prefix, t->session, w->pos);
    if ((w->start || guessed) && w->pos <= len)
        rc = gm_kv_rewind(kv, seq, w->pos, err);
    else if (w->pos != len)
        rc = gm_fail(err, GM_DATA_LOSS, "rows from position %d, but %d are stored", w->pos, len);
    if (rc == GM_OK)
        rc = gm_kv_extend(kv, seq, w->ids, w->n, err);
    if (rc == GM_OK)
        count(s, t, w);
    return rc;
}

/* Works of one ticket in one batch may only be chunks of its prompt that follow each other: a
 * second one that went back would take away the rows that the first is computed on. */
static enum gm_status check_order(const struct gm_ticket *t, const struct gm_work *w,
                                  struct gm_err *err)
{
    for (int32_t i = st.n; i-- > 0;) {
        const struct gm_work *before = st.live[i];
        if (st.owner[i] != t)
            continue;
        if (w->start || w->decode || before->last || w->pos != before->pos + before->n)
            return gm_fail(err, GM_DATA_LOSS,
                           "rows from position %d came together with others from %d", w->pos,
                           before->pos);
        break;
    }
    return GM_OK;
}

/* Keeps the works whose ticket is known and whose rows fit; fills spans and the hidden rows. */
static void gather(struct gm_shard *s)
{
    const size_t d = (size_t)gm_slice_config(s->slice)->d_model;
    st.n = 0;
    st.rows = 0;
    for (int32_t i = 0; i < st.n_works; i++) {
        struct gm_work *w = &st.works[i];
        struct gm_ticket *t = gm_shard_ticket(s, w->ticket);
        struct gm_err err = GM_ERR_NONE;
        if (!t)
            continue; /* an older attempt's rows */
        float *rows = s->hidden + (size_t)st.rows * d;
        enum gm_status rc = check_order(t, w, &err);
        if (rc == GM_OK)
            rc = enter(s, t, w, &err);
        if (rc == GM_OK && s->is_first &&
            (rc = gm_slice_embed(s->slice, w->ids, w->n, rows, &err)) != GM_OK)
            undo(s, t, w);
        if (rc != GM_OK) {
            fault(s, t, &err);
            continue;
        }
        if (!s->is_first)
            memcpy(rows, w->rows, (size_t)w->n * d * sizeof(float));
        st.spans[st.n] = (struct gm_span){ t->session->seq, w->pos, w->n, st.rows };
        st.live[st.n] = w;
        st.owner[st.n] = t;
        st.rows += w->n;
        st.n++;
    }
}

/* Where the candidates of a row stand until they are sent; static like the batch. */
static struct room {
    int32_t ids[GM_TOPK_MAX], top_ids[GM_LOGPROBS_MAX];
    float logits[GM_TOPK_MAX], raw[GM_TOPK_MAX];
    double top_logprobs[GM_LOGPROBS_MAX];
} rooms[GM_RUN_ROWS_MAX];

/* Candidates of row `i` of the ticket's logits: out->c.k of them, in the arrays of out->c. sums: as
 * the head gave them; NULL: they are computed again. */
static void choose(struct gm_shard *s, struct gm_ticket *t, int32_t i,
                   const struct gm_head_row *sums, struct gm_row_out *out)
{
    const int32_t vocab = gm_slice_config(s->slice)->vocab, pos = t->logits_pos + i;
    const struct gm_row_rules *r = &t->rules;
    const int32_t *ids = gm_kv_ids(t->session->seq);
    const struct gm_adjust adjust = {
        .repeat_penalty = r->repeat_penalty,
        .presence = r->presence,
        .frequency = r->frequency,
        .ids = ids,
        .n_ids = pos + 1,
        .prompt_len = t->prompt_len,
        .bias_ids = r->bias_ids,
        .bias_values = r->bias_values,
        .n_bias = r->n_bias,
        .banned = r->banned,
        .n_banned = r->n_banned,
    };
    out->id = ids[pos];
    out->c.chunks_raw = sums ? sums->lse_raw : NULL;
    out->c.chunks_t = sums ? sums->lse_t : NULL;
    gm_head_choose(s->kernels, t->logits[i], vocab, &adjust, r->temperature, &out->c);
    out->top_ids = rooms[i].top_ids;
    out->top_logprobs = rooms[i].top_logprobs;
    if (r->top_n > 0)
        gm_head_logprobs(s->kernels, t->logits[i], vocab, r->top_n, rooms[i].top_ids,
                         rooms[i].top_logprobs, out->c.lse_raw);
}

static int32_t wanted(const struct gm_row_rules *r)
{
    if (r->temperature <= 0.0f)
        return GM_CANDS_GREEDY;
    return r->top_k > 0 ? r->top_k : GM_CANDS_OPEN;
}

/* Sends candidates of the ticket's logits from row `first` on: k of that row, the usual number of
 * those after it. sums: of row `first` and those after it, or NULL. */
static void send_rows(struct gm_shard *s, struct gm_ticket *t, int32_t first, int32_t k,
                      const struct gm_head_row *sums)
{
    struct gm_row_out out[GM_RUN_ROWS_MAX];
    const int32_t vocab = gm_slice_config(s->slice)->vocab, usual = wanted(&t->rules);
    void *big = NULL;
    int32_t n = 0;
    for (int32_t i = first; i < t->logits_rows; i++) {
        struct gm_candidates *c = &out[n].c;
        struct room *room = &rooms[i];
        *c = (struct gm_candidates){
            .k = i == first ? k : usual, .ids = room->ids, .logits = room->logits, .raw = room->raw
        };
        if (i > first && usual > GM_TOPK_MAX)
            break;
        if (c->k > GM_TOPK_MAX) { /* rare: the sampler could not prove its choice from fewer */
            c->k = c->k < vocab ? c->k : vocab;
            big = malloc((size_t)c->k * 3 * sizeof(int32_t));
            if (!big) {
                struct gm_err err = GM_ERR_NONE;
                gm_fail(&err, GM_EXHAUSTED, "no memory for %d candidates", c->k);
                fault(s, t, &err);
                return;
            }
            c->ids = big;
            c->logits = (float *)big + c->k;
            c->raw = c->logits + c->k;
        }
        choose(s, t, i, sums ? sums + (i - first) : NULL, &out[n]);
        n++;
    }
    s->out.candidates(s->out.ctx, t, t->logits_pos + first, out, n);
    free(big);
}

void gm_shard_more(struct gm_shard *s, uint64_t ticket, int32_t pos, int32_t k)
{
    struct gm_ticket *t = gm_shard_ticket(s, ticket);
    if (t && t->logits_pos >= 0 && pos >= t->logits_pos && pos - t->logits_pos < t->logits_rows &&
        k > 0)
        send_rows(s, t, pos - t->logits_pos, k, NULL);
}

/* Row `i` of the head's buffers. */
static struct gm_head_row head_row(struct gm_shard *s, int32_t i, const float *hidden,
                                   float *logits, float temperature)
{
    const size_t chunks = (size_t)gm_head_chunks(gm_slice_config(s->slice)->vocab);
    struct gm_head_row row = { .hidden = hidden,
                               .logits = logits,
                               .inv_t = temperature > 0.0f ? 1.0f / temperature : 1.0f,
                               .lse_raw = s->lse + 2 * (size_t)i * chunks };
    row.lse_t = row.inv_t == 1.0f ? row.lse_raw : row.lse_raw + chunks;
    return row;
}

static const float *hidden_row(const struct gm_shard *s, int32_t row)
{
    return s->hidden + (size_t)row * (size_t)gm_slice_config(s->slice)->d_model;
}

/* Scores the rows of a span, a few at a time. */
static void score(struct gm_shard *s, struct gm_ticket *t, const struct gm_span *span)
{
    static int32_t ids[GM_LOGPROBS_MAX];
    static double lps[GM_LOGPROBS_MAX];
    struct gm_head_row rows[GM_SCORE_ROWS];
    const int32_t vocab = gm_slice_config(s->slice)->vocab;
    for (int32_t from = 0; from < span->n;) {
        int32_t n = t->every > 1 ? 1 : span->n - from;
        n = n > GM_SCORE_ROWS ? GM_SCORE_ROWS : n;
        for (int32_t r = 0; r < n; r++)
            rows[r] = head_row(s, r, hidden_row(s, span->row + from + r),
                               s->score_logits + (size_t)r * (size_t)vocab, 0.0f);
        const int32_t wanted_rows = (span->pos + from) % t->every == 0 ? n : 0;
        gm_slice_head(s->slice, rows, wanted_rows);
        if (weights_lost(s))
            return;
        for (int32_t r = 0; r < wanted_rows; r++) {
            const int32_t p = span->pos + from + r;
            const float *logits = rows[r].logits;
            const double lse = gm_head_lse(rows[r].lse_raw, vocab);
            gm_head_logprobs(s->kernels, logits, vocab, t->rules.top_n, ids, lps, lse);
            const double next =
                p + 1 < t->n_prompt ? (double)logits[t->prompt[p + 1]] - lse : (double)NAN;
            s->out.scored(s->out.ctx, t, p, next, t->rules.top_n, ids, lps);
        }
        from += n;
    }
}

/* Candidates of the turns whose last rows are in this batch: st.live[which[0 .. n)]. All rows of a
 * turn are in one call. */
static void heads(struct gm_shard *s, const int32_t *which, int32_t n)
{
    struct gm_head_row rows[GM_HEAD_ROWS_MAX], *at = rows;
    int32_t n_rows = 0;
    for (int32_t i = 0; i < n; i++) {
        struct gm_ticket *t = st.owner[which[i]];
        const struct gm_span *span = &st.spans[which[i]];
        const int32_t first = span->n - 1 - st.live[which[i]]->drafts;
        t->logits_pos = span->pos + first;
        for (int32_t r = 0; r < t->logits_rows; r++, n_rows++)
            rows[n_rows] = head_row(s, n_rows, hidden_row(s, span->row + first + r), t->logits[r],
                                    t->rules.temperature);
    }
    gm_slice_head(s->slice, rows, n_rows);
    if (weights_lost(s))
        return;
    for (int32_t i = 0; i < n; i++) {
        struct gm_ticket *t = st.owner[which[i]];
        const struct gm_head_row *mine = at;
        at += t->logits_rows;
        int32_t good = 0;
        while (good < t->logits_rows && mine[good].finite)
            good++;
        t->logits_rows = good; /* a guess's row may be bad: then it is computed as a first one */
        if (good > 0) {
            send_rows(s, t, 0, wanted(&t->rules), mine);
            continue;
        }
        struct gm_err err = GM_ERR_NONE;
        gm_fail(&err, GM_DATA_LOSS, "the output head gave a number that is not finite");
        fault(s, t, &err);
    }
}

/* The last shard: what became of each span. Rows that need the head share its passes. */
static void finish(struct gm_shard *s)
{
    int32_t which[GM_HEAD_ROWS_MAX], n = 0, rows = 0;
    for (int32_t i = 0; i < st.n; i++) {
        struct gm_ticket *t = st.owner[i];
        if (!t || t->score || !st.live[i]->last)
            continue;
        t->logits_rows = gm_shard_logits(s, t, 1 + st.live[i]->drafts);
        if (rows + t->logits_rows > GM_HEAD_ROWS_MAX) {
            heads(s, which, n);
            n = rows = 0;
        }
        which[n++] = i;
        rows += t->logits_rows;
    }
    if (n > 0)
        heads(s, which, n);
    for (int32_t i = 0; i < st.n; i++) {
        struct gm_ticket *t = st.owner[i];
        if (t && t->score)
            score(s, t, &st.spans[i]);
        if (t && !st.live[i]->decode && s->lost.status == GM_OK)
            s->out.chunk_done(s->out.ctx, t, st.live[i]);
    }
}

/* Not the last: rows of works with the same next process go in one message. */
static void hand_on(struct gm_shard *s)
{
    const size_t d = (size_t)gm_slice_config(s->slice)->d_model;
    for (int32_t from = 0; from < st.n;) {
        int32_t to = from;
        while (to < st.n && st.owner[to] && st.owner[from] &&
               st.owner[to]->next == st.owner[from]->next)
            to++;
        if (to == from) { /* a span that faulted */
            from++;
            continue;
        }
        s->out.hidden(s->out.ctx, st.owner[from]->next,
                      (const struct gm_work *const *)&st.live[from], to - from,
                      s->hidden + (size_t)st.spans[from].row * d);
        from = to;
    }
}

/* Span `i` was not computed, or not to numbers: its rows go, its ticket hears of it, and so do rows
 * of the same ticket that stand on them. */
static void drop(struct gm_shard *s, int32_t i, const struct gm_err *why)
{
    struct gm_ticket *t = st.owner[i];
    if (!t)
        return; /* with an earlier one */
    undo(s, t, st.live[i]);
    fault(s, t, why);
    for (int32_t j = i; j < st.n; j++)
        if (st.owner[j] == t)
            st.owner[j] = NULL;
}

/* The batch through the layers; spans that fail lose their owner. */
static void compute(struct gm_shard *s)
{
    static bool bad[GM_WORKS_MAX];
    struct gm_err err = GM_ERR_NONE;
    int32_t first = -1;
    struct gm_batch batch = { .spans = st.spans,
                              .n_spans = st.n,
                              .rows = st.rows,
                              .hidden = s->hidden,
                              .progress = &s->progress,
                              .bad = bad };
    if (gm_slice_blocks(s->slice, &batch, &first, &err) != GM_OK && !weights_lost(s))
        for (int32_t i = 0; i < st.n; i++)
            if (first < 0 || bad[i]) /* below 0: nothing was computed */
                drop(s, i, &err);
    for (int32_t i = 0; i < st.n; i++)
        if (st.owner[i])
            gm_prefix_grow(&s->prefix, st.owner[i]->session);
}

void gm_shard_step(struct gm_shard *s, bool *more)
{
    const int64_t begin_us = gm_now_us();
    st.n_works = gm_shard_form(s, st.works, more);
    make_room(s);
    gather(s);
    if (st.n > 0) {
        int32_t decode_rows = 0;
        compute(s);
        for (int32_t i = 0; i < st.n; i++)
            decode_rows += st.live[i]->decode ? st.live[i]->n : 0;
        if (s->is_last)
            finish(s);
        else if (!weights_lost(s))
            hand_on(s);
        if (decode_rows > 0)
            s->step_us = gm_now_us();
        const int64_t us = gm_now_us() - begin_us;
        s->busy_us += (uint64_t)us;
        gm_shard_pace(&s->pace, decode_rows, st.rows - decode_rows, (double)us);
    }
    for (int32_t i = 0; i < st.n_works; i++)
        gm_work_free(&st.works[i]);
}
