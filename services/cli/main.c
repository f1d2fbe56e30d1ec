/* main.c - the table of commands.
 *
 * Owns:      the choice of a command, --help, --version, how an error is told.
 * Does not:  know what a command does.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/cli.h"

struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
    { "up", "start the pipeline of this home", gm_cmd_up },
    { "down", "stop it", gm_cmd_down },
    { "status", "what runs, and how it is", gm_cmd_status },
    { "run", "one answer to a prompt", gm_cmd_run },
    { "chat", "a conversation in the terminal", gm_cmd_chat },
    { "session", "list, show, undo, retry or remove conversations", gm_cmd_session },
    { "key", "add, list or revoke API keys of the HTTP gateway", gm_cmd_key },
    { "tokenize", "text to token ids and back", gm_cmd_tokenize },
    { "score", "log-probabilities of a text", gm_cmd_score },
    { "plan", "a balanced cut of the layers", gm_cmd_plan },
    { "pack", "lay the weights out for this CPU before the first start", gm_cmd_pack },
    { "synth", "write a model file of a variant's shapes with random weights", gm_cmd_synth },
    { "netkey", "make a key pair for a process that speaks TCP", gm_cmd_netkey },
    { "kill", "SIGKILL one process, for drills", gm_cmd_kill },
    { "bench", "how fast this pipeline is on this machine", gm_cmd_bench },
    { "load", "many clients of an OpenAI server, and how they are served", gm_cmd_load },
};
enum { COMMANDS = sizeof commands / sizeof commands[0], DISTANCE_MAX = 2 };

static int tell(const struct gm_err *err, int code)
{
    char line[GM_ERR_TEXT_MAX];
    snprintf(line, sizeof line, "%s", err->text[0] ? err->text : gm_status_name(err->status));
    for (char *at = line; *at; at++)
        if ((unsigned char)*at < ' ')
            *at = ' ';
    if (err->retry_ms > 0)
        fprintf(stderr, "gemline: %s (try again in %ld ms)\n", line, err->retry_ms);
    else
        fprintf(stderr, "gemline: %s\n", line);
    return code;
}

int gm_cli_fail(const struct gm_err *err)
{
    return tell(err, GM_CLI_FAILED);
}

int gm_cli_wrong(const struct gm_err *err)
{
    return tell(err, GM_CLI_WRONG_USE);
}

int gm_cli_parse(const struct gm_program *program, int argc, char *const argv[], void *into,
                 struct gm_args *args)
{
    struct gm_err err = GM_ERR_NONE;
    if (gm_conf_parse(program, argc, argv, into, args, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (!args->help)
        return -1;
    gm_conf_help(program, stdout);
    return GM_CLI_OK;
}

void gm_cli_progress(const char *format, ...)
{
    if (!isatty(STDERR_FILENO))
        return;
    va_list ap;
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void gm_cli_meter(uint32_t done, uint32_t total)
{
    if (!isatty(STDERR_FILENO))
        return;
    if (total > 0)
        fprintf(stderr, "\rreading the prompt: %u of %u tokens", done, total);
    else
        fputs("\r\033[K", stderr); /* back to an empty line */
}

enum gm_status gm_cli_write(const void *bytes, size_t n, struct gm_err *err)
{
    for (size_t at = 0; at < n;) {
        const ssize_t wrote = write(STDOUT_FILENO, (const char *)bytes + at, n - at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote < 0)
            return gm_fail(err, GM_UNAVAILABLE, "cannot write the output: %s", strerror(errno));
        at += (size_t)wrote;
    }
    return GM_OK;
}

enum gm_status gm_cli_read(const char *path, struct gm_buf *out, struct gm_err *err)
{
    if (strcmp(path, "-") != 0)
        return gm_file_read(path, out, err);
    char part[65536];
    for (;;) {
        const ssize_t got = read(STDIN_FILENO, part, sizeof part);
        if (got < 0 && errno == EINTR && !gm_stopping())
            continue;
        if (got < 0)
            return gm_fail(err, GM_UNAVAILABLE, "cannot read stdin: %s", strerror(errno));
        if (got == 0)
            return GM_OK;
        if (gm_buf_append(out, part, (size_t)got, err) != GM_OK)
            return gm_fail(err, GM_EXHAUSTED, "stdin holds more than %d MiB; give less at once",
                           GM_CLI_INPUT_BYTES_MAX >> 20);
    }
}

enum gm_status gm_cli_check_session(const char *id, struct gm_err *err)
{
    const size_t n = strlen(id);
    const size_t good = strspn(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                   "0123456789._-");
    if (n < 1 || n > GM_CLI_ID_MAX || good != n)
        return gm_fail(err, GM_INVALID, "a session id is 1 to %d of A-Z a-z 0-9 . _ -",
                       GM_CLI_ID_MAX);
    return GM_OK;
}

static void help(void)
{
    printf("usage: gemline COMMAND [options]\n\n"
           "Serves Google's Gemma models as a pipeline of small processes.\n\n");
    for (int i = 0; i < COMMANDS; i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].help);
    printf("\n  --help     this text; gemline COMMAND --help explains a command\n"
           "  --version  the version\n");
}

static int unknown(const char *word)
{
    struct gm_err err = GM_ERR_NONE;
    const char *near = NULL;
    for (int i = 0; i < COMMANDS && !near; i++)
        if (gm_text_distance(word, commands[i].name, DISTANCE_MAX) <= DISTANCE_MAX)
            near = commands[i].name;
    gm_fail(&err, GM_INVALID, "there is no %s \"%.60s\"%s%s; see gemline --help",
            word[0] == '-' ? "option" : "command", word, near ? "; did you mean " : "",
            near ? near : "");
    return gm_cli_wrong(&err);
}

/* What was printed must have gone out, or the command has failed. */
static int printed(int code)
{
    struct gm_err err = GM_ERR_NONE;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    if (code != GM_CLI_OK)
        return code;
    gm_fail(&err, GM_UNAVAILABLE, "cannot write the output: %s", strerror(errno));
    return gm_cli_fail(&err);
}

int main(int argc, char **argv)
{
    struct gm_err err = GM_ERR_NONE;
    if (argc < 2) {
        gm_fail(&err, GM_INVALID, "name a command, for example gemline chat; see gemline --help");
        return gm_cli_wrong(&err);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help();
        return printed(GM_CLI_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("gemline %s\n", GM_RELEASE);
        return printed(GM_CLI_OK);
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        gm_log_open("gemline", STDERR_FILENO);
        gm_log_set_level(GM_LOG_ERROR);
        if (gm_stop_signals(&err) != GM_OK)
            return gm_cli_fail(&err);
        return printed(commands[i].run(argc - 1, argv + 1));
    }
    return unknown(argv[1]);
}
