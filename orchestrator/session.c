/* session.c - conversations in Redis: leases, exact ids, transcripts.
 *
 * Owns:      the keys gm:sess:{tenant}:{id} (hash), :tokens (int32 string), :turns (list of
 *            TurnInfo); what is written when a turn ends.
 * Does not:  wait: every function returns at once and answers by callback.
 */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/keys.h"
#include "orchestrator/orch.h"

void gm_sess_free(struct gm_sess *s)
{
    for (size_t i = 0; i < s->n_turns; i++)
        gm__turn_info__free_unpacked(s->turns[i], NULL);
    free(s->turns);
    free(s->ids);
    if (s->record)
        gm__turn_record__free_unpacked(s->record, NULL);
    free(s->answer);
    s->turns = NULL;
    s->ids = s->answer = NULL;
    s->record = NULL;
    s->n_turns = s->n_ids = s->n_answer = 0;
}

/* ---- loading
 * ------------------------------------------------------------------------------------- */

/* KEYS: lease, hash, tokens, turns, record, journal. ARGV: instance, lease ms, want lease, want the
 * record. One call reads all of it, so no other turn can come between. A lease always ends by
 * itself: what stands there without an end, or is no text, is nobody's. ARGV 5: most bytes of ids;
 * more are not sent, since other conversations would wait for them. */
static const char LOAD[] =
    "local record = ARGV[4] == '1' and redis.call('GET', KEYS[5])\n"
    "if record then return {record, redis.call('GET', KEYS[6]) or ''} end\n"
    "local held = redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1])\n"
    "if held and redis.call('PTTL', KEYS[1]) < 0 then held = false end\n"
    "local busy = 0\n"
    "if ARGV[3] == '1' then\n"
    "  if held and held ~= ARGV[1] then return {1} end\n"
    "  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "elseif held then busy = 1 end\n"
    "local ids = redis.call('STRLEN', KEYS[3]) <= tonumber(ARGV[5])\n"
    "  and (redis.call('GET', KEYS[3]) or '') or 'too long'\n"
    "return {0, busy, redis.call('HMGET', KEYS[2], 'created', 'touched', 'raw'), ids,\n"
    "  redis.call('LRANGE', KEYS[4], 0, -1)}\n";

struct load {
    struct gm_orch *orch;
    bool leased; /* the lease was asked for */
    struct gm_sess sess;
    gm_sess_done *done;
    void *ctx;
};

/* Ids that stood there before, of another vocabulary or none: they would be computed on. */
static bool ids_known(const struct gm_sess *s, uint32_t vocab)
{
    for (size_t i = 0; i < s->n_ids; i++)
        if (s->ids[i] < 0 || (vocab > 0 && (uint32_t)s->ids[i] >= vocab))
            return false;
    return true;
}

static uint64_t number_of(const redisReply *r)
{
    return r && r->str ? strtoull(r->str, NULL, 10) : 0;
}

static enum gm_status parse_session(struct gm_sess *s, const redisReply *r, uint32_t vocab,
                                    struct gm_err *err)
{
    if (r->type != REDIS_REPLY_ARRAY || r->elements < 1)
        return gm_fail(err, GM_DATA_LOSS, "Redis answered something strange for a session");
    if (r->elements == 1) {
        return gm_retry_after(
            err, GM_RETRY_HINT_MS,
            gm_fail(err, GM_ABORTED, "the session is busy with another turn; try again"));
    }
    if (r->elements == 2)
        return gm_sess_take_record(s, r->element[0], r->element[1], err);
    if (r->elements != 5 || r->element[2]->elements != 3 ||
        r->element[3]->type != REDIS_REPLY_STRING || r->element[3]->len % 4 != 0 ||
        strcmp(r->element[3]->str, "too long") == 0)
        return gm_fail(err, GM_DATA_LOSS, "the stored session is damaged; remove it");
    const redisReply *meta = r->element[2], *list = r->element[4];
    s->busy = r->element[1]->integer != 0;
    s->exists = meta->element[0]->type == REDIS_REPLY_STRING;
    s->created_ms = number_of(meta->element[0]);
    s->touched_ms = number_of(meta->element[1]);
    s->raw = number_of(meta->element[2]) != 0;
    s->n_ids = (size_t)r->element[3]->len / 4;
    s->ids = malloc(s->n_ids * 4 + 4);
    s->turns = calloc(list->elements + 1, sizeof *s->turns);
    if (!s->ids || !s->turns)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a session");
    memcpy(s->ids, r->element[3]->str, s->n_ids * 4);
    if (!ids_known(s, vocab))
        return gm_fail(err, GM_DATA_LOSS,
                       "the stored session has tokens that this model does not know; remove it");
    for (size_t i = 0; i < list->elements; i++) {
        const redisReply *e = list->element[i];
        Gm__TurnInfo *info = gm__turn_info__unpack(NULL, (size_t)e->len, (const uint8_t *)e->str);
        if (info)
            s->turns[s->n_turns++] = info;
        if (!info || info->start > info->prompt_end || info->prompt_end > info->answer_end ||
            info->answer_end > s->n_ids)
            return gm_fail(err, GM_DATA_LOSS,
                           "turn %zu of the stored session is damaged; remove it", i);
    }
    return GM_OK;
}

