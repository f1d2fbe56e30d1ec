/* ids.c - the growing array of token ids.
 *
 * Owns:      the array's memory.
 * Does not:  know what an id means.
 */
#include "services/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { IDS_FIRST = 256 }; /* first allocation, in ids */

enum gm_status gm_ids_append(struct gm_ids *ids, const int32_t *v, size_t n, struct gm_err *err)
{
    if (n > GM_IDS_MAX || ids->n > GM_IDS_MAX - n)
        return gm_fail(err, GM_EXHAUSTED, "the prompt has more than %d tokens; send less text",
                       GM_IDS_MAX);
    size_t need = ids->n + n;
    if (need > ids->cap) {
        size_t cap = ids->cap < IDS_FIRST ? IDS_FIRST : ids->cap;
        while (cap < need)
            cap *= 2;
        int32_t *grown = realloc(ids->v, cap * sizeof *grown);
        if (grown == NULL)
            return gm_fail(err, GM_EXHAUSTED, "no memory for %zu token ids", cap);
        ids->v = grown;
        ids->cap = cap;
    }
    if (n > 0)
        memcpy(ids->v + ids->n, v, n * sizeof *v);
    ids->n = need;
    return GM_OK;
}

void gm_ids_free(struct gm_ids *ids)
{
    free(ids->v);
    *ids = (struct gm_ids){ NULL, 0, 0 };
}
