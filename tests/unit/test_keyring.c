/* test_keyring.c - the gateway's cache of keys: what it answers, for how long, within which bounds.
 *
 * Owns:      the checks of services/gateway/keyring.h, with times that the test makes up.
 * Does not:  talk to Redis: the test plays its part.
 */
// uses: services/gateway/keyring.c
// libs: -lsodium
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/sys.h"
#include "services/gateway/keyring.h"

enum { SEC = 1000, MIN = 60 * SEC, HOUR = 60 * MIN, T0 = 1234567890, STRANGERS = 20000 };

static const uint8_t secret[GM_KEY_SECRET_BYTES] = { 7 };
static struct gm_keyring *ring;

struct token {
    char text[GM_KEY_TOKEN_CHARS + 1];
};

static struct gm_key make(const char *name, struct token *token)
{
    struct gm_key k = { .scopes = GM_KEY_CHAT, .created_ms = 1 };
    snprintf(k.name, sizeof k.name, "%s", name);
    snprintf(k.tenant, sizeof k.tenant, "%s", name);
    CU_ASSERT_EQUAL_FATAL(gm_key_make(&k, secret, token->text, NULL), GM_OK);
    return k;
}

static enum gm_keyring_answer find(const struct token *t, int64_t now, struct gm_key *key)
{
    return gm_keyring_find(ring, t->text, strlen(t->text), now, key);
}

static void open_ring(void)
{
    gm_keyring_close(&ring);
    CU_ASSERT_EQUAL_FATAL(gm_keyring_open(&ring, secret, NULL), GM_OK);
}

/* ---- the cache ------------------------------------------------------------------------------- */

static void test_find(void)
{
    struct token token, wrong;
    struct gm_key got;
    const struct gm_key k = make("alice", &token);
    open_ring();
    CU_ASSERT_EQUAL(find(&token, T0, &got), GM_KEYRING_ASK);
    CU_ASSERT_STRING_EQUAL(got.id, k.id);
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&token, T0, &got), GM_KEYRING_KNOWN);
    CU_ASSERT_STRING_EQUAL(got.tenant, "alice");
    for (size_t i = 20; i < GM_KEY_TOKEN_CHARS; i++) { /* any wrong digit of the secret */
        wrong = token;
        wrong.text[i] = wrong.text[i] == '0' ? '1' : '0';
        CU_ASSERT_EQUAL(find(&wrong, T0, &got), GM_KEYRING_UNKNOWN);
        CU_ASSERT_EQUAL(got.scopes, 0);
    }
    CU_ASSERT_EQUAL(gm_keyring_find(ring, "", 0, T0, &got), GM_KEYRING_UNKNOWN);
    CU_ASSERT_EQUAL(gm_keyring_find(ring, token.text, 20, T0, &got), GM_KEYRING_UNKNOWN);
}

static void test_expiry(void)
{
    struct token token;
    struct gm_key got;
    const struct gm_key k = make("alice", &token);
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&token, T0 + 60 * SEC - 1, &got), GM_KEYRING_KNOWN);
    CU_ASSERT_EQUAL(find(&token, T0 + 60 * SEC, &got), GM_KEYRING_ASK);
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0 + 60 * SEC, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&token, T0 + 60 * SEC, &got), GM_KEYRING_KNOWN);
    gm_keyring_absent(ring, k.id, T0 + 61 * SEC);
    CU_ASSERT_EQUAL(find(&token, T0 + 61 * SEC, &got), GM_KEYRING_UNKNOWN);
    CU_ASSERT_EQUAL(find(&token, T0 + 61 * SEC + GM_KEYRING_ABSENT_MS - 1, &got),
                    GM_KEYRING_UNKNOWN);
    CU_ASSERT_EQUAL(find(&token, T0 + 61 * SEC + GM_KEYRING_ABSENT_MS, &got), GM_KEYRING_ASK);
}

static void test_revoked(void)
{
    struct token token;
    struct gm_key got, k = make("alice", &token);
    open_ring();
    gm_keyring_version(ring, 1, 1);
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0, NULL), GM_OK);
    gm_keyring_version(ring, 1, 1);
    CU_ASSERT_EQUAL(find(&token, T0 + 1, &got), GM_KEYRING_KNOWN);
    gm_keyring_version(ring, 2, 1);
    CU_ASSERT_EQUAL(find(&token, T0 + 2, &got), GM_KEYRING_ASK);
    k.revoked_ms = 5; /* with its hash still there: refused all the same */
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0 + 2, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&token, T0 + 2, &got), GM_KEYRING_UNKNOWN);
    memset(k.hash, 0, sizeof k.hash);
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0 + 2, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&token, T0 + 3, &got), GM_KEYRING_UNKNOWN);
    gm_keyring_absent(ring, "0123456789abcdef", T0);
    gm_keyring_version(ring, 1, 1); /* backwards: another Redis */
    CU_ASSERT_EQUAL(find(&token, T0 + 4, &got), GM_KEYRING_ASK);
}

