// uses: services/gateway/metrics.c services/gateway/answer_put.c
// libs: -ljansson
/* test_metrics.c - the text of the metrics under the rules of Prometheus's own checker: HELP and
 * TYPE before samples, one block per metric, no sample twice, histograms that add up, labels
 * escaped, and a dashboard that names only metrics that exist.
 *
 * Owns:      the checks of services/gateway/metrics.c and of docs/grafana.json.
 * Does not:  need Prometheus.
 */
#include "services/gateway/metrics.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEEN_MAX = 1024, LINE_MAX_BYTES = 512, NAME_MAX_BYTES = 128 };

/* What a reader knows after each line. */
struct reader {
    char name[NAME_MAX_BYTES], type[16]; /* the metric that TYPE opened last */
    bool help;                           /* HELP came and TYPE has not */
    char done[SEEN_MAX][NAME_MAX_BYTES]; /* metrics opened */
    unsigned n_done;
    char samples[SEEN_MAX][LINE_MAX_BYTES]; /* name and labels of every sample */
    double values[SEEN_MAX];
    unsigned n_samples;
    double bound, count, total; /* of the histogram being read */
    unsigned wrong;
};
static struct reader seen;

static void wrong(const char *why, const char *line)
{
    printf("\n%s: %s\n", why, line);
    seen.wrong++;
}

static void read_comment(const char *line)
{
    char kind[8], name[NAME_MAX_BYTES], rest[LINE_MAX_BYTES];
    if (sscanf(line, "# %7s %127s %511[^\n]", kind, name, rest) != 3) {
        wrong("an odd comment", line);
        return;
    }
    if (strcmp(kind, "HELP") == 0) {
        for (unsigned i = 0; i < seen.n_done; i++)
            if (strcmp(seen.done[i], name) == 0)
                wrong("a metric in two places", line);
        if (rest[strlen(rest) - 1] != '.')
            wrong("the help is no sentence", line);
        seen.help = true;
        snprintf(seen.done[seen.n_done++], NAME_MAX_BYTES, "%s", name);
        return;
    }
    if (strcmp(kind, "TYPE") != 0 || !seen.help || strcmp(seen.done[seen.n_done - 1], name) != 0)
        wrong("TYPE without its HELP", line);
    if (strcmp(rest, "counter") != 0 && strcmp(rest, "gauge") != 0 &&
        strcmp(rest, "histogram") != 0)
        wrong("an unknown type", line);
    const size_t n = strlen(name);
    const bool total = n > 6 && strcmp(name + n - 6, "_total") == 0;
    if (total != (strcmp(rest, "counter") == 0))
        wrong("counters and only they end in _total", line);
    snprintf(seen.name, sizeof seen.name, "%s", name);
    snprintf(seen.type, sizeof seen.type, "%.15s", rest);
    seen.help = false;
    seen.bound = seen.count = -INFINITY;
    seen.total = -1;
}

/* Steps over name="value",...}; NULL when it is wrong. */
static const char *labels_end(const char *p)
{
    while (*p != '}') {
        const char *name = p;
        while (isalnum((unsigned char)*p) || *p == '_')
            p++;
        if (p == name || p[0] != '=' || p[1] != '"')
            return NULL;
        for (p += 2; *p != '"'; p++) {
            if (*p == '\0' || (*p == '\\' && !strchr("\\\"n", p[1])))
                return NULL;
            p += *p == '\\';
        }
        p++;
        if (*p == ',')
            p++;
        else if (*p != '}')
            return NULL;
    }
    return p + 1;
}

static void read_histogram(const char *line, const char *suffix, double value)
{
    const char *le = strstr(line, "le=\"");
    if (strncmp(suffix, "_bucket{", 8) == 0 && le) {
        const double bound = strtod(le + 4, NULL); /* reads +Inf too */
        if (!(bound > seen.bound) || value < seen.count)
            wrong("buckets ascend and are cumulative", line);
        seen.bound = bound;
        seen.count = value;
    } else if (strncmp(suffix, "_sum ", 5) == 0) {
        if (!isinf(seen.bound) || seen.bound < 0)
            wrong("no bucket +Inf", line);
    } else if (strncmp(suffix, "_count ", 7) == 0) {
        seen.total = value;
        if (value != seen.count)
            wrong("the count is not that of +Inf", line);
    } else {
        wrong("no part of a histogram", line);
    }
}

static void read_sample(const char *line)
{
    const size_t n = strlen(seen.name);
    const bool histogram = strcmp(seen.type, "histogram") == 0;
    const char *end = line + strcspn(line, "{ ");
    if (seen.help || strncmp(line, seen.name, n) != 0 || (!histogram && end != line + n)) {
        wrong("a sample outside its metric", line);
        return;
    }
    if (*end == '{')
        end = labels_end(end + 1);
    if (!end || *end != ' ') {
        wrong("odd labels", line);
        return;
    }
    char *rest;
    const double value = strtod(end + 1, &rest);
    if (*rest != '\0' || rest == end + 1 || (strcmp(seen.type, "gauge") != 0 && !(value >= 0)))
        wrong("an odd value", line);
    if (histogram)
        read_histogram(line, line + n, value);
    char *key = seen.samples[seen.n_samples];
    snprintf(key, LINE_MAX_BYTES, "%.*s", (int)(end - line), line);
    for (unsigned i = 0; i < seen.n_samples; i++)
        if (strcmp(seen.samples[i], key) == 0)
            wrong("a sample twice", line);
    seen.values[seen.n_samples++] = value;
}

