/* sample.c - the options that shape an answer, as the message that carries them.
 *
 * Owns:      nothing.
 * Does not:  check ranges twice: the option tables have done so.
 */
#include <string.h>

#include "services/cli/sample.h"

enum { SEED_BITS = 53 }; /* a random seed stays exact in every JSON reader */

enum gm_status gm_sample_fill(const struct gm_sample *s, bool seed_given, Gm__Sampling *out,
                              ProtobufCBinaryData *stops, struct gm_err *err)
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
    out->seed = seed_given ? s->seed : gm_random_u64() >> (64 - SEED_BITS);
    out->n_stops = s->stops.n;
    out->stops = stops;
    return GM_OK;
}
