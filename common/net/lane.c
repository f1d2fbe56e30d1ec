/* lane.c - short messages between processes of one machine: see lane.h.
 *
 * Owns:      the datagram socket.
 * Does not:  know what a message means (bus.c).
 */
#include "common/net/lane.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

bool gm_lane_path(char out[GM_LANE_PATH_MAX], const char *endpoint)
{
    static const char scheme[] = "ipc://", suffix[] = ".sock";
    const size_t len = strlen(endpoint), skip = sizeof scheme - 1, tail = sizeof suffix - 1;
    if (len <= skip + tail || strncmp(endpoint, scheme, skip) != 0 ||
        strcmp(endpoint + len - tail, suffix) != 0)
        return false;
    const int n =
        snprintf(out, GM_LANE_PATH_MAX, "%.*s.lane", (int)(len - skip - tail), endpoint + skip);
    return n > 0 && n < GM_LANE_PATH_MAX;
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    memcpy(a.sun_path, path, strlen(path) + 1);
    return a;
}

void gm_lane_open(struct gm_lane *lane, const char *endpoint)
{
    *lane = GM_LANE_NONE;
    if (!gm_lane_path(lane->path, endpoint))
        return;
    const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const struct sockaddr_un a = address_of(lane->path);
    if (fd < 0)
        return;
    (void)unlink(lane->path);
    if (bind(fd, (const struct sockaddr *)&a, sizeof a) != 0 || chmod(lane->path, 0600) != 0) {
        (void)close(fd);
        return;
    }
    lane->fd = fd;
}

void gm_lane_close(struct gm_lane *lane)
{
    if (lane->fd < 0)
        return;
    (void)close(lane->fd);
    (void)unlink(lane->path);
    lane->fd = -1;
}

bool gm_lane_send(const struct gm_lane *lane, const char *path, const struct iovec *parts, int n)
{
    struct sockaddr_un a = address_of(path);
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += parts[i].iov_len;
    if (lane->fd < 0 || bytes > GM_LANE_BYTES_MAX)
        return false;
    const struct msghdr m = { .msg_name = &a,
                              .msg_namelen = sizeof a,
                              .msg_iov = (struct iovec *)parts,
                              .msg_iovlen = (size_t)n };
    return sendmsg(lane->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)bytes;
}

size_t gm_lane_recv(const struct gm_lane *lane, uint8_t buf[GM_LANE_BYTES_MAX + 1])
{
    if (lane->fd < 0)
        return 0;
    const ssize_t n = recv(lane->fd, buf, GM_LANE_BYTES_MAX + 1, MSG_DONTWAIT);
    return n > 0 ? (size_t)n : 0;
}
