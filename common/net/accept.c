/* accept.c - taking connections when no descriptor is left: see accept.h.
 *
 * Owns:      the process's own accept4, before libc's for every library; the spare descriptor.
 * Does not:  touch the sockets of other families: their owners know EMFILE.
 */
#include "common/net/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic int spare = -1; /* given up for a moment, so that a connection can be cut */

static void spare_take(void)
{
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int none = -1;
    if (fd >= 0 && !atomic_compare_exchange_strong(&spare, &none, fd))
        (void)close(fd); /* there is one */
}

void gm_accept_guard(void)
{
    if (atomic_load(&spare) < 0)
        spare_take();
}

static int accept_plain(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    return (int)syscall(SYS_accept4, fd, addr, len, flags);
}

static bool is_unix(int fd)
{
    int family = AF_UNSPEC;
    socklen_t len = sizeof family;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_UNIX;
}

/* Cuts the connection that waits first, or the listener would stay readable for ever. */
static void cut_one(int fd)
{
    const int given = atomic_exchange(&spare, -1);
    if (given >= 0)
        (void)close(given);
    const int cut = accept_plain(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (cut >= 0)
        (void)close(cut);
    spare_take();
}

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags);

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
    const int taken = accept_plain(fd, addr, len, flags);
    if (taken >= 0 || errno != EMFILE || !is_unix(fd))
        return taken;
    cut_one(fd);
    errno = ECONNABORTED;
    return -1;
}
