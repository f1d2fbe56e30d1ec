/* read_options.c - readers of the parameters that say how an answer is made.
 *
 * Owns:      sampling, lengths, stop strings, bias, choices, streaming, the session.
 * Does not:  know the ranges of sampling: gm_sampling_check does, and words what is wrong.
 */
#include "services/gateway/read.h"

#include <math.h>
#include <string.h>

/* After one field was set: is the whole still allowed? The check's sentence begins with the field's
 * own name, the client's name for it takes its place. */
static bool check(struct gm_reading *in, const char *name)
{
    struct gm_err err = GM_ERR_NONE;
    if (gm_sampling_check(&in->r->sampling, &err) == GM_OK)
        return true;
    const char *rest = strstr(err.text, " is ");
    return gm_problem_set(in->why, 400, "invalid_value", name, "%s%s", rest != NULL ? name : "",
                          rest != NULL ? rest : err.text);
}

static bool read_float(struct gm_reading *in, const char *name, const json_t *value, float *field)
{
    double v = json_number_value(value);
    float near = fabs(v) > 1e30 ? (v > 0 ? INFINITY : -INFINITY) : (float)v;
    if (near == 0.0f && v != 0.0) /* too small for a float must not become "off" */
        near = v > 0 ? 1e-38f : -1e-38f;
    *field = near;
    return check(in, name);
}

bool gm_read_temperature(struct gm_reading *in, const char *name, json_t *value)
{
    in->r->has_temperature = true;
    return read_float(in, name, value, &in->r->sampling.temperature);
}

bool gm_read_top_p(struct gm_reading *in, const char *name, json_t *value)
{
    in->r->has_top_p = true;
    return read_float(in, name, value, &in->r->sampling.top_p);
}

bool gm_read_min_p(struct gm_reading *in, const char *name, json_t *value)
{
    return read_float(in, name, value, &in->r->sampling.min_p);
}

bool gm_read_presence(struct gm_reading *in, const char *name, json_t *value)
{
    return read_float(in, name, value, &in->r->sampling.presence_penalty);
}

bool gm_read_frequency(struct gm_reading *in, const char *name, json_t *value)
{
    return read_float(in, name, value, &in->r->sampling.frequency_penalty);
}

bool gm_read_repeat(struct gm_reading *in, const char *name, json_t *value)
{
    float before = in->r->sampling.repeat_penalty;
    if (!read_float(in, name, value, &in->r->sampling.repeat_penalty))
        return false;
    if (in->repeat_given && before != in->r->sampling.repeat_penalty)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s and repetition_penalty differ; give one of them", name);
    in->repeat_given = true;
    return true;
}

bool gm_read_top_k(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t k = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ -1, GM_TOP_K_ASK_MAX }, &k))
        return false;
    in->r->has_top_k = true;
    in->r->sampling.top_k = k < 0 ? 0 : (int32_t)k;
    return check(in, name);
}

bool gm_read_sampling(struct gm_reading *in, const char *name, json_t *value)
{
    const char *text = json_string_value(value);
    in->deepmind = strcmp(text, "deepmind") == 0;
    return in->deepmind || strcmp(text, "gemline") == 0 ||
           gm_problem_set(in->why, 400, "invalid_value", name,
                          "%s is \"%.*s\"; give \"gemline\" or \"deepmind\"", name, GM_SHOWN_MAX,
                          text);
}

bool gm_read_seed(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t seed = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ INT64_MIN, INT64_MAX }, &seed))
        return false;
    in->r->has_seed = seed != -1;
    in->r->sampling.seed = seed != -1 ? (uint64_t)seed : 0;
    return true;
}

bool gm_read_max_tokens(struct gm_reading *in, const char *name, json_t *value)
{
    struct gm_request *r = in->r;
    int64_t n = 0;
    const int64_t least = r->api == GM_API_COMPLETION ? 0 : 1;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ least, INT32_MAX }, &n))
        return false;
    if (r->has_max_tokens && r->sampling.max_tokens != n)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "max_tokens and max_completion_tokens differ; give one of them");
    r->has_max_tokens = true;
    r->no_answer = n == 0;
    r->sampling.max_tokens = n == 0 ? 1 : (int32_t)n;
    return check(in, name);
}

/* ---- stop strings and bias ------------------------------------------------------------------- */

static bool add_stop(struct gm_reading *in, const char *name, const json_t *value)
{
    struct gm_sampling *s = &in->r->sampling;
    if (!json_is_string(value))
        return gm_problem_set(in->why, 400, "invalid_type", name,
                              "%s must be a text or an array of texts", name);
    size_t len = json_string_length(value);
    if (len < 1 || len > GM_STOP_BYTES_MAX)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "a stop string has %zu bytes; give 1 to %d", len, GM_STOP_BYTES_MAX);
    if (s->n_stops == GM_REQUEST_STOPS_MAX)
        return gm_problem_set(in->why, 400, "array_above_max_length", name,
                              "there are more than %d stop strings", GM_REQUEST_STOPS_MAX);
    s->stops[s->n_stops].len = (uint16_t)len;
    memcpy(s->stops[s->n_stops].bytes, json_string_value(value), len);
    s->n_stops++;
    return true;
}

