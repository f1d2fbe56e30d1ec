/* sampling.c - defaults and limits of one turn's sampling parameters.
 *
 * Owns:      the default values (Google's for Gemma 3) and the table of allowed ranges.
 * Does not:  choose tokens (services/sampler), penalise logits, or read options and messages.
 * Threads:   any; there is no state.
 */
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "common/base/sampling.h"

/* One number with its range; a bound that is open is itself not allowed. */
struct range {
    const char *name;
    size_t offset;
    float low, high;
    bool low_open;
    const char *text; /* what the caller reads, so it must agree with low and high */
};

#define GM_RANGE(field, low, high, open, text)                                                     \
    {                                                                                              \
#field, offsetof(struct gm_sampling, field), low, high, open, text                         \
    }

static const float TEMPERATURE_MIN = 1e-6f; /* below it logit/T leaves the floats; 0 is greedy */
static const float BIAS_ABS_MAX = 10000.0f;

static const struct range float_ranges[] = {
    GM_RANGE(temperature, 0.0f, 100.0f, false, "0 (greedy), or 0.000001 to 100"),
    GM_RANGE(top_p, 0.0f, 1.0f, true, "above 0 and at most 1 (1 is off)"),
    GM_RANGE(min_p, 0.0f, 1.0f, false, "0 (off) to 1"),
    GM_RANGE(repeat_penalty, 0.0f, 100.0f, true, "above 0 and at most 100 (1 is off)"),
    GM_RANGE(presence_penalty, -100.0f, 100.0f, false, "-100 to 100 (0 is off)"),
    GM_RANGE(frequency_penalty, -100.0f, 100.0f, false, "-100 to 100 (0 is off)"),
};

/* The same for whole numbers. */
struct range_int {
    const char *name;
    size_t offset;
    int32_t low, high;
    const char *text;
};

#define GM_RANGE_INT(field, low, high, text)                                                       \
    {                                                                                              \
#field, offsetof(struct gm_sampling, field), low, high, text                               \
    }

static_assert(GM_TOP_K_ASK_MAX == 1024, "the sentence in the table names this limit");
static_assert(GM_LOGPROBS_MAX == 128, "the sentence in the table names this limit");

static const struct range_int int_ranges[] = {
    GM_RANGE_INT(top_k, 0, GM_TOP_K_ASK_MAX, "0 (off) to 1024"),
    GM_RANGE_INT(max_tokens, 1, INT32_MAX, "at least 1"),
    GM_RANGE_INT(logprobs, -1, GM_LOGPROBS_MAX, "-1 (none) to 128"),
};

void gm_sampling_default(struct gm_sampling *s)
{
    memset(s, 0, sizeof *s);
    s->temperature = 1.0f;
    s->top_k = 64;
    s->top_p = 0.95f;
    s->repeat_penalty = 1.0f;
    s->max_tokens = 1024;
    s->logprobs = -1;
}

static enum gm_status check_floats(const struct gm_sampling *s, struct gm_err *err)
{
    for (size_t i = 0; i < sizeof float_ranges / sizeof float_ranges[0]; i++) {
        const struct range *r = &float_ranges[i];
        float v;
        memcpy(&v, (const char *)s + r->offset, sizeof v);
        const bool inside = v <= r->high && (r->low_open ? v > r->low : v >= r->low);
        if (!inside) /* also NaN, for which every comparison is false */
            return gm_fail(err, GM_INVALID, "%s is %g; give a value that is %s", r->name, (double)v,
                           r->text);
    }
    if (s->temperature > 0.0f && s->temperature < TEMPERATURE_MIN)
        return gm_fail(err, GM_INVALID, "temperature is %g; give a value that is %s",
                       (double)s->temperature, float_ranges[0].text);
    return GM_OK;
}

static enum gm_status check_ints(const struct gm_sampling *s, struct gm_err *err)
{
    for (size_t i = 0; i < sizeof int_ranges / sizeof int_ranges[0]; i++) {
        const struct range_int *r = &int_ranges[i];
        int32_t v;
        memcpy(&v, (const char *)s + r->offset, sizeof v);
        if (v < r->low || v > r->high)
            return gm_fail(err, GM_INVALID, "%s is %d; give a value that is %s", r->name, (int)v,
                           r->text);
    }
    return GM_OK;
}

