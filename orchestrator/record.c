/* record.c - what Redis has of one turn: the record it goes on from, the journal of its answer.
 *
 * Owns:      gm:turn:{tenant}:{turn} (TurnRecord), :out (int32 ids of the answer), gm:running; the
 *            lease while a turn runs.
 * Does not:  know conversations (session.c) or read all running turns (recover.c).
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/keys.h"
#include "orchestrator/orch.h"

uint8_t *gm_pack(const ProtobufCMessage *m, size_t *n)
{
    *n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(*n + 1);
    if (bytes)
        protobuf_c_message_pack(m, bytes);
    return bytes;
}

uint8_t *gm_record_pack(const struct gm_turn *t, size_t *n)
{
    Gm__TurnRecord r = GM__TURN_RECORD__INIT;
    r.request = t->request;
    r.sampling = t->sampling;
    r.session = (char *)t->sess.id;
    r.tenant = (char *)t->sess.tenant;
    r.numerics = (char *)t->numerics;
    r.traceparent = t->trace[0] ? (char *)t->trace : NULL;
    r.start = t->start;
    r.n_prompt = t->n_prompt;
    r.prompt = t->prompt;
    r.finish = (char *)t->finish;
    r.has_answer = r.has_turns = r.has_created_ms = 1;
    r.answer = (uint32_t)t->n_tokens;
    r.turns = (uint32_t)t->turns_before;
    r.created_ms = t->sess.created_ms;
    if (t->end.status != GM_OK) {
        r.has_failed = 1;
        r.failed = (uint32_t)t->end.status;
        r.why = (char *)t->end.text;
    }
    return gm_pack(&r.base, n);
}

void gm_sess_record(struct gm_turn *t, gm_store_reply *done, void *ctx)
{
    static const char RECORD[] = "redis.call('SET', KEYS[1], ARGV[1])\n"
                                 "redis.call('DEL', KEYS[2])\n"
                                 "local added = redis.pcall('SADD', KEYS[3], ARGV[2])\n"
                                 "if type(added) == 'table' then\n" /* no set: not ours */
                                 "  redis.call('DEL', KEYS[3])\n"
                                 "  redis.call('SADD', KEYS[3], ARGV[2])\n"
                                 "end\nreturn 1\n";
    const struct gm_name rec = gm_name_of("turn", t->sess.tenant, t->id, "");
    const struct gm_name out = gm_name_of("turn", t->sess.tenant, t->id, ":out");
    struct gm_command c = { .n = 0 };
    size_t n = 0;
    uint8_t *bytes = gm_record_pack(t, &n);
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, RECORD);
    gm_add_text(&c, "3");
    gm_add_text(&c, rec.text);
    gm_add_text(&c, out.text);
    gm_add_text(&c, "gm:running");
    gm_add(&c, (const char *)bytes, n);
    gm_add_text(&c, t->key);
    gm_store_ask(t->orch->store, done, ctx, c.n, c.argv, c.lens);
    free(bytes);
}

/* Writes the tokens that the journal lacks at their absolute place, in batches of GM_JOURNAL_MS: a
 * repeated write changes nothing. */
void gm_sess_journal(struct gm_turn *t)
{
    const struct gm_name out = gm_name_of("turn", t->sess.tenant, t->id, ":out");
    const size_t from = t->journalled, n = t->n_tokens - from;
    char offset[GM_NUMBER_MAX];
    struct gm_command c = { .n = 0 };
    const int64_t now = gm_now_ms();
    if (n == 0 || t->state != GM_TURN_RUN || now - t->journal_ms < GM_JOURNAL_MS ||
        gm_store_pending(t->orch->store) > GM_TURNS_MAX)
        return;
    t->journal_ms = now;
    int32_t *ids = malloc(n * sizeof *ids);
    if (!ids)
        return;
    for (size_t i = 0; i < n; i++)
        ids[i] = t->tokens[from + i]->id;
    snprintf(offset, sizeof offset, "%zu", from * 4);
    gm_add_text(&c, "SETRANGE");
    gm_add_text(&c, out.text);
    gm_add_text(&c, offset);
    gm_add(&c, (const char *)ids, n * sizeof *ids);
    if (gm_store_write(t->orch->store, NULL, NULL, c.n, c.argv, c.lens, NULL) == GM_OK)
        t->journalled = t->n_tokens;
    free(ids);
}

void gm_sess_renew(struct gm_turn *t)
{
    const struct gm_name lease = gm_name_of("lease", t->sess.tenant, t->sess.id, "");
    struct gm_command c = { .n = 0 };
    char ms[GM_NUMBER_MAX];
    snprintf(ms, sizeof ms, "%d", GM_LEASE_MS);
    gm_add_text(&c, "SET");
    gm_add_text(&c, lease.text);
    gm_add_text(&c, t->orch->instance);
    gm_add_text(&c, "PX");
    gm_add_text(&c, ms);
    gm_store_ask(t->orch->store, NULL, NULL, c.n, c.argv, c.lens);
    t->lease_ms = gm_now_ms();
}

