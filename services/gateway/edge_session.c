/* edge_session.c - stored sessions over HTTP: list, show, undo, remove, and picking up a stream.
 *
 * Owns:      the translation of the orchestrator's session calls.
 * Does not:  keep sessions (the orchestrator does) or run turns (edge_turn.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

static void fill_head(struct gm_session_info *s, const Gm__SessionReply *r)
{
    *s = (struct gm_session_info){ .id = r->session,
                                   .tokens = r->tokens,
                                   .created_ms = r->created_ms,
                                   .touched_ms = r->touched_ms,
                                   .busy = r->busy,
                                   .raw = r->has_raw && r->raw,
                                   .title = r->has_title ? (const char *)r->title.data : NULL,
                                   .title_len = r->has_title ? r->title.len : 0,
                                   .n_turns = r->has_turn_count ? r->turn_count
                                                                : (uint32_t)r->n_turns };
}

static void answer_or_fail(struct gm_job *j, enum gm_status rc, struct gm_buf *json)
{
    struct gm_err err = GM_ERR_NONE;
    if (rc == GM_OK) {
        gm_job_json(j, 200, json);
        return;
    }
    gm_buf_free(json);
    gm_fail(&err, GM_EXHAUSTED, "no memory for the answer");
    gm_job_fail_err(j, &err);
}

/* ---- one session ------------------------------------------------------------------------------
 */

static enum gm_status put_session(const struct gm_job *j, const Gm__SessionReply *r,
                                  struct gm_buf *json)
{
    struct gm_session_info s;
    struct gm_turn_info *turns = calloc(r->n_turns + 1, sizeof *turns);
    struct gm_buf *texts = calloc(r->n_turns + 1, sizeof *texts);
    enum gm_status rc = turns && texts ? GM_OK : GM_EXHAUSTED;
    fill_head(&s, r);
    for (size_t i = 0; rc == GM_OK && i < r->n_turns; i++) {
        const Gm__TurnInfo *t = r->turns[i];
        texts[i] = GM_BUF(GM_JSON_BYTES_MAX);
        if (t->prompt_end <= t->answer_end && t->answer_end <= r->n_ids)
            rc = gm_vocab_decode(&j->g->vocab, r->ids + t->prompt_end,
                                 t->answer_end - t->prompt_end, &texts[i], NULL);
        turns[i] = (struct gm_turn_info){
            .turn = t->turn,
            .messages = t->has_messages ? (const char *)t->messages.data : "",
            .messages_len = t->has_messages ? t->messages.len : 0,
            .answer = gm_buf_text(&texts[i]),
            .answer_len = texts[i].len,
            .finish = t->finish,
            .prompt_tokens = t->prompt_end,
            .completion_tokens = t->answer_end - t->prompt_end,
            .wall_ms = t->has_wall_ms ? t->wall_ms : 0,
        };
    }
    s.turns = turns;
    if (rc == GM_OK)
        rc = gm_answer_session(json, &s, NULL);
    for (size_t i = 0; texts && i < r->n_turns; i++)
        gm_buf_free(&texts[i]);
    free(texts);
    free(turns);
    return rc;
}

static void on_session(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    if (!body)
        gm_job_fail_err(j, err);
    else
        answer_or_fail(j, put_session(j, (const Gm__SessionReply *)body, &json), &json);
}

static void on_removed(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_buf json = GM_BUF(1024);
    if (!body)
        gm_job_fail_err(j, err);
    else
        answer_or_fail(j, gm_answer_deleted(&json, j->path.id, "session.deleted", NULL), &json);
}

/* ---- the list ---------------------------------------------------------------------------------
 */

static void on_list(struct gm_job *j, const ProtobufCMessage *body, const struct gm_err *err)
{
    const Gm__SessionList *r = (const Gm__SessionList *)body;
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    if (!r) {
        gm_job_fail_err(j, err);
        return;
    }
    struct gm_session_info *list = calloc(r->n_sessions + 1, sizeof *list);
    for (size_t i = 0; list && i < r->n_sessions; i++)
        fill_head(&list[i], r->sessions[i]);
    const enum gm_status rc =
        list ? gm_answer_sessions(&json, list, r->n_sessions, NULL) : GM_EXHAUSTED;
    free(list);
    answer_or_fail(j, rc, &json);
}

void gm_sessions_begin(struct gm_job *j)
{
    Gm__SessionRequest r = GM__SESSION_REQUEST__INIT;
    struct gm_job_call call = { .role = "orchestrator", .request = &r.base };
    r.tenant = j->tenant;
    if (j->path.route != GM_ROUTE_SESSIONS)
        r.session = j->path.id;
    switch (j->path.route) {
    case GM_ROUTE_SESSION_STREAM:
        gm_turns_pick_up(j, j->path.id, j->path.has_from ? j->path.from : 0);
        return;
    case GM_ROUTE_SESSION_DELETE:
        call.method = "Orchestrator.Remove";
        call.reply = &gm__empty__descriptor;
        call.answer = on_removed;
        break;
    case GM_ROUTE_SESSION_UNDO:
        call.method = "Orchestrator.Undo";
        call.reply = &gm__session_reply__descriptor;
        call.answer = on_session;
        break;
    case GM_ROUTE_SESSION_GET:
        call.method = "Orchestrator.Session";
        call.reply = &gm__session_reply__descriptor;
        call.answer = on_session;
        break;
    default:
        call.method = "Orchestrator.Sessions";
        call.reply = &gm__session_list__descriptor;
        call.answer = on_list;
    }
    (void)gm_job_call(j, &call);
}
