/* metrics.h - the gateway's figures as Prometheus reads them: counters, gauges, histograms.
 *
 * Owns:      the names of the metrics, the buckets, and the text format 0.0.4.
 * Does not:  measure: the caller counts into plain numbers and fills the gauges before each text.
 *
 * Names follow vLLM's where vLLM has the figure, with the prefix `gemline:`.
 */
#ifndef GM_GATEWAY_METRICS_H
#define GM_GATEWAY_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum {
    GM_METRICS_BYTES_MAX = 256 << 10, /* more than any full struct gives */
    GM_METRICS_SHARDS_MAX = 64,       /* shards listed */
    GM_METRICS_BUCKETS_MAX = 24,      /* finite buckets of a histogram */
    GM_METRICS_LABEL_MAX = 64,        /* bytes of a label's value kept */
    GM_METRICS_HTTP_MAX = 256,        /* pairs of route and code; later ones count as "other" */
};

/* Seconds. bounds ascend; counts[i] is how many fell in (bounds[i-1], bounds[i]], the last one
 * how many lie above all. Made by gm_histogram_init.                                            */
struct gm_histogram {
    const double *bounds; /* static */
    uint32_t n;           /* bounds */
    uint64_t counts[GM_METRICS_BUCKETS_MAX + 1];
    double sum;
};

/* Buckets: time to first token and whole requests; gaps between tokens. */
enum gm_histogram_kind { GM_HISTOGRAM_FIRST, GM_HISTOGRAM_GAP, GM_HISTOGRAM_REQUEST };
void gm_histogram_init(struct gm_histogram *h, enum gm_histogram_kind kind);

/* Counts one value; a value below 0 or NaN counts as 0. */
void gm_histogram_add(struct gm_histogram *h, double seconds);

/* Why a request got no turn; also the value of the label `reason`. */
#define GM_REFUSAL_LIST(X)                                                                         \
    X(KEY, "key")                 /* 401, 403 */                                                   \
    X(ORIGIN, "origin")           /* a foreign page or Host */                                     \
    X(INVALID, "invalid")         /* 400, 404, 405, 413, 422, 431 */                               \
    X(RATE, "rate")               /* the key's requests or tokens */                               \
    X(QUEUE, "queue")             /* running and waiting requests at their limit */                \
    X(KV, "kv")                   /* no KV pages */                                                \
    X(CONNECTIONS, "connections") /* past the limit of connections */                              \
    X(TIME, "time")               /* 408 */                                                        \
    X(DRAINING, "draining")       /* on its way out */                                             \
    X(UNAVAILABLE, "unavailable") /* the pipeline or Redis is away */

enum gm_refusal {
#define GM_REFUSAL_ENUM(name, text) GM_REFUSAL_##name,
    GM_REFUSAL_LIST(GM_REFUSAL_ENUM)
#undef GM_REFUSAL_ENUM
        GM_REFUSALS
};

/* How a served request ended; also the value of the label `finished_reason`. */
#define GM_FINISH_LIST(X) X(STOP, "stop") X(LENGTH, "length") X(ABORT, "abort") X(ERROR, "error")

enum gm_finish {
#define GM_FINISH_ENUM(name, text) GM_FINISH_##name,
    GM_FINISH_LIST(GM_FINISH_ENUM)
#undef GM_FINISH_ENUM
        GM_FINISHES
};

struct gm_metrics_http {
    char route[GM_METRICS_LABEL_MAX];
    int code;
    uint64_t count;
};

struct gm_metrics_shard {
    uint32_t index;
    uint64_t busy_us;  /* since the shard started */
    double busy_ratio; /* 0 .. 1, since the last look */
    uint32_t pages_total, pages_free;
    uint64_t kv_bytes_used, kv_bytes_kept;
    uint64_t drafted, accepted; /* guesses */
};

struct gm_metrics {
    /* counted as things happen */
    uint64_t finished[GM_FINISHES];
    uint64_t refused[GM_REFUSALS];
    uint64_t prompt_tokens, cached_tokens, generation_tokens;
    struct gm_histogram first_token, gap, request;
    struct gm_metrics_http http[GM_METRICS_HTTP_MAX];
    uint32_t n_http;
    uint64_t http_other;
    uint64_t bytes_in, bytes_out;
    /* filled before each text */
    const char *model, *version; /* labels of gemline:info; NULL: "" */
    uint32_t running, waiting;
    uint32_t connections, streams;
    uint64_t rss_bytes, buffered_bytes;
    double start_time, cpu_seconds; /* of the process: seconds since 1970, seconds */
    uint32_t open_files;
    bool ready;
    uint32_t n_shards;
    struct gm_metrics_shard shards[GM_METRICS_SHARDS_MAX];
};

/* Zeroes it and chooses the buckets. */
void gm_metrics_init(struct gm_metrics *m);

/* Counts one answered request under its route's name (a fixed few, never a path that a client
 * chose) and HTTP status.                                                                       */
void gm_metrics_http(struct gm_metrics *m, const char *route, int code);

/* Appends the text (Content-Type GM_METRICS_TYPE). GM_EXHAUSTED: b's ceiling or memory; b then
 * holds what it held before.                                                                    */
#define GM_METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"
enum gm_status gm_metrics_write(const struct gm_metrics *m, struct gm_buf *b, struct gm_err *err);

#endif
