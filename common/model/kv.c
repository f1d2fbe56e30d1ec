/* kv.c - the paged key/value cache: slabs, page tables, token ids, rewinding, copying.
 *
 * Owns:      everything behind kv.h.
 * Does not:  choose who is evicted or touch what is stored in a page.
 *
 * Pages of global layers: a sequence has pages 0 .. n - 1, those it reserved ahead included.
 * Pages of local layers: the table shows the live ones, which cover positions
 * [keep_from, length); what was reserved ahead or fell out of the window waits in `spare` and is
 * used again by the same sequence. At most `local_cap` pages can be live at once: that many cover
 * window + GM_KV_SLACK positions at any alignment. One call of gm_kv_extend opens at most
 * GM_KV_SLACK positions, so its first row still finds its whole window.
 */
#include "common/model/kv.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { GROW_MIN = 4 }; /* smallest page table */

#define SLAB_BYTES_MAX ((uint64_t)1 << 46) /* address space of one slab */

/* One slab of equal pages. A class without layers has no pages and asks for none. */
struct slab {
    int32_t layers;
    size_t layer_bytes; /* keys and values of one layer in one page */
    size_t page_bytes;
    uint8_t *base;
    int32_t pages;
    int32_t *free; /* [pages] stack of page numbers */
    int32_t n_free;
    uint8_t *mark; /* [pages] for gm_kv_check */
};

struct gm_kv {
    struct slab global, local;
    enum gm_kv_type type;
    int32_t kv_heads, head_dim;
    int32_t window;
    int32_t local_cap;
    int32_t begin, end;
    bool is_local[GM_LAYERS_MAX];
    int32_t index[GM_LAYERS_MAX]; /* of the layer within its class */
    struct gm_kv_seq *seqs[GM_SEQS_MAX];
    int32_t n_seqs;
};

struct gm_kv_seq {
    int32_t slot; /* in gm_kv.seqs */
    int32_t len;
    int32_t *ids;     /* [cap * GM_PAGE] */
    uint8_t **global; /* [cap]; n_global are taken */
    uint8_t **local;  /* [cap]; pages [local_first, local_end) are live, the rest NULL */
    uint8_t **spare;  /* [local_cap] */
    int32_t cap;      /* pages the tables have room for */
    int32_t reserved; /* positions that may be opened */
    int32_t n_global;
    int32_t local_first, local_end;
    int32_t n_spare;
};

static int32_t pages_for(int32_t positions)
{
    return positions / GM_PAGE + (positions % GM_PAGE != 0);
}

static int32_t least(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* ---- slabs ------------------------------------------------------------------------------------
 */

static enum gm_status slab_open(struct slab *s, int32_t layers, size_t vec_bytes, int32_t kv_heads,
                                int32_t pages, struct gm_err *err)
{
    s->layers = layers;
    s->layer_bytes = 2 * vec_bytes * (size_t)kv_heads * GM_PAGE;
    s->page_bytes = s->layer_bytes * (size_t)layers;
    if (layers == 0)
        return GM_OK;
    if ((uint64_t)pages > SLAB_BYTES_MAX / s->page_bytes)
        return gm_fail(err, GM_EXHAUSTED,
                       "a cache of %d pages of %zu bytes is too large: lower the tokens it keeps",
                       pages, s->page_bytes);
    size_t bytes = s->page_bytes * (size_t)pages;
    s->free = malloc((size_t)pages * sizeof *s->free);
    s->mark = malloc((size_t)pages);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base != MAP_FAILED)
        s->base = base;
    if (base == MAP_FAILED || !s->free || !s->mark)
        return gm_fail(err, GM_EXHAUSTED,
                       "the system refuses %zu bytes for the key/value cache (%s): lower the "
                       "tokens it keeps",
                       bytes, strerror(errno));
    s->pages = pages;
    for (int32_t i = 0; i < pages; i++)
        s->free[i] = pages - 1 - i;
    s->n_free = pages;
    return GM_OK;
}

static void slab_close(struct slab *s, int32_t pages_asked)
{
    if (s->base)
        (void)munmap(s->base, s->page_bytes * (size_t)pages_asked);
    free(s->free);
    free(s->mark);
}

static uint8_t *page_take(struct slab *s)
{
    return s->base + s->page_bytes * (size_t)s->free[--s->n_free];
}

static void page_give(struct slab *s, const uint8_t *page)
{
    s->free[s->n_free++] = (int32_t)((size_t)(page - s->base) / s->page_bytes);
}

