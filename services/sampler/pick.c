/* pick.c - one token out of the candidates, the same one the whole vocabulary would give.
 *
 * Owns:      the order of the filters, the proof that a short list is enough, Gumbel-max.
 * Does not:  penalise or ban (the last shard has), keep state, or fetch longer lists (seq.c and
 *            edge.c ask the last shard).
 * Method:    candidates fall, so every filter keeps a prefix, and only the length of the shortest
 *            one counts. Where that prefix may be longer than the list, the bound of the noise
 *            decides whether a token outside could still win.
 * Threads:   any.
 */
#include <math.h>
#include <string.h>

#include "kernels/fmath.h"
#include "services/sampler/sampler.h"

/* The list seen through the temperature. */
struct view {
    const struct gm_cands *c;
    double temperature;
    uint32_t live; /* candidates that are not forbidden */
    bool all;      /* no token outside the list can be chosen */
};

static enum gm_status check_place(const struct gm_cands *c, uint32_t i, struct gm_err *err)
{
    const float logit = c->logits[i];
    if (c->ids[i] < 0 || (uint32_t)c->ids[i] >= c->n_vocab)
        return gm_fail(err, GM_INTERNAL,
                       "candidate %u has id %d of %u tokens; check the last shard", i,
                       (int)c->ids[i], c->n_vocab);
    if (isnan(logit) || (isinf(logit) && logit > 0.0f))
        return gm_fail(err, GM_INTERNAL, "candidate %u has logit %g; check the last shard", i,
                       (double)logit);
    if (i == 0)
        return GM_OK;
    const bool falls = logit < c->logits[i - 1];
    const bool ties = logit == c->logits[i - 1] && c->ids[i] > c->ids[i - 1];
    if (!falls && !ties)
        return gm_fail(err, GM_INTERNAL, "candidate %u is out of order; check the last shard", i);
    return GM_OK;
}

enum gm_status gm_cands_check(const struct gm_cands *c, struct gm_err *err)
{
    if (c->n_vocab < 1 || c->n_vocab > GM_SAMPLER_VOCAB_MAX)
        return gm_fail(err, GM_INTERNAL, "the vocabulary has %u tokens; 1 to %d are allowed",
                       c->n_vocab, GM_SAMPLER_VOCAB_MAX);
    if (c->n < 1 || c->n > c->n_vocab || !c->ids || !c->logits)
        return gm_fail(err, GM_INTERNAL, "%u candidates of %u tokens; check the last shard", c->n,
                       c->n_vocab);
    for (uint32_t i = 0; i < c->n; i++) {
        enum gm_status rc = check_place(c, i, err);
        if (rc != GM_OK)
            return rc;
    }
    if (isinf(c->logits[0]))
        return gm_fail(err, GM_INTERNAL, "every token is forbidden; take back some bans");
    return GM_OK;
}

/* (logit - best logit) / T: the score without its common part, so no precision goes to it. The
 * difference of two floats over T >= 1e-6 is far inside the doubles. */
static double scaled(const struct view *v, uint32_t i)
{
    return ((double)v->c->logits[i] - (double)v->c->logits[0]) / v->temperature;
}

/* Cuts *m to the smallest prefix whose mass reaches top_p * total, total as a multiple of the best
 * candidate's weight. False, and *m stays, when all of them do not reach it. */
static bool reach_mass(const struct view *v, uint32_t *m, double top_p, double total)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < *m; i++) {
        sum += gm_exp(scaled(v, i));
        if (sum >= top_p * total) {
            *m = i + 1;
            return true;
        }
    }
    return false;
}

static double mass(const struct view *v, uint32_t upto)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < upto; i++)
        sum += gm_exp(scaled(v, i));
    return sum;
}

/* What the filters keep: the first `m` candidates, and maybe (open) tokens after the list. */
struct kept {
    uint32_t m;
    bool open;
    uint32_t need; /* > 0: not even this can be said without so many candidates */
};

