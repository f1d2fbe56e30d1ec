/* trace.c - W3C trace context: see trace.h.
 *
 * Owns:      reading and writing the line.
 * Does not:  know calls (rpc.c).
 */
#include "common/net/trace.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/base/sys.h"

static bool hex(const char *p, int n, bool *zeros)
{
    *zeros = true;
    for (int i = 0; i < n; i++) {
        const bool digit = p[i] >= '0' && p[i] <= '9';
        if (!digit && !(p[i] >= 'a' && p[i] <= 'f'))
            return false;
        *zeros = *zeros && p[i] == '0';
    }
    return true;
}

bool gm_trace_ok(const char *text)
{
    bool version, trace, span, flags;
    if (!text || strnlen(text, GM_TRACE_MAX) < GM_TRACE_LEN)
        return false;
    if (!hex(text, 2, &version) || text[2] != '-' || !hex(text + 3, 32, &trace) ||
        text[35] != '-' || !hex(text + 36, 16, &span) || text[52] != '-' ||
        !hex(text + 53, 2, &flags))
        return false;
    const char end = text[GM_TRACE_LEN];
    const bool later = !version && end == '-';
    return strncmp(text, "ff", 2) != 0 && !trace && !span && (end == '\0' || later);
}

static uint64_t id(void)
{
    uint64_t x;
    do
        x = gm_random_u64();
    while (x == 0);
    return x;
}

void gm_trace_child(char out[GM_TRACE_MAX], const char *parent)
{
    if (gm_trace_ok(parent))
        snprintf(out, GM_TRACE_MAX, "00-%.32s-%016llx-%.2s", parent + 3, (unsigned long long)id(),
                 parent + 53);
    else
        snprintf(out, GM_TRACE_MAX, "00-%016llx%016llx-%016llx-00", (unsigned long long)id(),
                 (unsigned long long)gm_random_u64(), (unsigned long long)id());
}

const char *gm_trace_id(char out[GM_TRACE_ID_MAX], const char *text)
{
    snprintf(out, GM_TRACE_ID_MAX, "%.32s", gm_trace_ok(text) ? text + 3 : "-");
    return out;
}
