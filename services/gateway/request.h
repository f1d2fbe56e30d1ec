/* request.h - a request's JSON body as a plain struct, and what a refused one is answered with.
 *
 * Owns:      struct gm_request (every field copied out of the body), struct gm_problem, the limits.
 * Does not:  touch sockets or messages, encode text, know the running model's name, or read paths
 *            (path.h). Which parameters there are is one table: params.h.
 * Threads:   any; there is no state.
 */
#ifndef GM_GATEWAY_REQUEST_H
#define GM_GATEWAY_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/sampling.h"
#include "common/base/text.h"

/* ---- what a refused request is answered with ------------------------------------------------ */

struct gm_problem {
    int http;       /* status, 400 .. 503; 0: no problem */
    char type[32];  /* "invalid_request_error", ... */
    char code[48];  /* "unknown_parameter", ...; "": null */
    char param[96]; /* "messages[0].content[1]"; "": null */
    char text[400]; /* one sentence that says what to do; UTF-8 */
    long retry_s;   /* > 0: the value of Retry-After */
};

/* Fills *why; the type follows from the status, long texts are cut. Returns false always, so that
 *     return gm_problem_set(why, 400, "invalid_value", "n", "n is %d; give 1 to %d", n, max);
 * refuses. `code` and `param` may be NULL.                                                       */
