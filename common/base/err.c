/* err.c - fills and names errors.
 *
 * Owns:      the status names (from the list in err.h).
 * Does not:  allocate, print or log; the texts live in the caller's struct gm_err.
 */
#include "common/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Ends *text (cap bytes, cut at `wrote` when too long) on a whole UTF-8 character. */
static void text_trim(char *text, size_t cap, int wrote)
{
    if (wrote < 0) {
        text[0] = '\0';
        return;
    }
    if ((size_t)wrote < cap)
        return;
    size_t end = cap - 1;
    size_t lead = end;
    while (lead > 0 && end - lead < 4 && ((unsigned char)text[lead - 1] & 0xC0) == 0x80)
        lead--;
    if (lead == 0)
        return;
    unsigned char first = (unsigned char)text[lead - 1];
    size_t need = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
    if (need > 1 && end - (lead - 1) < need)
        text[lead - 1] = '\0';
}

enum gm_status gm_fail_at(struct gm_err *err, const char *file, int line, enum gm_status status,
                          const char *format, ...)
{
    if (err == NULL)
        return status;
    /* The arguments may point into err->text, so the new text is made beside it. */
    char text[GM_ERR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    text_trim(text, sizeof text, wrote);
    memcpy(err->text, text, sizeof text);
    err->status = status;
    err->file = file;
    err->line = line;
    err->retry_ms = 0;
    err->detail = GM_DETAIL_NONE;
    return status;
}

enum gm_status gm_err_prefix(struct gm_err *err, const char *format, ...)
{
    if (err == NULL)
        return GM_UNKNOWN;
    char prefix[GM_ERR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    text_trim(prefix, sizeof prefix, wrote);
    char text[2 * GM_ERR_TEXT_MAX + 4];
    wrote = snprintf(text, sizeof text, "%s: %s", prefix, err->text);
    text[GM_ERR_TEXT_MAX - 1] = '\0';
    text_trim(text, GM_ERR_TEXT_MAX, wrote);
    memcpy(err->text, text, GM_ERR_TEXT_MAX);
    return err->status;
}

const char *gm_status_name(int status)
{
    switch (status) {
#define GM_STATUS_NAME(name, number, text)                                                         \
    case number:                                                                                   \
        return text;
        GM_STATUS_LIST(GM_STATUS_NAME)
#undef GM_STATUS_NAME
    default:
        return "UNKNOWN";
    }
}
