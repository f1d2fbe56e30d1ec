/* edge_info.c - what is served and how it goes: models, health, metrics, openapi.json, the page.
 *
 * Owns:      the answers that need no turn.
 * Does not:  know the bytes of the files (files.h) or the names of metrics (metrics.h).
 */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "services/gateway/edge.h"
#include "services/gateway/files.h"
#include "services/gateway/openapi.h"

static const char owner[] = "google";
enum {
    OPEN_FILES_EXTRA = 3, /* ".", ".." and the look itself */
    SHARD_MS = 1000,      /* a shard that says nothing for so long keeps its last figures */
};

/* ---- models -----------------------------------------------------------------------------------
 */

static struct gm_model_info model_of(const struct gm_gateway *g)
{
    return (struct gm_model_info){ .id = g->model,
                                   .created = g->started_s,
                                   .owned_by = owner,
                                   .max_model_len = g->context,
                                   .vocab = gm_vocab_n(&g->vocab),
                                   .numerics = g->numerics };
}

static void answer_models(struct gm_job *j)
{
    const struct gm_model_info model = model_of(j->g);
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    if (j->path.route == GM_ROUTE_MODEL && strcmp(j->path.id, j->g->model) != 0) {
        gm_problem_set(&why, 404, "model_not_found", "model",
                       "there is no model %.80s here; %s is served", j->path.id, j->g->model);
        gm_job_fail(j, &why);
        return;
    }
    if (j->path.route == GM_ROUTE_MODEL)
        (void)gm_answer_model(&json, &model, NULL);
    else
        (void)gm_answer_models(&json, &model, 1, NULL);
    gm_job_json(j, 200, &json);
}

/* ---- health -----------------------------------------------------------------------------------
 */

static void answer_health(struct gm_job *j)
{
    struct gm_buf json = GM_BUF(1024);
    (void)gm_buf_append_text(&json, "{\"status\":\"ok\"}", NULL);
    gm_job_json(j, 200, &json);
}

static void answer_ready(struct gm_job *j)
{
    struct gm_gateway *g = j->g;
    struct gm_buf json = GM_BUF(1024);
    const char *missing = g->draining_ms      ? "the end of this server"
                          : g->ready          ? NULL
                          : g->waiting_for[0] ? g->waiting_for
                                              : "the pipeline";
    (void)gm_buf_append_text(
        &json, missing ? "{\"status\":\"not ready\",\"waiting_for\":" : "{\"status\":\"ready\"}",
        NULL);
    if (missing) {
        (void)gm_buf_append_json(&json, missing, strlen(missing), NULL);
        (void)gm_buf_append_text(&json, "}", NULL);
        gm_exchange_set(j->x, "Retry-After", "1");
    }
    gm_job_json(j, missing ? 503 : 200, &json);
}

/* ---- metrics ----------------------------------------------------------------------------------
 */

/* Shards are asked one after the other; then the text is written. */
struct asking {
    uint32_t next;
};

static void ask_shard(struct gm_job *j);

static uint32_t open_files(void)
{
    uint32_t n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n > OPEN_FILES_EXTRA ? n - OPEN_FILES_EXTRA : 0;
}

