/* metrics.c - counts into histograms, and all figures as Prometheus text.
 *
 * Owns:      each metric's name, help, type and labels.
 * Does not:  keep a clock or know who counts.
 * Source:    Prometheus's text format 0.0.4; metric names as in vLLM's documentation where they
 *            mean the same.
 */
#include "services/gateway/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "services/gateway/answer_put.h"

static const double first_bounds[] = { 0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5,
                                       0.75,  1,     2.5,  5,    7.5,  10,   20,   40,  80 };
static const double gap_bounds[] = { 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02,
                                     0.025, 0.05,   0.075, 0.1,    0.15, 0.2,   0.3,
                                     0.4,   0.5,    0.75,  1,      2.5,  5,     10 };
static const double request_bounds[] = { 0.05, 0.1, 0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,
                                         10,   15,  20,  30,  40,  50, 60,  120, 240, 480 };

#define COUNT(a) (sizeof(a) / sizeof(a)[0])
_Static_assert(COUNT(first_bounds) <= GM_METRICS_BUCKETS_MAX, "room for every bucket");
_Static_assert(COUNT(gap_bounds) <= GM_METRICS_BUCKETS_MAX, "room for every bucket");
_Static_assert(COUNT(request_bounds) <= GM_METRICS_BUCKETS_MAX, "room for every bucket");

void gm_histogram_init(struct gm_histogram *h, enum gm_histogram_kind kind)
{
    memset(h, 0, sizeof *h);
    h->bounds = kind == GM_HISTOGRAM_FIRST ? first_bounds
                : kind == GM_HISTOGRAM_GAP ? gap_bounds
                                           : request_bounds;
    h->n = (uint32_t)(kind == GM_HISTOGRAM_FIRST ? COUNT(first_bounds)
                      : kind == GM_HISTOGRAM_GAP ? COUNT(gap_bounds)
                                                 : COUNT(request_bounds));
}

void gm_histogram_add(struct gm_histogram *h, double seconds)
{
    const double value = seconds > 0 && isfinite(seconds) ? seconds : 0;
    uint32_t i = 0;
    while (i < h->n && value > h->bounds[i])
        i++;
    h->counts[i]++;
    h->sum += value;
}

void gm_metrics_init(struct gm_metrics *m)
{
    memset(m, 0, sizeof *m);
    gm_histogram_init(&m->first_token, GM_HISTOGRAM_FIRST);
    gm_histogram_init(&m->gap, GM_HISTOGRAM_GAP);
    gm_histogram_init(&m->request, GM_HISTOGRAM_REQUEST);
}

void gm_metrics_http(struct gm_metrics *m, const char *route, int code)
{
    for (uint32_t i = 0; i < m->n_http; i++)
        if (m->http[i].code == code &&
            strncmp(m->http[i].route, route, GM_METRICS_LABEL_MAX - 1) == 0) {
            m->http[i].count++;
            return;
        }
    if (m->n_http == GM_METRICS_HTTP_MAX) {
        m->http_other++;
        return;
    }
    struct gm_metrics_http *one = &m->http[m->n_http++];
    snprintf(one->route, sizeof one->route, "%s", route);
    one->code = code;
    one->count = 1;
}

/* ---- the text -------------------------------------------------------------------------------- */

static void put_value(struct gm_put *p, double value)
{
    gm_put_digits(p, value, GM_DOUBLE_DIGITS, "NaN");
}

/* HELP and TYPE, before the first sample of a metric. */
static void put_metric(struct gm_put *p, const char *name, const char *type, const char *help)
{
    gm_put_format(p, "# HELP gemline:%s %s\n# TYPE gemline:%s %s\n", name, help, name, type);
}

/* A label's value: backslash, quote and line feed are escaped; what is no UTF-8 becomes '?'. */
static void put_label(struct gm_put *p, const char *name, const char *value)
{
    const size_t n = strnlen(value, GM_METRICS_LABEL_MAX);
    gm_put_text(p, name);
    gm_put_text(p, "=\"");
    for (size_t at = 0; at < n;) {
        const int len = gm_utf8_next(value + at, n - at, NULL);
        if (len <= 0)
            gm_put_text(p, "?");
        else if (value[at] == '\n')
            gm_put_text(p, "\\n");
        else if (value[at] == '"' || value[at] == '\\')
            gm_put_bytes(p, value[at] == '"' ? "\\\"" : "\\\\", 2);
        else
            gm_put_bytes(p, value + at, (size_t)len);
        at += len > 0 ? (size_t)len : 1;
    }
    gm_put_text(p, "\"");
}

