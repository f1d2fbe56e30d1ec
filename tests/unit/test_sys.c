/* test_sys.c - clocks, processes, limits, log and files of common/base.
 *
 * Owns:      the checks of sys.h, limits.h, log.h and fs.h, in a folder of its own under TMPDIR.
 * Does not:  depend on the machine's limits: cgroups are shown as files it writes itself.
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/sys.h"

static char root[GM_PATH_MAX]; /* our temporary folder */

/* root/name; valid until the fourth next call. */
static const char *in_root(const char *name)
{
    static char paths[4][GM_PATH_MAX];
    static size_t turn;
    char *path = paths[turn++ % 4];
    if (gm_path_join(path, GM_PATH_MAX, root, name, NULL) != GM_OK)
        abort();
    return path;
}

/* Writes a text file with the folders above it. */
static void put(const char *name, const char *text)
{
    char path[GM_PATH_MAX];
    struct gm_err err = GM_ERR_NONE;
    (void)snprintf(path, sizeof path, "%s", in_root(name));
    char *slash = strrchr(path, '/');
    *slash = '\0';
    CU_ASSERT_EQUAL_FATAL(gm_dir_make(path, 0700, &err), GM_OK);
    *slash = '/';
    CU_ASSERT_EQUAL_FATAL(gm_file_write(path, text, strlen(text), 0600, &err), GM_OK);
}

/* ---- sys ----------------------------------------------------------------------------------- */

static void test_clocks(void)
{
    int64_t us = gm_now_us();
    int64_t ms = gm_now_ms();
    gm_sleep_ms(-5);
    gm_sleep_ms(0);
    gm_sleep_ms(3);
    CU_ASSERT(gm_now_us() - us >= 3000);
    CU_ASSERT(ms - us / 1000 >= 0 && gm_now_ms() - ms >= 2);
    CU_ASSERT(gm_wall_ms() > INT64_C(1700000000000));
}

static void test_random(void)
{
    char a[GM_ID_BYTES];
    char b[GM_ID_BYTES];
    gm_random_id(a, GM_ID_DIGITS);
    gm_random_id(b, GM_ID_DIGITS);
    CU_ASSERT_EQUAL(strspn(a, "0123456789abcdef"), GM_ID_DIGITS);
    CU_ASSERT_EQUAL(strlen(a), GM_ID_DIGITS);
    CU_ASSERT_STRING_NOT_EQUAL(a, b);
    gm_random_id(a, 0);
    CU_ASSERT_STRING_EQUAL(a, "");
    gm_random_id(a, 7);
    CU_ASSERT_EQUAL(strlen(a), 7);
    char most[GM_ID_DIGITS_MAX + 1];
    gm_random_id(most, SIZE_MAX); /* cut to the named limit */
    CU_ASSERT_EQUAL(strlen(most), GM_ID_DIGITS_MAX);
    CU_ASSERT(gm_random_u64() != gm_random_u64());
    gm_random_bytes(NULL, 0);
}

static void test_stop(void)
{
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_stop_signals(&err), GM_OK);
    CU_ASSERT_FALSE(gm_stopping());
    (void)raise(SIGPIPE); /* ignored */
    CU_ASSERT_FALSE(gm_stopping());
    (void)raise(SIGTERM);
    CU_ASSERT_TRUE(gm_stopping());
    CU_ASSERT_EQUAL(gm_stop_signal(), SIGTERM);
    gm_stop_clear();
    CU_ASSERT_FALSE(gm_stopping());
    gm_stop_ask();
    CU_ASSERT_TRUE(gm_stopping());
    CU_ASSERT_EQUAL(gm_stop_signal(), 0);
    gm_stop_clear();
    /* A blocking read is interrupted rather than restarted. */
    int ends[2];
    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 100 && getppid() == parent; i++) {
            gm_sleep_ms(20);
            (void)kill(parent, SIGINT);
        }
        _exit(0);
    }
    char byte = 0;
    errno = 0;
    CU_ASSERT(read(ends[0], &byte, 1) < 0 && errno == EINTR);
    CU_ASSERT_EQUAL(gm_stop_signal(), SIGINT);
    (void)kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    (void)close(ends[0]);
    (void)close(ends[1]);
    gm_stop_clear();
}

