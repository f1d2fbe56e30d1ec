/* kernels_bench.c - test_kernels --bench: the lines of the kernel bench as a table.
 *
 * Owns:      the form of the table; the count of lines that differ from gm_ref.
 * Does not:  time or compare (services/cli/kernels_bench.c). No test reads the figures: they depend
 *            on the machine.
 */
#include "services/cli/kernels_bench.h"

#include <stdio.h>

#include "common/base/sys.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "tests/unit/kernels_check.h"

static bool print_line(void *ctx, const struct gm_kbench_line *l)
{
    unsigned *differ = ctx;
    *differ += l->differs;
    printf("%-28s %-13s %3d %10.3f MB %11.2f us %8.2f GB/s %6.1f %%", l->name, l->set, l->threads,
           l->bytes * 1e-6, l->seconds * 1e6, l->bytes / l->seconds * 1e-9, 100 * l->read_share);
    if (l->product_unit)
        printf(" %9.2f GOP/s %6.1f %s", 2 * l->products / l->seconds * 1e-9, 100 * l->product_share,
               l->product_unit);
    printf("%s\n", l->differs ? "  DIFFERS from ref" : "");
    (void)fflush(stdout);
    return true;
}

int gm_bench_kernels(const struct gm_kernels *const *sets, int count, const char *only)
{
    const uint32_t cpus = gm_cpus_usable();
    struct gm_kbench_options o = { .only = only, .sizes = gm_kbench_sizes_full };
    struct gm_err err = GM_ERR_NONE;
    unsigned differ = 0;
    o.threads = cpus < GM_THREADS_MAX ? (int)cpus : GM_THREADS_MAX;
    printf("%-28s %-13s %3s %13s %14s %13s %8s %15s\n", "case", "set", "thr", "bytes", "time",
           "read", "of limit", "products");
    for (int s = 0; s < count; s++) {
        o.k = sets[s];
        if (gm_kbench_run(&o, print_line, &differ, &err) != GM_OK) {
            printf("%s\n", err.text);
            return -1;
        }
    }
    printf("%u lines differ from ref\n", differ);
    return (int)differ;
}