/* One sample; label NULL: none. */
static void put_sample(struct gm_put *p, const char *name, const char *label, const char *of,
                       double value)
{
    gm_put_text(p, "gemline:");
    gm_put_text(p, name);
    if (label) {
        gm_put_text(p, "{");
        put_label(p, label, of);
        gm_put_text(p, "}");
    }
    gm_put_text(p, " ");
    put_value(p, value);
    gm_put_text(p, "\n");
}

static void put_histogram(struct gm_put *p, const char *name, const char *help,
                          const struct gm_histogram *h)
{
    char part[GM_METRICS_LABEL_MAX];
    uint64_t sum = 0;
    put_metric(p, name, "histogram", help);
    for (uint32_t i = 0; i <= h->n; i++) {
        sum += h->counts[i];
        gm_put_format(p, "gemline:%s_bucket{le=\"", name);
        if (i < h->n)
            put_value(p, h->bounds[i]);
        else
            gm_put_text(p, "+Inf");
        gm_put_text(p, "\"} ");
        put_value(p, (double)sum);
        gm_put_text(p, "\n");
    }
    snprintf(part, sizeof part, "%s_sum", name);
    put_sample(p, part, NULL, NULL, h->sum);
    snprintf(part, sizeof part, "%s_count", name);
    put_sample(p, part, NULL, NULL, (double)sum);
}

static void put_counted(struct gm_put *p, const struct gm_metrics *m)
{
    static const char *const finishes[] = {
#define FINISH_NAME(name, text) text,
        GM_FINISH_LIST(FINISH_NAME)
#undef FINISH_NAME
    };
    static const char *const refusals[] = {
#define REFUSAL_NAME(name, text) text,
        GM_REFUSAL_LIST(REFUSAL_NAME)
#undef REFUSAL_NAME
    };
    put_metric(p, "request_success_total", "counter",
               "Requests that got an answer, by how it ended.");
    for (size_t i = 0; i < GM_FINISHES; i++)
        put_sample(p, "request_success_total", "finished_reason", finishes[i],
                   (double)m->finished[i]);
    put_metric(p, "requests_refused_total", "counter", "Requests that were refused, by reason.");
    for (size_t i = 0; i < GM_REFUSALS; i++)
        put_sample(p, "requests_refused_total", "reason", refusals[i], (double)m->refused[i]);
}

/* ---- metrics of one number ------------------------------------------------------------------- */

static void put_one(struct gm_put *p, const char *name, const char *type, const char *help,
                    double value)
{
    put_metric(p, name, type, help);
    put_sample(p, name, NULL, NULL, value);
}

static void put_numbers(struct gm_put *p, const struct gm_metrics *m)
{
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        { "prompt_tokens_total", "counter", "Prompt tokens of all requests.",
          (double)m->prompt_tokens },
        { "generation_tokens_total", "counter", "Tokens that were generated.",
          (double)m->generation_tokens },
        { "prefix_cache_queries_total", "counter", "Prompt tokens looked up in the KV cache.",
          (double)m->prompt_tokens },
        { "prefix_cache_hits_total", "counter", "Prompt tokens whose KV rows were there already.",
          (double)m->cached_tokens },
        { "num_requests_running", "gauge", "Requests that are being answered.", m->running },
        { "num_requests_waiting", "gauge", "Requests that wait for their turn.", m->waiting },
        { "http_connections", "gauge", "Open connections.", m->connections },
        { "http_streams", "gauge", "Connections that receive a stream.", m->streams },
        { "http_received_bytes_total", "counter", "Bytes of request bodies read.",
          (double)m->bytes_in },
        { "http_sent_bytes_total", "counter", "Bytes of answers sent.", (double)m->bytes_out },
        { "buffered_bytes", "gauge", "Bytes of bodies and answers held in memory.",
          (double)m->buffered_bytes },
        { "ready", "gauge", "1 while requests are taken, else 0.", m->ready },
        { "process_resident_memory_bytes", "gauge", "Resident memory of the gateway.",
          (double)m->rss_bytes },
        { "process_cpu_seconds_total", "counter", "CPU time of the gateway.", m->cpu_seconds },
        { "process_open_fds", "gauge", "Open file descriptors of the gateway.", m->open_files },
        { "process_start_time_seconds", "gauge", "When the gateway started, since 1970.",
          m->start_time },
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        put_one(p, rows[i].name, rows[i].type, rows[i].help, rows[i].value);
}

