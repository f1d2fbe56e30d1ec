/* test_conf.c - the option table: every kind, every form, every refusal, and the help text.
 *
 * Owns:      the checks of conf.h.
 * Does not:  test the tables of the programs.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/conf.h"
#include "common/base/text.h"

struct my {
    bool quiet;
    bool color;
    int64_t port;
    uint64_t seed;
    double temperature;
    const char *model;
    int32_t kernels;
    struct gm_opt_list stops;
    int64_t idle_ms;
};

static const struct gm_opt opts[] = {
    { .kind = GM_OPT_HEADING, .help = "General" },
    { .name = "quiet",
      .letter = 'q',
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct my, quiet),
      .help = "print nothing but the answer" },
    { .name = "color",
      .letter = 'c',
      .kind = GM_OPT_FLAG,
      .negatable = true,
      .def = "true",
      .at = offsetof(struct my, color),
      .env = "GM_TEST_COLOR",
      .help = "colours" },
    { .name = "port",
      .letter = 'p',
      .kind = GM_OPT_INT,
      .at = offsetof(struct my, port),
      .def = "8080",
      .min = 1,
      .max = 65535,
      .env = "GM_TEST_PORT",
      .help = "port to listen on" },
    { .name = "seed", .kind = GM_OPT_UINT, .at = offsetof(struct my, seed), .help = "seed" },
    { .kind = GM_OPT_HEADING, .help = "Sampling" },
    { .name = "temperature",
      .letter = 't',
      .kind = GM_OPT_FLOAT,
      .def = "1.0",
      .min = 0,
      .max = INFINITY,
      .at = offsetof(struct my, temperature),
      .help = "how freely the next token is drawn; 0 always takes the most probable one, and "
              "larger values make rare words more likely than the model says" },
    { .name = "model",
      .letter = 'm',
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct my, model),
      .arg = "FILE",
      .help = "weights" },
    { .name = "kernels",
      .kind = GM_OPT_ENUM,
      .at = offsetof(struct my, kernels),
      .def = "cpu",
      .choices = "auto|cpu|reference",
      .help = "kernel set" },
    { .name = "stop",
      .letter = 's',
      .kind = GM_OPT_LIST,
      .at = offsetof(struct my, stops),
      .def = "END",
      .env = "GM_TEST_STOP",
      .help = "stop string" },
    { .name = "idle",
      .kind = GM_OPT_DURATION,
      .at = offsetof(struct my, idle_ms),
      .def = "5m",
      .min = 1000,
      .max = 3600000,
      .help = "leave after this long" },
};

static const struct gm_program program = {
    .name = "gm-x",
    .usage = "[options] [FILE...]",
    .about = "Does x.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 3,
};

static struct my my;
static struct gm_args args;
static struct gm_err err;

enum { WORDS_MAX = 100 };

/* Parses the words of one line, parted by single '|'. */
static enum gm_status parse(const struct gm_program *p, const char *line)
{
    static char text[4096];
    static char name[] = "gm-x";
    char *argv[WORDS_MAX + 2] = { name };
    int argc = 1;
    (void)snprintf(text, sizeof text, "%s", line);
    char *rest = text;
    for (char *word; text[0] != '\0' && argc < WORDS_MAX && (word = strsep(&rest, "|")) != NULL;)
        argv[argc++] = word;
    memset(&my, 0xEE, sizeof my); /* every field must be written */
    err = GM_ERR_NONE;
    return gm_conf_parse(p, argc, argv, &my, &args, &err);
}

static void test_defaults(void)
{
    CU_ASSERT_EQUAL(parse(&program, ""), GM_OK);
    CU_ASSERT_FALSE(my.quiet);
    CU_ASSERT_TRUE(my.color);
    CU_ASSERT_EQUAL(my.port, 8080);
    CU_ASSERT_EQUAL(my.seed, 0);
    CU_ASSERT_EQUAL(my.temperature, 1.0);
    CU_ASSERT_PTR_NULL(my.model);
    CU_ASSERT_EQUAL(my.kernels, 1);
    CU_ASSERT(my.stops.n == 1 && strcmp(my.stops.items[0], "END") == 0);
    CU_ASSERT_EQUAL(my.idle_ms, 300000);
    CU_ASSERT_EQUAL(args.n, 0);
    CU_ASSERT_FALSE(args.help);
    CU_ASSERT_EQUAL(gm_conf_from(&program, &args, "port"), GM_FROM_DEFAULT);
}

