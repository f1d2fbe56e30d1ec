/* sys.c - clocks, randomness, stop signals and process facts of sys.h.
 *
 * Owns:      the stop flag and the handlers that set it.
 * Does not:  read limits of memory and CPUs (limits.c), log, or start processes.
 * Source:    proc(5) for /proc/PID/stat and statm.
 */
#include "common/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    STAT_BYTES_MAX = 4096, /* /proc/PID/stat is one line of about 52 numbers and a short name */
    STAT_FIELD_STATE = 3,  /* fields count from 1 */
    STAT_FIELD_START = 22,
    SELF_BYTES_MAX = 4096,
};

/* ---- clocks -------------------------------------------------------------------------------- */

static int64_t clock_us(clockid_t id)
{
    struct timespec t = { 0 };
    (void)clock_gettime(id, &t); /* cannot fail for these clocks */
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t gm_now_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

int64_t gm_now_ms(void)
{
    return clock_us(CLOCK_MONOTONIC) / 1000;
}

int64_t gm_wall_ms(void)
{
    return clock_us(CLOCK_REALTIME) / 1000;
}

void gm_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };
    (void)nanosleep(&t, NULL);
}

/* ---- randomness ---------------------------------------------------------------------------- */

void gm_random_bytes(void *out, size_t n)
{
    uint8_t *p = out;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            static const char why[] = "no random numbers from the kernel: getrandom fails\n";
            (void)!write(STDERR_FILENO, why, sizeof why - 1);
            abort();
        }
        p += got;
        n -= (size_t)got;
    }
}

uint64_t gm_random_u64(void)
{
    uint64_t value = 0;
    gm_random_bytes(&value, sizeof value);
    return value;
}

void gm_random_id(char *out, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    uint8_t bytes[(GM_ID_DIGITS_MAX + 1) / 2];
    if (digits > GM_ID_DIGITS_MAX)
        digits = GM_ID_DIGITS_MAX;
    gm_random_bytes(bytes, (digits + 1) / 2);
    for (size_t i = 0; i < digits; i++)
        out[i] = hex[(bytes[i / 2] >> (i % 2 == 0 ? 4 : 0)) & 15];
    out[digits] = '\0';
}

/* ---- stop signals -------------------------------------------------------------------------- */

static volatile sig_atomic_t stop_flag;
static volatile sig_atomic_t stop_number;

static void stop_handler(int number)
{
    stop_number = number;
    stop_flag = 1;
}

enum gm_status gm_stop_signals(struct gm_err *err)
{
    static const struct {
        int number;
        void (*handler)(int);
    } rows[] = { { SIGTERM, stop_handler },
                 { SIGINT, stop_handler },
                 { SIGPIPE, SIG_IGN },
                 { SIGXFSZ, SIG_IGN } };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sigaction act = { 0 };
        act.sa_handler = rows[i].handler;
        (void)sigemptyset(&act.sa_mask);
        if (sigaction(rows[i].number, &act, NULL) != 0)
            return gm_fail(err, GM_INTERNAL, "signal %d cannot be handled: %s", rows[i].number,
                           strerror(errno));
    }
    return GM_OK;
}

bool gm_stopping(void)
{
    return stop_flag != 0;
}

void gm_stop_ask(void)
{
    stop_flag = 1;
}

void gm_stop_clear(void)
{
    stop_flag = 0;
    stop_number = 0;
}

int gm_stop_signal(void)
{
    return (int)stop_number;
}

/* ---- processes ----------------------------------------------------------------------------- */

enum gm_status gm_self_dir(char *out, size_t cap, struct gm_err *err)
{
    char path[SELF_BYTES_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0 || path[0] != '/')
        return gm_fail(err, GM_INTERNAL, "/proc/self/exe cannot be read (%s): mount /proc",
                       strerror(errno));
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    slash[slash == path ? 1 : 0] = '\0';
    size_t len = strlen(path);
    if (len >= cap)
        return gm_fail(err, GM_RANGE, "the program's folder has %zu bytes, room is for %zu", len,
                       cap);
    memcpy(out, path, len + 1);
    return GM_OK;
}

/* Reads /proc/PID/NAME into text[cap] as a C string. GM_NOT_FOUND when there is none. */
static enum gm_status proc_read(int64_t pid, const char *name, char *text, size_t cap,
                                struct gm_err *err)
{
    char path[64];
    if (pid < 0 || pid > INT32_MAX)
        return gm_fail(err, GM_NOT_FOUND, "%lld is no process id", (long long)pid);
    if (pid == 0)
        pid = getpid();
    (void)snprintf(path, sizeof path, "/proc/%lld/%s", (long long)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return gm_fail(err, GM_NOT_FOUND, "no process %lld: %s", (long long)pid, strerror(errno));
    size_t len = 0;
    ssize_t got = 1;
    while (got != 0 && len + 1 < cap) {
        got = read(fd, text + len, cap - 1 - len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        len += (size_t)got;
    }
    (void)close(fd);
    text[len] = '\0';
    if (got < 0)
        return gm_fail(err, GM_NOT_FOUND, "process %lld has ended", (long long)pid);
    return GM_OK;
}

/* State letter and start time from one stat line. The name (field 2) may hold spaces and ')', so
 * fields are counted from the last ')'. False when the line is odd.                           */
static bool stat_parse(const char *line, char *state, uint64_t *ticks)
{
    const char *p = strrchr(line, ')');
    if (p == NULL || p[1] != ' ')
        return false;
    p += 2;
    *state = *p;
    for (int field = STAT_FIELD_STATE; field < STAT_FIELD_START; field++) {
        p = strchr(p, ' ');
        if (p == NULL)
            return false;
        p++;
    }
    if (*p < '0' || *p > '9')
        return false;
    *ticks = strtoull(p, NULL, 10);
    return true;
}

static enum gm_status pid_stat(int64_t pid, char *state, uint64_t *ticks, struct gm_err *err)
{
    char line[STAT_BYTES_MAX];
    enum gm_status rc = proc_read(pid, "stat", line, sizeof line, err);
    if (rc == GM_OK && !stat_parse(line, state, ticks))
        rc = gm_fail(err, GM_NOT_FOUND, "process %lld has no readable stat line", (long long)pid);
    return rc;
}

enum gm_status gm_pid_start(int64_t pid, uint64_t *ticks, struct gm_err *err)
{
    char state = 0;
    return pid_stat(pid, &state, ticks, err);
}

bool gm_pid_alive(int64_t pid, uint64_t ticks)
{
    char state = 0;
    uint64_t now = 0;
    if (pid <= 0 || pid_stat(pid, &state, &now, NULL) != GM_OK)
        return false;
    return now == ticks && state != 'Z' && state != 'X' && state != 'x';
}

enum gm_status gm_pid_rss_bytes(int64_t pid, uint64_t *bytes, struct gm_err *err)
{
    char line[256];
    enum gm_status rc = proc_read(pid, "statm", line, sizeof line, err);
    if (rc != GM_OK)
        return rc;
    unsigned long long size = 0;
    unsigned long long resident = 0; /* pages; all 0 for a zombie */
    if (sscanf(line, "%llu %llu", &size, &resident) != 2)
        return gm_fail(err, GM_NOT_FOUND, "process %lld has no readable statm line",
                       (long long)pid);
    *bytes = (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
    return GM_OK;
}
