/* bench.c - `gemline bench`: how fast this pipeline is on this machine.
 *
 * Owns:      the options, the table of parts, the two forms of the output.
 * Does not:  measure (bench_parts.c, bench_sessions.c, bench_read.c, bench_kernels.c), or
 *            compare with another program (tools/bench.sh).
 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/bench.h"

enum {
    OUT_BYTES_MAX = 1 << 20,
    TOKENS_MAX = 1 << 16,
    RUNS_MAX = 1000,
    BESIDE_MAX = 1 << 20,
    CONTEXT_SPARE = 64, /* beyond the longest prompt and its answer */
    CONTEXT_LEAST = 8192,
};

/* clang-format off */
#define INT(word, member, low, high, value, what)                                                  \
    {                                                                                              \
        .name = word, .kind = GM_OPT_INT, .at = offsetof(struct gm_bench_options, member),         \
        .min = low, .max = high, .def = value, .help = what                                        \
    }
static const struct gm_opt opts[] = {
    { .name = "json", .kind = GM_OPT_FLAG, .at = offsetof(struct gm_bench_options, json),
      .help = "one JSON object on one line" },
    { .name = "contexts", .kind = GM_OPT_TEXT, .arg = "LIST",
      .at = offsetof(struct gm_bench_options, contexts), .def = "0,2048,8192",
      .help = "decode: tokens that stand before the answer" },
    INT("tokens", tokens, 2, TOKENS_MAX, "64", "decode, sessions: tokens of an answer"),
    INT("runs", runs, 1, RUNS_MAX, "3", "of each measurement; the median counts"),
    INT("streams", streams, 1, GM_BENCH_STREAMS_MAX, "8", "sessions: conversations at once"),
    INT("beside", beside, 0, BESIDE_MAX, "0",
        "sessions: tokens of a long prompt read beside them"),
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct gm_bench_options, up),
};
/* clang-format on */

static const struct gm_program program = {
    .name = "gemline bench",
    .usage = "[bandwidth|kernels|start|decode|prefill|sessions|hop|all]... [options]",
    .about = "Measures this pipeline on this machine (all parts when none is named):\n"
             "  bandwidth  bytes a second that the threads read from memory\n"
             "  kernels    every kernel's time, and its share of what this machine can do\n"
             "  start      a pipeline of its own, from nothing to the first token\n"
             "  decode     tokens a second of one conversation\n"
             "  prefill    tokens of a prompt a second, at 512 and 2048\n"
             "  sessions   tokens a second of several conversations together\n"
             "  hop        the way of a message from process to process",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 7,
};

struct part {
    const char *name;
    bool needs_pipeline;
    enum gm_status (*run)(struct gm_bench *b, struct gm_err *err);
};
static const struct part parts[] = {
    { "bandwidth", false, gm_bench_bandwidth },
    { "kernels", false, gm_bench_kernels },
    { "start", false, gm_bench_start },
    { "decode", true, gm_bench_decode },
    { "prefill", true, gm_bench_prefill },
    { "sessions", true, gm_bench_sessions },
    { "hop", true, gm_bench_hop },
};
enum { PARTS = sizeof parts / sizeof parts[0] };

enum gm_status gm_bench_put(struct gm_bench *b, struct gm_err *err, double value, const char *unit,
                            const char *name, ...)
{
    if (b->n == GM_BENCH_FIGURES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "more than %d figures; ask for fewer at once",
                       GM_BENCH_FIGURES_MAX);
    struct gm_bench_figure *f = &b->figures[b->n++];
    va_list ap;
    va_start(ap, name);
    vsnprintf(f->name, sizeof f->name, name, ap);
    va_end(ap);
    f->part = b->part;
    f->unit = unit;
    f->value = value;
    return GM_OK;
}

static int compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gm_bench_quantile(double *values, size_t n, double q)
{
    if (n == 0)
        return (double)NAN;
    qsort(values, n, sizeof *values, compare);
    if (q == 0.5 && n % 2 == 0)
        return (values[n / 2 - 1] + values[n / 2]) / 2;
    const double rank = ceil(q * (double)n);
    const size_t at = rank < 1 ? 0 : (size_t)rank - 1;
    return values[at < n ? at : n - 1];
}

bool gm_bench_context_next(const char **at, uint32_t *context, struct gm_err *err)
{
    char number[16];
    int64_t value = 0;
    if (!**at)
        return false;
    const size_t n = strcspn(*at, ",");
    snprintf(number, sizeof number, "%.*s", (int)(n < sizeof number ? n : sizeof number - 1), *at);
    if (gm_parse_i64(number, 0, BESIDE_MAX, &value, NULL) != GM_OK) {
        gm_fail(err, GM_INVALID, "--contexts is a list of numbers from 0 to %d, as 0,2048,8192",
                BESIDE_MAX);
        return false;
    }
    *at += n + ((*at)[n] == ',');
    *context = (uint32_t)value;
    return true;
}

