/* read_prompts.c - readers of prompts: texts or token ids, one or a batch.
 *
 * Owns:      the forms that OpenAI's completions take: text, texts, ids, lists of ids.
 * Does not:  encode anything or know the context's length.
 */
#include "services/gateway/read.h"

#include <stdlib.h>
#include <string.h>

enum form {
    FORM_TEXT = 1, /* texts are taken */
    FORM_IDS = 2,  /* ids are taken */
    FORM_MANY = 4, /* several prompts are taken */
    FORM_NONE = 8, /* a list of ids may be empty */
};

/* Where in the body: "prompt", or "prompt[3]" of a batch. */
struct place {
    char text[64];
};

static bool put_text(struct gm_reading *in, const struct place *at, const json_t *value,
                     struct gm_prompt *out)
{
    size_t len = json_string_length(value);
    if (len > in->limits->prompt_bytes)
        return gm_problem_set(in->why, 400, "string_above_max_length", at->text,
                              "%s has %zu bytes; at most %zu fit", at->text, len,
                              in->limits->prompt_bytes);
    out->text = gm_read_copy(in, value, &out->text_len);
    return out->text != NULL;
}

static bool put_ids(struct gm_reading *in, const struct place *at, const json_t *value,
                    unsigned forms, struct gm_prompt *out)
{
    const size_t n = json_array_size(value);
    const int64_t last = in->limits->vocab > 0 ? in->limits->vocab - 1 : INT32_MAX;
    if (n == 0 && (forms & FORM_NONE) == 0)
        return gm_problem_set(in->why, 400, "empty_array", at->text,
                              "%s is empty; give at least one token id", at->text);
    out->ids = malloc((n > 0 ? n : 1) * sizeof *out->ids);
    if (out->ids == NULL)
        return gm_read_no_memory(in);
    out->n_ids = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *each = json_array_get(value, i);
        char param[sizeof in->why->param];
        int64_t id = 0;
        gm_read_name(param, sizeof param, "%s[%zu]", at->text, i);
        if (!gm_json_whole(each, &id))
            return gm_problem_set(in->why, 400, "invalid_type", param,
                                  "%s must be a token id, a whole number", param);
        if (id < 0 || id > last)
            return gm_problem_set(in->why, 400, "invalid_value", param,
                                  "%s is %lld; token ids are 0 to %lld", param, (long long)id,
                                  (long long)last);
        out->ids[i] = (int32_t)id;
    }
    return true;
}

static bool put_one(struct gm_reading *in, const struct place *at, const json_t *value,
                    unsigned forms, struct gm_prompt *out)
{
    if (json_is_string(value) && (forms & FORM_TEXT) != 0)
        return put_text(in, at, value, out);
    if (json_is_array(value) && (forms & FORM_IDS) != 0)
        return put_ids(in, at, value, forms, out);
    return gm_problem_set(in->why, 400, "invalid_type", at->text, "%s must be %s", at->text,
                          (forms & FORM_TEXT) == 0  ? "an array of token ids"
                          : (forms & FORM_IDS) == 0 ? "a text"
                                                    : "a text, or an array of token ids");
}

/* Whether the value is a list of prompts, not one prompt. */
static bool is_batch(const json_t *value, unsigned forms)
{
    if (!json_is_array(value) || (forms & FORM_MANY) == 0)
        return false;
    const json_t *first = json_array_get(value, 0);
    if ((forms & FORM_IDS) == 0)
        return true;
    return json_is_array(first) || (json_is_string(first) && (forms & FORM_TEXT) != 0);
}

static bool read_all(struct gm_reading *in, const char *name, const json_t *value, unsigned forms)
{
    struct gm_request *r = in->r;
    if (in->text_of != NULL)
        return gm_problem_set(in->why, 400, "invalid_value", name,
                              "%s and %s are both given; give one of them", in->text_of, name);
    in->text_of = name;
    r->batch = is_batch(value, forms);
    size_t n = r->batch ? json_array_size(value) : 1;
    if (n == 0)
        return gm_problem_set(in->why, 400, "empty_array", name, "%s is empty; give a prompt",
                              name);
    if (n > in->limits->prompts)
        return gm_problem_set(in->why, 400, "array_above_max_length", name,
                              "%s has %zu prompts; at most %zu fit", name, n, in->limits->prompts);
    r->prompts = calloc(n, sizeof *r->prompts);
    if (r->prompts == NULL)
        return gm_read_no_memory(in);
    r->n_prompts = n;
    for (size_t i = 0; i < n; i++) {
        struct place at;
        if (r->batch)
            gm_read_name(at.text, sizeof at.text, "%s[%zu]", name, i);
        else
            gm_read_name(at.text, sizeof at.text, "%s", name);
        if (!put_one(in, &at, r->batch ? json_array_get(value, i) : value, forms, &r->prompts[i]))
            return false;
    }
    return true;
}

bool gm_read_prompt(struct gm_reading *in, const char *name, json_t *value)
{
    return read_all(in, name, value, FORM_TEXT | FORM_IDS | FORM_MANY);
}

bool gm_read_texts(struct gm_reading *in, const char *name, json_t *value)
{
    return read_all(in, name, value, FORM_TEXT | FORM_MANY);
}

bool gm_read_text(struct gm_reading *in, const char *name, json_t *value)
{
    return read_all(in, name, value, FORM_TEXT);
}

bool gm_read_ids(struct gm_reading *in, const char *name, json_t *value)
{
    return read_all(in, name, value, FORM_IDS | FORM_MANY);
}

bool gm_read_tokens(struct gm_reading *in, const char *name, json_t *value)
{
    return read_all(in, name, value, FORM_IDS | FORM_NONE);
}
