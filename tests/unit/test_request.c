// uses: services/gateway/request.c services/gateway/params.c services/gateway/problem.c
// uses: services/gateway/scan.c services/gateway/read_options.c services/gateway/read_more.c
// uses: services/gateway/read_prompts.c services/gateway/read_messages.c
// libs: -ljansson
/* test_request.c - every parameter of the table does what its row says; bodies that are wrong.
 *
 * Owns:      the checks of request.c, params.c, read_options.c, scan.c, problem.c, and the names
 *            that OpenAI publishes.
 * Does not:  need a gateway, a tokenizer or a model.
 */
#include "tests/unit/request_check.h"

/* ---- the published names --------------------------------------------------------------------- */

/* openai-python 3.57.0: the fields of the three CreateParams. */
static const char *const published_chat[] = { "messages",
                                              "model",
                                              "audio",
                                              "frequency_penalty",
                                              "function_call",
                                              "functions",
                                              "logit_bias",
                                              "logprobs",
                                              "max_completion_tokens",
                                              "max_tokens",
                                              "metadata",
                                              "modalities",
                                              "moderation",
                                              "n",
                                              "parallel_tool_calls",
                                              "prediction",
                                              "presence_penalty",
                                              "prompt_cache_key",
                                              "prompt_cache_options",
                                              "prompt_cache_retention",
                                              "reasoning_effort",
                                              "response_format",
                                              "safety_identifier",
                                              "seed",
                                              "service_tier",
                                              "stop",
                                              "store",
                                              "stream_options",
                                              "temperature",
                                              "tool_choice",
                                              "tools",
                                              "top_logprobs",
                                              "top_p",
                                              "user",
                                              "verbosity",
                                              "web_search_options",
                                              "stream",
                                              NULL };

static const char *const published_completion[] = {
    "model",      "prompt",   "best_of",        "echo",   "frequency_penalty",
    "logit_bias", "logprobs", "max_tokens",     "n",      "presence_penalty",
    "seed",       "stop",     "stream_options", "suffix", "temperature",
    "top_p",      "user",     "stream",         NULL
};

static const char *const published_response[] = { "access_programs",
                                                  "background",
                                                  "background_options",
                                                  "context_management",
                                                  "conversation",
                                                  "image",
                                                  "include",
                                                  "input",
                                                  "instructions",
                                                  "max_output_tokens",
                                                  "max_tool_calls",
                                                  "metadata",
                                                  "model",
                                                  "moderation",
                                                  "parallel_tool_calls",
                                                  "previous_response_id",
                                                  "prompt",
                                                  "prompt_cache_key",
                                                  "prompt_cache_options",
                                                  "prompt_cache_retention",
                                                  "reasoning",
                                                  "safety_identifier",
                                                  "service_tier",
                                                  "store",
                                                  "stream_options",
                                                  "temperature",
                                                  "text",
                                                  "tool_choice",
                                                  "tools",
                                                  "top_logprobs",
                                                  "top_p",
                                                  "truncation",
                                                  "user",
                                                  "stream",
                                                  NULL };

static void check_names(enum gm_api api, const char *const *names)
{
    for (; *names != NULL; names++) {
        if (gm_param_find(api, *names) == NULL)
            fprintf(stderr, "\nno row for %s\n", *names);
        CU_ASSERT_PTR_NOT_NULL(gm_param_find(api, *names));
    }
}

static void published_names(void)
{
    check_names(GM_API_CHAT, published_chat);
    check_names(GM_API_COMPLETION, published_completion);
    check_names(GM_API_RESPONSE, published_response);
    CU_ASSERT_PTR_NULL(gm_param_find(GM_API_CHAT, "max_output_tokens"));
}

/* ---- each row of the table ------------------------------------------------------------------- */

/* A body without the parameter: what is required, and what the parameter needs beside it. */
struct sample {
    const char *name;
    const char *value;  /* honoured, accepted: taken, and a honoured one changes the request */
    const char *beside; /* more of the body, "" or "\"a\": 1, " */
};

