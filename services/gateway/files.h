/* files.h - the files that the gateway serves: the web page, inside the program.
 *
 * Owns:      their names, types and bytes.
 * Does not:  read a disk while it serves.
 */
#ifndef GM_GATEWAY_FILES_H
#define GM_GATEWAY_FILES_H

#include <stddef.h>

struct gm_file {
    const char *name, *type;
    const void *bytes;
    size_t n;
};

/* NULL: there is no such file. */
const struct gm_file *gm_file_find(const char *name);

/* What the page may do: nothing but its own files and its own server. */
extern const char gm_page_policy[];

#endif
