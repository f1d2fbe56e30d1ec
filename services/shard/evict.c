/* evict.c - who loses pages when they run out.
 *
 * Owns:      the rules: the least recently used kept session goes first; then the youngest running
 *            turn; no turn begins without room for the next rows of those that run.
 * Does not:  admit or end turns by itself (admit.c), or move rows (common/model/kv.c).
 *
 * The oldest turn is never pushed out, so it comes to its end whatever happens to the others; and
 * the order is that of the turns, not of their attempts, so two cannot push each other out in turn.
 */
#include "services/shard/shard.h"

bool gm_shard_evict(struct gm_shard *s, const struct gm_session *a, const struct gm_session *b)
{
    struct gm_session *oldest = NULL;
    for (size_t i = 0; i < s->sessions.map.n; i++) {
        struct gm_session *c = s->sessions.map.entries[i].value;
        if (!c->running && c != a && c != b && (!oldest || c->touched_us < oldest->touched_us))
            oldest = c;
    }
    gm_session_free(s, oldest);
    return oldest != NULL;
}

enum gm_status gm_shard_pages(struct gm_shard *s, struct gm_session *session, int32_t positions,
                              const struct gm_session *other, struct gm_err *err)
{
    struct gm_kv *kv = gm_slice_kv(s->slice);
    enum gm_status rc = gm_kv_reserve(kv, session->seq, positions, err);
    while (rc == GM_EXHAUSTED && gm_shard_evict(s, session, other))
        rc = gm_kv_reserve(kv, session->seq, positions, err);
    return rc;
}

/* Where a running turn's reservation ends when it has grown for rows up to `need`. */
static int32_t grown(const struct gm_ticket *t, int32_t need)
{
    const int32_t left = t->positions - need;
    return need + (left < GM_GROW_POSITIONS ? left : GM_GROW_POSITIONS);
}

bool gm_shard_room(const struct gm_shard *s, int32_t positions)
{
    const struct gm_kv *kv = gm_slice_kv(s->slice);
    const struct gm_kv_pages pool = gm_kv_pool(kv), want = gm_kv_wanted(kv, NULL, positions);
    int64_t global = want.global, local = want.local;
    for (size_t i = 0; i < s->tickets.n; i++) {
        const struct gm_ticket *t = s->tickets.entries[i].value;
        const struct gm_kv_seq *seq = t->session->seq;
        const struct gm_kv_pages held = gm_kv_held(seq),
                                 next = gm_kv_wanted(kv, seq, grown(t, gm_kv_reserved(seq)));
        global += (int64_t)held.global + next.global;
        local += (int64_t)held.local + next.local;
    }
    return global <= pool.global && local <= pool.local;
}

static struct gm_ticket *youngest(const struct gm_shard *s)
{
    struct gm_ticket *found = NULL;
    for (size_t i = 0; i < s->tickets.n; i++) {
        struct gm_ticket *t = s->tickets.entries[i].value;
        if (!found || t->order > found->order || (t->order == found->order && t->id > found->id))
            found = t;
    }
    return found;
}

static void push_out(struct gm_shard *s, struct gm_ticket *t)
{
    struct gm_err err = GM_ERR_NONE;
    gm_fail(&err, GM_EXHAUSTED, "an older turn needs the pages of this one");
    s->out.fault(s->out.ctx, t, &err);
    gm_shard_release(s, t->id, true);
}

bool gm_shard_grow(struct gm_shard *s, struct gm_ticket *t, int32_t need)
{
    const struct gm_kv_seq *seq = t->session->seq;
    struct gm_err err = GM_ERR_NONE;
    while (need > gm_kv_reserved(seq)) {
        if (gm_shard_pages(s, t->session, grown(t, need), NULL, &err) == GM_OK ||
            gm_shard_pages(s, t->session, need, NULL, &err) == GM_OK)
            return true;
        struct gm_ticket *out = youngest(s);
        push_out(s, out);
        if (out == t)
            return false;
    }
    return true;
}