static enum gm_status check_bias(const struct gm_sampling *s, struct gm_err *err)
{
    if (s->n_bias > GM_BIAS_MAX)
        return gm_fail(err, GM_INVALID, "logit_bias has %u entries; give at most %d", s->n_bias,
                       GM_BIAS_MAX);
    for (uint32_t i = 0; i < s->n_bias; i++) {
        const struct gm_bias *b = &s->bias[i];
        if (b->id < 0)
            return gm_fail(err, GM_INVALID, "logit_bias entry %u is for token %d; ids start at 0",
                           i, (int)b->id);
        const bool ban = isinf(b->value) && b->value < 0.0f;
        if (!ban && !(b->value >= -BIAS_ABS_MAX && b->value <= BIAS_ABS_MAX))
            return gm_fail(err, GM_INVALID,
                           "logit_bias of token %d is %g; give -10000 to 10000, or -inf to forbid",
                           (int)b->id, (double)b->value);
    }
    return GM_OK;
}

static enum gm_status check_stops(const struct gm_sampling *s, struct gm_err *err)
{
    if (s->n_stops > GM_STOPS_MAX)
        return gm_fail(err, GM_INVALID, "there are %u stop strings; give at most %d", s->n_stops,
                       GM_STOPS_MAX);
    for (uint32_t i = 0; i < s->n_stops; i++)
        if (s->stops[i].len < 1 || s->stops[i].len > GM_STOP_BYTES_MAX)
            return gm_fail(err, GM_INVALID, "stop string %u has %u bytes; give 1 to %d", i,
                           (unsigned)s->stops[i].len, GM_STOP_BYTES_MAX);
    return GM_OK;
}

/* One of four methods, nothing else: what they do not have would not be their answer. */
static enum gm_status check_deepmind(const struct gm_sampling *s, struct gm_err *err)
{
    const char *extra = s->min_p > 0.0f                   ? "min_p"
                        : s->repeat_penalty != 1.0f       ? "repeat_penalty"
                        : s->presence_penalty != 0.0f     ? "presence_penalty"
                        : s->frequency_penalty != 0.0f    ? "frequency_penalty"
                        : s->top_k > 0 && s->top_p < 1.0f ? "top_p beside top_k"
                                                          : NULL;
    if (extra)
        return gm_fail(err, GM_INVALID,
                       "DeepMind's sampling has no %s; give temperature, top_k or top_p alone, or "
                       "use Gemline's sampling",
                       extra);
    if (!(s->temperature > 0.0f) && (s->top_k > 0 || s->top_p < 1.0f))
        return gm_fail(err, GM_INVALID,
                       "DeepMind's top_k and top_p divide by the temperature; "
                       "give one above 0, or leave all three out for greedy");
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (!isinf(s->bias[i].value))
            return gm_fail(err, GM_INVALID,
                           "DeepMind's sampling can forbid tokens (logit_bias -10000), not favour "
                           "them; token %d has %g",
                           (int)s->bias[i].id, (double)s->bias[i].value);
    return GM_OK;
}

enum gm_status gm_sampling_deepmind(struct gm_sampling *s, const struct gm_sampling_given *given,
                                    struct gm_err *err)
{
    s->rules = GM_RULES_DEEPMIND;
    if (given->temperature && s->temperature == 0.0f)
        return gm_fail(err, GM_INVALID,
                       "temperature 0 divides by zero in DeepMind's sampling; "
                       "leave it out for greedy");
    if (!given->top_k)
        s->top_k = 0;
    if (!given->top_p)
        s->top_p = 1.0f;
    for (uint32_t i = 0; i < s->n_bias; i++)
        if (s->bias[i].value <= -BIAS_ABS_MAX) /* JSON has no infinity */
            s->bias[i].value = -INFINITY;
    if (!given->temperature)
        s->temperature = s->top_k > 0 || s->top_p < 1.0f ? 1.0f : 0.0f;
    return gm_sampling_check(s, err);
}

enum gm_status gm_sampling_check(const struct gm_sampling *s, struct gm_err *err)
{
    if (s->rules != GM_RULES_GEMLINE && s->rules != GM_RULES_DEEPMIND)
        return gm_fail(err, GM_INVALID, "sampling has rules %d, which are not known",
                       (int)s->rules);
    enum gm_status rc = check_floats(s, err);
    if (rc == GM_OK)
        rc = check_ints(s, err);
    if (rc == GM_OK)
        rc = check_bias(s, err);
    if (rc == GM_OK)
        rc = check_stops(s, err);
    if (rc == GM_OK && s->rules == GM_RULES_DEEPMIND)
        rc = check_deepmind(s, err);
    return rc;
}
