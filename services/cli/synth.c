/* synth.c - `gemline synth`: a model file of a variant's real shapes with random weights.
 *
 * Owns:      the command's options and output, the meter on a terminal.
 * Does not:  make weights or know file formats (synth_model.c).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/cli.h"
#include "services/cli/synth_model.h"

enum { LAYERS_MAX = 128, METER_MS = 100 };

static const double gib = 1073741824.0;

struct options {
    const char *variant, *vocab;
    int32_t type;
    int64_t layers;
    uint64_t seed;
    bool force;
};

static const struct gm_opt opts[] = {
    { .name = "variant",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, variant),
      .arg = "NAME",
      .help = "270m, 1b, 4b, 12b, 27b, gemma2-2b, gemma2-9b or gemma2-27b (must be given)" },
    { .name = "type",
      .kind = GM_OPT_ENUM,
      .at = offsetof(struct options, type),
      .choices = GM_SYNTH_TYPES,
      .def = "q4_k_m",
      .help = "how weights are stored, mixed as in files of that kind" },
    { .name = "seed",
      .kind = GM_OPT_UINT,
      .at = offsetof(struct options, seed),
      .def = "1",
      .help = "the same seed gives the same bytes" },
    { .name = "layers",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, layers),
      .def = "0",
      .max = LAYERS_MAX,
      .help = "so many layers instead of the variant's (0: the variant's)" },
    { .name = "vocab-from",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, vocab),
      .arg = "FILE",
      .help = "the GGUF file whose vocabulary is copied (default: Gemma 3 270M of the cache)" },
    { .name = "force",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, force),
      .help = "write over a file that is there" },
};
static const struct gm_program program = {
    .name = "gemline synth",
    .usage = "--variant NAME [options] OUT.gguf",
    .about = "Writes a model of a variant's real shapes and a real vocabulary, but with random\n"
             "weights: it runs as fast and takes as much memory as the trained one, and says\n"
             "nothing of sense. The file gets its name when it is whole.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 1,
};

/* The time of the last line, so that a fast disk does not flood a terminal. */
static void meter(void *ctx, uint64_t done, uint64_t total)
{
    int64_t *last = ctx, now = gm_now_ms();
    if (now - *last < METER_MS)
        return;
    *last = now;
    fprintf(stderr, "\rwriting: %.2f of %.2f GiB", (double)done / gib, (double)total / gib);
}

/* What must be right before anything is looked at: wrong use. */
static enum gm_status check(const struct options *o, const struct gm_args *args,
                            const struct gm_synth *s, struct gm_err *err)
{
    if (!o->variant)
        return gm_fail(err, GM_INVALID,
                       "say which model, for example gemline synth --variant 1b OUT.gguf");
    if (args->n != 1 || !args->positionals[0][0])
        return gm_fail(err, GM_INVALID, "name the file to write, for example OUT.gguf");
    return gm_synth_check(s, err);
}

static enum gm_status find_vocab(const struct options *o, char out[GM_PATH_MAX], struct gm_err *err)
{
    const struct gm_up_options up = { .model = o->vocab };
    enum gm_status st = gm_options_model(&up, out, err);
    if (st != GM_OK && !o->vocab)
        return gm_fail(err, st,
                       "the default model, whose vocabulary would be copied, is not there; run "
                       "make model, or give --vocab-from");
    return st;
}

int gm_cmd_synth(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_synth_report report;
    static char vocab[GM_PATH_MAX];
    const bool terminal = isatty(STDERR_FILENO);
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    int64_t start = gm_now_ms(), shown = start;
    const struct gm_synth s = { .variant = o.variant,
                                .type = o.type,
                                .layers = o.layers,
                                .seed = o.seed,
                                .vocab = vocab,
                                .out = args.n ? args.positionals[0] : "",
                                .replace = o.force,
                                .threads = (int)gm_cpus_usable(),
                                .progress = terminal ? meter : NULL,
                                .ctx = &shown };
    if (check(&o, &args, &s, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (!o.force && gm_path_exists(s.out)) {
        gm_fail(&err, GM_EXISTS, "%.250s is there already; name another file or give --force",
                s.out);
        return gm_cli_fail(&err);
    }
    enum gm_status st = find_vocab(&o, vocab, &err);
    if (st == GM_OK)
        st = gm_synth_write(&s, &report, &err);
    if (terminal && shown != start)
        fputs("\r\033[K", stderr);
    if (st != GM_OK)
        return gm_cli_fail(&err);
    printf("%s: %d layers, %.1f million weights, %.2f GiB, written in %.1f s\n", s.out,
           (int)report.layers, (double)report.weights / 1e6, (double)report.bytes / gib,
           (double)(gm_now_ms() - start) / 1e3);
    return GM_CLI_OK;
}