static const struct sample samples[] = {
    { "model", "\"gemma\"", "" },
    { "messages", "[{\"role\": \"user\", \"content\": \"other\"}]", "" },
    { "prompt", "\"other\"", "" },
    { "input", "\"other\"", "" },
    { "instructions", "\"Be short.\"", "" },
    { "previous_response_id", "\"resp_1\"", "" },
    { "store", "false", "" },
    { "session", "\"a.b-c_1\"", "" },
    { "temperature", "0.25", "" },
    { "top_p", "0.5", "" },
    { "top_k", "7", "" },
    { "sampling", "\"deepmind\"", "" },
    { "min_p", "0.1", "" },
    { "presence_penalty", "-1.5", "" },
    { "frequency_penalty", "1.5", "" },
    { "repetition_penalty", "1.2", "" },
    { "repeat_penalty", "1.2", "" },
    { "logit_bias", "{\"5\": -100}", "" },
    { "seed", "5", "" },
    { "stop", "[\"a\", \"b\"]", "" },
    { "max_completion_tokens", "17", "" },
    { "max_tokens", "17", "" },
    { "max_output_tokens", "17", "" },
    { "ignore_eos", "true", "" },
    { "n", "2", "" },
    { "top_logprobs", "3", "\"logprobs\": true, " },
    { "include", "[\"message.output_text.logprobs\"]", "" },
    { "echo", "true", "" },
    { "stream", "true", "" },
    { "stream_options", "{\"include_usage\": true}", "\"stream\": true, " },
    { "metadata", "{\"a\": \"b\"}", "" },
    { "user", "\"u\"", "" },
    { "safety_identifier", "\"u\"", "" },
    { "prompt_cache_key", "\"u\"", "" },
    { "parallel_tool_calls", "true", "" },
    { "text", "\"other\"", "" },
    { "ids", "[1, 2]", "" },
    { "tokens", "[1, 2]", "" },
    { "top", "3", "" },
    { "every", "3", "" },
    { "content", "\"other\"", "" },
    { "add_special", "true", "" },
    { "add_special_tokens", "true", "" },
    { "with_pieces", "true", "" },
    { "return_token_strs", "true", "" },
};

/* Samples that differ by API. */
static const char *value_of(const struct gm_param *row, enum gm_api api, const char **beside)
{
    *beside = "";
    if (strcmp(row->name, "logprobs") == 0)
        return api == GM_API_CHAT ? "true" : "2";
    if (strcmp(row->name, "top_logprobs") == 0 && api == GM_API_RESPONSE)
        return "3";
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        if (strcmp(samples[i].name, row->name) == 0) {
            *beside = samples[i].beside;
            return samples[i].value;
        }
    }
    return NULL;
}

/* What must be there for the row's API, unless the row itself gives it. */
static const char *base_of(enum gm_api api, const char *name)
{
    static const char *const givers[] = { "messages", "prompt", "input",  "text",
                                          "ids",      "tokens", "content" };
    for (size_t i = 0; i < sizeof givers / sizeof givers[0]; i++)
        if (strcmp(name, givers[i]) == 0 && gm_param_find(api, name)->use == GM_PARAM_HONOURED)
            return "";
    switch (api) {
    case GM_API_CHAT:
        return "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], ";
    case GM_API_COMPLETION:
        return "\"prompt\": \"hi\", ";
    case GM_API_RESPONSE:
        return "\"input\": \"hi\", ";
    case GM_API_DETOKENIZE:
        return "\"tokens\": [5], ";
    default:
        return "\"text\": \"hi\", ";
    }
}

static const char *text_or_none(const char *text)
{
    return text != NULL ? text : "none";
}

