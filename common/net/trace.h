/* trace.h - W3C trace context: one line of text that names a trace and the span above.
 *
 * Owns:      its form (https://www.w3.org/TR/trace-context/, version 00) and new ids.
 * Does not:  record spans anywhere: it is passed on, and logs name it.
 */
#ifndef GM_NET_TRACE_H
#define GM_NET_TRACE_H

#include <stdbool.h>

enum {
    GM_TRACE_LEN = 55, /* "00-" 32 hex "-" 16 hex "-" 2 hex */
    GM_TRACE_MAX = GM_TRACE_LEN + 1,
    GM_TRACE_ID_MAX = 33, /* the trace's own id, with the ending 0 */
};

/* Whether `text` (may be NULL) is one. Of a later version what follows a valid beginning is let
 * be; upper case, an id of zeros and version ff are not valid. */
bool gm_trace_ok(const char *text);

/* A span of its own below `parent`; "" or one that is not valid: a new trace, not sampled. */
void gm_trace_child(char out[GM_TRACE_MAX], const char *parent);

/* The id by which log lines name a trace; "-" where `text` (may be NULL) is none. Returns out. */
const char *gm_trace_id(char out[GM_TRACE_ID_MAX], const char *text);

#endif
