/* sample.c - the options that shape an answer, as the message that carries them.
 *
 * Owns:      nothing.
 * Does not:  check ranges twice: the option tables have done so.
 */
#include <string.h>

#include "services/cli/sample.h"

enum { SEED_BITS = 53 }; /* a random seed stays exact in every JSON reader */

struct gm_sample_given gm_sample_given(const struct gm_program *program, const struct gm_args *args)
{
    return (struct gm_sample_given){
        .seed = gm_conf_from(program, args, "seed") == GM_FROM_ARGV,
        .sampling = { .temperature = gm_conf_from(program, args, "temperature") != GM_FROM_DEFAULT,
                      .top_k = gm_conf_from(program, args, "top-k") != GM_FROM_DEFAULT,
                      .top_p = gm_conf_from(program, args, "top-p") != GM_FROM_DEFAULT },
    };
}

/* DeepMind's rules, as they follow from the options that were given. */
static enum gm_status fill_deepmind(const struct gm_sample *s, const struct gm_sample_given *given,
                                    Gm__Sampling *out, struct gm_err *err)
{
    struct gm_sampling p;
    gm_sampling_default(&p);
    p.temperature = out->temperature;
    p.top_k = out->top_k;
    p.top_p = out->top_p;
    p.min_p = out->min_p;
    p.repeat_penalty = out->repeat_penalty;
    p.presence_penalty = out->presence_penalty;
    p.frequency_penalty = out->frequency_penalty;
    if (s->rules != GM_RULES_DEEPMIND)
        return GM_OK;
    const enum gm_status rc = gm_sampling_deepmind(&p, &given->sampling, err);
    out->temperature = p.temperature;
    out->top_k = p.top_k;
    out->top_p = p.top_p;
    out->has_rules = 1;
    out->rules = GM_RULES_DEEPMIND;
    return rc;
}

enum gm_status gm_sample_fill(const struct gm_sample *s, const struct gm_sample_given *given,
                              Gm__Sampling *out, ProtobufCBinaryData *stops, struct gm_err *err)
{
    if (s->stops.n > GM_STOPS_MAX)
        return gm_fail(err, GM_INVALID, "--stop can be given %d times at most", GM_STOPS_MAX);
    for (size_t i = 0; i < s->stops.n; i++) {
        stops[i].data = (uint8_t *)s->stops.items[i];
        stops[i].len = strlen(s->stops.items[i]);
        if (stops[i].len < 1 || stops[i].len > GM_STOP_BYTES_MAX)
            return gm_fail(err, GM_INVALID, "a --stop text has 1 to %d bytes", GM_STOP_BYTES_MAX);
    }
    gm__sampling__init(out);
#define PUT(field, type)                                                                           \
    do {                                                                                           \
        out->has_##field = 1;                                                                      \
        out->field = (type)s->field;                                                               \
    } while (0)
    PUT(temperature, float);
    PUT(top_k, int32_t);
    PUT(top_p, float);
    PUT(min_p, float);
    PUT(repeat_penalty, float);
    PUT(presence_penalty, float);
    PUT(frequency_penalty, float);
    PUT(max_tokens, int32_t);
    PUT(ignore_eos, protobuf_c_boolean);
    if (s->logprobs >= 0)
        PUT(logprobs, int32_t);
#undef PUT
    out->has_seed = 1;
    out->seed = given->seed ? s->seed : gm_random_u64() >> (64 - SEED_BITS);
    out->n_stops = s->stops.n;
    out->stops = stops;
    return fill_deepmind(s, given, out, err);
}