static void fill_process(struct gm_gateway *g)
{
    struct gm_metrics *m = &g->metrics;
    struct rusage use;
    m->running = g->admission.running;
    m->waiting = g->admission.waiting;
    m->connections = (uint32_t)gm_http_connections(g->http);
    m->streams = (uint32_t)gm_http_streams(g->http);
    m->ready = g->ready;
    const struct gm_http_bytes bytes = gm_http_bytes(g->http);
    m->bytes_in = bytes.in;
    m->bytes_out = bytes.out;
    m->buffered_bytes = bytes.held;
    m->open_files = open_files();
    (void)gm_pid_rss_bytes(0, &m->rss_bytes, NULL);
    if (getrusage(RUSAGE_SELF, &use) == 0)
        m->cpu_seconds = (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                         (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void answer_metrics(struct gm_job *j)
{
    struct gm_buf text = GM_BUF(GM_METRICS_BYTES_MAX);
    fill_process(j->g);
    (void)gm_metrics_write(&j->g->metrics, &text, NULL);
    if (j->x)
        gm_exchange_reply(j->x, 200, GM_METRICS_TYPE, &text);
    gm_buf_free(&text);
    gm_job_end(j);
}

static void on_shard(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_metrics *m = &j->g->metrics;
    struct asking *a = j->own;
    const Gm__HealthReply *r = (const Gm__HealthReply *)body;
    struct gm_metrics_shard *s = &m->shards[a->next];
    const int64_t now = gm_now_us();
    (void)err;
    if (r) {
        const uint64_t busy = r->has_busy_us ? r->busy_us : 0;
        const int64_t since = j->g->shard_us[a->next] ? now - j->g->shard_us[a->next] : 0;
        const double ratio = since > 0 && busy >= s->busy_us
                                 ? (double)(busy - s->busy_us) / (double)since
                                 : s->busy_ratio;
        *s = (struct gm_metrics_shard){ .index = a->next,
                                        .busy_us = busy,
                                        .busy_ratio = ratio > 1 ? 1 : ratio,
                                        .pages_total = r->has_pages_total ? r->pages_total : 0,
                                        .pages_free = r->has_pages_free ? r->pages_free : 0,
                                        .kv_bytes_used = r->kv_bytes_used,
                                        .kv_bytes_kept = r->kv_bytes_kept,
                                        .drafted = r->drafted,
                                        .accepted = r->accepted };
        j->g->shard_us[a->next] = now;
    }
    a->next++;
    ask_shard(j);
}

static void ask_shard(struct gm_job *j)
{
    struct asking *a = j->own;
    const Gm__Empty empty = GM__EMPTY__INIT;
    if (a->next >= j->g->metrics.n_shards) {
        answer_metrics(j);
        return;
    }
    (void)gm_job_call(j, &(struct gm_job_call){ .role = "shard",
                                                .index = a->next,
                                                .method = "Health.Check",
                                                .request = &empty.base,
                                                .reply = &gm__health_reply__descriptor,
                                                .answer = on_shard,
                                                .timeout_ms = SHARD_MS });
}

static uint32_t count_shards(const struct gm_gateway *g)
{
    uint32_t n = 0;
    while (n < GM_METRICS_SHARDS_MAX && gm_net_has(g->base.net, g->run_dir, "shard", n))
        n++;
    return n;
}

static void begin_metrics(struct gm_job *j)
{
    j->g->metrics.n_shards = count_shards(j->g);
    j->own = calloc(1, sizeof(struct asking));
    j->own_free = free;
    if (j->own)
        ask_shard(j);
    else
        answer_metrics(j);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void answer_openapi(struct gm_job *j)
{
    struct gm_buf json = GM_BUF(GM_OPENAPI_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    if (gm_openapi_json(&json, &err) == GM_OK) {
        gm_job_json(j, 200, &json);
        return;
    }
    gm_buf_free(&json);
    gm_job_fail_err(j, &err);
}

static void answer_file(struct gm_job *j)
{
    const struct gm_file *f =
        gm_file_find(j->path.route == GM_ROUTE_PAGE ? "index.html" : j->path.id);
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    if (!f) {
        gm_path_unknown(j->x->target, strlen(j->x->target), &why);
        gm_job_fail(j, &why);
        return;
    }
    if (j->path.route == GM_ROUTE_PAGE)
        gm_keys_cookie(j);
    gm_exchange_set(j->x, "Content-Security-Policy", gm_page_policy);
    gm_exchange_set(j->x, "Referrer-Policy", "no-referrer");
    gm_exchange_set(j->x, "Cache-Control", "no-cache");
    gm_exchange_fixed(j->x, 200, f->type, f->bytes, f->n);
    gm_job_end(j);
}

void gm_info_begin(struct gm_job *j)
{
    switch (j->path.route) {
    case GM_ROUTE_MODELS:
    case GM_ROUTE_MODEL:
        answer_models(j);
        break;
    case GM_ROUTE_HEALTH:
        answer_health(j);
        break;
    case GM_ROUTE_READY:
        answer_ready(j);
        break;
    case GM_ROUTE_METRICS:
        begin_metrics(j);
        break;
    case GM_ROUTE_OPENAPI:
        answer_openapi(j);
        break;
    default:
        answer_file(j);
    }
}