static void test_door(void)
{
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_door(ring), GM_KEYRING_UNSURE);
    gm_keyring_version(ring, 0, 0);
    CU_ASSERT_EQUAL(gm_keyring_door(ring), GM_KEYRING_OPEN);
    gm_keyring_version(ring, 1, 1);
    CU_ASSERT_EQUAL(gm_keyring_door(ring), GM_KEYRING_SHUT);
}

/* A new key is not refused because its ID was asked for before it was made. */
static void test_absent_dropped_by_change(void)
{
    struct token token;
    struct gm_key got;
    const struct gm_key k = make("alice", &token);
    open_ring();
    gm_keyring_version(ring, 1, 1);
    gm_keyring_absent(ring, k.id, T0);
    CU_ASSERT_EQUAL(find(&token, T0, &got), GM_KEYRING_UNKNOWN);
    gm_keyring_version(ring, 2, 2);
    CU_ASSERT_EQUAL(find(&token, T0, &got), GM_KEYRING_ASK);
}

/* 20,000 made-up keys: each is settled by one question, none throws a good key out. */
static void test_strangers(void)
{
    struct token token, stranger;
    struct gm_key got;
    const struct gm_key k = make("alice", &token);
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0, NULL), GM_OK);
    size_t asks = 0, unknown = 0;
    for (int i = 0; i < STRANGERS; i++) {
        char id[GM_KEY_ID_DIGITS + 1], rest[GM_KEY_SECRET_DIGITS + 1];
        gm_random_id(id, GM_KEY_ID_DIGITS);
        gm_random_id(rest, GM_KEY_SECRET_DIGITS);
        snprintf(stranger.text, sizeof stranger.text, "gm-%s-%s", id, rest);
        asks += find(&stranger, T0 + 1, &got) == GM_KEYRING_ASK;
        gm_keyring_absent(ring, got.id, T0 + 1);
        unknown += find(&stranger, T0 + 1, &got) == GM_KEYRING_UNKNOWN;
    }
    CU_ASSERT_EQUAL(asks, STRANGERS);
    CU_ASSERT_EQUAL(unknown, STRANGERS);
    CU_ASSERT_EQUAL(find(&token, T0 + 2, &got), GM_KEYRING_KNOWN);
}

/* More good keys than there is room for: the ring stays at its bound, and all go on being served.
 */
static void test_full(void)
{
    static struct token tokens[GM_KEYRING_KEYS_MAX + 1];
    static struct gm_key keys[GM_KEYRING_KEYS_MAX + 1];
    struct gm_key got;
    open_ring();
    for (int i = 0; i <= GM_KEYRING_KEYS_MAX; i++) {
        keys[i] = make("many", &tokens[i]);
        CU_ASSERT_EQUAL(gm_keyring_put(ring, &keys[i], T0 + i, NULL), GM_OK);
    }
    const int64_t now = T0 + GM_KEYRING_KEYS_MAX;
    CU_ASSERT_EQUAL(find(&tokens[0], now, &got), GM_KEYRING_ASK); /* the oldest went */
    for (int i = 1; i <= GM_KEYRING_KEYS_MAX; i++)
        if (find(&tokens[i], now, &got) != GM_KEYRING_KNOWN)
            CU_FAIL("a key was lost");
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &keys[0], now, NULL), GM_OK);
    CU_ASSERT_EQUAL(find(&tokens[0], now, &got), GM_KEYRING_KNOWN);
}

/* ---- use ------------------------------------------------------------------------------------- */

static enum gm_status charge(const struct gm_key *k, int64_t now, long *wait)
{
    struct gm_err err = GM_ERR_NONE;
    const enum gm_status rc = gm_keyring_charge(ring, k, now, &err);
    *wait = err.retry_ms;
    return rc;
}

static void test_rate(void)
{
    struct token token;
    struct gm_key k = make("alice", &token);
    const int64_t t = (int64_t)T0 / SEC * SEC; /* the beginning of a second */
    long wait;
    k.rate_per_min = 3;
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, t, NULL), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 20 * SEC, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 20 * SEC, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 21 * SEC + 500, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, 38500);   /* until the first is a minute old */
    gm_keyring_version(ring, 9, 1); /* a change drops the record, not the count */
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, t + 22 * SEC, NULL), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 60 * SEC - 1, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, 1);
    CU_ASSERT_EQUAL(charge(&k, t + 60 * SEC, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 60 * SEC, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, 20 * SEC);
    CU_ASSERT_EQUAL(charge(&k, t + 10 * HOUR, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 10 * HOUR, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 10 * HOUR, &wait), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t + 10 * HOUR, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, MIN);
}

