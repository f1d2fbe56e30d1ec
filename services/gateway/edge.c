/* edge.c - the gateway: what it knows of the pipeline, what every request is checked for, where it
 * goes.
 *
 * Owns:      the hooks of the HTTP server, the state of the pipeline as seen from here.
 * Does not:  serve a route itself (edge_*.c).
 */
#include "services/gateway/edge.h"

#include <stdlib.h>
#include <string.h>

static const char no_job[] = "the gateway works on all the requests it may; try again in a moment";
static const char draining[] = "the server is being stopped; try again in a moment";

/* ---- the pipeline -----------------------------------------------------------------------------
 */

/* The system_fingerprint: equal ones mean equal bits. */
static void name_bits(struct gm_gateway *g)
{
    char hash[GM_HASH_HEX];
    gm_turns_hash(hash, "", g->numerics, strlen(g->numerics));
    snprintf(g->fingerprint, sizeof g->fingerprint, "fp_%.12s", hash);
}

static void on_info(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_gateway *g = ctx;
    const Gm__InfoReply *r = (const Gm__InfoReply *)body;
    (void)done;
    g->asking = false;
    if (!r) {
        g->ready = false;
        snprintf(g->waiting_for, sizeof g->waiting_for, "%.127s", err->text);
        return;
    }
    g->ready = r->ready;
    g->context = r->context;
    snprintf(g->numerics, sizeof g->numerics, "%s", r->numerics);
    name_bits(g);
    snprintf(g->waiting_for, sizeof g->waiting_for, "%.127s", r->waiting_for ? r->waiting_for : "");
    if (!g->vocab_open && r->ready && r->vocab_path[0])
        g->vocab_open = gm_vocab_open(&g->vocab, r->vocab_path, NULL) == GM_OK;
}

static void ask_info(struct gm_gateway *g)
{
    const Gm__Empty empty = GM__EMPTY__INIT;
    struct gm_peer *peer = gm_bus_peer(g->base.bus, g->orchestrator, NULL);
    g->asked_ms = gm_now_ms();
    g->asking = peer && gm_rpc_call(g->base.rpc,
                                    &(struct gm_call){ peer, "Orchestrator.Info", &empty.base,
                                                       &gm__info_reply__descriptor, GM_INFO_MS, 0,
                                                       on_info, g },
                                    NULL) != 0;
}

/* While it starts the pipeline is asked often; later now and then. */
static int64_t info_pause_ms(const struct gm_gateway *g)
{
    return g->ready ? GM_INFO_MS : GM_INFO_MS / 50;
}

enum gm_status gm_gateway_open(struct gm_gateway *g, const char *home, struct gm_err *err)
{
    g->started_s = gm_wall_ms() / 1000;
    gm_metrics_init(&g->metrics);
    g->metrics.model = g->model;
    g->metrics.start_time = (double)gm_wall_ms() / 1000.0;
    enum gm_status rc = gm_service_endpoint(&g->base, g->orchestrator, "orchestrator", 0, err);
    if (rc == GM_OK)
        rc = gm_idmap_open(&g->serials, 64, GM_JOBS_MAX, err);
    if (rc == GM_OK)
        rc = gm_follows_open(&g->follows, g->base.bus, g->base.rpc, g->orchestrator, err);
    return rc == GM_OK ? gm_keys_open(g, home, err) : rc;
}

void gm_gateway_close(struct gm_gateway *g)
{
    while (g->jobs) {
        g->jobs->x = NULL;
        gm_job_end(g->jobs);
    }
    gm_keys_close(g);
    gm_follows_close(&g->follows);
    gm_idmap_close(&g->serials);
    gm_vocab_close(&g->vocab);
}

void gm_gateway_tick(struct gm_gateway *g)
{
    if (!g->asking && gm_now_ms() - g->asked_ms >= info_pause_ms(g))
        ask_info(g);
    g->store_ms = gm_store_tick(g->store);
    gm_keys_tick(g);
    gm_turns_tick(g);
    g->follow_ms = gm_follows_tick(g->follows);
}

