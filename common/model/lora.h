/* lora.h - a LoRA adapter in PEFT's form (adapter_config.json + adapter_model.safetensors).
 *
 * Owns:      reading and checking the adapter, its matrices in the kernel's form, its identity.
 * Does not:  merge it into weights: it is applied beside them, row by row (block.c).
 * Format:    keys
 * base_model.model.model.layers.N.{self_attn.q_proj,...,mlp.down_proj}.lora_A.weight [r, in] and
 * .lora_B.weight [out, r]; F32, F16 or BF16. y += alpha/r * B (A x) (alpha/sqrt(r) with
 * use_rslora). dora, bias, modules_to_save and fan_in_fan_out are refused by name.
 */
#ifndef GM_MODEL_LORA_H
#define GM_MODEL_LORA_H

#include "common/model/weights.h"

enum { GM_LORA_RANK_MAX = 512 };

struct gm_lora_map {
    struct gm_mat a; /* [rank][in]; data NULL: this map has no adapter */
    struct gm_mat b; /* [out][rank] */
    float scale;
};

struct gm_lora {
    int32_t begin, end;
    int32_t rank_max;
    struct gm_lora_map (*layer)[GM_MAPS]; /* [end - begin] */
    uint64_t identity;                    /* hash of config and tensors of ALL layers */
    void *owned;
    void *packed; /* both matrices of every map in the kernels' layout; NULL: as in the file */
};

/* Opens `dir` for layers [begin, end) of `cfg`; checks every tensor of the adapter against cfg, so
 * an adapter of another model is refused on every shard with a sentence. */
enum gm_status gm_lora_open(struct gm_lora **out, const char *dir, const struct gm_config *cfg,
                            int32_t begin, int32_t end, struct gm_err *err);

/* Lays the matrices out for the kernels, once, before the first use. GM_EXHAUSTED: no memory. */
enum gm_status gm_lora_pack(struct gm_lora *lora, const struct gm_kernels *kernels,
                            struct gm_err *err);
void gm_lora_close(struct gm_lora **lora);

#endif
