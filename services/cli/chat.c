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

enum { HISTORY = 500, BLOCK_BYTES_MAX = 8 << 20, VALUE_MAX = 128, PASTE_MS = 15 };

struct options {
    struct gm_up_options up;
    struct gm_sample sample;
    const char *system, *session;
};

/* What /set changes: the same table as run's options, on a struct of its own. */
struct settable {
    struct gm_sample sample;
};

#define ROW_TEXT(word, member, value, what)                                                        \
    {                                                                                              \
        .name = word, .kind = GM_OPT_TEXT, .at = offsetof(struct options, member), .arg = value,   \
        .help = what                                                                               \
    }
/* clang-format off */
static const struct gm_opt opts[] = {
    ROW_TEXT("system", system, "TEXT", "what the model is told before the conversation"),
    ROW_TEXT("session", session, "ID", "go on with this conversation, or begin it"),
    { .kind = GM_OPT_HEADING, .help = "sampling" },
    GM_SAMPLE_ROWS(struct options, sample),
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
static const struct gm_opt set_opts[] = { GM_SAMPLE_ROWS(struct settable, sample) };
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
    struct gm_sample_given given;
    char session[GM_CLI_ID_MAX + 1]; /* "": a new one */
    char *system;                    /* owned; NULL: none */
    bool fresh;                      /* nothing was said yet: the system text goes along */
    bool leave, block;               /* block: between triple quotes */
    int interrupts;                  /* Ctrl-C in a row */
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

/* ---- a turn -----------------------------------------------------------------------------------
 */
static void say(struct chat *c, const struct gm_buf *text, bool retry)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_answer a;
    Gm__Sampling sampling;
    ProtobufCBinaryData stops[GM_STOPS_MAX];
    if (gm_sample_fill(&c->o.sample, &c->given, &sampling, stops, &err) != GM_OK) {
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
    if (gm_stopping())
        c->interrupts = 1;
    gm_stop_clear();
}

/* ---- slash commands ---------------------------------------------------------------------------
 */
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
           "%g, frequency-penalty %g\nsampling %s, max-tokens %lld, seed ",
           s->temperature, (long long)s->top_k, s->top_p, s->min_p, s->repeat_penalty,
           s->presence_penalty, s->frequency_penalty,
           s->rules == GM_RULES_DEEPMIND ? "deepmind" : "gemline", (long long)s->max_tokens);
    if (c->given.seed)
        printf("%llu\n", (unsigned long long)s->seed);
    else
        printf("random\n");
}

static const struct gm_program set_program = {
    .name = "/set",
    .usage = "NAME VALUE",
    .about = "Changes how answers are made.",
    .opts = set_opts,
    .n_opts = sizeof set_opts / sizeof set_opts[0],
};

static size_t size_of(enum gm_opt_kind kind)
{
    return kind == GM_OPT_FLAG   ? sizeof(bool)
           : kind == GM_OPT_ENUM ? sizeof(int32_t)
                                 : sizeof(int64_t);
}

/* One value is judged by the same table as run's options; only its field is taken over. */
static void do_set(struct chat *c, const char *rest)
{
    struct settable fresh;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    char name[VALUE_MAX], word[2 * VALUE_MAX];
    const size_t n = strcspn(rest, " ");
    if (!rest[0]) {
        show_settings(c);
        return;
    }
    const char *value = rest + n + strspn(rest + n, " ");
    if (n >= sizeof name || strlen(value) >= VALUE_MAX) {
        printf("that is too long\n");
        return;
    }
    snprintf(name, sizeof name, "%.*s", (int)n, rest);
    const struct gm_opt *row = NULL;
    for (size_t i = 0; i < set_program.n_opts; i++)
        if (strcmp(set_opts[i].name, name) == 0 && set_opts[i].kind != GM_OPT_LIST)
            row = &set_opts[i];
    if (!row || !value[0]) {
        printf("/set NAME VALUE; names are those of gemline run's sampling options\n");
        return;
    }
    if (row->kind == GM_OPT_FLAG)
        snprintf(word, sizeof word, "%s%s", strcmp(value, "on") == 0 ? "--" : "", name);
    else
        snprintf(word, sizeof word, "--%s=%s", name, value);
    char *argv[] = { (char *)set_program.name, word, NULL };
    const int argc = word[0] == '-' ? 2 : 1;
    if (gm_conf_parse(&set_program, argc, argv, &fresh, &args, &err) != GM_OK) {
        (void)gm_cli_fail(&err);
        return;
    }
    memcpy((char *)&c->o.sample + row->at, (char *)&fresh + row->at, size_of(row->kind));
    c->given.seed |= strcmp(name, "seed") == 0;
    c->given.sampling.temperature |= strcmp(name, "temperature") == 0;
    c->given.sampling.top_k |= strcmp(name, "top-k") == 0;
    c->given.sampling.top_p |= strcmp(name, "top-p") == 0;
}

