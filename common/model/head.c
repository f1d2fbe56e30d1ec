/* head.c - from a row of logits to candidates: penalties, biases, bans, top K, log-sum-exps.
 *
 * Owns:      the sparse change of a row and its exact undoing.
 * Does not:  draw a token (services/sampler) or compute logits (embed.c).
 * How:       a hash table holds the ids whose logits change, each with its old value and its count
 *            among the output; small tables stand on the stack, larger ones on the heap.
 */
#include "common/model/model.h"

#include "kernels/fmath.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    STACK_SLOTS = 1024,
    NO_ID = -1,
    CHUNKS_MAX = 1024, /* chunks of log-sum-exps whose sums are used again: a million tokens */
};

/* One changed id. */
struct change {
    int32_t id;       /* NO_ID: empty slot */
    uint32_t outputs; /* how often it stands in the output */
    bool seen;        /* in prompt or output */
    float old;
};

struct changes {
    struct change *slot;
    uint32_t slots; /* a power of two, at least twice the ids */
    float *logits;
    int32_t vocab;
};

/* The slot of `id`, made with the logit of now if it is new; NULL for ids that are no row. */
static struct change *change_of(struct changes *c, int32_t id)
{
    if (id < 0 || id >= c->vocab)
        return NULL;
    uint32_t at = (uint32_t)id * 2654435769u; /* Fibonacci hashing */
    for (at = (at ^ at >> 16) & (c->slots - 1); c->slot[at].id != id;
         at = (at + 1) & (c->slots - 1))
        if (c->slot[at].id == NO_ID) {
            c->slot[at] = (struct change){ .id = id, .old = c->logits[id] };
            break;
        }
    return &c->slot[at];
}

static bool counts_ids(const struct gm_adjust *a)
{
    return a->repeat_penalty != 1.0f || a->presence != 0.0f || a->frequency != 0.0f;
}

/* Repetition (a positive logit is divided, a negative one multiplied), then presence and frequency
 * of output ids, for each id once. */
static void apply_penalties(struct changes *c, const struct gm_adjust *a)
{
    for (int32_t i = 0; i < a->n_ids; i++) {
        struct change *x = change_of(c, a->ids[i]);
        if (!x)
            continue;
        x->seen = true;
        x->outputs += i >= a->prompt_len;
    }
    for (uint32_t i = 0; i < c->slots; i++) {
        const struct change *x = &c->slot[i];
        if (x->id == NO_ID || !x->seen)
            continue;
        float *logit = &c->logits[x->id];
        if (a->repeat_penalty != 1.0f)
            *logit = *logit > 0.0f ? *logit / a->repeat_penalty : *logit * a->repeat_penalty;
        if (x->outputs > 0)
            *logit -= a->presence + a->frequency * (float)x->outputs;
    }
}

static void apply(struct changes *c, const struct gm_adjust *a)
{
    if (counts_ids(a))
        apply_penalties(c, a);
    for (int32_t i = 0; i < a->n_bias; i++)
        if (change_of(c, a->bias_ids[i]))
            c->logits[a->bias_ids[i]] += a->bias_values[i];
    for (int32_t i = 0; i < a->n_banned; i++)
        if (change_of(c, a->banned[i]))
            c->logits[a->banned[i]] = -INFINITY;
}

static void undo(const struct changes *c)
{
    for (uint32_t i = 0; i < c->slots; i++)
        if (c->slot[i].id != NO_ID)
            memcpy(&c->logits[c->slot[i].id], &c->slot[i].old, sizeof(float));
}

/* Slots for all ids that may change; 0 if none can. */
static uint32_t slots_for(const struct gm_adjust *a, int32_t vocab)
{
    int64_t n = (int64_t)a->n_bias + a->n_banned + (counts_ids(a) ? a->n_ids : 0);
    n = n < vocab ? n : vocab;
    uint32_t slots = 2;
    while (slots < 2 * (uint64_t)n)
        slots *= 2;
    return n > 0 ? slots : 0;
}

/* Sorts before every smaller logit, and before equal logits of a higher id; NaN sorts last. */
static uint64_t rank_of(float logit, int32_t id)
{
    const float x = logit == 0.0f ? 0.0f : logit; /* -0 equals 0 */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u; /* rises with x */
    return (uint64_t)(isnan(x) ? 0 : bits) << 32 | (uint32_t)~id;
}

