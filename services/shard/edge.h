/* edge.h - the shard process: what main.c opens and edge.c serves.
 *
 * Owns:      struct gm_shard_service.
 * Does not:  compute (step.c) or admit (admit.c).
 */
#ifndef GM_SHARD_EDGE_H
#define GM_SHARD_EDGE_H

#include "common/net.h"
#include "services/shard/shard.h"

struct gm_shard_service {
    struct gm_service base;
    struct gm_shard shard;
    int32_t begin, end;
    int32_t context;
    bool open;                    /* the slice is open and serves */
    char failed[GM_ERR_TEXT_MAX]; /* not empty: cannot serve, and why; said in HELLO */
    uint64_t decoded_before;      /* at the start of the running second */
    int64_t second_ms;
    double tokens_per_s;
    bool more; /* rows are left for another step */
};

extern const struct gm_method gm_shard_methods[];

/* Ring messages: token rows, hidden rows, chosen tokens, chunk credit, more candidates. */
enum gm_status gm_shard_on_message(void *self, const struct gm_msg *msg, struct gm_err *err);

/* Where the shard's results go: fills shard.out. */
void gm_shard_out_init(struct gm_shard_service *s);

#endif