enum gm_status gm_kv_new(struct gm_kv **out, const struct gm_config *cfg, int32_t begin,
                         int32_t end, int64_t tokens, enum gm_kv_type type, struct gm_err *err)
{
    *out = NULL;
    if (begin < 0 || begin >= end || end > cfg->layers || cfg->layers > GM_LAYERS_MAX)
        return gm_fail(err, GM_INVALID, "layers %d to %d are not in a model of %d", begin, end,
                       cfg->layers);
    if (tokens < 1 || tokens > INT32_MAX - GM_PAGE)
        return gm_fail(err, GM_INVALID, "the cache keeps 1 to %d tokens, not %lld",
                       INT32_MAX - GM_PAGE, (long long)tokens);
    if (cfg->kv_heads < 1 || cfg->kv_heads > GM_HEADS_MAX || cfg->head_dim < GM_QK ||
        cfg->head_dim > GM_HEAD_DIM_MAX || cfg->head_dim % GM_QK != 0 || cfg->window < 0)
        return gm_fail(err, GM_INVALID,
                       "the cache takes heads of 32, 64 .. %d values, at most %d of them",
                       GM_HEAD_DIM_MAX, GM_HEADS_MAX);
    struct gm_kv *kv = calloc(1, sizeof *kv);
    if (!kv)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the key/value cache's tables");
    kv->type = type;
    kv->kv_heads = cfg->kv_heads;
    kv->head_dim = cfg->head_dim;
    kv->window = cfg->window;
    kv->begin = begin;
    kv->end = end;
    int32_t count[2] = { 0, 0 };
    for (int32_t i = begin; i < end; i++) {
        kv->is_local[i] = cfg->local[i] && cfg->window > 0;
        kv->index[i] = count[kv->is_local[i]]++;
    }
    const int64_t keep = (int64_t)cfg->window + GM_KV_SLACK;
    const int32_t pages = (int32_t)((tokens + GM_PAGE - 1) / GM_PAGE);
    const int64_t cap = (keep + GM_PAGE - 1) / GM_PAGE + 1;
    kv->local_cap = cap < pages ? (int32_t)cap : pages;
    const size_t vec = gm_kv_vec_bytes(type, cfg->head_dim);
    enum gm_status status = slab_open(&kv->global, count[0], vec, cfg->kv_heads, pages, err);
    if (status == GM_OK)
        status = slab_open(&kv->local, count[1], vec, cfg->kv_heads, pages, err);
    if (status != GM_OK) {
        slab_close(&kv->global, pages);
        slab_close(&kv->local, pages);
        free(kv);
        return status;
    }
    *out = kv;
    return GM_OK;
}

void gm_kv_free(struct gm_kv **kv)
{
    struct gm_kv *k = *kv;
    if (!k)
        return;
    for (int32_t i = 0; i < GM_SEQS_MAX; i++) {
        struct gm_kv_seq *seq = k->seqs[i];
        gm_kv_seq_free(k, &seq);
    }
    slab_close(&k->global, k->global.pages);
    slab_close(&k->local, k->local.pages);
    free(k);
    *kv = NULL;
}

uint64_t gm_kv_bytes(const struct gm_kv *kv)
{
    return (uint64_t)kv->global.pages * kv->global.page_bytes +
           (uint64_t)kv->local.pages * kv->local.page_bytes;
}

/* ---- sequences --------------------------------------------------------------------------------
 */

struct gm_kv_seq *gm_kv_seq_new(struct gm_kv *kv)
{
    if (kv->n_seqs == GM_SEQS_MAX)
        return NULL;
    struct gm_kv_seq *seq = calloc(1, sizeof *seq);
    uint8_t **spare = calloc((size_t)kv->local_cap, sizeof *spare);
    if (!seq || !spare) {
        free(seq);
        free(spare);
        return NULL;
    }
    seq->spare = spare;
    while (kv->seqs[seq->slot])
        seq->slot++;
    kv->seqs[seq->slot] = seq;
    kv->n_seqs++;
    return seq;
}

void gm_kv_seq_free(struct gm_kv *kv, struct gm_kv_seq **seq)
{
    struct gm_kv_seq *s = *seq;
    if (!s)
        return;
    (void)gm_kv_rewind(kv, s, 0, NULL);
    gm_kv_trim(kv, s);
    kv->seqs[s->slot] = NULL;
    kv->n_seqs--;
    free(s->ids);
    free(s->global);
    free(s->local);
    free(s->spare);
    free(s);
    *seq = NULL;
}