/* Everything that a parameter can change, as text; not that it was given (has_...). */
static void describe(const struct gm_request *r, struct gm_buf *b)
{
    const struct gm_sampling *s = &r->sampling;
    gm_buf_printf(b, NULL, "%d %s %d %d %d %d %d %d %s", r->api, r->model, r->no_answer, r->n,
                  r->stream, r->include_usage, r->echo, r->batch, r->session);
    gm_buf_printf(b, NULL, " %s %s %s %d %s %d %d %d %d", text_or_none(r->messages),
                  text_or_none(r->instructions), r->previous, r->store,
                  r->api == GM_API_RESPONSE ? text_or_none(r->metadata) : "", r->top_logprobs,
                  r->top, r->every, r->add_special + 2 * r->pieces);
    gm_buf_printf(b, NULL, " %d %g %d %g %g %g %g %g %llu %d %d %d", s->rules,
                  (double)s->temperature, s->top_k, (double)s->top_p, (double)s->min_p,
                  (double)s->repeat_penalty, (double)s->presence_penalty,
                  (double)s->frequency_penalty, (unsigned long long)s->seed, s->max_tokens,
                  s->logprobs, s->ignore_eos);
    for (uint32_t i = 0; i < s->n_bias; i++)
        gm_buf_printf(b, NULL, " %d:%g", s->bias[i].id, (double)s->bias[i].value);
    for (uint32_t i = 0; i < s->n_stops; i++)
        gm_buf_printf(b, NULL, " '%.*s'", s->stops[i].len, s->stops[i].bytes);
    for (size_t i = 0; i < r->n_prompts; i++) {
        gm_buf_printf(b, NULL, " %s", text_or_none(r->prompts[i].text));
        for (size_t k = 0; k < r->prompts[i].n_ids; k++)
            gm_buf_printf(b, NULL, ",%d", r->prompts[i].ids[k]);
    }
}

/* Parses `base` + `beside` + "name": value, and describes it; false when refused. */
static bool effect(const struct gm_param *row, enum gm_api api, const char *beside,
                   const char *value, struct gm_buf *out)
{
    char body[2048];
    struct gm_request r;
    struct gm_problem why;
    const bool model = strcmp(row->name, "model") == 0; /* the last field where none is asked */
    snprintf(body, sizeof body, "{%s%s\"%s\": %s}", base_of(api, value != NULL ? row->name : ""),
             beside, value != NULL && !model ? row->name : "model", value != NULL ? value : "null");
    if (!parse_n(&r, api, body, strlen(body), &why)) {
        CU_ASSERT_EQUAL(why.http, 400);
        if (strcmp(why.param, row->name) != 0)
            fprintf(stderr, "\n%s: names %s: %s\n", body, why.param, why.text);
        CU_ASSERT_STRING_EQUAL(why.param, row->name);
        return false;
    }
    describe(&r, out);
    gm_request_free(&r);
    return true;
}

/* A value of a type that the row does not take. */
static const char *other_type(unsigned types)
{
    return !(types & GM_JSON_BOOL) ? "true" : !(types & GM_JSON_OBJECT) ? "{}" : "1.5";
}

static void check_honoured(const struct gm_param *row, enum gm_api api)
{
    struct gm_buf with = GM_BUF(TEXT_MAX), without = GM_BUF(TEXT_MAX);
    const char *beside = "";
    const char *value = value_of(row, api, &beside);
    CU_ASSERT_PTR_NOT_NULL_FATAL(row->read);
    if (value == NULL)
        fprintf(stderr, "\nno sample for %s: what does it do?\n", row->name);
    CU_ASSERT_PTR_NOT_NULL_FATAL(value);
    CU_ASSERT_TRUE(effect(row, api, beside, NULL, &without));
    CU_ASSERT_TRUE(effect(row, api, beside, value, &with));
    if (strcmp(gm_buf_text(&with), gm_buf_text(&without)) == 0)
        fprintf(stderr, "\n%s = %s has no effect\n", row->name, value);
    CU_ASSERT_STRING_NOT_EQUAL(gm_buf_text(&with), gm_buf_text(&without));
    CU_ASSERT_FALSE(effect(row, api, beside, other_type(row->types), &with));
    gm_buf_free(&with);
    gm_buf_free(&without);
}

