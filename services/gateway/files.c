/* files.c - the files inside the program: see files.h.
 *
 * Owns:      the table; the assembler puts the bytes in.
 * Does not:  change with what the disk holds later.
 */
#include "services/gateway/files.h"

#include <string.h>

/* NAME_begin and NAME_end stand around the bytes of a file. */
#define EMBED(symbol, path)                                                                        \
    __asm__(".section .rodata\n"                                                                   \
            ".balign 16\n" #symbol "_begin:\n"                                                     \
            ".incbin \"services/gateway/" path "\"\n" #symbol "_end:\n"                            \
            ".byte 0\n"                                                                            \
            ".previous\n");                                                                        \
    extern const char symbol##_begin[], symbol##_end[];

EMBED(gm_file_index, "page/index.html")
EMBED(gm_file_app, "page/app.js")
EMBED(gm_file_api, "page/api.js")
EMBED(gm_file_chat, "page/chat.js")
EMBED(gm_file_markdown, "page/markdown.js")
EMBED(gm_file_style, "page/style.css")

const char gm_page_policy[] = "default-src 'none'; script-src 'self'; style-src 'self'; "
                              "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
                              "base-uri 'none'; form-action 'none'";

#define script "text/javascript; charset=utf-8"

static const struct {
    const char *name, *type, *begin, *end;
} table[] = {
    { "index.html", "text/html; charset=utf-8", gm_file_index_begin, gm_file_index_end },
    { "app.js", script, gm_file_app_begin, gm_file_app_end },
    { "api.js", script, gm_file_api_begin, gm_file_api_end },
    { "chat.js", script, gm_file_chat_begin, gm_file_chat_end },
    { "markdown.js", script, gm_file_markdown_begin, gm_file_markdown_end },
    { "style.css", "text/css; charset=utf-8", gm_file_style_begin, gm_file_style_end },
};

const struct gm_file *gm_file_find(const char *name)
{
    static struct gm_file found; /* the loop's thread alone asks */
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].name, name) == 0) {
            found = (struct gm_file){ name, table[i].type, table[i].begin,
                                      (size_t)(table[i].end - table[i].begin) };
            return &found;
        }
    return NULL;
}
