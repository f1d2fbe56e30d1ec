/* fs.c - files, folders, paths, locks and maps of fs.h.
 *
 * Owns:      one table from errno to a status, used by every function here.
 * Does not:  keep state between calls.
 */
#include "common/base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/mapguard.h"
#include "common/base/sys.h"

enum {
    TEMP_TRIES = 8,        /* names tried for a temporary file */
    TEMP_DIGITS = 12,      /* random hex digits of its name */
    READ_STEP = 64 * 1024, /* bytes asked for when a file does not tell its size */
    LOCK_TEXT_MAX = 32,    /* "pid\n" in a lock file */
};

static const double gib = 1073741824.0;

static const struct errno_row {
    int number;
    enum gm_status status;
} errno_rows[] = {
    { ENOENT, GM_NOT_FOUND }, { EACCES, GM_DENIED },        { EPERM, GM_DENIED },
    { EROFS, GM_DENIED },     { EEXIST, GM_EXISTS },        { ENOSPC, GM_EXHAUSTED },
    { EDQUOT, GM_EXHAUSTED }, { EMFILE, GM_EXHAUSTED },     { ENFILE, GM_EXHAUSTED },
    { ENOMEM, GM_EXHAUSTED }, { EFBIG, GM_EXHAUSTED },      { ENOTDIR, GM_INVALID },
    { EISDIR, GM_INVALID },   { ENAMETOOLONG, GM_INVALID }, { ELOOP, GM_INVALID },
    { EINVAL, GM_INVALID },
};

/* "path cannot be VERB: reason" with the status that fits errno. */
static enum gm_status fs_fail(struct gm_err *err, const char *path, const char *verb)
{
    int number = errno;
    enum gm_status status = GM_UNKNOWN;
    for (size_t i = 0; i < sizeof errno_rows / sizeof errno_rows[0]; i++)
        if (errno_rows[i].number == number)
            status = errno_rows[i].status;
    return gm_fail(err, status, "%.250s cannot be %s: %s", path, verb, strerror(number));
}

/* ---- whole files --------------------------------------------------------------------------- */

/* Appends all of fd. `size` is one more than fstat told, so that the end is seen without growing
 * again; 0 when it is not known (/proc, pipes). */
static enum gm_status fd_read_all(int fd, const char *path, size_t size, struct gm_buf *out,
                                  struct gm_err *err)
{
    for (;;) {
        size_t room = out->max - out->len;
        size_t want = size > 0 ? size : READ_STEP;
        char extra = 0;
        ssize_t got = 0;
        if (room == 0) { /* full: one more byte is one too many */
            got = read(fd, &extra, 1);
            if (got > 0)
                return gm_fail(err, GM_EXHAUSTED, "%.250s has more than the %zu bytes allowed",
                               path, out->max);
        } else {
            want = want < room ? want : room;
            enum gm_status rc = gm_buf_reserve(out, want, err);
            if (rc != GM_OK)
                return rc;
            got = read(fd, out->data + out->len, want);
        }
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fs_fail(err, path, "read");
        if (got == 0)
            return GM_OK;
        out->len += (size_t)got;
        out->data[out->len] = '\0';
        size = size > (size_t)got ? size - (size_t)got : 0;
    }
}

enum gm_status gm_file_read(const char *path, struct gm_buf *out, struct gm_err *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fs_fail(err, path, "opened");
    size_t start = out->len;
    enum gm_status rc = GM_OK;
    if (fstat(fd, &st) != 0)
        rc = fs_fail(err, path, "read");
    else if (S_ISDIR(st.st_mode))
        rc = gm_fail(err, GM_INVALID, "%.250s is a folder, a file is needed", path);
    else if (out->len > out->max ||
             (S_ISREG(st.st_mode) && (uint64_t)st.st_size > out->max - out->len))
        rc = gm_fail(err, GM_EXHAUSTED, "%.250s has %lld bytes, at most %zu are allowed", path,
                     (long long)st.st_size, out->max);
    else
        rc = fd_read_all(fd, path, st.st_size > 0 ? (size_t)st.st_size + 1 : 0, out, err);
    (void)close(fd);
    if (rc != GM_OK && out->data != NULL && out->len != start) {
        out->len = start;
        out->data[start] = '\0';
    }
    return rc;
}

