/* test_kv.c - the paged cache: against a simple model under random operations, and its refusals.
 *
 * Owns:      the random operations. Every opened position gets a tag (sequence, position, layer) in
 *            its key and its value; a tag that is wrong later shows a page that was shared, moved
 * or given away too early. Does not:  test attention over the cache (test_model.c).
 */
#include "common/model/kv.h"

#include <CUnit/Basic.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS = 7,
    HEAD_DIM = 32,
    WINDOW = 100,
    TOKENS = 9000,
    SEQS = 6,
    LEN_MAX = 3000,
    OPS = 12000,
};

struct shadow {
    struct gm_kv_seq *seq;
    uint32_t serial;
    int32_t len;
    int32_t low; /* positions below it were dropped from local layers */
    int32_t ids[LEN_MAX];
    uint32_t by[LEN_MAX]; /* serial of the sequence that wrote the position */
};

static uint64_t state = 1;

static uint32_t below(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % limit;
}

static struct gm_config config(int32_t window)
{
    struct gm_config cfg = {
        .layers = LAYERS, .kv_heads = 2, .head_dim = HEAD_DIM, .window = window
    };
    for (int32_t i = 0; i < LAYERS; i++)
        cfg.local[i] = window > 0 && i % 3 != 2;
    return cfg;
}

static struct gm_kv *open_cache(int32_t window, int32_t begin, int32_t end, int64_t tokens)
{
    const struct gm_config cfg = config(window);
    struct gm_err err = GM_ERR_NONE;
    struct gm_kv *kv = NULL;
    CU_ASSERT_EQUAL_FATAL(gm_kv_new(&kv, &cfg, begin, end, tokens, GM_KV_F16, &err), GM_OK);
    return kv;
}

/* What is kept at a position of a layer: numbers that f16 holds exactly. */
struct tag {
    float k[2 * HEAD_DIM], v[2 * HEAD_DIM];
};

static void make_tag(struct tag *t, const struct shadow *s, int32_t layer, int32_t pos)
{
    const int32_t part[] = { (int32_t)(s->by[pos] >> 16), (int32_t)(s->by[pos] & 0x7ff), pos % 2048,
                             layer };
    for (int i = 0; i < 2 * HEAD_DIM; i++) {
        t->k[i] = (float)part[i % 4];
        t->v[i] = (float)-part[i % 4];
    }
}

static void write_tags(struct gm_kv *kv, struct shadow *s, int32_t from)
{
    for (int32_t pos = from; pos < s->len; pos++)
        s->by[pos] = s->serial;
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        struct gm_kv_view v;
        gm_kv_view(kv, s->seq, layer, &v);
        for (int32_t pos = from; pos < s->len; pos++) {
            struct tag t;
            make_tag(&t, s, layer, pos);
            gm_ref.kv_store(&v, pos, t.k, t.v);
        }
    }
}

/* All that a row at position `len` may look at is there and ours. */
static int tags_hold(struct gm_kv *kv, const struct shadow *s)
{
    const struct gm_config cfg = config(WINDOW);
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        struct gm_kv_view v;
        gm_kv_view(kv, s->seq, layer, &v);
        int32_t from = cfg.local[layer] ? s->len - WINDOW + 1 : 0;
        for (int32_t pos = from > 0 ? from : 0; pos < s->len; pos++) {
            struct tag want, got;
            if (!v.pages[pos / GM_PAGE])
                return 0;
            make_tag(&want, s, layer, pos);
            for (int32_t h = 0; h < 2; h++)
                gm_kv_load(&v, pos, h, got.k + h * HEAD_DIM, got.v + h * HEAD_DIM);
            if (memcmp(&want, &got, sizeof want) != 0)
                return 0;
        }
    }
    return 1;
}

static int32_t low_after(int32_t len)
{
    int32_t from = len - WINDOW - GM_KV_SLACK;
    return from > 0 ? from / GM_PAGE * GM_PAGE : 0;
}

