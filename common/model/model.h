/* model.h - the umbrella of common/model, and one step of a slice.
 *
 * One step: rows of many sequences enter as token ids (first shard) or as hidden rows, pass the
 * blocks of the slice, and leave as hidden rows or as logits. Nobody outside sees tensors: a caller
 * has rows, positions and sequences.
 *
 * Owns:      struct gm_slice (weights + adapter + cache + scratch), struct gm_batch.
 * Does not:  choose the batch (services/shard/batch.c), speak to anyone, allocate after start-up.
 */
#ifndef GM_MODEL_MODEL_H
#define GM_MODEL_MODEL_H

#include <stdbool.h>

#include "common/model/config.h"
#include "common/model/gguf.h"
#include "common/model/kv.h"
#include "common/model/lora.h"
#include "common/model/pack.h"
#include "common/model/weights.h"
#include "kernels/kernels.h"
#include "kernels/pool.h"

enum { GM_BATCH_ROWS_MAX = 512 };

struct gm_slice_opts {
    const char *model_path;
    const char *adapter_dir; /* NULL: none */
    struct gm_slice_spec spec;
    const struct gm_kernels *kernels;
    int threads;
    int64_t kv_tokens;
    int32_t context;  /* positions of one sequence */
    int32_t rows_max; /* rows of one step, at most GM_BATCH_ROWS_MAX */
    enum gm_kv_type kv_type;
    bool doubt; /* a file was changed while it was in use: see struct gm_pack_opts */
};

struct gm_slice;

/* Opens everything and prints a memory table to the log. GM_EXHAUSTED if weights + cache + scratch
 * exceed what the machine and the cgroup leave (the sentence has the numbers). Later, whoever used
 * what a slice computed asks gm_mapguard_check() first whether its files are still what they were.
 */
enum gm_status gm_slice_open(struct gm_slice **out, const struct gm_slice_opts *opts,
                             struct gm_err *err);
void gm_slice_close(struct gm_slice **slice);

const struct gm_config *gm_slice_config(const struct gm_slice *slice);
struct gm_kv *gm_slice_kv(struct gm_slice *slice);
/* "avx512vnni-2/bf16/5d1c.../a3f0...": kernel set, KV type, weights, adapter. */
const char *gm_slice_numerics(const struct gm_slice *slice);
/* Of its packs: they tell weights apart that numerics (samples) take for the same. */
void gm_slice_hashes(const struct gm_slice *slice, struct gm_pack_hashes *out);

/* A run of consecutive positions of one sequence inside a batch. gm_kv_extend() was called for it:
 * its rows are positions [pos, pos + n). */
struct gm_span {
    struct gm_kv_seq *seq;
    int32_t pos;
    int32_t n;
    int32_t row; /* index of its first row in the batch */
};

struct gm_batch {
    const struct gm_span *spans;
    int32_t n_spans;
    int32_t rows;                /* sum of n */
    float *hidden;               /* [rows][d_model], in and out; the caller's buffer */
    volatile uint64_t *progress; /* bumped once per layer; may be NULL */
    bool *bad; /* [n_spans], may be NULL: with GM_DATA_LOSS, the spans that are not finite */
};

/* Rows are about to come: wakes the threads, so that they need not be waited for. */
void gm_slice_wake(struct gm_slice *slice);

/* First shard: hidden[r] = scaled embedding of ids[r]. Ids are checked: GM_INVALID outside [0,
 * vocab). */
enum gm_status gm_slice_embed(struct gm_slice *slice, const int32_t *ids, int32_t rows,
                              float *hidden, struct gm_err *err);
/* All blocks of the slice, in order. GM_DATA_LOSS names the layer whose output is not finite and
 * sets *bad_span to the first span concerned and batch->bad for all of them (other spans are fine
 * to use). After another failure *bad_span is -1 and nothing was computed. */
enum gm_status gm_slice_blocks(struct gm_slice *slice, struct gm_batch *batch, int32_t *bad_span,
                               struct gm_err *err);

/* One row of the head: hidden row in, logits and their log-sum-exps out. */
struct gm_head_row {
    const float *hidden; /* [d_model] */
    float *logits;       /* [vocab], the caller's */
    float inv_t;         /* of lse_t: 1 / temperature */
    double *lse_raw;     /* [gm_head_chunks(vocab)]: log sum exp of each chunk at temperature 1 */
    double *lse_t;       /* the same at inv_t; may be lse_raw where inv_t is 1 */
    bool finite;         /* out: every logit is */
};

enum {
    GM_HEAD_CHUNK =
        1024, /* logits of one log-sum-exp: a constant, because the sums' order hangs on it */
    GM_HEAD_ROWS_MAX = 32 /* rows of one call */
};

/* Chunks of a row of logits. */
int32_t gm_head_chunks(int32_t vocab);

/* Last shard: final norm, head and final soft cap for up to GM_HEAD_ROWS_MAX rows. The table is
 * read once for all of them, and a logit's sums are done while it is in the cache. */
void gm_slice_head(struct gm_slice *slice, struct gm_head_row *rows, int32_t n);

/* ---- head.c: from logits to candidates --------------------------------------------------------
 */

struct gm_adjust {             /* what changes logits before the choice, in this order */
    float repeat_penalty;      /* 1: off; over prompt and output ids */
    float presence, frequency; /* over output ids = ids[prompt_len..] */
    const int32_t *ids;        /* all ids of the sequence so far (the row's own id included) */
    int32_t n_ids, prompt_len;
    const int32_t *bias_ids;
    const float *bias_values; /* -INFINITY forbids */
    int32_t n_bias;
    const int32_t *banned; /* forbidden tokens */
    int32_t n_banned;
};

struct gm_candidates {
    int32_t k; /* in: how many are wanted; out: how many there are */
    const double *chunks_raw,
        *chunks_t;  /* in: the row's sums as gm_slice_head gave them, at 1 and at
                       1 / temperature; NULL: computed here, the same bits */
    int32_t *ids;   /* [k], adjusted logits falling, lower id first on ties */
    float *logits;  /* [k] adjusted */
    float *raw;     /* [k] before adjustment */
    double lse_raw; /* log sum exp of raw logits at temperature 1 */
    double lse_t;   /* log sum exp of adjusted logits / temperature */
};

/* Adjusts a copy-free: `logits` [vocab] is changed in place and restored before return (bit for
 * bit), so the caller may keep it for a second call with a larger k. temperature 0 counts as 1. */
void gm_head_choose(const struct gm_kernels *k, float *logits, int32_t vocab,
                    const struct gm_adjust *adjust, float temperature, struct gm_candidates *out);

/* The n best raw ids with their log-probabilities; lse: log sum exp of the raw logits. */
void gm_head_logprobs(const struct gm_kernels *k, const float *logits, int32_t vocab, int32_t n,
                      int32_t *ids, double *logprobs, double lse);

/* Log sum exp of a row from its chunks, and of one row where there are none. */
double gm_head_lse(const double *chunks, int32_t vocab);
double gm_head_lse_of(const struct gm_kernels *k, const float *logits, int32_t vocab, float inv_t);

#endif
