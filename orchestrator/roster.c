/* roster.c - who is there: what HELLO said of each process, and whether the ring is whole.
 *
 * Owns:      struct gm_roster; noticing that a process was restarted (another boot), and the proof
 * of it: anyone may send HELLO, but only the process itself answers on its socket. Does not:  start
 * or stop processes (the supervisor does).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "orchestrator/orch.h"

static struct gm_member *member_of(struct gm_roster *r, const Gm__Hello *h)
{
    if (strcmp(h->role, "sampler") == 0)
        return &r->sampler;
    if (strcmp(h->role, "tokenizer") == 0)
        return &r->tokenizer;
    if (strcmp(h->role, "shard") == 0 && h->index < (uint32_t)r->shards)
        return &r->shard[h->index];
    return NULL;
}

static void ids_copy(int32_t *to, size_t *n, const int32_t *from, size_t have)
{
    *n = have < GM_VOCAB_IDS ? have : GM_VOCAB_IDS;
    if (*n > 0)
        memcpy(to, from, *n * sizeof *to);
}

static void on_vocab(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct gm_orch *o = ctx;
    struct gm_roster *r = &o->roster;
    const Gm__VocabReply *in = (const Gm__VocabReply *)body;
    (void)done;
    r->vocab_asked = false;
    if (err->status != GM_OK) {
        gm_log_err(GM_LOG_WARN, "the tokenizer's vocabulary", err);
        return;
    }
    snprintf(r->vocab_path, sizeof r->vocab_path, "%s", in->path);
    ids_copy(r->end_ids, &r->n_end, in->end_ids, in->n_end_ids);
    ids_copy(r->close_ids, &r->n_close, in->close_ids, in->n_close_ids);
    ids_copy(r->banned, &r->n_banned, in->banned, in->n_banned);
    r->vocab_known = true;
}

static void ask_vocab(struct gm_orch *o)
{
    const Gm__Empty request = GM__EMPTY__INIT;
    struct gm_roster *r = &o->roster;
    if (r->vocab_known || r->vocab_asked || !r->tokenizer.ready)
        return;
    r->vocab_asked =
        gm_rpc_call(o->base.rpc,
                    &(struct gm_call){ r->tokenizer.peer, "Tokenizer.Vocab", &request.base,
                                       &gm__vocab_reply__descriptor, GM_CALL_MS, 0, on_vocab, o },
                    NULL) > 0;
}

/* Every turn that uses the ring lost its attempt when one of its processes came back as another. */
static void member_restarted(struct gm_orch *o, const struct gm_member *m, const Gm__Hello *h)
{
    struct gm_err why = GM_ERR_NONE;
    gm_fail(&why, GM_UNAVAILABLE, "%s %u was restarted", h->role, h->index);
    gm_log(GM_LOG_WARN, "%s", why.text);
    for (size_t i = o->turns.map.n; i-- > 0;) {
        if (i < o->turns.map.n)
            gm_ring_died(o->turns.map.entries[i].value, m, &why);
    }
}

/* What a HELLO says is believed. */
static void take_hello(struct gm_orch *o, struct gm_member *m, const Gm__Hello *h)
{
    if (m->boot == 0 && m != &o->roster.tokenizer)
        gm_ring_forget_lives(o, m, m == &o->roster.sampler);
    const bool restarted = m->boot != 0 && m->boot != h->boot;
    m->boot = h->boot;
    m->heard_ms = gm_now_ms();
    m->ready = h->has_ready && h->ready;
    m->begin = h->has_begin ? h->begin : 0;
    m->end = h->has_end ? h->end : 0;
    snprintf(m->numerics, sizeof m->numerics, "%s", h->numerics ? h->numerics : "");
    snprintf(m->failed, sizeof m->failed, "%s", h->failed ? h->failed : "");
    if (h->has_vocab)
        o->roster.vocab = h->vocab;
    if (restarted && m == &o->roster.tokenizer)
        gm_encode_died(o);
    else if (restarted)
        member_restarted(o, m, h);
    ask_vocab(o);
}

/* The supervisor's word about a process that keeps dying: there is none to ask, so it is believed
 * only of one that has missed a HELLO itself. The process takes it back with its next one. */
static void failed_word(struct gm_orch *o, struct gm_member *m, const Gm__Hello *h)
{
    if (gm_now_ms() - m->heard_ms < 2 * GM_HELLO_MS)
        return; /* it is said again each second */
    if (m->ready)
        member_restarted(o, m, h);
    m->ready = false;
    snprintf(m->failed, sizeof m->failed, "%s", h->failed ? h->failed : "");
}

/* A HELLO with another boot, until the process has said over our connection which one is its own.
 */
struct doubt {
    struct gm_orch *orch;
    struct gm_member *member;
    Gm__Hello *hello; /* owned */
};

static void on_boot(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    static struct gm_log_limit doubts = { .burst = 10, .per_ms = 10000 };
    struct doubt *d = ctx;
    const Gm__HealthReply *in = (const Gm__HealthReply *)body;
    (void)done;
    d->member->asked = false;
    if (err->status == GM_OK) { /* else the next HELLO leads to another question */
        d->member->proof = in->boot;
        if (in->boot == d->hello->boot)
            take_hello(d->orch, d->member, d->hello);
        else if (gm_log_pass(&doubts, NULL))
            gm_log(GM_LOG_WARN, "%.32s %u did not say that it was restarted: somebody else did",
                   d->hello->role, d->hello->index);
    }
    gm__hello__free_unpacked(d->hello, NULL);
    free(d);
}

