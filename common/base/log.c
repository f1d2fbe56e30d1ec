/* log.c - makes one line and writes it with one write(2).
 *
 * Owns:      the process-wide level, role and descriptor.
 * Does not:  block on a full pipe for ever: a line that cannot be written is lost, not queued.
 * Threads:   settings are written before threads start; a line is built on the caller's stack.
 */
#include "common/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/sys.h"

static const char *const level_names[] = { "debug", "info", "warn", "error" };
enum { LEVELS = sizeof level_names / sizeof level_names[0] };

static struct {
    char role[GM_LOG_ROLE_MAX];
    int fd;
    _Atomic int level;
} log_state = { "gemline", STDERR_FILENO, GM_LOG_INFO };

void gm_log_open(const char *role, int fd)
{
    (void)snprintf(log_state.role, sizeof log_state.role, "%s", role == NULL ? "gemline" : role);
    log_state.fd = fd;
    log_state.level = GM_LOG_INFO;
    const char *word = getenv("GM_LOG");
    if (word == NULL || word[0] == '\0')
        return;
    for (int i = 0; i < LEVELS; i++) {
        if (strcmp(word, level_names[i]) == 0) {
            log_state.level = i;
            return;
        }
    }
    gm_warn("GM_LOG=%.40s is none of debug, info, warn, error: info is used", word);
}

void gm_log_set_level(enum gm_log_level level)
{
    log_state.level = (int)level;
}

bool gm_log_on(enum gm_log_level level)
{
    return (int)level >= log_state.level;
}

/* Writes time, level and role into line[cap]; returns the length. */
static size_t line_begin(char *line, size_t cap, enum gm_log_level level)
{
    int64_t ms = gm_wall_ms();
    time_t seconds = (time_t)(ms / 1000);
    struct tm utc = { 0 };
    (void)gmtime_r(&seconds, &utc);
    const char *name = (unsigned)level < LEVELS ? level_names[level] : "error";
    int n = snprintf(line, cap, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %-5s %s[%ld] ",
                     utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min,
                     utc.tm_sec, (int)(ms % 1000), name, log_state.role, (long)getpid());
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

/* Copies text behind line[at], control characters as \xHH, and ends the line. Returns its length.
 */
static size_t line_end(char *line, size_t cap, size_t at, const char *text)
{
    static const char hex[] = "0123456789abcdef";
    const unsigned char *p = (const unsigned char *)text;
    for (; *p != '\0' && at + 5 < cap; p++) {
        if (*p >= 0x20 && *p != 0x7F) {
            line[at++] = (char)*p;
            continue;
        }
        line[at++] = '\\';
        line[at++] = 'x';
        line[at++] = hex[*p >> 4];
        line[at++] = hex[*p & 15];
    }
    line[at++] = '\n';
    return at;
}

void gm_log(enum gm_log_level level, const char *format, ...)
{
    if (!gm_log_on(level))
        return;
    int saved = errno;
    char line[GM_LOG_LINE_MAX];
    char text[GM_LOG_LINE_MAX];
    size_t at = line_begin(line, sizeof line, level);
    va_list args;
    va_start(args, format);
    int made = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t n = line_end(line, sizeof line, at, made < 0 ? "(message cannot be formatted)" : text);
    ssize_t wrote = 0;
    do
        wrote = write(log_state.fd, line, n);
    while (wrote < 0 && errno == EINTR);
    errno = saved;
}

void gm_log_err(enum gm_log_level level, const char *what, const struct gm_err *err)
{
    gm_log(level, "%s: %s status=%s at=%s:%d", what, err->text, gm_status_name((int)err->status),
           err->file == NULL ? "?" : err->file, err->line);
}

bool gm_log_pass(struct gm_log_limit *limit, uint32_t *dropped)
{
    int64_t now = gm_now_ms();
    if (limit->since_ms == 0 || now - limit->since_ms >= limit->per_ms) {
        limit->since_ms = now;
        limit->passed = 0;
    }
    if (limit->passed >= limit->burst) {
        limit->dropped += limit->dropped < UINT32_MAX;
        return false;
    }
    limit->passed++;
    if (dropped != NULL)
        *dropped = limit->dropped;
    limit->dropped = 0;
    return true;
}