static void op_extend(struct gm_kv *kv, struct shadow *s)
{
    static int32_t fresh[GM_KV_SLACK];
    int32_t n = below(3) ? (int32_t)below(20) : (int32_t)below(GM_KV_SLACK + 1);
    if (s->len + n > LEN_MAX)
        n = LEN_MAX - s->len;
    struct gm_kv_use before, after;
    gm_kv_usage(kv, &before);
    if (gm_kv_reserve(kv, s->seq, s->len + n, NULL) != GM_OK) {
        gm_kv_usage(kv, &after);
        CU_ASSERT_EQUAL(before.pages_free, after.pages_free); /* all or none */
        return;
    }
    for (int32_t i = 0; i < n; i++)
        fresh[i] = s->ids[s->len + i] = (int32_t)below(50);
    CU_ASSERT_EQUAL(gm_kv_extend(kv, s->seq, fresh, n, NULL), GM_OK);
    s->len += n;
    if (n > 0 && low_after(s->len) > s->low)
        s->low = low_after(s->len);
    write_tags(kv, s, s->len - n);
}

static void op_rewind(struct gm_kv *kv, struct shadow *s)
{
    const int32_t min = s->low == 0 ? 0 : s->low + WINDOW - 1;
    CU_ASSERT_EQUAL(gm_kv_rewind_min(kv, s->seq), min);
    const int32_t to = below(8) == 0 ? 0 : (int32_t)below((uint32_t)s->len + 2);
    const bool allowed = to == 0 || (to <= s->len && to >= min);
    CU_ASSERT_EQUAL(gm_kv_rewind(kv, s->seq, to, NULL), allowed ? GM_OK : GM_RANGE);
    if (!allowed)
        return;
    s->len = to;
    s->low = to == 0 ? 0 : s->low;
}

static void op_common(const struct shadow *s)
{
    static int32_t ids[LEN_MAX];
    memcpy(ids, s->ids, (size_t)s->len * sizeof *ids);
    int32_t at = (int32_t)below((uint32_t)s->len + 1);
    if (at < s->len)
        ids[at]++;
    CU_ASSERT_EQUAL(gm_kv_common(s->seq, ids, s->len), at);
    CU_ASSERT_EQUAL(gm_kv_common(s->seq, s->ids, s->len / 2), s->len / 2);
}

static void op_renew(struct gm_kv *kv, struct shadow *s)
{
    gm_kv_seq_free(kv, &s->seq);
    CU_ASSERT_PTR_NULL(s->seq);
    s->seq = gm_kv_seq_new(kv);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s->seq);
    s->serial++;
    s->len = s->low = 0;
}

/* `s` becomes a copy of part of another sequence. */
static void op_fork(struct gm_kv *kv, struct shadow *s, const struct shadow *from)
{
    const int32_t min = gm_kv_rewind_min(kv, from->seq);
    const int32_t n = (int32_t)below((uint32_t)from->len + 2);
    if (s == from)
        return;
    op_renew(kv, s);
    if (gm_kv_reserve(kv, s->seq, n + (int32_t)below(200), NULL) != GM_OK)
        return;
    const bool allowed = n == 0 || (n <= from->len && n >= min);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, s->seq, from->seq, n, NULL), allowed ? GM_OK : GM_RANGE);
    if (!allowed)
        return;
    s->len = n;
    s->low = low_after(n) > from->low ? low_after(n) : from->low;
    s->low = n == 0 ? 0 : s->low;
    memcpy(s->ids, from->ids, (size_t)n * sizeof *s->ids);
    memcpy(s->by, from->by, (size_t)n * sizeof *s->by);
    CU_ASSERT_TRUE(tags_hold(kv, s));
}

