// uses: services/cli/state.c services/cli/home.c services/cli/net.c
// libs: -ljansson
/* test_state.c - the state file of a pipeline: what is read is what was written, and no file makes
 * a process of another number.
 *
 * Owns:      the checks of gm_state_store and gm_state_load.
 * Does not:  start or end processes.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/cli.h"

static struct gm_home home;
static struct gm_state in, out;
static char path[GM_PATH_MAX];

static void fill(void)
{
    memset(&in, 0, sizeof in);
    in.ready = true;
    in.supervisor_pid = 77;
    in.supervisor_start = 1234567;
    (void)snprintf(in.set.model, sizeof in.set.model, "/models/m.gguf");
    in.set.threads = 3;
    in.n = 1;
    (void)snprintf(in.procs[0].role, sizeof in.procs[0].role, "shard");
    in.procs[0].pid = 78;
    in.procs[0].start = 1234568;
    in.procs[0].end = 18;
}

static void test_round(void)
{
    struct gm_err err = GM_ERR_NONE;
    fill();
    CU_ASSERT_EQUAL_FATAL(gm_state_store(&in, &home, &err), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_state_load(&out, &home, &err), GM_OK);
    CU_ASSERT(out.ready && !out.single && out.supervisor_pid == 77 && out.n == 1);
    CU_ASSERT_STRING_EQUAL(out.set.model, in.set.model);
    CU_ASSERT_EQUAL(out.set.threads, 3);
    CU_ASSERT_STRING_EQUAL(out.procs[0].role, "shard");
    CU_ASSERT(out.procs[0].pid == 78 && out.procs[0].start == 1234568 && out.procs[0].end == 18);
    CU_ASSERT_EQUAL(gm_state_compare(&out, &in.set, &err), GM_OK);
}

/* A number beyond pid_t would be cut to that of some other process, perhaps to 1 or -1. */
static void test_wrong_pids(void)
{
    static const int64_t wrong[] = { -1, -5, (int64_t)1 << 32 | 1, INT64_MAX,
                                     (int64_t)INT32_MAX + 1 };
    struct gm_err err = GM_ERR_NONE;
    for (size_t i = 0; i < 2 * (sizeof wrong / sizeof *wrong); i++) {
        fill();
        if (i % 2 == 0)
            in.procs[0].pid = wrong[i / 2];
        else
            in.supervisor_pid = wrong[i / 2];
        CU_ASSERT_EQUAL_FATAL(gm_state_store(&in, &home, &err), GM_OK);
        CU_ASSERT_EQUAL(gm_state_load(&out, &home, &err), GM_DATA_LOSS);
    }
}

static void test_damaged(void)
{
    static const char *const texts[] = { "", "{", "[]", "{\"private\":false}",
                                         "{\"private\":false,\"ready\":true,\"pid\":1,\"start\":2,"
                                         "\"options\":[],\"processes\":[{}]}" };
    struct gm_err err = GM_ERR_NONE;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        CU_ASSERT_EQUAL_FATAL(gm_file_write(path, texts[i], strlen(texts[i]), 0600, &err), GM_OK);
        CU_ASSERT_EQUAL(gm_state_load(&out, &home, &err), GM_DATA_LOSS);
    }
    gm_state_remove(&home);
    CU_ASSERT_EQUAL(gm_state_load(&out, &home, &err), GM_NOT_FOUND);
}

int main(void)
{
    char dir[] = "/tmp/gmstateXXXXXX";
    if (mkdtemp(dir) == NULL || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    (void)snprintf(home.dir, sizeof home.dir, "%s", dir);
    (void)snprintf(home.run, sizeof home.run, "%s", dir);
    if (gm_home_path(path, &home, "state.json", NULL) != GM_OK)
        return 2;
    CU_pSuite suite = CU_add_suite("state of a pipeline", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "written and read", test_round) ||
        !CU_add_test(suite, "processes of impossible numbers", test_wrong_pids) ||
        !CU_add_test(suite, "damaged files", test_damaged))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    (void)rmdir(dir);
    return failures > 0;
}