static void on_loaded(void *ctx, const struct redisReply *reply, const struct gm_err *failed)
{
    struct load *l = ctx;
    struct gm_err err = *failed;
    if (reply && parse_session(&l->sess, reply, l->orch->roster.vocab, &err) == GM_DATA_LOSS &&
        l->leased)
        gm_sess_unlease(l->orch, &l->sess);
    l->done(l->ctx, &l->sess, &err);
    gm_sess_free(&l->sess);
    free(l);
}

void gm_sess_load(struct gm_orch *o, const struct gm_sess *of, const char *turn, bool lease,
                  gm_sess_done *done, void *ctx)
{
    struct load *l = calloc(1, sizeof *l);
    const char *tenant = of->tenant, *id = of->id, *named = turn ? turn : "";
    const struct gm_name keys[6] = {
        gm_name_of("lease", tenant, id, ""),       gm_name_of("sess", tenant, id, ""),
        gm_name_of("sess", tenant, id, ":tokens"), gm_name_of("sess", tenant, id, ":turns"),
        gm_name_of("turn", tenant, named, ""),     gm_name_of("turn", tenant, named, ":out")
    };
    char ms[GM_NUMBER_MAX], most[GM_NUMBER_MAX];
    struct gm_command c = { .n = 0 };
    if (!l) {
        struct gm_err err = GM_ERR_NONE;
        struct gm_sess none = { .exists = false };
        gm_fail(&err, GM_EXHAUSTED, "no memory for a session");
        done(ctx, &none, &err);
        return;
    }
    l->orch = o;
    l->leased = lease;
    l->done = done;
    l->ctx = ctx;
    snprintf(l->sess.tenant, sizeof l->sess.tenant, "%s", tenant);
    snprintf(l->sess.id, sizeof l->sess.id, "%s", id);
    snprintf(ms, sizeof ms, "%d", GM_LEASE_MS);
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, LOAD);
    gm_add_text(&c, "6");
    for (int i = 0; i < 6; i++)
        gm_add_text(&c, keys[i].text);
    gm_add_text(&c, o->instance);
    gm_add_text(&c, ms);
    gm_add_text(&c, lease ? "1" : "0");
    gm_add_text(&c, turn ? "1" : "0");
    snprintf(most, sizeof most, "%d", GM_SESSION_IDS_MAX * 4);
    gm_add_text(&c, most);
    gm_store_ask(o->store, on_loaded, l, c.n, c.argv, c.lens);
}

/* ---- the end of a turn
 * --------------------------------------------------------------------------- */

/* KEYS: hash, tokens, turns, lease, record, out, running. ARGV: instance, all ids, turns
 * before, the turn, created, touched, raw, ttl ms, running member, record, keep ms, answer, of one
 * turn, title.
 * Repeating changes nothing. A session of one turn is not stored: its record and answer are. */
static const char SAVE[] =
    "local held = redis.call('TYPE', KEYS[4]).ok == 'string' and redis.call('GET', KEYS[4])\n"
    "if held and held ~= ARGV[1] then return redis.error_reply('the lease is lost') end\n"
    "if ARGV[13] == '0' then\n"
    "redis.call('SET', KEYS[2], ARGV[2])\n"
    "if tonumber(ARGV[3]) == 0 then redis.call('DEL', KEYS[3])\n"
    "else redis.call('LTRIM', KEYS[3], 0, tonumber(ARGV[3]) - 1) end\n"
    "redis.call('RPUSH', KEYS[3], ARGV[4])\n"
    "redis.call('HSET', KEYS[1], 'created', ARGV[5], 'touched', ARGV[6], 'raw', ARGV[7])\n"
    "if ARGV[14] ~= '' then redis.call('HSETNX', KEYS[1], 'title', ARGV[14]) end\n"
    "for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[8]) end\n"
    "end\n"
    "redis.call('DEL', KEYS[4])\n"
    "redis.pcall('SREM', KEYS[7], ARGV[9])\n"
    "redis.call('SET', KEYS[5], ARGV[10], 'PX', ARGV[11])\n"
    "redis.call('SET', KEYS[6], ARGV[12], 'PX', ARGV[11])\n"
    "return 1\n";

struct saving {
    struct gm_orch *orch;
    uint64_t serial;
};

