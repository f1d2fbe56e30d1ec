/* edge.h - the sampler process: what main.c opens and edge.c serves.
 *
 * Owns:      struct gm_sampler_service: the open sequences by ticket, the mapped vocabulary.
 * Does not:  choose tokens (pick.c) or keep what a turn is (orchestrator).
 */
#ifndef GM_SAMPLER_EDGE_H
#define GM_SAMPLER_EDGE_H

#include "common/net.h"
#include "services/sampler/sampler.h"

enum {
    GM_SAMPLER_SEQS_MAX = 4096, /* sequences open at once */
    GM_VOCAB_RETRY_MS = 50,     /* how often a vocabulary that is not there yet is looked for */
};

struct gm_sampler_service {
    struct gm_service base;
    struct gm_idmap seqs; /* ticket -> struct open_seq */
    struct gm_vocab vocab;
    bool vocab_open;
    char vocab_path[GM_PATH_MAX];
    uint64_t chosen;        /* tokens since start */
    uint64_t chosen_before; /* at the start of the running second */
    int64_t second_ms;
    double tokens_per_s;
};

extern const struct gm_method gm_sampler_methods[];

/* Ring messages: candidates. */
enum gm_status gm_sampler_on_message(void *self, const struct gm_msg *msg, struct gm_err *err);

/* Maps the vocabulary once the tokenizer has written it. */
bool gm_sampler_vocab(struct gm_sampler_service *s);

void gm_sampler_close_all(struct gm_sampler_service *s);

#endif
