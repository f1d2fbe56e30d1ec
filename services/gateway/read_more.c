/* read_more.c - readers of the parameters that say what an answer shows and keeps.
 *
 * Owns:      log-probabilities, echo, responses' store and include, metadata, score and tokenize's
 *            options, and the rules that hold of several parameters together.
 * Does not:  read prompts or messages.
 */
#include "services/gateway/read.h"

#include <string.h>

bool gm_read_chat_logprobs(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->logprobs = json_is_true(value);
    return true;
}

bool gm_read_completion_logprobs(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t n = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ 0, GM_REQUEST_LOGPROBS_MAX }, &n))
        return false;
    in->r->sampling.logprobs = (int32_t)n;
    return true;
}

bool gm_read_top_logprobs(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t n = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ 0, GM_REQUEST_TOP_MAX }, &n))
        return false;
    in->top_logprobs = (int32_t)n;
    in->r->top_logprobs = (int32_t)n;
    return true;
}

bool gm_read_include(struct gm_reading *in, const char *name, json_t *value)
{
    for (size_t i = 0; i < json_array_size(value); i++) {
        const char *each = json_string_value(json_array_get(value, i));
        char param[sizeof in->why->param];
        gm_read_name(param, sizeof param, "%s[%zu]", name, i);
        if (each == NULL || strcmp(each, "message.output_text.logprobs") != 0)
            return gm_problem_set(
                in->why, 400, "unsupported_value", param,
                "%s must be \"message.output_text.logprobs\"; nothing else can be "
                "included here",
                param);
        in->logprobs = true;
    }
    return true;
}

bool gm_read_echo(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->echo = json_is_true(value);
    return true;
}

bool gm_read_previous(struct gm_reading *in, const char *name, json_t *value)
{
    size_t len = json_string_length(value);
    if (!gm_request_id_ok(json_string_value(value), len))
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s must be a response's id: 1 to %d of A-Z a-z 0-9 . _ -", name,
                              GM_REQUEST_ID_MAX);
    memcpy(in->r->previous, json_string_value(value), len + 1);
    return true;
}

bool gm_read_store(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->store = json_is_true(value);
    return true;
}

/* Characters of n bytes of UTF-8. */
static size_t characters(const char *text, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)text[i] & 0xC0) != 0x80;
    return count;
}

bool gm_read_metadata(struct gm_reading *in, const char *name, json_t *value)
{
    const char *key;
    json_t *each;
    size_t len = 0;
    if (json_object_size(value) > GM_REQUEST_METADATA_MAX)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s has %zu pairs; at most %d fit", name, json_object_size(value),
                              GM_REQUEST_METADATA_MAX);
    json_object_foreach(value, key, each)
    {
        if (!json_is_string(each))
            return gm_problem_set(in->why, 400, "invalid_type", name,
                                  "%s.%.*s must be a text: values of %s are texts", name,
                                  GM_SHOWN_MAX, key, name);
        if (characters(key, strlen(key)) > GM_REQUEST_METADATA_KEY_MAX ||
            characters(json_string_value(each), json_string_length(each)) >
                GM_REQUEST_METADATA_VALUE_MAX)
            return gm_problem_set(in->why, 400, "invalid_value", name,
                                  "%s.%.*s is too long: keys have at most %d characters, values %d",
                                  name, GM_SHOWN_MAX, key, GM_REQUEST_METADATA_KEY_MAX,
                                  GM_REQUEST_METADATA_VALUE_MAX);
    }
    in->r->metadata = gm_read_dump(in, value, &len);
    return in->r->metadata != NULL;
}

bool gm_read_top(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t n = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ 0, GM_REQUEST_SCORE_TOP_MAX }, &n))
        return false;
    in->r->top = (int32_t)n;
    return true;
}

bool gm_read_every(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t n = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ 1, GM_REQUEST_EVERY_MAX }, &n))
        return false;
    in->r->every = (int32_t)n;
    return true;
}

bool gm_read_add_special(struct gm_reading *in, const char *name, json_t *value)
{
    bool given = json_is_true(value);
    if (in->special_given && in->r->add_special != given)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s and add_special differ; give one of them", name);
    in->special_given = true;
    in->r->add_special = given;
    return true;
}

bool gm_read_pieces(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->pieces = in->r->pieces || json_is_true(value);
    return true;
}

/* ---- several together ------------------------------------------------------------------------ */

static bool check_logprobs(struct gm_reading *in)
{
    struct gm_request *r = in->r;
    int32_t top = in->top_logprobs > 0 ? in->top_logprobs : 0;
    if (r->api == GM_API_CHAT && top > 0 && !in->logprobs)
        return gm_problem_set(in->why, 400, "invalid_value", "top_logprobs",
                              "top_logprobs needs \"logprobs\": true");
    if (in->logprobs || top > 0)
        r->sampling.logprobs = top;
    return true;
}

static bool check_sampling(struct gm_reading *in)
{
    struct gm_request *r = in->r;
    struct gm_err err = GM_ERR_NONE;
    const struct gm_sampling_given given = { r->has_temperature, r->has_top_k, r->has_top_p };
    return !in->deepmind || gm_sampling_deepmind(&r->sampling, &given, &err) == GM_OK ||
           gm_problem_set(in->why, 400, "unsupported_value", "sampling", "%s", err.text);
}

static bool check_choices(struct gm_reading *in)
{
    const struct gm_request *r = in->r;
    const json_t *best = json_object_get(in->root, "best_of");
    size_t prompts = r->n_prompts > 0 ? r->n_prompts : 1;
    if (best != NULL && !json_is_null(best) && r->n > 1)
        return gm_problem_set(in->why, 400, "invalid_value", "best_of",
                              "best_of is 1 and n is %d; leave best_of out", (int)r->n);
    if (prompts * (size_t)r->n > GM_REQUEST_CHOICES_MAX)
        return gm_problem_set(in->why, 400, "invalid_value", "n",
                              "%zu prompts with n = %d are more than %d answers; send fewer",
                              prompts, (int)r->n, GM_REQUEST_CHOICES_MAX);
    if (r->session[0] != '\0' && r->n > 1)
        return gm_problem_set(in->why, 400, "invalid_value", "n",
                              "a session goes on with one answer; give n = 1, or no session");
    return true;
}

bool gm_read_check(struct gm_reading *in)
{
    if (in->text_of == NULL) {
        const bool score = in->r->api == GM_API_SCORE;
        const bool tokens = in->r->api == GM_API_DETOKENIZE;
        return gm_problem_set(in->why, 400, "missing_required_parameter",
                              tokens ? "tokens" : "text", "give %s",
                              tokens  ? "tokens, an array of token ids"
                              : score ? "text, or ids"
                                      : "text, or messages");
    }
    if (in->stream_options && !in->r->stream)
        return gm_problem_set(in->why, 400, "invalid_value", "stream_options",
                              "stream_options needs \"stream\": true");
    return check_sampling(in) && check_logprobs(in) && check_choices(in);
}
