// uses: services/shard/draft.c
/* test_draft.c - guesses from a sequence's own ids: the search against brute force, and the pace.
 *
 * Owns:      the checks of services/shard/draft.c.
 * Does not:  run shards (test_speculate.c). Random numbers come from fixed seeds.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>

#include "services/shard/draft.h"

enum { LEN_MAX = 200 };

static uint64_t state = 7;

static int32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (int32_t)((uint32_t)(state >> 33) % n);
}

/* Ids that end both text[0..a] and text[0..b], at most GM_DRAFT_MATCH_MAX. */
static int32_t same_end(const int32_t *text, int32_t a, int32_t b)
{
    int32_t m = 0;
    while (m < GM_DRAFT_MATCH_MAX && m <= a && text[a - m] == text[b - m])
        m++;
    return m;
}

/* The same by looking everywhere: the longest match, of these the latest. text has n + 1 ids. */
static int32_t slow_find(const int32_t *text, int32_t n, int32_t match_min, int32_t *out,
                         int32_t want)
{
    int32_t all[LEN_MAX + GM_DRAFT_MAX + 1];
    for (int32_t i = 0; i <= n; i++)
        all[i] = text[i];
    for (int32_t m = GM_DRAFT_MATCH_MAX; m >= match_min; m--)
        for (int32_t j = n - 1; j >= 0; j--) {
            if (same_end(text, j, n) < m)
                continue;
            for (int32_t i = 0; i < want; i++)
                out[i] = all[n + 1 + i] = all[j + 1 + i];
            return want;
        }
    return 0;
}

static void test_find(void)
{
    int32_t text[LEN_MAX], got[GM_DRAFT_MAX], want[GM_DRAFT_MAX];
    int found = 0;
    for (int round = 0; round < 20000; round++) {
        const int32_t n = below(LEN_MAX - 1), k = 1 + below(GM_DRAFT_MAX);
        const int32_t min = 1 + below(GM_DRAFT_MATCH_MAX);
        const uint32_t letters = 1 + (uint32_t)below(8);
        for (int32_t i = 0; i <= n; i++)
            text[i] = below(letters);
        const int32_t a = gm_draft_find(text, n, text[n], min, got, k);
        const int32_t b = slow_find(text, n, min, want, k);
        CU_ASSERT_EQUAL_FATAL(a, b);
        for (int32_t i = 0; i < a; i++)
            CU_ASSERT_EQUAL_FATAL(got[i], want[i]);
        found += a > 0;
    }
    CU_ASSERT(found > 5000 && found < 20000);
}

static void test_find_by_hand(void)
{
    const int32_t text[] = { 1, 2, 3, 9, 1, 2, 4, 8, 5, 1 };
    int32_t out[GM_DRAFT_MAX];
    CU_ASSERT_EQUAL_FATAL(gm_draft_find(text, 10, 2, 2, out, 3), 3); /* the later of two */
    CU_ASSERT(out[0] == 4 && out[1] == 8 && out[2] == 5);
    CU_ASSERT_EQUAL_FATAL(gm_draft_find(text, 6, 3, 2, out, 2), 2); /* 1 2 (3): only the first */
    CU_ASSERT(out[0] == 9 && out[1] == 1);
    CU_ASSERT_EQUAL(gm_draft_find(text, 10, 2, 3, out, 3), 0);
    CU_ASSERT_EQUAL(gm_draft_find(text, 0, 2, 2, out, 3), 0);
    const int32_t period[] = { 6, 7, 6, 7 };
    CU_ASSERT_EQUAL_FATAL(gm_draft_find(period, 4, 6, 2, out, 5), 5); /* on into the guesses */
    CU_ASSERT(out[0] == 7 && out[1] == 6 && out[2] == 7 && out[3] == 6 && out[4] == 7);
}

static void test_look_back(void)
{
    static int32_t text[GM_DRAFT_LOOK_BACK + 10];
    const int32_t n = GM_DRAFT_LOOK_BACK + 10;
    int32_t out[1];
    for (int32_t i = 0; i < n; i++)
        text[i] = i;
    text[n - 1] = 3;
    CU_ASSERT_EQUAL(gm_draft_find(text, n, 4, 2, out, 1), 0); /* too long ago */
    text[n - 1] = 12;
    CU_ASSERT_EQUAL(gm_draft_find(text, n, 13, 2, out, 1), 1);
    CU_ASSERT_EQUAL(out[0], 14);
}

static void test_pace(void)
{
    struct gm_draft_pace p;
    int32_t min, k, tries = 0, rows;
    gm_draft_pace_init(&p);
    CU_ASSERT_EQUAL(gm_draft_want(&p, 0, &min), 0);
    k = gm_draft_want(&p, GM_DRAFT_MAX, &min);
    CU_ASSERT(k >= 1 && k < GM_DRAFT_MAX && min == GM_DRAFT_MATCH_MAX);
    for (int i = 0; i < 6; i++) { /* all right: longer and longer */
        CU_ASSERT(gm_draft_want(&p, GM_DRAFT_MAX, &min) >= k);
        k = gm_draft_want(&p, GM_DRAFT_MAX, &min);
        gm_draft_result(&p, k, k);
    }
    CU_ASSERT(k == GM_DRAFT_MAX && min == GM_DRAFT_MATCH_MIN);
    CU_ASSERT_EQUAL(gm_draft_want(&p, 3, &min), 3);
    for (rows = 0; rows < 1000; rows++) { /* all wrong: fewer and fewer, then pauses */
        k = gm_draft_want(&p, GM_DRAFT_MAX, &min);
        gm_draft_result(&p, k, 0);
        tries += k;
    }
    CU_ASSERT(tries > 8 && tries < 60);
    for (rows = 0; gm_draft_want(&p, GM_DRAFT_MAX, &min) == 0; rows++)
        CU_ASSERT_FATAL(rows < GM_DRAFT_PAUSE_MAX);
    CU_ASSERT_EQUAL(min, GM_DRAFT_MATCH_MAX);
    gm_draft_result(&p, 1, 1); /* one hit wakes it up */
    CU_ASSERT(gm_draft_want(&p, GM_DRAFT_MAX, &min) >= 1);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("draft", NULL, NULL);
    CU_add_test(suite, "the search against brute force", test_find);
    CU_add_test(suite, "the search by hand", test_find_by_hand);
    CU_add_test(suite, "no further back than the limit", test_look_back);
    CU_add_test(suite, "how many guesses", test_pace);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed > 0;
}
