/* edge_turn.c - a request that runs turns: from the parsed body to the last token of each answer.
 *
 * Owns:      admission, seeds of choices, Idempotency-Key, StartTurn and what comes of it.
 * Does not:  word what the client hears (edge_render.c).
 */
#include <hiredis/hiredis.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

enum {
    IDEMPOTENCY_MAX = 255,     /* bytes of the header */
    IDEMPOTENCY_TTL_S = 86400, /* how long a key is known */
    HASH_BYTES = (GM_HASH_HEX - 1) / 2,
    ANSWER_BYTES_MAX = 32 << 20, /* text of one answer */
};

/* ---- memory of a run --------------------------------------------------------------------------
 */

static void run_free(struct gm_run *r)
{
    for (size_t i = 0; i < r->n_tokens; i++)
        free((void *)(uintptr_t)r->tokens[i].top);
    free(r->tokens);
    gm_buf_free(&r->text);
}

/* What a turn cost, against its key's day; a prompt counts once for all its choices. */
static void charge(const struct gm_run *r)
{
    gm_keys_charge(r->job, r->n + (r->choice == 0 ? r->prompt_tokens : 0));
}

void gm_turns_drop(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    for (uint32_t i = 0; i < j->n_runs; i++) {
        struct gm_run *r = &j->runs[i];
        struct gm_follow *f = r->follow;
        r->follow = NULL;
        if (f && j->kept)
            gm_follow_let(f);
        else if (f)
            gm_follow_leave(f);
        if (r->started && !r->ended)
            charge(r);
        if (j->admitted && !r->ended)
            gm_admission_end(&g->admission, gm_now_ms());
        run_free(r);
    }
    if (j->waiting)
        g->admission.waiting -= j->n_runs;
    free(j->runs);
    j->runs = NULL;
    j->n_runs = 0;
    j->admitted = j->waiting = false;
}

/* Keeps a token with its log-probabilities. */
static bool keep_token(struct gm_run *r, const Gm__Token *t)
{
    struct gm_top *top = NULL;
    if (r->n_tokens == r->tokens_cap) {
        const size_t cap = r->tokens_cap ? r->tokens_cap * 2 : 64;
        struct gm_answer_token *more = realloc(r->tokens, cap * sizeof *more);
        if (!more)
            return false;
        r->tokens = more;
        r->tokens_cap = cap;
    }
    if (t->n_top > 0 && !(top = malloc(t->n_top * sizeof *top)))
        return false;
    for (size_t i = 0; i < t->n_top; i++)
        top[i] = (struct gm_top){ t->top[i]->id, t->top[i]->logprob };
    r->tokens[r->n_tokens++] =
        (struct gm_answer_token){ t->id, t->has_logprob, t->has_logprob ? t->logprob : 0.0f,
                                  (uint32_t)t->n_top, top };
    return true;
}

/* ---- what comes of a turn ---------------------------------------------------------------------
 */

static bool begin_run(struct gm_run *r);

static void note_time(struct gm_run *r, size_t n)
{
    struct gm_gateway *g = r->job->g;
    const int64_t now = gm_now_us();
    if (!r->first_us) {
        r->first_us = now;
        gm_histogram_add(&g->metrics.first_token, (double)(now - r->job->begun_us) / 1e6);
    } else {
        for (size_t i = 0; i < n; i++)
            gm_histogram_add(&g->metrics.gap, (double)(now - r->last_us) / 1e6 / (double)n);
    }
    r->last_us = now;
}

static bool take_tokens(struct gm_run *r, const Gm__TurnEvent *e)
{
    struct gm_job *j = r->job;
    const bool keep = j->req.sampling.logprobs >= 0 && j->req.api != 0;
    char text[GM_DETOK_BYTES_MAX];
    note_time(r, e->n_tokens);
    for (size_t i = 0; i < e->n_tokens; i++) {
        const size_t n = gm_detok_push(&r->detok, &j->g->vocab, e->tokens[i]->id, text);
        if (gm_buf_append(&r->text, text, n, NULL) != GM_OK ||
            (keep && !keep_token(r, e->tokens[i])))
            return false;
        r->n++;
    }
    j->g->metrics.generation_tokens += e->n_tokens;
    return true;
}

/* Choices of a prompt begin when the first one has its first token: its rows are there by then. */
static void begin_siblings(struct gm_run *first)
{
    struct gm_job *j = first->job;
    const uint32_t prompt = first->prompt;
    for (uint32_t i = 0; j->req.n > 1 && i < j->n_runs; i++)
        if (!j->runs[i].begun && !j->runs[i].ended && !j->runs[i].again_ms &&
            j->runs[i].prompt == prompt && !begin_run(&j->runs[i]))
            return;
}

