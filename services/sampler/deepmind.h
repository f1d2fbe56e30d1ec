/* deepmind.h - DeepMind's sampling as a mode (`--sampling deepmind`): its rules and JAX's noise.
 *
 * Owns:      the contract of deepmind.c: Threefry, the keys of a turn's steps, gm_dm_pick.
 * Does not:  say which options choose which method (common/base/sampling.h does).
 */
#ifndef GM_SAMPLER_DEEPMIND_H
#define GM_SAMPLER_DEEPMIND_H

#include "services/sampler/sampler.h"

/* No f32 Gumbel value is larger: u is at most 1 - 2^-23, so g is at most 15.9424. */
#define GM_DM_GUMBEL_MAX 15.95f

/* The generator itself: two words of key and of counter to two words. out may not be key. */
void gm_dm_threefry(uint32_t out[2], const uint32_t key[2], const uint32_t counter[2]);

/* Element `index` of jax.random.uniform(key, shape, minval=tiny) and of jax.random.gumbel(key,
 * shape), f32, for any shape of less than 2^32 elements in row-major order. The logarithms are
 * correctly rounded to f32; XLA's own may be off by an ulp. */
float gm_dm_uniform(const uint32_t key[2], uint32_t index);
float gm_dm_gumbel(const uint32_t key[2], uint32_t index);

/* The keys of a turn: key(seed) is split at each step, the first half goes on, the second is that
 * step's. A cache of the way already gone; plain data. */
struct gm_dm_chain {
    uint32_t steps; /* splits done */
    uint32_t next[2];
};
void gm_dm_chain_start(struct gm_dm_chain *c, uint64_t seed);
/* The key of step 0, 1, ...: tokens of the turn sampled before. Steps may come in any order; a
 * step back begins anew. */
void gm_dm_chain_key(struct gm_dm_chain *c, uint64_t seed, uint32_t step, uint32_t key[2]);

/* As gm_pick, with the method that `p` stands for: temperature 0 is greedy, top_k > 0 is
 * TopkSampling, top_p < 1 is TopPSampling, else RandomSampling. `p` has passed gm_sampling_check.
 * The mass of top_p is summed in double; where the reference's f32 sum falls on the other side of
 * p by rounding (about 1e-6), it keeps one token more or less. */
enum gm_status gm_dm_pick(const struct gm_cands *c, const struct gm_sampling *p,
                          const uint32_t key[2], struct gm_pick *out, struct gm_err *err);

#endif