/* Opens a new file "path.XXXX.tmp" for writing, its name in temp[GM_PATH_MAX]; -1 with errno. */
static int temp_open(const char *path, char *temp)
{
    for (int i = 0; i < TEMP_TRIES; i++) {
        char id[TEMP_DIGITS + 1];
        gm_random_id(id, TEMP_DIGITS);
        int n = snprintf(temp, GM_PATH_MAX, "%s.%s.tmp", path, id);
        if (n < 0 || n >= GM_PATH_MAX) {
            errno = ENAMETOOLONG;
            return -1;
        }
        int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

/* Makes a rename in the folder of `path` last. Folders that cannot be synced are no failure. */
static void folder_sync(const char *path)
{
    char dir[GM_PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof dir)
        return;
    memcpy(dir, path, n);
    dir[n] = '\0';
    int fd = open(n == 0 ? "." : dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)fsync(fd);
    (void)close(fd);
}

/* ---- a new file, piece by piece -------------------------------------------------------------- */

/* What already stands under the name must be a file (or nothing). */
static enum gm_status check_target(const char *path, struct gm_err *err)
{
    struct stat st;
    if (stat(path, &st) != 0 || S_ISREG(st.st_mode))
        return GM_OK;
    return gm_fail(err, GM_INVALID, "%.250s is %s, not a file; name another place", path,
                   S_ISDIR(st.st_mode) ? "a folder" : "a device or a pipe");
}

/* Room on the disk for the whole file; the size is set so that holes read as zeros. */
static enum gm_status reserve(const struct gm_newfile *f, uint64_t bytes, struct gm_err *err)
{
    struct statvfs disk;
    if (fstatvfs(f->fd, &disk) != 0)
        return fs_fail(err, f->path, "written");
    const uint64_t free_bytes = (uint64_t)disk.f_bavail * disk.f_frsize;
    if (bytes > INT64_MAX || bytes > free_bytes)
        return gm_fail(
            err, GM_EXHAUSTED,
            "%.200s needs %.2f GiB and its disk has %.2f GiB free; make room or write it "
            "to another disk",
            f->path, (double)bytes / gib, (double)free_bytes / gib);
    int rc = fallocate(f->fd, 0, 0, (off_t)bytes);
    if (rc != 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
        rc = ftruncate(f->fd, (off_t)bytes);
    return rc == 0 ? GM_OK : fs_fail(err, f->path, "written");
}

enum gm_status gm_newfile_open(struct gm_newfile *f, const char *path, unsigned mode,
                               uint64_t bytes, struct gm_err *err)
{
    f->fd = -1;
    const int n = snprintf(f->path, sizeof f->path, "%s", path);
    enum gm_status rc = check_target(path, err);
    if (rc != GM_OK)
        return rc;
    if (n < 0 || n >= GM_PATH_MAX)
        errno = ENAMETOOLONG;
    else
        f->fd = temp_open(path, f->temp);
    if (f->fd < 0)
        return fs_fail(err, path, "written");
    if (fchmod(f->fd, (mode_t)(mode & 07777)) != 0)
        rc = fs_fail(err, path, "written");
    if (rc == GM_OK && bytes > 0)
        rc = reserve(f, bytes, err);
    if (rc != GM_OK)
        gm_newfile_drop(f);
    return rc;
}

enum gm_status gm_newfile_write(const struct gm_newfile *f, uint64_t at, const void *data, size_t n,
                                struct gm_err *err)
{
    const uint8_t *p = data;
    while (n > 0) {
        const ssize_t wrote = pwrite(f->fd, p, n, (off_t)at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return fs_fail(err, f->path, "written");
        p += wrote;
        at += (uint64_t)wrote;
        n -= (size_t)wrote;
    }
    return GM_OK;
}

/* rename() that keeps what stands under the name; file systems that cannot do it in one step get a
 * look before. */
static int rename_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (gm_path_exists(to)) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

enum gm_status gm_newfile_commit(struct gm_newfile *f, bool replace, struct gm_err *err)
{
    bool ok = fsync(f->fd) == 0;
    int number = errno;
    if (close(f->fd) != 0 && ok) {
        number = errno;
        ok = false;
    }
    f->fd = -1;
    if (ok && (replace ? rename(f->temp, f->path) : rename_new(f->temp, f->path)) != 0) {
        number = errno;
        ok = false;
    }
    if (!ok) {
        (void)unlink(f->temp);
        errno = number;
        return fs_fail(err, f->path, "written");
    }
    folder_sync(f->path);
    return GM_OK;
}

void gm_newfile_drop(struct gm_newfile *f)
{
    if (f->fd < 0)
        return;
    (void)close(f->fd);
    (void)unlink(f->temp);
    f->fd = -1;
}

enum gm_status gm_file_write(const char *path, const void *data, size_t n, unsigned mode,
                             struct gm_err *err)
{
    struct gm_newfile f;
    enum gm_status rc = gm_newfile_open(&f, path, mode, 0, err);
    if (rc != GM_OK)
        return rc;
    rc = gm_newfile_write(&f, 0, data, n, err);
    if (rc == GM_OK)
        return gm_newfile_commit(&f, true, err);
    gm_newfile_drop(&f);
    return rc;
}

/* ---- folders and paths --------------------------------------------------------------------- */

enum gm_status gm_dir_make(const char *path, unsigned mode, struct gm_err *err)
{
    char part[GM_PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part)
        return gm_fail(err, GM_INVALID, "a folder's path has 1 to %d bytes, not %zu",
                       GM_PATH_MAX - 1, n);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        part[i] = '\0';
        struct stat st;
        if (mkdir(part, (mode_t)(mode & 07777)) != 0) {
            int number = errno;
            bool there = stat(part, &st) == 0; /* read-only parents answer EROFS, not EEXIST */
            if (there && !S_ISDIR(st.st_mode))
                return gm_fail(err, GM_INVALID, "%.250s is not a folder", part);
            errno = number;
            if (!there)
                return fs_fail(err, part, "made");
        }
        part[i] = path[i];
    }
    return GM_OK;
}

bool gm_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

enum gm_status gm_path_join(char *out, size_t cap, const char *dir, const char *name,
                            struct gm_err *err)
{
    size_t nd = strlen(dir);
    size_t nn = strlen(name);
    if (nn == 0 || name[0] == '/')
        return gm_fail(err, GM_INVALID, "\"%.200s\" is no name inside a folder", name);
    while (nd > 1 && dir[nd - 1] == '/')
        nd--;
    size_t slash = nd > 0 && dir[nd - 1] != '/' ? 1 : 0;
    if (nn >= cap || nd + slash >= cap - nn)
        return gm_fail(err, GM_RANGE, "the path %.100s/%.100s is longer than %zu bytes", dir, name,
                       cap > 0 ? cap - 1 : 0);
    memmove(out, dir, nd);
    if (slash == 1)
        out[nd] = '/';
    memmove(out + nd + slash, name, nn);
    out[nd + slash + nn] = '\0';
    return GM_OK;
}

/* ---- lock file ----------------------------------------------------------------------------- */

/* The pid written in the file; 0 when there is none. */
static int64_t lock_holder(int fd)
{
    char text[LOCK_TEXT_MAX];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    int64_t pid = 0;
    if (n <= 0)
        return 0;
    text[n] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return gm_parse_i64(text, 1, INT32_MAX, &pid, NULL) == GM_OK ? pid : 0;
}

enum gm_status gm_lock_open(struct gm_lock *lock, const char *path, struct gm_err *err)
{
    *lock = GM_LOCK_NONE;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return fs_fail(err, path, "opened");
    /* A lock of the open file description: it is not lost when this process closes another
     * descriptor of the same file, and a child that execs does not inherit it.                */
    struct flock whole = { 0 };
    whole.l_type = F_WRLCK;
    whole.l_whence = SEEK_SET;
    if (fcntl(fd, F_OFD_SETLK, &whole) != 0) {
        enum gm_status rc = GM_UNAVAILABLE;
        if (errno == EAGAIN || errno == EACCES) {
            lock->holder = lock_holder(fd);
            rc = gm_fail(err, rc, "%.250s is held by process %lld: stop it first", path,
                         (long long)lock->holder);
        } else {
            rc = fs_fail(err, path, "locked");
        }
        (void)close(fd);
        return rc;
    }
    char text[LOCK_TEXT_MAX];
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)n, 0) != n) {
        enum gm_status rc = fs_fail(err, path, "written");
        (void)close(fd);
        return rc;
    }
    lock->fd = fd;
    lock->holder = (int64_t)getpid();
    return GM_OK;
}