/* Any value is taken without effect: only these, as the API's docs list them. */
static bool may_be_idle(const char *name)
{
    static const char *const names[] = {
        "metadata", "store", "user", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static void check_accepted(const struct gm_param *row, enum gm_api api)
{
    CU_ASSERT_TRUE_FATAL(row->only != NULL || may_be_idle(row->name));
    struct gm_buf with = GM_BUF(TEXT_MAX), without = GM_BUF(TEXT_MAX);
    const char *beside = "";
    char list[256];
    snprintf(list, sizeof list, "%s", row->only != NULL ? row->only : value_of(row, api, &beside));
    CU_ASSERT_TRUE(effect(row, api, "", NULL, &without));
    char *rest = list;
    for (char *each = strsep(&rest, "|"); each != NULL; each = strsep(&rest, "|")) {
        gm_buf_clear(&with);
        CU_ASSERT_TRUE(effect(row, api, "", each, &with));
        CU_ASSERT_STRING_EQUAL(gm_buf_text(&with), gm_buf_text(&without));
    }
    CU_ASSERT_FALSE(effect(row, api, "", other_type(row->types), &with));
    static const struct {
        unsigned type;
        const char *value;
    } others[] = { { GM_JSON_TEXT, "\"zzz\"" },
                   { GM_JSON_INTEGER, "77" },
                   { GM_JSON_ARRAY, "[7]" },
                   { GM_JSON_OBJECT, "{\"zzz\": 1}" } };
    for (size_t i = 0; row->only != NULL && i < sizeof others / sizeof others[0]; i++)
        if ((others[i].type & row->types) != 0)
            CU_ASSERT_FALSE(effect(row, api, "", others[i].value, &with));
    gm_buf_free(&with);
    gm_buf_free(&without);
}

static void check_refused(const struct gm_param *row, enum gm_api api)
{
    static const char *const values[] = { "\"a\"", "1", "true", "[]", "{}" };
    struct gm_buf with = GM_BUF(TEXT_MAX);
    CU_ASSERT_PTR_NULL(row->read);
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
        CU_ASSERT_FALSE(effect(row, api, "", values[i], &with));
    gm_buf_free(&with);
}

static void each_row(void)
{
    for (size_t i = 0; i < gm_params_n; i++) {
        const struct gm_param *row = &gm_params[i];
        CU_ASSERT_TRUE(row->doc[0] != '\0' && row->types != 0 && row->apis != 0);
        for (int k = 0; k < GM_API_COUNT; k++) {
            enum gm_api api = (enum gm_api)(1 << k);
            struct gm_buf with = GM_BUF(TEXT_MAX), without = GM_BUF(TEXT_MAX);
            if ((row->apis & api) == 0)
                continue;
            CU_ASSERT_PTR_EQUAL(gm_param_find(api, row->name), row); /* no name twice */
            if (row->use == GM_PARAM_HONOURED)
                check_honoured(row, api);
            else if (row->use == GM_PARAM_ACCEPTED)
                check_accepted(row, api);
            else
                check_refused(row, api);
            if (base_of(api, row->name)[0] != '\0') { /* null counts as absent */
                CU_ASSERT_TRUE(effect(row, api, "", "null", &with));
                CU_ASSERT_TRUE(effect(row, api, "", NULL, &without));
                CU_ASSERT_STRING_EQUAL(gm_buf_text(&with), gm_buf_text(&without));
            } else if (row->required) {
                CU_ASSERT_FALSE(effect(row, api, "", "null", &with));
            }
            gm_buf_free(&with);
            gm_buf_free(&without);
        }
    }
}

/* ---- bodies ---------------------------------------------------------------------------------- */

static void bodies(void)
{
    static const char *const wrong[] = {
        "",
        "[]",
        "null",
        "5",
        "\"a\"",
        "{",
        "{}}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "nan",
        "{'a': 1}",
        "{\"messages\": [}",
        CHAT("\"seed\": 99999999999999999999"),
        CHAT("\"top_p\": 1e999"),
        CHAT("\"top_p\": NaN"),
        CHAT("\"user\": \"\\ud800\""),
        CHAT("\"user\": \"\\udc00x\""),
        CHAT("\"user\": \"\xff\""),
        CHAT("\"user\": \"\xed\xa0\x80\""),
        CHAT("\"u\\u0000\": 1"),
        CHAT("\"n\": 1, \"n\": 1"),
        CHAT(MSG),
        "\xef\xbb\xbf{}",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refused(GM_API_CHAT, wrong[i], 400, "");
    struct gm_request r;
    struct gm_problem why;
    CU_ASSERT_FALSE(gm_request_parse(&r, GM_API_CHAT, NULL, 0, &limits, &why));
    CU_ASSERT_FALSE(parse_n(&r, GM_API_CHAT, "{\"a\0b\": 1}", 10, &why));
    CU_ASSERT_EQUAL(why.http, 400);
    refused(GM_API_CHAT, "{}", 400, "messages");
    refused(GM_API_COMPLETION, "{\"prompt\": null}", 400, "prompt");
    refused(GM_API_RESPONSE, "{}", 400, "input");
    refused(GM_API_SCORE, "{}", 400, "text");
    refused(GM_API_TOKENIZE, "{}", 400, "text");
    refused(GM_API_DETOKENIZE, "{}", 400, "tokens");
    refused(GM_API_CHAT, CHAT("\"nonsense\": 1"), 400, "nonsense");
    CU_ASSERT_FALSE(parse_n(&r, GM_API_CHAT, CHAT("\"temprature\": 1"),
                            strlen(CHAT("\"temprature\": 1")), &why));
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "did you mean \"temperature\"?"));
    CU_ASSERT_STRING_EQUAL(why.code, "unknown_parameter");
    CU_ASSERT_TRUE(parse(&r, GM_API_CHAT, CHAT("\"nonsense\": null")));
    gm_request_free(&r);
    gm_request_free(&r);
}

static void sizes(void)
{
    const char *ids = "{\"prompt\": [1";
    struct gm_request r;
    char *fits = repeated(ids, ",1", GM_REQUEST_NODES_MAX - 4, "]}");
    CU_ASSERT_TRUE(parse(&r, GM_API_COMPLETION, fits));
    CU_ASSERT_EQUAL(r.prompts[0].n_ids, GM_REQUEST_NODES_MAX - 3);
    gm_request_free(&r);
    free(fits);
    refused_many(GM_API_COMPLETION, repeated(ids, ",1", GM_REQUEST_NODES_MAX - 2, "]}"), 400,
                 "too_many_values");
    refused_many(GM_API_COMPLETION, repeated("{\"prompt\": ", "[", 100000, ""), 400, "too_deep");
    refused_many(GM_API_COMPLETION, repeated("{\"prompt\": ", "{\"a\":", 100, ""), 400, "too_deep");
    refused_many(GM_API_COMPLETION, repeated("{\"prompt\": \"", "a", GM_REQUEST_BYTES_MAX, "\"}"),
                 413, "body_too_large");
    refused_many(GM_API_COMPLETION,
                 repeated("{\"prompt\": \"", "a", GM_REQUEST_PROMPT_BYTES_MAX + 1, "\"}"), 400,
                 "string_above_max_length");
    refused_many(GM_API_COMPLETION,
                 repeated("{\"prompt\": [\"a\"", ",\"a\"", GM_REQUEST_PROMPTS_MAX, "]}"), 400,
                 "array_above_max_length");
    refused_many(GM_API_CHAT, repeated("{\"messages\": [1", ",1", GM_REQUEST_MESSAGES_MAX, "]}"),
                 400, "array_above_max_length");
    refused_many(GM_API_CHAT, repeated("{" MSG ", \"stop\": [\"a\"", ",\"a\"", 16, "]}"), 400,
                 "array_above_max_length");
    refused_many(GM_API_CHAT, repeated("{" MSG ", \"stop\": \"", "a", 257, "\"}"), 400,
                 "invalid_value");
    refused_many(GM_API_CHAT, repeated("{" MSG ", \"", "a", 5000, "\": 1}"), 400,
                 "unknown_parameter");
    refused_many(GM_API_CHAT, repeated("{" MSG ", \"", "\xc3\xa4", 500, "\": 1}"), 400,
                 "unknown_parameter");
    /* commas and brackets in texts are no values */
    char *text = repeated("{\"prompt\": \"\\\"", ",[{", 200000, "\\\\\"}");
    CU_ASSERT_TRUE(parse(&r, GM_API_COMPLETION, text));
    gm_request_free(&r);
    free(text);
}

/* ---- values ---------------------------------------------------------------------------------- */

/* Refused, and the parameter that is named; the vocabulary has 1000 tokens. */
static const char *const wrong_values[][2] = {
    { "\"temperature\": -0.1", "temperature" },
    { "\"temperature\": 1e-7", "temperature" },
    { "\"temperature\": 1e-60", "temperature" },
    { "\"temperature\": 1e200", "temperature" },
    { "\"temperature\": \"1\"", "temperature" },
    { "\"top_p\": 0", "top_p" },
    { "\"top_p\": 1.01", "top_p" },
    { "\"top_k\": -2", "top_k" },
    { "\"top_k\": 1025", "top_k" },
    { "\"top_k\": 1.5", "top_k" },
    { "\"repetition_penalty\": 0", "repetition_penalty" },
    { "\"repetition_penalty\": 1.1, \"repeat_penalty\": 1.2", "repeat_penalty" },
    { "\"presence_penalty\": 101", "presence_penalty" },
    { "\"max_tokens\": 0", "max_tokens" },
    { "\"max_tokens\": 1e10", "max_tokens" },
    { "\"max_tokens\": 5, \"max_completion_tokens\": 6", "max_tokens" },
    { "\"n\": 0", "n" },
    { "\"n\": 17", "n" },
    { "\"n\": 2, \"session\": \"a\"", "n" },
    { "\"seed\": 1.5", "seed" },
    { "\"seed\": 1e300", "seed" },
    { "\"logprobs\": 1", "logprobs" },
    { "\"top_logprobs\": 2", "top_logprobs" },
    { "\"top_logprobs\": 2, \"logprobs\": false", "top_logprobs" },
    { "\"top_logprobs\": 21, \"logprobs\": true", "top_logprobs" },
    { "\"stream_options\": {}", "stream_options" },
    { "\"stream\": true, \"stream_options\": {\"x\": 1}", "stream_options.x" },
    { "\"stream\": true, \"stream_options\": {\"include_usage\": 1}",
      "stream_options.include_usage" },
    { "\"stream\": true, \"stream_options\": {\"include_obfuscation\": true}",
      "stream_options.include_obfuscation" },
    { "\"logit_bias\": {\"a\": 1}", "logit_bias" },
    { "\"logit_bias\": {\"-1\": 1}", "logit_bias" },
    { "\"logit_bias\": {\"05\": 1}", "logit_bias" },
    { "\"logit_bias\": {\"1000\": 1}", "logit_bias" },
    { "\"logit_bias\": {\"5\": \"1\"}", "logit_bias" },
    { "\"logit_bias\": {\"5\": 10001}", "logit_bias" },
    { "\"logit_bias\": {\"5\": 1e300}", "logit_bias" },
    { "\"stop\": \"\"", "stop" },
    { "\"stop\": [\"a\", 1]", "stop" },
    { "\"session\": \"\"", "session" },
    { "\"session\": \"a/b\"", "session" },
    { "\"session\": \"a\\u0000\"", "session" },
    { "\"metadata\": {\"a\": 1}", "metadata" },
    { "\"modalities\": [\"text\", \"audio\"]", "modalities" },
    { "\"service_tier\": \"flex\"", "service_tier" },
};

static void numbers(void)
{
    struct gm_request r;
    limits.vocab = 1000;
    for (size_t i = 0; i < sizeof wrong_values / sizeof wrong_values[0]; i++) {
        char body[512];
        snprintf(body, sizeof body, "{" MSG ", %s}", wrong_values[i][0]);
        refused(GM_API_CHAT, body, 400, wrong_values[i][1]);
    }
    limits.vocab = 0;
    refused(GM_API_CHAT, CHAT("\"model\": \"\""), 404, "model");
    CU_ASSERT_TRUE(parse(&r, GM_API_CHAT,
                         CHAT("\"max_tokens\": 7.0, \"max_completion_tokens\": 7, \"seed\": -2, "
                              "\"top_k\": -1, \"logprobs\": true, \"stop\": \"a\\u0000b\", "
                              "\"repeat_penalty\": 1.5, \"repetition_penalty\": 1.5, "
                              "\"temperature\": 0")));
    CU_ASSERT_EQUAL(r.sampling.max_tokens, 7);
    CU_ASSERT_EQUAL(r.sampling.seed, UINT64_MAX - 1);
    CU_ASSERT_EQUAL(r.sampling.top_k, 0);
    CU_ASSERT_EQUAL(r.sampling.logprobs, 0);
    CU_ASSERT_EQUAL(r.sampling.stops[0].len, 3);
    CU_ASSERT_TRUE(r.has_seed && r.has_temperature && !r.has_top_p);
    gm_request_free(&r);
    CU_ASSERT_TRUE(parse(&r, GM_API_CHAT, CHAT("\"seed\": -1")));
    CU_ASSERT_FALSE(r.has_seed);
    CU_ASSERT_EQUAL(r.sampling.logprobs, -1);
    CU_ASSERT_EQUAL(r.sampling.max_tokens, 1024);
    CU_ASSERT_FALSE(r.has_max_tokens);
    gm_request_free(&r);
}

/* ---- problems -------------------------------------------------------------------------------- */

static void mapping(void)
{
    static const struct {
        enum gm_status status;
        int http;
    } want[] = {
        { GM_INVALID, 400 },     { GM_RANGE, 400 },           { GM_PRECONDITION, 400 },
        { GM_UNSUPPORTED, 400 }, { GM_UNAUTHENTICATED, 401 }, { GM_DENIED, 403 },
        { GM_NOT_FOUND, 404 },   { GM_DEADLINE, 408 },        { GM_EXISTS, 409 },
        { GM_ABORTED, 409 },     { GM_EXHAUSTED, 429 },       { GM_CANCELLED, 499 },
        { GM_INTERNAL, 500 },    { GM_DATA_LOSS, 500 },       { GM_UNKNOWN, 500 },
        { GM_UNAVAILABLE, 503 },
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct gm_problem why;
        struct gm_err err = GM_ERR_NONE;
        gm_fail(&err, want[i].status, "a sentence");
        gm_problem_from(&why, &err);
        CU_ASSERT_EQUAL(why.http, want[i].http);
        CU_ASSERT_STRING_EQUAL(why.text, "a sentence");
        CU_ASSERT_EQUAL(why.retry_s > 0, why.http == 429 || why.http == 503);
        err.retry_ms = 1001;
        gm_problem_from(&why, &err);
        CU_ASSERT_EQUAL(why.retry_s, why.http == 429 || why.http == 503 || why.http == 409 ? 2 : 0);
    }
    struct gm_problem why;
    char text[1000];
    memset(text, 'a', sizeof text);
    memcpy(text, "\x01\xff\n", 3);
    for (size_t i = 396; i + 1 < sizeof text; i += 2) /* a character on the cut */
        memcpy(text + i, "\xc3\xa4", 2);
    text[sizeof text - 1] = '\0';
    gm_problem_set(&why, 400, NULL, text, "%s", text);
    CU_ASSERT_EQUAL(strncmp(why.text, " ? a", 4), 0);
    CU_ASSERT_EQUAL(gm_utf8_bad(why.text, strlen(why.text)), strlen(why.text));
    CU_ASSERT_STRING_EQUAL(why.code, "");
}

int main(void)
{
    gm_request_limits_default(&limits);
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("request", NULL, NULL);
    CU_add_test(s, "published names", published_names);
    CU_add_test(s, "each row of the table", each_row);
    CU_add_test(s, "bodies", bodies);
    CU_add_test(s, "sizes", sizes);
    CU_add_test(s, "numbers", numbers);
    CU_add_test(s, "problems", mapping);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
