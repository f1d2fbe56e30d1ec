/* limits.c - how much memory and how many CPUs this process may use.
 *
 * Owns:      reading /proc/meminfo, /proc/self/cgroup and the cgroup v1 and v2 files.
 * Does not:  set limits, or guess when a file is absent: an absent file is no limit.
 * Source:    the kernel's admin-guide: cgroup-v2.rst (memory.max, memory.current, memory.stat,
 *            cpu.max), cgroup-v1/memory.rst (memory.limit_in_bytes, memory.usage_in_bytes) and
 *            sched-bwc.rst (cpu.cfs_quota_us, cpu.cfs_period_us).
 */
#include "common/base/limits.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/sys.h"

enum {
    PATH_BYTES_MAX = 4096,
    FILE_BYTES_MAX = 16384, /* meminfo and memory.stat are a few KiB */
    LEVELS_MAX = 64,        /* depth of cgroups looked at */
};

/* One cgroup memory interface: below which folder, which files, which word of memory.stat is page
 * cache that can be dropped.                                                                  */
struct memory_files {
    const char *mount; /* below the cgroup root; "" for v2 */
    const char *controller;
    const char *limit;
    const char *usage;
    const char *cache;
};

static const struct memory_files memory_rows[] = {
    { "", "", "memory.max", "memory.current", "inactive_file" },
    { "/unified", "", "memory.max", "memory.current", "inactive_file" },
    { "/memory", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
      "total_inactive_file" },
};

static const struct cpu_files {
    const char *mount;
    const char *controller;
    const char *quota;  /* v2: "quota period" or "max period" in one file */
    const char *period; /* NULL in v2 */
} cpu_rows[] = {
    { "", "", "cpu.max", NULL },
    { "/unified", "", "cpu.max", NULL },
    { "/cpu", "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us" },
    { "/cpu,cpuacct", "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us" },
};

/* Reads dir/name into text[FILE_BYTES_MAX]; false when it cannot be read. Cut when longer. */
static bool file_text(const char *dir, const char *name, char *text)
{
    char path[2 * PATH_BYTES_MAX];
    int wrote = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (wrote < 0 || (size_t)wrote >= sizeof path)
        return false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    size_t len = 0;
    ssize_t got = 1;
    while (got > 0 && len < FILE_BYTES_MAX - 1) {
        got = read(fd, text + len, FILE_BYTES_MAX - 1 - len);
        if (got > 0)
            len += (size_t)got;
        else if (got < 0 && errno == EINTR)
            got = 1;
    }
    (void)close(fd);
    text[len] = '\0';
    return got >= 0 && len > 0;
}

/* A number at the start of the text; false for "max", "-1" or anything else. */
static bool number_at(const char *text, uint64_t *out)
{
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoull(text, NULL, 10);
    return errno == 0;
}

static bool file_number(const char *dir, const char *name, uint64_t *out)
{
    char text[FILE_BYTES_MAX];
    return file_text(dir, name, text) && number_at(text, out);
}

/* The number behind `word` at the start of a line. */
static bool word_number(const char *text, const char *word, uint64_t *out)
{
    size_t n = strlen(word);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, word, n) == 0 && (line[n] == ' ' || line[n] == ':'))
            return number_at(line + n + 1 + strspn(line + n + 1, " \t"), out);
    }
    return false;
}

/* Our path of a controller ("" is v2) from the text of /proc/self/cgroup, lines of
 * "id:controller,controller:/path", into path[PATH_BYTES_MAX]. False when it is not listed.   */
static bool cgroup_path(const char *text, const char *controller, char *path)
{
    size_t want = strlen(controller);
    for (const char *line = text; *line != '\0';) {
        const char *end = strchrnul(line, '\n');
        const char *list = memchr(line, ':', (size_t)(end - line));
        const char *colon = list == NULL ? NULL : memchr(list + 1, ':', (size_t)(end - list - 1));
        bool ours = colon != NULL && want == 0 && colon == list + 1;
        for (const char *word = list; colon != NULL && want > 0 && word < colon;) {
            const char *next = memchr(word + 1, ',', (size_t)(colon - word - 1));
            const char *stop = next == NULL ? colon : next;
            ours |= (size_t)(stop - word - 1) == want && memcmp(word + 1, controller, want) == 0;
            word = stop;
        }
        size_t n = ours ? (size_t)(end - colon - 1) : 0;
        if (ours && n > 0 && n < PATH_BYTES_MAX) {
            memcpy(path, colon + 1, n);
            path[n] = '\0';
            return true;
        }
        line = *end == '\0' ? end : end + 1;
    }
    return false;
}

/* Calls see(row, folder, result) for our group's folder and each above it up to the mount. In a
 * container our path may name folders that only the host sees; those simply do not exist.     */