bool gm_read_stop(struct gm_reading *in, const char *name, json_t *value)
{
    if (!json_is_array(value))
        return add_stop(in, name, value);
    for (size_t i = 0; i < json_array_size(value); i++)
        if (!add_stop(in, name, json_array_get(value, i)))
            return false;
    return true;
}

bool gm_read_bias(struct gm_reading *in, const char *name, json_t *value)
{
    struct gm_sampling *s = &in->r->sampling;
    const char *key;
    json_t *each;
    int64_t id = 0;
    int64_t last = in->limits->vocab > 0 ? in->limits->vocab - 1 : INT32_MAX;
    json_object_foreach(value, key, each)
    {
        if (gm_parse_i64(key, 0, last, &id, NULL) != GM_OK || (key[0] == '0' && key[1] != '\0'))
            return gm_problem_set(in->why, 400, "invalid_value", name,
                                  "%s has the key \"%.*s\"; keys are token ids from 0 to %lld",
                                  name, GM_SHOWN_MAX, key, (long long)last);
        if (!json_is_number(each))
            return gm_problem_set(in->why, 400, "invalid_type", name,
                                  "%s of token %lld must be a number", name, (long long)id);
        if (s->n_bias == GM_REQUEST_BIAS_MAX)
            return gm_problem_set(in->why, 400, "invalid_value", name,
                                  "%s has more than %d entries", name, GM_REQUEST_BIAS_MAX);
        struct gm_bias *b = &s->bias[s->n_bias++];
        b->id = (int32_t)id;
        struct gm_err err = GM_ERR_NONE;
        double v = json_number_value(each);
        b->value = fabs(v) > 1e30 ? INFINITY : (float)v;
        if (gm_sampling_check(s, &err) != GM_OK)
            return gm_problem_set(in->why, 400, "invalid_value", name, "%s", err.text);
    }
    return true;
}

/* ---- the rest -------------------------------------------------------------------------------- */

bool gm_read_model(struct gm_reading *in, const char *name, json_t *value)
{
    const char *text = json_string_value(value);
    size_t len = json_string_length(value);
    if (len < 1 || len > GM_REQUEST_NAME_MAX || strlen(text) != len)
        return gm_problem_set(in->why, 404, "model_not_found", name,
                              "the model \"%.*s\" is not served; GET /v1/models names the one that "
                              "is",
                              GM_SHOWN_MAX, text);
    memcpy(in->r->model, text, len + 1);
    return true;
}

bool gm_read_ignore_eos(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->sampling.ignore_eos = json_is_true(value);
    return true;
}

bool gm_read_n(struct gm_reading *in, const char *name, json_t *value)
{
    int64_t n = 0;
    if (!gm_read_whole(in, name, value, (int64_t[2]){ 1, in->limits->n }, &n))
        return false;
    in->r->n = (int32_t)n;
    return true;
}

bool gm_read_stream(struct gm_reading *in, const char *name, json_t *value)
{
    (void)name;
    in->r->stream = json_is_true(value);
    return true;
}

bool gm_read_stream_options(struct gm_reading *in, const char *name, json_t *value)
{
    const char *key;
    json_t *each;
    in->stream_options = true;
    json_object_foreach(value, key, each)
    {
        char param[sizeof in->why->param];
        gm_read_name(param, sizeof param, "%s.%.*s", name, GM_SHOWN_MAX, key);
        bool usage = strcmp(key, "include_usage") == 0;
        if (!usage && strcmp(key, "include_obfuscation") != 0)
            return gm_problem_set(in->why, 400, "unknown_parameter", param,
                                  "%s is no parameter that this server knows", param);
        if (json_is_null(each))
            continue;
        if (!json_is_boolean(each))
            return gm_problem_set(in->why, 400, "invalid_type", param, "%s must be true or false",
                                  param);
        if (usage)
            in->r->include_usage = json_is_true(each);
        else if (json_is_true(each))
            return gm_problem_set(in->why, 400, "unsupported_value", param,
                                  "chunks are not padded here; leave %s out", param);
    }
    return true;
}

bool gm_read_session(struct gm_reading *in, const char *name, json_t *value)
{
    size_t len = json_string_length(value);
    if (!gm_request_id_ok(json_string_value(value), len))
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s must be 1 to %d of A-Z a-z 0-9 . _ -", name, GM_REQUEST_ID_MAX);
    memcpy(in->r->session, json_string_value(value), len + 1);
    return true;
}