static void no_memory(struct gm_job *j)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, GM_EXHAUSTED, "no memory for an answer");
    gm_job_fail_err(j, &err);
}

static void on_event(void *ctx, const Gm__TurnEvent *e)
{
    struct gm_run *r = ctx;
    struct gm_job *j = r->job;
    if (e->started && !r->started) {
        r->started = true;
        r->prompt_tokens = e->started->prompt_tokens;
        r->cached_tokens = e->started->cached_tokens;
        j->g->metrics.prompt_tokens += r->prompt_tokens;
        j->g->metrics.cached_tokens += r->cached_tokens;
        gm_render_started(r);
    }
    if (e->n_tokens > 0) {
        if (!take_tokens(r, e)) {
            no_memory(j);
            return;
        }
        gm_render_tokens(r);
    }
    if (e->finished && !r->finish) {
        char text[GM_DETOK_BYTES_MAX];
        const size_t n = gm_detok_flush(&r->detok, text);
        (void)gm_buf_append(&r->text, text, n, NULL);
        r->finish = strcmp(e->finished->reason, "stop") == 0 ? "stop" : "length";
    }
    if (e->n_tokens > 0)
        begin_siblings(r);
}

static void run_over(struct gm_run *r)
{
    struct gm_job *j = r->job;
    r->ended = true;
    r->follow = NULL;
    j->n_ended++;
    if (j->admitted)
        gm_admission_end(&j->g->admission, gm_now_ms());
    charge(r);
    gm_render_ended(r);
    if (j->n_ended < j->n_runs) {
        begin_siblings(r);
        return;
    }
    j->g->metrics.finished[strcmp(r->finish, "stop") == 0 ? GM_FINISH_STOP : GM_FINISH_LENGTH]++;
    gm_histogram_add(&j->g->metrics.request, (double)(gm_now_us() - j->begun_us) / 1e6);
    gm_render_done(j);
}

/* No pages, or too many turns: nothing was computed, so it may be sent again. */
static bool may_try_again(const struct gm_run *r, const struct gm_err *err)
{
    return err->status == GM_EXHAUSTED && err->retry_ms > 0 && !r->started &&
           gm_now_ms() - r->job->waiting_ms < GM_WAIT_MS;
}

static void on_end(void *ctx, const struct gm_err *err)
{
    struct gm_run *r = ctx;
    struct gm_job *j = r->job;
    r->follow = NULL;
    if (err->status == GM_OK && r->finish) {
        run_over(r);
    } else if (may_try_again(r, err)) {
        r->again_ms = gm_now_ms() + GM_AGAIN_MS;
        r->begun = false;
    } else {
        struct gm_err why = *err;
        if (why.status == GM_OK)
            gm_fail(&why, GM_INTERNAL, "the answer ended without a reason");
        j->g->metrics.finished[GM_FINISH_ERROR]++;
        gm_job_fail_err(j, &why);
    }
}

/* ---- asking for a turn ------------------------------------------------------------------------
 */

/* The other choices' noise: a function of the seed and the choice; the first has the seed's own. */
static uint64_t seed_of(const struct gm_job *j, uint32_t choice)
{
    uint64_t z = j->seed + choice * 0x9e3779b97f4a7c15ull; /* splitmix64 */
    if (choice == 0)
        return j->seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (z ^ (z >> 31)) >> 11;
}

/* What is on the stack while a StartRequest is sent. */
struct asking {
    Gm__StartRequest r;
    Gm__Sampling s;
    Gm__Bias bias[GM_BIAS_MAX], *bias_at[GM_BIAS_MAX];
    ProtobufCBinaryData stops[GM_STOPS_MAX];
    char title[GM_TITLE_BYTES_MAX + 1];
};

