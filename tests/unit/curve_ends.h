/* curve_ends.h - an inbox over TCP and its callers for tests of CURVE, all in one process.
 *
 * Owns:      a book of six processes with their keys, the inbox, callers of any role, strangers
 * with any keys, and the log they write. Does not:  check what is let in (test_curve.c).
 */
#ifndef GM_TESTS_CURVE_ENDS_H
#define GM_TESTS_CURVE_ENDS_H

#include "common/net.h"
#include "common/net/zap.h"

enum { PATIENCE_MS = 20000, SILENCE_MS = 400 };

/* The processes of the book. Those before CLIENT have an endpoint. */
enum { ORCHESTRATOR, OTHER, SAMPLER, SHARD, CLIENT, GATEWAY, MEMBERS };

extern const char *const names[MEMBERS];
extern struct gm_net nets[MEMBERS];
extern char endpoints[MEMBERS][GM_ENDPOINT_MAX]; /* "": none */
bool curve_start(void);                          /* keys, the book, the log */
void curve_stop(void);

/* ---- the inbox and callers ---- */
extern struct gm_bus *inbox;
extern struct gm_msg last; /* the last ring message that was let in: its address alone */
extern char last_who[64];
struct caller {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
    struct gm_peer *peer;
    int done;
    struct gm_err err;
};
bool open_inbox(int who);
void inbox_turn(void);
void close_inbox(void);
bool open_caller(struct caller *c, int who, int to);
void close_caller(struct caller *c);
int call(struct caller *c, const char *method); /* its status; -1: no answer */
/* Posts a ring message and lets both sides work; how many were let in. */
int post(struct caller *c, Gm__Kind kind, const ProtobufCMessage *body);
int hello(struct caller *c, const char *role, uint32_t index);
bool still_served(void); /* a good caller is served: what happened before did no harm */

/* ---- the log ---- */
int lines_with(const char *text, const char *more); /* lines that hold both; more may be NULL */
bool logged(const char *text, const char *more);    /* waits for such a line */
void fresh_log(void);

/* ---- strangers ---- */
struct raw {
    void *ctx, *sock;
};
/* A socket with these keys; server_key NULL: none, as any client of ZeroMQ. Sends a call. */
void raw_open(struct raw *r, const uint8_t *server_key, const char *shared, const char *secret);
bool raw_heard(struct raw *r, int patience_ms); /* whether an answer came */
void raw_close(struct raw *r);

#endif
