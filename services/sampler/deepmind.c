/* deepmind.c - one token as DeepMind's sampler chooses it: its four methods and JAX's noise.
 *
 * Owns:      Threefry-2x32, the chain of keys, the f32 arithmetic of the four methods, the proof
 *            that a short list of candidates is enough.
 * Does not:  mix methods or take other filters (gm_sampling_check has refused them).
 * Method:    greedy, RandomSampling, TopkSampling and TopPSampling of `gemma.gm.text`, on f32
 *            logits: scores are f32 sums as there, ties go to the lower index. Noise of a step is
 *            counted by token id, except that of top-k, which is counted by rank.
 * Threads:   any.
 */
#include <math.h>
#include <string.h>

#include "kernels/fmath.h"
#include "services/sampler/deepmind.h"

/* ---- noise ----------------------------------------------------------------------------------- */

static uint32_t rotl(uint32_t x, int n)
{
    return (x << n) | (x >> (32 - n));
}

/* Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw, SC'11, section 3.2). */
void gm_dm_threefry(uint32_t out[2], const uint32_t key[2], const uint32_t counter[2])
{
    static const int turns[2][4] = { { 13, 15, 26, 6 }, { 17, 29, 16, 24 } };
    const uint32_t k[3] = { key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu };
    uint32_t a = counter[0] + k[0], b = counter[1] + k[1];
    for (uint32_t group = 0; group < 5; group++) {
        for (int i = 0; i < 4; i++) {
            a += b;
            b = rotl(b, turns[group & 1][i]) ^ a;
        }
        a += k[(group + 1) % 3];
        b += k[(group + 2) % 3] + group + 1;
    }
    out[0] = a;
    out[1] = b;
}

/* 32 random bits of element `index`, as jax.random.bits with partitionable Threefry. */
static uint32_t bits_at(const uint32_t key[2], uint32_t index)
{
    uint32_t out[2];
    gm_dm_threefry(out, key, (const uint32_t[2]){ 0, index });
    return out[0] ^ out[1];
}

/* The 23 bits that the uniform is made of; the noise rises with them. */
static uint32_t level_at(const uint32_t key[2], uint32_t index)
{
    return bits_at(key, index) >> 9;
}

static float uniform_of(uint32_t level)
{
    return level > 0 ? (float)level * 0x1p-23f : 0x1p-126f;
}

static float gumbel_of(uint32_t level)
{
    const float inner = -(float)gm_log((double)uniform_of(level));
    return -(float)gm_log((double)inner);
}

float gm_dm_uniform(const uint32_t key[2], uint32_t index)
{
    return uniform_of(level_at(key, index));
}

float gm_dm_gumbel(const uint32_t key[2], uint32_t index)
{
    return gumbel_of(level_at(key, index));
}

void gm_dm_chain_start(struct gm_dm_chain *c, uint64_t seed)
{
    c->steps = 0;
    c->next[0] = (uint32_t)(seed >> 32);
    c->next[1] = (uint32_t)seed;
}

/* Sampler: next, current = split(rng). */
void gm_dm_chain_key(struct gm_dm_chain *c, uint64_t seed, uint32_t step, uint32_t key[2])
{
    static const uint32_t zero[2] = { 0, 0 }, one[2] = { 0, 1 };
    if (step < c->steps)
        gm_dm_chain_start(c, seed);
    for (; c->steps < step; c->steps++)
        gm_dm_threefry(c->next, (const uint32_t[2]){ c->next[0], c->next[1] }, zero);
    gm_dm_threefry(key, c->next, one);
}

/* ---- methods --------------------------------------------------------------------------------- */

/* The list as the methods see it. */
struct view {
    const struct gm_cands *c;
    const uint32_t *key;
    float temperature;
    bool all; /* nothing outside the list can be chosen */
};

/* logits / T, rounded to f32 as there. */
static float scaled(const struct view *v, uint32_t i)
{
    return v->c->logits[i] / v->temperature;
}