void gm_sess_unlease(struct gm_orch *o, const struct gm_sess *s)
{
    static const char GIVE[] =
        "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end\nreturn 1\n";
    const struct gm_name lease = gm_name_of("lease", s->tenant, s->id, "");
    struct gm_command c = { .n = 0 };
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, GIVE);
    gm_add_text(&c, "1");
    gm_add_text(&c, lease.text);
    gm_add_text(&c, o->instance);
    gm_store_ask(o->store, NULL, NULL, c.n, c.argv, c.lens);
}

void gm_sess_drop_record(struct gm_turn *t)
{
    static const char DROP[] =
        "redis.call('DEL', KEYS[1], KEYS[2])\nredis.call('SREM', KEYS[4], ARGV[1])\n"
        "if redis.call('GET', KEYS[3]) == ARGV[2] then redis.call('DEL', KEYS[3]) end\nreturn 1\n";
    const struct gm_name rec = gm_name_of("turn", t->sess.tenant, t->id, "");
    const struct gm_name out = gm_name_of("turn", t->sess.tenant, t->id, ":out");
    const struct gm_name lease = gm_name_of("lease", t->sess.tenant, t->sess.id, "");
    struct gm_command c = { .n = 0 };
    if (!t->sess.id[0] || !t->sess.created_ms)
        return; /* it never had the lease */
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, DROP);
    gm_add_text(&c, "4");
    gm_add_text(&c, rec.text);
    gm_add_text(&c, out.text);
    gm_add_text(&c, lease.text);
    gm_add_text(&c, "gm:running");
    gm_add_text(&c, t->key);
    gm_add_text(&c, t->orch->instance);
    gm_store_write(t->orch->store, NULL, NULL, c.n, c.argv, c.lens, NULL);
}

void gm_sess_drop_ended(struct gm_orch *o, const char *tenant, const char *turn)
{
    const struct gm_name rec = gm_name_of("turn", tenant, turn, "");
    const struct gm_name out = gm_name_of("turn", tenant, turn, ":out");
    struct gm_command c = { .n = 0 };
    gm_add_text(&c, "DEL");
    gm_add_text(&c, rec.text);
    gm_add_text(&c, out.text);
    gm_store_ask(o->store, NULL, NULL, c.n, c.argv, c.lens);
}

/* ---- a turn that has ended
 * ------------------------------------------------------------------------- */

enum gm_status gm_sess_take_record(struct gm_sess *s, const struct redisReply *record,
                                   const struct redisReply *journal, struct gm_err *err)
{
    if (record->type == REDIS_REPLY_STRING)
        s->record =
            gm__turn_record__unpack(NULL, (size_t)record->len, (const uint8_t *)record->str);
    if (!s->record)
        return gm_fail(err, GM_DATA_LOSS, "the stored record of the turn is damaged");
    if (!s->record->finish)
        return GM_OK;
    const size_t n = s->record->has_answer ? s->record->answer : 0;
    const bool there = journal->type == REDIS_REPLY_STRING && (size_t)journal->len / 4 >= n;
    if (n > 0 && !there)
        return gm_fail(err, GM_NOT_FOUND,
                       "the turn has ended and its answer is not stored any more");
    s->answer = malloc(n * sizeof *s->answer + 1);
    if (!s->answer)
        return gm_fail(err, GM_EXHAUSTED, "no memory for an answer");
    if (n > 0)
        memcpy(s->answer, journal->str, n * sizeof *s->answer);
    s->n_answer = n;
    return GM_OK;
}

struct asking {
    struct gm_sess sess;
    gm_sess_done *done;
    void *ctx;
};

static void on_ended(void *ctx, const struct redisReply *reply, const struct gm_err *failed)
{
    struct asking *a = ctx;
    struct gm_err err = *failed;
    if (reply && (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2))
        gm_fail(&err, GM_DATA_LOSS, "Redis answered something strange for a turn");
    else if (reply && reply->element[0]->type == REDIS_REPLY_NIL)
        gm_fail(&err, GM_NOT_FOUND, "no such turn is running here, and none has ended lately");
    else if (reply)
        gm_sess_take_record(&a->sess, reply->element[0], reply->element[1], &err);
    a->done(a->ctx, &a->sess, &err);
    gm_sess_free(&a->sess);
    free(a);
}

void gm_sess_ended(struct gm_orch *o, const char *tenant, const char *turn, gm_sess_done *done,
                   void *ctx)
{
    const struct gm_name rec = gm_name_of("turn", tenant, turn, "");
    const struct gm_name out = gm_name_of("turn", tenant, turn, ":out");
    struct gm_command c = { .n = 0 };
    struct asking *a = calloc(1, sizeof *a);
    if (!a) {
        struct gm_err err = GM_ERR_NONE;
        struct gm_sess none = { .exists = false };
        gm_fail(&err, GM_EXHAUSTED, "no memory for a turn");
        done(ctx, &none, &err);
        return;
    }
    a->done = done;
    a->ctx = ctx;
    gm_add_text(&c, "MGET");
    gm_add_text(&c, rec.text);
    gm_add_text(&c, out.text);
    gm_store_ask(o->store, on_ended, a, c.n, c.argv, c.lens);
}
