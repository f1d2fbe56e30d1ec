/* conf.c - turns argv and the environment into a program's struct, by its option table.
 *
 * Owns:      the forms an option may take and the sentences about wrong ones.
 * Does not:  print (conf_help.c does --help), allocate, or keep state.
 */
#include "common/base/conf.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/text.h"

enum {
    NEAR_MAX = 3,           /* most edits between an unknown option and the one we name */
    SHOWN_MAX = 80,         /* bytes of a wrong word shown in a sentence */
    CHOICE_BYTES_MAX = 400, /* bytes of one table's `choices` */
    SOURCE_BYTES_MAX = 128,
};

/* State of one parse. */
struct scan {
    const struct gm_program *program;
    int argc;
    char *const *argv;
    int at; /* the word being read */
    void *into;
    struct gm_args *args;
    struct gm_err *err;
};

/* ---- one value ----------------------------------------------------------------------------- */

int gm_conf_choice(const char *choices, const char *word)
{
    size_t n = strlen(word);
    int i = 0;
    for (const char *p = choices; p != NULL; i++) {
        const char *end = strchrnul(p, '|');
        if ((size_t)(end - p) == n && memcmp(p, word, n) == 0)
            return i;
        p = *end == '|' ? end + 1 : NULL;
    }
    return -1;
}

static bool has_limits(const struct gm_opt *opt)
{
    return opt->min < opt->max;
}

static enum gm_status range_fail(const struct gm_opt *opt, const char *text, struct gm_err *err)
{
    const char *unit = opt->kind == GM_OPT_DURATION ? " ms" : "";
    if (isinf(opt->max))
        return gm_fail(err, GM_INVALID, "%.*s is less than %.15g%s", SHOWN_MAX, text, opt->min,
                       unit);
    if (isinf(opt->min))
        return gm_fail(err, GM_INVALID, "%.*s is more than %.15g%s", SHOWN_MAX, text, opt->max,
                       unit);
    return gm_fail(err, GM_INVALID, "%.*s is not between %.15g and %.15g%s", SHOWN_MAX, text,
                   opt->min, opt->max, unit);
}

static enum gm_status set_flag(const struct gm_opt *opt, const char *text, void *field,
                               struct gm_err *err)
{
    (void)opt;
    int word = gm_conf_choice("false|true|0|1|no|yes|off|on", text);
    if (word < 0)
        return gm_fail(err, GM_INVALID, "\"%.*s\" is neither true nor false", SHOWN_MAX, text);
    *(bool *)field = word % 2 == 1;
    return GM_OK;
}

static enum gm_status set_int(const struct gm_opt *opt, const char *text, void *field,
                              struct gm_err *err)
{
    int64_t value = 0;
    enum gm_status rc = opt->kind == GM_OPT_DURATION
                            ? gm_parse_duration_ms(text, &value, err)
                            : gm_parse_i64(text, INT64_MIN, INT64_MAX, &value, err);
    if (rc != GM_OK)
        return rc;
    if (has_limits(opt) && ((double)value < opt->min || (double)value > opt->max))
        return range_fail(opt, text, err);
    *(int64_t *)field = value;
    return GM_OK;
}

static enum gm_status set_uint(const struct gm_opt *opt, const char *text, void *field,
                               struct gm_err *err)
{
    uint64_t value = 0;
    enum gm_status rc = gm_parse_u64(text, 0, UINT64_MAX, &value, err);
    if (rc != GM_OK)
        return rc;
    if (has_limits(opt) && ((double)value < opt->min || (double)value > opt->max))
        return range_fail(opt, text, err);
    *(uint64_t *)field = value;
    return GM_OK;
}

static enum gm_status set_float(const struct gm_opt *opt, const char *text, void *field,
                                struct gm_err *err)
{
    double value = 0;
    enum gm_status rc = gm_parse_f64(text, -INFINITY, INFINITY, &value, err);
    if (rc != GM_OK)
        return rc;
    if (has_limits(opt) && (value < opt->min || value > opt->max))
        return range_fail(opt, text, err);
    *(double *)field = value;
    return GM_OK;
}

static enum gm_status set_text(const struct gm_opt *opt, const char *text, void *field,
                               struct gm_err *err)
{
    (void)opt;
    (void)err;
    *(const char **)field = text;
    return GM_OK;
}