static void put_info(struct gm_put *p, const struct gm_metrics *m)
{
    put_metric(p, "info", "gauge", "The model that is served and the version of the program.");
    gm_put_text(p, "gemline:info{");
    put_label(p, "model_name", m->model ? m->model : "");
    gm_put_text(p, ",");
    put_label(p, "version", m->version ? m->version : "");
    gm_put_text(p, "} 1\n");
}

static void put_http(struct gm_put *p, const struct gm_metrics *m)
{
    char code[16];
    put_metric(p, "http_requests_total", "counter", "HTTP requests, by route and status.");
    for (uint32_t i = 0; i < m->n_http && i < GM_METRICS_HTTP_MAX; i++) {
        snprintf(code, sizeof code, "%d", m->http[i].code);
        gm_put_text(p, "gemline:http_requests_total{");
        put_label(p, "route", m->http[i].route);
        gm_put_text(p, ",");
        put_label(p, "code", code);
        gm_put_text(p, "} ");
        put_value(p, (double)m->http[i].count);
        gm_put_text(p, "\n");
    }
    if (m->http_other) {
        gm_put_text(p, "gemline:http_requests_total{route=\"other\",code=\"other\"} ");
        put_value(p, (double)m->http_other);
        gm_put_text(p, "\n");
    }
}

/* ---- shards ---------------------------------------------------------------------------------- */

static double share_used(const struct gm_metrics_shard *s)
{
    if (s->pages_total == 0 || s->pages_free > s->pages_total)
        return 0;
    return (double)(s->pages_total - s->pages_free) / s->pages_total;
}

enum { SHARD_FIGURES = 9 };

static void shard_figures(const struct gm_metrics_shard *s, double out[SHARD_FIGURES])
{
    const double all[SHARD_FIGURES] = {
        share_used(s),
        s->pages_total,
        s->pages_free,
        (double)s->kv_bytes_used,
        (double)s->kv_bytes_kept,
        s->busy_ratio,
        (double)s->busy_us / 1e6,
        (double)s->drafted,
        (double)s->accepted,
    };
    memcpy(out, all, sizeof all);
}

static void put_shards(struct gm_put *p, const struct gm_metrics *m)
{
    static const struct {
        const char *name, *type, *help;
    } rows[SHARD_FIGURES] = {
        { "kv_cache_usage_perc", "gauge", "Share of the KV pages in use: 1 is all of them." },
        { "kv_cache_pages", "gauge", "KV pages." },
        { "kv_cache_pages_free", "gauge", "KV pages that are free." },
        { "kv_cache_used_bytes", "gauge", "KV bytes of running turns." },
        { "kv_cache_kept_bytes", "gauge", "KV bytes of finished turns, given back when needed." },
        { "shard_busy_ratio", "gauge", "Share of the time spent computing, since the last look." },
        { "shard_busy_seconds_total", "counter", "Time spent computing." },
        { "spec_decode_num_draft_tokens_total", "counter", "Guessed tokens computed." },
        { "spec_decode_num_accepted_tokens_total", "counter", "Guessed tokens that were right." },
    };
    const uint32_t n = m->n_shards < GM_METRICS_SHARDS_MAX ? m->n_shards : GM_METRICS_SHARDS_MAX;
    for (size_t row = 0; row < SHARD_FIGURES; row++) {
        put_metric(p, rows[row].name, rows[row].type, rows[row].help);
        for (uint32_t i = 0; i < n; i++) {
            double figures[SHARD_FIGURES];
            char label[16];
            shard_figures(&m->shards[i], figures);
            snprintf(label, sizeof label, "%u", m->shards[i].index);
            put_sample(p, rows[row].name, "shard", label, figures[row]);
        }
    }
}

enum gm_status gm_metrics_write(const struct gm_metrics *m, struct gm_buf *b, struct gm_err *err)
{
    struct gm_put p = gm_put_begin(b, err);
    put_info(&p, m);
    put_counted(&p, m);
    put_numbers(&p, m);
    put_histogram(&p, "time_to_first_token_seconds", "From a request's arrival to its first token.",
                  &m->first_token);
    put_histogram(&p, "inter_token_latency_seconds", "From a token to the next one.", &m->gap);
    put_histogram(&p, "e2e_request_latency_seconds", "From a request's arrival to its end.",
                  &m->request);
    put_http(&p, m);
    put_shards(&p, m);
    return gm_put_end(&p);
}