/* Writes the metrics and reads all of it; the text ends with a line feed. */
static void read_all(const struct gm_metrics *m)
{
    struct gm_buf b = GM_BUF(GM_METRICS_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    memset(&seen, 0, sizeof seen);
    CU_ASSERT_EQUAL_FATAL(gm_metrics_write(m, &b, &err), GM_OK);
    CU_ASSERT_EQUAL(b.data[b.len - 1], '\n');
    CU_ASSERT_EQUAL(gm_utf8_bad(b.data, b.len), b.len);
    for (char *line = b.data, *end; *line; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        CU_ASSERT_FATAL(seen.n_samples < SEEN_MAX && seen.n_done < SEEN_MAX);
        if (line[0] == '#')
            read_comment(line);
        else
            read_sample(line);
    }
    CU_ASSERT_EQUAL(seen.wrong, 0);
    gm_buf_free(&b);
}

static void is_value(const char *sample, double want)
{
    for (unsigned i = 0; i < seen.n_samples; i++)
        if (strcmp(seen.samples[i], sample) == 0) {
            if (fabs(seen.values[i] - want) > 1e-9)
                printf("\n%s is %g, not %g\n", sample, seen.values[i], want);
            CU_ASSERT(fabs(seen.values[i] - want) <= 1e-9);
            return;
        }
    printf("\nno sample %s\n", sample);
    CU_FAIL("a sample is missing");
}

/* ---- tests ----------------------------------------------------------------------------------- */

static struct gm_metrics m;

static void fill(void)
{
    gm_metrics_init(&m);
    m.model = "gemma3-270m";
    m.version = "1.0";
    m.finished[GM_FINISH_STOP] = 3;
    m.refused[GM_REFUSAL_QUEUE] = 7;
    m.prompt_tokens = 1000;
    m.cached_tokens = 250;
    m.generation_tokens = UINT64_C(123456789012);
    m.running = 2;
    m.n_shards = 2;
    for (uint32_t i = 0; i < 2; i++)
        m.shards[i] = (struct gm_metrics_shard){ .index = i,
                                                 .busy_us = 1500000 * (i + 1),
                                                 .busy_ratio = 0.25,
                                                 .pages_total = 100,
                                                 .pages_free = 25 };
    gm_metrics_http(&m, "/v1/chat/completions", 200);
    gm_metrics_http(&m, "/v1/chat/completions", 200);
    gm_metrics_http(&m, "/v1/chat/completions", 429);
    gm_histogram_add(&m.first_token, 0.03);
    gm_histogram_add(&m.first_token, 0.04);
    gm_histogram_add(&m.first_token, 1000);
}

static void test_text(void)
{
    fill();
    read_all(&m);
    is_value("gemline:info{model_name=\"gemma3-270m\",version=\"1.0\"}", 1);
    is_value("gemline:request_success_total{finished_reason=\"stop\"}", 3);
    is_value("gemline:request_success_total{finished_reason=\"error\"}", 0);
    is_value("gemline:requests_refused_total{reason=\"queue\"}", 7);
    is_value("gemline:generation_tokens_total", 123456789012.0);
    is_value("gemline:prefix_cache_queries_total", 1000);
    is_value("gemline:prefix_cache_hits_total", 250);
    is_value("gemline:num_requests_running", 2);
    is_value("gemline:http_requests_total{route=\"/v1/chat/completions\",code=\"200\"}", 2);
    is_value("gemline:http_requests_total{route=\"/v1/chat/completions\",code=\"429\"}", 1);
    is_value("gemline:kv_cache_usage_perc{shard=\"1\"}", 0.75);
    is_value("gemline:shard_busy_seconds_total{shard=\"1\"}", 3);
    is_value("gemline:shard_busy_ratio{shard=\"0\"}", 0.25);
    is_value("gemline:time_to_first_token_seconds_bucket{le=\"0.02\"}", 0);
    is_value("gemline:time_to_first_token_seconds_bucket{le=\"0.04\"}", 2);
    is_value("gemline:time_to_first_token_seconds_bucket{le=\"80\"}", 2);
    is_value("gemline:time_to_first_token_seconds_bucket{le=\"+Inf\"}", 3);
    is_value("gemline:time_to_first_token_seconds_count", 3);
    is_value("gemline:time_to_first_token_seconds_sum", 1000.07);
    is_value("gemline:inter_token_latency_seconds_count", 0);
}

static void test_histogram(void)
{
    static struct gm_histogram h;
    static const double odd[] = { -1, NAN, INFINITY, -INFINITY, 0, 1e-9 };
    for (int kind = GM_HISTOGRAM_FIRST; kind <= GM_HISTOGRAM_REQUEST; kind++) {
        gm_histogram_init(&h, (enum gm_histogram_kind)kind);
        CU_ASSERT(h.n > 10 && h.n <= GM_METRICS_BUCKETS_MAX);
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
            gm_histogram_add(&h, odd[i]);
        CU_ASSERT_EQUAL(h.counts[0], sizeof odd / sizeof *odd);
        for (uint32_t i = 0; i < h.n; i++) {
            CU_ASSERT(i == 0 || h.bounds[i] > h.bounds[i - 1]);
            gm_histogram_add(&h, h.bounds[i]); /* a bound belongs to its own bucket */
            CU_ASSERT_EQUAL(h.counts[i], i ? 1 : 1 + sizeof odd / sizeof *odd);
        }
        gm_histogram_add(&h, h.bounds[h.n - 1] * 2);
        CU_ASSERT_EQUAL(h.counts[h.n], 1);
        CU_ASSERT(isfinite(h.sum));
    }
}

static void test_hostile(void)
{
    char name[32];
    fill();
    m.model = "a\"b\\c\nd\xff\xE2\x82";
    gm_metrics_http(&m, "x\"} 1\ngemline:fake 2", 200);
    read_all(&m);
    is_value("gemline:info{model_name=\"a\\\"b\\\\c\\nd???\",version=\"1.0\"}", 1);
    is_value("gemline:http_requests_total{route=\"x\\\"} 1\\ngemline:fake 2\",code=\"200\"}", 1);
    memset(m.shards, 0xff, sizeof m.shards); /* numbers that mean nothing */
    m.n_shards = UINT32_MAX;
    for (uint32_t i = 0; i < GM_METRICS_SHARDS_MAX; i++) {
        m.shards[i].index = UINT32_MAX - i;
        m.shards[i].pages_total = 0;
    }
    for (int i = 0; i < 2 * GM_METRICS_HTTP_MAX; i++) {
        snprintf(name, sizeof name, "/r%d", i);
        gm_metrics_http(&m, name, i);
    }
    memset(name, 'x', sizeof name - 1);
    CU_ASSERT_EQUAL(m.n_http, GM_METRICS_HTTP_MAX);
    read_all(&m);
    is_value("gemline:http_requests_total{route=\"other\",code=\"other\"}",
             2 * GM_METRICS_HTTP_MAX + 3 - GM_METRICS_HTTP_MAX);
    /* a name longer than is kept is one name, however often it comes */
    static char longest[2 * GM_METRICS_LABEL_MAX];
    gm_metrics_init(&m);
    memset(longest, 'y', sizeof longest - 1);
    gm_metrics_http(&m, longest, 200);
    gm_metrics_http(&m, longest, 200);
    CU_ASSERT_EQUAL(m.n_http, 1);
    read_all(&m);
}

static void test_full_buffer(void)
{
    struct gm_buf b = GM_BUF(500);
    struct gm_err err = GM_ERR_NONE;
    fill();
    gm_buf_append(&b, "abc", 3, &err);
    CU_ASSERT_EQUAL(gm_metrics_write(&m, &b, &err), GM_EXHAUSTED);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&b), "abc");
    gm_buf_free(&b);
}