static enum gm_status set_enum(const struct gm_opt *opt, const char *text, void *field,
                               struct gm_err *err)
{
    int i = gm_conf_choice(opt->choices, text);
    if (i < 0)
        return gm_fail(err, GM_INVALID, "\"%.*s\" is none of %s", SHOWN_MAX, text, opt->choices);
    *(int32_t *)field = i;
    return GM_OK;
}

static enum gm_status set_list(const struct gm_opt *opt, const char *text, void *field,
                               struct gm_err *err)
{
    struct gm_opt_list *list = field;
    if (list->n >= GM_OPT_LIST_MAX)
        return gm_fail(err, GM_INVALID, "it may be used at most %d times", (int)GM_OPT_LIST_MAX);
    (void)opt;
    list->items[list->n++] = text;
    return GM_OK;
}

/* One row a kind: how a value is read, how large the field is. */
static const struct kind_row {
    enum gm_status (*set)(const struct gm_opt *opt, const char *text, void *field,
                          struct gm_err *err);
    size_t bytes;
} kinds[] = {
    [GM_OPT_FLAG] = { set_flag, sizeof(bool) },
    [GM_OPT_INT] = { set_int, sizeof(int64_t) },
    [GM_OPT_UINT] = { set_uint, sizeof(uint64_t) },
    [GM_OPT_FLOAT] = { set_float, sizeof(double) },
    [GM_OPT_TEXT] = { set_text, sizeof(const char *) },
    [GM_OPT_ENUM] = { set_enum, sizeof(int32_t) },
    [GM_OPT_LIST] = { set_list, sizeof(struct gm_opt_list) },
    [GM_OPT_DURATION] = { set_int, sizeof(int64_t) },
    [GM_OPT_HEADING] = { NULL, 0 },
};

/* Stores one value of table row i. `source` names it in a sentence: "--port" or a variable. */
static enum gm_status scan_set(struct scan *s, size_t i, const char *text, const char *source,
                               enum gm_opt_from from)
{
    const struct gm_opt *opt = &s->program->opts[i];
    void *field = (char *)s->into + opt->at;
    struct gm_err why = GM_ERR_NONE;
    if (opt->kind == GM_OPT_LIST && s->args->from[i] != from)
        ((struct gm_opt_list *)field)->n = 0;
    if (kinds[opt->kind].set(opt, text, field, &why) != GM_OK)
        return gm_fail(s->err, GM_INVALID, "%s: %s", source, why.text);
    s->args->from[i] = (uint8_t)from;
    return GM_OK;
}

/* ---- the table ----------------------------------------------------------------------------- */

static bool row_is_sound(const struct gm_opt *opt)
{
    if ((size_t)opt->kind >= sizeof kinds / sizeof kinds[0])
        return false;
    if (opt->kind == GM_OPT_HEADING)
        return opt->help != NULL;
    if (opt->name == NULL || opt->name[0] == '\0' || strcmp(opt->name, "help") == 0)
        return false;
    if (opt->letter == 'h' || opt->letter == '-' || opt->help == NULL || isnan(opt->min) ||
        isnan(opt->max) || opt->min > opt->max)
        return false;
    if (opt->negatable && opt->kind != GM_OPT_FLAG)
        return false;
    return opt->kind != GM_OPT_ENUM ||
           (opt->choices != NULL && strlen(opt->choices) < CHOICE_BYTES_MAX);
}

/* Zeroes every field and stores the defaults. GM_INTERNAL names the row that is wrong. */
static enum gm_status scan_defaults(struct scan *s)
{
    const struct gm_program *p = s->program;
    if (p->n_opts > GM_OPTS_MAX || p->positionals_max > GM_POSITIONALS_MAX)
        return gm_fail(s->err, GM_INTERNAL, "the option table of %s is too long", p->name);
    for (size_t i = 0; i < p->n_opts; i++) {
        const struct gm_opt *opt = &p->opts[i];
        bool sound = row_is_sound(opt);
        for (size_t j = 0; j < i && sound && opt->name != NULL; j++)
            sound =
                p->opts[j].name == NULL || (strcmp(p->opts[j].name, opt->name) != 0 &&
                                            (opt->letter == 0 || p->opts[j].letter != opt->letter));
        if (!sound)
            return gm_fail(s->err, GM_INTERNAL, "row %zu (%s) of %s's option table is wrong", i,
                           opt->name == NULL ? "?" : opt->name, p->name);
        memset((char *)s->into + opt->at, 0, kinds[opt->kind].bytes);
        if (opt->def == NULL || opt->kind == GM_OPT_HEADING)
            continue;
        if (scan_set(s, i, opt->def, opt->name, GM_FROM_DEFAULT) != GM_OK) {
            if (s->err != NULL)
                s->err->status = GM_INTERNAL;
            return GM_INTERNAL;
        }
    }
    return GM_OK;
}

