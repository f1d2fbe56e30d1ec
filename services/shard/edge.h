/* edge.h - the shard process: what main.c opens and edge.c serves.
 *
 * Owns:      struct gm_shard_service.
 * Does not:  compute (step.c) or admit (admit.c).
 */
#ifndef GM_SHARD_EDGE_H
#define GM_SHARD_EDGE_H

#include "common/net.h"
#include "services/shard/shard.h"

/* What a model file looked like. */
struct gm_shard_look {
    uint64_t inode, bytes;
    int64_t time_ns;
};

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
    bool more;                       /* rows are left for another step */
    struct gm_slice_opts slice_opts; /* its texts are the command line's */
    /* edge_lost.c */
    bool lost; /* the slice was open, then a file of it was cut or changed: it is opened again */
    int64_t lost_ms;              /* since when */
    char why[GM_ERR_TEXT_MAX];    /* what is wrong with the files, and what to do */
    char seen[GM_ERR_TEXT_MAX];   /* what the last attempt to open them said; logged once */
    int64_t reopen_ms;            /* when that is tried next, or the files are looked at */
    char numerics[256];           /* of the slice that was lost */
    struct gm_pack_hashes hashes; /* the same */
    bool other_weights; /* the model file was whole and another one, and looked like this: */
    struct gm_shard_look refused;
};

extern const struct gm_method gm_shard_methods[];

/* Ring messages: token rows, hidden rows, chosen tokens, chunk credit, more candidates. */
enum gm_status gm_shard_on_message(void *self, const struct gm_msg *msg, struct gm_err *err);

/* Opens the slice by slice_opts, and the shard's state on it. */
enum gm_status gm_shard_open(struct gm_shard_service *s, struct gm_err *err);
/* When shard.lost is set: tells all running turns, closes the slice and opens it again if its files
 * are whole. */
void gm_shard_lost(struct gm_shard_service *s);
/* Once a second: looks at the files of an idle shard; or, while `lost`, opens the slice again if
 * they are whole. And how long until then. */
void gm_shard_look(struct gm_shard_service *s);
int gm_shard_look_ms(const struct gm_shard_service *s);

/* Where the shard's results go: fills shard.out. */
void gm_shard_out_init(struct gm_shard_service *s);

#endif
