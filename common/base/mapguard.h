/* mapguard.h - mapped files that are cut or changed while they are mapped.
 *
 * Owns:      the list of this process's mapped files, and the SIGBUS handler: where a page of one
 * of them cannot be read any more, zeros take the place of the whole file in memory and the file
 * counts as lost, so that the thread that read it goes on and the owner finds out. Does not:  map
 * files (fs.h), or decide what becomes of the work that read them: whoever computes asks
 * gm_mapguard_check() after the reading and before anybody sees the result. Threads:   the handler
 * runs on any; all else belongs to the thread that maps.
 */
#ifndef GM_BASE_MAPGUARD_H
#define GM_BASE_MAPGUARD_H

#include <stdbool.h>

#include "common/base/err.h"

enum { GM_MAPS_MAX = 256 }; /* files mapped at once in a process */

/* Guards [ptr, ptr + bytes), a mapping of the open file `fd`, which is the guard's from here on (it
 * is closed when the call fails, too). `prot` is the mapping's; who maps with PROT_WRITE may write
 * to the file. GM_EXHAUSTED: there are GM_MAPS_MAX already. */
enum gm_status gm_mapguard_add(const char *path, int fd, void *ptr, size_t bytes, int prot,
                               struct gm_err *err);
/* Before munmap; a pointer that is not guarded is fine. */
void gm_mapguard_remove(const void *ptr);
/* GM_DATA_LOSS with a sentence that names the file when any guarded file is lost, or is not what it
 * was when it was mapped: another length, or written to. A file that was replaced by rename is as
 * good as before. Costs one fstat a file. */
enum gm_status gm_mapguard_check(struct gm_err *err);

#endif
