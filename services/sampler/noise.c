/* noise.c - sampling noise as a pure function of seed, absolute position and token id.
 *
 * Owns:      the counter-based generator and the Gumbel transform, with portable bits.
 * Does not:  keep any state: a token can be sampled again on any chain and gives the same answer.
 * Threads:   any.
 */
#include "kernels/fmath.h"
#include "services/sampler/sampler.h"

enum { PHILOX_ROUNDS = 10 };

/* Multipliers and key increments of Philox4x32 (Salmon, Moraes, Dror, Shaw, SC'11, table 2). */
static const uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u;
static const uint32_t PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u;

void gm_noise_philox(uint32_t out[4], const uint32_t ctr[4], const uint32_t key[2])
{
    uint32_t a = ctr[0], b = ctr[1], c = ctr[2], d = ctr[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int i = 0; i < PHILOX_ROUNDS; i++) {
        const uint64_t p0 = (uint64_t)PHILOX_M0 * a;
        const uint64_t p1 = (uint64_t)PHILOX_M1 * c;
        a = (uint32_t)(p1 >> 32) ^ b ^ k0;
        b = (uint32_t)p1;
        c = (uint32_t)(p0 >> 32) ^ d ^ k1;
        d = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

double gm_noise_uniform(uint64_t seed, uint64_t position, int32_t id)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t ctr[4] = { (uint32_t)id, 0, (uint32_t)position, (uint32_t)(position >> 32) };
    uint32_t bits[4];
    gm_noise_philox(bits, ctr, key);
    return ((double)bits[0] + 0.5) * 0x1p-32;
}

double gm_noise_gumbel(uint64_t seed, uint64_t position, int32_t id)
{
    const double u = gm_noise_uniform(seed, position, id);
    return -gm_log(-gm_log(u));
}
