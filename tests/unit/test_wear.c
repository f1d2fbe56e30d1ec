// uses: services/cli/wear.c
/* test_wear.c - when a process that keeps dying is started again.
 *
 * Owns:      checks of wear.h with a clock of its own.
 * Does not:  start processes (tests/system/test_heal.py).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>

#include "services/cli/wear.h"

static int64_t now = 1000000;

/* Dies `n` times, each time after `lived` ms; returns how often that made it a failed one. */
static int die(struct gm_wear *w, int n, int64_t lived)
{
    int failed = 0;
    for (int i = 0; i < n; i++) {
        now = now > w->due_ms ? now : w->due_ms;
        gm_wear_started(w, now);
        now += lived;
        failed += gm_wear_died(w, now);
    }
    return failed;
}

static void test_five_restarts_cost_no_pause(void)
{
    struct gm_wear w = { .failed = false };
    for (int i = 0; i < GM_WEAR_RESTARTS; i++) {
        CU_ASSERT_EQUAL(die(&w, 1, 10), 0);
        CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), 0);
    }
    CU_ASSERT_FALSE(w.failed);
    CU_ASSERT_EQUAL(die(&w, 1, 10), 1);
    CU_ASSERT(w.failed);
    CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), GM_WEAR_PAUSE_MS);
}

static void test_slow_deaths_are_no_failure(void)
{
    struct gm_wear w = { .failed = false };
    CU_ASSERT_EQUAL(die(&w, 100, GM_WEAR_WINDOW_MS / GM_WEAR_RESTARTS + 1), 0);
    CU_ASSERT_FALSE(w.failed);
}

static void test_pauses_grow_to_a_minute(void)
{
    struct gm_wear w = { .failed = false };
    CU_ASSERT_EQUAL(die(&w, GM_WEAR_RESTARTS + 1, 1), 1);
    int64_t pause = GM_WEAR_PAUSE_MS;
    for (int i = 0; i < 12; i++) {
        CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), pause);
        CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now + pause - 1), 1);
        CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now + pause + 1), 0);
        CU_ASSERT_EQUAL(die(&w, 1, GM_WEAR_WELL_MS - 1), 0); /* it is one already */
        pause = pause * 2 < GM_WEAR_PAUSE_MS_MAX ? pause * 2 : GM_WEAR_PAUSE_MS_MAX;
    }
    CU_ASSERT_EQUAL(pause, GM_WEAR_PAUSE_MS_MAX);
}

static void test_who_stays_up_is_well(void)
{
    struct gm_wear w = { .failed = false };
    (void)die(&w, GM_WEAR_RESTARTS + 3, 1);
    now = w.due_ms;
    gm_wear_started(&w, now);
    CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), GM_WEAR_WELL_MS);
    CU_ASSERT_FALSE(gm_wear_healed(&w, now + GM_WEAR_WELL_MS - 1));
    CU_ASSERT(w.failed);
    now += GM_WEAR_WELL_MS;
    CU_ASSERT(gm_wear_healed(&w, now));
    CU_ASSERT_FALSE(gm_wear_healed(&w, now));
    CU_ASSERT_FALSE(w.failed);
    CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), -1);
    CU_ASSERT_EQUAL(die(&w, GM_WEAR_RESTARTS, 1), 0); /* as many again */
    CU_ASSERT_EQUAL(die(&w, 1, 1), 1);
    CU_ASSERT_EQUAL(gm_wear_wait_ms(&w, now), GM_WEAR_PAUSE_MS);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("wear", NULL, NULL);
    CU_add_test(s, "five restarts cost no pause", test_five_restarts_cost_no_pause);
    CU_add_test(s, "slow deaths are no failure", test_slow_deaths_are_no_failure);
    CU_add_test(s, "pauses grow to a minute", test_pauses_grow_to_a_minute);
    CU_add_test(s, "who stays up is well", test_who_stays_up_is_well);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
