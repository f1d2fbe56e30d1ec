/* load_report.c - what `gemline load` counted, for people and as one line of JSON.
 *
 * Owns:      the counts' memory, the two forms of the report.
 * Does not:  measure.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "services/cli/load.h"

void gm_load_counts_begin(struct gm_load_counts *c)
{
    *c = (struct gm_load_counts){ 0 };
    struct gm_series *all[] = { &c->first, &c->first_later, &c->gap, &c->answer,
                                &c->rate,  &c->refusal,     &c->late };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        gm_series_begin(all[i], GM_LOAD_KEEP);
}

void gm_load_counts_free(struct gm_load_counts *c)
{
    struct gm_series *all[] = { &c->first, &c->first_later, &c->gap, &c->answer,
                                &c->rate,  &c->refusal,     &c->late };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        gm_series_free(all[i]);
}

void gm_load_count_refusal(struct gm_load_counts *c, int status, double ms, bool hint)
{
    size_t at = 0;
    while (at < c->n_status && c->by_status[at].status != status)
        at++;
    if (at == c->n_status && at < GM_LOAD_STATUSES)
        c->by_status[c->n_status++] = (struct gm_load_status){ .status = status };
    if (at < GM_LOAD_STATUSES) /* more kinds than that are in the sum alone */
        c->by_status[at].n++;
    c->refused++;
    c->refused_hint += hint;
    gm_series_add(&c->refusal, ms);
}

static double wall_s(const struct gm_load_counts *c)
{
    return c->ended_us > c->began_us ? (double)(c->ended_us - c->began_us) / 1e6 : 0;
}

static double tokens_per_s(const struct gm_load_counts *c)
{
    return wall_s(c) > 0 ? (double)c->tokens / wall_s(c) : 0;
}

static const char *counted_by(const struct gm_load_counts *c)
{
    return c->by_chunks == 0 ? "usage" : c->by_usage == 0 ? "chunks" : "usage and chunks";
}

/* ---- JSON ------------------------------------------------------------------------------------ */
static enum gm_status put_series(struct gm_buf *out, const char *name, struct gm_series *s,
                                 struct gm_err *err)
{
    if (s->n == 0)
        return gm_buf_printf(out, err, ", \"%s\": null", name);
    return gm_buf_printf(out, err,
                         ", \"%s\": {\"n\": %llu, \"p5\": %.3f, \"p50\": %.3f, \"p95\": %.3f, "
                         "\"p99\": %.3f, \"max\": %.3f}",
                         name, (unsigned long long)s->seen, gm_series_quantile(s, 0.05),
                         gm_series_quantile(s, 0.5), gm_series_quantile(s, 0.95),
                         gm_series_quantile(s, 0.99), s->max);
}

static enum gm_status put_text(struct gm_buf *out, const char *name, const char *text,
                               struct gm_err *err)
{
    if (!text[0])
        return GM_OK;
    enum gm_status rc = gm_buf_printf(out, err, ", \"%s\": ", name);
    return rc == GM_OK ? gm_buf_append_json(out, text, strlen(text), err) : rc;
}

static enum gm_status put_json(struct gm_load_counts *c, struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_printf(
        out, err,
        "{\"requests\": %llu, \"done\": %llu, \"failed\": %llu, \"timed_out\": %llu, \"cut\": "
        "%llu, "
        "\"refused\": %llu, \"refused_with_retry_after\": %llu, \"refused_by_status\": {",
        (unsigned long long)c->issued, (unsigned long long)c->done, (unsigned long long)c->failed,
        (unsigned long long)c->timed_out, (unsigned long long)c->cut,
        (unsigned long long)c->refused, (unsigned long long)c->refused_hint);
    for (size_t i = 0; rc == GM_OK && i < c->n_status; i++)
        rc = gm_buf_printf(out, err, "%s\"%d\": %llu", i ? ", " : "", c->by_status[i].status,
                           (unsigned long long)c->by_status[i].n);
    if (rc == GM_OK)
        rc = gm_buf_printf(out, err,
                           "}, \"wall_s\": %.6f, \"tokens\": %llu, \"tokens_per_s\": %.3f, "
                           "\"counted_by\": \"%s\", \"prompt_tokens\": %llu, "
                           "\"cached_tokens\": %llu, \"at_once\": %u, \"stopped\": %s",
                           wall_s(c), (unsigned long long)c->tokens, tokens_per_s(c), counted_by(c),
                           (unsigned long long)c->prompt_tokens,
                           (unsigned long long)c->cached_tokens, c->running_most,
                           c->stopped ? "true" : "false");
    struct {
        const char *name;
        struct gm_series *series;
    } all[] = { { "ttft_ms", &c->first },
                { "ttft_later_ms", &c->first_later },
                { "gap_ms", &c->gap },
                { "answer_ms", &c->answer },
                { "request_tokens_per_s", &c->rate },
                { "refusal_ms", &c->refusal },
                { "late_ms", &c->late } };
    for (size_t i = 0; rc == GM_OK && i < sizeof all / sizeof all[0]; i++)
        rc = put_series(out, all[i].name, all[i].series, err);
    if (rc == GM_OK && c->idle_wanted)
        rc = gm_buf_printf(
            out, err, ", \"idle\": {\"wanted\": %lld, \"opened\": %lld, \"usable\": %lld}",
            (long long)c->idle_wanted, (long long)c->idle_opened, (long long)c->idle_usable);
    if (rc == GM_OK)
        rc = put_text(out, "first_refusal", c->refused_say, err);
    if (rc == GM_OK)
        rc = put_text(out, "first_failure", c->failed_say, err);
    if (rc == GM_OK)
        rc = put_text(out, "idle_lost", c->idle_say, err);
    return rc == GM_OK ? gm_buf_append_text(out, "}\n", err) : rc;
}

