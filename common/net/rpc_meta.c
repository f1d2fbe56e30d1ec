/* rpc_meta.c - metadata: pairs of a key and bytes, with limits.
 *
 * Owns:      what a key may be, and how much there may be.
 * Does not:  give keys a meaning.
 */
#include <stdlib.h>
#include <string.h>

#include "common/net/rpc_inner.h"

void gm_metas_free(struct gm_metas *m)
{
    for (size_t i = 0; i < m->n; i++) {
        free(m->at[i]->key);
        free(m->at[i]->value.data);
        free(m->at[i]);
    }
    free(m->at);
    *m = (struct gm_metas){ NULL, 0, 0 };
}

static bool key_ok(const char *key)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_.-";
    return key[0] && key[strspn(key, letters)] == '\0';
}

static Gm__Meta *pair_new(const char *key, const void *value, size_t len)
{
    Gm__Meta *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    gm__meta__init(p);
    p->key = strdup(key);
    p->value.data = malloc(len + 1);
    if (!p->key || !p->value.data) {
        free(p->key);
        free(p->value.data);
        free(p);
        return NULL;
    }
    if (len > 0)
        memcpy(p->value.data, value, len);
    p->value.len = len;
    return p;
}

enum gm_status gm_metas_add(struct gm_metas *m, const char *key, const void *value, size_t len,
                            struct gm_err *err)
{
    if (!key_ok(key))
        return gm_fail(err, GM_INVALID,
                       "a key of metadata is made of a-z 0-9 _ . -, and is not \"%.40s\"", key);
    if (m->n >= GM_META_MAX || len > GM_META_BYTES_MAX ||
        m->bytes + strlen(key) + len > GM_META_BYTES_MAX)
        return gm_fail(err, GM_EXHAUSTED, "metadata has at most %d pairs and %d bytes", GM_META_MAX,
                       GM_META_BYTES_MAX);
    if (!m->at)
        m->at = calloc(GM_META_MAX, sizeof *m->at);
    Gm__Meta *p = m->at ? pair_new(key, value, len) : NULL;
    if (!p)
        return gm_fail(err, GM_EXHAUSTED, "no memory for metadata");
    m->at[m->n++] = p;
    m->bytes += strlen(key) + len;
    return GM_OK;
}

enum gm_status gm_metas_add_all(struct gm_metas *m, Gm__Meta *const *from, size_t n,
                                struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    for (size_t i = 0; i < n && rc == GM_OK; i++)
        rc = gm_metas_add(m, from[i]->key, from[i]->value.data, from[i]->value.len, err);
    return rc;
}