static void put_sampling(struct asking *a, const struct gm_request *req, uint64_t seed)
{
    const struct gm_sampling *p = &req->sampling;
    Gm__Sampling *s = &a->s;
    gm__sampling__init(s);
    s->has_temperature = s->has_top_k = s->has_top_p = s->has_min_p = s->has_repeat_penalty = 1;
    s->has_presence_penalty = s->has_frequency_penalty = s->has_seed = s->has_max_tokens = 1;
    s->has_logprobs = p->logprobs >= 0;
    s->has_ignore_eos = 1;
    s->has_rules = 1;
    s->rules = (uint32_t)p->rules;
    s->temperature = p->temperature;
    s->top_k = p->top_k;
    s->top_p = p->top_p;
    s->min_p = p->min_p;
    s->repeat_penalty = p->repeat_penalty;
    s->presence_penalty = p->presence_penalty;
    s->frequency_penalty = p->frequency_penalty;
    s->seed = seed;
    s->max_tokens = p->max_tokens;
    s->logprobs = p->logprobs;
    s->ignore_eos = p->ignore_eos;
    for (uint32_t i = 0; i < p->n_bias; i++) {
        gm__bias__init(&a->bias[i]);
        a->bias[i].id = p->bias[i].id;
        a->bias[i].value = p->bias[i].value;
        a->bias_at[i] = &a->bias[i];
    }
    s->n_bias = p->n_bias;
    s->bias = a->bias_at;
    for (uint32_t i = 0; i < p->n_stops; i++)
        a->stops[i] =
            (ProtobufCBinaryData){ p->stops[i].len, (uint8_t *)(uintptr_t)p->stops[i].bytes };
    s->n_stops = p->n_stops;
    s->stops = a->stops;
}

static void put_prompt(Gm__StartRequest *q, const struct gm_run *r)
{
    const struct gm_job *j = r->job;
    const struct gm_prompt *p = j->req.prompts ? &j->req.prompts[r->prompt] : NULL;
    q->has_raw = p != NULL;
    q->raw = p != NULL;
    if (p && p->ids) {
        q->n_ids = p->n_ids;
        q->ids = p->ids;
        return;
    }
    q->has_messages = 1;
    if (p)
        q->messages = (ProtobufCBinaryData){ p->text_len, (uint8_t *)p->text };
    else if (j->messages.len > 0)
        q->messages = (ProtobufCBinaryData){ j->messages.len, (uint8_t *)j->messages.data };
    else
        q->messages = (ProtobufCBinaryData){ j->req.messages_len, (uint8_t *)j->req.messages };
}

/* False: it failed, and the job is gone. */
static bool begin_run(struct gm_run *r)
{
    static struct asking a; /* the loop's thread alone comes here, and nothing below comes back */
    struct gm_job *j = r->job;
    struct gm_gateway *g = j->g;
    struct gm_err err = GM_ERR_NONE;
    const struct gm_follow_to to = { on_event, on_end, r, 0, j->trace };
    gm__start_request__init(&a.r);
    a.r.turn = r->turn;
    a.r.tenant = j->tenant;
    a.r.session = r->session;
    put_prompt(&a.r, r);
    if (j->req.session[0] && (a.r.title.len = gm_request_title(&j->req, a.title)) > 0) {
        a.r.has_title = 1;
        a.r.title.data = (uint8_t *)a.title;
    }
    put_sampling(&a, &j->req, seed_of(j, r->choice));
    a.r.sampling = &a.s;
    a.r.has_ephemeral = a.r.has_patience_ms = 1;
    a.r.ephemeral = !j->req.session[0];
    a.r.patience_ms = GM_PATIENCE_MS;
    r->begun = true;
    r->again_ms = 0;
    r->follow = gm_follow_start(g->follows, &to, &a.r, &err);
    if (r->follow)
        return true;
    gm_job_fail_err(j, &err);
    return false;
}

/* ---- room -------------------------------------------------------------------------------------
 */

/* Begins each prompt's first choice; the job may be gone after it. */
void gm_turns_start(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    if (j->waiting)
        g->admission.waiting -= j->n_runs;
    j->waiting = false;
    j->admitted = true;
    gm_admission_run(&g->admission, j->n_runs);
    for (uint32_t i = 0; i < j->n_runs; i++)
        if (j->runs[i].choice == 0 && !begin_run(&j->runs[i]))
            return;
}

static void begin_admitted(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    struct gm_problem why;
    long retry_s = 1;
    memset(&why, 0, sizeof why);
    if (j->x && j->n_runs == 1)
        gm_exchange_set(j->x, "X-Session-Id", j->runs[0].session);
    switch (gm_admission_ask(&g->admission, j->n_runs, gm_now_ms(), &retry_s)) {
    case GM_ADMIT_RUN:
        gm_turns_start(j);
        break;
    case GM_ADMIT_WAIT:
        j->waiting = true;
        g->admission.waiting += j->n_runs;
        break;
    default:
        gm_problem_set(&why, 429, "rate_limit_exceeded", NULL,
                       "%u requests run and %u wait: the server has no room for more; try again "
                       "in %ld s",
                       g->admission.running, g->admission.waiting, retry_s);
        why.retry_s = retry_s;
        gm_job_fail(j, &why);
    }
}