/* ---- for people ------------------------------------------------------------------------------ */
static enum gm_status put_row(struct gm_buf *out, const char *name, struct gm_series *s,
                              struct gm_err *err)
{
    if (s->n == 0)
        return GM_OK;
    return gm_buf_printf(out, err, "%-24s %10.1f %10.1f %10.1f %10.1f\n", name,
                         gm_series_quantile(s, 0.5), gm_series_quantile(s, 0.95),
                         gm_series_quantile(s, 0.99), s->max);
}

static enum gm_status put_refusals(struct gm_load_counts *c, struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_printf(out, err, "refused    ");
    for (size_t i = 0; rc == GM_OK && i < c->n_status; i++)
        rc = gm_buf_printf(out, err, "%s%llu with %d", i ? ", " : "",
                           (unsigned long long)c->by_status[i].n, c->by_status[i].status);
    if (rc == GM_OK)
        rc = gm_buf_printf(out, err, " (%llu with Retry-After); the first: %s\n",
                           (unsigned long long)c->refused_hint, c->refused_say);
    return rc;
}

static enum gm_status put_plain(struct gm_load_counts *c, struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_printf(
        out, err, "requests   %llu sent, %llu done, %llu refused, %llu failed in %.2f s%s\n",
        (unsigned long long)c->issued, (unsigned long long)c->done, (unsigned long long)c->refused,
        (unsigned long long)c->failed, wall_s(c), c->stopped ? "; stopped" : "");
    if (rc == GM_OK && c->cut)
        rc = gm_buf_printf(out, err, "stopped    %llu were running\n", (unsigned long long)c->cut);
    if (rc == GM_OK && c->refused)
        rc = put_refusals(c, out, err);
    if (rc == GM_OK && c->failed)
        rc = gm_buf_printf(out, err, "failed     the first: %s\n", c->failed_say);
    if (rc == GM_OK && c->tokens)
        rc = gm_buf_printf(out, err,
                           "tokens     %llu (counted by %s), %.1f a second; prompts %llu, of them "
                           "%llu from the cache\n",
                           (unsigned long long)c->tokens, counted_by(c), tokens_per_s(c),
                           (unsigned long long)c->prompt_tokens,
                           (unsigned long long)c->cached_tokens);
    if (rc == GM_OK && c->rate.n)
        rc = gm_buf_printf(out, err, "a request  %.1f tokens a second (p50), %.1f (p5)\n",
                           gm_series_quantile(&c->rate, 0.5), gm_series_quantile(&c->rate, 0.05));
    if (rc == GM_OK && c->idle_wanted)
        rc = gm_buf_printf(
            out, err, "idle       %lld connections opened of %lld, %lld usable%s%s\n",
            (long long)c->idle_opened, (long long)c->idle_wanted, (long long)c->idle_usable,
            c->idle_say[0] ? "; the first lost: " : "", c->idle_say);
    if (rc == GM_OK && (c->first.n || c->refused))
        rc = gm_buf_printf(out, err, "%-24s %10s %10s %10s %10s\n", "ms", "p50", "p95", "p99",
                           "max");
    if (rc == GM_OK)
        rc = put_row(out, "first token", &c->first, err);
    if (rc == GM_OK && c->first_later.n)
        rc = put_row(out, "first token, later turns", &c->first_later, err);
    if (rc == GM_OK)
        rc = put_row(out, "between tokens", &c->gap, err);
    if (rc == GM_OK)
        rc = put_row(out, "whole answer", &c->answer, err);
    if (rc == GM_OK && c->refused)
        rc = put_row(out, "refusal", &c->refusal, err);
    if (rc == GM_OK && c->late.max > 1)
        rc = put_row(out, "sent late", &c->late, err);
    return rc;
}

enum gm_status gm_load_report(struct gm_load_counts *c, const struct gm_load_options *o,
                              struct gm_buf *out, struct gm_err *err)
{
    return o->json ? put_json(c, out, err) : put_plain(c, out, err);
}
