/* plan.c - `gemline plan`: a balanced cut of a model's layers.
 *
 * Owns:      the command's options and output.
 * Does not:  weigh layers (cut.c).
 */
#include <stdio.h>

#include "services/cli/cli.h"

struct options {
    int64_t shards;
    const char *model;
};

static const struct gm_opt opts[] = {
    { .name = "shards",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, shards),
      .def = "1",
      .min = 1,
      .max = GM_CUT_SHARDS_MAX,
      .help = "processes that share the layers (must be given)" },
    { .name = "model",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, model),
      .arg = "FILE",
      .help = "a GGUF file (default: Gemma 3 270M of the cache)" },
};
static const struct gm_program program = {
    .name = "gemline plan",
    .usage = "--shards N [--model FILE]",
    .about = "Prints a cut for gemline up --layers. It counts the bytes read for a token: the\n"
             "layers' weights, the global layers' longer memory, the head on the last shard.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

int gm_cmd_plan(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_cut cut;
    static char model[GM_PATH_MAX];
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (gm_conf_from(&program, &args, "shards") != GM_FROM_ARGV) {
        gm_fail(&err, GM_INVALID, "say how many shards, for example gemline plan --shards 3");
        return gm_cli_wrong(&err);
    }
    const struct gm_up_options up = { .model = o.model };
    if (gm_options_model(&up, model, &err) != GM_OK ||
        gm_cut_make(&cut, model, o.shards, NULL, &err) != GM_OK)
        return gm_cli_fail(&err);
    printf("%s\n", cut.text);
    return GM_CLI_OK;
}
