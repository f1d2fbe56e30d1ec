/* edge_response.c - the Responses API: immutable points of conversations, kept in Redis.
 *
 * Owns:      gm:resp:{tenant}:ID, a hash of the answer's JSON and the conversation up to and with
 * it (without instructions, which are not inherited). Does not:  run the turn (edge_turn.c).
 */
#include <hiredis/hiredis.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

enum { KEY_MAX = 256, TTL_MAX = 16, RESPONSE_TTL_S = 604800, RECORD_BYTES_MAX = 48 << 20 };

/* What the messages of earlier responses are, while the turn runs. */
struct history {
    struct gm_buf messages; /* JSON array; "": none */
};

static void history_free(void *own)
{
    struct history *h = own;
    gm_buf_free(&h->messages);
    free(h);
}

static void key_of(const struct gm_job *j, const char *id, char out[KEY_MAX])
{
    snprintf(out, KEY_MAX, "gm:resp:{%s}:%s", j->tenant, id);
}

static void not_found(struct gm_job *j, const char *param, const char *id)
{
    struct gm_problem why;
    memset(&why, 0, sizeof why);
    gm_problem_set(&why, 404, "response_not_found", param,
                   "there is no stored response %.64s; it may be another key's, deleted or too old",
                   id);
    gm_job_fail(j, &why);
}

/* ---- a new response ---------------------------------------------------------------------------
 */

/* The conversation is known: instructions, what was before, the new input. */
static void begin(struct gm_job *j)
{
    struct history *h = j->own;
    struct gm_err err = GM_ERR_NONE;
    if (gm_request_messages(&j->req, gm_buf_text(&h->messages), h->messages.len, &j->messages,
                            &err) != GM_OK)
        gm_job_fail_err(j, &err);
    else
        gm_turns_admit(j);
}

static void on_previous(struct gm_job *j, const struct redisReply *r, const struct gm_err *err)
{
    struct history *h = j->own;
    struct gm_err why = GM_ERR_NONE;
    if (!r)
        gm_job_fail_err(j, err);
    else if (r->type != REDIS_REPLY_STRING)
        not_found(j, "previous_response_id", j->req.previous);
    else if (gm_buf_append(&h->messages, r->str, r->len, &why) != GM_OK)
        gm_job_fail_err(j, &why);
    else
        begin(j);
}

void gm_response_begin(struct gm_job *j)
{
    struct gm_err err = GM_ERR_NONE;
    char key[KEY_MAX];
    struct history *h = calloc(1, sizeof *h);
    if (!h) {
        gm_fail(&err, GM_EXHAUSTED, "no memory for a response");
        gm_job_fail_err(j, &err);
        return;
    }
    h->messages = GM_BUF(RECORD_BYTES_MAX);
    j->own = h;
    j->own_free = history_free;
    if (!j->req.previous[0]) {
        begin(j);
        return;
    }
    key_of(j, j->req.previous, key);
    const char *argv[] = { "HGET", key, "messages" };
    const size_t lens[] = { 4, strlen(key), 8 };
    (void)gm_job_redis(j, on_previous, 3, argv, lens);
}

enum gm_status gm_response_fill(struct gm_job *j, struct gm_response *r)
{
    const struct gm_run *run = &j->runs[0];
    const bool cut = run->finish && strcmp(run->finish, "length") == 0;
    snprintf(j->item_id, sizeof j->item_id, "msg_%s", strchr(j->id, '_') + 1);
    j->usage = (struct gm_usage){ run->prompt_tokens, run->cached_tokens, run->n };
    *r = (struct gm_response){
        .id = j->id,
        .item_id = j->item_id,
        .model = j->g->model,
        .created = j->created_s,
        .completed = gm_wall_ms() / 1000,
        .state = !run->finish ? GM_RESPONSE_RUNNING
                 : cut        ? GM_RESPONSE_INCOMPLETE
                              : GM_RESPONSE_COMPLETED,
        .has_item = run->finish != NULL,
        .text = gm_buf_text(&run->text),
        .text_len = run->text.len,
        .logprobs = j->req.sampling.logprobs >= 0,
        .tokens = run->tokens,
        .n_tokens = run->n_tokens,
        .vocab = &j->g->vocab,
        .usage = run->finish ? &j->usage : NULL,
        .instructions = j->req.instructions,
        .instructions_len = j->req.instructions_len,
        .previous = j->req.previous[0] ? j->req.previous : NULL,
        .metadata = j->req.metadata,
        .session = j->req.session[0] ? j->req.session : NULL,
        .temperature = j->req.sampling.temperature,
        .top_p = j->req.sampling.top_p,
        .max_output_tokens = j->req.has_max_tokens ? (uint32_t)j->req.sampling.max_tokens : 0,
        .top_logprobs = (uint32_t)j->req.top_logprobs,
        .store = j->req.store,
        .parallel_tool_calls = true,
    };
    return GM_OK;
}

/* ---- its end ----------------------------------------------------------------------------------
 */

