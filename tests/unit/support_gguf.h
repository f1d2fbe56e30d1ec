/* support_gguf.h - writes small model files for tests: any config, any weight types, seeded.
 *
 * Owns:      a GGUF builder (keys, tensors, any wrong thing a test wants), random models, random
 *            PEFT adapters.
 * Does not:  encode weights (kernels/quant_enc.c) or check anything: a builder that runs out of
 *            memory or disk ends the test by abort().
 */
#ifndef GM_TESTS_SUPPORT_GGUF_H
#define GM_TESTS_SUPPORT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/text.h"
#include "common/model/weights.h"

/* ---- a file piece by piece ---------------------------------------------------------------------
 */

struct gm_fake {
    struct gm_buf kvs, infos, data;
    uint64_t n_kvs, n_tensors; /* written to the header as they stand */
    uint32_t version;
    size_t alignment; /* of the data; does not write general.alignment */
};

void gm_fake_open(struct gm_fake *f);
void gm_fake_close(struct gm_fake *f);

void gm_fake_u32(struct gm_fake *f, const char *key, uint32_t value);
void gm_fake_f32(struct gm_fake *f, const char *key, float value);
void gm_fake_bool(struct gm_fake *f, const char *key, bool value);
void gm_fake_text(struct gm_fake *f, const char *key, const char *value);
void gm_fake_texts(struct gm_fake *f, const char *key, const char *const *values, size_t n);
/* An array of n elements of `type` (the format's number) that are `bytes` long together. */
void gm_fake_array(struct gm_fake *f, const char *key, uint32_t type, size_t n, const void *values,
                   size_t bytes);
/* A tensor with its data; dims innermost first. */
void gm_fake_tensor(struct gm_fake *f, const char *name, uint32_t type, uint32_t n_dims,
                    const int64_t *dims, const void *data, size_t bytes);
/* Only its entry in the table, with any offset. */
void gm_fake_info(struct gm_fake *f, const char *name, uint32_t type, uint32_t n_dims,
                  const int64_t *dims, uint64_t offset);

/* The whole file into *out (appended; GM_BUF with room), or to a path. */
void gm_fake_bytes(const struct gm_fake *f, struct gm_buf *out);
void gm_fake_save(const struct gm_fake *f, const char *path);

/* ---- random models -----------------------------------------------------------------------------
 */

struct gm_fake_spec {
    struct gm_config cfg;      /* what the file will say; see gm_fake_config */
    enum gm_type map[GM_MAPS]; /* types of the seven maps (fused: Q's for all three) */
    enum gm_type embed, head, norm;
    bool own_head; /* write output.weight */
    bool fused_qkv;
    bool second_dialect; /* ollama's keys */
    bool pieces;         /* write a vocabulary: <pad> <eos> <bos> <unk> ... t4 t5 ... */
    uint64_t seed;
};

/* A small config of the family: layers 6, d 256, 4 heads over 2, head_dim 64, ff 512, vocab 320,
 * window 16; change what you like. Its query scale is written as gemline.query_scale. */
struct gm_config gm_fake_config(enum gm_arch arch);
/* The spec of cfg with every map, the embedding and the head of `type` and F32 norms. */
struct gm_fake_spec gm_fake_spec_of(const struct gm_config *cfg, enum gm_type type, uint64_t seed);

/* Adds the model's keys, and its tensors, to an open builder; or writes the file at once. */
void gm_fake_model_keys(struct gm_fake *f, const struct gm_fake_spec *spec);
void gm_fake_model_tensors(struct gm_fake *f, const struct gm_fake_spec *spec);
void gm_fake_model(const struct gm_fake_spec *spec, const char *path);

/* A random adapter for every map of every layer: `dir` is made, both files written, F32. */
void gm_fake_adapter(const char *dir, const struct gm_config *cfg, int32_t rank, double alpha,
                     uint64_t seed);

#endif
