/* err.h - what a failure is: a status to branch on and a sentence to act on.
 *
 * Owns:      the status numbers (gRPC's), their names, struct gm_err, the process exit codes.
 * Does not:  print or log anything; the caller decides who hears of it.
 */
#ifndef GM_BASE_ERR_H
#define GM_BASE_ERR_H

#include <stddef.h>

/* One list gives the enum and the names; services/gateway/problem.c has the HTTP codes. */
#define GM_STATUS_LIST(X)                                                                          \
    X(OK, 0, "OK")                                                                                 \
    X(CANCELLED, 1, "CANCELLED")                                                                   \
    X(UNKNOWN, 2, "UNKNOWN")                                                                       \
    X(INVALID, 3, "INVALID_ARGUMENT")                                                              \
    X(DEADLINE, 4, "DEADLINE_EXCEEDED")                                                            \
    X(NOT_FOUND, 5, "NOT_FOUND")                                                                   \
    X(EXISTS, 6, "ALREADY_EXISTS")                                                                 \
    X(DENIED, 7, "PERMISSION_DENIED")                                                              \
    X(EXHAUSTED, 8, "RESOURCE_EXHAUSTED")                                                          \
    X(PRECONDITION, 9, "FAILED_PRECONDITION")                                                      \
    X(ABORTED, 10, "ABORTED")                                                                      \
    X(RANGE, 11, "OUT_OF_RANGE")                                                                   \
    X(UNSUPPORTED, 12, "UNIMPLEMENTED")                                                            \
    X(INTERNAL, 13, "INTERNAL")                                                                    \
    X(UNAVAILABLE, 14, "UNAVAILABLE")                                                              \
    X(DATA_LOSS, 15, "DATA_LOSS")                                                                  \
    X(UNAUTHENTICATED, 16, "UNAUTHENTICATED")

enum gm_status {
#define GM_STATUS_ENUM(name, number, text) GM_##name = number,
    GM_STATUS_LIST(GM_STATUS_ENUM)
#undef GM_STATUS_ENUM
};

/* Which of the failures with one status it is, where a program wants to know. */
enum gm_detail {
    GM_DETAIL_NONE,
    GM_DETAIL_CONTEXT, /* PRECONDITION: more tokens than the context has room for */
};

enum { GM_ERR_TEXT_MAX = 400 };

/* Lives on the caller's stack; zero-initialise it with GM_ERR_NONE. */
struct gm_err {
    enum gm_status status;
    int line;                   /* where it was raised, for logs */
    const char *file;           /* static string */
    long retry_ms;              /* > 0: the same call may work after this many milliseconds */
    enum gm_detail detail;
    char text[GM_ERR_TEXT_MAX]; /* one sentence that says what to do; always terminated */
};

#define GM_ERR_NONE ((struct gm_err){ GM_OK, 0, NULL, 0, GM_DETAIL_NONE, "" })

/* Records the failure in *err (NULL is allowed) and returns `status`:
 *     return gm_fail(err, GM_EXHAUSTED, "needs %u pages, %u are free", need, have);            */
#define gm_fail(err, status, ...) gm_fail_at((err), __FILE__, __LINE__, (status), __VA_ARGS__)

enum gm_status gm_fail_at(struct gm_err *err, const char *file, int line, enum gm_status status,
                          const char *format, ...) __attribute__((format(printf, 5, 6)));

/* Adds the hint to what gm_fail recorded, and passes its status on:
 *     return gm_retry_after(err, 500, gm_fail(err, GM_EXHAUSTED, "..."));                       */
static inline enum gm_status gm_retry_after(struct gm_err *err, long ms, enum gm_status status)
{
    if (err)
        err->retry_ms = ms;
    return status;
}

/* The same for the detail:
 *     return gm_detailed(err, GM_DETAIL_CONTEXT, gm_fail(err, GM_PRECONDITION, "..."));         */
static inline enum gm_status gm_detailed(struct gm_err *err, enum gm_detail detail,
                                         enum gm_status status)
{
    if (err)
        err->detail = detail;
    return status;
}

/* Puts "prefix: " before the text already in *err; keeps the status. Returns err->status. */
enum gm_status gm_err_prefix(struct gm_err *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* "RESOURCE_EXHAUSTED"; "UNKNOWN" for a number that is none of ours. */
const char *gm_status_name(int status);

#endif