static void walk_up(const char *root, const char *mount, const char *path,
                    void (*see)(const void *row, const char *dir, void *result), const void *row,
                    void *result)
{
    char dir[2 * PATH_BYTES_MAX];
    int top = snprintf(dir, sizeof dir, "%s%s", root, mount);
    if (top < 0 || (size_t)top >= PATH_BYTES_MAX)
        return;
    if (path[0] == '/' && path[1] != '\0' && strstr(path, "/..") == NULL)
        (void)snprintf(dir + top, sizeof dir - (size_t)top, "%s", path);
    for (int level = 0; level < LEVELS_MAX; level++) {
        see(row, dir, result);
        char *slash = strrchr(dir, '/');
        if (slash == NULL || slash < dir + top)
            break;
        *slash = '\0';
    }
}

/* Lowers *result (uint64_t) to what this folder leaves of its limit. */
static void see_memory(const void *row, const char *dir, void *result)
{
    const struct memory_files *files = row;
    uint64_t *left = result;
    uint64_t limit = 0;
    uint64_t usage = 0;
    uint64_t cache = 0;
    if (!file_number(dir, files->limit, &limit) || !file_number(dir, files->usage, &usage))
        return;
    char text[FILE_BYTES_MAX];
    if (!file_text(dir, "memory.stat", text) || !word_number(text, files->cache, &cache))
        cache = 0;
    uint64_t held = usage > cache ? usage - cache : 0;
    uint64_t here = limit > held ? limit - held : 0;
    if (here < *left)
        *left = here;
}

enum gm_status gm_limits_memory_bytes(const char *proc, const char *cgroup, uint64_t *bytes,
                                      struct gm_err *err)
{
    char text[FILE_BYTES_MAX];
    char path[PATH_BYTES_MAX];
    uint64_t kib = 0;
    if (!file_text(proc, "meminfo", text) || !word_number(text, "MemAvailable", &kib) ||
        kib > UINT64_MAX / 1024)
        return gm_fail(err, GM_INTERNAL, "%s/meminfo has no MemAvailable line: mount /proc", proc);
    uint64_t left = kib * 1024;
    if (file_text(proc, "self/cgroup", text))
        for (size_t i = 0; i < sizeof memory_rows / sizeof memory_rows[0]; i++)
            if (cgroup_path(text, memory_rows[i].controller, path))
                walk_up(cgroup, memory_rows[i].mount, path, see_memory, &memory_rows[i], &left);
    *bytes = left;
    return GM_OK;
}

/* Lowers *result (uint32_t) to this folder's quota. */
static void see_cpus(const void *row, const char *dir, void *result)
{
    const struct cpu_files *files = row;
    uint32_t *n = result;
    uint64_t quota = 0;
    uint64_t period = 0;
    char text[FILE_BYTES_MAX];
    if (!file_text(dir, files->quota, text) || !number_at(text, &quota))
        return;
    const char *space = strchr(text, ' ');
    bool known = files->period != NULL ? file_number(dir, files->period, &period)
                                       : space != NULL && number_at(space + 1, &period);
    if (!known || period == 0 || quota == 0)
        return;
    uint64_t cpus = quota / period + (quota % period != 0);
    if (cpus < *n)
        *n = (uint32_t)cpus;
}

uint32_t gm_limits_cpus(const char *proc, const char *cgroup, uint32_t n_affinity)
{
    char text[FILE_BYTES_MAX];
    char path[PATH_BYTES_MAX];
    uint32_t n = n_affinity < 1 ? 1 : n_affinity > GM_CPUS_MAX ? GM_CPUS_MAX : n_affinity;
    if (file_text(proc, "self/cgroup", text))
        for (size_t i = 0; i < sizeof cpu_rows / sizeof cpu_rows[0]; i++)
            if (cgroup_path(text, cpu_rows[i].controller, path))
                walk_up(cgroup, cpu_rows[i].mount, path, see_cpus, &cpu_rows[i], &n);
    return n;
}

/* ---- the two questions of sys.h -------------------------------------------------------------- */

enum gm_status gm_memory_available_bytes(uint64_t *bytes, struct gm_err *err)
{
    return gm_limits_memory_bytes("/proc", "/sys/fs/cgroup", bytes, err);
}

uint32_t gm_cpus_usable(void)
{
    uint32_t n = 1;
    cpu_set_t *set = CPU_ALLOC(GM_CPUS_MAX);
    if (set != NULL) {
        size_t bytes = CPU_ALLOC_SIZE(GM_CPUS_MAX);
        CPU_ZERO_S(bytes, set);
        if (sched_getaffinity(0, bytes, set) == 0)
            n = (uint32_t)CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
    }
    return gm_limits_cpus("/proc", "/sys/fs/cgroup", n);
}
