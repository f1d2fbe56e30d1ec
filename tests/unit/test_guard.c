// uses: services/gateway/guard.c services/gateway/admission.c services/gateway/listen.c
/* test_guard.c - who may come in: web pages of other origins, too many at once, addresses.
 *
 * Owns:      the rules of guard.h, admission.h and listen.h, case by case.
 * Does not:  speak HTTP (tests/system).
 */
#include <CUnit/Basic.h>
#include <string.h>
#include <unistd.h>

#include "services/gateway/admission.h"
#include "services/gateway/guard.h"
#include "services/gateway/listen.h"

/* ---- guard ------------------------------------------------------------------------------------
 */

static bool passes(const struct gm_guard *g, const char *host, const char *origin, const char *site)
{
    bool listed = false;
    return gm_guard_check(g, &(struct gm_guarded){ host, origin, site }, &listed) == NULL;
}

static void hosts(void)
{
    const struct gm_guard g = { "127.0.0.1:8080", true, "" };
    CU_ASSERT_TRUE(passes(&g, "127.0.0.1:8080", NULL, NULL));
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", NULL, NULL));
    CU_ASSERT_TRUE(passes(&g, "LOCALHOST:8080", NULL, NULL));
    CU_ASSERT_TRUE(passes(&g, "[::1]:8080", NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, NULL, NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, "127.0.0.1:81", NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, "127.0.0.1", NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, "evil.example:8080", NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, "127.0.0.1.evil.example:8080", NULL, NULL));
    CU_ASSERT_FALSE(passes(&g, "127.evil:8080", NULL, NULL));
    const struct gm_guard open = { "0.0.0.0:8080", false, "" };
    CU_ASSERT_TRUE(passes(&open, "gemma.example", NULL, NULL));
}

static void origins(void)
{
    const struct gm_guard g = { "127.0.0.1:8080", true, "https://a.example, http://b.example:99" };
    bool listed = false;
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", "http://localhost:8080", "same-origin"));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "http://127.0.0.1:8080", NULL));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "http://evil.example", NULL));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "null", NULL));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "", NULL));
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", "https://a.example", "cross-site"));
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", "http://b.example:99", NULL));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "https://a.example.evil", NULL));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", "https://a.exampl", NULL));
    CU_ASSERT_PTR_NULL(gm_guard_check(
        &g, &(struct gm_guarded){ "localhost:8080", "https://a.example", NULL }, &listed));
    CU_ASSERT_TRUE(listed);
    CU_ASSERT_PTR_NULL(
        gm_guard_check(&g, &(struct gm_guarded){ "localhost:8080", NULL, NULL }, &listed));
    CU_ASSERT_FALSE(listed);
}

static void sites(void)
{
    const struct gm_guard g = { "127.0.0.1:8080", true, "" };
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", NULL, "cross-site"));
    CU_ASSERT_FALSE(passes(&g, "localhost:8080", NULL, "Cross-Site"));
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", NULL, "none"));
    CU_ASSERT_TRUE(passes(&g, "localhost:8080", NULL, "same-origin"));
}

/* ---- admission --------------------------------------------------------------------------------
 */

/* Asks for n turns at once and counts what it is told; how many were refused. */
static int come(struct gm_admission *a, int n, int64_t now)
{
    long retry = 0;
    int refused = 0;
    for (int i = 0; i < n; i++) {
        const enum gm_admit admit = gm_admission_ask(a, 1, now, &retry);
        CU_ASSERT_TRUE(retry >= 1 && retry <= GM_RETRY_S_MAX);
        if (admit == GM_ADMIT_RUN)
            gm_admission_run(a, 1);
        else if (admit == GM_ADMIT_WAIT)
            a->waiting++;
        else
            refused++;
    }
    return refused;
}

/* One turn ends, and the first of the line begins. */
static void leave(struct gm_admission *a, int64_t now)
{
    gm_admission_end(a, now);
    if (a->waiting > 0 && gm_admission_room(a, 1)) {
        a->waiting--;
        gm_admission_run(a, 1);
    }
}

