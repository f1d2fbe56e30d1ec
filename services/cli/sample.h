/* sample.h - the options that shape an answer: one table for run's options and chat's /set.
 *
 * Owns:      struct gm_sample and its names.
 * Does not:  know what the values do.
 */
#ifndef GM_CLI_SAMPLE_H
#define GM_CLI_SAMPLE_H

#include "common/base/sampling.h"
#include "services/cli/cli.h"

struct gm_sample {
    double temperature, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int64_t top_k, max_tokens, logprobs;
    uint64_t seed;
    bool ignore_eos;
    int32_t rules; /* enum gm_sampling_rules */
    struct gm_opt_list stops;
};

/* What was said, and is not a default. */
struct gm_sample_given {
    bool seed;
    struct gm_sampling_given sampling;
};

#define GM_SAMPLE_ROWS_N 13
#define GM_SAMPLE_ROW(type, field, member, word, what)                                             \
    .name = word, .at = offsetof(type, field.member), .help = what
#define GM_SAMPLE_ROWS(type, field)                                                                \
    { GM_SAMPLE_ROW(type, field, temperature, "temperature", "0 is greedy"), .kind = GM_OPT_FLOAT, \
      .max = 100, .def = "1" },                                                                    \
        { GM_SAMPLE_ROW(type, field, top_k, "top-k", "of so many best tokens; 0 is off"),          \
          .kind = GM_OPT_INT, .max = GM_TOP_K_ASK_MAX, .def = "64" },                              \
        { GM_SAMPLE_ROW(type, field, top_p, "top-p", "of the best that hold so much; 1 is off"),   \
          .kind = GM_OPT_FLOAT, .min = 1e-6, .max = 1, .def = "0.95" },                            \
        { GM_SAMPLE_ROW(type, field, min_p, "min-p", "of those at least so likely, best = 1"),     \
          .kind = GM_OPT_FLOAT, .max = 1, .def = "0" },                                            \
        { GM_SAMPLE_ROW(type, field, repeat_penalty, "repeat-penalty", "1 is off"),                \
          .kind = GM_OPT_FLOAT, .min = 0.01, .max = 100, .def = "1" },                             \
        { GM_SAMPLE_ROW(type, field, presence_penalty, "presence-penalty", "0 is off"),            \
          .kind = GM_OPT_FLOAT, .min = -100, .max = 100, .def = "0" },                             \
        { GM_SAMPLE_ROW(type, field, frequency_penalty, "frequency-penalty", "0 is off"),          \
          .kind = GM_OPT_FLOAT, .min = -100, .max = 100, .def = "0" },                             \
        { GM_SAMPLE_ROW(type, field, seed, "seed",                                                 \
                        "the same seed gives the same answer; none: "                              \
                        "a random one"),                                                           \
          .kind = GM_OPT_UINT },                                                                   \
        { GM_SAMPLE_ROW(type, field, max_tokens, "max-tokens", "longest answer"),                  \
          .kind = GM_OPT_INT, .min = 1, .max = 1 << 20, .def = "1024" },                           \
        { GM_SAMPLE_ROW(type, field, rules, "sampling",                                            \
                        "deepmind: their four methods and JAX's noise; top-k or top-p or "         \
                        "temperature alone, none is greedy"),                                      \
          .kind = GM_OPT_ENUM, .choices = "gemline|deepmind" },                                    \
        { GM_SAMPLE_ROW(type, field, stops, "stop",                                                \
                        "ends the answer before this text; repeatable"),                           \
          .kind = GM_OPT_LIST, .arg = "TEXT" },                                                    \
        { GM_SAMPLE_ROW(type, field, ignore_eos, "ignore-eos",                                     \
                        "end tokens do not end the answer"),                                       \
          .kind = GM_OPT_FLAG },                                                                   \
    {                                                                                              \
        GM_SAMPLE_ROW(type, field, logprobs, "logprobs",                                           \
                      "log-probabilities, with N alternatives "                                    \
                      "(-1: none)"),                                                               \
            .kind = GM_OPT_INT, .min = -1, .max = GM_LOGPROBS_MAX, .def = "-1"                     \
    }

/* What of a program's sampling options stands on its command line. */
struct gm_sample_given gm_sample_given(const struct gm_program *program,
                                       const struct gm_args *args);

/* The message, pointing into `s`; stops live in *stops (GM_STOPS_MAX). No seed given: a random
 * seed is put into it. GM_INVALID: too many or too long stop texts, or what DeepMind's rules
 * refuse. */
enum gm_status gm_sample_fill(const struct gm_sample *s, const struct gm_sample_given *given,
                              Gm__Sampling *out, ProtobufCBinaryData *stops, struct gm_err *err);

#endif
