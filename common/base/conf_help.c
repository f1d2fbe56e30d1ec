/* conf_help.c - the text of --help, made from the option table alone.
 *
 * Owns:      its layout: one column of options, one of wrapped descriptions.
 * Does not:  parse (conf.c) or decide where the text goes.
 */
#include <math.h>
#include <string.h>

#include "common/base/conf.h"
#include "common/base/text.h"

enum {
    LEFT_MAX = 32,      /* widest left column; longer ones get a line of their own */
    LEFT_BYTES = 256,   /* bytes of one left column */
    LINE_COLUMNS = 96,  /* where descriptions are wrapped */
    ABOUT_BYTES = 2048, /* bytes of one description with its details */
};

static const char *value_name(const struct gm_opt *opt)
{
    static const char *const names[] = {
        [GM_OPT_FLAG] = "",     [GM_OPT_INT] = "N",         [GM_OPT_UINT] = "N",
        [GM_OPT_FLOAT] = "X",   [GM_OPT_TEXT] = "TEXT",     [GM_OPT_ENUM] = "",
        [GM_OPT_LIST] = "TEXT", [GM_OPT_DURATION] = "TIME", [GM_OPT_HEADING] = "",
    };
    if (opt->arg != NULL)
        return opt->arg;
    return opt->kind == GM_OPT_ENUM ? opt->choices : names[opt->kind];
}

/* "  -m, --model FILE" into left[LEFT_BYTES]; returns its length. */
static size_t left_column(const struct gm_opt *opt, char *left)
{
    char letter[5] = "    ";
    if (opt->letter != 0)
        (void)snprintf(letter, sizeof letter, "-%c, ", opt->letter);
    const char *value = value_name(opt);
    int n = snprintf(left, LEFT_BYTES, "  %s--%s%s%s%s%s", letter, opt->negatable ? "[no-]" : "",
                     opt->name, value[0] != '\0' ? " " : "", value,
                     opt->kind == GM_OPT_LIST ? " ..." : "");
    return n < 0 ? 0 : n < LEFT_BYTES ? (size_t)n : LEFT_BYTES - 1;
}

/* Appends "; text" or " (text"; *open tells whether the bracket is there. A full buffer only
 * shortens the help.                                                                           */
static void add_detail(struct gm_buf *b, bool *open, const char *key, const char *value)
{
    (void)gm_buf_printf(b, NULL, "%s%s%s", *open ? "; " : " (", key, value);
    *open = true;
}

/* The phrase, then "(default 8080; 1 to 65535; variable GM_PORT)". */
static void description(const struct gm_opt *opt, struct gm_buf *b)
{
    char range[96] = "";
    const char *unit = opt->kind == GM_OPT_DURATION ? " ms" : "";
    bool open = false;
    (void)gm_buf_append_text(b, opt->help, NULL);
    if (opt->def != NULL && opt->def[0] != '\0' &&
        !(opt->kind == GM_OPT_FLAG && strcmp(opt->def, "false") == 0))
        add_detail(b, &open, "default ", opt->def);
    if (opt->kind == GM_OPT_ENUM && opt->arg != NULL)
        add_detail(b, &open, "one of ", opt->choices);
    if (opt->min < opt->max && isinf(opt->max))
        (void)snprintf(range, sizeof range, "at least %.15g%s", opt->min, unit);
    else if (opt->min < opt->max && isinf(opt->min))
        (void)snprintf(range, sizeof range, "at most %.15g%s", opt->max, unit);
    else if (opt->min < opt->max)
        (void)snprintf(range, sizeof range, "%.15g to %.15g%s", opt->min, opt->max, unit);
    if (range[0] != '\0')
        add_detail(b, &open, "", range);
    if (opt->env != NULL)
        add_detail(b, &open, "variable ", opt->env);
    if (open)
        (void)gm_buf_append_text(b, ")", NULL);
}

/* Prints words, breaking before the one that would pass LINE_COLUMNS; the cursor is at `column`. */
static void print_wrapped(FILE *out, const char *text, size_t column)
{
    size_t at = column;
    while (*text != '\0') {
        size_t n = strcspn(text, " ");
        if (at > column && at + 1 + n > LINE_COLUMNS) {
            (void)fprintf(out, "\n%*s", (int)column, "");
            at = column;
        } else if (at > column) {
            (void)fputc(' ', out);
            at++;
        }
        (void)fwrite(text, 1, n, out);
        at += n;
        text += n;
        text += strspn(text, " ");
    }
    (void)fputc('\n', out);
}

static void print_row(FILE *out, const char *left, size_t n, const char *text, size_t column)
{
    if (n + 2 > column)
        (void)fprintf(out, "%s\n%*s", left, (int)column, "");
    else
        (void)fprintf(out, "%-*s", (int)column, left);
    print_wrapped(out, text, column);
}

void gm_conf_help(const struct gm_program *program, FILE *out)
{
    static const char help_left[] = "  -h, --help";
    char left[LEFT_BYTES];
    size_t column = sizeof help_left - 1;
    for (size_t i = 0; i < program->n_opts; i++) {
        size_t n =
            program->opts[i].kind == GM_OPT_HEADING ? 0 : left_column(&program->opts[i], left);
        if (n > column && n <= LEFT_MAX)
            column = n;
    }
    column += 2;
    (void)fprintf(out, "Usage: %s %s\n", program->name,
                  program->usage == NULL ? "[options]" : program->usage);
    if (program->about != NULL)
        (void)fprintf(out, "\n%s\n", program->about);
    if (program->n_opts == 0 || program->opts[0].kind != GM_OPT_HEADING)
        (void)fputs("\nOptions:\n", out);
    for (size_t i = 0; i < program->n_opts; i++) {
        const struct gm_opt *opt = &program->opts[i];
        if (opt->kind == GM_OPT_HEADING) {
            (void)fprintf(out, "\n%s:\n", opt->help);
            continue;
        }
        struct gm_buf text = GM_BUF(ABOUT_BYTES);
        size_t n = left_column(opt, left);
        description(opt, &text);
        print_row(out, left, n, gm_buf_text(&text), column);
        gm_buf_free(&text);
    }
    print_row(out, help_left, sizeof help_left - 1, "this text", column);
}
