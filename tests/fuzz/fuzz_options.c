// uses: tests/fuzz/seam_file.c services/cli/state.c services/cli/home.c services/cli/options.c
// uses: services/cli/cut.c services/cli/sample.c services/cli/net.c
// libs: -Wl,--wrap=gm_map_open,--wrap=gm_map_close,--wrap=gm_file_read -ljansson -lsodium
/* fuzz_options.c - libFuzzer target: any bytes as a command line, and as the state file of a
 * pipeline.
 *
 * Owns:      what must hold of every command line: wrong use is told with a sentence, and what is
 *            taken lies within its row's limits.
 * Does not:  know which options are right (tests/unit/test_conf.c), start or stop anything.
 * Input:     the first byte: 0 a command line of words with a zero byte between them, 1 the same
 *            with the first word as the option's variable of the environment, else state.json.
 *            Seeds in tests/fuzz/options.
 */
#include <math.h>
#include <stdio.h>

#include "common/model/config.h"
#include "services/cli/cli.h"
#include "services/cli/sample.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_file.h"

enum { WORDS_MAX = 40, VAR_BYTES_MAX = 256 };

struct all {
    struct gm_up_options up;
    struct gm_sample sample;
    int64_t number, duration;
    uint64_t bytes;
    double real;
    bool flag;
    struct gm_opt_list list;
};

#define NUMBERS_MIN (-5)
#define NUMBERS_MAX 1000

static const struct gm_opt opts[] = {
    GM_UP_ROWS(struct all, up),
    GM_SAMPLE_ROWS(struct all, sample),
    { .name = "number",
      .letter = 'n',
      .kind = GM_OPT_INT,
      .at = offsetof(struct all, number),
      .min = NUMBERS_MIN,
      .max = NUMBERS_MAX,
      .env = "FUZZ_NUMBER",
      .help = "a number" },
    { .name = "bytes", .kind = GM_OPT_UINT, .at = offsetof(struct all, bytes), .help = "bytes" },
    { .name = "real",
      .kind = GM_OPT_FLOAT,
      .at = offsetof(struct all, real),
      .min = 0,
      .max = INFINITY,
      .help = "a number" },
    { .name = "flag",
      .letter = 'f',
      .kind = GM_OPT_FLAG,
      .negatable = true,
      .at = offsetof(struct all, flag),
      .help = "a flag" },
    { .name = "wait",
      .kind = GM_OPT_DURATION,
      .at = offsetof(struct all, duration),
      .help = "a time" },
    { .name = "item",
      .letter = 'i',
      .kind = GM_OPT_LIST,
      .at = offsetof(struct all, list),
      .help = "items" },
};

static const struct gm_program program = { .name = "fuzz",
                                           .usage = "[options]",
                                           .about = "Is fuzzed.",
                                           .opts = opts,
                                           .n_opts = sizeof opts / sizeof *opts,
                                           .positionals_max = 4 };

static void check_layers(const char *text)
{
    struct gm_config c;
    struct gm_err err = GM_ERR_NONE;
    int32_t n = 0, first[GM_SHARDS_MAX + 1];
    must(gm_config_variant(&c, "gemma3-270m", 0, NULL) == GM_OK);
    const enum gm_status rc = gm_config_parse_cut(&c, text, &n, first, &err);
    must_be_told(rc, &err);
    if (rc != GM_OK)
        return;
    must(n >= 1 && n <= GM_SHARDS_MAX && first[0] == 0 && first[n] == c.layers);
    for (int32_t i = 0; i < n; i++)
        must(first[i] < first[i + 1]);
}

static void check_parsed(const struct all *a, const struct gm_args *args)
{
    ProtobufCBinaryData stops[GM_STOPS_MAX];
    Gm__Sampling sampling;
    struct gm_err err = GM_ERR_NONE;
    must(args->n <= program.positionals_max && a->duration >= 0);
    must(a->number >= NUMBERS_MIN && a->number <= NUMBERS_MAX && !(a->real < 0));
    must(a->up.kv >= 0 && a->up.kv < 4 && a->up.speculate >= 0 && a->up.speculate < 2);
    must(a->up.shards >= 1 && a->up.shards <= GM_CUT_SHARDS_MAX && a->sample.top_k >= 0);
    must_be_told(gm_options_check(&program, args, &a->up, &err), &err);
    if (a->up.layers != NULL)
        check_layers(a->up.layers);
    err = GM_ERR_NONE;
    const struct gm_sample_given given = gm_sample_given(&program, args);
    const enum gm_status rc = gm_sample_fill(&a->sample, &given, &sampling, stops, &err);
    must_be_told(rc, &err);
    if (rc == GM_OK)
        must(sampling.max_tokens >= 1 && sampling.temperature >= 0.0f &&
             protobuf_c_message_get_packed_size(&sampling.base) > 0);
}

static void command_line(char *text, size_t size, bool env)
{
    static char name[] = "fuzz";
    char *argv[WORDS_MAX + 2] = { name };
    struct all a;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    int argc = 1;
    for (size_t at = 0; at < size && argc < WORDS_MAX; at += strlen(text + at) + 1)
        argv[argc++] = text + at;
    if (env && argc > 1 && strlen(argv[1]) < VAR_BYTES_MAX) {
        must(setenv("FUZZ_NUMBER", argv[1], 1) == 0);
        argv[1] = name;
    } else {
        must(unsetenv("FUZZ_NUMBER") == 0);
    }
    const enum gm_status rc = gm_conf_parse(&program, argc, argv, &a, &args, &err);
    must_be_told(rc, &err);
    must(rc == GM_OK || rc == GM_INVALID);
    if (rc == GM_OK && !args.help)
        check_parsed(&a, &args);
}

static void state_file(const uint8_t *data, size_t size)
{
    static const struct gm_home home = { .dir = "/home", .run = "/home" };
    static struct gm_state state;
    static const struct gm_settings want;
    struct gm_err err = GM_ERR_NONE;
    seam_file_put("/home/state.json", data, size, 0);
    const enum gm_status rc = gm_state_load(&state, &home, &err);
    must_be_told(rc, &err);
    if (rc == GM_OK) {
        must(state.n <= GM_CLI_PROCS_MAX);
        for (size_t i = 0; i < state.n; i++)
            must(state.procs[i].pid >= 0 && state.procs[i].pid <= INT32_MAX &&
                 memchr(state.procs[i].role, '\0', sizeof state.procs[i].role) != NULL);
        (void)gm_state_compare(&state, &want, &err);
    }
    seam_file_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (data[0] > 1) {
        state_file(data + 1, size - 1);
        return 0;
    }
    char *text = malloc(size);
    must(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    command_line(text, size, data[0] == 1);
    free(text);
    return 0;
}
