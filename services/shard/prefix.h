/* prefix.h - which sessions begin like a prompt, found by hashes of their pages of ids.
 *
 * Owns:      struct gm_prefix (the index), struct gm_prefix_node.
 * Does not:  own sessions or rows (admit.c), or trust a hash: who looks compares ids.
 *
 * Level k of the index holds every session whose first k pages of ids are computed, under one hash
 * of tenant, numerics id and those ids; level 0 holds all sessions of the tenant that have rows.
 */
#ifndef GM_SHARD_PREFIX_H
#define GM_SHARD_PREFIX_H

#include "common/common.h"
#include "common/model/model.h"

struct gm_session;

enum {
    GM_PREFIX_NODES_MAX = 1 << 20, /* nodes of all sessions; one that finds no room is not found */
    GM_PREFIX_LOOKS_MAX = 256,     /* sessions looked at for one prompt */
};

/* One session at one level, in the list of those with the same key. */
struct gm_prefix_node {
    uint64_t key;
    struct gm_session *session;
    struct gm_prefix_node *prev, *next;
};

struct gm_prefix {
    struct gm_idmap first; /* key -> the first node of its list */
    uint64_t seed;         /* of the numerics id, and random: clients cannot aim at a key */
    size_t n;              /* nodes */
};

/* A session's nodes, from level 0 on; part of struct gm_session. */
struct gm_prefix_levels {
    struct gm_prefix_node **node; /* owned [cap] */
    int32_t n, cap;
};

enum gm_status gm_prefix_open(struct gm_prefix *p, const char *numerics, struct gm_err *err);
void gm_prefix_close(struct gm_prefix *p); /* no session may have levels any more */

/* Bytes of a session's name that are its tenant: up to the first '/'. */
size_t gm_tenant_len(const char *session);

/* The session's rows grew, or will be cut to `len`: its levels follow. Nothing fails; a session
 * that finds no memory is found at fewer levels. */
void gm_prefix_grow(struct gm_prefix *p, struct gm_session *session);
void gm_prefix_cut(struct gm_prefix *p, struct gm_session *session, int32_t len);

/* The session of the same tenant that gives most of ids[0 .. n): *usable of them, and at least what
 * its local layers need. NULL where none gives any. `own` is passed over. */
struct gm_session *gm_prefix_find(const struct gm_prefix *p, const struct gm_kv *kv,
                                  const struct gm_session *own, const int32_t *ids, int32_t n,
                                  int32_t *usable);

#endif
