/* net_ends.h - two ends of the net layer for its tests: a server with a few methods, and a caller.
 *
 * Owns:      the temporary folder, the server `sv`, the caller's bus and RPC.
 * Does not:  check anything.
 * Use:       ends_start once; per test ends_open ... ends_close; ends_stop.
 */
#ifndef GM_TESTS_NET_ENDS_H
#define GM_TESTS_NET_ENDS_H

#include "common/net.h"

enum {
    PATIENCE_MS = 5000, /* a test that waits longer has failed */
    COUNT_TO = 20,      /* items of Test.Count */
};

struct server {
    struct gm_bus *bus;
    struct gm_rpc *rpc;     /* NULL: the server does not run here */
    struct gm_stream *open; /* of Test.Park or Test.Count */
    uint32_t sent;
    int gone; /* streams that a client or its deadline ended */
};

/* What the caller has heard of one call. */
struct got {
    int done, items;
    bool in_order;
    char text[64];
    struct gm_err err;
};

extern char dir[64];
extern struct server sv;
extern struct gm_bus *bus;
extern struct gm_rpc *rpc;
extern struct gm_peer *peer;

bool ends_start(const char *name); /* the folder and the log */
int ends_stop(void);               /* 0: the folder is gone */
bool ends_open(bool with_server);  /* a fresh pair on a fresh endpoint */
void ends_close(void);

bool server_open(struct server *v, const char *endpoint);
void turn_once(struct gm_bus *b, struct gm_rpc *r, int wait_ms); /* one turn of a loop */
void pump(int ms, const int *until); /* both loops, until *until is not 0 */

/* Starts a call; 0 when it could not be. */
uint64_t call(const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
              uint32_t credit, struct got *g);
uint64_t call_empty(const char *method, uint32_t timeout_ms, uint32_t credit, struct got *g);
bool echo_works(const char *text); /* the server still answers */
gm_rpc_answer on_answer;           /* ctx: struct got */

#endif