/* Turns that found no pages are sent again. False: that failed, and the job is gone. */
static bool try_again(struct gm_job *j, int64_t now)
{
    for (uint32_t i = 0; j->admitted && i < j->n_runs; i++)
        if (j->runs[i].again_ms > 0 && now >= j->runs[i].again_ms && !begin_run(&j->runs[i]))
            return false;
    return true;
}

/* Waiting jobs begin when there is room, oldest first; those who waited too long are told. */
void gm_turns_tick(struct gm_gateway *g)
{
    const int64_t now = gm_now_ms();
    for (struct gm_job *j = g->jobs, *next; j; j = next) {
        struct gm_problem why;
        next = j->next;
        if (!try_again(j, now) || !j->waiting)
            continue;
        if (gm_admission_room(&g->admission, j->n_runs)) {
            gm_turns_start(j);
        } else if (now - j->waiting_ms > GM_WAIT_MS) {
            memset(&why, 0, sizeof why);
            gm_problem_set(&why, 429, "rate_limit_exceeded", NULL,
                           "no room came free in %d s; try again", GM_WAIT_MS / 1000);
            why.retry_s = 1;
            gm_job_fail(j, &why);
        } else {
            break; /* the next ones stand behind it */
        }
    }
}

bool gm_turns_wait(const struct gm_gateway *g)
{
    for (const struct gm_job *j = g->jobs; j; j = j->next) {
        if (j->waiting)
            return true;
        for (uint32_t i = 0; j->admitted && i < j->n_runs; i++)
            if (j->runs[i].again_ms > 0)
                return true;
    }
    return false;
}

/* ---- the same request again -------------------------------------------------------------------
 */

/* What names the turns of an Idempotency-Key: 32 hex digits of its hash with the tenant. */
void gm_turns_hash(char out[GM_HASH_HEX], const char *tenant, const void *bytes, size_t n)
{
    uint8_t hash[HASH_BYTES];
    crypto_generichash_state s;
    crypto_generichash_init(&s, NULL, 0, sizeof hash);
    crypto_generichash_update(&s, (const uint8_t *)tenant, strlen(tenant) + 1);
    crypto_generichash_update(&s, bytes, n);
    crypto_generichash_final(&s, hash, sizeof hash);
    sodium_bin2hex(out, GM_HASH_HEX, hash, sizeof hash);
}

/* The key's first body, or this one when it is the first: {seed, hash of the body}. */
static void on_idempotency(struct gm_job *j, const struct redisReply *r, const struct gm_err *err)
{
    struct gm_problem why;
    const char *colon = r && r->type == REDIS_REPLY_STRING ? strchr(r->str, ':') : NULL;
    memset(&why, 0, sizeof why);
    if (!r) {
        gm_job_fail_err(j, err);
        return;
    }
    if (!colon || strcmp(colon + 1, j->body_hash) != 0) {
        gm_problem_set(&why, 422, "idempotency_key_reused", NULL,
                       "this Idempotency-Key was used with another body; use a new key");
        gm_job_fail(j, &why);
        return;
    }
    j->seed = strtoull(r->str, NULL, 10);
    for (uint32_t i = 0; i < j->n_runs; i++) {
        struct gm_run *run = &j->runs[i];
        snprintf(run->turn, sizeof run->turn, "i-%s-%u", j->idempotency, i);
        if (!j->req.session[0])
            snprintf(run->session, sizeof run->session, "i-%s-%u", j->idempotency, i);
    }
    snprintf(j->id + strcspn(j->id, "-_") + 1, GM_ID_BYTES, "%s", j->idempotency);
    begin_admitted(j);
}

static void ask_idempotency(struct gm_job *j, const char *key)
{
    static const char SCRIPT[] = "redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])\n"
                                 "return redis.call('GET', KEYS[1])\n";
    char name[192], value[96], ttl[16];
    gm_turns_hash(j->idempotency, j->tenant, key, strlen(key));
    snprintf(name, sizeof name, "gm:idem:{%s}:%s", j->tenant, j->idempotency);
    snprintf(value, sizeof value, "%llu:%s", (unsigned long long)j->seed, j->body_hash);
    snprintf(ttl, sizeof ttl, "%d", IDEMPOTENCY_TTL_S);
    const char *argv[] = { "EVAL", SCRIPT, "1", name, value, ttl };
    const size_t lens[] = { 4, sizeof SCRIPT - 1, 1, strlen(name), strlen(value), strlen(ttl) };
    j->kept = true;
    (void)gm_job_redis(j, on_idempotency, 6, argv, lens);
}

