/* weights.h - a slice of a model: the tensors of layers [begin, end), checked and bound by tables.
 *
 * Owns:      struct gm_weights and the table tensor name -> field -> shape. A layer may use Q, K, V
 *            apart or a fused attn_qkv (bound as three row ranges of it).
 * Does not:  copy weights (pointers lead into the mapping) or compute.
 */
#ifndef GM_MODEL_WEIGHTS_H
#define GM_MODEL_WEIGHTS_H

#include "common/model/config.h"
#include "common/model/gguf.h"
#include "kernels/kernels.h"

/* The seven linear maps of a block; adapters name them too. */
enum gm_map_kind {
    GM_MAP_Q,
    GM_MAP_K,
    GM_MAP_V,
    GM_MAP_O,
    GM_MAP_GATE,
    GM_MAP_UP,
    GM_MAP_DOWN,
    GM_MAPS
};

struct gm_layer {
    struct gm_mat map[GM_MAPS];
    const float *attn_norm, *post_attn_norm, *ffn_norm,
        *post_ffn_norm;           /* [d_model], "+1" included */
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
};

struct gm_weights {
    struct gm_config cfg;
    int32_t begin, end;      /* layers of this slice */
    struct gm_layer *layer;  /* [end - begin]; layer[i] is layer begin + i */
    struct gm_mat embed;     /* data NULL unless asked for; also the tied head */
    struct gm_mat head;      /* = embed, or output.weight where the file has one */
    const float *final_norm; /* [d_model]; NULL unless the head was asked for */
    uint64_t bytes;          /* weight bytes this slice reads for one token */
    void *owned;             /* float copies of norms stored in other types; freed by close */
};

/* What a shard needs beside its layers. */
struct gm_slice_spec {
    int32_t begin, end;
    bool embed; /* first shard */
    bool head;  /* last shard */
};

/* Binds the slice. Only tensors of the slice are touched. GM_INVALID / GM_DATA_LOSS name the tensor
 * and say what was expected. `g` must outlive *w. */
enum gm_status gm_weights_bind(struct gm_weights *w, const struct gm_gguf *g,
                               const struct gm_slice_spec *spec, struct gm_err *err);
void gm_weights_close(struct gm_weights *w);

/* One tensor that a model of a config has, as a file of it names and shapes it. */
enum { GM_WEIGHT_NAME_MAX = 64 };
struct gm_weight_want {
    char name[GM_WEIGHT_NAME_MAX];
    int64_t cols, rows; /* a norm has one row */
    bool norm;
    int32_t layer; /* -1: the embedding and the final norm */
    int map;       /* enum gm_map_kind; GM_MAPS: none of the seven */
};

/* The i-th tensor: the embedding (tied head), each layer's maps (apart, not fused) and norms, the
 * final norm. False behind the last one. */
bool gm_weights_want(const struct gm_config *cfg, size_t i, struct gm_weight_want *out);

/* "blk.3.attn_q.weight" part names for messages: "attn_q". */
const char *gm_map_name(enum gm_map_kind map);

#endif
