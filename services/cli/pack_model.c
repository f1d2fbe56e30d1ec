/* pack_model.c - packing a model's weights before the first start, for the command line.
 *
 * Owns:      the choice of the kernel set whose layout is packed: the one that a shard would take.
 * Does not:  pack (common/model/pack.c) or print (pack.c).
 */
#include "services/cli/pack_model.h"

#include "common/base/fs.h"
#include "common/model/pack.h"
#include "kernels/kernels.h"

bool gm_packing_needed(const char *model)
{
    const struct gm_kernels *k = gm_kernels_select(NULL, NULL);
    return k && k->pack_bytes && !gm_pack_present(model, k);
}

enum gm_status gm_packing_run(const char *model, int threads,
                              void (*progress)(void *ctx, uint64_t done, uint64_t total),
                              uint64_t *written, char *folder, struct gm_err *err)
{
    const char *why = NULL;
    const struct gm_kernels *k = gm_kernels_select(NULL, &why);
    *written = 0;
    folder[0] = '\0';
    if (!k)
        return gm_fail(err, GM_INVALID, "GM_KERNELS: %s", why ? why : "no such kernel set");
    if (!k->pack_bytes)
        return GM_OK;
    const enum gm_status rc = gm_pack_folder(model, k, folder, err);
    return rc == GM_OK ? gm_pack_model(model, k, threads, progress, NULL, written, err) : rc;
}