bool gm_problem_set(struct gm_problem *why, int http, const char *code, const char *param,
                    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* What an error of the pipeline is over HTTP: its sentence, and
 *   INVALID RANGE PRECONDITION UNSUPPORTED 400, UNAUTHENTICATED 401, DENIED 403, NOT_FOUND 404,
 *   DEADLINE 408, EXISTS ABORTED 409, EXHAUSTED 429, CANCELLED 499, UNAVAILABLE 503, else 500.
 * 429 and 503 always have retry_s >= 1: err->retry_ms rounded up; so has 409 with retry_ms > 0.  */
void gm_problem_from(struct gm_problem *why, const struct gm_err *err);

/* ---- limits --------------------------------------------------------------------------------- */

enum {
    GM_REQUEST_BYTES_MAX = 8 << 20,            /* a body: more is 413 */
    GM_REQUEST_NODES_MAX = 100000,             /* JSON values of a body, counted before parsing */
    GM_REQUEST_DEPTH_MAX = 64,                 /* arrays and objects inside each other */
    GM_REQUEST_MESSAGES_MAX = 4096,            /* messages of a conversation */
    GM_REQUEST_PARTS_MAX = 1024,               /* content parts of one message */
    GM_REQUEST_CALLS_MAX = 64,                 /* tool calls of one message */
    GM_REQUEST_PROMPTS_MAX = 256,              /* prompts of a batch */
    GM_REQUEST_PROMPT_BYTES_MAX = 4 << 20,     /* one prompt's text */
    GM_REQUEST_N_MAX = 16,                     /* choices of a prompt */
    GM_REQUEST_CHOICES_MAX = 256,              /* prompts times choices */
    GM_REQUEST_STOPS_MAX = GM_STOPS_MAX,       /* stop strings; OpenAI takes 4 */
    GM_REQUEST_BIAS_MAX = GM_BIAS_MAX,         /* entries of logit_bias */
    GM_REQUEST_TOP_MAX = 20,                   /* top_logprobs of chat and responses */
    GM_REQUEST_LOGPROBS_MAX = GM_LOGPROBS_MAX, /* logprobs of completions; OpenAI takes 5 */
    GM_REQUEST_SCORE_TOP_MAX = 1024,           /* top of score, as `gemline score` takes */
    GM_REQUEST_EVERY_MAX = 1 << 20,            /* every of score */
    GM_REQUEST_NAME_MAX = 128,                 /* bytes of a model's name */
    GM_REQUEST_ID_MAX = 64,                    /* bytes of a session's id, or a response's */
    GM_REQUEST_METADATA_MAX = 16,              /* pairs of metadata */
    GM_REQUEST_METADATA_KEY_MAX = 64,          /* characters, as OpenAI counts them */
    GM_REQUEST_METADATA_VALUE_MAX = 512,
};

/* What an operator may set lower or higher; the other limits above are fixed. */
struct gm_request_limits {
    size_t bytes;
    size_t nodes;
    size_t messages;
    size_t prompts;
    size_t prompt_bytes;
    int32_t n;
    int32_t vocab; /* token ids are below it; 0: not known, so only negative ones are refused */
};
void gm_request_limits_default(struct gm_request_limits *limits);

/* ---- the request ---------------------------------------------------------------------------- */

/* One bit each: a row of the parameter table belongs to several. */
enum gm_api {
    GM_API_CHAT = 1 << 0,       /* POST /v1/chat/completions */
    GM_API_COMPLETION = 1 << 1, /* POST /v1/completions */
    GM_API_RESPONSE = 1 << 2,   /* POST /v1/responses */
    GM_API_SCORE = 1 << 3,      /* POST /v1/score */
    GM_API_TOKENIZE = 1 << 4,   /* POST /v1/tokenize */
    GM_API_DETOKENIZE = 1 << 5, /* POST /v1/detokenize */
};
enum { GM_API_ALL = (1 << 6) - 1, GM_API_COUNT = 6 };

/* One prompt: ids when ids is not NULL, else text (which may be empty and may hold 0 bytes). */
struct gm_prompt {
    char *text; /* owned, 0-terminated behind text_len bytes; NULL with ids */
    size_t text_len;
    int32_t *ids; /* owned; NULL with text */
    size_t n_ids; /* >= 1 with ids */
};

struct gm_request {
    enum gm_api api;
    char model[GM_REQUEST_NAME_MAX + 1]; /* "": not named. The caller compares it */

    /* chat, completions, responses */
    struct gm_sampling sampling; /* gm_sampling_check holds; absent fields have the defaults */
    bool has_seed;               /* else sampling.seed is 0 and the caller draws one */
    bool has_max_tokens;         /* else the caller gives the default, or what is left */
    bool has_temperature, has_top_k,
        has_top_p;  /* given by the client, for answers that repeat them */
    bool no_answer; /* completions with max_tokens 0: the prompt alone (sampling.max_tokens: 1) */
    int32_t n;      /* choices of each prompt, 1 .. limits->n */
    bool stream;    /* server-sent events */
    bool include_usage;                  /* a last chunk with the usage; only with stream */
    bool echo;                           /* completions: the prompt stands before the answer */
    char session[GM_REQUEST_ID_MAX + 1]; /* "": none. From the body; a header is the caller's */

    /* chat, responses, tokenize with messages: what stands under "messages" (of responses: the
     * input's items as messages; an input text is one user message). A JSON array as text that the
     * tokenizer service reads; system texts of `instructions` are not in it. */
    char *messages; /* owned; NULL: none */
    size_t messages_len;
    size_t n_messages;

    /* completions, score, tokenize with text, detokenize: the prompts in order */
    struct gm_prompt *prompts; /* owned, n_prompts */
    size_t n_prompts;
    bool batch; /* the prompts stood in an array of prompts, also when it was one */

    /* responses */
    char *instructions; /* owned; NULL: none */
    size_t instructions_len;
    char previous[GM_REQUEST_ID_MAX + 1]; /* previous_response_id; "": none */
    bool store;                           /* default true */
    char *metadata;                       /* owned JSON object as text; NULL: none. Chat too */
    int32_t top_logprobs;                 /* as given, 0 when absent, for the answer */

    /* score */
    int32_t top;   /* so many best tokens at each position */
    int32_t every; /* only each N-th position, >= 1 */

    /* tokenize */
    bool add_special; /* <bos> before a text; messages always have it */
    bool pieces;      /* the tokens' texts too */
};

/* Reads the body of a request to `api` (exactly one bit). True: *r is filled and the caller frees
 * it. False: *why says what is wrong with which parameter, and *r is empty.
 * Every name is honoured, accepted without effect (params.h lists them) or refused with 400 and its
 * name; null counts as absent. 413: longer than limits->bytes.                                   */
bool gm_request_parse(struct gm_request *r, enum gm_api api, const char *body, size_t len,
                      const struct gm_request_limits *limits, struct gm_problem *why);

/* Idempotent; accepts a zeroed one. */
void gm_request_free(struct gm_request *r);

/* Appends the whole conversation as one JSON array: `instructions` as a system message, then the
 * messages of `history` (a JSON array as text that this module or the caller made; n = 0: none),
 * then the request's own. Errors as gm_buf_*; GM_INVALID: history is no array.                   */
enum gm_status gm_request_messages(const struct gm_request *r, const char *history, size_t n,
                                   struct gm_buf *out, struct gm_err *err);

/* The first line of the first user message, for lists of conversations: at most GM_TITLE_BYTES_MAX
 * bytes of whole characters, 0-terminated; "" when there is none. Returns its length. */
enum { GM_TITLE_BYTES_MAX = 96 };
size_t gm_request_title(const struct gm_request *r, char out[GM_TITLE_BYTES_MAX + 1]);

/* True for 1 to 64 of A-Z a-z 0-9 . _ - : ids of sessions, responses, turns. */
bool gm_request_id_ok(const char *id, size_t len);

#endif
