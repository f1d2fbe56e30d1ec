/* main.c - the orchestrator process: its options.
 *
 * Owns:      the command line and the exit status.
 * Does not:  serve (serve.c).
 */
#include <stdio.h>

#include "orchestrator/orch.h"

#define TEXT(opt, field, what, text)                                                               \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_TEXT, .at = offsetof(struct gm_orch_options, field),           \
        .arg = what, .help = text                                                                  \
    }
#define NUMBER(opt, field, first, low, high, text)                                                 \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_INT, .at = offsetof(struct gm_orch_options, field),            \
        .def = first, .min = low, .max = high, .help = text                                        \
    }

static const struct gm_opt opts[] = {
    TEXT("run-dir", run_dir, "DIR", "run directory: sockets"),
    TEXT("redis", redis, "PATH", "Redis's Unix socket"),
    TEXT("model", model, "NAME", "the model's name, for clients"),
    NUMBER("index", index, "0", 0, 1024, "number of this instance"),
    NUMBER("shards", shards, "1", 1, GM_SHARDS_MAX, "shards of the chain"),
    NUMBER("context", context, "8192", 16, 1 << 20, "tokens of one sequence"),
    NUMBER("session-ttl", session_ttl_ms, "604800000", 1000, 1e12,
           "milliseconds that an unused session is kept"),
    NUMBER("unread", unread_ms, "60000", 100, 86400000,
           "milliseconds that a client may take nothing of what is there"),
    GM_NET_OPTIONS(struct gm_orch_options, net),
};
static const struct gm_program program = {
    .name = "gm-orchestrator",
    .usage = "--run-dir DIR --redis PATH [options]",
    .about = "Runs turns and keeps sessions. Started by `gemline up`.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

int main(int argc, char **argv)
{
    struct gm_orch_options opt;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    if (gm_conf_parse(&program, argc, argv, &opt, &args, &err) != GM_OK) {
        fprintf(stderr, "gm-orchestrator: %s\n", err.text);
        return 2;
    }
    if (args.help) {
        gm_conf_help(&program, stdout);
        return 0;
    }
    if (!opt.run_dir || !opt.redis) {
        fprintf(stderr, "gm-orchestrator: --run-dir and --redis are needed; see --help\n");
        return 2;
    }
    gm_log_open("orchestrator", 2);
    const enum gm_status rc = gm_orch_serve(&opt, &err);
    if (rc != GM_OK)
        fprintf(stderr, "gm-orchestrator: %s\n", err.text);
    return rc == GM_OK ? 0 : 1;
}