/* Room for `pages` pages in the sequence's tables. */
static enum gm_status seq_grow(struct gm_kv_seq *seq, int32_t pages, struct gm_err *err)
{
    if (pages <= seq->cap)
        return GM_OK;
    size_t cap = (size_t)seq->cap * 2 > GROW_MIN ? (size_t)seq->cap * 2 : GROW_MIN;
    cap = cap > (size_t)pages ? cap : (size_t)pages;
    int32_t *ids = realloc(seq->ids, cap * GM_PAGE * sizeof *ids);
    seq->ids = ids ? ids : seq->ids;
    uint8_t **global = realloc(seq->global, cap * sizeof *global);
    seq->global = global ? global : seq->global;
    uint8_t **local = realloc(seq->local, cap * sizeof *local);
    seq->local = local ? local : seq->local;
    if (!ids || !global || !local)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the tables of a sequence of %d pages",
                       pages);
    memset(local + seq->cap, 0, (cap - (size_t)seq->cap) * sizeof *local);
    memset(global + seq->cap, 0, (cap - (size_t)seq->cap) * sizeof *global);
    seq->cap = (int32_t)cap;
    return GM_OK;
}

static int32_t local_taken(const struct gm_kv_seq *seq)
{
    return seq->local_end - seq->local_first + seq->n_spare;
}

int32_t gm_kv_positions_max(const struct gm_kv *kv)
{
    const int64_t pages = kv->global.layers ? kv->global.pages : kv->local.pages;
    return pages * GM_PAGE < INT32_MAX - GM_PAGE ? (int32_t)pages * GM_PAGE : INT32_MAX - GM_PAGE;
}

struct gm_kv_pages gm_kv_pool(const struct gm_kv *kv)
{
    return (struct gm_kv_pages){ kv->global.pages, kv->local.pages };
}

struct gm_kv_pages gm_kv_held(const struct gm_kv_seq *seq)
{
    return (struct gm_kv_pages){ seq->n_global, local_taken(seq) };
}

struct gm_kv_pages gm_kv_wanted(const struct gm_kv *kv, const struct gm_kv_seq *seq,
                                int32_t positions)
{
    const struct gm_kv_pages none = { 0, 0 }, held = seq ? gm_kv_held(seq) : none;
    const int32_t pages = pages_for(positions);
    const int32_t global = kv->global.layers ? pages - held.global : 0;
    const int32_t local = kv->local.layers ? least(pages, kv->local_cap) - held.local : 0;
    return (struct gm_kv_pages){ global > 0 ? global : 0, local > 0 ? local : 0 };
}

enum gm_status gm_kv_reserve(struct gm_kv *kv, struct gm_kv_seq *seq, int32_t positions,
                             struct gm_err *err)
{
    if (positions < 0 || positions > INT32_MAX - GM_PAGE)
        return gm_fail(err, GM_INVALID, "a sequence cannot have %d positions", positions);
    struct gm_kv_pages want = gm_kv_wanted(kv, seq, positions);
    if (want.global > kv->global.n_free || want.local > kv->local.n_free ||
        positions > gm_kv_positions_max(kv))
        return gm_fail(err, GM_EXHAUSTED,
                       "the sequence needs %d more pages of global and %d of local layers, %d and "
                       "%d are free: end other sequences or raise the tokens the cache keeps",
                       want.global, want.local, kv->global.n_free, kv->local.n_free);
    enum gm_status status = seq_grow(seq, pages_for(positions), err);
    if (status != GM_OK)
        return status;
    while (want.global-- > 0)
        seq->global[seq->n_global++] = page_take(&kv->global);
    while (want.local-- > 0)
        seq->spare[seq->n_spare++] = page_take(&kv->local);
    seq->reserved = positions > seq->reserved ? positions : seq->reserved;
    return GM_OK;
}

void gm_kv_trim(struct gm_kv *kv, struct gm_kv_seq *seq)
{
    const int32_t pages = pages_for(seq->len);
    while (seq->n_global > pages) {
        page_give(&kv->global, seq->global[--seq->n_global]);
        seq->global[seq->n_global] = NULL;
    }
    while (seq->n_spare > 0)
        page_give(&kv->local, seq->spare[--seq->n_spare]);
    seq->reserved = seq->len;
}

int32_t gm_kv_reserved(const struct gm_kv_seq *seq)
{
    return seq->reserved;
}

int32_t gm_kv_len(const struct gm_kv_seq *seq)
{
    return seq->len;
}

const int32_t *gm_kv_ids(const struct gm_kv_seq *seq)
{
    return seq->ids;
}

int32_t gm_kv_common(const struct gm_kv_seq *seq, const int32_t *ids, int32_t n)
{
    const int32_t most = least(seq->len, n);
    int32_t i = 0;
    while (i < most && seq->ids[i] == ids[i])
        i++;
    return i;
}

