/* session.c - `gemline session`: list, show, undo, retry, rm.
 *
 * Owns:      how a conversation is printed.
 * Does not:  keep sessions (the orchestrator and Redis do).
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "services/cli/cli.h"

enum { SHOW_BYTES_MAX = 256 << 20 };

struct options {
    struct gm_up_options up;
    bool json;
};

/* clang-format off */
static const struct gm_opt opts[] = {
    { .name = "json", .kind = GM_OPT_FLAG, .at = offsetof(struct options, json),
      .help = "JSON on one line" },
    { .kind = GM_OPT_HEADING, .help = "when no pipeline runs, one is started with" },
    GM_UP_ROWS(struct options, up),
};
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline session",
    .usage = "list | show ID | undo ID | retry ID | rm ID  [options]",
    .about = "list    the conversations of this home\n"
             "show    what was said\n"
             "undo    take the last turn back\n"
             "retry   answer the last turn again, with the next seed\n"
             "rm      forget a conversation",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 2,
};

static enum gm_status fetch(struct gm_conn *c, const char *method, const char *id,
                            const ProtobufCMessageDescriptor *desc, ProtobufCMessage **reply,
                            struct gm_err *err)
{
    Gm__SessionRequest q = GM__SESSION_REQUEST__INIT;
    q.session = (char *)id;
    *reply = NULL;
    return gm_client_call(
        c->client,
        &(struct gm_client_to){ "orchestrator", 0, method, &q.base, desc, GM_CLI_CALL_MS }, reply,
        err);
}

static void when(uint64_t ms, char out[32])
{
    const time_t s = (time_t)(ms / 1000);
    struct tm tm;
    if (!localtime_r(&s, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(out, 32, "?");
}

static enum gm_status put_head(struct gm_buf *b, const Gm__SessionReply *s, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(b, "{\"session\": ", err);
    if (rc == GM_OK)
        rc = gm_buf_append_json(b, s->session, strlen(s->session), err);
    return rc == GM_OK
               ? gm_buf_printf(b, err,
                               ", \"tokens\": %u, \"created_ms\": %llu, \"touched_ms\": %llu, "
                               "\"busy\": %s",
                               s->tokens, (unsigned long long)s->created_ms,
                               (unsigned long long)s->touched_ms, s->busy ? "true" : "false")
               : rc;
}

static enum gm_status list_one(struct gm_buf *b, const Gm__SessionReply *s, bool json, bool first,
                               struct gm_err *err)
{
    char touched[32];
    if (!json) {
        when(s->touched_ms, touched);
        return gm_buf_printf(b, err, "%-36s %8u tokens  %s%s\n", s->session, s->tokens, touched,
                             s->busy ? "  busy" : "");
    }
    enum gm_status rc = gm_buf_append_text(b, first ? "" : ", ", err);
    if (rc == GM_OK)
        rc = put_head(b, s, err);
    return rc == GM_OK ? gm_buf_append_text(b, "}", err) : rc;
}

enum gm_status gm_session_list(struct gm_conn *c, bool json, struct gm_err *err)
{
    ProtobufCMessage *reply = NULL;
    enum gm_status rc =
        fetch(c, "Orchestrator.Sessions", NULL, &gm__session_list__descriptor, &reply, err);
    if (rc != GM_OK)
        return rc;
    const Gm__SessionList *all = (const Gm__SessionList *)reply;
    struct gm_buf b = GM_BUF(SHOW_BYTES_MAX);
    rc = json ? gm_buf_append_text(&b, "{\"sessions\": [", err) : GM_OK;
    for (size_t i = 0; rc == GM_OK && i < all->n_sessions; i++)
        rc = list_one(&b, all->sessions[i], json, i == 0, err);
    if (rc == GM_OK && json)
        rc = gm_buf_append_text(&b, "]}\n", err);
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&b), b.len, err);
    gm_buf_free(&b);
    protobuf_c_message_free_unpacked(reply, NULL);
    return rc;
}

/* ---- show -------------------------------------------------------------------------------------
 */