/* ---- the dashboard --------------------------------------------------------------------------- */

/* True when `name` is a metric, or a histogram's part. */
static bool is_metric(const char *name)
{
    for (unsigned i = 0; i < seen.n_samples; i++) {
        const size_t n = strcspn(seen.samples[i], "{");
        if (strlen(name) == n && strncmp(seen.samples[i], name, n) == 0)
            return true;
    }
    return false;
}

static unsigned check_query(const char *query)
{
    unsigned names = 0;
    for (const char *p = strstr(query, "gemline:"); p; p = strstr(p + 8, "gemline:")) {
        char name[NAME_MAX_BYTES];
        snprintf(name, sizeof name, "%.*s",
                 (int)strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789_:"), p);
        if (!is_metric(name))
            printf("\nthe dashboard asks for %s\n", name);
        CU_ASSERT(is_metric(name));
        names++;
    }
    return names;
}

static void test_dashboard(void)
{
    size_t i, k;
    json_t *panel, *target, *j = json_load_file("docs/grafana.json", JSON_REJECT_DUPLICATES, NULL);
    CU_ASSERT_PTR_NOT_NULL_FATAL(j);
    fill();
    read_all(&m);
    CU_ASSERT(json_array_size(json_object_get(j, "panels")) >= 9);
    json_array_foreach(json_object_get(j, "panels"), i, panel)
    {
        json_t *targets = json_object_get(panel, "targets");
        CU_ASSERT(json_array_size(targets) > 0);
        CU_ASSERT(json_is_string(json_object_get(panel, "title")));
        json_array_foreach(targets, k, target)
            CU_ASSERT(check_query(json_string_value(json_object_get(target, "expr"))) > 0);
    }
    json_decref(j);
}

int main(void)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } tests[] = {
        { "the text", test_text },
        { "histograms", test_histogram },
        { "hostile names and numbers", test_hostile },
        { "a full buffer", test_full_buffer },
        { "the dashboard", test_dashboard },
    };
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("metrics", NULL, NULL);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        CU_add_test(suite, tests[i].name, tests[i].run);
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
