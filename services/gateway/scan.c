/* scan.c - how large a JSON text is, before anything is allocated for it.
 *
 * Owns:      the count of values and of nesting.
 * Does not:  say whether the text is JSON: the parser does, for what is small enough.
 */
#include "services/gateway/read.h"

#include <string.h>

/* The byte behind the string that begins at text[at] == '"'; len when it has no end. */
static size_t skip_string(const char *text, size_t len, size_t at)
{
    for (at++; at < len && text[at] != '"'; at++)
        if (text[at] == '\\')
            at++;
    return at < len ? at + 1 : len;
}

bool gm_scan_json(const char *text, size_t len, size_t nodes_max, struct gm_problem *why)
{
    size_t nodes = 1, depth = 0;
    for (size_t at = 0; at < len;) {
        char c = text[at];
        if (c == '"') {
            at = skip_string(text, len, at);
            continue;
        }
        at++;
        if (c == ',' || c == '[' || c == '{')
            nodes++;
        if (c == '[' || c == '{')
            depth++;
        else if ((c == ']' || c == '}') && depth > 0)
            depth--;
        if (nodes > nodes_max)
            return gm_problem_set(why, 400, "too_many_values", NULL,
                                  "the body has more than %zu JSON values; send fewer", nodes_max);
        if (depth > GM_REQUEST_DEPTH_MAX)
            return gm_problem_set(why, 400, "too_deep", NULL,
                                  "the body is nested deeper than %d arrays and objects",
                                  GM_REQUEST_DEPTH_MAX);
    }
    return true;
}
