/* fs.h - files: whole reads with a cap, atomic writes (at once or piece by piece), folders, paths,
 * locks, read-only maps.
 *
 * Owns:      descriptors and mappings it hands out until the matching close.
 * Does not:  know file formats, or what gemline keeps where (it gives the XDG homes only).
 */
#ifndef GM_BASE_FS_H
#define GM_BASE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum { GM_PATH_MAX = 4096 }; /* bytes of a path with its ending 0 */

/* Every function: GM_NOT_FOUND, GM_DENIED, GM_EXISTS, GM_EXHAUSTED (disk, descriptors, memory)
 * or GM_UNKNOWN with the path and the system's reason in the sentence.                         */

/* Appends the whole file to *out; more than out->max bytes in all is GM_EXHAUSTED and leaves *out
 * as it was. A folder is GM_INVALID.                                                           */
enum gm_status gm_file_read(const char *path, struct gm_buf *out, struct gm_err *err);

/* Replaces the file in one step: temporary file beside it, fsync, rename, fsync of the folder.
 * mode is exact (no umask). On failure the old file is untouched and the temporary one gone.   */
enum gm_status gm_file_write(const char *path, const void *data, size_t n, unsigned mode,
                             struct gm_err *err);

/* ---- a new file, piece by piece ----------------------------------------------------------------
 * Until the commit nothing stands under `path` that was not there before; a process that is killed
 * leaves at most "path.XXXX.tmp". Pieces may be written in any order and by several threads.
 */
struct gm_newfile {
    int fd; /* -1: closed */
    char path[GM_PATH_MAX], temp[GM_PATH_MAX];
};

/* Opens the temporary file; mode is exact (no umask). bytes > 0 is the size the file will have: the
 * disk must have room for it (GM_EXHAUSTED says how much is missing), it is reserved where the file
 * system can do that, and what is never written reads as zeros. A path that is something other
 * than a file is GM_INVALID. On failure nothing is left behind. */
enum gm_status gm_newfile_open(struct gm_newfile *f, const char *path, unsigned mode,
                               uint64_t bytes, struct gm_err *err);
/* Writes n bytes at offset `at`. */
enum gm_status gm_newfile_write(const struct gm_newfile *f, uint64_t at, const void *data, size_t n,
                                struct gm_err *err);
/* fsync, rename, fsync of the folder; closes *f in any case. Without `replace` a file that has come
 * to stand under the name in the meantime is kept: GM_EXISTS. */
enum gm_status gm_newfile_commit(struct gm_newfile *f, bool replace, struct gm_err *err);
void gm_newfile_drop(struct gm_newfile *f); /* removes it; idempotent, also after the commit */

/* ---- folders and paths -------------------------------------------------------------------------
 */

/* mkdir -p; `mode` for each folder made (less umask). GM_INVALID: a part is not a folder. */
enum gm_status gm_dir_make(const char *path, unsigned mode, struct gm_err *err);

bool gm_path_exists(const char *path);

/* "dir/name" with one '/' into out[cap]. GM_RANGE: does not fit; GM_INVALID: name is empty or
 * absolute. An empty dir gives name. out may be dir itself.                                    */
enum gm_status gm_path_join(char *out, size_t cap, const char *dir, const char *name,
                            struct gm_err *err);

/* ---- lock file ---------------------------------------------------------------------------------
 */
struct gm_lock {
    int fd;         /* -1: not held */
    int64_t holder; /* after GM_UNAVAILABLE: pid written by who holds it, 0 when unknown */
};
#define GM_LOCK_NONE ((struct gm_lock){ -1, 0 })

/* Creates or opens the file (mode 0600), takes an exclusive lock that ends with this process or
 * gm_lock_close, and writes our pid into it. Does not wait: GM_UNAVAILABLE when another holds it
 * (also this process through another gm_lock). The file stays afterwards.                      */
enum gm_status gm_lock_open(struct gm_lock *lock, const char *path, struct gm_err *err);
void gm_lock_close(struct gm_lock *lock); /* idempotent */

/* ---- read-only map -----------------------------------------------------------------------------
 */
struct gm_map {
    const void *ptr; /* page aligned; NULL when closed or the file is empty */
    size_t len;      /* bytes of the file at open */
};

/* Maps the whole file, shared and read-only. bytes_max 0: no cap; larger files are GM_EXHAUSTED;
 * what is no regular file is GM_INVALID. A file that is cut while mapped reads as zeros, which
 * gm_mapguard_check() tells (mapguard.h): files must be replaced by rename, as gm_file_write does.
 */
enum gm_status gm_map_open(struct gm_map *map, const char *path, size_t bytes_max,
                           struct gm_err *err);
void gm_map_close(struct gm_map *map); /* idempotent; accepts a zeroed map */

/* ---- XDG base directories
 * ------------------------------------------------------------------------ */
/* $XDG_STATE_HOME or $HOME/.local/state; $XDG_CACHE_HOME or $HOME/.cache, into out[cap]. As the
 * XDG text asks, a relative value is ignored. GM_PRECONDITION when neither variable is usable. */
enum gm_status gm_state_home(char *out, size_t cap, struct gm_err *err);
enum gm_status gm_cache_home(char *out, size_t cap, struct gm_err *err);

#endif