static int by_rank(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* top_k() for more than GM_TOPK_MAX: sorts the whole row. 0 where memory cannot be had. */
static int32_t top_many(int32_t *ids, float *values, const float *logits, int32_t vocab, int32_t k)
{
    int32_t n = 0;
    uint64_t *rank = malloc((size_t)vocab * sizeof *rank);
    if (!rank)
        return 0;
    for (int32_t i = 0; i < vocab; i++)
        rank[i] = rank_of(logits[i], i);
    qsort(rank, (size_t)vocab, sizeof *rank, by_rank);
    while (n < k && n < vocab && rank[n] >> 32 != 0) {
        ids[n] = (int32_t) ~(uint32_t)rank[n];
        values[n] = logits[ids[n]];
        n++;
    }
    free(rank);
    return n;
}

/* ---- log-sum-exps ----------------------------------------------------------------------------
 */

int32_t gm_head_chunks(int32_t vocab)
{
    return (vocab + GM_HEAD_CHUNK - 1) / GM_HEAD_CHUNK;
}

/* What of a row has been added so far: exp(top) * sum. A NaN stays. */
struct lse {
    double top, sum;
};

static void lse_add(struct lse *s, double chunk)
{
    if (chunk == -INFINITY)
        return;
    if (isnan(chunk) || isnan(s->top) || chunk == INFINITY) {
        s->top = isnan(s->top) ? s->top : chunk;
        s->sum = 1.0;
    } else if (chunk > s->top) {
        s->sum = s->sum * gm_exp(s->top - chunk) + 1.0;
        s->top = chunk;
    } else if (s->top != INFINITY) {
        s->sum += gm_exp(chunk - s->top);
    }
}

static double lse_end(const struct lse *s)
{
    return s->sum == 0.0 ? -INFINITY : s->top + gm_log(s->sum);
}

double gm_head_lse(const double *chunks, int32_t vocab)
{
    struct lse s = { -INFINITY, 0.0 };
    for (int32_t i = 0; i < gm_head_chunks(vocab); i++)
        lse_add(&s, chunks[i]);
    return lse_end(&s);
}

static double lse_chunk(const struct gm_kernels *k, const float *logits, int32_t vocab, int32_t i,
                        float inv_t)
{
    const int32_t at = i * GM_HEAD_CHUNK;
    const int32_t n = vocab - at < GM_HEAD_CHUNK ? vocab - at : GM_HEAD_CHUNK;
    return k->logsumexp(logits + at, (size_t)n, inv_t);
}

double gm_head_lse_of(const struct gm_kernels *k, const float *logits, int32_t vocab, float inv_t)
{
    struct lse s = { -INFINITY, 0.0 };
    for (int32_t i = 0; i < gm_head_chunks(vocab); i++)
        lse_add(&s, lse_chunk(k, logits, vocab, i, inv_t));
    return lse_end(&s);
}

/* The same with changed logits: only chunks that hold a change are computed again. */
static double lse_changed(const struct gm_kernels *k, const struct changes *c, const double *chunks,
                          float inv_t)
{
    uint64_t dirty[(CHUNKS_MAX + 63) / 64] = { 0 };
    const int32_t n = gm_head_chunks(c->vocab);
    if (!chunks || n > CHUNKS_MAX)
        return gm_head_lse_of(k, c->logits, c->vocab, inv_t);
    for (uint32_t i = 0; i < c->slots; i++) {
        const int32_t at = c->slot[i].id / GM_HEAD_CHUNK;
        if (c->slot[i].id != NO_ID)
            dirty[at / 64] |= UINT64_C(1) << at % 64;
    }
    struct lse s = { -INFINITY, 0.0 };
    for (int32_t i = 0; i < n; i++)
        lse_add(&s, dirty[i / 64] >> i % 64 & 1 ? lse_chunk(k, c->logits, c->vocab, i, inv_t)
                                                : chunks[i]);
    return lse_end(&s);
}

/* ---- choosing --------------------------------------------------------------------------------
 */

static void choose(const struct gm_kernels *k, const float *logits, int32_t vocab,
                   struct gm_candidates *out)
{
    out->k = out->k > GM_TOPK_MAX ? top_many(out->ids, out->logits, logits, vocab, out->k)
                                  : k->top_k(out->ids, out->logits, logits, vocab, out->k);
}

/* A forbidden token stays in the list with -inf: a short list means a small vocabulary, or NaN. k =
 * 0 where all logits are NaN, or memory for a sort or for more than STACK_SLOTS changes cannot be
 * had. */
void gm_head_choose(const struct gm_kernels *k, float *logits, int32_t vocab,
                    const struct gm_adjust *adjust, float temperature, struct gm_candidates *out)
{
    const float inv_t = temperature > 0.0f ? 1.0f / temperature : 1.0f;
    struct change on_stack[STACK_SLOTS];
    struct changes c = { on_stack, slots_for(adjust, vocab), logits, vocab };
    out->lse_raw = out->chunks_raw ? gm_head_lse(out->chunks_raw, vocab)
                                   : gm_head_lse_of(k, logits, vocab, 1.0f);
    if (c.slots > STACK_SLOTS)
        c.slot = malloc(c.slots * sizeof *c.slot);
    if (!c.slot) {
        out->k = 0;
        out->lse_t = -INFINITY;
        return;
    }
    for (uint32_t i = 0; i < c.slots; i++)
        c.slot[i].id = NO_ID;
    if (c.slots > 0)
        apply(&c, adjust);
    out->lse_t =
        c.slots == 0 && inv_t == 1.0f ? out->lse_raw : lse_changed(k, &c, out->chunks_t, inv_t);
    choose(k, logits, vocab, out);
    undo(&c);
    for (int32_t i = 0; i < out->k; i++)
        out->raw[i] = logits[out->ids[i]];
    if (c.slot != on_stack)
        free(c.slot);
}

void gm_head_logprobs(const struct gm_kernels *k, const float *logits, int32_t vocab, int32_t n,
                      int32_t *ids, double *logprobs, double lse)
{
    float values[GM_TOPK_MAX];
    int32_t got =
        n > 0 ? k->top_k(ids, values, logits, vocab, n < GM_TOPK_MAX ? n : GM_TOPK_MAX) : 0;
    for (int32_t i = 0; i < n; i++) {
        if (i >= got)
            ids[i] = NO_ID;
        logprobs[i] = i < got ? (double)values[i] - lse : -INFINITY;
    }
}
