/* conf.h - the option table: one mechanism that parses and explains every program's options.
 *
 * Owns:      the kinds of options, parsing of argv and environment, the text of --help.
 * Does not:  copy texts (they point into argv, the environment or the table), know any program's
 *            options, exit or print errors.
 *
 *     struct my { int64_t port; const char *model; bool quiet; };
 *     static const struct gm_opt opts[] = {
 *         { .name = "port", .kind = GM_OPT_INT, .at = offsetof(struct my, port), .def = "8080",
 *           .min = 1, .max = 65535, .arg = "N", .help = "port to listen on" },
 *         { .name = "quiet", .letter = 'q', .kind = GM_OPT_FLAG, .at = offsetof(struct my, quiet),
 *           .help = "print nothing but the answer" },
 *     };
 *     static const struct gm_program prog = { .name = "gm-x", .usage = "[options] FILE",
 *           .about = "Does x.", .opts = opts, .n_opts = 2, .positionals_max = 1 };
 */
#ifndef GM_BASE_CONF_H
#define GM_BASE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/err.h"

enum {
    GM_OPTS_MAX = 128,        /* rows of one table */
    GM_OPT_LIST_MAX = 64,     /* values of one repeated option */
    GM_POSITIONALS_MAX = 256, /* positionals of one command line */
};

struct gm_opt_list {
    size_t n;
    const char *items[GM_OPT_LIST_MAX];
};

/* What stands at offset `at` of the caller's struct: */
enum gm_opt_kind {
    GM_OPT_FLAG,     /* bool */
    GM_OPT_INT,      /* int64_t */
    GM_OPT_UINT,     /* uint64_t, for seeds and byte counts */
    GM_OPT_FLOAT,    /* double */
    GM_OPT_TEXT,     /* const char *; NULL when absent and without default */
    GM_OPT_ENUM,     /* int32_t: index into `choices` */
    GM_OPT_LIST,     /* struct gm_opt_list: one item per use */
    GM_OPT_DURATION, /* int64_t milliseconds ("30", "30s", "250ms", "5m", "2h", "7d") */
    GM_OPT_HEADING,  /* nothing: `help` is a heading of --help */
};

struct gm_opt {
    const char *name; /* long name without "--" */
    char letter;      /* short name, 0: none ('h' is taken by --help) */
    enum gm_opt_kind kind;
    bool negatable;  /* a flag that also takes --no-NAME */
    size_t at;       /* offsetof in the caller's struct */
    const char *def; /* default as text, parsed like a value ("true"/"false" for a flag);
                        NULL: false, 0, 0.0, NULL, first choice, empty list */
    double min;      /* numbers; durations in milliseconds; min == max: no limits;
                            INFINITY is no limit on its side */
    double max;
    const char *choices; /* enum: "auto|cpu|reference" */
    const char *arg;     /* the value's name in --help; NULL: one by kind */
    const char *help;    /* a phrase; --help adds default, limits and variable */
    const char *env;     /* environment variable read when argv does not set it; may be NULL;
                            an empty variable counts as unset */
};

struct gm_program {
    const char *name;  /* "gemline chat" */
    const char *usage; /* what follows the name on the usage line */
    const char *about; /* one or more lines of description */
    const struct gm_opt *opts;
    size_t n_opts;
    size_t positionals_max; /* more are GM_INVALID */
};

struct gm_args {
    bool help; /* --help or -h was there: print gm_conf_help and leave; nothing else is valid */
    size_t n;  /* positionals */
    const char *positionals[GM_POSITIONALS_MAX];
    uint8_t from[GM_OPTS_MAX]; /* per row of the table: enum gm_opt_from */
};

enum gm_opt_from { GM_FROM_DEFAULT, GM_FROM_ENV, GM_FROM_ARGV };

/* Fills `into` (every option's field) and *args: defaults, then environment, then argv[1 ..].
 * Forms: --name=value, --name value, --flag, --no-flag, -x, -xyz (flags), -xvalue, -x value;
 * "--" ends options; a lone "-" is a positional. The last use of an option wins (lists add up;
 * one use replaces a default or environment item).
 * GM_INVALID with a sentence that names the option (and the nearest one, when unknown) or the
 * wrong value and what is allowed; GM_INTERNAL when the table itself is wrong.                  */
enum gm_status gm_conf_parse(const struct gm_program *program, int argc, char *const argv[],
                             void *into, struct gm_args *args, struct gm_err *err);

/* Where the value of option `name` came from; GM_FROM_DEFAULT for an unknown name. */
enum gm_opt_from gm_conf_from(const struct gm_program *program, const struct gm_args *args,
                              const char *name);

/* Writes usage, description and the aligned table of options. */
void gm_conf_help(const struct gm_program *program, FILE *out);

/* Index of `word` in "a|b|c"; -1 when it is none of them. */
int gm_conf_choice(const char *choices, const char *word);

#endif