/* Takes *h in any case. */
static void ask_boot(struct gm_orch *o, struct gm_member *m, Gm__Hello *h)
{
    const Gm__Empty request = GM__EMPTY__INIT;
    struct doubt *d = m->asked ? NULL : malloc(sizeof *d);
    if (d) {
        *d = (struct doubt){ o, m, h };
        m->asked = gm_rpc_call(o->base.rpc,
                               &(struct gm_call){ m->peer, "Health.Check", &request.base,
                                                  &gm__health_reply__descriptor, GM_HELLO_MS, 0,
                                                  on_boot, d },
                               NULL) > 0;
    }
    if (!d || !m->asked) {
        gm__hello__free_unpacked(h, NULL);
        free(d);
    }
}

void gm_roster_hello(struct gm_orch *o, Gm__Hello *h)
{
    struct gm_member *m = member_of(&o->roster, h);
    struct gm_err err = GM_ERR_NONE;
    if (m && !m->peer) {
        if (gm_service_endpoint(&o->base, m->endpoint, h->role, h->index, &err) == GM_OK)
            m->peer = gm_bus_peer(o->base.bus, m->endpoint, &err);
        if (!m->peer)
            gm_log_err(GM_LOG_ERROR, "no way to a process of the ring", &err);
    }
    if (m && h->boot == 0) {
        failed_word(o, m, h);
        gm__hello__free_unpacked(h, NULL);
        return;
    }
    if (m && m->peer && m->boot != 0 && m->boot != h->boot && m->proof != h->boot) {
        ask_boot(o, m, h);
        return;
    }
    if (m && m->peer)
        take_hello(o, m, h);
    gm__hello__free_unpacked(h, NULL);
}

const char *gm_roster_numerics(const struct gm_orch *o)
{
    return o->roster.shard[0].numerics;
}

/* ---- versions of the protocol ------------------------------------------------------------------
 */

void gm_roster_speaks(struct gm_orch *o, const Gm__Hello *h, struct gm_versions versions)
{
    struct gm_member *m = member_of(&o->roster, h);
    if (m)
        m->versions = versions;
}

/* The n-th process of the ring and its name; NULL: there are no more. 0 is this one. */
static const struct gm_versions *nth(const struct gm_orch *o, int n, char name[GM_SENDER_MAX],
                                     struct gm_versions *own)
{
    const struct gm_roster *r = &o->roster;
    *own = gm_bus_versions(o->base.bus);
    snprintf(name, GM_SENDER_MAX, "%s",
             n == 0   ? gm_bus_name(o->base.bus)
             : n == 1 ? "tokenizer-0"
                      : "sampler-0");
    if (n > 2)
        snprintf(name, GM_SENDER_MAX, "shard-%d", n - 3);
    return n == 0              ? own
           : n == 1            ? &r->tokenizer.versions
           : n == 2            ? &r->sampler.versions
           : n < r->shards + 3 ? &r->shard[n - 3].versions
                               : NULL;
}

/* Two processes of the ring without a common version: a sentence; NULL: there are none. Shards talk
 * to each other and to the sampler, so it is not enough that each can talk to us. */
static const char *disagreement(struct gm_orch *o)
{
    struct gm_versions own_a, own_b;
    const struct gm_versions *a, *b;
    char name_a[GM_SENDER_MAX], name_b[GM_SENDER_MAX];
    for (int i = 1; (a = nth(o, i, name_a, &own_a)); i++) {
        for (int k = 0; a->max > 0 && k < i; k++) {
            b = nth(o, k, name_b, &own_b);
            if (b->max == 0 || gm_versions_common(*a, *b) > 0)
                continue;
            gm_versions_refuse(&o->roster.disagree, name_a, *a, name_b, *b);
            return o->roster.disagree.text;
        }
    }
    return NULL;
}

static const char *one_missing(struct gm_roster *r, const struct gm_member *m, const char *what,
                               bool *failed)
{
    if (m->failed[0]) {
        *failed = true;
        return m->failed;
    }
    if (m->ready)
        return NULL;
    snprintf(r->waiting_for, sizeof r->waiting_for, "%s", what);
    return r->waiting_for;
}

const char *gm_roster_silent(struct gm_orch *o)
{
    struct gm_roster *r = &o->roster;
    const int64_t since = gm_now_ms() - GM_SILENT_MS;
    if (r->sampler.heard_ms < since)
        return "sampler, which is silent";
    for (int i = 0; i < r->shards; i++) {
        if (r->shard[i].heard_ms >= since)
            continue;
        snprintf(r->waiting_for, sizeof r->waiting_for, "shard %d, which is silent", i);
        return r->waiting_for;
    }
    return NULL;
}

void gm_roster_forgive(struct gm_orch *o, int64_t gap)
{
    o->roster.sampler.heard_ms += gap;
    for (int i = 0; i < o->roster.shards; i++)
        o->roster.shard[i].heard_ms += gap;
}

const char *gm_roster_missing(struct gm_orch *o, bool *failed)
{
    struct gm_roster *r = &o->roster;
    const char *what;
    char name[32];
    if ((*failed = (what = disagreement(o)) != NULL))
        return what;
    if ((what = one_missing(r, &r->tokenizer, "tokenizer", failed)) ||
        (what = one_missing(r, &r->sampler, "sampler", failed)))
        return what;
    for (int i = 0; i < r->shards; i++) {
        snprintf(name, sizeof name, "shard %d", i);
        if ((what = one_missing(r, &r->shard[i], name, failed)))
            return what;
    }
    for (int i = 0; i < r->shards; i++) {
        const struct gm_member *m = &r->shard[i];
        if (m->begin != (i ? r->shard[i - 1].end : 0))
            return "shards whose layers join";
        if (strcmp(m->numerics, r->shard[0].numerics) != 0)
            return "shards with the same kernels, weights and adapter";
    }
    if (!r->vocab_known) {
        ask_vocab(o);
        return "the vocabulary";
    }
    return NULL;
}
