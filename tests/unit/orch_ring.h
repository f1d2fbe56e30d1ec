/* orch_ring.h - a ring for tests of the orchestrator: a tokenizer, a sampler and a shard that
 * compute nothing, Redis, and the orchestrator itself as a process of its own.
 *
 * Owns:      their sockets in a temporary folder; what a token of theirs is.
 * Does not:  check anything.
 * Use:       orch_start once; orch_up ... orch_down as often as wished; orch_stop.
 */
#ifndef GM_TESTS_ORCH_RING_H
#define GM_TESTS_ORCH_RING_H

#include "common/net.h"

enum {
    RING_VOCAB = 1000,
    RING_CONTEXT = 400,
    RING_ENCODED = 5, /* ids of every encoded turn */
    RING_PATIENCE_MS = 10000,
};

/* What the ring was asked, and how it behaves. */
struct ring {
    int encoded, reserved;        /* calls */
    uint32_t hold;                /* no more tokens of an answer than this; 0: all */
    bool full;                    /* no pages */
    bool empty;                   /* an encoded turn has no ids */
    int emitted;                  /* tokens, of all answers */
    const char *numerics;         /* what the shard computes as; NULL: "none" */
    int32_t prompt[RING_CONTEXT]; /* of the last Reserve */
    size_t n_prompt;
    uint64_t ticket; /* of the last Reserve */
};

/* What the last calls of each kind said of their trace; "" : nothing. */
struct ring_trace {
    char encode[GM_TRACE_MAX], open[GM_TRACE_MAX], reserve[GM_TRACE_MAX], release[GM_TRACE_MAX],
        close[GM_TRACE_MAX];
};

extern struct ring_trace ring_trace;
extern struct ring ring;
extern struct gm_bus *bus; /* of the caller, who has no inbox */
extern struct gm_rpc *rpc;
extern char orch_endpoint[GM_ENDPOINT_MAX];

bool orch_start(void);
int orch_stop(void); /* 0: nothing is left */
bool orch_up(void);  /* waits until it is ready */
void orch_down(void);
void orch_signal(int signal);
/* One round of all loops but the orchestrator's, which has its own process. */
void orch_turn(int wait_ms);

/* Sends the orchestrator a message of the ring, in the sampler's name. */
void orch_post(Gm__Kind kind, const ProtobufCMessage *body);

/* The token at a position. */
int32_t orch_token(uint32_t pos);

#endif