int gm_gateway_next_ms(struct gm_gateway *g)
{
    const int follow = g->follow_ms;
    int64_t ms = g->asked_ms + info_pause_ms(g) - gm_now_ms();
    const int64_t keys = gm_keys_next_ms(g);
    ms = keys < ms ? keys : ms;
    if (ms < 1)
        ms = 1;
    if (gm_turns_wait(g) && ms > GM_AGAIN_MS)
        ms = GM_AGAIN_MS;
    if (g->store_ms >= 0 && g->store_ms < ms)
        ms = g->store_ms;
    return follow >= 0 && follow < ms ? follow : (int)ms;
}

void gm_gateway_health(void *self, Gm__HealthReply *h)
{
    struct gm_gateway *g = self;
    h->state = (char *)(g->draining_ms ? "draining" : g->http ? "ready" : "starting");
    h->has_sessions = 1;
    h->sessions = (uint32_t)g->admission.running;
}

/* ---- a request's headers ----------------------------------------------------------------------
 */

static void on_gone(void *user)
{
    gm_job_gone(user);
}

/* An answer to a page of a listed origin says that it may read it. */
static void allow_origin(struct gm_exchange *x, const char *origin)
{
    gm_exchange_set(x, "Access-Control-Allow-Origin", origin);
    gm_exchange_set(x, "Access-Control-Expose-Headers", "X-Request-Id, X-Session-Id, Retry-After");
    gm_exchange_set(x, "Vary", "Origin");
}

static void answer_preflight(struct gm_job *j, const char *allow)
{
    gm_exchange_set(j->x, "Access-Control-Allow-Methods", allow);
    gm_exchange_set(j->x, "Access-Control-Allow-Headers",
                    "authorization, content-type, idempotency-key, x-session-id, x-request-id");
    gm_exchange_set(j->x, "Access-Control-Max-Age", "600");
    gm_exchange_fixed(j->x, 204, "text/plain", "", 0);
    gm_job_end(j);
}

/* The page's origin, the host, the path: true when the request may go on. */
static bool guard(struct gm_job *j, struct gm_problem *why)
{
    struct gm_gateway *g = j->g;
    struct gm_exchange *x = j->x;
    const struct gm_guard rules = { g->address, g->local, g->origins };
    const struct gm_guarded said = { gm_exchange_header(x, "Host"), gm_exchange_header(x, "Origin"),
                                     gm_exchange_header(x, "Sec-Fetch-Site") };
    bool listed = false;
    const char *refused = gm_guard_check(&rules, &said, &listed);
    if (refused)
        return gm_problem_set(why, 403, "forbidden_origin", NULL, "%s", refused);
    if (listed)
        allow_origin(x, said.origin);
    const bool found = gm_path_find(x->method, x->target, strlen(x->target), &j->path, why);
    x->label = found ? j->path.row->pattern : "none";
    if (found)
        return true;
    if (why->http == 405)
        gm_exchange_set(x, "Allow", j->path.allow);
    return false;
}

static void check(void *self, struct gm_exchange *x)
{
    struct gm_gateway *g = self;
    struct gm_problem why;
    struct gm_job *j = gm_job_new(g, x);
    memset(&why, 0, sizeof why);
    if (!j) {
        struct gm_buf body = GM_BUF(1024);
        const struct gm_answer_problem p = { 503, NULL, NULL, "overloaded", no_job };
        (void)gm_answer_error(&body, &p, NULL);
        gm_exchange_set(x, "Retry-After", "1");
        gm_exchange_reply(x, 503, "application/json", &body);
        return;
    }
    x->user = j;
    x->on_gone = on_gone;
    x->label = "none";
    const bool good = guard(j, &why);
    if (!good && why.http == 405 && strcmp(x->method, "OPTIONS") == 0 && x->headers[0] &&
        gm_exchange_header(x, "Access-Control-Request-Method")) {
        answer_preflight(j, j->path.allow);
    } else if (good && g->draining_ms && j->path.row->scope != GM_SCOPE_NONE) {
        gm_problem_set(&why, 503, "draining", NULL, "%s", draining);
        why.retry_s = 1;
        gm_job_fail(j, &why);
    } else if (!good) {
        gm_job_fail(j, &why);
    }
}

