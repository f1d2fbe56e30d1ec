/* read.h - the functions that take one parameter's JSON value into the request.
 *
 * Owns:      struct gm_reading (one request being read) and the readers that params.c names.
 * Does not:  exist for anybody but request.c, params.c and the read_*.c files.
 */
#ifndef GM_GATEWAY_READ_H
#define GM_GATEWAY_READ_H

#include <jansson.h>

#include "services/gateway/params.h"
#include "services/gateway/request.h"

enum { GM_SHOWN_MAX = 40 }; /* bytes of a client's word shown in a sentence */

struct gm_reading {
    struct gm_request *r;
    const struct gm_request_limits *limits;
    struct gm_problem *why;
    json_t *root;         /* the body */
    const char *text_of;  /* the parameter that gave the prompts or messages; NULL: none yet */
    bool deepmind;        /* DeepMind's sampling is asked for */
    bool repeat_given;    /* one of the names of the repetition penalty */
    bool special_given;   /* one of the names of add_special */
    bool logprobs;        /* asked: chat's flag, or responses' include */
    bool stream_options;  /* given */
    int32_t top_logprobs; /* chat, responses; -1: not given */
};

/* ---- request.c: what readers share ----------------------------------------------------------- */

/* True for a JSON integer, or a real that is whole and below 2^53; then *out is it. */
bool gm_json_whole(const json_t *value, int64_t *out);

/* A whole number of [min, max], else the problem. */
bool gm_read_whole(struct gm_reading *in, const char *name, const json_t *value, int64_t range[2],
                   int64_t *out);

/* An owned copy of a JSON string with a 0 behind it; NULL without memory, with the problem. */
char *gm_read_copy(struct gm_reading *in, const json_t *text, size_t *len);

/* A parameter's full name for a problem ("messages[3].role"), cut where it does not fit. */
void gm_read_name(char *out, size_t cap, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* 500: out of memory. Returns false. */
bool gm_read_no_memory(struct gm_reading *in);

/* A JSON text as an owned string of *len bytes; NULL with the problem. */
char *gm_read_dump(struct gm_reading *in, const json_t *value, size_t *len);

/* ---- scan.c ---------------------------------------------------------------------------------- */

/* Counts values and nesting of a JSON text without parsing it; never fewer than there are (an
 * empty array counts as two). False with the problem: more than allowed. */
bool gm_scan_json(const char *text, size_t len, size_t nodes_max, struct gm_problem *why);

/* ---- read_options.c -------------------------------------------------------------------------- */
gm_param_read gm_read_model;
gm_param_read gm_read_temperature;
gm_param_read gm_read_top_p;
gm_param_read gm_read_top_k;
gm_param_read gm_read_min_p;
gm_param_read gm_read_sampling;
gm_param_read gm_read_repeat;
gm_param_read gm_read_presence;
gm_param_read gm_read_frequency;
gm_param_read gm_read_seed;
gm_param_read gm_read_max_tokens;
gm_param_read gm_read_stop;
gm_param_read gm_read_bias;
gm_param_read gm_read_ignore_eos;
gm_param_read gm_read_n;
gm_param_read gm_read_stream;
gm_param_read gm_read_stream_options;
gm_param_read gm_read_session;

/* ---- read_more.c ----------------------------------------------------------------------------- */
gm_param_read gm_read_chat_logprobs;
gm_param_read gm_read_completion_logprobs;
gm_param_read gm_read_top_logprobs;
gm_param_read gm_read_include;
gm_param_read gm_read_echo;
gm_param_read gm_read_previous;
gm_param_read gm_read_store;
gm_param_read gm_read_metadata;
gm_param_read gm_read_top;
gm_param_read gm_read_every;
gm_param_read gm_read_add_special;
gm_param_read gm_read_pieces;

/* What only holds of several parameters together; after all of them were read. */
bool gm_read_check(struct gm_reading *in);

/* ---- read_prompts.c -------------------------------------------------------------------------- */
gm_param_read gm_read_prompt; /* texts and ids, one or a batch */
gm_param_read gm_read_texts;  /* a text, or a batch of them */
gm_param_read gm_read_text;   /* one text */
gm_param_read gm_read_ids;    /* ids, or a batch of them */
gm_param_read gm_read_tokens; /* one list of ids, which may be empty */

/* ---- read_messages.c ------------------------------------------------------------------------- */
gm_param_read gm_read_messages;
gm_param_read gm_read_input;
gm_param_read gm_read_instructions;

#endif