/* ---- rewinding and growing --------------------------------------------------------------------
 */

/* The next position L of a local layer looks at [L - window + 1, L); all of them must be live. */
int32_t gm_kv_rewind_min(const struct gm_kv *kv, const struct gm_kv_seq *seq)
{
    if (kv->local.layers == 0 || seq->local_first == 0)
        return 0;
    return seq->local_first * GM_PAGE + kv->window - 1;
}

enum gm_status gm_kv_rewind(struct gm_kv *kv, struct gm_kv_seq *seq, int32_t len,
                            struct gm_err *err)
{
    if (len < 0 || len > seq->len || (len > 0 && len < gm_kv_rewind_min(kv, seq)))
        return gm_fail(err, GM_RANGE,
                       "the sequence of %d positions can go back to 0 or to %d at the least, not "
                       "to %d",
                       seq->len, gm_kv_rewind_min(kv, seq), len);
    const int32_t pages = len == 0 ? seq->local_first : pages_for(len);
    while (seq->local_end > pages) {
        uint8_t **page = &seq->local[--seq->local_end];
        seq->spare[seq->n_spare++] = *page;
        *page = NULL;
    }
    if (len == 0) {
        /* From position 0 on more pages may be live than a trimmed sequence has. */
        seq->local_first = seq->local_end = 0;
        if (kv->local.layers && seq->n_spare < least(pages_for(seq->reserved), kv->local_cap))
            seq->reserved = seq->n_spare * GM_PAGE;
    }
    seq->len = len;
    return GM_OK;
}

/* The first local page that a sequence of `len` positions keeps. */
static int32_t local_first_of(const struct gm_kv *kv, int32_t len)
{
    const int32_t from = len - kv->window - GM_KV_SLACK;
    return from > 0 ? from / GM_PAGE : 0;
}

/* Moves the live range of local pages so that it covers a sequence of `len` positions. */
static void local_advance(const struct gm_kv *kv, struct gm_kv_seq *seq, int32_t len)
{
    const int32_t first = local_first_of(kv, len);
    for (; seq->local_first < first && seq->local_first < seq->local_end; seq->local_first++) {
        seq->spare[seq->n_spare++] = seq->local[seq->local_first];
        seq->local[seq->local_first] = NULL;
    }
    for (const int32_t end = pages_for(len); seq->local_end < end; seq->local_end++)
        seq->local[seq->local_end] = seq->spare[--seq->n_spare];
}

enum gm_status gm_kv_extend(struct gm_kv *kv, struct gm_kv_seq *seq, const int32_t *ids, int32_t n,
                            struct gm_err *err)
{
    if (n < 0 || n > GM_KV_SLACK)
        return gm_fail(err, GM_INVALID, "one call opens 0 to %d positions, not %d", GM_KV_SLACK, n);
    if (n > seq->reserved - seq->len)
        return gm_fail(err, GM_EXHAUSTED,
                       "%d positions are wanted but pages of only %d are reserved: reserve first",
                       n, seq->reserved - seq->len);
    if (n == 0)
        return GM_OK;
    const int32_t len = seq->len + n;
    if (kv->local.layers)
        local_advance(kv, seq, len);
    memcpy(seq->ids + seq->len, ids, (size_t)n * sizeof *ids);
    seq->len = len;
    return GM_OK;
}

/* The pages stay where they are reserved; only what is in them moves. The last page is copied
 * whole: what stands behind position n is overwritten before it is looked at. */
enum gm_status gm_kv_fork(struct gm_kv *kv, struct gm_kv_seq *to, const struct gm_kv_seq *from,
                          int32_t n, struct gm_err *err)
{
    if (n < 0 || n > from->len || (n > 0 && n < gm_kv_rewind_min(kv, from)))
        return gm_fail(err, GM_RANGE, "a sequence of %d positions gives %d to %d of them, not %d",
                       from->len, gm_kv_rewind_min(kv, from), from->len, n);
    if (to == from || to->len != 0 || to->reserved < n)
        return gm_fail(err, GM_INVALID,
                       "%d positions go into an empty sequence that reserved them; this one has %d "
                       "and reserved %d",
                       n, to->len, to->reserved);
    if (n == 0)
        return GM_OK;
    const int32_t pages = pages_for(n);
    for (int32_t i = 0; kv->global.layers && i < pages; i++)
        memcpy(to->global[i], from->global[i], kv->global.page_bytes);
    if (kv->local.layers) {
        to->local_first = to->local_end = local_first_of(kv, n);
        if (to->local_first < from->local_first)
            to->local_first = to->local_end = from->local_first;
        for (; to->local_end < pages; to->local_end++) {
            to->local[to->local_end] = to->spare[--to->n_spare];
            memcpy(to->local[to->local_end], from->local[to->local_end], kv->local.page_bytes);
        }
    }
    memcpy(to->ids, from->ids, (size_t)n * sizeof *to->ids);
    to->len = n;
    return GM_OK;
}

