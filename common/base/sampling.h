/* sampling.h - the parameters of one turn's sampling, as plain data with limits and defaults.
 *
 * Owns:      struct gm_sampling, its defaults (Google's for Gemma 3) and its limits.
 * Does not:  sample (services/sampler), penalise (common/model/head.c), or parse options.
 */
#ifndef GM_BASE_SAMPLING_H
#define GM_BASE_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_STOPS_MAX = 16,       /* stop strings of one turn */
    GM_STOP_BYTES_MAX = 256, /* bytes of one stop string */
    GM_BIAS_MAX = 1024,      /* logit_bias entries of one turn */
    GM_LOGPROBS_MAX = 128,   /* alternatives listed per token */
    GM_TOP_K_ASK_MAX = 1024, /* largest finite top_k; 0 means off */
};

/* Whose rules choose a token. */
enum gm_sampling_rules {
    GM_RULES_GEMLINE,  /* the filters below one after the other; noise by absolute position */
    GM_RULES_DEEPMIND, /* one of DeepMind's four methods, with JAX's noise by step */
};

struct gm_bias {
    int32_t id;
    float value; /* added to the logit; -INFINITY forbids */
};

struct gm_stop {
    uint16_t len;
    char bytes[GM_STOP_BYTES_MAX];
};

struct gm_sampling {
    float temperature;       /* 0: greedy, lowest id on ties */
    int32_t top_k;           /* 0: off */
    float top_p;             /* 1: off; over what top-k left, renormalised */
    float min_p;             /* 0: off; relative to the most probable */
    float repeat_penalty;    /* 1: off; prompt and output: logit > 0 divided, else multiplied */
    float presence_penalty;  /* 0: off; output only */
    float frequency_penalty; /* 0: off; output only, times the count */
    uint64_t seed;
    int32_t rules;      /* enum gm_sampling_rules */
    int32_t max_tokens; /* >= 1 */
    int32_t logprobs;   /* -1: none; n >= 0: the chosen token's and the n best */
    bool ignore_eos;    /* end tokens may be chosen and do not end the turn */
    uint32_t n_bias;
    struct gm_bias bias[GM_BIAS_MAX];
    uint32_t n_stops;
    struct gm_stop stops[GM_STOPS_MAX];
};

/* Temperature 1, top-k 64, top-p 0.95, everything else off, max_tokens 1024, no log-probabilities.
 */
void gm_sampling_default(struct gm_sampling *s);

/* GM_INVALID with a sentence that names the option and its range; NaN is out of range. With
 * DeepMind's rules also what they have no place for. */
enum gm_status gm_sampling_check(const struct gm_sampling *s, struct gm_err *err);

/* What a caller named itself; the rest of a struct is defaults. */
struct gm_sampling_given {
    bool temperature, top_k, top_p;
};
/* Turns to DeepMind's rules and replaces Gemline's defaults by theirs: nothing given is greedy,
 * temperature alone is RandomSampling, top_k TopkSampling, top_p TopPSampling (temperature 1 unless
 * given). A bias of -10000 becomes -INFINITY: forbidden. GM_INVALID: temperature 0 (leave it out),
 * or what gm_sampling_check refuses. */
enum gm_status gm_sampling_deepmind(struct gm_sampling *s, const struct gm_sampling_given *given,
                                    struct gm_err *err);

#endif
