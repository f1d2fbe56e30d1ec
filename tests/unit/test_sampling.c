/* test_sampling.c - defaults and limits of the sampling parameters.
 *
 * Owns:      the checks of common/base/sampling.h: each bound from both sides, NaN, the sentences.
 * Does not:  sample (test_sampler.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/base/sampling.h"

static struct gm_sampling s; /* of the running test */

static void test_default(void)
{
    memset(&s, 0xff, sizeof s);
    gm_sampling_default(&s);
    CU_ASSERT_EQUAL(s.temperature, 1.0f);
    CU_ASSERT_EQUAL(s.top_k, 64);
    CU_ASSERT_EQUAL(s.top_p, 0.95f);
    CU_ASSERT_EQUAL(s.min_p, 0.0f);
    CU_ASSERT_EQUAL(s.repeat_penalty, 1.0f);
    CU_ASSERT_EQUAL(s.presence_penalty, 0.0f);
    CU_ASSERT_EQUAL(s.frequency_penalty, 0.0f);
    CU_ASSERT_EQUAL(s.seed, 0);
    CU_ASSERT_EQUAL(s.max_tokens, 1024);
    CU_ASSERT_EQUAL(s.logprobs, -1);
    CU_ASSERT_FALSE(s.ignore_eos);
    CU_ASSERT_EQUAL(s.n_bias, 0);
    CU_ASSERT_EQUAL(s.n_stops, 0);
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_sampling_check(&s, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_sampling_check(&s, NULL), GM_OK);
}

/* One option set to one value. */
static const struct
try {
    const char *name;
    float *real;
    int32_t *whole;
    double value;
    bool good;
}
tries[] = {
    { "temperature", &s.temperature, NULL, 0.0, true },
    { "temperature", &s.temperature, NULL, 100.0, true },
    { "temperature", &s.temperature, NULL, 1e-5, true },
    { "temperature", &s.temperature, NULL, 1e-7, false },
    { "temperature", &s.temperature, NULL, 100.1, false },
    { "temperature", &s.temperature, NULL, -0.1, false },
    { "temperature", &s.temperature, NULL, INFINITY, false },
    { "temperature", &s.temperature, NULL, NAN, false },
    { "top_p", &s.top_p, NULL, 1.0, true },
    { "top_p", &s.top_p, NULL, 1e-6, true },
    { "top_p", &s.top_p, NULL, 0.0, false },
    { "top_p", &s.top_p, NULL, 1.01, false },
    { "top_p", &s.top_p, NULL, NAN, false },
    { "min_p", &s.min_p, NULL, 0.0, true },
    { "min_p", &s.min_p, NULL, 1.0, true },
    { "min_p", &s.min_p, NULL, -0.01, false },
    { "min_p", &s.min_p, NULL, 1.01, false },
    { "min_p", &s.min_p, NULL, NAN, false },
    { "repeat_penalty", &s.repeat_penalty, NULL, 1e-3, true },
    { "repeat_penalty", &s.repeat_penalty, NULL, 100.0, true },
    { "repeat_penalty", &s.repeat_penalty, NULL, 0.0, false },
    { "repeat_penalty", &s.repeat_penalty, NULL, 101.0, false },
    { "repeat_penalty", &s.repeat_penalty, NULL, NAN, false },
    { "presence_penalty", &s.presence_penalty, NULL, -100.0, true },
    { "presence_penalty", &s.presence_penalty, NULL, 100.5, false },
    { "presence_penalty", &s.presence_penalty, NULL, NAN, false },
    { "frequency_penalty", &s.frequency_penalty, NULL, 100.0, true },
    { "frequency_penalty", &s.frequency_penalty, NULL, -INFINITY, false },
    { "frequency_penalty", &s.frequency_penalty, NULL, NAN, false },
    { "top_k", NULL, &s.top_k, 0, true },
    { "top_k", NULL, &s.top_k, GM_TOP_K_ASK_MAX, true },
    { "top_k", NULL, &s.top_k, GM_TOP_K_ASK_MAX + 1, false },
    { "top_k", NULL, &s.top_k, -1, false },
    { "max_tokens", NULL, &s.max_tokens, 1, true },
    { "max_tokens", NULL, &s.max_tokens, INT32_MAX, true },
    { "max_tokens", NULL, &s.max_tokens, 0, false },
    { "max_tokens", NULL, &s.max_tokens, INT32_MIN, false },
    { "logprobs", NULL, &s.logprobs, -1, true },
    { "logprobs", NULL, &s.logprobs, GM_LOGPROBS_MAX, true },
    { "logprobs", NULL, &s.logprobs, GM_LOGPROBS_MAX + 1, false },
    { "logprobs", NULL, &s.logprobs, -2, false },
};