static void answer(struct gm_job *j)
{
    struct gm_response r;
    struct gm_buf json = GM_BUF(GM_JSON_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    if (j->req.stream) {
        gm_render_event(j, GM_EVENT_ENDED);
        if (j->x)
            gm_exchange_end(j->x, false);
        gm_job_end(j);
        return;
    }
    if (gm_response_fill(j, &r) == GM_OK && gm_answer_response(&json, &r, &err) == GM_OK) {
        gm_job_json(j, 200, &json);
        return;
    }
    gm_buf_free(&json);
    gm_job_fail_err(j, &err);
}

static void on_stored(struct gm_job *j, const struct redisReply *r, const struct gm_err *err)
{
    if (r)
        answer(j);
    else
        gm_job_fail_err(j, err);
}

/* The conversation with this answer behind it: [..., {"role": "assistant", "content": TEXT}]. */
static enum gm_status conversation(struct gm_job *j, struct gm_buf *out, struct gm_err *err)
{
    const struct history *h = j->own;
    const struct gm_run *run = &j->runs[0];
    char *instructions = j->req.instructions;
    j->req.instructions = NULL; /* the next request gives its own */
    enum gm_status rc =
        gm_request_messages(&j->req, gm_buf_text(&h->messages), h->messages.len, out, err);
    j->req.instructions = instructions;
    if (rc != GM_OK)
        return rc;
    out->len--; /* the closing bracket */
    rc = gm_buf_append_text(out, ",{\"role\":\"assistant\",\"content\":", err);
    if (rc == GM_OK)
        rc = gm_buf_append_json(out, gm_buf_text(&run->text), run->text.len, err);
    return rc == GM_OK ? gm_buf_append_text(out, "}]", err) : rc;
}

void gm_response_done(struct gm_job *j)
{
    static const char SCRIPT[] =
        "redis.call('HSET', KEYS[1], 'json', ARGV[1], 'messages', ARGV[2])\n"
        "redis.call('EXPIRE', KEYS[1], ARGV[3])\nreturn 1\n";
    struct gm_buf json = GM_BUF(RECORD_BYTES_MAX), messages = GM_BUF(RECORD_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    struct gm_response r;
    char key[KEY_MAX], ttl[TTL_MAX];
    if (!j->req.store) {
        answer(j);
        return;
    }
    enum gm_status rc = gm_response_fill(j, &r);
    if (rc == GM_OK)
        rc = gm_answer_response(&json, &r, &err);
    if (rc == GM_OK)
        rc = conversation(j, &messages, &err);
    if (rc == GM_OK) {
        key_of(j, j->id, key);
        snprintf(ttl, sizeof ttl, "%d", RESPONSE_TTL_S);
        const char *argv[] = { "EVAL", SCRIPT, "1", key, gm_buf_text(&json), gm_buf_text(&messages),
                               ttl };
        const size_t lens[] = { 4,        sizeof SCRIPT - 1, 1,          strlen(key),
                                json.len, messages.len,      strlen(ttl) };
        (void)gm_job_redis(j, on_stored, 7, argv, lens);
    } else {
        gm_job_fail_err(j, &err);
    }
    gm_buf_free(&json);
    gm_buf_free(&messages);
}

/* ---- stored ones ------------------------------------------------------------------------------
 */

/* Whether what is stored is the response of this id. */
static bool is_response(const struct redisReply *r, const char *id)
{
    json_t *stored = json_loadb(r->str, r->len, 0, NULL);
    const char *name = json_string_value(json_object_get(stored, "id"));
    const bool ours = name && strcmp(name, id) == 0;
    json_decref(stored);
    return ours;
}

static void on_got(struct gm_job *j, const struct redisReply *r, const struct gm_err *err)
{
    struct gm_buf json = GM_BUF(RECORD_BYTES_MAX);
    struct gm_err why = GM_ERR_NONE;
    if (!r)
        gm_job_fail_err(j, err);
    else if (r->type != REDIS_REPLY_STRING)
        not_found(j, "response_id", j->path.id);
    else if (!is_response(r, j->path.id))
        gm_fail(&why, GM_DATA_LOSS, "the stored response is damaged; delete it");
    else if (gm_buf_append(&json, r->str, r->len, &why) == GM_OK)
        gm_job_json(j, 200, &json);
    if (why.status != GM_OK)
        gm_job_fail_err(j, &why);
}

void gm_response_get(struct gm_job *j)
{
    char key[KEY_MAX];
    key_of(j, j->path.id, key);
    const char *argv[] = { "HGET", key, "json" };
    const size_t lens[] = { 4, strlen(key), 4 };
    (void)gm_job_redis(j, on_got, 3, argv, lens);
}

static void on_deleted(struct gm_job *j, const struct redisReply *r, const struct gm_err *err)
{
    struct gm_buf json = GM_BUF(1024);
    if (!r) {
        gm_job_fail_err(j, err);
    } else if (r->type != REDIS_REPLY_INTEGER || r->integer == 0) {
        not_found(j, "response_id", j->path.id);
    } else {
        (void)gm_answer_deleted(&json, j->path.id, "response", NULL);
        gm_job_json(j, 200, &json);
    }
}

void gm_response_delete(struct gm_job *j)
{
    char key[KEY_MAX];
    key_of(j, j->path.id, key);
    const char *argv[] = { "DEL", key };
    const size_t lens[] = { 3, strlen(key) };
    (void)gm_job_redis(j, on_deleted, 2, argv, lens);
}
