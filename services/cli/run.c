/* run.c - `gemline run`: one answer to one prompt.
 *
 * Owns:      where the prompt comes from, and the three forms of the output.
 * Does not:  run the turn (turn.c).
 */
#include <stdio.h>
#include <string.h>

#include "services/cli/sample.h"

struct options {
    struct gm_up_options up;
    struct gm_sample sample;
    bool raw, json, stream, verbose;
    const char *system, *session, *file;
    int64_t timeout_ms;
};

#define FLAG(word, member, what)                                                                   \
    {                                                                                              \
        .name = word, .kind = GM_OPT_FLAG, .at = offsetof(struct options, member), .help = what    \
    }
#define TEXT(word, member, value, what)                                                            \
    {                                                                                              \
        .name = word, .kind = GM_OPT_TEXT, .at = offsetof(struct options, member), .arg = value,   \
        .help = what                                                                               \
    }
/* clang-format off */
static const struct gm_opt opts[] = {
    FLAG("raw", raw, "the text alone, without the chat template"),
    TEXT("system", system, "TEXT", "what the model is told before the conversation"),
    TEXT("session", session, "ID", "go on with this conversation, or begin it"),
    TEXT("file", file, "FILE", "read the prompt from a file (- is stdin)"),
    FLAG("json", json, "one JSON object on one line"),
    FLAG("stream", stream, "the answer's bytes alone, as they come"),
    FLAG("verbose", verbose, "say times on stderr"),
    { .name = "timeout", .kind = GM_OPT_DURATION, .at = offsetof(struct options, timeout_ms),
      .max = 2147483647.0, .arg = "TIME", .help = "give up after this time (0: never)" },
    { .kind = GM_OPT_HEADING, .help = "sampling" },
    GM_SAMPLE_ROWS(struct options, sample),
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline run",
    .usage = "[options] [PROMPT]",
    .about = "Prints the answer to PROMPT, to --file, or to what stdin holds.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 1,
};

static enum gm_status check(const struct options *o, const struct gm_args *args, struct gm_err *err)
{
    if (o->json && o->stream)
        return gm_fail(err, GM_INVALID, "give --json or --stream, not both");
    if (o->file && args->n > 0)
        return gm_fail(err, GM_INVALID, "give PROMPT or --file, not both");
    if (o->raw && o->system)
        return gm_fail(err, GM_INVALID, "--raw has no template and so no place for --system");
    if (o->session && gm_cli_check_session(o->session, err) != GM_OK)
        return err->status;
    return gm_options_check(&program, args, &o->up, err);
}

static enum gm_status read_prompt(const struct options *o, const struct gm_args *args,
                                  struct gm_buf *prompt, struct gm_err *err)
{
    enum gm_status rc;
    if (args->n > 0 && strcmp(args->positionals[0], "-") != 0)
        rc = gm_buf_append_text(prompt, args->positionals[0], err);
    else
        rc = gm_cli_read(o->file ? o->file : "-", prompt, err);
    if (rc == GM_OK && prompt->len == 0 && !o->raw)
        rc = gm_fail(err, GM_INVALID, "the prompt is empty; give PROMPT, --file or stdin a text");
    return rc;
}

static enum gm_status print(const struct options *o, const struct gm_conn *c,
                            const struct gm_answer *a, struct gm_err *err)
{
    struct gm_buf out = GM_BUF(0);
    enum gm_status rc = GM_OK;
    if (o->json) {
        rc = gm_answer_json(a, &c->vocab, &out, err);
        if (rc == GM_OK)
            rc = gm_cli_write(out.data, out.len, err);
        gm_buf_free(&out);
    } else {
        rc = gm_cli_write("\n", 1, err);
    }
    if (o->verbose)
        fprintf(stderr,
                "session %s, seed %llu: %u prompt tokens (%u cached) in %.1f ms, %zu tokens in "
                "%.1f ms (%.1f tokens/s), ended by %s\n",
                a->session, (unsigned long long)a->seed, a->prompt_tokens, a->cached_tokens,
                a->prefill_ms, a->n, a->decode_ms,
                a->n > 1 && a->decode_ms > 0 ? (double)(a->n - 1) * 1000.0 / a->decode_ms : 0.0,
                a->reason);
    return rc;
}

static int answer(const struct options *o, const struct gm_args *args, const struct gm_buf *prompt)
{
    static struct gm_conn conn;
    struct gm_err err = GM_ERR_NONE;
    struct gm_answer a;
    Gm__Sampling sampling;
    ProtobufCBinaryData stops[GM_STOPS_MAX];
    const struct gm_sample_given given = gm_sample_given(&program, args);
    if (gm_sample_fill(&o->sample, &given, &sampling, stops, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (gm_conn_open(&conn, &o->up, false, &err) != GM_OK)
        return gm_cli_fail(&err);
    const struct gm_turn_options turn = {
        .session = o->session,
        .system = o->system,
        .raw = o->raw,
        .stream = !o->json,
        .ignore_eos = o->sample.ignore_eos,
        .timeout_ms = (uint32_t)o->timeout_ms,
        .sampling = &sampling,
    };
    enum gm_status rc = gm_turn_run(&conn, &turn, prompt, &a, &err);
    if (rc == GM_OK)
        rc = print(o, &conn, &a, &err);
    else if (!o->json && a.text.len > 0)
        (void)gm_cli_write("\n", 1, NULL);
    gm_answer_free(&a);
    gm_conn_close(&conn);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}

int gm_cmd_run(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf prompt = GM_BUF(GM_CLI_INPUT_BYTES_MAX);
    int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (check(&o, &args, &err) != GM_OK)
        return gm_cli_wrong(&err);
    code = read_prompt(&o, &args, &prompt, &err) == GM_OK ? answer(&o, &args, &prompt)
                                                          : gm_cli_fail(&err);
    gm_buf_free(&prompt);
    return code;
}
