/* prefix.c - the index of sessions by hashes of their pages of ids.
 *
 * Owns:      keys, lists and levels; which session gives most of a prompt.
 * Does not:  move rows (admit.c) or hold pages (common/model/kv.c).
 */
#include "services/shard/prefix.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "services/shard/shard.h"

enum { LEVELS_MIN = 4 }; /* smallest table of a session's nodes */

enum gm_status gm_prefix_open(struct gm_prefix *p, const char *numerics, struct gm_err *err)
{
    p->seed = XXH3_64bits_withSeed(numerics, strlen(numerics), gm_random_u64());
    p->n = 0;
    return gm_idmap_open(&p->first, 64, GM_PREFIX_NODES_MAX, err);
}

void gm_prefix_close(struct gm_prefix *p)
{
    gm_idmap_close(&p->first);
}

size_t gm_tenant_len(const char *session)
{
    return strcspn(session, "/");
}

static bool same_tenant(const struct gm_session *a, const struct gm_session *b)
{
    const size_t n = gm_tenant_len(a->name);
    return n == gm_tenant_len(b->name) && memcmp(a->name, b->name, n) == 0;
}

static uint64_t key_of_tenant(const struct gm_prefix *p, const char *session)
{
    return XXH3_64bits_withSeed(session, gm_tenant_len(session), p->seed);
}

/* The key one page deeper. */
static uint64_t key_below(uint64_t key, const int32_t *page)
{
    return XXH3_64bits_withSeed(page, GM_PAGE * sizeof *page, key);
}

/* ---- lists ------------------------------------------------------------------------------------
 */

/* The first of a list stays where it is; a new node comes second, so the list runs from the newest
 * on. */
static bool link_in(struct gm_prefix *p, struct gm_prefix_node *node)
{
    struct gm_prefix_node *first = gm_idmap_get(&p->first, node->key);
    if (!first && gm_idmap_put(&p->first, node->key, node, NULL) != GM_OK)
        return false;
    if (first) {
        node->prev = first;
        node->next = first->next;
        first->next = node;
        if (node->next)
            node->next->prev = node;
    }
    p->n++;
    return true;
}

static void link_out(struct gm_prefix *p, struct gm_prefix_node *node)
{
    p->n--;
    if (node->next)
        node->next->prev = node->prev;
    if (node->prev) {
        node->prev->next = node->next;
        return;
    }
    gm_idmap_take(&p->first, node->key);
    if (node->next) /* the entry that was just taken left its room */
        (void)gm_idmap_put(&p->first, node->key, node->next, NULL);
}

static bool add_level(struct gm_prefix *p, struct gm_session *session, uint64_t key)
{
    struct gm_prefix_levels *l = &session->levels;
    if (p->n >= GM_PREFIX_NODES_MAX)
        return false;
    if (l->n == l->cap) {
        const int32_t cap = l->cap ? 2 * l->cap : LEVELS_MIN;
        struct gm_prefix_node **node = realloc(l->node, (size_t)cap * sizeof *node);
        if (!node)
            return false;
        l->node = node;
        l->cap = cap;
    }
    struct gm_prefix_node *node = calloc(1, sizeof *node);
    if (!node)
        return false;
    *node = (struct gm_prefix_node){ .key = key, .session = session };
    if (!link_in(p, node)) {
        free(node);
        return false;
    }
    l->node[l->n++] = node;
    return true;
}

void gm_prefix_grow(struct gm_prefix *p, struct gm_session *session)
{
    const struct gm_prefix_levels *l = &session->levels;
    const int32_t len = gm_kv_len(session->seq), pages = len / GM_PAGE;
    if (!session->name[0] || len == 0)
        return; /* a score's rows are nobody's beginning */
    bool going = l->n > 0 || add_level(p, session, key_of_tenant(p, session->name));
    while (going && l->n <= pages) {
        const int32_t *page = gm_kv_ids(session->seq) + (size_t)(l->n - 1) * GM_PAGE;
        going = add_level(p, session, key_below(l->node[l->n - 1]->key, page));
    }
}

void gm_prefix_cut(struct gm_prefix *p, struct gm_session *session, int32_t len)
{
    struct gm_prefix_levels *l = &session->levels;
    const int32_t keep = len > 0 ? len / GM_PAGE + 1 : 0;
    while (l->n > keep) {
        struct gm_prefix_node *node = l->node[--l->n];
        link_out(p, node);
        free(node);
    }
    if (l->n > 0)
        return;
    free(l->node);
    *l = (struct gm_prefix_levels){ 0 };
}

/* ---- looking ----------------------------------------------------------------------------------
 */

/* What a prompt's look has found so far. */
struct look {
    const struct gm_kv *kv;
    const struct gm_session *own;
    const int32_t *ids;
    int32_t n, left; /* ids; sessions that may still be looked at */
    struct gm_session *best;
    int32_t usable;
};

/* A kept session of one turn can change hands; of two that give the same it is the better one. */
static bool better(const struct look *k, const struct gm_session *c, int32_t usable)
{
    if (usable != k->usable || !k->best)
        return usable > k->usable;
    return c->ephemeral && !c->running && (!k->best->ephemeral || k->best->running);
}

static void look_at(struct look *k, struct gm_session *c)
{
    if (c == k->own || !same_tenant(c, k->own))
        return;
    const int32_t usable = gm_kv_common(c->seq, k->ids, k->n);
    if (usable < gm_kv_rewind_min(k->kv, c->seq) || !better(k, c, usable))
        return;
    k->best = c;
    k->usable = usable;
}

struct gm_session *gm_prefix_find(const struct gm_prefix *p, const struct gm_kv *kv,
                                  const struct gm_session *own, const int32_t *ids, int32_t n,
                                  int32_t *usable)
{
    struct look k = { .kv = kv, .own = own, .ids = ids, .n = n, .left = GM_PREFIX_LOOKS_MAX };
    struct gm_prefix_node **list = malloc(((size_t)n / GM_PAGE + 1) * sizeof *list);
    int32_t levels = 0;
    uint64_t key = key_of_tenant(p, own->name);
    *usable = 0;
    if (!list)
        return NULL;
    for (;;) {
        list[levels] = gm_idmap_get(&p->first, key);
        if (!list[levels])
            break;
        levels++;
        if (n / GM_PAGE < levels)
            break;
        key = key_below(key, ids + (size_t)(levels - 1) * GM_PAGE);
    }
    /* From the deepest level on: who is at level l and no deeper gives less than l + 1 pages. */
    for (int32_t l = levels - 1; l >= 0 && k.left > 0; l--) {
        for (const struct gm_prefix_node *node = list[l]; node && k.left-- > 0; node = node->next)
            look_at(&k, node->session);
        if (k.best && k.usable >= l * GM_PAGE)
            break;
    }
    free(list);
    *usable = k.usable;
    return k.best;
}