static void do_stats(struct chat *c, const char *rest)
{
    (void)rest;
    printf("session %s; the last turn: %u prompt tokens (%u cached) in %.0f ms, %zu tokens at "
           "%.1f a second; room for %u\n",
           c->session[0] ? c->session : "(new)", c->prompt_tokens, c->cached_tokens, c->prefill_ms,
           c->tokens,
           c->tokens > 1 && c->decode_ms > 0 ? (double)(c->tokens - 1) * 1000.0 / c->decode_ms
                                             : 0.0,
           c->conn.context);
}

static void do_exit(struct chat *c, const char *rest)
{
    (void)rest;
    c->leave = true;
}

static void do_help(struct chat *c, const char *rest);

struct slash {
    const char *name, *what;
    void (*run)(struct chat *c, const char *rest);
};
static const struct slash slashes[] = {
    { "/new", "begin a new conversation", do_new },
    { "/retry", "answer again, with the next seed", do_retry },
    { "/undo", "take the last turn back", do_undo },
    { "/session", "[ID] show or change the conversation", do_session },
    { "/sessions", "list the conversations", do_sessions },
    { "/system", "[TEXT] begin anew with this system text", do_system },
    { "/set", "[NAME VALUE] show or change how answers are made", do_set },
    { "/stats", "numbers of the last turn", do_stats },
    { "/help", "this list", do_help },
    { "/exit", "leave", do_exit },
};
enum { SLASHES = sizeof slashes / sizeof slashes[0] };

static void do_help(struct chat *c, const char *rest)
{
    (void)c;
    (void)rest;
    for (int i = 0; i < SLASHES; i++)
        printf("%-10s %s\n", slashes[i].name, slashes[i].what);
    printf("\"\"\"        begins and ends a text of more than one line\n"
           "Ctrl-C stops an answer; twice leaves.\n");
}

static void slash(struct chat *c, const char *line)
{
    const size_t n = strcspn(line, " ");
    for (int i = 0; i < SLASHES; i++)
        if (strlen(slashes[i].name) == n && strncmp(line, slashes[i].name, n) == 0) {
            slashes[i].run(c, line + n + strspn(line + n, " "));
            fflush(stdout);
            return;
        }
    printf("there is no %.*s; /help lists the commands\n", (int)n, line);
    fflush(stdout);
}

/* ---- reading ----------------------------------------------------------------------------------
 */
/* One character of the terminal; -1 when a stop signal came. */
static int next_char(EditLine *el, wchar_t *out)
{
    char bytes[4];
    size_t n = 0;
    (void)el;
    for (;;) {
        struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
        if (gm_stopping())
            return -1;
        if (poll(&p, 1, -1) <= 0)
            continue;
        if (read(STDIN_FILENO, bytes + n, 1) <= 0)
            return 0;
        uint32_t code = 0;
        const int len = gm_utf8_next(bytes, ++n, &code);
        if (len == 0 && n < sizeof bytes)
            continue;
        *out = (wchar_t)(len > 0 ? code : 0xFFFD);
        return 1;
    }
}

static bool more_waits(void)
{
    struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
    return poll(&p, 1, PASTE_MS) > 0 && (p.revents & POLLIN);
}

/* A line without its newline into *line (owned by the reader); -1: the end, 0: a stop signal. */
static int read_line(struct chat *c, char **line, size_t *cap)
{
    ssize_t n = -1;
    if (c->el) {
        int count = 0;
        const char *got = el_gets(c->el, &count);
        if (!got || count <= 0)
            return gm_stopping() ? 0 : -1;
        free(*line);
        *line = strdup(got);
        n = *line ? (ssize_t)strlen(*line) : -1;
    } else {
        n = getline(line, cap, stdin);
        if (n < 0 && gm_stopping())
            return 0;
    }
    if (n < 0)
        return -1;
    if (n > 0 && (*line)[n - 1] == '\n')
        (*line)[n - 1] = 0;
    return 1;
}

