/* score.c - `gemline score`: log-probabilities of a text or of given ids.
 *
 * Owns:      the table of rows as they come, perplexity, the form of the numbers.
 * Does not:  keep anything: equal bits give equal bytes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/lines.h"

enum { SCORE_TOP_MAX = 1024 };

struct options {
    struct gm_up_options up;
    bool tokens, json;
    int64_t top, every;
};

/* clang-format off */
static const struct gm_opt opts[] = {
    { .name = "tokens", .kind = GM_OPT_FLAG, .at = offsetof(struct options, tokens),
      .help = "each line is an array of token ids; nothing is added" },
    { .name = "top", .kind = GM_OPT_INT, .at = offsetof(struct options, top), .max = SCORE_TOP_MAX,
      .def = "0", .help = "so many best tokens at each position" },
    { .name = "every", .kind = GM_OPT_INT, .at = offsetof(struct options, every), .min = 1,
      .max = 1 << 20, .def = "1", .help = "only each N-th position; the others are null" },
    { .name = "json", .kind = GM_OPT_FLAG, .at = offsetof(struct options, json),
      .help = "one JSON object a line" },
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline score",
    .usage = "[options] [FILE]",
    .about = "Prints the log-probabilities of the text in FILE or stdin (with <bos> before it).",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 1,
};

struct row {
    bool known, has_next;
    double next;
    uint32_t n_top;
    int32_t *top_ids; /* owned, n_top; top_values lie behind */
    float *top_values;
};
struct table {
    struct row *rows;
    size_t n, got;
    struct gm_err err;
};

static bool keep_row(struct table *t, const Gm__ScoreRow *from)
{
    if (from->pos >= t->n || t->rows[from->pos].known)
        return true;
    struct row *r = &t->rows[from->pos];
    r->known = true;
    t->got++;
    r->has_next = from->has_next_logprob;
    r->next = from->next_logprob;
    if (!from->n_top)
        return true;
    r->top_ids = malloc(from->n_top * sizeof *r->top_ids);
    r->top_values = malloc(from->n_top * sizeof *r->top_values);
    if (!r->top_ids || !r->top_values)
        return gm_fail(&t->err, GM_EXHAUSTED, "no memory for the scores") == GM_OK;
    r->n_top = (uint32_t)from->n_top;
    for (uint32_t i = 0; i < r->n_top; i++) {
        r->top_ids[i] = from->top[i]->id;
        r->top_values[i] = from->top[i]->logprob;
    }
    return true;
}

static bool on_item(void *ctx, const ProtobufCMessage *item)
{
    struct table *t = ctx;
    const Gm__ScoreEvent *e = (const Gm__ScoreEvent *)item;
    for (size_t i = 0; i < e->n_rows; i++)
        if (!keep_row(t, e->rows[i]))
            return false;
    return !gm_stopping();
}

static bool on_idle(void *ctx)
{
    (void)ctx;
    return !gm_stopping();
}

static enum gm_status put_number(struct gm_buf *b, double value, struct gm_err *err)
{
    return isfinite(value) ? gm_buf_printf(b, err, "%.9g", value)
                           : gm_buf_append_text(b, "null", err);
}

/* Sum of the log-probabilities known, as a perplexity; NAN when there are none. */
static double perplexity(const struct table *t)
{
    double sum = 0;
    size_t n = 0;
    for (size_t i = 0; i + 1 < t->n; i++)
        if (t->rows[i].has_next) {
            sum += t->rows[i].next;
            n++;
        }
    return n ? exp(-sum / (double)n) : (double)NAN;
}

static enum gm_status put_top(struct gm_buf *b, const struct table *t, bool ids, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(b, "[", err);
    for (size_t i = 0; rc == GM_OK && i < t->n; i++) {
        const struct row *r = &t->rows[i];
        rc = gm_buf_append_text(b, i ? ", " : "", err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(b, r->known ? "[" : "null", err);
        for (uint32_t k = 0; rc == GM_OK && k < r->n_top; k++) {
            rc = gm_buf_append_text(b, k ? ", " : "", err);
            if (rc == GM_OK)
                rc = ids ? gm_buf_printf(b, err, "%d", r->top_ids[k])
                         : put_number(b, (double)r->top_values[k], err);
        }
        if (rc == GM_OK && r->known)
            rc = gm_buf_append_text(b, "]", err);
    }
    return rc == GM_OK ? gm_buf_append_text(b, "]", err) : rc;
}

static enum gm_status put_json(struct gm_buf *b, const struct table *t, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(b, "{\"logprobs\": [", err);
    for (size_t i = 0; rc == GM_OK && i + 1 < t->n; i++) {
        rc = gm_buf_append_text(b, i ? ", " : "", err);
        if (rc == GM_OK)
            rc = put_number(b, t->rows[i].has_next ? t->rows[i].next : (double)NAN, err);
    }
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, "], \"top_ids\": ", err);
    if (rc == GM_OK)
        rc = put_top(b, t, true, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, ", \"top_logprobs\": ", err);
    if (rc == GM_OK)
        rc = put_top(b, t, false, err);
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, ", \"perplexity\": ", err);
    if (rc == GM_OK)
        rc = put_number(b, perplexity(t), err);
    return rc == GM_OK ? gm_buf_append_text(b, "}\n", err) : rc;
}

