/* answer.h - what the gateway answers: plain structs into the JSON of OpenAI's API.
 *
 * Owns:      the text of every answer, of every event of a stream, and the form of their numbers.
 * Does not:  know sockets, HTTP or messages of the pipeline; keep anything; copy what it is given.
 *
 * Every writer appends one JSON object (pure ASCII, no line breaks, no blanks between tokens) to
 * *b and returns GM_OK, or GM_EXHAUSTED when the buffer's ceiling or memory is reached; *b then
 * holds what it held before. All pointers are borrowed for the call. Texts are UTF-8; what is not
 * becomes U+FFFD. Log-probabilities are natural logs; -inf and NaN are written as -9999.0, in
 * score as null. Numbers have 9 significant digits, which read back as the same float, and a
 * decimal point whatever the locale. Times of the day are seconds since 1970 (UTC).
 */
#ifndef GM_GATEWAY_ANSWER_H
#define GM_GATEWAY_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/text.h"
#include "common/base/vocab.h"

enum {
    GM_EVENT_BYTES_MAX = 4096, /* one event of a stream with its frame, when cut as below */
    GM_EVENT_TEXT_MAX = 3072,  /* bytes of an event's text after escaping: gm_answer_cut */
};

/* ---- errors and frames ----------------------------------------------------------------------- */

/* {"error": {"message", "type", "param", "code"}}. type NULL or "": OpenAI's name for the HTTP
 * status; param, code NULL or "": null.                                                         */
struct gm_answer_problem {
    int http;
    const char *type, *param, *code, *message;
};
enum gm_status gm_answer_error(struct gm_buf *b, const struct gm_answer_problem *p,
                               struct gm_err *err);

/* "invalid_request_error" for 400; a static string for every number. */
const char *gm_answer_error_type(int http);

/* One event: `event: name` unless NULL, `id: N` unless id < 0, `data: ...`, an empty line. Line
 * breaks in the n bytes become further data lines.                                              */
enum gm_status gm_sse_event(struct gm_buf *b, const char *name, int64_t id, const char *json,
                            size_t n, struct gm_err *err);
#define GM_SSE_DONE "data: [DONE]\n\n"
#define GM_SSE_PING ": ping\n\n"

/* How many of the n bytes go into the next event: whole characters whose escapes fit
 * GM_EVENT_TEXT_MAX. n when all do; never 0 unless n is.                                        */
size_t gm_answer_cut(const char *text, size_t n);

/* ---- chat completions and text completions --------------------------------------------------- */

struct gm_top {
    int32_t id;
    float logprob;
};

struct gm_answer_token {
    int32_t id;
    bool has_logprob; /* false: null (the first token of an echoed prompt) */
    float logprob;
    uint32_t n_top;
    const struct gm_top *top; /* best first; may hold the token itself */
};

struct gm_usage {
    uint32_t prompt, cached, completion; /* tokens; cached is a part of prompt */
};

/* In llama.cpp's form, with the time to the first token beside it. */
struct gm_timings {
    uint32_t cache_n, prompt_n, predicted_n; /* prompt_n: prompt tokens that were computed */
    double prompt_ms, predicted_ms, ttft_ms;
};

enum gm_answer_form { GM_ANSWER_CHAT, GM_ANSWER_TEXT };

/* What all objects of one answer have in common. */
struct gm_answer_meta {
    enum gm_answer_form form;
    const char *id; /* "chatcmpl-...", "cmpl-..." */
    int64_t created;
    const char *model;
    const char *fingerprint;      /* NULL: null */
    const char *service_tier;     /* NULL: left out */
    const char *session;          /* NULL: left out */
    const struct gm_vocab *vocab; /* names the tokens; needed where a choice has logprobs */
    bool include_usage;           /* chunks carry "usage": null */
};

/* Where the next chunk's text begins; zero-initialise it for each choice of a stream. */
struct gm_text_at {
    struct gm_detok detok;
    uint32_t characters;
};

