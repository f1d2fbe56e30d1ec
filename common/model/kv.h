/* kv.h - the paged key/value cache of one slice of layers.
 *
 * Owns:      two slabs of pages (global layers, local layers), their free lists, each sequence's
 * page tables, the token ids each row was computed from, the rules of rewinding and of copying.
 * Does not:  choose who is evicted (services/shard/evict.c) or do attention maths (kernels/).
 * Memory:    the slabs are reserved at start-up (address space; pages become resident on first
 * use).
 * Threads:   the shard's loop thread; workers of one step only write rows of pages already taken.
 * Invariant: a page belongs to exactly one sequence or to the free list; gm_kv_check proves it.
 *
 * A page holds GM_PAGE positions of ALL layers of its class in the slice: for layer i of the class
 * the keys start at i * layer_bytes, the values follow them. Local layers keep the last
 * window + GM_KV_SLACK positions; older pages go back to the sequence's own spare list.
 */
#ifndef GM_MODEL_KV_H
#define GM_MODEL_KV_H

#include "common/model/config.h"
#include "kernels/kernels.h"

enum {
    GM_KV_SLACK = 512,  /* positions local layers keep beyond the window, for rewinding */
    GM_SEQS_MAX = 4096, /* sequences of one shard, running and kept */
};

struct gm_kv;
struct gm_kv_seq; /* opaque; owned by the cache */

/* tokens: positions all sequences together may hold. GM_EXHAUSTED if address space is refused. */
enum gm_status gm_kv_new(struct gm_kv **out, const struct gm_config *cfg, int32_t begin,
                         int32_t end, int64_t tokens, enum gm_kv_type type, struct gm_err *err);
void gm_kv_free(struct gm_kv **kv);

/* Bytes the slabs take when full; and per-token bytes for messages. */
uint64_t gm_kv_bytes(const struct gm_kv *kv);

/* An empty sequence without pages; NULL when GM_SEQS_MAX are open. */
struct gm_kv_seq *gm_kv_seq_new(struct gm_kv *kv);
void gm_kv_seq_free(struct gm_kv *kv, struct gm_kv_seq **seq);

/* Makes sure the sequence can grow to `positions` in all: takes pages now, all or none.
 * GM_EXHAUSTED says how many are needed and free. */
enum gm_status gm_kv_reserve(struct gm_kv *kv, struct gm_kv_seq *seq, int32_t positions,
                             struct gm_err *err);
/* Gives back pages beyond the current length. */
void gm_kv_trim(struct gm_kv *kv, struct gm_kv_seq *seq);
/* Positions that may be opened without another gm_kv_reserve. */
int32_t gm_kv_reserved(const struct gm_kv_seq *seq);

/* Copies the first `n` positions of `from` into `to`, which is empty and has reserved them: ids and
 * what the next row looks at. The two share nothing afterwards. GM_RANGE unless n is 0 or within
 * [rewind_min, len] of `from`; GM_INVALID: `to` has rows or too few pages. */
enum gm_status gm_kv_fork(struct gm_kv *kv, struct gm_kv_seq *to, const struct gm_kv_seq *from,
                          int32_t n, struct gm_err *err);

/* Length (positions stored) and the lowest length gm_kv_rewind accepts above 0. */
int32_t gm_kv_len(const struct gm_kv_seq *seq);
int32_t gm_kv_rewind_min(const struct gm_kv *kv, const struct gm_kv_seq *seq);

/* How many leading ids equal the stored rows' ids (at most the length). */
int32_t gm_kv_common(const struct gm_kv_seq *seq, const int32_t *ids, int32_t n);
const int32_t *gm_kv_ids(const struct gm_kv_seq *seq); /* [len] */

/* Cuts the sequence to `len`: 0, or within [rewind_min, len]. GM_RANGE otherwise. */
enum gm_status gm_kv_rewind(struct gm_kv *kv, struct gm_kv_seq *seq, int32_t len,
                            struct gm_err *err);

/* Opens positions [len, len + n) for the ids and moves the length. Pages must be reserved
 * (GM_EXHAUSTED otherwise). The rows' keys and values are written afterwards by the step. */
enum gm_status gm_kv_extend(struct gm_kv *kv, struct gm_kv_seq *seq, const int32_t *ids, int32_t n,
                            struct gm_err *err);

/* Where layer `layer` (absolute index) keeps this sequence. */
void gm_kv_view(const struct gm_kv *kv, const struct gm_kv_seq *seq, int32_t layer,
                struct gm_kv_view *view);

/* Pages of both classes. */
struct gm_kv_pages {
    int32_t global, local;
};
struct gm_kv_pages gm_kv_pool(const struct gm_kv *kv); /* all there are */
struct gm_kv_pages gm_kv_held(const struct gm_kv_seq *seq);
/* What gm_kv_reserve of so many positions would take; seq NULL: for an empty sequence. */
struct gm_kv_pages gm_kv_wanted(const struct gm_kv *kv, const struct gm_kv_seq *seq,
                                int32_t positions);
/* Positions of the longest sequence that the pool holds. */
int32_t gm_kv_positions_max(const struct gm_kv *kv);

struct gm_kv_use {
    int64_t pages_total, pages_free; /* both classes together */
    int64_t bytes_total, bytes_used;
};
void gm_kv_usage(const struct gm_kv *kv, struct gm_kv_use *use);

/* NULL if the invariant holds, else a sentence. */
const char *gm_kv_check(const struct gm_kv *kv);

#endif