static void random_operations(void)
{
    static struct shadow all[SEQS];
    struct gm_kv *kv = open_cache(WINDOW, 0, LAYERS, TOKENS);
    for (uint32_t i = 0; i < SEQS; i++)
        all[i] = (struct shadow){ .seq = gm_kv_seq_new(kv), .serial = i << 16 };
    for (int i = 0; i < OPS; i++) {
        struct shadow *s = &all[below(SEQS)];
        uint32_t op = below(100);
        if (op < 70)
            op_extend(kv, s);
        else if (op < 85)
            op_rewind(kv, s);
        else if (op < 90)
            gm_kv_trim(kv, s->seq);
        else if (op < 92)
            (void)gm_kv_reserve(kv, s->seq, (int32_t)below(LEN_MAX), NULL);
        else if (op < 97)
            op_common(s);
        else if (op < 99)
            op_fork(kv, s, &all[below(SEQS)]);
        else
            op_renew(kv, s);
        const char *wrong = gm_kv_check(kv);
        CU_ASSERT_PTR_NULL_FATAL(wrong);
        CU_ASSERT_EQUAL(gm_kv_len(s->seq), s->len);
        CU_ASSERT_TRUE(s->len == 0 ||
                       memcmp(gm_kv_ids(s->seq), s->ids, (size_t)s->len * sizeof *s->ids) == 0);
        if (i % 8 == 0)
            CU_ASSERT_TRUE_FATAL(tags_hold(kv, &all[below(SEQS)]));
    }
    for (int i = 0; i < SEQS; i++)
        gm_kv_seq_free(kv, &all[i].seq);
    struct gm_kv_use use;
    gm_kv_usage(kv, &use);
    CU_ASSERT_EQUAL(use.pages_free, use.pages_total);
    CU_ASSERT_EQUAL(use.bytes_used, 0);
    CU_ASSERT_EQUAL((uint64_t)use.bytes_total, gm_kv_bytes(kv));
    CU_ASSERT_PTR_NULL(gm_kv_check(kv));
    gm_kv_free(&kv);
}

/* A copy and what it was taken from go on apart; who has rows or too few pages takes none. */
static void forks(void)
{
    static struct shadow a, b;
    static int32_t ids[LEN_MAX];
    struct gm_kv *kv = open_cache(WINDOW, 0, LAYERS, TOKENS);
    a = (struct shadow){ .seq = gm_kv_seq_new(kv), .serial = 1 };
    b = (struct shadow){ .seq = gm_kv_seq_new(kv), .serial = 2 };
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, a.seq, 2000, NULL), GM_OK);
    while (a.len < 2000) {
        CU_ASSERT_EQUAL(gm_kv_extend(kv, a.seq, ids, 200, NULL), GM_OK);
        a.len += 200;
        write_tags(kv, &a, a.len - 200);
    }
    const int32_t n = 1990;
    CU_ASSERT_EQUAL(gm_kv_fork(kv, b.seq, a.seq, n, NULL), GM_INVALID); /* no pages */
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, b.seq, n + 100, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, b.seq, a.seq, 2001, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, b.seq, a.seq, gm_kv_rewind_min(kv, a.seq) - 1, NULL), GM_RANGE);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, a.seq, a.seq, n, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, b.seq, a.seq, n, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_fork(kv, b.seq, a.seq, n, NULL), GM_INVALID); /* it has rows now */
    b.len = n;
    memcpy(b.by, a.by, sizeof b.by);
    CU_ASSERT_EQUAL(gm_kv_extend(kv, b.seq, ids, 100, NULL), GM_OK);
    b.len += 100;
    write_tags(kv, &b, n);
    CU_ASSERT_TRUE(tags_hold(kv, &a));
    CU_ASSERT_TRUE(tags_hold(kv, &b));
    CU_ASSERT_PTR_NULL(gm_kv_check(kv));
    gm_kv_seq_free(kv, &a.seq);
    CU_ASSERT_TRUE(tags_hold(kv, &b));
    gm_kv_free(&kv);
}

/* A kept sequence that begins anew has the pages that it reserved, of local layers too. */
static void reserved_after_rewind(void)
{
    static int32_t ids[GM_KV_SLACK];
    struct gm_kv *kv = open_cache(WINDOW, 0, LAYERS, TOKENS);
    struct gm_kv_seq *seq = gm_kv_seq_new(kv);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, seq, 5 * GM_KV_SLACK, NULL), GM_OK);
    for (int i = 0; i < 5; i++)
        CU_ASSERT_EQUAL(gm_kv_extend(kv, seq, ids, GM_KV_SLACK, NULL), GM_OK);
    gm_kv_trim(kv, seq);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, seq, 4 * GM_KV_SLACK, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_rewind(kv, seq, 0, NULL), GM_OK);
    for (int i = 0; i < 4; i++)
        CU_ASSERT_EQUAL(gm_kv_extend(kv, seq, ids, GM_KV_SLACK, NULL), GM_OK);
    CU_ASSERT_PTR_NULL(gm_kv_check(kv));
    gm_kv_free(&kv);
}