/* One choice, whole or what a chunk adds. */
struct gm_choice {
    uint32_t index;
    const char *text;
    size_t text_len;
    const char *finish; /* "stop", "length"; NULL: null (chunks) */
    bool logprobs;      /* false: null */
    const struct gm_answer_token *tokens;
    size_t n_tokens;       /* with echo the prompt's tokens come first */
    struct gm_text_at *at; /* text completions streamed with logprobs: advanced; else NULL */
};

struct gm_totals {
    const struct gm_usage *usage;
    const struct gm_timings *timings; /* NULL: left out */
};

/* The whole answer ("chat.completion", "text_completion") with its choices and usage. */
enum gm_status gm_answer_whole(struct gm_buf *b, const struct gm_answer_meta *m,
                               const struct gm_choice *choices, size_t n,
                               const struct gm_totals *totals, struct gm_err *err);

enum gm_chunk {
    GM_CHUNK_FIRST, /* role and empty content (a text completion has no such chunk: as TEXT) */
    GM_CHUNK_TEXT,  /* more text */
    GM_CHUNK_LAST,  /* finish_reason; chat: an empty delta, the choice's text is not written */
};

/* One chunk of one choice. timings (NULL: left out) belong on the last. */
enum gm_status gm_answer_chunk(struct gm_buf *b, const struct gm_answer_meta *m, enum gm_chunk kind,
                               const struct gm_choice *choice, const struct gm_timings *timings,
                               struct gm_err *err);

/* The chunk after all others that include_usage asks for: no choices. */
enum gm_status gm_answer_usage_chunk(struct gm_buf *b, const struct gm_answer_meta *m,
                                     const struct gm_totals *totals, struct gm_err *err);

/* ---- models ---------------------------------------------------------------------------------- */

struct gm_model_info {
    const char *id;
    int64_t created;
    const char *owned_by;
    uint32_t max_model_len; /* positions: prompt and answer */
    uint32_t vocab;         /* ids */
    const char *numerics;   /* what names the bits of an answer; NULL: left out */
};
enum gm_status gm_answer_model(struct gm_buf *b, const struct gm_model_info *m, struct gm_err *err);
enum gm_status gm_answer_models(struct gm_buf *b, const struct gm_model_info *models, size_t n,
                                struct gm_err *err);

/* ---- responses ------------------------------------------------------------------------------- */

enum gm_response_state {
    GM_RESPONSE_RUNNING,    /* "in_progress" */
    GM_RESPONSE_COMPLETED,  /* "completed" */
    GM_RESPONSE_INCOMPLETE, /* "incomplete": max_output_tokens was reached */
    GM_RESPONSE_FAILED,     /* "failed", with an error */
    GM_RESPONSE_CANCELLED,  /* "cancelled" */
};

struct gm_response {
    const char *id;      /* "resp_..." */
    const char *item_id; /* "msg_...": its one message */
    const char *model;
    int64_t created, completed; /* completed: written when the state is COMPLETED */
    enum gm_response_state state;
    bool has_item; /* the message is part of the output */
    const char *text;
    size_t text_len;
    bool logprobs; /* the text's tokens are listed */
    const struct gm_answer_token *tokens;
    size_t n_tokens;
    const struct gm_vocab *vocab;
    const char *error_code, *error_message; /* FAILED; code NULL: "server_error" */
    const struct gm_usage *usage;           /* NULL: null */
    /* what was asked */
    const char *instructions; /* NULL: null */
    size_t instructions_len;
    const char *previous; /* previous_response_id; NULL: null */
    const char *metadata; /* a JSON object; NULL or no object: {} */
    const char *user, *safety_identifier, *prompt_cache_key; /* NULL: null */
    const char *service_tier;                                /* NULL: "default" */
    const char *truncation;                                  /* NULL: "disabled" */
    const char *session;                                     /* NULL: left out */
    float temperature, top_p;
    uint32_t max_output_tokens; /* 0: null */
    uint32_t top_logprobs;
    bool store, parallel_tool_calls;
};