void gm_lock_close(struct gm_lock *lock)
{
    if (lock->fd >= 0)
        (void)close(lock->fd);
    *lock = GM_LOCK_NONE;
}

/* ---- read-only map ------------------------------------------------------------------------- */

enum gm_status gm_map_open(struct gm_map *map, const char *path, size_t bytes_max,
                           struct gm_err *err)
{
    *map = (struct gm_map){ NULL, 0 };
    struct stat st;
    enum gm_status rc = GM_OK;
    /* O_NONBLOCK: a FIFO must not hang the open; it is refused below. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fs_fail(err, path, "opened");
    if (fstat(fd, &st) != 0)
        rc = fs_fail(err, path, "read");
    else if (!S_ISREG(st.st_mode))
        rc = gm_fail(err, GM_INVALID, "%.250s is not a regular file", path);
    else if (bytes_max != 0 && (uint64_t)st.st_size > bytes_max)
        rc = gm_fail(err, GM_EXHAUSTED, "%.250s has %lld bytes, at most %zu are allowed", path,
                     (long long)st.st_size, bytes_max);
    void *ptr = MAP_FAILED;
    const size_t bytes = rc == GM_OK ? (size_t)st.st_size : 0;
    if (bytes > 0 && (ptr = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0)) == MAP_FAILED)
        rc = fs_fail(err, path, "mapped");
    if (rc != GM_OK || bytes == 0) {
        (void)close(fd);
        return rc;
    }
    rc = gm_mapguard_add(path, fd, ptr, bytes, PROT_READ, err);
    if (rc == GM_OK)
        *map = (struct gm_map){ ptr, bytes };
    else
        (void)munmap(ptr, bytes);
    return rc;
}

void gm_map_close(struct gm_map *map)
{
    gm_mapguard_remove(map->ptr);
    if (map->ptr != NULL)
        (void)munmap((void *)(uintptr_t)map->ptr, map->len);
    *map = (struct gm_map){ NULL, 0 };
}

/* ---- XDG base directories ------------------------------------------------------------------ */

static enum gm_status xdg_home(char *out, size_t cap, const char *variable, const char *below,
                               struct gm_err *err)
{
    const char *value = getenv(variable);
    const char *home = getenv("HOME");
    if (value != NULL && value[0] == '/') {
        size_t n = strlen(value);
        if (n >= cap)
            return gm_fail(err, GM_RANGE, "the path in %s is longer than %zu bytes", variable,
                           cap > 0 ? cap - 1 : 0);
        memcpy(out, value, n + 1);
        return GM_OK;
    }
    if (home == NULL || home[0] != '/')
        return gm_fail(err, GM_PRECONDITION, "set HOME or %s to an absolute path", variable);
    return gm_path_join(out, cap, home, below, err);
}

enum gm_status gm_state_home(char *out, size_t cap, struct gm_err *err)
{
    return xdg_home(out, cap, "XDG_STATE_HOME", ".local/state", err);
}

enum gm_status gm_cache_home(char *out, size_t cap, struct gm_err *err)
{
    return xdg_home(out, cap, "XDG_CACHE_HOME", ".cache", err);
}
