/* problem.c - what a refused request is answered with.
 *
 * Owns:      the type that goes with a status, the mapping of the pipeline's errors to HTTP.
 * Does not:  write JSON or headers.
 */
#include "services/gateway/request.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *type_of(int http)
{
    switch (http) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 408:
        return "timeout_error";
    case 409:
        return "conflict_error";
    case 429:
        return "rate_limit_error";
    case 499:
        return "cancelled_error";
    case 503:
        return "overloaded_error";
    default:
        return http >= 500 ? "server_error" : "invalid_request_error";
    }
}

/* Control characters become blanks and wrong UTF-8 '?', so that a client's bytes do no harm in a
 * log; a character that the end cut goes. */
static void clean(char *text)
{
    size_t n = strlen(text);
    size_t at = 0;
    while (at < n) {
        uint32_t code = 0;
        int size = gm_utf8_next(text + at, n - at, &code);
        if (size == 0) {
            text[at] = '\0';
            return;
        }
        if (size < 0)
            memset(text + at, '?', (size_t)-size);
        else if (code < 0x20 || code == 0x7F)
            text[at] = ' ';
        at += (size_t)(size < 0 ? -size : size);
    }
}

static void put(char *out, size_t cap, const char *text)
{
    snprintf(out, cap, "%s", text != NULL ? text : "");
    clean(out);
}

bool gm_problem_set(struct gm_problem *why, int http, const char *code, const char *param,
                    const char *format, ...)
{
    char text[sizeof why->text]; /* the arguments may point into *why */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    struct gm_problem made = { .http = http };
    put(made.type, sizeof made.type, type_of(http));
    put(made.code, sizeof made.code, code);
    put(made.param, sizeof made.param, param);
    put(made.text, sizeof made.text, text);
    *why = made;
    return false;
}

struct mapping {
    enum gm_status status;
    int http;
    const char *code;
};

static const struct mapping mappings[] = {
    { GM_INVALID, 400, "invalid_value" },
    { GM_RANGE, 400, "invalid_value" },
    { GM_PRECONDITION, 400, "failed_precondition" },
    { GM_UNSUPPORTED, 400, "unsupported_value" },
    { GM_UNAUTHENTICATED, 401, "invalid_api_key" },
    { GM_DENIED, 403, "permission_denied" },
    { GM_NOT_FOUND, 404, "not_found" },
    { GM_DEADLINE, 408, "timeout" },
    { GM_EXISTS, 409, "conflict" },
    { GM_ABORTED, 409, "conflict" },
    { GM_EXHAUSTED, 429, "rate_limit_exceeded" },
    { GM_CANCELLED, 499, "cancelled" },
    { GM_UNAVAILABLE, 503, "unavailable" },
};

void gm_problem_from(struct gm_problem *why, const struct gm_err *err)
{
    struct mapping m = { err->status, 500, "internal_error" };
    for (size_t i = 0; i < sizeof mappings / sizeof mappings[0]; i++)
        if (mappings[i].status == err->status)
            m = mappings[i];
    gm_problem_set(why, m.http, m.code, NULL, "%s", err->text);
    if (m.http == 429 || m.http == 503 || (m.http == 409 && err->retry_ms > 0))
        why->retry_s = err->retry_ms > 0 ? (err->retry_ms - 1) / 1000 + 1 : 1;
}