static void test_forms(void)
{
    CU_ASSERT_EQUAL(parse(&program, "--port=9|a|--seed|18446744073709551615|-qt0.5|-|-mf|--no-color"
                                    "|--stop|x|-sy|--idle=30m|--kernels|auto|--|--port"),
                    GM_OK);
    CU_ASSERT_STRING_EQUAL(err.text, "");
    CU_ASSERT_EQUAL(my.port, 9);
    CU_ASSERT_EQUAL(my.seed, UINT64_MAX);
    CU_ASSERT_TRUE(my.quiet);
    CU_ASSERT_EQUAL(my.temperature, 0.5);
    CU_ASSERT(my.model != NULL && strcmp(my.model, "f") == 0);
    CU_ASSERT_FALSE(my.color);
    CU_ASSERT_EQUAL_FATAL(my.stops.n, 2);
    CU_ASSERT_STRING_EQUAL(my.stops.items[0], "x");
    CU_ASSERT_STRING_EQUAL(my.stops.items[1], "y");
    CU_ASSERT_EQUAL(my.kernels, 0);
    CU_ASSERT_EQUAL_FATAL(args.n, 3);
    CU_ASSERT_STRING_EQUAL(args.positionals[0], "a");
    CU_ASSERT_STRING_EQUAL(args.positionals[1], "-");
    CU_ASSERT_STRING_EQUAL(args.positionals[2], "--port");
    CU_ASSERT_EQUAL(gm_conf_from(&program, &args, "port"), GM_FROM_ARGV);
    CU_ASSERT_EQUAL(gm_conf_from(&program, &args, "nothing"), GM_FROM_DEFAULT);
    CU_ASSERT_EQUAL(parse(&program, "-m|-5|--port|1|--port|2|--model=|--quiet=no|--color=off"),
                    GM_OK);
    CU_ASSERT_EQUAL(my.port, 2);
    CU_ASSERT_STRING_EQUAL(my.model, "");
    CU_ASSERT_FALSE(my.quiet);
    CU_ASSERT_FALSE(my.color);
    CU_ASSERT_EQUAL(parse(&program, "--model|-- a list"), GM_OK);
    CU_ASSERT_STRING_EQUAL(my.model, "-- a list");
    CU_ASSERT_EQUAL(parse(&program, "--model=--port"), GM_OK);
    CU_ASSERT_STRING_EQUAL(my.model, "--port");
}

static void test_refusals(void)
{
    static const struct {
        const char *line;
        const char *says;
    } rows[] = {
        { "--prot=1", "did you mean --port?" },
        { "--temprature|1", "did you mean --temperature?" },
        { "--temp|1", "did you mean --temperature?" },
        { "--zzzzzzzz", "--help lists them" },
        { "--no-port", "no option --no-port" },
        { "--no-quiet", "no option --no-quiet" },
        { "--no-color=1", "--no-color takes no value" },
        { "-z", "no option -z" },
        { "-qz", "no option -qz" },
        { "--port", "--port needs a value" },
        { "-p", "-p needs a value" },
        { "--model|--port|1", "write --model=VALUE" },
        { "--model|--", "--model needs a value" },
        { "--port=", "--port: \"\" is not a whole number" },
        { "--port=x", "\"x\" is not a whole number" },
        { "--port=1x", "\"1x\" is not a whole number" },
        { "--port=0", "0 is not between 1 and 65535" },
        { "-p99999999999999999999999", "99999999999999999999999 is not between" },
        { "--seed=-1", "--seed: -1 is not between" },
        { "--temperature=-0.1", "-0.1 is less than 0" },
        { "--temperature=nan", "\"nan\" is not a number" },
        { "--kernels=gpu", "\"gpu\" is none of auto|cpu|reference" },
        { "--kernels=auto|cpu|z|w|v", "one word too many" },
        { "--kernels=", "\"\" is none of" },
        { "--idle=1w", "not a duration" },
        { "--idle=10ms", "10ms is not between 1000 and 3600000 ms" },
        { "--quiet=maybe", "neither true nor false" },
        { "a|b|c|d", "\"d\" is one word too many" },
        { "--=x", "no option --=x" },
        { "---", "no option ---" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        CU_ASSERT_EQUAL(parse(&program, rows[i].line), GM_INVALID);
        if (strstr(err.text, rows[i].says) == NULL) {
            (void)printf("\n%s gave: %s\n", rows[i].line, err.text);
            CU_FAIL("the sentence says what is wrong");
        }
    }
    struct gm_buf line = GM_BUF(4096);
    CU_ASSERT_EQUAL(gm_buf_append_text(&line, "-sx", NULL), GM_OK);
    for (int i = 1; i < GM_OPT_LIST_MAX; i++)
        CU_ASSERT_EQUAL(gm_buf_append_text(&line, "|-sx", NULL), GM_OK);
    CU_ASSERT_EQUAL(parse(&program, gm_buf_text(&line)), GM_OK);
    CU_ASSERT_EQUAL(my.stops.n, GM_OPT_LIST_MAX);
    CU_ASSERT_EQUAL(gm_buf_append_text(&line, "|-sx", NULL), GM_OK);
    CU_ASSERT_EQUAL(parse(&program, gm_buf_text(&line)), GM_INVALID);
    gm_buf_free(&line);
    char lots[3000] = "--";
    memset(lots + 2, 'p', sizeof lots - 3);
    CU_ASSERT_EQUAL(parse(&program, lots), GM_INVALID);
    CU_ASSERT(strlen(err.text) < 250);
    CU_ASSERT_EQUAL(gm_conf_parse(&program, 0, NULL, &my, &args, NULL), GM_OK);
}

static void test_environment(void)
{
    (void)setenv("GM_TEST_PORT", "77", 1);
    (void)setenv("GM_TEST_STOP", "out of|env", 1);
    (void)setenv("GM_TEST_COLOR", "", 1);
    CU_ASSERT_EQUAL(parse(&program, ""), GM_OK);
    CU_ASSERT_EQUAL(my.port, 77);
    CU_ASSERT_TRUE(my.color);
    CU_ASSERT(my.stops.n == 1 && strcmp(my.stops.items[0], "out of|env") == 0);
    CU_ASSERT_EQUAL(gm_conf_from(&program, &args, "port"), GM_FROM_ENV);
    CU_ASSERT_EQUAL(parse(&program, "--port=5|-sx"), GM_OK);
    CU_ASSERT_EQUAL(my.port, 5);
    CU_ASSERT(my.stops.n == 1 && strcmp(my.stops.items[0], "x") == 0);
    (void)setenv("GM_TEST_PORT", "seven", 1);
    CU_ASSERT_EQUAL(parse(&program, ""), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "GM_TEST_PORT"));
    CU_ASSERT_EQUAL(parse(&program, "--help"), GM_OK); /* help works in a broken environment */
    CU_ASSERT_TRUE(args.help);
    (void)unsetenv("GM_TEST_PORT");
    (void)unsetenv("GM_TEST_STOP");
    (void)unsetenv("GM_TEST_COLOR");
}