/* argmax(scores + noise) over the first m; by_rank: noise is counted by place, not by id. */
static uint32_t best_of(const struct view *v, uint32_t m, bool by_rank, float *top)
{
    uint32_t best = 0;
    *top = -INFINITY;
    for (uint32_t i = 0; i < m; i++) {
        const uint32_t index = by_rank ? i : (uint32_t)v->c->ids[i];
        const float score = scaled(v, i) + gm_dm_gumbel(v->key, index);
        const bool lower = by_rank ? i < best : v->c->ids[i] < v->c->ids[best];
        if (score > *top || (score == *top && lower)) {
            *top = score;
            best = i;
        }
    }
    return best;
}

/* The largest noise of any id that is not in the list. */
static float unlisted_noise(const struct view *v)
{
    static _Thread_local uint8_t listed[GM_SAMPLER_VOCAB_MAX];
    const struct gm_cands *c = v->c;
    uint32_t level = 0;
    memset(listed, 0, c->n_vocab);
    for (uint32_t i = 0; i < c->n; i++)
        listed[c->ids[i]] = 1;
    for (uint32_t id = 0; id < c->n_vocab; id++) {
        const uint32_t x = level_at(v->key, id);
        level = x > level && !listed[id] ? x : level;
    }
    return gumbel_of(level);
}

static void ask_more(const struct gm_cands *c, struct gm_pick *out)
{
    const uint64_t more = (uint64_t)c->n * GM_CANDS_GROW;
    out->need = more < c->n_vocab ? (uint32_t)more : c->n_vocab;
}

/* Chooses among the first m by token id. open: tokens after the list belong to them too. A token
 * outside scores at most (last logit / T) + (largest noise there): rounding keeps the order. */
static void choose(const struct view *v, uint32_t m, bool open, struct gm_pick *out)
{
    float top;
    const uint32_t best = best_of(v, m, false, &top);
    const float edge = scaled(v, v->c->n - 1);
    if (open && !(top > edge + GM_DM_GUMBEL_MAX) && !(top > edge + unlisted_noise(v))) {
        ask_more(v->c, out);
        return;
    }
    out->index = best;
    out->id = v->c->ids[best];
}

static void top_k(const struct view *v, uint32_t k, struct gm_pick *out)
{
    float top;
    if (k > v->c->n_vocab)
        k = v->c->n_vocab;
    if (k > v->c->n) {
        out->need = k;
        return;
    }
    out->index = best_of(v, k, true, &top);
    out->id = v->c->ids[out->index];
}

/* Keeps the tokens up to the first with which the mass reaches p, and those that equal it. */
static enum gm_status top_p(const struct view *v, double p, struct gm_pick *out, struct gm_err *err)
{
    const struct gm_cands *c = v->c;
    double sum = 0.0;
    uint32_t m = 0;
    if (!isfinite(c->lse_temp))
        return gm_fail(err, GM_INTERNAL,
                       "top_p needs the log-sum-exp at the temperature, which is %g; check the "
                       "last shard",
                       c->lse_temp);
    while (m < c->n && sum < p)
        sum += gm_exp((double)scaled(v, m++) - c->lse_temp);
    const bool reached = sum >= p || v->all;
    while (reached && m < c->n && scaled(v, m) == scaled(v, m - 1))
        m++;
    if (!reached || (m == c->n && !v->all && scaled(v, m - 1) > -INFINITY))
        ask_more(c, out);
    else
        choose(v, m, false, out);
    return GM_OK;
}

enum gm_status gm_dm_pick(const struct gm_cands *c, const struct gm_sampling *p,
                          const uint32_t key[2], struct gm_pick *out, struct gm_err *err)
{
    *out = (struct gm_pick){ 0, 0, -1 };
    enum gm_status rc = gm_cands_check(c, err);
    if (rc != GM_OK)
        return rc;
    const struct view v = { c, key, p->temperature,
                            c->n == c->n_vocab || isinf(c->logits[c->n - 1]) };
    if (!(p->temperature > 0.0f)) /* greedy */
        out->id = c->ids[0];
    else if (p->top_k > 0)
        top_k(&v, (uint32_t)p->top_k, out);
    else if (p->top_p < 1.0f)
        return top_p(&v, (double)p->top_p, out, err);
    else
        choose(&v, c->n, !v.all, out);
    return GM_OK;
}
