/* pack_model.h - packing a model's weights before the first start, for the command line.
 *
 * Owns:      nothing; wraps common/model/pack.h.
 * Does not:  show the model's own structs to the rest of the command line, or print.
 */
#ifndef GM_CLI_PACK_MODEL_H
#define GM_CLI_PACK_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

/* Whether this machine's kernels pack weights and none of this model's are there yet. */
bool gm_packing_needed(const char *model);

/* Packs what is missing with `threads` threads. *written: bytes packed now; folder[GM_PATH_MAX]:
 * where the packs are, "" if the kernel set packs nothing. Errors: those of the model file. */
enum gm_status gm_packing_run(const char *model, int threads,
                              void (*progress)(void *ctx, uint64_t done, uint64_t total),
                              uint64_t *written, char *folder, struct gm_err *err);

#endif
