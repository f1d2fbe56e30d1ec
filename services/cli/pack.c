/* pack.c - `gemline pack`, and the packing that a first start does: weights laid out for this CPU.
 *
 * Owns:      the command's options and output, the meter on a terminal.
 * Does not:  pack (pack_model.c).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/cli.h"
#include "services/cli/pack_model.h"

enum { METER_MS = 100 };

struct options {
    const char *model;
    int64_t threads;
};

static const struct gm_opt opts[] = {
    { .name = "model",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, model),
      .arg = "FILE",
      .help = "the model, a GGUF file (default: Gemma 3 270M of the cache folder)" },
    { .name = "threads",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, threads),
      .def = "0",
      .max = 256,
      .help = "threads (0: one for each core)" },
};
static const struct gm_program program = {
    .name = "gemline pack",
    .usage = "[--model FILE] [--threads N]",
    .about = "Lays the weights out for this CPU, once, in the cache folder ($GEMLINE_PACK names\n"
             "another). A first start does it by itself; images and nodes can be prepared with it.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

static void meter(void *ctx, uint64_t done, uint64_t total)
{
    static int64_t last_ms;
    const int64_t now = gm_now_ms();
    (void)ctx;
    if (now - last_ms < METER_MS && done < total)
        return;
    last_ms = now;
    fprintf(stderr, "\rgemline: packing the weights for this CPU: %.0f of %.0f MiB ",
            (double)done / (double)(1 << 20), (double)total / (double)(1 << 20));
}

static enum gm_status pack(const char *model, int threads, uint64_t *written, char *folder,
                           struct gm_err *err)
{
    const bool terminal = isatty(STDERR_FILENO);
    const enum gm_status rc =
        gm_packing_run(model, threads, terminal ? meter : NULL, written, folder, err);
    if (terminal && *written > 0)
        fprintf(stderr, "\r%*s\r", 72, "");
    return rc;
}

/* A failure is no reason not to start: the shards say what they could not do. */
void gm_cli_pack_first(const char *model, int64_t threads)
{
    char folder[GM_PATH_MAX];
    uint64_t written;
    if (gm_packing_needed(model))
        (void)pack(model, threads > 0 ? (int)threads : (int)gm_cpus_usable(), &written, folder,
                   NULL);
}

int gm_cmd_pack(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    char model[GM_PATH_MAX], folder[GM_PATH_MAX];
    uint64_t written = 0;
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    const struct gm_up_options up = { .model = o.model };
    const int64_t start = gm_now_ms();
    if (gm_options_model(&up, model, &err) != GM_OK ||
        pack(model, o.threads > 0 ? (int)o.threads : (int)gm_cpus_usable(), &written, folder,
             &err) != GM_OK)
        return gm_cli_fail(&err);
    if (!folder[0])
        printf("this kernel set packs nothing\n");
    else if (written == 0)
        printf("nothing to do: %s\n", folder);
    else
        printf("packed %.1f MiB in %.2f s: %s\n", (double)written / (double)(1 << 20),
               (double)(gm_now_ms() - start) / 1000.0, folder);
    return GM_CLI_OK;
}
