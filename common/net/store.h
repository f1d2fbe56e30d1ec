/* store.h - Redis, asynchronously: never waited for on the token path.
 *
 * Owns:      the hiredis async connection inside our loop, reconnecting, the bounded queue of
 * writes that wait while Redis is away, timeouts of single commands (a stopped Redis looks like one
 * away). Does not:  know keys or records (orchestrator/sessions.c).
 */
#ifndef GM_NET_STORE_H
#define GM_NET_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { GM_STORE_QUEUE_BYTES_MAX = 64 << 20, GM_STORE_TIMEOUT_MS = 2000 };

struct gm_store;
struct redisReply;
struct pollfd;

/* reply NULL with err set when Redis is away, timed out, or answered an error. */
typedef void gm_store_reply(void *ctx, const struct redisReply *reply, const struct gm_err *err);

enum gm_status gm_store_open(struct gm_store **out, const char *unix_path, struct gm_err *err);
void gm_store_close(struct gm_store **store);
bool gm_store_up(const struct gm_store *store);

/* A command that fails with GM_UNAVAILABLE when Redis is away or slow. fn may be NULL. */
void gm_store_ask(struct gm_store *store, gm_store_reply *fn, void *ctx, int argc,
                  const char **argv, const size_t *lens);
/* A write that must not be lost: kept, in order, until Redis has acknowledged it (across
 * reconnects; commands must be idempotent). fn is called when acknowledged. GM_EXHAUSTED when the
 * queue is full. */
enum gm_status gm_store_write(struct gm_store *store, gm_store_reply *fn, void *ctx, int argc,
                              const char **argv, const size_t *lens, struct gm_err *err);
/* Writes not yet acknowledged. */
size_t gm_store_pending(const struct gm_store *store);

int gm_store_fd(struct gm_store *store, struct pollfd *fd); /* 1: fd filled, 0: none now */
void gm_store_on_fd(struct gm_store *store, const struct pollfd *fd);
int gm_store_tick(struct gm_store *store); /* reconnects, timeouts; ms to the next tick */

#endif
