/* exec.h - what the files of one step share: the slice, its scratch, the running step.
 *
 * Owns:      struct gm_slice and struct gm_step, private to common/model.
 * Does not:  belong to anyone's interface: users include model.h.
 *
 * Shapes are [row][feature]. All scratch has room for `rows_max` rows and is taken once at the
 * opening. A parallel region either cuts the rows or the outputs of linear maps; every region ends
 * with a barrier (gm_pool_run returns when all are done).
 */
#ifndef GM_MODEL_EXEC_H
#define GM_MODEL_EXEC_H

#include "common/model/model.h"

enum {
    GM_JOINT_MAX = 3,       /* linear maps of one region: q, k, v */
    GM_NUMERICS_MAX = 120,  /* bytes of the numerics text */
    GM_OUT_GRAIN = 32,      /* outputs a thread takes at the least: a pair of groups */
    GM_ATTN_TILE_ROWS = 24, /* most rows of one sequence attended to in one call */
};

#define GM_ATTN_PARTS_BYTES_MAX ((uint64_t)16 << 20) /* of scratch.parts */

/* Rows [row, row + rows) of the batch, all of one span, as attention takes them in one go. */
struct gm_attn_job {
    int32_t span;
    int32_t row, rows;
    int32_t page, pages; /* those that any of the rows sees */
    int32_t unit;        /* its first unit of work, see attn.c */
    bool split;          /* page by page, through parts */
    size_t part;         /* its first float in scratch.parts */
};

/* What a step writes besides the hidden rows; the caller of the pool never allocates. */
struct gm_scratch {
    uint8_t *act;     /* [rows] prepared inputs; a row has act_bytes(cols of the map) */
    float *norm;      /* [rows][d_model] */
    float *q;         /* [rows][heads * head_dim] */
    float *k, *v;     /* [rows][kv_heads * head_dim] */
    float *mix;       /* [rows][heads * head_dim] attention's output */
    float *out;       /* [rows][d_model] output of o and down */
    float *gate, *up; /* [rows][d_ff] */
    float *cs_local;  /* [rows][head_dim] cosines and sines */
    float *cs_global;
    float *head;   /* [threads][GM_HEAD_ROWS_MAX][GM_HEAD_CHUNK] logits; NULL without a head */
    float *attend; /* [threads][attend_floats] */
    size_t attend_floats;
    float *parts; /* [parts_floats] of rows whose pages several threads share */
    size_t parts_floats;
    struct gm_attn_job *jobs; /* [rows] */
    int32_t *pos;             /* [rows] */
    int32_t *span;            /* [rows] index of the row's span */
    uint8_t *bad;             /* [rows] not finite */
    float *lora_t;         /* [joint][rows][rank_max]; NULL without an adapter, as the next two */
    uint8_t *lora_act;     /* [joint][rows] of act_bytes(rank_max) */
    size_t lora_act_bytes; /* of one row */
    float *lora_y;         /* [rows][sum of outputs of a region] */
    void *owned;           /* the one allocation */
    uint64_t bytes;
};

struct gm_slice {
    struct gm_gguf *gguf;
    struct gm_weights w;
    struct gm_pack *pack; /* NULL: none */
    struct gm_lora *lora; /* NULL: none */
    struct gm_kv *kv;
    struct gm_pool *pool;
    const struct gm_kernels *k;
    int32_t rows_max, context;
    bool floats; /* some map or an adapter reads its inputs as floats */
    float inv_freq_local[GM_HEAD_DIM_MAX / 2], inv_freq_global[GM_HEAD_DIM_MAX / 2];
    struct gm_scratch s;
    char numerics[GM_NUMERICS_MAX];
};

/* The running step; lives on the stack of gm_slice_blocks. */
struct gm_step {
    struct gm_slice *slice;
    const struct gm_batch *batch;
    int32_t rows;
    int32_t layer; /* absolute index */
    const struct gm_layer *w;
};

/* One linear map of a region. */
struct gm_lin {
    const struct gm_mat *w;
    const struct gm_lora_map *lora; /* NULL: none */
    float *y;                       /* [rows][w->rows] */
};

/* y = W x (+ scale B A x) for up to GM_JOINT_MAX maps of the same prepared rows (scratch.act), in
 * one region over all their outputs; an adapter adds a small one before it. linear.c */
void gm_exec_linear(struct gm_slice *slice, const struct gm_lin *lin, int n, int32_t rows);

/* The adapter's part for one map of the step's layer, or NULL. */
const struct gm_lora_map *gm_exec_lora(const struct gm_step *step, enum gm_map_kind map);

/* Prepares row `row` of width `cols` into scratch.act. */
void gm_exec_prepare(const struct gm_slice *slice, const float *x, int32_t row, int32_t cols);

/* Writes the cosines and sines of every row's position; once per step. */
void gm_attn_angles(struct gm_step *step);

/* hidden += post_norm(attention(attn_norm(hidden))), for the step's layer. Leaves the rows of
 * ffn_norm(hidden) prepared for gm_ffn_run, because that is work on the same row. */
void gm_attn_run(struct gm_step *step);

/* hidden += post_norm(feed_forward(prepared rows)); fills scratch.bad. */
void gm_ffn_run(struct gm_step *step);

/* Inverse frequencies: inv_freq[i] = float(1 / base^(2 i / head_dim)) / divisor, rounded to float
 * (reference section 2.6), i < head_dim / 2. */
void gm_attn_inv_freq(float *inv_freq, int32_t head_dim, float base, float divisor);

#endif