static void sizes(void)
{
    CU_ASSERT_EQUAL(gm_admission_most(1), GM_RUNNING_MIN);
    CU_ASSERT_EQUAL(gm_admission_most(4), 4 * GM_RUNNING_PER_CPU);
    CU_ASSERT_EQUAL(gm_admission_most(4096), GM_RUNNING_MAX);
    struct gm_admission a = { .most = 32 };
    CU_ASSERT_TRUE(gm_admission_room(&a, 100)); /* a batch larger than the machine runs alone */
    gm_admission_run(&a, 30);
    CU_ASSERT_TRUE(gm_admission_room(&a, 2));
    CU_ASSERT_FALSE(gm_admission_room(&a, 3));
}

static void burst(void)
{
    struct gm_admission a = { .most = 32 };
    const int all = GM_RUNNING_MAX + GM_WAITING_MAX;
    CU_ASSERT_EQUAL(come(&a, all, 1000), 0);
    CU_ASSERT_EQUAL(a.running, 32);
    CU_ASSERT_EQUAL(a.waiting, (uint32_t)all - 32);
    CU_ASSERT_EQUAL(come(&a, 3, 1000), 3);
}

static void sustained(void)
{
    struct gm_admission a = { .most = 32 };
    int64_t now = 10000;
    CU_ASSERT_EQUAL(come(&a, 100, now), 0);
    for (int i = 0; i < 60; i++) /* ten turns a second end */
        leave(&a, now += 100);
    CU_ASSERT_EQUAL(a.waiting, 8);
    CU_ASSERT_EQUAL(come(&a, 40, now), 40 - 12); /* twenty are done in GM_LINE_MS */
    for (int i = 0; i < 20; i++)
        leave(&a, now += 100);
    CU_ASSERT_EQUAL(a.waiting, 0);
    CU_ASSERT_EQUAL(come(&a, 40, now), 0); /* the line was empty: a burst again */
}

/* ---- addresses --------------------------------------------------------------------------------
 */

static void addresses(void)
{
    char at[GM_ADDRESS_MAX], again[GM_ADDRESS_MAX];
    struct gm_err err = GM_ERR_NONE;
    int fd = -1, other = -1;
    static const char *const bad[] = { "",           "8080",         ":8080",
                                       "127.0.0.1:", "127.0.0.1:0",  "1.2.3:80",
                                       "[::1:8080",  "a.example:80", "127.0.0.1:99999",
                                       "::1:80x" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CU_ASSERT_EQUAL(gm_listen(bad[i], false, &fd, at, NULL), GM_INVALID);
    CU_ASSERT_TRUE(gm_address_local("127.0.0.1:80"));
    CU_ASSERT_TRUE(gm_address_local("127.1.2.3:80"));
    CU_ASSERT_TRUE(gm_address_local("[::1]:80"));
    CU_ASSERT_TRUE(gm_address_local("localhost:80"));
    CU_ASSERT_FALSE(gm_address_local("0.0.0.0:80"));
    CU_ASSERT_FALSE(gm_address_local("10.0.0.1:80"));
    CU_ASSERT_FALSE(gm_address_local("[::]:80"));
    CU_ASSERT_EQUAL_FATAL(gm_listen("127.0.0.1:18080", true, &fd, at, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_listen(at, false, &other, again, &err), GM_EXISTS);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, at));
    CU_ASSERT_EQUAL(gm_listen(at, true, &other, again, &err), GM_OK);
    CU_ASSERT_STRING_NOT_EQUAL(at, again);
    close(fd);
    close(other);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("guard", NULL, NULL);
    CU_add_test(s, "hosts", hosts);
    CU_add_test(s, "origins", origins);
    CU_add_test(s, "sites", sites);
    CU_add_test(s, "turns at once", sizes);
    CU_add_test(s, "a burst is taken, then refused", burst);
    CU_add_test(s, "a line that does not end is kept short", sustained);
    CU_add_test(s, "addresses", addresses);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
