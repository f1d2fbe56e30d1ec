/* edge_job.c - the life of a request: made with its headers, gone with its answer.
 *
 * Owns:      struct gm_job, and calls to the pipeline and to Redis that a request waits for.
 * Does not:  know what a route does (the other edge_*.c).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

static const char json_type[] = "application/json";
enum { ERROR_BYTES = 8192 };

/* ---- made and freed ---------------------------------------------------------------------------
 */

struct gm_job *gm_job_new(struct gm_gateway *g, struct gm_exchange *x)
{
    struct gm_job *j = g->n_jobs < GM_JOBS_MAX ? calloc(1, sizeof *j) : NULL;
    if (!j)
        return NULL;
    j->g = g;
    j->x = x;
    j->serial = ++g->next_serial;
    if (gm_idmap_put(&g->serials, j->serial, j, NULL) != GM_OK) {
        free(j);
        return NULL;
    }
    j->begun_us = gm_now_us();
    j->created_s = gm_wall_ms() / 1000;
    gm_trace_child(j->trace, gm_exchange_header(x, "traceparent")); /* else a trace of its own */
    j->messages = GM_BUF(GM_BODY_BYTES_MAX);
    snprintf(j->tenant, sizeof j->tenant, "%s", GM_LOCAL_TENANT);
    j->prev = g->jobs_last;
    *(g->jobs_last ? &g->jobs_last->next : &g->jobs) = j;
    g->jobs_last = j;
    g->n_jobs++;
    return j;
}

struct gm_job *gm_job_of(struct gm_gateway *g, uint64_t serial)
{
    return gm_idmap_get(&g->serials, serial);
}

void gm_job_end(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    gm_turns_drop(j);
    if (j->x) {
        j->x->user = NULL;
        j->x->on_gone = NULL;
    }
    gm_scoring_free(j);
    if (j->own_free)
        j->own_free(j->own);
    *(j->prev ? &j->prev->next : &g->jobs) = j->next;
    *(j->next ? &j->next->prev : &g->jobs_last) = j->prev;
    gm_idmap_take(&g->serials, j->serial);
    g->n_jobs--;
    gm_request_free(&j->req);
    gm_buf_free(&j->messages);
    free(j);
}

void gm_job_gone(struct gm_job *j)
{
    if (j->x) {
        j->x->user = NULL;
        j->x->on_gone = NULL;
    }
    j->x = NULL;
    if (j->n_runs > 0 && j->n_ended < j->n_runs)
        j->g->metrics.finished[GM_FINISH_ABORT]++;
    gm_job_end(j);
}

/* ---- answers ----------------------------------------------------------------------------------
 */

void gm_job_json(struct gm_job *j, int status, struct gm_buf *json)
{
    if (j->x)
        gm_exchange_reply(j->x, status, json_type, json);
    gm_buf_free(json);
    gm_job_end(j);
}

static void count_refusal(struct gm_job *j, int http)
{
    static const struct {
        int http;
        enum gm_refusal why;
    } table[] = { { 401, GM_REFUSAL_KEY },
                  { 403, GM_REFUSAL_KEY },
                  { 408, GM_REFUSAL_TIME },
                  { 429, GM_REFUSAL_QUEUE },
                  { 503, GM_REFUSAL_UNAVAILABLE } };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].http == http) {
            j->g->metrics.refused[table[i].why]++;
            return;
        }
    if (http < 500)
        j->g->metrics.refused[GM_REFUSAL_INVALID]++;
}

void gm_job_fail(struct gm_job *j, const struct gm_problem *why)
{
    struct gm_buf body = GM_BUF(ERROR_BYTES);
    char retry[24];
    if (j->streaming) {
        gm_render_error(j, why);
        gm_job_end(j);
        return;
    }
    count_refusal(j, why->http);
    if (j->x && why->retry_s > 0) {
        snprintf(retry, sizeof retry, "%ld", why->retry_s);
        gm_exchange_set(j->x, "Retry-After", retry);
    }
    if (j->x && why->http == 401)
        gm_exchange_set(j->x, "WWW-Authenticate", "Bearer");
    const struct gm_answer_problem p = { why->http, why->type, why->param, why->code, why->text };
    (void)gm_answer_error(&body, &p, NULL);
    gm_job_json(j, why->http, &body);
}

void gm_job_fail_err(struct gm_job *j, const struct gm_err *err)
{
    struct gm_problem why;
    char id[GM_TRACE_ID_MAX];
    memset(&why, 0, sizeof why);
    gm_problem_from(&why, err);
    if (err->detail == GM_DETAIL_CONTEXT)
        snprintf(why.code, sizeof why.code, "context_length_exceeded");
    if (why.http >= 500)
        gm_warn("request failed: %s status=%s trace=%s", err->text, gm_status_name(err->status),
                gm_trace_id(id, j->trace));
    gm_job_fail(j, &why);
}

/* ---- waiting for others -----------------------------------------------------------------------
 */

struct waiting {
    struct gm_gateway *g;
    uint64_t serial;
    union {
        gm_job_answer *answer;
        gm_job_reply *reply;
    } to;
};

static struct waiting *wait_new(struct gm_job *j)
{
    struct waiting *w = malloc(sizeof *w);
    struct gm_err err = GM_ERR_NONE;
    if (w) {
        *w = (struct waiting){ .g = j->g, .serial = j->serial };
        return w;
    }
    gm_fail(&err, GM_EXHAUSTED, "no memory for a call");
    gm_job_fail_err(j, &err);
    return NULL;
}

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct waiting *w = ctx;
    struct gm_job *j = gm_job_of(w->g, w->serial);
    gm_job_answer *answer = w->to.answer;
    (void)done;
    free(w);
    if (j)
        answer(j, body, err);
}

bool gm_job_call(struct gm_job *j, const struct gm_job_call *call)
{
    struct gm_gateway *g = j->g;
    struct gm_err err = GM_ERR_NONE;
    char endpoint[GM_ENDPOINT_MAX];
    struct waiting *w = wait_new(j);
    if (!w)
        return false;
    w->to.answer = call->answer;
    struct gm_peer *peer = NULL;
    if (gm_service_endpoint(&g->base, endpoint, call->role, call->index, &err) == GM_OK)
        peer = gm_bus_peer(g->base.bus, endpoint, &err);
    if (peer && gm_rpc_call_with(g->base.rpc,
                                 &(struct gm_call){ peer, call->method, call->request, call->reply,
                                                    call->timeout_ms ? call->timeout_ms : GM_ASK_MS,
                                                    0, on_answer, w },
                                 &(struct gm_call_more){ .traceparent = j->trace }, &err))
        return true;
    free(w);
    gm_job_fail_err(j, &err);
    return false;
}

static void on_reply(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct waiting *w = ctx;
    struct gm_job *j = gm_job_of(w->g, w->serial);
    gm_job_reply *fn = w->to.reply;
    free(w);
    if (j)
        fn(j, reply, err);
}

bool gm_job_redis(struct gm_job *j, gm_job_reply *reply, int argc, const char **argv,
                  const size_t *lens)
{
    struct waiting *w = wait_new(j);
    if (!w)
        return false;
    w->to.reply = reply;
    gm_store_ask(j->g->store, on_reply, w, argc, argv, lens);
    return true;
}
