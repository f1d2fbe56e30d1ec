/* kernels_bench.h - times every entry of a kernel set and holds it against what the machine can do.
 *
 * Owns:      the list of cases, the form of a finished line. `gemline bench kernels` and
 *            `test_kernels --bench` print the same lines.
 * Does not:  print, need a model, or prove a kernel set (the unit tests do): a few results of each
 *            case are compared with gm_ref, so that no wrong kernel is ever called fast.
 */
#ifndef GM_CLI_KERNELS_BENCH_H
#define GM_CLI_KERNELS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

struct gm_kernels;

enum { GM_KBENCH_NAME_MAX = 40, GM_KBENCH_LINES_MAX = 160 /* of one set */ };

/* How large the cases are. */
struct gm_kbench_sizes {
    size_t matrix_bytes; /* of the weights that one or a few rows read, at the least */
    size_t stream_bytes; /* of the buffer whose reading is the limit */
    int32_t cols;        /* inputs of every matrix, a multiple of 256 */
    int32_t batch_rows;  /* against a matrix of cols x cols */
    int32_t context_div; /* attention's contexts are 8192, 2048 and 512 divided by this, 1 .. 8 */
    int32_t vocab;       /* values of the head's kernels */
    uint64_t products;   /* of a thread in a look at the limit, 2^16 .. 2^32 */
    double case_s;       /* a case is repeated for so long, and the best run counts */
};
/* Full: matrices of 256 MiB, which no cache holds for a thread or two; in all 1.6 GB. Small: shows
 * that the bench works; the figures mean nothing. */
extern const struct gm_kbench_sizes gm_kbench_sizes_full, gm_kbench_sizes_small;

struct gm_kbench_options {
    const struct gm_kernels *k; /* NULL: the set that GM_KERNELS or the CPU chooses */
    int threads;                /* of the pool; cases that are shared out also run with one */
    const char *only;           /* cases whose name contains this; NULL: all */
    struct gm_kbench_sizes sizes;
};

/* One finished case. The limits are measured right before and right after it, with as many threads:
 * a streaming read of as many bytes (from the cache that holds them, if one does), and the set's
 * own products in registers. A case that writes beside its reads, in a cache, may pass the first by
 * a little, and any case on a shared machine. */
struct gm_kbench_line {
    const char *name; /* "linear Q4_0 rows 8" */
    const char *set;  /* id of the kernel set */
    int threads;
    double bytes;         /* that one run reads and writes at the least: weights as they are laid
                             out, keys and values, vectors */
    double products;      /* multiplications, each with an addition; 0: not counted */
    double seconds;       /* of the best run */
    double read_share;    /* bytes / seconds over the reading limit */
    double product_share; /* products / seconds over the limit; 0 when not counted */
    const char *product_unit; /* "% of int8", "% of float"; NULL when not counted */
    bool differs;             /* from gm_ref, by more than rounding */
};

/* Told of each line as it is finished; false stops the bench. The line lives for the call. */
typedef bool gm_kbench_fn(void *ctx, const struct gm_kbench_line *line);

/* Runs the cases in order. GM_EXHAUSTED: memory or threads; GM_INVALID: GM_KERNELS names no set of
 * this machine, or sizes out of range; GM_CANCELLED: fn said so. A line that differs is no error
 * here. */
enum gm_status gm_kbench_run(const struct gm_kbench_options *o, gm_kbench_fn *fn, void *ctx,
                             struct gm_err *err);

#endif