void gm_kv_view(const struct gm_kv *kv, const struct gm_kv_seq *seq, int32_t layer,
                struct gm_kv_view *view)
{
    const bool is_local = kv->is_local[layer];
    const struct slab *s = is_local ? &kv->local : &kv->global;
    view->pages = is_local ? seq->local : seq->global;
    view->k_off = (size_t)kv->index[layer] * s->layer_bytes;
    view->v_off = view->k_off + s->layer_bytes / 2;
    view->type = kv->type;
    view->kv_heads = kv->kv_heads;
    view->head_dim = kv->head_dim;
}

/* ---- counts and the invariant -----------------------------------------------------------------
 */

void gm_kv_usage(const struct gm_kv *kv, struct gm_kv_use *use)
{
    const struct slab *g = &kv->global, *l = &kv->local;
    use->pages_total = (int64_t)g->pages + l->pages;
    use->pages_free = (int64_t)g->n_free + l->n_free;
    use->bytes_total = (int64_t)gm_kv_bytes(kv);
    use->bytes_used = (int64_t)((uint64_t)(g->pages - g->n_free) * g->page_bytes +
                                (uint64_t)(l->pages - l->n_free) * l->page_bytes);
}

/* Marks one page as seen; false if it is no page or was seen before. */
static bool see(const struct slab *s, const uint8_t *page)
{
    if (!page || page < s->base || (size_t)(page - s->base) % s->page_bytes != 0)
        return false;
    size_t i = (size_t)(page - s->base) / s->page_bytes;
    return i < (size_t)s->pages && s->mark[i]++ == 0;
}

static const char *check_seq(const struct gm_kv *kv, const struct gm_kv_seq *seq)
{
    const int32_t pages = pages_for(seq->len);
    if (seq->len > seq->reserved || pages_for(seq->reserved) > seq->cap)
        return "a sequence is longer than what it reserved";
    if (kv->global.layers && seq->n_global < pages_for(seq->reserved))
        return "a sequence lacks pages of its global layers";
    for (int32_t i = 0; i < seq->n_global; i++)
        if (!see(&kv->global, seq->global[i]))
            return "a page of the global layers has two owners or is none";
    if (kv->local.layers == 0)
        return NULL;
    const int32_t ahead = pages_for(seq->reserved) - seq->local_first;
    if (seq->local_end != pages || seq->local_first > seq->local_end ||
        local_taken(seq) < least(ahead, kv->local_cap) || local_taken(seq) > kv->local_cap)
        return "a sequence's local pages do not cover its window";
    for (int32_t i = 0; i < seq->cap; i++) {
        bool live = i >= seq->local_first && i < seq->local_end;
        if (live ? !see(&kv->local, seq->local[i]) : seq->local[i] != NULL)
            return "a page of the local layers has two owners or is not where it belongs";
    }
    for (int32_t i = 0; i < seq->n_spare; i++)
        if (!see(&kv->local, seq->spare[i]))
            return "a spare page of the local layers has two owners or is none";
    return NULL;
}

const char *gm_kv_check(const struct gm_kv *kv)
{
    const struct slab *slabs[] = { &kv->global, &kv->local };
    for (int c = 0; c < 2; c++) {
        if (slabs[c]->pages > 0)
            memset(slabs[c]->mark, 0, (size_t)slabs[c]->pages);
        for (int32_t i = 0; i < slabs[c]->n_free; i++)
            if (slabs[c]->mark[slabs[c]->free[i]]++ != 0)
                return "a page is on the free list twice";
    }
    int32_t seqs = 0;
    for (int32_t i = 0; i < GM_SEQS_MAX; i++) {
        if (!kv->seqs[i])
            continue;
        seqs++;
        const char *wrong = check_seq(kv, kv->seqs[i]);
        if (wrong)
            return wrong;
    }
    if (seqs != kv->n_seqs)
        return "the count of sequences is wrong";
    for (int c = 0; c < 2; c++)
        for (int32_t i = 0; i < slabs[c]->pages; i++)
            if (slabs[c]->mark[i] != 1)
                return "a page belongs to nobody";
    return NULL;
}