static enum gm_status put_said(struct gm_buf *b, const char *role, const char *text, size_t n,
                               bool json, struct gm_err *err)
{
    enum gm_status rc;
    if (json) {
        const bool first = b->len > 0 && b->data[b->len - 1] == '[';
        rc = gm_buf_printf(b, err, "%s{\"role\": \"%s\", \"content\": ", first ? "" : ", ", role);
        if (rc == GM_OK)
            rc = gm_buf_append_json(b, text, n, err);
        return rc == GM_OK ? gm_buf_append_text(b, "}", err) : rc;
    }
    rc = gm_buf_printf(b, err, "%s: ", role);
    if (rc == GM_OK)
        rc = gm_buf_append(b, text, n, err);
    return rc == GM_OK ? gm_buf_append_text(b, "\n", err) : rc;
}

/* The messages of a turn: a text each, or the parts of one that are text. */
static enum gm_status put_messages(struct gm_buf *b, const Gm__TurnInfo *t, bool json,
                                   struct gm_err *err)
{
    const char *bytes = (const char *)t->messages.data;
    if (!t->has_messages)
        return GM_OK;
    if (t->raw)
        return put_said(b, "raw", bytes, t->messages.len, json, err);
    json_t *all = json_loadb(bytes, t->messages.len, JSON_ALLOW_NUL, NULL);
    enum gm_status rc = GM_OK;
    for (size_t i = 0; rc == GM_OK && i < json_array_size(all); i++) {
        const json_t *m = json_array_get(all, i), *content = json_object_get(m, "content");
        const char *role = json_string_value(json_object_get(m, "role"));
        if (role && json_is_string(content))
            rc = put_said(b, role, json_string_value(content), json_string_length(content), json,
                          err);
        for (size_t k = 0; rc == GM_OK && role && k < json_array_size(content); k++) {
            const json_t *text = json_object_get(json_array_get(content, k), "text");
            if (json_is_string(text))
                rc =
                    put_said(b, role, json_string_value(text), json_string_length(text), json, err);
        }
    }
    json_decref(all);
    return rc;
}

static enum gm_status put_turn(struct gm_buf *b, const Gm__SessionReply *s, const Gm__TurnInfo *t,
                               const struct gm_vocab *v, bool json, struct gm_err *err)
{
    enum gm_status rc = put_messages(b, t, json, err);
    if (rc != GM_OK || t->prompt_end > t->answer_end || t->answer_end > s->n_ids)
        return rc;
    struct gm_buf text = GM_BUF(SHOW_BYTES_MAX);
    rc = gm_vocab_decode(v, s->ids + t->prompt_end, t->answer_end - t->prompt_end, &text, err);
    if (rc == GM_OK)
        rc = put_said(b, "assistant", gm_buf_text(&text), text.len, json, err);
    gm_buf_free(&text);
    return rc;
}

enum gm_status gm_session_print(struct gm_conn *c, const char *id, bool json, struct gm_err *err)
{
    ProtobufCMessage *reply = NULL;
    enum gm_status rc =
        fetch(c, "Orchestrator.Session", id, &gm__session_reply__descriptor, &reply, err);
    if (rc != GM_OK)
        return rc;
    const Gm__SessionReply *s = (const Gm__SessionReply *)reply;
    struct gm_buf b = GM_BUF(SHOW_BYTES_MAX);
    if (json) {
        rc = put_head(&b, s, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(&b, ", \"messages\": [", err);
    }
    for (size_t i = 0; rc == GM_OK && i < s->n_turns; i++)
        rc = put_turn(&b, s, s->turns[i], &c->vocab, json, err);
    if (rc == GM_OK && json)
        rc = gm_buf_append_text(&b, "], \"ids\": [", err);
    for (size_t i = 0; rc == GM_OK && json && i < s->n_ids; i++)
        rc = gm_buf_printf(&b, err, "%s%d", i ? ", " : "", s->ids[i]);
    if (rc == GM_OK && json)
        rc = gm_buf_append_text(&b, "]}\n", err);
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&b), b.len, err);
    gm_buf_free(&b);
    protobuf_c_message_free_unpacked(reply, NULL);
    return rc;
}

