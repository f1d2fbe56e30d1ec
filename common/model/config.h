/* config.h - THE table of Gemma variants, and the plan every layer is derived from.
 *
 * Owns:      struct gm_config: one row per variant (Gemma 2 2B/9B/27B, Gemma 3 270M/1B/4B/12B/27B),
 *            the derivation of per-layer facts, the check of a file's own metadata against the row,
 *            the balanced layer cut. What matches no row is taken as custom from its metadata.
 * Does not:  read files (gguf.c fills a struct gm_config_meta by name) or hold weights.
 */
#ifndef GM_MODEL_CONFIG_H
#define GM_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum { GM_LAYERS_MAX = 128, GM_SHARDS_MAX = 128, GM_NAME_MAX = 64 };

enum gm_arch { GM_ARCH_GEMMA2 = 2, GM_ARCH_GEMMA3 = 3 };

struct gm_config {
    char name[GM_NAME_MAX]; /* "gemma3-270m"; "custom" where no row matches */
    enum gm_arch arch;
    int32_t layers;
    int32_t d_model;
    int32_t heads, kv_heads, head_dim;
    int32_t d_ff;
    int32_t vocab;     /* rows of the embedding */
    int32_t window;    /* positions a local layer sees, itself included; 0: no local layers */
    int32_t context;   /* most positions the model was made for */
    float query_scale; /* multiplies q after RoPE */
    float norm_eps;
    float rope_base_local, rope_base_global;
    float rope_divisor_global; /* linear position scaling of global layers (8 on 4B and up) */
    float attn_softcap, final_softcap; /* 0: none */
    bool qk_norm;
    bool local[GM_LAYERS_MAX]; /* true: sliding window; Gemma 3: global are 5, 11, 17 ...; Gemma 2:
                                  odd */
};

/* Facts a checkpoint states; fields not stated are 0 (floats 0, strings ""). Loader-neutral. */
struct gm_config_meta {
    char arch[GM_NAME_MAX]; /* "gemma2", "gemma3" */
    int64_t layers, d_model, heads, kv_heads, key_len, value_len, d_ff, vocab, window, context;
    int64_t pattern; /* sliding_window_pattern as a number; 0: not stated */
    double norm_eps, rope_base, rope_base_swa, rope_factor, attn_softcap, final_softcap;
    double query_scale; /* gemline.query_scale */
    bool no_window;     /* the window is stated as 0: a Gemma 3 whose layers are all global */
    char rope_scaling[GM_NAME_MAX];
};

/* Finds the row that the metadata names by its shape and checks the rest against it; or derives a
 * custom one (query scale 1/sqrt(head_dim) unless stated; what has no safe default, as the soft
 * caps of a Gemma 2, must be stated). GM_UNSUPPORTED names a foreign
 * architecture; GM_INVALID says which number is wrong and what was expected. */
enum gm_status gm_config_from_meta(struct gm_config *cfg, const struct gm_config_meta *meta,
                                   struct gm_err *err);

/* The row of a name: "gemma3-4b", or "4b" for the Gemma 3 of that size. layers > 0 gives it that
 * many layers instead of its own: then it is a custom config with the row's other facts.
 * GM_NOT_FOUND lists the names; GM_INVALID: more than GM_LAYERS_MAX layers. */
enum gm_status gm_config_variant(struct gm_config *cfg, const char *name, int64_t layers,
                                 struct gm_err *err);

/* A balanced cut of the layers into n shards: first[0..n], first[0] = 0, first[n] = layers, every
 * shard has at least one layer. Costs count bytes read per token: a layer's weights, the global
 * layers' longer KV, and the output head on the last shard. GM_INVALID if n is out of 1..layers. */
enum gm_status gm_config_cut(const struct gm_config *cfg, int32_t n, int32_t *first,
                             struct gm_err *err);

/* Parses "0:6,6:12,12:18" into first[0..n]; must cover all layers in order without gaps. */
enum gm_status gm_config_parse_cut(const struct gm_config *cfg, const char *text, int32_t *n,
                                   int32_t *first, struct gm_err *err);

#endif