/* Row of a long name of n bytes, or of --no-NAME with *off set; n_opts when there is none. */
static size_t find_long(const struct gm_program *p, const char *name, size_t n, bool *off)
{
    *off = false;
    for (size_t i = 0; i < p->n_opts; i++)
        if (p->opts[i].kind != GM_OPT_HEADING && strlen(p->opts[i].name) == n &&
            memcmp(p->opts[i].name, name, n) == 0)
            return i;
    if (n <= 3 || memcmp(name, "no-", 3) != 0)
        return p->n_opts;
    for (size_t i = 0; i < p->n_opts; i++) {
        *off = p->opts[i].negatable && strlen(p->opts[i].name) == n - 3 &&
               memcmp(p->opts[i].name, name + 3, n - 3) == 0;
        if (*off)
            return i;
    }
    return p->n_opts;
}

static size_t find_letter(const struct gm_program *p, char letter)
{
    size_t i = 0;
    while (i < p->n_opts && (p->opts[i].kind == GM_OPT_HEADING || p->opts[i].letter != letter))
        i++;
    return i;
}

/* Is the word "--" or an option of this table, and so hardly meant as another option's value? */
static bool looks_like_option(const struct gm_program *p, const char *word)
{
    bool off = false;
    if (strncmp(word, "--", 2) != 0)
        return false;
    size_t n = strcspn(word + 2, "=");
    return n == 0 || strcmp(word, "--help") == 0 || find_long(p, word + 2, n, &off) < p->n_opts;
}

static enum gm_status unknown_option(struct scan *s, const char *word)
{
    const struct gm_program *p = s->program;
    const char *best = NULL;
    size_t best_edits = NEAR_MAX + 1;
    char name[SHOWN_MAX + 1] = "";
    const char *bare = word + strspn(word, "-");
    size_t n = strcspn(bare, "=");
    n = n < SHOWN_MAX ? n : SHOWN_MAX;
    memcpy(name, bare, n);
    for (size_t i = 0; i < p->n_opts && n > 1; i++) {
        const struct gm_opt *opt = &p->opts[i];
        if (opt->kind == GM_OPT_HEADING)
            continue;
        size_t edits = gm_text_distance(name, opt->name, NEAR_MAX);
        if (edits > 1 &&
            (strncmp(opt->name, name, n) == 0 || strncmp(name, opt->name, strlen(opt->name)) == 0))
            edits = 1; /* one begins with the other */
        if (edits < best_edits && 2 * edits <= strlen(opt->name) + 1) {
            best = opt->name;
            best_edits = edits;
        }
    }
    if (best != NULL)
        return gm_fail(s->err, GM_INVALID, "%s has no option %.*s: did you mean --%s?", p->name,
                       SHOWN_MAX, word, best);
    return gm_fail(s->err, GM_INVALID, "%s has no option %.*s: --help lists them", p->name,
                   SHOWN_MAX, word);
}

/* ---- argv ---------------------------------------------------------------------------------- */

/* The next word as the value of `shown`; NULL with the error set when there is none. */
static const char *next_value(struct scan *s, const char *shown)
{
    const char *word = s->at + 1 < s->argc ? s->argv[s->at + 1] : NULL;
    if (word == NULL) {
        (void)gm_fail(s->err, GM_INVALID, "%s needs a value", shown);
        return NULL;
    }
    if (looks_like_option(s->program, word)) {
        (void)gm_fail(s->err, GM_INVALID,
                      "%s needs a value, but %.*s follows: write %s=VALUE if it is meant", shown,
                      SHOWN_MAX, word, shown);
        return NULL;
    }
    s->at++;
    return word;
}