/* ---- the command ------------------------------------------------------------------------------
 */
enum gm_status gm_session_call(struct gm_conn *c, const char *method, const char *id,
                               struct gm_err *err)
{
    const bool undo = strcmp(method, "Orchestrator.Undo") == 0;
    ProtobufCMessage *reply = NULL;
    const enum gm_status rc = fetch(
        c, method, id, undo ? &gm__session_reply__descriptor : &gm__empty__descriptor, &reply, err);
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    return rc;
}

static enum gm_status do_list(struct gm_conn *c, const char *id, bool json, struct gm_err *err)
{
    (void)id;
    return gm_session_list(c, json, err);
}

static enum gm_status told(bool json, const char *id, enum gm_status rc, struct gm_err *err)
{
    char line[128];
    if (rc != GM_OK || !json)
        return rc;
    snprintf(line, sizeof line, "{\"session\": \"%s\"}\n", id);
    return gm_cli_write(line, strlen(line), err);
}

static enum gm_status do_undo(struct gm_conn *c, const char *id, bool json, struct gm_err *err)
{
    return told(json, id, gm_session_call(c, "Orchestrator.Undo", id, err), err);
}

static enum gm_status do_rm(struct gm_conn *c, const char *id, bool json, struct gm_err *err)
{
    return told(json, id, gm_session_call(c, "Orchestrator.Remove", id, err), err);
}

static enum gm_status do_retry(struct gm_conn *c, const char *id, bool json, struct gm_err *err)
{
    struct gm_answer a;
    struct gm_buf out = GM_BUF(0);
    const struct gm_buf none = GM_BUF(0);
    const struct gm_turn_options o = { .session = id, .retry = true, .stream = !json };
    enum gm_status rc = gm_turn_run(c, &o, &none, &a, err);
    if (rc == GM_OK && json)
        rc = gm_answer_json(&a, &c->vocab, &out, err);
    if (rc == GM_OK)
        rc = json ? gm_cli_write(out.data, out.len, err) : gm_cli_write("\n", 1, err);
    gm_buf_free(&out);
    gm_answer_free(&a);
    return rc;
}

struct verb {
    const char *name;
    size_t words;
    enum gm_status (*run)(struct gm_conn *c, const char *id, bool json, struct gm_err *err);
};
static const struct verb verbs[] = {
    { "list", 1, do_list }, { "show", 2, gm_session_print },
    { "undo", 2, do_undo }, { "retry", 2, do_retry },
    { "rm", 2, do_rm },
};
enum { VERBS = sizeof verbs / sizeof verbs[0] };

static const struct verb *verb_of(const struct gm_args *args, struct gm_err *err)
{
    const struct verb *verb = NULL;
    for (int i = 0; i < VERBS && args->n; i++)
        if (strcmp(args->positionals[0], verbs[i].name) == 0)
            verb = &verbs[i];
    if (!verb)
        gm_fail(err, GM_INVALID, "say what to do: list, show ID, undo ID, retry ID or rm ID");
    else if (args->n != verb->words)
        gm_fail(err, GM_INVALID, "gemline session %s takes %s", verb->name,
                verb->words == 1 ? "nothing more" : "the id of one session");
    else if (verb->words == 1 || gm_cli_check_session(args->positionals[1], err) == GM_OK)
        return verb;
    return NULL;
}

int gm_cmd_session(int argc, char **argv)
{
    static struct gm_conn conn;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    const struct verb *verb = verb_of(&args, &err);
    if (!verb || gm_options_check(&program, &args, &o.up, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (gm_conn_open(&conn, &o.up, false, &err) != GM_OK)
        return gm_cli_fail(&err);
    const enum gm_status rc =
        verb->run(&conn, verb->words > 1 ? args.positionals[1] : NULL, o.json, &err);
    gm_conn_close(&conn);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