static void test_ranges(void)
{
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        const struct try *t = &tries[i];
        gm_sampling_default(&s);
        if (t->real)
            *t->real = (float)t->value;
        else
            *t->whole = (int32_t)t->value;
        struct gm_err err = GM_ERR_NONE;
        const enum gm_status rc = gm_sampling_check(&s, &err);
        const bool named = t->good || strstr(err.text, t->name) != NULL;
        if (rc != (t->good ? GM_OK : GM_INVALID) || !named)
            printf("\n    %s = %g: status %d, \"%s\"\n", t->name, t->value, (int)rc, err.text);
        CU_ASSERT_EQUAL(rc, t->good ? GM_OK : GM_INVALID);
        CU_ASSERT(named);
    }
}

static enum gm_status check_bias(int32_t id, float value)
{
    gm_sampling_default(&s);
    s.n_bias = 2;
    s.bias[1] = (struct gm_bias){ id, value };
    return gm_sampling_check(&s, NULL);
}

static enum gm_status check_stop(uint32_t n, uint16_t len)
{
    gm_sampling_default(&s);
    s.n_stops = n;
    for (uint32_t i = 0; i < n && i < GM_STOPS_MAX; i++)
        s.stops[i].len = len;
    return gm_sampling_check(&s, NULL);
}

static void test_lists(void)
{
    CU_ASSERT_EQUAL(check_bias(0, -INFINITY), GM_OK);
    CU_ASSERT_EQUAL(check_bias(INT32_MAX, 10000.0f), GM_OK);
    CU_ASSERT_EQUAL(check_bias(-1, 1.0f), GM_INVALID);
    CU_ASSERT_EQUAL(check_bias(5, INFINITY), GM_INVALID);
    CU_ASSERT_EQUAL(check_bias(5, NAN), GM_INVALID);
    CU_ASSERT_EQUAL(check_bias(5, -10001.0f), GM_INVALID);
    gm_sampling_default(&s);
    s.n_bias = GM_BIAS_MAX;
    CU_ASSERT_EQUAL(gm_sampling_check(&s, NULL), GM_OK);
    s.n_bias = GM_BIAS_MAX + 1;
    CU_ASSERT_EQUAL(gm_sampling_check(&s, NULL), GM_INVALID);
    s.n_bias = UINT32_MAX;
    CU_ASSERT_EQUAL(gm_sampling_check(&s, NULL), GM_INVALID);
    CU_ASSERT_EQUAL(check_stop(GM_STOPS_MAX, GM_STOP_BYTES_MAX), GM_OK);
    CU_ASSERT_EQUAL(check_stop(1, 1), GM_OK);
    CU_ASSERT_EQUAL(check_stop(1, 0), GM_INVALID);
    CU_ASSERT_EQUAL(check_stop(1, GM_STOP_BYTES_MAX + 1), GM_INVALID);
    CU_ASSERT_EQUAL(check_stop(GM_STOPS_MAX + 1, 1), GM_INVALID);
    CU_ASSERT_EQUAL(check_stop(UINT32_MAX, 1), GM_INVALID);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("sampling", NULL, NULL);
    if (!suite || !CU_add_test(suite, "defaults", test_default) ||
        !CU_add_test(suite, "ranges", test_ranges) ||
        !CU_add_test(suite, "bias and stop lists", test_lists))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures > 0;
}