/* --name, --name=value, --name value, --no-name */
static enum gm_status scan_long(struct scan *s, const char *word)
{
    const char *name = word + 2;
    size_t n = strcspn(name, "=");
    const char *value = name[n] == '=' ? name + n + 1 : NULL;
    bool off = false;
    size_t i = find_long(s->program, name, n, &off);
    if (i == s->program->n_opts)
        return unknown_option(s, word);
    const struct gm_opt *opt = &s->program->opts[i];
    char shown[SOURCE_BYTES_MAX];
    (void)snprintf(shown, sizeof shown, "--%s%s", off ? "no-" : "", opt->name);
    if (off && value != NULL)
        return gm_fail(s->err, GM_INVALID, "%s takes no value", shown);
    if (value == NULL && opt->kind == GM_OPT_FLAG)
        value = off ? "false" : "true";
    if (value == NULL)
        value = next_value(s, shown);
    return value == NULL ? GM_INVALID : scan_set(s, i, value, shown, GM_FROM_ARGV);
}

/* -x, -xyz, -xvalue, -x value; sets args->help for an h among flags */
static enum gm_status scan_short(struct scan *s, const char *word)
{
    for (const char *p = word + 1; *p != '\0'; p++) {
        if (*p == 'h') {
            s->args->help = true;
            return GM_OK;
        }
        size_t i = find_letter(s->program, *p);
        if (i == s->program->n_opts)
            return unknown_option(s, word);
        char shown[3] = { '-', *p, '\0' };
        bool flag = s->program->opts[i].kind == GM_OPT_FLAG;
        const char *value = flag ? "true" : p[1] != '\0' ? p + 1 : next_value(s, shown);
        if (value == NULL)
            return GM_INVALID;
        enum gm_status rc = scan_set(s, i, value, shown, GM_FROM_ARGV);
        if (rc != GM_OK || !flag)
            return rc;
    }
    return GM_OK;
}

static enum gm_status scan_positional(struct scan *s, const char *word)
{
    size_t max = s->program->positionals_max;
    if (s->args->n < max) {
        s->args->positionals[s->args->n++] = word;
        return GM_OK;
    }
    if (max == 0)
        return gm_fail(s->err, GM_INVALID, "%s takes only options, not \"%.*s\"", s->program->name,
                       SHOWN_MAX, word);
    return gm_fail(s->err, GM_INVALID, "\"%.*s\" is one word too many: %s takes at most %zu",
                   SHOWN_MAX, word, s->program->name, max);
}

static enum gm_status scan_argv(struct scan *s)
{
    enum gm_status rc = GM_OK;
    bool ended = false;
    for (s->at = 1; s->at < s->argc && s->argv[s->at] != NULL; s->at++) {
        const char *word = s->argv[s->at];
        if (ended || word[0] != '-' || word[1] == '\0')
            rc = scan_positional(s, word);
        else if (strcmp(word, "--") == 0)
            ended = true;
        else if (strcmp(word, "--help") == 0)
            s->args->help = true;
        else if (word[1] == '-')
            rc = scan_long(s, word);
        else
            rc = scan_short(s, word);
        if (rc != GM_OK || s->args->help)
            return rc;
    }
    return GM_OK;
}

/* Variables of the options that argv left alone. */
static enum gm_status scan_environment(struct scan *s)
{
    for (size_t i = 0; i < s->program->n_opts; i++) {
        const struct gm_opt *opt = &s->program->opts[i];
        if (opt->env == NULL || opt->kind == GM_OPT_HEADING || s->args->from[i] == GM_FROM_ARGV)
            continue;
        const char *value = getenv(opt->env);
        if (value == NULL || value[0] == '\0')
            continue;
        char shown[SOURCE_BYTES_MAX];
        (void)snprintf(shown, sizeof shown, "the variable %s", opt->env);
        enum gm_status rc = scan_set(s, i, value, shown, GM_FROM_ENV);
        if (rc != GM_OK)
            return rc;
    }
    return GM_OK;
}

enum gm_status gm_conf_parse(const struct gm_program *program, int argc, char *const argv[],
                             void *into, struct gm_args *args, struct gm_err *err)
{
    memset(args, 0, sizeof *args);
    struct scan s = { program, argc, argv, 1, into, args, err };
    enum gm_status rc = scan_defaults(&s);
    if (rc == GM_OK)
        rc = scan_argv(&s);
    if (rc == GM_OK && !args->help)
        rc = scan_environment(&s);
    return rc;
}

enum gm_opt_from gm_conf_from(const struct gm_program *program, const struct gm_args *args,
                              const char *name)
{
    bool off = false;
    size_t i = find_long(program, name, strlen(name), &off);
    return i < program->n_opts && !off ? (enum gm_opt_from)args->from[i] : GM_FROM_DEFAULT;
}