static void test_processes(void)
{
    struct gm_err err = GM_ERR_NONE;
    uint64_t ticks = 0;
    uint64_t bytes = 0;
    CU_ASSERT_EQUAL(gm_pid_start(getpid(), &ticks, &err), GM_OK);
    CU_ASSERT(ticks > 0);
    CU_ASSERT_TRUE(gm_pid_alive(getpid(), ticks));
    CU_ASSERT_FALSE(gm_pid_alive(getpid(), ticks + 1)); /* the pid was given to another */
    CU_ASSERT_FALSE(gm_pid_alive(0, ticks));
    CU_ASSERT_FALSE(gm_pid_alive(-1, ticks));
    CU_ASSERT_EQUAL(gm_pid_start(INT64_MAX, &ticks, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_pid_start(-1, &ticks, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_pid_rss_bytes(0, &bytes, &err), GM_OK);
    CU_ASSERT(bytes > 100000);
    CU_ASSERT_EQUAL(gm_pid_rss_bytes(INT32_MAX, &bytes, &err), GM_NOT_FOUND);

    int ends[2];
    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        (void)close(ends[1]);
        (void)!read(ends[0], &byte, 1);
        _exit(0);
    }
    CU_ASSERT_EQUAL(gm_pid_start(child, &ticks, &err), GM_OK);
    CU_ASSERT_TRUE(gm_pid_alive(child, ticks));
    (void)close(ends[1]);
    siginfo_t info;
    (void)waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT);
    CU_ASSERT_FALSE(gm_pid_alive(child, ticks)); /* a zombie now */
    (void)waitpid(child, NULL, 0);
    CU_ASSERT_FALSE(gm_pid_alive(child, ticks));
    CU_ASSERT_EQUAL(gm_pid_start(child, &ticks, &err), GM_NOT_FOUND);
    (void)close(ends[0]);

    char dir[GM_PATH_MAX];
    CU_ASSERT_EQUAL(gm_self_dir(dir, sizeof dir, &err), GM_OK);
    CU_ASSERT(dir[0] == '/' && gm_path_exists(dir));
    CU_ASSERT_EQUAL(gm_self_dir(dir, 2, &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_self_dir(dir, 0, &err), GM_RANGE);
}

/* ---- limits: machines written as files ------------------------------------------------------- */

static uint64_t memory_of(const char *machine)
{
    char proc[64];
    char cgroup[64];
    uint64_t bytes = 0;
    struct gm_err err = GM_ERR_NONE;
    (void)snprintf(proc, sizeof proc, "%s/proc", machine);
    (void)snprintf(cgroup, sizeof cgroup, "%s/cg", machine);
    CU_ASSERT_EQUAL(gm_limits_memory_bytes(in_root(proc), in_root(cgroup), &bytes, &err), GM_OK);
    return bytes;
}

static uint32_t cpus_of(const char *machine, uint32_t n)
{
    char proc[64];
    char cgroup[64];
    (void)snprintf(proc, sizeof proc, "%s/proc", machine);
    (void)snprintf(cgroup, sizeof cgroup, "%s/cg", machine);
    return gm_limits_cpus(in_root(proc), in_root(cgroup), n);
}

static void test_limits_v2(void)
{
    put("v2/proc/meminfo", "MemTotal:       9 kB\nMemFree: 1 kB\nMemAvailable:   1000000 kB\n");
    CU_ASSERT_EQUAL(memory_of("v2"), 1024000000);
    CU_ASSERT_EQUAL(cpus_of("v2", 8), 8);
    put("v2/proc/self/cgroup", "0::/pod/box\n");
    put("v2/cg/pod/box/memory.max", "max\n");
    put("v2/cg/pod/box/memory.current", "7\n");
    put("v2/cg/pod/box/cpu.max", "max 100000\n");
    CU_ASSERT_EQUAL(memory_of("v2"), 1024000000);
    CU_ASSERT_EQUAL(cpus_of("v2", 8), 8);
    /* The group above has the limits; page cache it can drop counts as free. */
    put("v2/cg/pod/memory.max", "500000000\n");
    put("v2/cg/pod/memory.current", "300000000\n");
    put("v2/cg/pod/cpu.max", "250000 100000\n");
    CU_ASSERT_EQUAL(memory_of("v2"), 200000000);
    CU_ASSERT_EQUAL(cpus_of("v2", 8), 3);
    CU_ASSERT_EQUAL(cpus_of("v2", 2), 2);
    put("v2/cg/pod/memory.stat", "anon 5\ninactive_file 100000000\nxinactive_file 9\n");
    CU_ASSERT_EQUAL(memory_of("v2"), 300000000);
    put("v2/cg/pod/box/memory.max", "5\n"); /* over its limit: nothing left */
    CU_ASSERT_EQUAL(memory_of("v2"), 0);
    /* Inside a container our path may be one that only the host sees. */
    put("v2/proc/self/cgroup", "0::/../other\n");
    put("v2/cg/memory.max", "4000\n");
    put("v2/cg/memory.current", "1000\n");
    put("v2/cg/cpu.max", "10000 100000\n");
    CU_ASSERT_EQUAL(memory_of("v2"), 3000);
    CU_ASSERT_EQUAL(cpus_of("v2", 8), 1);
}

static void test_limits_v1(void)
{
    put("v1/proc/meminfo", "MemAvailable: 1000000 kB\n");
    put("v1/proc/self/cgroup",
        "4:memory:/a/b\n3:cpu,cpuacct:/a\n2:cpuset:/\n1:name=systemd:/\n0::/\n");
    put("v1/cg/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("v1/cg/memory/a/b/memory.usage_in_bytes", "100\n");
    put("v1/cg/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
    put("v1/cg/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
    CU_ASSERT_EQUAL(memory_of("v1"), 1024000000);
    CU_ASSERT_EQUAL(cpus_of("v1", 4), 4);
    put("v1/cg/memory/a/memory.limit_in_bytes", "1000000\n");
    put("v1/cg/memory/a/memory.usage_in_bytes", "600000\n");
    put("v1/cg/memory/a/memory.stat", "inactive_file 7\ntotal_inactive_file 100000\n");
    put("v1/cg/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
    put("v1/cg/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    CU_ASSERT_EQUAL(memory_of("v1"), 500000);
    CU_ASSERT_EQUAL(cpus_of("v1", 4), 2);
    put("v1/cg/cpu,cpuacct/cpu.cfs_period_us", "0\n"); /* nonsense is no limit */
    CU_ASSERT_EQUAL(cpus_of("v1", 4), 4);
}

static void test_limits_odd(void)
{
    uint64_t bytes = 0;
    struct gm_err err = GM_ERR_NONE;
    put("odd/proc/meminfo", "MemTotal: 5 kB\n");
    CU_ASSERT_EQUAL(gm_limits_memory_bytes(in_root("odd/proc"), in_root("odd/cg"), &bytes, &err),
                    GM_INTERNAL);
    CU_ASSERT_EQUAL(gm_limits_memory_bytes(in_root("none"), in_root("none"), &bytes, &err),
                    GM_INTERNAL);
    put("odd/proc/meminfo", "MemAvailable: 18446744073709551615 kB\n");
    CU_ASSERT_EQUAL(gm_limits_memory_bytes(in_root("odd/proc"), in_root("odd/cg"), &bytes, &err),
                    GM_INTERNAL);
    put("odd/proc/meminfo", "MemAvailable: 10 kB");
    static const char *const texts[] = {
        "", "\n\n", ":", "::", "0:", "0::", "0:::", "x\n:\n", "1:,,memory,:\n", "9:memory:"
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        put("odd/proc/self/cgroup", texts[i]);
        CU_ASSERT_EQUAL(memory_of("odd"), 10240);
        CU_ASSERT_EQUAL(cpus_of("odd", 3), 3);
    }
    CU_ASSERT_EQUAL(cpus_of("odd", 0), 1);
    CU_ASSERT_EQUAL(cpus_of("odd", UINT32_MAX), GM_CPUS_MAX);
    CU_ASSERT_EQUAL(gm_memory_available_bytes(&bytes, &err), GM_OK); /* this machine */
    CU_ASSERT(bytes > 0);
    CU_ASSERT(gm_cpus_usable() >= 1 && gm_cpus_usable() <= GM_CPUS_MAX);
}

/* ---- log ----------------------------------------------------------------------------------- */

static void test_log(void)
{
    int ends[2];
    static char text[4 * GM_LOG_LINE_MAX];
    static char lots[2 * GM_LOG_LINE_MAX];
    CU_ASSERT_EQUAL_FATAL(pipe(ends), 0);
    (void)setenv("GM_LOG", "warn", 1);
    gm_log_open("a-role-name-that-is-longer-than-its-limit", ends[1]);
    CU_ASSERT_FALSE(gm_log_on(GM_LOG_INFO));
    CU_ASSERT_TRUE(gm_log_on(GM_LOG_WARN));
    gm_info("unseen");
    (void)setenv("GM_LOG", "loud", 1);
    gm_log_open("shard", ends[1]);
    (void)unsetenv("GM_LOG");
    gm_debug("unseen too");
    errno = ENOENT;
    gm_info("row turn=%s pos=%d", "9f\n2026 fake line\x1b[31m", 17);
    CU_ASSERT_EQUAL(errno, ENOENT);
    struct gm_err err = GM_ERR_NONE;
    (void)gm_fail(&err, GM_EXHAUSTED, "needs 7 pages");
    gm_log_err(GM_LOG_ERROR, "step failed", &err);
    memset(lots, 'x', sizeof lots - 1);
    gm_warn("%s", lots);
    gm_log_open(NULL, 2);
    (void)close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    (void)close(ends[0]);
    text[n] = '\0';
    CU_ASSERT_PTR_NULL(strstr(text, "unseen"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "GM_LOG=loud is none of"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "Z info  shard["));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "row turn=9f\\x0a2026 fake line\\x1b[31m pos=17\n"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "step failed: needs 7 pages status=RESOURCE_EXHAUSTED"));
    size_t lines = 0;
    for (const char *line = text; *line != '\0'; lines++) {
        const char *end = strchr(line, '\n');
        CU_ASSERT_PTR_NOT_NULL_FATAL(end);
        CU_ASSERT(end + 1 - line <= GM_LOG_LINE_MAX);
        line = end + 1;
    }
    CU_ASSERT_EQUAL(lines, 4);

    struct gm_log_limit limit = { .burst = 2, .per_ms = 30 };
    uint32_t dropped = 99;
    CU_ASSERT(gm_log_pass(&limit, &dropped) && dropped == 0);
    CU_ASSERT(gm_log_pass(&limit, NULL));
    CU_ASSERT_FALSE(gm_log_pass(&limit, &dropped));
    CU_ASSERT_FALSE(gm_log_pass(&limit, &dropped));
    gm_sleep_ms(40);
    CU_ASSERT(gm_log_pass(&limit, &dropped) && dropped == 2);
}

/* ---- files --------------------------------------------------------------------------------- */

static void test_files(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf b = GM_BUF(8);
    struct stat st;
    CU_ASSERT_EQUAL(gm_file_write(in_root("f"), "a\0b45678", 8, 0640, &err), GM_OK);
    CU_ASSERT_EQUAL(stat(in_root("f"), &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 07777, 0640);
    CU_ASSERT_EQUAL(gm_file_read(in_root("f"), &b, &err), GM_OK);
    CU_ASSERT(b.len == 8 && memcmp(b.data, "a\0b45678", 9) == 0);
    CU_ASSERT_EQUAL(gm_file_read(in_root("f"), &b, &err), GM_EXHAUSTED); /* no room behind it */
    CU_ASSERT_EQUAL(b.len, 8);
    gm_buf_clear(&b);
    CU_ASSERT_EQUAL(gm_file_write(in_root("f"), "123456789", 9, 0600, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_file_read(in_root("f"), &b, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(b.len, 0);
    CU_ASSERT_EQUAL(gm_file_read("/proc/self/status", &b, &err), GM_EXHAUSTED); /* size 0 */
    CU_ASSERT_EQUAL(b.len, 0);
    CU_ASSERT_EQUAL(gm_file_read(in_root("absent"), &b, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_file_read(root, &b, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_file_write(in_root("f"), NULL, 0, 0600, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_file_read(in_root("f"), &b, &err), GM_OK);
    CU_ASSERT_EQUAL(b.len, 0);
    gm_buf_free(&b);
    struct gm_buf big = GM_BUF(100000);
    CU_ASSERT_EQUAL(gm_file_read("/proc/self/status", &big, &err), GM_OK);
    CU_ASSERT_PTR_NOT_NULL(strstr(gm_buf_text(&big), "VmRSS"));
    gm_buf_free(&big);
    CU_ASSERT_EQUAL(gm_file_write(in_root("no/such/f"), "x", 1, 0600, &err), GM_NOT_FOUND);
    /* A failed replacement leaves nothing behind: a folder cannot be replaced by a file. */
    CU_ASSERT_EQUAL(gm_dir_make(in_root("only/dir"), 0700, &err), GM_OK);
    CU_ASSERT_NOT_EQUAL(gm_file_write(in_root("only/dir"), "x", 1, 0600, &err), GM_OK);
    CU_ASSERT_EQUAL(rmdir(in_root("only/dir")), 0);
    CU_ASSERT_EQUAL(rmdir(in_root("only")), 0);
}

static void test_new_file(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_newfile f;
    struct gm_buf b = GM_BUF(64);
    CU_ASSERT_EQUAL_FATAL(gm_newfile_open(&f, in_root("new"), 0600, 12, &err), GM_OK);
    CU_ASSERT(!gm_path_exists(in_root("new")) && gm_path_exists(f.temp));
    CU_ASSERT_EQUAL(gm_newfile_write(&f, 6, "end", 3, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_newfile_write(&f, 0, "begin", 5, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_newfile_commit(&f, false, &err), GM_OK);
    CU_ASSERT(!gm_path_exists(f.temp));
    CU_ASSERT_EQUAL(gm_file_read(in_root("new"), &b, &err), GM_OK);
    CU_ASSERT(b.len == 12 && memcmp(b.data, "begin\0end\0\0\0", 12) == 0);
    /* The name was taken in the meantime. */
    CU_ASSERT_EQUAL_FATAL(gm_newfile_open(&f, in_root("new"), 0600, 0, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_newfile_commit(&f, false, &err), GM_EXISTS);
    CU_ASSERT(!gm_path_exists(f.temp));
    CU_ASSERT_EQUAL_FATAL(gm_newfile_open(&f, in_root("new"), 0600, 0, &err), GM_OK);
    gm_newfile_drop(&f);
    gm_newfile_drop(&f);
    CU_ASSERT(!gm_path_exists(f.temp));
    gm_buf_clear(&b);
    CU_ASSERT_EQUAL(gm_file_read(in_root("new"), &b, &err), GM_OK);
    CU_ASSERT_EQUAL(b.len, 12);
    gm_buf_free(&b);
    CU_ASSERT_EQUAL(gm_newfile_open(&f, in_root("big"), 0600, UINT64_C(1) << 60, &err),
                    GM_EXHAUSTED);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "GiB free"));
    CU_ASSERT(!gm_path_exists(f.temp));
    CU_ASSERT_EQUAL(gm_newfile_open(&f, root, 0600, 0, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_newfile_open(&f, "/dev/null", 0600, 0, &err), GM_INVALID);
}

static void test_paths(void)
{
    struct gm_err err = GM_ERR_NONE;
    char path[16];
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "/a//", "b", &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "/a/b");
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, path, "c", &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "/a/b/c");
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "/", "b", &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "/b");
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "", "b", &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "b");
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "1234567", "9012345", &err), GM_OK);
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "1234567", "90123456", &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "", "0123456789abcdef", &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_path_join(path, 0, "", "b", &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_path_join(path, 1, "", "b", &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "/a", "", &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_path_join(path, sizeof path, "/a", "/b", &err), GM_INVALID);

    CU_ASSERT_EQUAL(gm_dir_make(in_root("x//y/z/"), 0750, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_dir_make(in_root("x/y/z"), 0750, &err), GM_OK);
    CU_ASSERT_TRUE(gm_path_exists(in_root("x/y/z")));
    CU_ASSERT_FALSE(gm_path_exists(in_root("x/y/w")));
    put("x/file", "1");
    CU_ASSERT_EQUAL(gm_dir_make(in_root("x/file"), 0700, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_dir_make(in_root("x/file/below"), 0700, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_dir_make("", 0700, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_dir_make("/", 0700, &err), GM_OK);
    char lots[GM_PATH_MAX + 10];
    memset(lots, 'a', sizeof lots - 1);
    lots[sizeof lots - 1] = '\0';
    CU_ASSERT_EQUAL(gm_dir_make(lots, 0700, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_file_write(lots, "x", 1, 0600, &err), GM_INVALID);

    (void)setenv("XDG_STATE_HOME", "/st", 1);
    (void)setenv("XDG_CACHE_HOME", "relative", 1);
    (void)setenv("HOME", "/h", 1);
    CU_ASSERT_EQUAL(gm_state_home(path, sizeof path, &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "/st");
    CU_ASSERT_EQUAL(gm_state_home(path, 3, &err), GM_RANGE);
    CU_ASSERT_EQUAL(gm_cache_home(path, sizeof path, &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(path, "/h/.cache");
    CU_ASSERT_EQUAL(gm_cache_home(path, 4, &err), GM_RANGE);
    (void)unsetenv("HOME");
    CU_ASSERT_EQUAL(gm_cache_home(path, sizeof path, &err), GM_PRECONDITION);
}

static void test_lock(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_lock a;
    struct gm_lock b;
    put("lock-garbage", "not a pid, and quite a bit longer than any pid may ever be\n");
    CU_ASSERT_EQUAL(gm_lock_open(&a, in_root("lock-garbage"), &err), GM_OK);
    gm_lock_close(&a);
    CU_ASSERT_EQUAL_FATAL(gm_lock_open(&a, in_root("lock"), &err), GM_OK);
    CU_ASSERT_EQUAL(a.holder, getpid());
    CU_ASSERT_EQUAL(gm_lock_open(&b, in_root("lock"), &err), GM_UNAVAILABLE);
    CU_ASSERT_EQUAL(b.holder, getpid());
    CU_ASSERT_EQUAL(b.fd, -1);
    gm_lock_close(&b); /* must not end a's lock */
    pid_t child = fork();
    if (child == 0) {
        (void)close(a.fd);
        _exit(gm_lock_open(&b, in_root("lock"), NULL) == GM_UNAVAILABLE && b.holder == getppid()
                  ? 0
                  : 1);
    }
    int status = -1;
    (void)waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    gm_lock_close(&a);
    gm_lock_close(&a);
    CU_ASSERT_EQUAL(gm_lock_open(&b, in_root("lock"), &err), GM_OK);
    gm_lock_close(&b);
    /* A holder that dies gives the lock back. */
    child = fork();
    if (child == 0)
        _exit(gm_lock_open(&b, in_root("lock"), NULL) == GM_OK ? 0 : 1);
    (void)waitpid(child, &status, 0);
    CU_ASSERT_EQUAL(status, 0);
    CU_ASSERT_EQUAL(gm_lock_open(&a, in_root("lock"), &err), GM_OK);
    gm_lock_close(&a);
    CU_ASSERT_EQUAL(symlink(in_root("x/file"), in_root("link")), 0);
    CU_ASSERT_EQUAL(gm_lock_open(&a, in_root("link"), &err), GM_INVALID); /* follows no link */
    CU_ASSERT_EQUAL(gm_lock_open(&a, in_root("no/lock"), &err), GM_NOT_FOUND);
}

static int temps_seen; /* files that gm_file_write left behind */

static int see_temp(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    size_t n = strlen(path);
    temps_seen += n > 4 && strcmp(path + n - 4, ".tmp") == 0;
    return 0;
}

static int see_remove(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static void test_map(void)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_map map;
    put("map", "weights");
    put("empty", "");
    CU_ASSERT_EQUAL_FATAL(gm_map_open(&map, in_root("map"), 0, &err), GM_OK);
    CU_ASSERT(map.len == 7 && memcmp(map.ptr, "weights", 7) == 0);
    put("map", "changed"); /* replaced by rename: the old map stays whole */
    CU_ASSERT_EQUAL(memcmp(map.ptr, "weights", 7), 0);
    gm_map_close(&map);
    gm_map_close(&map);
    CU_ASSERT_EQUAL(gm_map_open(&map, in_root("map"), 6, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_map_open(&map, in_root("map"), 7, &err), GM_OK);
    gm_map_close(&map);
    CU_ASSERT_EQUAL(gm_map_open(&map, in_root("empty"), 0, &err), GM_OK);
    CU_ASSERT(map.ptr == NULL && map.len == 0);
    gm_map_close(&map);
    CU_ASSERT_EQUAL(gm_map_open(&map, root, 0, &err), GM_INVALID);
    CU_ASSERT_EQUAL(gm_map_open(&map, "/dev/zero", 0, &err), GM_INVALID);
    CU_ASSERT_EQUAL(mkfifo(in_root("fifo"), 0600), 0);
    CU_ASSERT_EQUAL(gm_map_open(&map, in_root("fifo"), 0, &err), GM_INVALID); /* does not hang */
    CU_ASSERT_EQUAL(gm_map_open(&map, in_root("absent"), 0, &err), GM_NOT_FOUND);
    CU_ASSERT_PTR_NOT_NULL(strstr(err.text, "absent cannot be opened"));
    /* No temporary file is left in our folder by all of the above. */
    temps_seen = 0;
    CU_ASSERT_EQUAL(nftw(root, see_temp, 8, FTW_PHYS), 0);
    CU_ASSERT_EQUAL(temps_seen, 0);
}

static int open_root(void)
{
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(root, sizeof root, "%s/gm-sys-XXXXXX",
                   tmp != NULL && tmp[0] == '/' ? tmp : "/tmp");
    return mkdtemp(root) == NULL ? 1 : 0;
}

static int close_root(void)
{
    return nftw(root, see_remove, 8, FTW_PHYS | FTW_DEPTH) == 0 ? 0 : 1;
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_TestInfo tests[] = {
        { "clocks", test_clocks },
        { "randomness", test_random },
        { "stop signals", test_stop },
        { "processes", test_processes },
        { "limits: cgroup v2", test_limits_v2 },
        { "limits: cgroup v1", test_limits_v1 },
        { "limits: odd files", test_limits_odd },
        { "log", test_log },
        { "files", test_files },
        { "new files piece by piece", test_new_file },
        { "paths", test_paths },
        { "lock", test_lock },
        { "map", test_map },
        CU_TEST_INFO_NULL,
    };
    CU_SuiteInfo suites[] = { { "sys", open_root, close_root, NULL, NULL, tests },
                              CU_SUITE_INFO_NULL };
    if (CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