/* ---- a whole request --------------------------------------------------------------------------
 */

static void parse_and_begin(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    struct gm_request_limits limits;
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    gm_request_limits_default(&limits);
    limits.vocab = g->vocab_open ? (int32_t)gm_vocab_n(&g->vocab) : 0;
    if (!gm_request_parse(&j->req, j->path.row->api, gm_buf_text(&j->x->body), j->x->body.len,
                          &limits, &why)) {
        gm_job_fail(j, &why);
        return;
    }
    gm_turns_hash(j->body_hash, j->tenant, gm_buf_text(&j->x->body), j->x->body.len);
    gm_buf_free(&j->x->body);
    if (j->req.model[0] && strcmp(j->req.model, g->model) != 0) {
        gm_problem_set(&why, 404, "model_not_found", "model",
                       "there is no model %.80s here; %s is served", j->req.model, g->model);
        gm_job_fail(j, &why);
        return;
    }
    switch (j->path.row->api) {
    case GM_API_SCORE:
        gm_score_begin(j);
        break;
    case GM_API_TOKENIZE:
        gm_tokenize_begin(j);
        break;
    case GM_API_DETOKENIZE:
        gm_detokenize_begin(j);
        break;
    default:
        gm_turns_begin(j);
    }
}

/* The tenant is known. */
static void dispatch(struct gm_job *j)
{
    if (j->path.row->api) {
        parse_and_begin(j);
        return;
    }
    switch (j->path.route) {
    case GM_ROUTE_RESPONSE_GET:
        gm_response_get(j);
        break;
    case GM_ROUTE_RESPONSE_DELETE:
        gm_response_delete(j);
        break;
    case GM_ROUTE_SESSIONS:
    case GM_ROUTE_SESSION_GET:
    case GM_ROUTE_SESSION_DELETE:
    case GM_ROUTE_SESSION_UNDO:
    case GM_ROUTE_SESSION_STREAM:
        gm_sessions_begin(j);
        break;
    default:
        gm_info_begin(j);
    }
}

static void handle(void *self, struct gm_exchange *x)
{
    (void)self;
    if (x->user)
        gm_keys_check(x->user, dispatch);
}

static void done(void *self, const struct gm_exchange *x)
{
    struct gm_gateway *g = self;
    if (x->user) { /* it never got to its handler, or the client left in the middle */
        struct gm_job *j = x->user;
        gm_job_gone(j);
    }
    gm_metrics_http(&g->metrics, x->label ? x->label : "none",
                    x->status ? x->status : GM_STATUS_GONE);
    const int status = x->status ? x->status : GM_STATUS_GONE;
    gm_log(status >= GM_STATUS_GONE ? GM_LOG_INFO : GM_LOG_DEBUG,
           "request id=%s method=%s route=%s status=%d ms=%lld", x->id, x->method,
           x->label ? x->label : "none", status, (long long)(gm_now_ms() - x->begun_ms));
}

static void write_error(void *self, struct gm_buf *out, int status, const char *sentence)
{
    const struct gm_answer_problem p = { status, NULL, NULL, NULL, sentence };
    (void)self;
    (void)gm_answer_error(out, &p, NULL);
}

struct gm_http_hooks gm_gateway_hooks(struct gm_gateway *g)
{
    return (struct gm_http_hooks){
        .self = g, .check = check, .handle = handle, .done = done, .error = write_error
    };
}