/* ---- a request --------------------------------------------------------------------------------
 */

static bool make_runs(struct gm_job *j)
{
    const uint32_t prompts = j->req.n_prompts > 0 ? (uint32_t)j->req.n_prompts : 1;
    const uint32_t n = (uint32_t)j->req.n;
    j->n_runs = prompts * n;
    j->runs = calloc(j->n_runs, sizeof *j->runs);
    if (!j->runs) {
        j->n_runs = 0;
        return false;
    }
    for (uint32_t i = 0; i < j->n_runs; i++) {
        struct gm_run *r = &j->runs[i];
        *r = (struct gm_run){ .job = j, .index = i, .prompt = i / n, .choice = i % n };
        r->text = GM_BUF(ANSWER_BYTES_MAX);
        gm_random_id(r->turn, GM_ID_DIGITS);
        /* a session of one turn has the turn's name, by which it can be picked up */
        snprintf(r->session, sizeof r->session, "%.64s",
                 j->req.session[0] ? j->req.session : r->turn);
    }
    return true;
}

void gm_turns_admit(struct gm_job *j)
{
    const char *key = j->x ? gm_exchange_header(j->x, "Idempotency-Key") : NULL;
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    j->waiting_ms = gm_now_ms();
    if (key && (!key[0] || strlen(key) > IDEMPOTENCY_MAX)) {
        gm_problem_set(&why, 400, "invalid_value", "Idempotency-Key",
                       "an Idempotency-Key has 1 to %d bytes", IDEMPOTENCY_MAX);
        gm_job_fail(j, &why);
    } else if (key) {
        ask_idempotency(j, key);
    } else {
        begin_admitted(j);
    }
}

/* The session may stand in a header. */
static bool take_session(struct gm_job *j, struct gm_problem *why)
{
    const char *id = gm_exchange_header(j->x, "X-Session-Id");
    if (id && !gm_request_id_ok(id, strlen(id)))
        return gm_problem_set(why, 400, "invalid_value", "X-Session-Id",
                              "a session's id has 1 to 64 of A-Z a-z 0-9 . _ -");
    if (id && !j->req.session[0])
        snprintf(j->req.session, sizeof j->req.session, "%s", id);
    if (j->req.session[0] && (j->req.n > 1 || j->req.n_prompts > 1))
        return gm_problem_set(why, 400, "invalid_value", j->req.n > 1 ? "n" : "prompt",
                              "a session goes on with one answer; leave out n, or the session");
    return true;
}

void gm_turns_begin(struct gm_job *j)
{
    static const char *const prefix[] = { "chatcmpl-", "cmpl-", "resp_" };
    const int kind = j->req.api == GM_API_CHAT ? 0 : j->req.api == GM_API_COMPLETION ? 1 : 2;
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    snprintf(j->id, sizeof j->id, "%s", prefix[kind]);
    gm_random_id(j->id + strlen(j->id), GM_ID_DIGITS);
    j->seed = j->req.has_seed ? j->req.sampling.seed : gm_random_u64() >> 11;
    if (!take_session(j, &why)) {
        gm_job_fail(j, &why);
        return;
    }
    if (!make_runs(j)) {
        no_memory(j);
        return;
    }
    if (kind == 2)
        gm_response_begin(j);
    else if (kind == 1)
        gm_echo_begin(j);
    else
        gm_turns_admit(j);
}

void gm_turns_pick_up(struct gm_job *j, const char *session, uint32_t from)
{
    struct gm_gateway *g = j->g;
    struct gm_err err = GM_ERR_NONE;
    Gm__ResumeRequest r = GM__RESUME_REQUEST__INIT;
    j->req.api = GM_API_CHAT;
    j->req.stream = true;
    j->req.n = 1;
    j->req.sampling.logprobs = -1;
    snprintf(j->req.session, sizeof j->req.session, "%s", session);
    snprintf(j->id, sizeof j->id, "chatcmpl-%s", session);
    j->kept = true; /* another reader may come: the turn is not this one's to end */
    if (!make_runs(j)) {
        no_memory(j);
        return;
    }
    struct gm_run *run = &j->runs[0];
    const struct gm_follow_to to = { on_event, on_end, run, 0, j->trace };
    r.turn = (char *)"";
    r.from = from;
    r.tenant = j->tenant;
    r.session = j->req.session;
    run->begun = true;
    run->n = from; /* ids of events go on counting */
    run->follow = gm_follow_resume(g->follows, &to, &r, NULL, &err);
    if (!run->follow)
        gm_job_fail_err(j, &err);
}