static enum gm_status filter(const struct view *v, const struct gm_sampling *p, struct kept *k,
                             struct gm_err *err)
{
    const struct gm_cands *c = v->c;
    const bool top_k = p->top_k > 0;
    const bool short_list = !v->all && (!top_k || (uint32_t)p->top_k > v->live);
    *k = (struct kept){ .m = v->live, .open = short_list };
    if (top_k && (uint32_t)p->top_k < k->m)
        k->m = (uint32_t)p->top_k;
    if (p->top_p < 1.0f && top_k) {
        if (short_list) { /* the mass that top-k left is not known yet */
            k->need = (uint32_t)p->top_k < c->n_vocab ? (uint32_t)p->top_k : c->n_vocab;
            return GM_OK;
        }
        reach_mass(v, &k->m, (double)p->top_p, mass(v, k->m));
    } else if (p->top_p < 1.0f) {
        if (!isfinite(c->lse_temp))
            return gm_fail(err, GM_INTERNAL,
                           "top_p needs the log-sum-exp at the temperature, which is %g; "
                           "check the last shard",
                           c->lse_temp);
        const double best = (double)c->logits[0] / v->temperature;
        if (reach_mass(v, &k->m, (double)p->top_p, gm_exp(c->lse_temp - best)))
            k->open = false;
    }
    for (uint32_t i = 1; p->min_p > 0.0f && i < k->m; i++)
        if (gm_exp(scaled(v, i)) < (double)p->min_p) {
            k->m = i;
            k->open = false;
        }
    return GM_OK;
}

/* The largest Gumbel noise of any token that is not in the list: noise does not depend on logits,
 * so what is not listed can be bounded without being seen. */
static double unlisted_noise(const struct gm_cands *c, const struct gm_sampling *p)
{
    static _Thread_local uint8_t listed[GM_SAMPLER_VOCAB_MAX / 8];
    double u = 0.0;
    memset(listed, 0, c->n_vocab / 8 + 1 < sizeof listed ? c->n_vocab / 8 + 1 : sizeof listed);
    for (uint32_t i = 0; i < c->n; i++)
        listed[c->ids[i] / 8] |= (uint8_t)(1u << (c->ids[i] % 8));
    for (uint32_t id = 0; id < c->n_vocab; id++) {
        const double x = listed[id / 8] & (1u << (id % 8))
                             ? 0.0
                             : gm_noise_uniform(p->seed, c->position, (int32_t)id);
        u = x > u ? x : u; /* the noise rises with u */
    }
    return u > 0.0 ? -gm_log(-gm_log(u)) : -INFINITY;
}

/* Gumbel-max over the first m candidates. *proven: no token after the list can win. */
static uint32_t gumbel_max(const struct view *v, uint32_t m, const struct gm_sampling *p,
                           bool *proven)
{
    const struct gm_cands *c = v->c;
    uint32_t best = 0;
    double top = -INFINITY;
    *proven = false;
    for (uint32_t i = 0; i < m; i++) {
        const double s = scaled(v, i);
        if (s + GM_GUMBEL_MAX < top) { /* nor can any that follows */
            *proven = true;
            return best;
        }
        const double score = s + gm_noise_gumbel(p->seed, c->position, c->ids[i]);
        if (score > top || (score == top && c->ids[i] < c->ids[best])) {
            top = score;
            best = i;
        }
    }
    *proven = top >= scaled(v, m - 1) + GM_GUMBEL_MAX;
    return best;
}

enum gm_status gm_pick(const struct gm_cands *c, const struct gm_sampling *p, struct gm_pick *out,
                       struct gm_err *err)
{
    *out = (struct gm_pick){ 0, 0, -1 };
    enum gm_status rc = gm_cands_check(c, err);
    if (rc != GM_OK)
        return rc;
    if (!(p->temperature > 0.0f)) {
        out->id = c->ids[0];
        return GM_OK;
    }
    struct view v = { c, (double)p->temperature, c->n, c->n == c->n_vocab };
    while (isinf(c->logits[v.live - 1])) { /* the first is finite, so this ends */
        v.live--;
        v.all = true;
    }
    struct kept k;
    rc = filter(&v, p, &k, err);
    if (rc != GM_OK)
        return rc;
    out->need = k.need;
    if (k.need > 0)
        return GM_OK;
    bool proven;
    const uint32_t best = gumbel_max(&v, k.m, p, &proven);
    if (k.open && !proven)
        proven = scaled(&v, best) + gm_noise_gumbel(p->seed, c->position, c->ids[best]) >
                 scaled(&v, k.m - 1) + unlisted_noise(c, p);
    if (k.open && !proven) {
        const uint64_t more = (uint64_t)c->n * GM_CANDS_GROW;
        out->need = more < c->n_vocab ? (uint32_t)more : c->n_vocab;
        return GM_OK;
    }
    out->index = best;
    out->id = c->ids[best];
    return GM_OK;
}