/* Checks the list of contexts and the words; makes a pipeline of our own large enough. */
static enum gm_status check(struct gm_bench_options *o, const struct gm_args *args, bool *wanted,
                            struct gm_err *err)
{
    const char *at = o->contexts;
    uint32_t context = 0, longest = 0, n = 0;
    while (gm_bench_context_next(&at, &context, err)) {
        longest = context > longest ? context : longest;
        if (++n > GM_BENCH_CONTEXTS_MAX)
            return gm_fail(err, GM_INVALID, "--contexts takes %d numbers", GM_BENCH_CONTEXTS_MAX);
    }
    if (err->status != GM_OK)
        return err->status;
    for (size_t i = 0; i < args->n; i++) {
        bool known = strcmp(args->positionals[i], "all") == 0;
        for (int p = 0; p < PARTS; p++)
            if (strcmp(args->positionals[i], parts[p].name) == 0)
                known = wanted[p] = true;
            else if (strcmp(args->positionals[i], "all") == 0)
                wanted[p] = true;
        if (!known)
            return gm_fail(err, GM_INVALID, "there is no part \"%.40s\"; see gemline bench --help",
                           args->positionals[i]);
    }
    for (int p = 0; p < PARTS && args->n == 0; p++)
        wanted[p] = true;
    if (gm_options_check(&program, args, &o->up, err) != GM_OK)
        return err->status;
    longest = o->beside > longest ? (uint32_t)o->beside : longest;
    if (!o->up.context && longest + o->tokens > CONTEXT_LEAST)
        o->up.context = longest + o->tokens + CONTEXT_SPARE;
    return GM_OK;
}

static enum gm_status put_json(const struct gm_bench *b, struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(out, "{\"figures\": [", err);
    for (size_t i = 0; rc == GM_OK && i < b->n; i++) {
        const struct gm_bench_figure *f = &b->figures[i];
        rc = gm_buf_printf(out, err, "%s{\"part\": \"%s\", \"name\": ", i ? ", " : "", f->part);
        if (rc == GM_OK)
            rc = gm_buf_append_json(out, f->name, strlen(f->name), err);
        if (rc == GM_OK && isfinite(f->value))
            rc = gm_buf_printf(out, err, ", \"value\": %.9g, \"unit\": \"%s\"}", f->value, f->unit);
        else if (rc == GM_OK)
            rc = gm_buf_printf(out, err, ", \"value\": null, \"unit\": \"%s\"}", f->unit);
    }
    return rc == GM_OK ? gm_buf_append_text(out, "]}\n", err) : rc;
}

static enum gm_status put_plain(const struct gm_bench *b, struct gm_buf *out, struct gm_err *err)
{
    const struct gm_bench_figure *before = NULL;
    enum gm_status rc = GM_OK;
    for (size_t i = 0; rc == GM_OK && i < b->n; i++) {
        const struct gm_bench_figure *f = &b->figures[i];
        const bool beside =
            before && strcmp(f->part, before->part) == 0 && strcmp(f->name, before->name) == 0;
        if (!beside)
            rc = gm_buf_printf(out, err, "%s%-10s %-38s", i ? "\n" : "", f->part, f->name);
        if (rc == GM_OK)
            rc = gm_buf_printf(out, err, " %12.2f %s", f->value, f->unit);
        before = f;
    }
    return rc == GM_OK && b->n > 0 ? gm_buf_append_text(out, "\n", err) : rc;
}

/* Runs the wanted parts; the pipeline is found or started before the first that needs it. */
static enum gm_status measure(struct gm_bench *b, const bool *wanted, struct gm_err *err)
{
    static struct gm_conn conn;
    enum gm_status rc = GM_OK;
    for (int p = 0; rc == GM_OK && p < PARTS; p++) {
        if (!wanted[p])
            continue;
        if (parts[p].needs_pipeline && !b->conn) {
            rc = gm_conn_open(&conn, &b->o->up, false, err);
            if (rc != GM_OK)
                break;
            b->conn = &conn;
        }
        gm_cli_progress("measuring %s", parts[p].name);
        b->part = parts[p].name;
        rc = parts[p].run(b, err);
        if (rc == GM_OK && gm_stopping())
            rc = gm_fail(err, GM_CANCELLED, "stopped");
    }
    if (b->conn)
        gm_conn_close(b->conn);
    return rc;
}

int gm_cmd_bench(int argc, char **argv)
{
    static struct gm_bench bench;
    struct gm_bench_options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    bool wanted[PARTS] = { false };
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (check(&o, &args, wanted, &err) != GM_OK)
        return gm_cli_wrong(&err);
    bench.o = &o;
    enum gm_status rc = measure(&bench, wanted, &err);
    struct gm_buf out = GM_BUF(OUT_BYTES_MAX);
    if (rc == GM_OK)
        rc = o.json ? put_json(&bench, &out, &err) : put_plain(&bench, &out, &err);
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&out), out.len, &err);
    gm_buf_free(&out);
    if (rc == GM_OK && bench.late.status != GM_OK)
        return gm_cli_fail(&bench.late);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