static enum gm_status put_plain(struct gm_buf *b, const struct table *t,
                                const struct gm_ids_list *ids, const struct gm_vocab *v,
                                struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    for (size_t i = 0; rc == GM_OK && i + 1 < t->n; i++) {
        size_t n;
        const char *name = gm_vocab_name(v, ids->ids[i + 1], &n);
        if (!t->rows[i].has_next)
            continue;
        rc = gm_buf_printf(b, err, "%10.4f %7d ", t->rows[i].next, ids->ids[i + 1]);
        if (rc == GM_OK)
            rc = gm_buf_append_json(b, name, n, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(b, "\n", err);
    }
    return rc == GM_OK ? gm_buf_printf(b, err, "tokens %zu, perplexity %.6g\n", t->n, perplexity(t))
                       : rc;
}

static enum gm_status score(struct gm_conn *c, const struct options *o, struct gm_ids_list *ids,
                            struct gm_err *err)
{
    if (ids->n == 0)
        return gm_fail(err, GM_INVALID, "there are no tokens to score; give at least one");
    struct table t = { calloc(ids->n, sizeof(struct row)), ids->n, 0, GM_ERR_NONE };
    if (!t.rows)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the scores");
    Gm__ScoreRequest q = GM__SCORE_REQUEST__INIT;
    q.n_ids = ids->n;
    q.ids = ids->ids;
    q.has_top_n = q.has_every = 1;
    q.top_n = (uint32_t)o->top;
    q.every = (uint32_t)o->every;
    struct gm_buf out = GM_BUF(8 * (size_t)GM_CLI_INPUT_BYTES_MAX);
    enum gm_status rc =
        gm_client_stream(c->client,
                         &(struct gm_client_to){ "orchestrator", 0, "Orchestrator.Score", &q.base,
                                                 &gm__score_event__descriptor, 0 },
                         &(struct gm_client_flow){ on_item, on_idle, &t }, err);
    if (rc == GM_OK && t.err.status != GM_OK) {
        *err = t.err;
        rc = err->status;
    }
    if (rc == GM_OK && o->every == 1 && t.got != t.n)
        rc = gm_fail(err, GM_INTERNAL, "%zu of %zu positions were scored; try again", t.got, t.n);
    if (rc == GM_OK)
        rc = o->json ? put_json(&out, &t, err) : put_plain(&out, &t, ids, &c->vocab, err);
    if (rc == GM_OK)
        rc = gm_cli_write(out.data, out.len, err);
    gm_buf_free(&out);
    for (size_t i = 0; i < t.n; i++) {
        free(t.rows[i].top_ids);
        free(t.rows[i].top_values);
    }
    free(t.rows);
    return rc;
}

static enum gm_status work(struct gm_conn *c, const struct options *o, const struct gm_buf *in,
                           struct gm_err *err)
{
    struct gm_ids_list ids = { NULL, 0 };
    const char *line;
    size_t n, at = 0;
    unsigned long number = 0;
    enum gm_status rc = GM_OK;
    if (!o->tokens) {
        rc = gm_ids_of_text(c, gm_buf_text(in), in->len, true, &ids, err);
        if (rc == GM_OK)
            rc = score(c, o, &ids, err);
        free(ids.ids);
        return rc;
    }
    while (rc == GM_OK && gm_line_next(in, &at, &line, &n)) {
        number++;
        rc = gm_ids_of_json(line, n, gm_vocab_n(&c->vocab), &ids, err);
        if (rc == GM_OK)
            rc = score(c, o, &ids, err);
        free(ids.ids);
        if (rc != GM_OK)
            gm_err_prefix(err, "line %lu", number);
    }
    return rc;
}

int gm_cmd_score(int argc, char **argv)
{
    static struct gm_conn conn;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf in = GM_BUF(GM_CLI_INPUT_BYTES_MAX);
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (gm_options_check(&program, &args, &o.up, &err) != GM_OK)
        return gm_cli_wrong(&err);
    enum gm_status rc = gm_cli_read(args.n ? args.positionals[0] : "-", &in, &err);
    if (rc == GM_OK)
        rc = gm_conn_open(&conn, &o.up, false, &err);
    if (rc == GM_OK) {
        rc = work(&conn, &o, &in, &err);
        gm_conn_close(&conn);
    }
    gm_buf_free(&in);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
