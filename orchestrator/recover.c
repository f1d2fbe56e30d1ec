/* recover.c - a restarted orchestrator goes on with the turns of its last life.
 *
 * Owns:      reading gm:running, the records and the journals.
 * Does not:  run the turns (turn.c, ring.c).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

enum { RETRY_MS = 300 };

/* One call reads all running turns: pairs of record and journal. What is no text under the name of
 * one is skipped, so that it keeps no other turn from going on. */
static const char RUNNING[] = "local out = {}\n"
                              "local keys = redis.pcall('SMEMBERS', 'gm:running')\n"
                              "if keys.err then return out end\n"
                              "for _, key in ipairs(keys) do\n"
                              "  local tenant, turn = string.match(key, '^([^/]+)/(.+)$')\n"
                              "  local name = tenant and 'gm:turn:{' .. tenant .. '}:' .. turn\n"
                              "  local record = name and redis.pcall('GET', name)\n"
                              "  if type(record) == 'string' then\n"
                              "    local journal = redis.pcall('GET', name .. ':out')\n"
                              "    table.insert(out, record)\n"
                              "    table.insert(out, type(journal) == 'string' and journal or '')\n"
                              "  else redis.call('SREM', 'gm:running', key) end\n"
                              "end\n"
                              "return out\n";

static bool tokens_of(struct gm_turn *t, const char *bytes, size_t n)
{
    t->tokens = calloc(n + 256, sizeof *t->tokens);
    if (!t->tokens)
        return false;
    t->tokens_cap = n + 256;
    for (size_t i = 0; i < n; i++) {
        Gm__Token *token = malloc(sizeof *token);
        if (!token)
            return false;
        gm__token__init(token);
        token->pos = (uint32_t)(t->n_prompt + i);
        memcpy(&token->id, bytes + 4 * i, 4);
        t->tokens[t->n_tokens++] = token;
    }
    t->journalled = t->n_tokens;
    return true;
}

static bool ids_known(const struct gm_orch *o, const void *bytes, size_t n)
{
    int32_t id;
    for (size_t i = 0; i < n; i++) {
        memcpy(&id, (const char *)bytes + 4 * i, 4);
        if (id < 0 || (o->roster.vocab > 0 && (uint32_t)id >= o->roster.vocab))
            return false;
    }
    return true;
}

/* Whether a record and its journal can be of a turn that this pipeline began. */
static bool sound(const struct gm_orch *o, const Gm__TurnRecord *r, const redisReply *journal)
{
    const Gm__Sampling *s = r->sampling;
    const size_t answer = journal->len / 4;
    return gm_id_ok(r->tenant) && gm_id_ok(r->session) && gm_id_ok(r->request->turn) &&
           r->n_prompt > 0 && r->n_prompt <= o->context && r->start <= r->n_prompt &&
           s->has_max_tokens && s->max_tokens > 0 && answer <= (size_t)s->max_tokens &&
           (size_t)s->max_tokens <= o->context && journal->len % 4 == 0 &&
           ids_known(o, r->prompt, r->n_prompt) && ids_known(o, journal->str, answer);
}

/* Takes the parts of the record that the turn owns from now on. */
static void revive(struct gm_orch *o, Gm__TurnRecord *r, const redisReply *journal)
{
    struct gm_err err = GM_ERR_NONE;
    char key[2 * GM_ID_MAX + 3];
    snprintf(key, sizeof key, "%s/%s", r->tenant, r->request->turn);
    if (gm_strmap_get(&o->turns, key))
        return; /* begun since this orchestrator came up */
    struct gm_turn *t = gm_turn_new(o, r->tenant, r->request->turn, &err);
    if (!t) {
        gm_log_err(GM_LOG_WARN, "a running turn was not taken up", &err);
        return;
    }
    snprintf(t->sess.id, sizeof t->sess.id, "%s", r->session);
    t->sess.created_ms = r->has_created_ms ? r->created_ms : (uint64_t)gm_wall_ms();
    t->sess.n_turns = 0;
    t->turns_before = r->has_turns ? r->turns : 0;
    t->start = r->start;
    t->n_prompt = r->n_prompt;
    t->prompt = r->prompt;
    r->prompt = NULL;
    r->n_prompt = 0;
    t->request = r->request;
    t->sampling = r->sampling;
    r->request = NULL;
    r->sampling = NULL;
    t->cached = t->n_prompt > 0 ? (uint32_t)t->n_prompt - 1 : 0;
    snprintf(t->numerics, sizeof t->numerics, "%s", r->numerics);
    if (gm_trace_ok(r->traceparent))
        memcpy(t->trace, r->traceparent, GM_TRACE_LEN);
    /* The journal has no log-probabilities: a turn that shows them is computed again from its
     * prompt. */
    const bool again = t->sampling->has_logprobs && t->sampling->logprobs >= 0;
    if (!tokens_of(t, journal->str, again ? 0 : (size_t)journal->len / 4)) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a turn");
        gm_turn_fail(t, &err);
        return;
    }
    t->granted = (uint32_t)t->n_tokens + GM_STREAM_CREDIT;
    gm_turn_ready(t);
}

static void on_running(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct gm_orch *o = ctx;
    o->recovering = false;
    if (!reply || reply->type != REDIS_REPLY_ARRAY) {
        if (reply || (err->status != GM_UNAVAILABLE && err->status != GM_EXHAUSTED)) {
            gm_log_err(GM_LOG_ERROR, "the running turns cannot be read; none is taken up", err);
            o->recovered = true;
        }
        return;
    }
    o->recovered = true;
    for (size_t i = 0; i + 1 < reply->elements; i += 2) {
        const redisReply *rec = reply->element[i];
        Gm__TurnRecord *r =
            gm__turn_record__unpack(NULL, (size_t)rec->len, (const uint8_t *)rec->str);
        if (!r || (!r->finish && !sound(o, r, reply->element[i + 1])))
            gm_log(GM_LOG_WARN, "a record among the running turns is damaged: it is left alone");
        else if (!r->finish)
            revive(o, r, reply->element[i + 1]);
        if (!r)
            continue;
        if (!r->request) /* moved into the turn: the required fields are not ours any more */
            r->request = calloc(1, sizeof *r->request), gm__start_request__init(r->request);
        if (!r->sampling)
            r->sampling = calloc(1, sizeof *r->sampling), gm__sampling__init(r->sampling);
        gm__turn_record__free_unpacked(r, NULL);
    }
    if (reply->elements > 0)
        gm_log(GM_LOG_INFO, "took up %zu running turns", reply->elements / 2);
}

void gm_orch_recover(struct gm_orch *o)
{
    const char *argv[3] = { "EVAL", RUNNING, "0" };
    const size_t lens[3] = { 4, sizeof RUNNING - 1, 1 };
    if (o->recovered || o->recovering || gm_now_ms() < o->recover_ms)
        return;
    o->recovering = true;
    o->recover_ms = gm_now_ms() + RETRY_MS;
    gm_store_ask(o->store, on_running, o, 3, argv, lens);
}
