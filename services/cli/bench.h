/* bench.h - what the files of `gemline bench` share: its options, its figures, one timed turn.
 *
 * Owns:      the structs below.
 * Does not:  compare with another program (tools/bench.sh does), or judge a figure.
 */
#ifndef GM_CLI_BENCH_H
#define GM_CLI_BENCH_H

#include <stdatomic.h>

#include "services/cli/cli.h"

enum {
    GM_BENCH_FIGURES_MAX = 1024,
    GM_BENCH_CONTEXTS_MAX = 16,
    GM_BENCH_STREAMS_MAX = 64,
    GM_BENCH_PROMPT_MIN = 2, /* <bos> and one word */
};

struct gm_bench_options {
    struct gm_up_options up;
    bool json;
    const char *contexts;
    int64_t tokens;  /* of an answer */
    int64_t runs;    /* of each measurement; the median counts */
    int64_t streams; /* conversations at once */
    int64_t beside;  /* tokens of the long prompt beside them; 0: none */
};

struct gm_bench_figure {
    const char *part, *unit; /* static texts */
    char name[48];
    double value;
};
struct gm_bench {
    const struct gm_bench_options *o;
    const char *part; /* the one that runs */
    struct gm_conn *conn;
    struct gm_err late; /* a failure that is told after the figures */
    size_t n;
    struct gm_bench_figure figures[GM_BENCH_FIGURES_MAX];
};

/* Adds one figure of the part that runs. Neighbours of the same name are printed on one line.
 * GM_EXHAUSTED: the table is full. */
enum gm_status gm_bench_put(struct gm_bench *b, struct gm_err *err, double value, const char *unit,
                            const char *name, ...) __attribute__((format(printf, 5, 6)));

/* The value below which the share q (0 .. 1) of n numbers lies: the nearest rank; 0.5 is the
 * median (the mean of the middle two when n is even). Sorts `values`; n = 0 gives NAN. */
double gm_bench_quantile(double *values, size_t n, double q);

/* ---- bench_turn.c ----------------------------------------------------------------------------
 */
struct gm_bench_ask {
    uint32_t prompt_tokens;  /* <bos> counted, at least GM_BENCH_PROMPT_MIN */
    uint32_t answer_tokens;  /* at least 1 */
    const atomic_bool *stop; /* may be NULL; true ends the answer */
    atomic_uint *so_far;     /* may be NULL; tokens that have come */
};
struct gm_bench_turn {
    int64_t sent_us;    /* CLOCK_MONOTONIC, as gm_now_us */
    int64_t *at_us;     /* owned, n: when each token came */
    uint32_t n, prompt; /* tokens */
    uint32_t cached;    /* of the prompt, not computed again */
};
/* Sends a prompt of common words that no earlier one began with, greedy, without the template, end
 * tokens ignored; takes the time of each token; then removes the conversation. `turn` is to be
 * freed also after a failure. Errors: those of gm_client_turn; GM_INTERNAL when no token came. */
enum gm_status gm_bench_turn_run(struct gm_client *client, const struct gm_bench_ask *ask,
                                 struct gm_bench_turn *turn, struct gm_err *err);
void gm_bench_turn_free(struct gm_bench_turn *turn);

/* ---- the parts: each adds its figures ---------------------------------------------------------
 */
enum gm_status gm_bench_bandwidth(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_kernels(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_start(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_decode(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_prefill(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_sessions(struct gm_bench *b, struct gm_err *err);
enum gm_status gm_bench_hop(struct gm_bench *b, struct gm_err *err);

/* The next number of "0,2048,8192" from *at on, which moves behind it; false at the end.
 * GM_INVALID in err: no such list. */
bool gm_bench_context_next(const char **at, uint32_t *context, struct gm_err *err);

#endif
