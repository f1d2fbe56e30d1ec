/* test_mapguard.c - mapped files that are cut, written to or replaced while threads read them.
 *
 * Owns:      what gm_mapguard_check says of each, that nothing ends the process, and that a SIGBUS
 *            that is nobody's still does.
 * Does not:  test maps in peace (test_sys.c) or what a shard does (tests/system/test_hostile_disk).
 */
#include "common/common.h"
#include "kernels/pool.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 64, PAGE_BYTES = 4096, BYTES = PAGES * PAGE_BYTES, THREADS = 4, NAME = 200 };

static char folder[NAME], path[NAME + 16];

static void put_whole(const char *where, char fill)
{
    static char bytes[BYTES];
    memset(bytes, fill, sizeof bytes);
    CU_ASSERT_EQUAL_FATAL(gm_file_write(where, bytes, sizeof bytes, 0600, NULL), GM_OK);
}

static struct gm_map map_whole(void)
{
    struct gm_map map;
    put_whole(path, 'w');
    CU_ASSERT_EQUAL_FATAL(gm_map_open(&map, path, 0, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_mapguard_check(NULL), GM_OK);
    return map;
}

/* The mapping's byte, read now: the compiler must not know it. */
static char at(const struct gm_map *map, size_t i)
{
    return ((const volatile char *)map->ptr)[i];
}

static void expect_loss(const char *word)
{
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_mapguard_check(&err), GM_DATA_LOSS);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, path));
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, word));
}

static void test_cut(void)
{
    struct gm_map map = map_whole();
    CU_ASSERT_EQUAL(truncate(path, PAGE_BYTES), 0);
    expect_loss("was cut"); /* before anybody read */
    CU_ASSERT_EQUAL(at(&map, BYTES - 1), 0);
    expect_loss("was cut");
    CU_ASSERT_EQUAL(truncate(path, BYTES), 0); /* as long as before, but not what it was */
    expect_loss("was cut");
    gm_map_close(&map);
    CU_ASSERT_EQUAL(gm_mapguard_check(NULL), GM_OK);
}

/* Less than a page is cut: no signal tells it. */
static void test_cut_a_little(void)
{
    struct gm_map map = map_whole();
    CU_ASSERT_EQUAL(truncate(path, BYTES - 8), 0);
    CU_ASSERT_EQUAL(at(&map, BYTES - 1), 0);
    expect_loss("was cut");
    gm_map_close(&map);
}

static void test_written_to(void)
{
    struct gm_map map = map_whole();
    gm_sleep_ms(20); /* past the file system's clock tick */
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    CU_ASSERT_EQUAL(pwrite(fd, "x", 1, BYTES / 2), 1);
    close(fd);
    CU_ASSERT_EQUAL(at(&map, BYTES / 2), 'x');
    expect_loss("written to");
    gm_map_close(&map);
}

static void test_replaced(void)
{
    struct gm_map map = map_whole();
    put_whole(path, 'n');
    CU_ASSERT_EQUAL(at(&map, 7), 'w');
    CU_ASSERT_EQUAL(gm_mapguard_check(NULL), GM_OK);
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(at(&map, 7), 'w');
    CU_ASSERT_EQUAL(gm_mapguard_check(NULL), GM_OK);
    gm_map_close(&map);
}

/* Workers of a kernel read every page while the file shrinks. */
struct reading {
    const struct gm_map *map;
    _Atomic size_t zeros, wrong;
};

static void read_pages(void *ctx, int32_t begin, int32_t end, int worker)
{
    struct reading *r = ctx;
    (void)worker;
    for (int32_t i = begin; i < end; i++) {
        const char byte = at(r->map, (size_t)i * PAGE_BYTES);
        if (byte == 0)
            atomic_fetch_add(&r->zeros, 1);
        else if (byte != 'w')
            atomic_fetch_add(&r->wrong, 1);
    }
}