static void test_wrong_tables(void)
{
    static const struct gm_opt rows[] = {
        { .kind = GM_OPT_FLAG, .help = "no name" },
        { .name = "help", .kind = GM_OPT_FLAG, .help = "taken" },
        { .name = "x", .letter = 'h', .kind = GM_OPT_FLAG, .help = "taken" },
        { .name = "x", .kind = GM_OPT_FLAG },
        { .name = "x", .kind = GM_OPT_ENUM, .help = "no choices" },
        { .name = "x", .kind = GM_OPT_INT, .negatable = true, .help = "no flag" },
        { .name = "x", .kind = GM_OPT_INT, .def = "abc", .help = "wrong default" },
        { .name = "x", .kind = GM_OPT_INT, .min = 5, .max = 1, .help = "limits swapped" },
        { .name = "x", .kind = (enum gm_opt_kind)99, .help = "no such kind" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct gm_program p = { .name = "p", .opts = &rows[i], .n_opts = 1 };
        CU_ASSERT_EQUAL(parse(&p, ""), GM_INTERNAL);
        CU_ASSERT_EQUAL(err.status, GM_INTERNAL);
    }
    struct gm_opt twice[] = { opts[1], opts[1] };
    struct gm_program p = { .name = "p", .opts = twice, .n_opts = 2 };
    CU_ASSERT_EQUAL(parse(&p, ""), GM_INTERNAL);
    twice[1].name = "other"; /* the letter is still the same */
    CU_ASSERT_EQUAL(parse(&p, ""), GM_INTERNAL);
    twice[1].letter = 'o';
    CU_ASSERT_EQUAL(parse(&p, "-qo"), GM_OK);
    CU_ASSERT_EQUAL(parse(&p, "x"), GM_INVALID);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "takes only options"));
}

static void test_help(void)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    CU_ASSERT_PTR_NOT_NULL_FATAL(out);
    gm_conf_help(&program, out);
    (void)fclose(out);
    static const char *const parts[] = {
        "Usage: gm-x [options] [FILE...]\n",
        "\nDoes x.\n",
        "\nGeneral:\n",
        "\nSampling:\n",
        "  -q, --quiet",
        "--[no-]color",
        "--kernels auto|cpu|reference",
        "port to listen on (default 8080; 1 to 65535; variable GM_TEST_PORT)",
        "--model FILE",
        "--stop TEXT ...",
        "(default 5m; 1000 to 3600000 ms)",
        "  -h, --help",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        CU_ASSERT_PTR_NOT_NULL(strstr(text, parts[i]));
    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        CU_ASSERT(end - line <= 96);
        line = *end == '\0' ? NULL : end + 1;
    }
    /* Both columns are aligned: the phrases start at the same place. */
    const char *port = strstr(text, "port to listen");
    const char *quiet = strstr(text, "print nothing");
    CU_ASSERT_FATAL(port != NULL && quiet != NULL);
    const char *port_line = memrchr(text, '\n', (size_t)(port - text));
    const char *quiet_line = memrchr(text, '\n', (size_t)(quiet - text));
    CU_ASSERT_EQUAL(port - port_line, quiet - quiet_line);
    free(text);
    CU_ASSERT_EQUAL(parse(&program, "-qh|--bogus"), GM_OK);
    CU_ASSERT_TRUE(args.help);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_TestInfo tests[] = {
        { "defaults", test_defaults },
        { "forms", test_forms },
        { "refusals", test_refusals },
        { "environment", test_environment },
        { "wrong tables", test_wrong_tables },
        { "help", test_help },
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = { { "conf", NULL, NULL, NULL, NULL, tests }, CU_SUITE_INFO_NULL };
    if (CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