static void refusals(void)
{
    struct gm_kv *kv = open_cache(WINDOW, 0, LAYERS, 640);
    struct gm_kv_seq *a = gm_kv_seq_new(kv), *b = gm_kv_seq_new(kv);
    struct gm_err err = GM_ERR_NONE;
    static const int32_t ids[GM_KV_SLACK + 1];
    CU_ASSERT_EQUAL(gm_kv_extend(kv, a, ids, 1, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, a, 600, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_extend(kv, a, ids, GM_KV_SLACK + 1, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, b, 65, &err), GM_EXHAUSTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "free"));
    CU_ASSERT_EQUAL(gm_kv_extend(kv, a, ids, 500, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_rewind(kv, a, 501, &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_kv_rewind(kv, a, -1, &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_kv_rewind(kv, a, 10, &err), GM_OK);
    gm_kv_trim(kv, a);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, b, 65, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, b, -5, &err), GM_INVALID);
    CU_ASSERT_PTR_NULL(gm_kv_check(kv));
    gm_kv_free(&kv); /* frees what is open */
    CU_ASSERT_PTR_NULL(kv);
    const struct gm_config cfg = config(WINDOW);
    CU_ASSERT_EQUAL(gm_kv_new(&kv, &cfg, 3, 3, 640, GM_KV_F16, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_kv_new(&kv, &cfg, 0, LAYERS + 1, 640, GM_KV_F16, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_kv_new(&kv, &cfg, 0, 1, 0, GM_KV_F16, &err), GM_INVALID);
}

/* Slices that have one class of layers only, and a model without windows. */
static void one_class(void)
{
    static const struct {
        int32_t window, begin, end;
        bool rewinds;
    } cases[] = { { WINDOW, 0, 2, false }, { WINDOW, 2, 3, true }, { 0, 0, LAYERS, true } };
    static const int32_t ids[GM_KV_SLACK];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct gm_kv *kv = open_cache(cases[i].window, cases[i].begin, cases[i].end, 6400);
        struct gm_kv_seq *seq = gm_kv_seq_new(kv);
        CU_ASSERT_EQUAL(gm_kv_reserve(kv, seq, 5120, NULL), GM_OK);
        for (int j = 0; j < 10; j++)
            CU_ASSERT_EQUAL(gm_kv_extend(kv, seq, ids, GM_KV_SLACK, NULL), GM_OK);
        CU_ASSERT_PTR_NULL(gm_kv_check(kv));
        CU_ASSERT_EQUAL(gm_kv_rewind_min(kv, seq) == 0, cases[i].rewinds);
        CU_ASSERT_EQUAL(gm_kv_rewind(kv, seq, 1, NULL), cases[i].rewinds ? GM_OK : GM_RANGE);
        CU_ASSERT_EQUAL(gm_kv_rewind(kv, seq, 0, NULL), GM_OK);
        CU_ASSERT_PTR_NULL(gm_kv_check(kv));
        gm_kv_free(&kv);
    }
}

static void many_sequences(void)
{
    struct gm_kv *kv = open_cache(WINDOW, 0, LAYERS, 640);
    struct gm_kv_seq *last = NULL;
    for (int i = 0; i < GM_SEQS_MAX; i++) {
        last = gm_kv_seq_new(kv);
        CU_ASSERT_PTR_NOT_NULL_FATAL(last);
    }
    CU_ASSERT_PTR_NULL(gm_kv_seq_new(kv));
    gm_kv_seq_free(kv, &last);
    CU_ASSERT_PTR_NOT_NULL(gm_kv_seq_new(kv));
    CU_ASSERT_PTR_NULL(gm_kv_check(kv));
    gm_kv_free(&kv);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite suite = CU_add_suite("kv", NULL, NULL);
    CU_add_test(suite, "random operations", random_operations);
    CU_add_test(suite, "copies", forks);
    CU_add_test(suite, "pages of a sequence that begins anew", reserved_after_rewind);
    CU_add_test(suite, "refusals", refusals);
    CU_add_test(suite, "one class of layers", one_class);
    CU_add_test(suite, "many sequences", many_sequences);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