static void test_workers(void)
{
    struct gm_pool *pool = gm_pool_new(THREADS);
    CU_ASSERT_PTR_NOT_NULL_FATAL(pool);
    for (int round = 0; round < 20; round++) {
        struct gm_map map = map_whole();
        struct reading r = { .map = &map };
        CU_ASSERT_EQUAL(truncate(path, round * PAGE_BYTES), 0);
        gm_pool_run(pool, PAGES, 1, read_pages, &r);
        CU_ASSERT(atomic_load(&r.zeros) >= 1 && atomic_load(&r.zeros) <= PAGES);
        CU_ASSERT_EQUAL(atomic_load(&r.wrong), 0);
        expect_loss("was cut");
        gm_map_close(&map);
    }
    gm_pool_free(&pool);
}

/* A mapping that is written: a disk that gives no block raises the same signal. */
static void test_writing(void)
{
    put_whole(path, 'w');
    const int fd = open(path, O_RDWR | O_CLOEXEC);
    volatile char *ptr = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CU_ASSERT_EQUAL_FATAL(
        gm_mapguard_add(path, dup(fd), (void *)(uintptr_t)ptr, BYTES, PROT_READ | PROT_WRITE, NULL),
        GM_OK);
    ptr[0] = 'a';
    CU_ASSERT_EQUAL(gm_mapguard_check(NULL), GM_OK);
    CU_ASSERT_EQUAL(ftruncate(fd, 0), 0);
    ptr[BYTES - 1] = 'z';
    CU_ASSERT_EQUAL(ptr[BYTES - 1], 'z');
    expect_loss("was cut");
    gm_mapguard_remove((const void *)(uintptr_t)ptr);
    CU_ASSERT_EQUAL(munmap((void *)(uintptr_t)ptr, BYTES), 0);
    close(fd);
}

static void test_too_many(void)
{
    static struct gm_map maps[GM_MAPS_MAX];
    struct gm_map one_more;
    struct gm_err err = GM_ERR_NONE;
    put_whole(path, 'w');
    for (int i = 0; i < GM_MAPS_MAX; i++)
        CU_ASSERT_EQUAL_FATAL(gm_map_open(&maps[i], path, 0, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_map_open(&one_more, path, 0, &err), GM_EXHAUSTED);
    CU_ASSERT_PTR_NULL(one_more.ptr);
    for (int i = 0; i < GM_MAPS_MAX; i++)
        gm_map_close(&maps[i]);
    CU_ASSERT_EQUAL(gm_map_open(&one_more, path, 0, NULL), GM_OK);
    gm_map_close(&one_more);
}

/* How a child ends that maps the file unguarded, or is sent the signal. */
static int end_of_child(bool sent)
{
    const pid_t child = fork();
    if (child == 0) {
        if (sent)
            kill(getpid(), SIGBUS);
        const int fd = open(path, O_RDWR | O_CLOEXEC);
        const volatile char *ptr = mmap(NULL, BYTES, PROT_READ, MAP_SHARED, fd, 0);
        _exit(ftruncate(fd, 0) == 0 && ptr[PAGE_BYTES] == 0 ? 0 : 1);
    }
    int how = 0;
    CU_ASSERT_EQUAL(waitpid(child, &how, 0), child);
    return WIFSIGNALED(how) ? WTERMSIG(how) : 0;
}

static void test_not_ours(void)
{
    struct gm_map map = map_whole();                                /* the handler stands */
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they report and exit */
    CU_ASSERT_EQUAL(end_of_child(true), SIGBUS);
    CU_ASSERT_EQUAL(end_of_child(false), SIGBUS);
#endif
    gm_map_close(&map);
}

int main(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%.150s/gm-mapguard-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (!mkdtemp(folder) || CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    snprintf(path, sizeof path, "%s/weights", folder);
    CU_pSuite suite = CU_add_suite("mapguard", NULL, NULL);
    CU_add_test(suite, "a file that is cut", test_cut);
    CU_add_test(suite, "by less than a page", test_cut_a_little);
    CU_add_test(suite, "a file that is written to", test_written_to);
    CU_add_test(suite, "a file that is replaced or removed", test_replaced);
    CU_add_test(suite, "worker threads read it", test_workers);
    CU_add_test(suite, "a mapping for writing", test_writing);
    CU_add_test(suite, "too many", test_too_many);
    CU_add_test(suite, "a signal of another cause", test_not_ours);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    unlink(path);
    rmdir(folder);
    return failures ? 1 : 0;
}