/* The response object, as POST (plain), GET and the events that carry it have it. */
enum gm_status gm_answer_response(struct gm_buf *b, const struct gm_response *r,
                                  struct gm_err *err);

/* The events of a stream, in this order; TEXT_DELTA any number of times. */
enum gm_response_event {
    GM_EVENT_CREATED,
    GM_EVENT_IN_PROGRESS,
    GM_EVENT_ITEM_ADDED,
    GM_EVENT_PART_ADDED,
    GM_EVENT_TEXT_DELTA,
    GM_EVENT_TEXT_DONE,
    GM_EVENT_PART_DONE,
    GM_EVENT_ITEM_DONE,
    GM_EVENT_ENDED, /* response.completed, .incomplete or .failed, by the state */
};

/* The event's data; choice: what a TEXT_DELTA adds (text, tokens), else not read. In the first
 * four the response has no item yet, whatever has_item says; from TEXT_DONE on text, tokens and
 * state are the final ones. sequence counts from 0.                                             */
enum gm_status gm_answer_response_event(struct gm_buf *b, const struct gm_response *r,
                                        enum gm_response_event kind, const struct gm_choice *choice,
                                        uint32_t sequence, struct gm_err *err);

/* The name for the `event:` line: equal to "type" in the data. */
const char *gm_response_event_name(const struct gm_response *r, enum gm_response_event kind);

/* ---- score, tokenize, detokenize ------------------------------------------------------------- */

struct gm_score_row {
    bool known; /* false: the position was not scored: null */
    bool has_logprob;
    double logprob; /* of the id at the next position */
    uint32_t n_top;
    const struct gm_top *top; /* best ids for the next position */
};
struct gm_score {
    const struct gm_score_row *rows; /* one per id of the text */
    size_t n;
};

/* {"object": "list", "model", "data": [{"index", "logprobs" (n - 1), "top_ids", "top_logprobs"
 * (n each), "perplexity"}], "usage"}.                                                           */
enum gm_status gm_answer_score(struct gm_buf *b, const char *model, const struct gm_score *texts,
                               size_t n, struct gm_err *err);

/* {"tokens", "count", "max_model_len"} and, with a vocabulary, "token_strs". */
enum gm_status gm_answer_tokens(struct gm_buf *b, const int32_t *ids, size_t n,
                                uint32_t max_model_len, const struct gm_vocab *strings,
                                struct gm_err *err);

/* {"text"} */
enum gm_status gm_answer_text(struct gm_buf *b, const char *text, size_t n, struct gm_err *err);

/* ---- sessions -------------------------------------------------------------------------------- */

struct gm_turn_info {
    const char *turn;
    const char *messages; /* what was sent: a JSON array, or plain text (a session of raw text) */
    size_t messages_len;
    const char *answer;
    size_t answer_len;
    const char *finish; /* "stop", "length", "cancelled"; NULL: it runs */
    uint32_t prompt_tokens, completion_tokens;
    uint64_t wall_ms; /* 0: not known */
};
struct gm_session_info {
    const char *id;
    uint32_t tokens;
    uint64_t created_ms, touched_ms; /* since 1970 */
    bool busy, raw;
    const char *title; /* NULL: left out */
    size_t title_len;
    uint32_t n_turns;
    const struct gm_turn_info *turns; /* n_turns; the list of sessions does not read them */
};
enum gm_status gm_answer_session(struct gm_buf *b, const struct gm_session_info *s,
                                 struct gm_err *err);
enum gm_status gm_answer_sessions(struct gm_buf *b, const struct gm_session_info *list, size_t n,
                                  struct gm_err *err);

/* {"id", "object", "deleted": true}: object "response" or "session.deleted". */
enum gm_status gm_answer_deleted(struct gm_buf *b, const char *id, const char *object,
                                 struct gm_err *err);

#endif
