/* keys.h - names of Redis keys, and commands put together, for session.c and record.c.
 *
 * Owns:      how a key is spelt; the packing of a turn's record.
 * Does not:  ask Redis.
 */
#ifndef GM_ORCH_KEYS_H
#define GM_ORCH_KEYS_H

#include <stdio.h>
#include <string.h>

#include "orchestrator/orch.h"

enum { GM_REDIS_NAME_MAX = 256, GM_NUMBER_MAX = 24 };

struct gm_name {
    char text[GM_REDIS_NAME_MAX];
};

static inline struct gm_name gm_name_of(const char *kind, const char *tenant, const char *id,
                                        const char *tail)
{
    struct gm_name k;
    snprintf(k.text, sizeof k.text, "gm:%s:{%s}:%s%s", kind, tenant, id, tail);
    return k;
}

/* A command being put together; values are borrowed. */
struct gm_command {
    int n;
    const char *argv[24];
    size_t lens[24];
};

static inline void gm_add(struct gm_command *c, const char *bytes, size_t n)
{
    c->argv[c->n] = bytes;
    c->lens[c->n++] = n;
}

static inline void gm_add_text(struct gm_command *c, const char *text)
{
    gm_add(c, text, strlen(text));
}

/* A message as bytes, owned by the caller; NULL: no memory. */
uint8_t *gm_pack(const ProtobufCMessage *m, size_t *n);
/* The record of a turn as it stands now, likewise. */
uint8_t *gm_record_pack(const struct gm_turn *t, size_t *n);
/* Reads what Redis has of a turn into s->record and, when it has ended, s->answer. DATA_LOSS: it is
 * no record; NOT_FOUND: its answer is gone. */
enum gm_status gm_sess_take_record(struct gm_sess *s, const struct redisReply *record,
                                   const struct redisReply *journal, struct gm_err *err);
/* Forgets the record of a turn that has ended. */
void gm_sess_drop_ended(struct gm_orch *o, const char *tenant, const char *turn);

#endif
