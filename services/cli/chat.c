/* chat.c - `gemline chat`: a conversation in the terminal.
 *
 * Owns:      the line editor, the slash commands, what Ctrl-C means here.
 * Does not:  run turns (turn.c) or keep conversations (the orchestrator does).
 */
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/sample.h"

enum { HISTORY = 500, BLOCK_BYTES_MAX = 8 << 20, VALUES_MAX = 64, VALUE_MAX = 128 };

struct options {
    struct gm_up_options up;
    struct gm_sample sample;
    const char *system, *session;
};

#define ROW_TEXT(word, member, value, what)                                                        \
    { .name = word, .kind = GM_OPT_TEXT, .at = offsetof(struct options, member), .arg = value,     \
      .help = what }
/* clang-format off */
static const struct gm_opt opts[] = {
    ROW_TEXT("system", system, "TEXT", "what the model is told before the conversation"),
    ROW_TEXT("session", session, "ID", "go on with this conversation, or begin it"),
    { .kind = GM_OPT_HEADING, .help = "sampling" },
    GM_SAMPLE_ROWS(struct options, sample),
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
static const struct gm_opt set_opts[] = { GM_SAMPLE_ROWS(struct gm_sample, seed) };
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline chat",
    .usage = "[options]",
    .about = "Talks with the model. /help lists the commands inside.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

struct chat {
    struct gm_conn conn;
    struct options o;
    bool seeded;
    char session[GM_CLI_ID_MAX + 1]; /* "": a new one */
    char *system;                    /* owned; NULL: none */
    bool fresh;                      /* nothing was said yet: the system text goes along */
    bool leave;
    EditLine *el;
    History *history;
    struct gm_buf typed; /* the message being put together */
    uint32_t prompt_tokens, cached_tokens;
    size_t tokens;
    double prefill_ms, decode_ms;
};

static struct chat *prompt_of; /* libedit's prompt function has no context */

static char *prompt(EditLine *el)
{
    static char fresh[] = "> ", more[] = ". ";
    (void)el;
    return prompt_of && prompt_of->typed.len ? more : fresh;
}

/* ---- a turn ----------------------------------------------------------------------------------- */
static void say(struct chat *c, const struct gm_buf *text, bool retry)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_answer a;
    Gm__Sampling sampling;
    ProtobufCBinaryData stops[GM_STOPS_MAX];
    if (gm_sample_fill(&c->o.sample, c->seeded, &sampling, stops, &err) != GM_OK) {
        (void)gm_cli_fail(&err);
        return;
    }
    const struct gm_turn_options o = {
        .session = c->session[0] ? c->session : NULL,
        .system = c->fresh ? c->system : NULL,
        .retry = retry,
        .stream = true,
        .ignore_eos = c->o.sample.ignore_eos,
        .sampling = retry ? NULL : &sampling,
    };
    gm_stop_clear();
    const enum gm_status rc = gm_turn_run(&c->conn, &o, text, &a, &err);
    if (a.text.len || rc == GM_OK)
        (void)gm_cli_write("\n", 1, NULL);
    if (a.session[0]) {
        snprintf(c->session, sizeof c->session, "%s", a.session);
        c->fresh = false;
    }
    if (rc != GM_OK)
        (void)gm_cli_fail(&err);
    c->prompt_tokens = a.prompt_tokens;
    c->cached_tokens = a.cached_tokens;
    c->tokens = a.n;
    c->prefill_ms = a.prefill_ms;
    c->decode_ms = a.decode_ms;
    gm_answer_free(&a);
    if (gm_stop_signal() == SIGTERM)
        c->leave = true;
    gm_stop_clear();
}

/* ---- slash commands --------------------------------------------------------------------------- */
static void do_new(struct chat *c, const char *rest)
{
    (void)rest;
    c->session[0] = 0;
    c->fresh = true;
    printf("a new conversation\n");
}

static bool has_session(const struct chat *c)
{
    if (!c->session[0])
        printf("nothing was said yet\n");
    return c->session[0] != 0;
}

static void do_retry(struct chat *c, const char *rest)
{
    const struct gm_buf none = GM_BUF(0);
    (void)rest;
    if (has_session(c))
        say(c, &none, true);
}

static void do_undo(struct chat *c, const char *rest)
{
    struct gm_err err = GM_ERR_NONE;
    (void)rest;
    if (!has_session(c))
        return;
    if (gm_session_call(&c->conn, "Orchestrator.Undo", c->session, &err) == GM_OK)
        printf("the last turn is taken back\n");
    else
        (void)gm_cli_fail(&err);
}

static void do_session(struct chat *c, const char *rest)
{
    struct gm_err err = GM_ERR_NONE;
    if (!rest[0]) {
        printf("%s\n", c->session[0] ? c->session : "a new conversation");
        return;
    }
    if (gm_cli_check_session(rest, &err) != GM_OK) {
        (void)gm_cli_fail(&err);
        return;
    }
    snprintf(c->session, sizeof c->session, "%s", rest);
    c->fresh = gm_session_print(&c->conn, c->session, false, NULL) != GM_OK;
}

static void do_sessions(struct chat *c, const char *rest)
{
    struct gm_err err = GM_ERR_NONE;
    (void)rest;
    if (gm_session_list(&c->conn, false, &err) != GM_OK)
        (void)gm_cli_fail(&err);
}

static void do_system(struct chat *c, const char *rest)
{
    free(c->system);
    c->system = rest[0] ? strdup(rest) : NULL;
    do_new(c, "");
}

static void show_settings(const struct chat *c)
{
    const struct gm_sample *s = &c->o.sample;
    printf("temperature %g, top-k %lld, top-p %g, min-p %g\nrepeat-penalty %g, presence-penalty "
           "%g, frequency-penalty %g\nmax-tokens %lld, seed ",
           s->temperature, (long long)s->top_k, s->top_p, s->min_p, s->repeat_penalty,
           s->presence_penalty, s->frequency_penalty, (long long)s->max_tokens);
    if (c->seeded)
        printf("%llu\n", (unsigned long long)s->seed);
    else
        printf("random\n");
}

/* One value is judged by the same table as run's options. */
static void do_set(struct chat *c, const char *rest)
{
    static const struct gm_program one = { .name = "/set",
                                           .usage = "NAME VALUE",
                                           .about = "",
                                           .opts = set_opts,
                                           .n_opts = sizeof set_opts / sizeof set_opts[0] };
    (void)one;
    (void)c;
    (void)rest;
}
