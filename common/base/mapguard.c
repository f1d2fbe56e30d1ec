/* mapguard.c - the list and the SIGBUS handler of mapguard.h.
 *
 * Owns:      the handler of SIGBUS; descriptors of guarded files, for fstat.
 * Does not:  catch a SIGBUS of another address or sender: that ends the process as it would have.
 * Why:       a kernel reads weights on many threads at once, deep in loops: there is no place to
 *            jump back to. With zeros in place the loops end by themselves, and one look at the end
 *            of the step tells that its result is worth nothing.
 * Invariant: the handler uses atomic loads, mmap and sigaction only; a row's length is set before
 *            its address, so a row that is half made is none.
 */
#include "common/base/mapguard.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAME_BYTES = 256 };

static struct row {
    _Atomic uintptr_t at; /* 0: free */
    _Atomic size_t bytes;
    _Atomic int lost;
    int prot, fd;
    struct timespec written; /* the file's time when it was mapped */
    char name[NAME_BYTES];
} rows[GM_MAPS_MAX];

static size_t n_rows; /* rows from here on were never used */
static struct sigaction before;
static bool installed;

/* ---- the handler ----------------------------------------------------------------------------- */

static bool put_zeros(uintptr_t where)
{
    for (size_t i = 0; i < GM_MAPS_MAX; i++) {
        struct row *r = &rows[i];
        const uintptr_t at = atomic_load(&r->at);
        const size_t bytes = atomic_load(&r->bytes);
        if (at == 0 || where < at || where - at >= bytes)
            continue;
        atomic_store(&r->lost, 1);
        void *zeros = (void *)at; // NOLINT(performance-no-int-to-ptr)
        return mmap(zeros, bytes, r->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                    -1, 0) == zeros;
    }
    return false;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    const int saved = errno;
    (void)context;
    const bool sent = info->si_code <= 0; /* by a process, not by a page */
    if (sent || !put_zeros((uintptr_t)info->si_addr)) {
        (void)sigaction(SIGBUS, &before, NULL); /* the instruction faults again, for good */
        if (sent)
            (void)raise(number);
    }
    errno = saved;
}

static enum gm_status install(struct gm_err *err)
{
    struct sigaction act = { 0 };
    if (installed)
        return GM_OK;
    act.sa_sigaction = on_bus;
    act.sa_flags = SA_SIGINFO | SA_RESTART;
    (void)sigemptyset(&act.sa_mask);
    if (sigaction(SIGBUS, &act, &before) != 0)
        return gm_fail(err, GM_INTERNAL, "signal %d cannot be handled: %s", SIGBUS,
                       strerror(errno));
    installed = true;
    return GM_OK;
}

/* ---- the list -------------------------------------------------------------------------------- */

static struct row *row_of(uintptr_t at)
{
    for (size_t i = 0; i < n_rows; i++)
        if (atomic_load(&rows[i].at) == at)
            return &rows[i];
    return at == 0 && n_rows < GM_MAPS_MAX ? &rows[n_rows++] : NULL;
}

enum gm_status gm_mapguard_add(const char *path, int fd, void *ptr, size_t bytes, int prot,
                               struct gm_err *err)
{
    struct stat st;
    enum gm_status rc = install(err);
    struct row *r = rc == GM_OK ? row_of(0) : NULL;
    if (rc == GM_OK && !r)
        rc = gm_fail(err, GM_EXHAUSTED, "%.250s cannot be mapped: %d files are mapped already",
                     path, GM_MAPS_MAX);
    if (rc == GM_OK && fstat(fd, &st) != 0)
        rc = gm_fail(err, GM_UNKNOWN, "%.250s cannot be read: %s", path, strerror(errno));
    if (rc != GM_OK) {
        (void)close(fd);
        return rc;
    }
    r->prot = prot;
    r->fd = fd;
    r->written = st.st_mtim;
    (void)snprintf(r->name, sizeof r->name, "%s", path);
    atomic_store(&r->lost, 0);
    atomic_store(&r->bytes, bytes);
    atomic_store(&r->at, (uintptr_t)ptr);
    return GM_OK;
}

void gm_mapguard_remove(const void *ptr)
{
    struct row *r = ptr ? row_of((uintptr_t)ptr) : NULL;
    if (!r)
        return;
    atomic_store(&r->at, 0);
    (void)close(r->fd);
}

enum gm_status gm_mapguard_check(struct gm_err *err)
{
    for (size_t i = 0; i < n_rows; i++) {
        const struct row *r = &rows[i];
        struct stat st;
        if (atomic_load(&r->at) == 0)
            continue;
        const bool told = fstat(r->fd, &st) == 0;
        const size_t bytes = told ? (size_t)st.st_size : 0;
        if (atomic_load(&r->lost) || bytes < atomic_load(&r->bytes))
            return gm_fail(err, GM_DATA_LOSS,
                           "%.200s was cut or cannot be read while it is in use: put the whole "
                           "file back, under another name first and then with mv",
                           r->name);
        const struct timespec *now = &st.st_mtim, *then = &r->written;
        const bool same = now->tv_sec == then->tv_sec && now->tv_nsec == then->tv_nsec;
        if (!(r->prot & PROT_WRITE) && (!same || bytes != atomic_load(&r->bytes)))
            return gm_fail(err, GM_DATA_LOSS,
                           "%.200s was written to while it is in use: put the file back as it was, "
                           "under another name first and then with mv",
                           r->name);
    }
    return GM_OK;
}