/* Whatever the times, what the windows let through is what counting by hand lets through. */
static void test_rate_by_hand(void)
{
    enum { REQUESTS = 5000, RATE = 20 };
    static int64_t let[REQUESTS];
    struct token token;
    struct gm_key k = make("alice", &token);
    int64_t now = T0, n = 0;
    uint64_t state = 1;
    long wait;
    k.rate_per_min = RATE;
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, now, NULL), GM_OK);
    for (int i = 0; i < REQUESTS; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        now += (int64_t)(state >> 33) % ((state >> 20) % 50 == 0 ? 70 * SEC : 3 * SEC);
        int64_t recent = 0;
        for (int64_t j = 0; j < n; j++)
            recent += now / SEC - let[j] / SEC < GM_KEYRING_MINUTE_SLOTS;
        const enum gm_status want = recent < RATE ? GM_OK : GM_EXHAUSTED;
        if (charge(&k, now, &wait) != want)
            CU_FAIL_FATAL("the window counts otherwise");
        if (want == GM_OK)
            let[n++] = now;
        else if (wait < 1 || wait > MIN)
            CU_FAIL_FATAL("a wait is outside of a minute");
    }
    CU_ASSERT_TRUE(n > RATE && n < REQUESTS);
}

static void test_tokens(void)
{
    struct token token;
    struct gm_key k = make("alice", &token);
    const int64_t t = (int64_t)T0 / (15 * MIN) * (15 * MIN);
    long wait;
    k.tokens_per_day = 1000;
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, t, NULL), GM_OK);
    CU_ASSERT_EQUAL(charge(&k, t, &wait), GM_OK);
    gm_keyring_spend(ring, k.id, 600, t);
    CU_ASSERT_EQUAL(charge(&k, t + HOUR, &wait), GM_OK);
    gm_keyring_spend(ring, k.id, 400, t + HOUR);
    CU_ASSERT_EQUAL(charge(&k, t + 2 * HOUR, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, 22 * HOUR);
    CU_ASSERT_EQUAL(charge(&k, t + 24 * HOUR - 1, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(charge(&k, t + 24 * HOUR, &wait), GM_OK);
    gm_keyring_spend(ring, k.id, 5000, t + 24 * HOUR);
    CU_ASSERT_EQUAL(charge(&k, t + 25 * HOUR, &wait), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(wait, 23 * HOUR);                    /* the 400 of before are not enough */
    gm_keyring_spend(ring, "0123456789abcdef", 5000, t); /* nobody: no harm */
    CU_ASSERT_EQUAL(charge(&k, t + 48 * HOUR, &wait), GM_OK);
}

static void test_no_limits(void)
{
    struct token token;
    const struct gm_key k = make("alice", &token);
    long wait;
    open_ring();
    CU_ASSERT_EQUAL(gm_keyring_put(ring, &k, T0, NULL), GM_OK);
    gm_keyring_spend(ring, k.id, (uint64_t)1 << 40, T0);
    for (int i = 0; i < 10000; i++)
        if (charge(&k, T0, &wait) != GM_OK)
            CU_FAIL_FATAL("a key without limits was refused");
}

static void test_scopes(void)
{
    struct token token;
    struct gm_err err = GM_ERR_NONE;
    struct gm_key k = make("alice", &token);
    CU_ASSERT_EQUAL(gm_keyring_allows(&k, GM_KEY_CHAT, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_keyring_allows(&k, GM_KEY_METRICS, &err), GM_DENIED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "metrics"));
    k.scopes = GM_KEY_METRICS;
    CU_ASSERT_EQUAL(gm_keyring_allows(&k, GM_KEY_METRICS, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_keyring_allows(&k, GM_KEY_CHAT, &err), GM_DENIED);
}

int main(void)
{
    CU_TestInfo tests[] = { { "find", test_find },
                            { "expiry", test_expiry },
                            { "revoked", test_revoked },
                            { "door", test_door },
                            { "absent, then made", test_absent_dropped_by_change },
                            { "strangers", test_strangers },
                            { "full", test_full },
                            { "rate", test_rate },
                            { "rate, by hand", test_rate_by_hand },
                            { "tokens", test_tokens },
                            { "no limits", test_no_limits },
                            { "scopes", test_scopes },
                            CU_TEST_INFO_NULL };
    CU_SuiteInfo suites[] = { { "keyring", NULL, NULL, NULL, NULL, tests }, CU_SUITE_INFO_NULL };
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    gm_keyring_close(&ring);
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