static void on_saved(void *ctx, const struct redisReply *reply, const struct gm_err *err)
{
    struct saving *s = ctx;
    struct gm_turn *t = gm_turn_of(s->orch, s->serial);
    if (!reply)
        gm_log_err(GM_LOG_ERROR, "a turn was not stored", err);
    if (t)
        gm_turn_saved(t, reply != NULL);
    free(s);
}

/* All ids of the session after the turn: its context, the answer, what closes it. */
static int32_t *all_ids(const struct gm_turn *t, size_t *n, uint32_t *answer_end)
{
    const struct gm_roster *r = &t->orch->roster;
    const size_t own = t->n_prompt;
    const size_t close = t->request->has_raw && t->request->raw ? 0 : r->n_close;
    int32_t *ids = malloc((own + t->n_tokens + close + 1) * sizeof *ids);
    if (!ids)
        return NULL;
    memcpy(ids, t->prompt, own * sizeof *ids);
    for (size_t i = 0; i < t->n_tokens; i++)
        ids[own + i] = t->tokens[i]->id;
    if (close > 0)
        memcpy(ids + own + t->n_tokens, r->close_ids, close * sizeof *ids);
    *n = own + t->n_tokens + close;
    *answer_end = (uint32_t)(t->n_prompt + t->n_tokens);
    return ids;
}

static uint8_t *info_of(const struct gm_turn *t, uint32_t answer_end, size_t *n)
{
    Gm__TurnInfo info = GM__TURN_INFO__INIT;
    info.turn = (char *)t->id;
    info.has_messages = t->request->has_messages;
    info.messages = t->request->messages;
    info.has_tools = t->request->has_tools;
    info.tools = t->request->tools;
    info.start = t->start;
    info.prompt_end = (uint32_t)t->n_prompt;
    info.answer_end = answer_end;
    info.finish = (char *)t->finish;
    info.has_raw = 1;
    info.raw = t->request->has_raw && t->request->raw;
    info.sampling = t->sampling;
    info.has_wall_ms = 1;
    info.wall_ms = (uint64_t)gm_wall_ms();
    return gm_pack(&info.base, n);
}

void gm_sess_save(struct gm_turn *t)
{
    struct gm_orch *o = t->orch;
    const char *tenant = t->sess.tenant, *id = t->sess.id;
    const struct gm_name keys[6] = {
        gm_name_of("sess", tenant, id, ""),       gm_name_of("sess", tenant, id, ":tokens"),
        gm_name_of("sess", tenant, id, ":turns"), gm_name_of("lease", tenant, id, ""),
        gm_name_of("turn", tenant, t->id, ""),    gm_name_of("turn", tenant, t->id, ":out")
    };
    char turns[GM_NUMBER_MAX], created[GM_NUMBER_MAX], touched[GM_NUMBER_MAX];
    char ttl[GM_NUMBER_MAX], keep[GM_NUMBER_MAX];
    struct gm_command c = { .n = 0 };
    struct gm_err err = GM_ERR_NONE;
    bool queued = false;
    size_t n_ids = 0, n_info = 0, n_record = 0;
    uint32_t answer_end = 0;
    int32_t *ids = all_ids(t, &n_ids, &answer_end);
    uint8_t *info = info_of(t, answer_end, &n_info), *record = gm_record_pack(t, &n_record);
    struct saving *s = malloc(sizeof *s);
    if (!ids || !info || !record || !s) {
        gm_log(GM_LOG_ERROR, "no memory to store a turn");
        goto out;
    }
    *s = (struct saving){ o, t->serial };
    snprintf(turns, sizeof turns, "%zu", t->turns_before);
    snprintf(created, sizeof created, "%llu", (unsigned long long)t->sess.created_ms);
    snprintf(touched, sizeof touched, "%lld", (long long)gm_wall_ms());
    snprintf(ttl, sizeof ttl, "%lld", (long long)o->session_ttl_ms);
    snprintf(keep, sizeof keep, "%d", GM_RECORD_KEEP_MS);
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, SAVE);
    gm_add_text(&c, "7");
    for (int i = 0; i < 6; i++)
        gm_add_text(&c, keys[i].text);
    gm_add_text(&c, "gm:running");
    gm_add_text(&c, o->instance);
    gm_add(&c, (const char *)ids, n_ids * sizeof *ids);
    gm_add_text(&c, turns);
    gm_add(&c, (const char *)info, n_info);
    gm_add_text(&c, created);
    gm_add_text(&c, touched);
    gm_add_text(&c, t->request->has_raw && t->request->raw ? "1" : "0");
    gm_add_text(&c, ttl);
    gm_add_text(&c, t->key);
    gm_add(&c, (const char *)record, n_record);
    gm_add_text(&c, keep);
    gm_add(&c, (const char *)(ids + t->n_prompt), t->n_tokens * sizeof *ids);
    gm_add_text(&c, gm_turn_ephemeral(t) ? "1" : "0");
    gm_add(&c, t->request->has_title ? (const char *)t->request->title.data : "",
           t->request->has_title ? t->request->title.len : 0);
    queued = gm_store_write(o->store, on_saved, s, c.n, c.argv, c.lens, &err) == GM_OK;
    if (queued)
        s = NULL;
    else
        gm_log_err(GM_LOG_ERROR, "a turn was not stored", &err);
