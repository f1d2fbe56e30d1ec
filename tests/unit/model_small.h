/* model_small.h - small random models for tests: the file, an adapter, and a plain double forward.
 *
 * Owns:      the random tensors (every weight type stands somewhere), the writer of the GGUF file
 *            and of the adapter's folder, the forward pass written from the formulas.
 * Does not:  use anything of common/model but the enum of maps.
 */
#ifndef GM_TESTS_MODEL_SMALL_H
#define GM_TESTS_MODEL_SMALL_H

#include "common/model/weights.h"

enum {
    SMALL_LAYERS = 3,
    SMALL_DIM = 256, /* K-quants come in blocks of 256 */
    SMALL_HEADS = 8,
    SMALL_KV_HEADS = 2,
    SMALL_HEAD_DIM = 32,
    SMALL_FF = 256,
    SMALL_VOCAB = 64,
    SMALL_WINDOW = 9,
    SMALL_RANK = 5,
    SMALL_POSITIONS_MAX = 64,
};

struct small_map {
    int32_t rows, cols;
    enum gm_type type;
    uint8_t *data; /* as in the file */
    size_t bytes;
    double *w;    /* [rows][cols] decoded */
    float *a, *b; /* adapter: [rank][cols], [rows][rank] */
    bool lora;    /* some maps have none */
};

struct small_layer {
    struct small_map map[GM_MAPS];
    float norm[4][SMALL_DIM]; /* attn, post attn, ffn, post ffn */
    float qk_norm[2][SMALL_HEAD_DIM];
};

struct small_model {
    bool gemma2; /* soft caps, no head norms, pattern 2 */
    struct small_layer layer[SMALL_LAYERS];
    struct small_map embed;
    float final_norm[SMALL_DIM];
};

void small_make(struct small_model *m, bool gemma2, uint64_t seed);
void small_free(struct small_model *m);

/* 1 on success. */
int small_write_gguf(const struct small_model *m, const char *path);
/* adapter_config.json and adapter_model.safetensors in an existing folder; B is written times
 * `b_factor`. */
int small_write_adapter(const struct small_model *m, const char *dir, float b_factor);
double small_lora_scale(void); /* alpha / r of the written adapter */

/* logits[n][vocab] of n <= SMALL_POSITIONS_MAX ids, all in double. lora: with the adapter. */
void small_forward(const struct small_model *m, const int32_t *ids, int32_t n, bool lora,
                   double *logits);

#endif
