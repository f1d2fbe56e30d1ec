/* log.h - one line per event, on a file descriptor: time, level, role[pid], message key=value.
 *
 * Owns:      the process's level, role name and descriptor; a rate limiter for repeated lines.
 * Does not:  rotate, buffer, or keep errors (err.h); a line is one write(2), cut at
 *            GM_LOG_LINE_MAX bytes, with control characters escaped so that it stays one line.
 *
 *     2026-01-31T12:00:00.123Z warn shard[812] late row turn=9f2c pos=17
 */
#ifndef GM_BASE_LOG_H
#define GM_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/err.h"

enum gm_log_level { GM_LOG_DEBUG, GM_LOG_INFO, GM_LOG_WARN, GM_LOG_ERROR };

enum {
    GM_LOG_LINE_MAX = 2048, /* bytes of one line with its newline */
    GM_LOG_ROLE_MAX = 32,   /* bytes of the role name, with the ending 0 */
};

/* Sets role (copied, may be cut) and descriptor (2 is stderr); reads GM_LOG=debug|info|warn|error
 * (default info; an unknown word is reported once as a warning). Without a call: role "gemline",
 * stderr, info. Call before threads start.                                                     */
void gm_log_open(const char *role, int fd);

void gm_log_set_level(enum gm_log_level level);
bool gm_log_on(enum gm_log_level level); /* would a line of this level be written? */

/* printf style; the message has no newline. Safe from any thread. errno is kept. */
void gm_log(enum gm_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define gm_debug(...)                                                                              \
    do {                                                                                           \
        if (gm_log_on(GM_LOG_DEBUG))                                                               \
            gm_log(GM_LOG_DEBUG, __VA_ARGS__);                                                     \
    } while (0)
#define gm_info(...)  gm_log(GM_LOG_INFO, __VA_ARGS__)
#define gm_warn(...)  gm_log(GM_LOG_WARN, __VA_ARGS__)
#define gm_error(...) gm_log(GM_LOG_ERROR, __VA_ARGS__)

/* "what: text status=NAME at=file:line" */
void gm_log_err(enum gm_log_level level, const char *what, const struct gm_err *err);

/* At most `burst` lines in any `per_ms`. Static or zeroed with the two numbers set. One thread. */
struct gm_log_limit {
    uint32_t burst;
    int64_t per_ms;
    int64_t since_ms; /* start of the running window; 0 at first */
    uint32_t passed;  /* lines in it */
    uint32_t dropped; /* lines held back since one last passed */
};

/* True when a line may be written now. *dropped (may be NULL) is then how many were held back. */
bool gm_log_pass(struct gm_log_limit *limit, uint32_t *dropped);

#endif
