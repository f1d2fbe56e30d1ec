/* cut.c - the layer cut of a model file, for `up` and `plan`.
 *
 * Owns:      the only view of the model that the command line has.
 * Does not:  decide where shards run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/config.h"
#include "common/model/gguf.h"
#include "kernels/kernels.h"
#include "services/cli/cut.h"

_Static_assert((int)GM_CUT_SHARDS_MAX == (int)GM_SHARDS_MAX, "one limit of shards");
_Static_assert(GM_KV_F32 == 0 && GM_KV_BF16 == 1 && GM_KV_F16 == 2 &&
                   (int)GM_KV_Q8 == (int)GM_CUT_KV_TYPES - 1,
               "token_bytes names the types in this order");

static enum gm_status fill_text(struct gm_cut *cut, struct gm_err *err)
{
    size_t at = 0;
    for (int32_t i = 0; i < cut->n; i++) {
        const int wrote = snprintf(cut->text + at, sizeof cut->text - at, "%s%d:%d", i ? "," : "",
                                   cut->first[i], cut->first[i + 1]);
        if (wrote < 0 || (size_t)wrote >= sizeof cut->text - at)
            return gm_fail(err, GM_RANGE, "the cut into %d shards is too long to write", cut->n);
        at += (size_t)wrote;
    }
    return GM_OK;
}

enum gm_status gm_cut_make(struct gm_cut *cut, const char *model, int64_t shards,
                           const char *layers, struct gm_err *err)
{
    memset(cut, 0, sizeof *cut);
    struct gm_gguf *g = NULL;
    struct gm_config cfg;
    enum gm_status rc = gm_gguf_open(&g, model, err);
    if (rc == GM_OK)
        rc = gm_gguf_config(g, &cfg, err);
    gm_gguf_close(&g);
    if (rc != GM_OK)
        return rc;
    cut->layers = cfg.layers;
    cut->context = cfg.context;
    snprintf(cut->variant, sizeof cut->variant, "%.31s", cfg.name);
    for (int t = 0; t < GM_CUT_KV_TYPES; t++)
        cut->token_bytes[t] = (int64_t)gm_kv_vec_bytes((enum gm_kv_type)t, cfg.head_dim) * 2 *
                              cfg.kv_heads * cfg.layers;
    cut->n = (int32_t)shards;
    if (layers)
        rc = gm_config_parse_cut(&cfg, layers, &cut->n, cut->first, err);
    else
        rc = gm_config_cut(&cfg, cut->n, cut->first, err);
    return rc == GM_OK ? fill_text(cut, err) : rc;
}

enum gm_status gm_cut_check_text(const char *layers, struct gm_err *err)
{
    long want = 0;
    for (const char *at = layers;;) {
        char *end = NULL;
        const long begin = strtol(at, &end, 10);
        if (end == at || *end != ':')
            break;
        at = end + 1;
        const long stop = strtol(at, &end, 10);
        if (end == at || begin != want || stop <= begin || stop > GM_LAYERS_MAX)
            break;
        if (!*end)
            return GM_OK;
        if (*end != ',')
            break;
        want = stop;
        at = end + 1;
    }
    return gm_fail(err, GM_INVALID,
                   "--layers %.60s is no cut: write ranges from 0 on, in order and without gaps, "
                   "like 0:6,6:12,12:18",
                   layers);
}