out:
    free(ids);
    free(info);
    free(record);
    free(s);
    t->stored = !queued; /* nothing will answer: `finished` says saved: false at once */
}

void gm_sess_truncate(struct gm_orch *o, const struct gm_sess *s, gm_store_reply *done, void *ctx)
{
    static const char CUT[] = "if tonumber(ARGV[1]) == 0 then redis.call('DEL', KEYS[2])\n"
                              "else redis.call('LTRIM', KEYS[2], 0, tonumber(ARGV[1]) - 1) end\n"
                              "redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])\nreturn 1\n";
    const struct gm_name tokens = gm_name_of("sess", s->tenant, s->id, ":tokens");
    const struct gm_name list = gm_name_of("sess", s->tenant, s->id, ":turns");
    char turns[GM_NUMBER_MAX], ttl[GM_NUMBER_MAX];
    struct gm_command c = { .n = 0 };
    snprintf(turns, sizeof turns, "%zu", s->n_turns);
    snprintf(ttl, sizeof ttl, "%lld", (long long)o->session_ttl_ms);
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, CUT);
    gm_add_text(&c, "2");
    gm_add_text(&c, tokens.text);
    gm_add_text(&c, list.text);
    gm_add_text(&c, turns);
    gm_add(&c, (const char *)s->ids, s->n_ids * sizeof *s->ids);
    gm_add_text(&c, ttl);
    gm_store_ask(o->store, done, ctx, c.n, c.argv, c.lens);
}

void gm_sess_remove(struct gm_orch *o, const struct gm_sess *s, gm_store_reply *done, void *ctx)
{
    const struct gm_name keys[3] = { gm_name_of("sess", s->tenant, s->id, ""),
                                     gm_name_of("sess", s->tenant, s->id, ":tokens"),
                                     gm_name_of("sess", s->tenant, s->id, ":turns") };
    const uint64_t since = (uint64_t)gm_wall_ms() - GM_RECORD_KEEP_MS;
    struct gm_command c = { .n = 0 };
    for (size_t i = s->n_turns; i-- > 0 && s->turns[i]->wall_ms >= since;)
        gm_sess_drop_ended(o, s->tenant, s->turns[i]->turn);
    gm_add_text(&c, "DEL");
    for (int i = 0; i < 3; i++)
        gm_add_text(&c, keys[i].text);
    gm_store_ask(o->store, done, ctx, c.n, c.argv, c.lens);
}

void gm_sess_list(struct gm_orch *o, const char *tenant, gm_store_reply *done, void *ctx)
{
    static const char LIST[] =
        "local out, cursor, most = {}, '0', tonumber(ARGV[2]) * 7\n"
        "local function size(how, key)\n"
        "  local n = redis.pcall(how, key)\n"
        "  return type(n) == 'number' and n or 0\n"
        "end\n"
        "repeat\n"
        "  local page = redis.call('SCAN', cursor, 'MATCH', ARGV[1] .. '*', 'COUNT', 1000)\n"
        "  cursor = page[1]\n"
        "  for _, key in ipairs(page[2]) do\n"
        "    local id = string.sub(key, #ARGV[1] + 1)\n"
        "    local ours = not string.find(id, ':', 1, true) and redis.call('TYPE', key).ok == "
        "'hash'\n"
        "    if ours and #out < most then\n"
        "      local meta = redis.call('HMGET', key, 'created', 'touched', 'raw', 'title')\n"
        "      table.insert(out, id)\n"
        "      table.insert(out, meta[1] or '0')\n"
        "      table.insert(out, meta[2] or '0')\n"
        "      table.insert(out, size('STRLEN', key .. ':tokens'))\n"
        "      table.insert(out, meta[3] or '0')\n"
        "      table.insert(out, meta[4] or '')\n"
        "      table.insert(out, size('LLEN', key .. ':turns'))\n"
        "    end\n"
        "  end\n"
        "until cursor == '0'\n"
        "return out\n";
    const struct gm_name prefix = gm_name_of("sess", tenant, "", "");
    char most[GM_NUMBER_MAX];
    struct gm_command c = { .n = 0 };
    snprintf(most, sizeof most, "%d", GM_SESSIONS_LISTED);
    gm_add_text(&c, "EVAL");
    gm_add_text(&c, LIST);
    gm_add_text(&c, "0");
    gm_add_text(&c, prefix.text);
    gm_add_text(&c, most);
    gm_store_ask(o->store, done, ctx, c.n, c.argv, c.lens);
}
