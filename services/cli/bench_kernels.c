/* bench_kernels.c - `gemline bench kernels`: the kernel set of this machine, case by case.
 *
 * Owns:      the figures of a line: bytes, time, rates, shares of the machine's limits.
 * Does not:  time or compare (kernels_bench.c), or need a pipeline or a model.
 */
#include "services/cli/bench.h"
#include "services/cli/kernels_bench.h"

enum { THREADS_MAX = 256 };

struct lines {
    struct gm_bench *bench;
    struct gm_err *err;
    enum gm_status rc;
    unsigned differ;
};

/* All figures of a line have its name, so that they are printed beside each other. */
static bool put_line(void *ctx, const struct gm_kbench_line *l)
{
    struct lines *lines = ctx;
    const bool counted = l->product_unit != NULL;
    const struct {
        const char *unit;
        double value;
        bool there;
    } figures[] = {
        { "us", l->seconds * 1e6, true },
        { "MB", l->bytes * 1e-6, true },
        { "GB/s", l->bytes / l->seconds * 1e-9, true },
        { "% of reading", 100 * l->read_share, true },
        { "GOP/s", 2 * l->products / l->seconds * 1e-9, counted },
        { l->product_unit, 100 * l->product_share, counted },
        { "differs from ref", 1, l->differs },
    };
    lines->differ += l->differs;
    gm_cli_progress("measuring kernels: %s, %d threads", l->name, l->threads);
    for (size_t i = 0; lines->rc == GM_OK && i < sizeof figures / sizeof figures[0]; i++)
        if (figures[i].there)
            lines->rc =
                gm_bench_put(lines->bench, lines->err, figures[i].value, figures[i].unit,
                             "%s, %d thread%s", l->name, l->threads, l->threads == 1 ? "" : "s");
    return lines->rc == GM_OK && !gm_stopping();
}

enum gm_status gm_bench_kernels(struct gm_bench *b, struct gm_err *err)
{
    const int64_t wanted = b->o->up.threads ? b->o->up.threads : (int64_t)gm_cpus_usable();
    const struct gm_kbench_options o = { .threads =
                                             (int)(wanted < THREADS_MAX ? wanted : THREADS_MAX),
                                         .sizes = gm_kbench_sizes_full };
    struct lines lines = { .bench = b, .err = err };
    const enum gm_status rc = gm_kbench_run(&o, put_line, &lines, err);
    if (lines.rc != GM_OK)
        return gm_fail(err, lines.rc, "more than %d figures; ask for fewer at once",
                       GM_BENCH_FIGURES_MAX);
    if (rc == GM_OK && lines.differ > 0)
        gm_fail(&b->late, GM_INTERNAL,
                "%u lines differ from the reference kernels; tell the authors, and use "
                "GM_KERNELS=ref until then",
                lines.differ);
    return rc;
}