/* Adds a line to the message; true when the message is whole. */
static bool take_line(struct chat *c, const char *line)
{
    static const char quote[] = "\"\"\"";
    const size_t n = strlen(line);
    struct gm_err err = GM_ERR_NONE;
    bool whole = true;
    size_t keep = n;
    if (!c->block && strncmp(line, quote, 3) == 0) {
        c->block = true;
        line += 3;
        keep -= 3;
        whole = false;
    }
    if (c->block) {
        whole = keep >= 3 && strcmp(line + keep - 3, quote) == 0;
        keep -= whole ? 3 : 0;
    } else {
        whole = !(c->el && more_waits());
    }
    if (gm_buf_append(&c->typed, line, keep, &err) != GM_OK ||
        (!whole && gm_buf_append_text(&c->typed, "\n", &err) != GM_OK)) {
        (void)gm_cli_fail(&err);
        gm_buf_clear(&c->typed);
        c->block = false;
        return false;
    }
    if (whole)
        c->block = false;
    return whole;
}

static void act(struct chat *c)
{
    HistEvent ev;
    const char *text = gm_buf_text(&c->typed);
    if (text[strspn(text, " \t\r\n")]) {
        if (c->history)
            history(c->history, &ev, H_ENTER, text);
        if (text[0] == '/' && !strchr(text, '\n'))
            slash(c, text);
        else
            say(c, &c->typed, false);
    }
    gm_buf_clear(&c->typed);
}

/* Ctrl-C at the prompt: drops what was typed; the second in a row leaves. */
static void interrupted(struct chat *c)
{
    const bool leave = c->interrupts++ > 0 || gm_stop_signal() != SIGINT;
    gm_stop_clear();
    gm_buf_clear(&c->typed);
    c->block = false;
    c->leave = leave;
    printf(leave ? "\n" : "\n(Ctrl-C again, or /exit, leaves)\n");
    fflush(stdout);
    if (c->el)
        el_reset(c->el);
}

static void talk(struct chat *c)
{
    char *line = NULL;
    size_t cap = 0;
    while (!c->leave) {
        const int got = read_line(c, &line, &cap);
        if (got < 0) {
            if (c->typed.len)
                act(c);
            break;
        }
        if (got == 0) {
            interrupted(c);
            continue;
        }
        c->interrupts = 0;
        if (take_line(c, line))
            act(c);
    }
    free(line);
}

static void open_editor(struct chat *c)
{
    HistEvent ev;
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return;
    c->el = el_init("gemline", stdin, stdout, stderr);
    c->history = history_init();
    if (!c->el || !c->history)
        return;
    prompt_of = c;
    history(c->history, &ev, H_SETSIZE, HISTORY);
    el_set(c->el, EL_PROMPT, prompt);
    el_set(c->el, EL_EDITOR, "emacs");
    el_set(c->el, EL_HIST, history, c->history);
    el_set(c->el, EL_GETCFN, next_char);
    el_source(c->el, NULL);
    printf("%s: type a message; /help lists the commands.\n", "gemline");
    fflush(stdout);
}

int gm_cmd_chat(int argc, char **argv)
{
    static struct chat c;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    const int code = gm_cli_parse(&program, argc, argv, &c.o, &args);
    if (code >= 0)
        return code;
    if ((c.o.session && gm_cli_check_session(c.o.session, &err) != GM_OK) ||
        gm_options_check(&program, &args, &c.o.up, &err) != GM_OK)
        return gm_cli_wrong(&err);
    setlocale(LC_CTYPE, "C.UTF-8");
    c.given = gm_sample_given(&program, &args);
    c.typed = GM_BUF(BLOCK_BYTES_MAX);
    c.fresh = true;
    c.system = c.o.system ? strdup(c.o.system) : NULL;
    if (gm_conn_open(&c.conn, &c.o.up, false, &err) != GM_OK)
        return gm_cli_fail(&err);
    open_editor(&c);
    if (c.o.session)
        do_session(&c, c.o.session);
    talk(&c);
    if (c.history)
        history_end(c.history);
    if (c.el)
        el_end(c.el);
    gm_buf_free(&c.typed);
    free(c.system);
    gm_conn_close(&c.conn);
    return GM_CLI_OK;
}
