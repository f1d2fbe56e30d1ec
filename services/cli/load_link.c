/* load_link.c - a connection to an HTTP server that never waits.
 *
 * Owns:      the form of an address, connect, send and receive.
 * Does not:  speak TLS, follow redirects, or send before a reply is done.
 */
#include "services/cli/load_link.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { READ_BYTES = 64 << 10, PORT_BYTES = 8 };

/* Splits "host:port", "[::1]:port"; port "80" when there is none. */
static enum gm_status split(const char *text, size_t n, char host[GM_LINK_HOST_MAX],
                            char port[PORT_BYTES], struct gm_err *err)
{
    const char *end = text + n, *close = text[0] == '[' ? memchr(text, ']', n) : NULL;
    const char *colon = memchr(close ? close : text, ':', (size_t)(end - (close ? close : text)));
    const char *from = close ? text + 1 : text;
    const char *to = close ? close : colon ? colon : end;
    int64_t number = 80;
    snprintf(port, PORT_BYTES, "80");
    if (colon)
        snprintf(port, PORT_BYTES, "%.*s", (int)(end - colon - 1 < 7 ? end - colon - 1 : 7),
                 colon + 1);
    if (to <= from || to - from >= GM_LINK_HOST_MAX ||
        (close && close + 1 != (colon ? colon : end)))
        return gm_fail(err, GM_INVALID, "--url takes http://HOST:PORT, as http://127.0.0.1:8080");
    if (gm_parse_i64(port, 1, 65535, &number, NULL) != GM_OK)
        return gm_fail(err, GM_INVALID, "--url has the port \"%s\"; give 1 to 65535", port);
    snprintf(host, GM_LINK_HOST_MAX, "%.*s", (int)(to - from), from);
    return GM_OK;
}

enum gm_status gm_target_parse(struct gm_target *t, const char *url, const char *key,
                               struct gm_err *err)
{
    char host[GM_LINK_HOST_MAX], port[PORT_BYTES];
    *t = (struct gm_target){ .key = key };
    if (strncmp(url, "https://", 8) == 0)
        return gm_fail(err, GM_INVALID, "--url is https; only http is spoken here");
    if (strncmp(url, "http://", 7) == 0)
        url += 7;
    const size_t n = strcspn(url, "/?#"), visible = strspn(url, "!\"$%&'()*+,-./0123456789:;<=>@"
                                                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`"
                                                                "abcdefghijklmnopqrstuvwxyz{|}~");
    size_t path = strlen(url + n);
    while (path > 0 && url[n + path - 1] == '/')
        path--;
    if (path >= 3 && memcmp(url + n + path - 3, "/v1", 3) == 0)
        path -= 3;
    if (url[visible] || n > GM_LINK_HOST_MAX || path >= sizeof t->path)
        return gm_fail(err, GM_INVALID, "--url takes http://HOST:PORT, as http://127.0.0.1:8080");
    snprintf(t->path, sizeof t->path, "%.*s", (int)path, url + n);
    snprintf(t->host, sizeof t->host, "%.*s", (int)n, url);
    if (key && (strlen(key) > GM_LINK_KEY_MAX || strpbrk(key, "\r\n")))
        return gm_fail(err, GM_INVALID, "--key is one line of at most %d bytes", GM_LINK_KEY_MAX);
    if (split(url, n, host, port, err) != GM_OK)
        return err->status;
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    const int code = getaddrinfo(host, port, &hints, &found);
    if (code != 0 || !found)
        return gm_fail(err, GM_UNAVAILABLE, "cannot find the host %.80s: %s", host,
                       gai_strerror(code));
    memcpy(&t->addr, found->ai_addr, found->ai_addrlen);
    t->addr_len = found->ai_addrlen;
    freeaddrinfo(found);
    return GM_OK;
}

void gm_link_begin(struct gm_link *l, int epoll, void *owner, int kind)
{
    *l = (struct gm_link){ .fd = -1, .epoll = epoll, .owner = owner, .kind = kind };
    l->out.max = GM_LINK_OUT_MAX;
}

void gm_link_shut(struct gm_link *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    l->is = GM_LINK_SHUT;
    l->busy = false;
    l->served = 0;
    gm_buf_free(&l->out);
    gm_http_reply_free(&l->reply);
}

static enum gm_status watch(struct gm_link *l, int how, uint32_t events, struct gm_err *err)
{
    struct epoll_event e = { .events = events, .data.ptr = l };
    if (epoll_ctl(l->epoll, how, l->fd, &e) != 0)
        return gm_fail(err, GM_EXHAUSTED, "cannot watch a connection: %s", strerror(errno));
    return GM_OK;
}

static enum gm_status open_link(struct gm_link *l, const struct gm_target *t, struct gm_err *err)
{
    const int on = 1;
    l->fd = socket(t->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return gm_fail(err, GM_EXHAUSTED, "cannot open a connection: %s", strerror(errno));
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(l->fd, (const struct sockaddr *)&t->addr, t->addr_len) != 0 &&
        errno != EINPROGRESS) {
        l->refused = errno == ECONNREFUSED;
        return gm_fail(err, errno == EADDRNOTAVAIL ? GM_EXHAUSTED : GM_UNAVAILABLE,
                       "cannot connect: %s", strerror(errno));
    }
    l->is = GM_LINK_CONNECTING;
    return watch(l, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT | EPOLLRDHUP, err);
}

/* Sends what it can; the link is watched for room when some is left. */
static enum gm_status flush_link(struct gm_link *l, struct gm_err *err)
{
    while (l->sent < l->out.len) {
        const ssize_t n = send(l->fd, l->out.data + l->sent, l->out.len - l->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return watch(l, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT | EPOLLRDHUP, err);
        if (n < 0)
            return GM_OK; /* a reply may lie there to be read, and reading tells what is wrong */
        l->sent += (size_t)n;
    }
    return watch(l, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP, err);
}

enum gm_status gm_link_ask(struct gm_link *l, const struct gm_target *t, const char *path,
                           const struct gm_buf *body, struct gm_err *err)
{
    l->refused = l->stale = false;
    gm_buf_clear(&l->out);
    l->sent = 0;
    gm_http_reply_begin(&l->reply);
    enum gm_status rc = gm_buf_printf(&l->out, err, "%s %s%s HTTP/1.1\r\nHost: %s\r\n",
                                      body ? "POST" : "GET", t->path, path, t->host);
    if (rc == GM_OK && t->key)
        rc = gm_buf_printf(&l->out, err, "Authorization: Bearer %s\r\n", t->key);
    if (rc == GM_OK && body)
        rc = gm_buf_printf(&l->out, err,
                           "Content-Type: application/json\r\nContent-Length: %zu\r\n", body->len);
    if (rc == GM_OK)
        rc = gm_buf_append_text(&l->out, "\r\n", err);
    if (rc == GM_OK && body)
        rc = gm_buf_append(&l->out, body->data, body->len, err);
    if (rc == GM_OK && l->is == GM_LINK_SHUT)
        rc = open_link(l, t, err);
    else if (rc == GM_OK)
        rc = flush_link(l, err);
    l->busy = true;
    if (rc != GM_OK)
        gm_link_shut(l);
    return rc;
}

static enum gm_status finish_connect(struct gm_link *l, struct gm_err *err)
{
    int code = 0;
    socklen_t n = sizeof code;
    if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &code, &n) != 0)
        code = errno;
    l->refused = code == ECONNREFUSED;
    if (code != 0)
        return gm_fail(err, GM_UNAVAILABLE, "cannot connect: %s", strerror(code));
    l->is = GM_LINK_OPEN;
    return flush_link(l, err);
}

/* The server closed it, or it broke (code is an errno). */
static enum gm_status closed(struct gm_link *l, int code, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    if (l->busy && l->served > 0 && !l->reply.started) {
        l->stale = true;
        rc = gm_fail(err, GM_UNAVAILABLE, "the server closed a connection that was kept");
    } else if (l->busy && code) {
        rc = gm_fail(err, GM_DATA_LOSS, "the connection broke: %s", strerror(code));
    } else if (l->busy) {
        rc = gm_http_reply_end(&l->reply, err);
    }
    gm_link_shut(l);
    return rc;
}

enum gm_status gm_link_ready(struct gm_link *l, uint32_t events, gm_http_sink *sink, void *ctx,
                             struct gm_err *err)
{
    static char bytes[READ_BYTES];
    enum gm_status rc = GM_OK;
    if (l->is == GM_LINK_CONNECTING)
        rc = finish_connect(l, err);
    else if ((events & EPOLLOUT) && l->sent < l->out.len)
        rc = flush_link(l, err);
    for (int i = 0; rc == GM_OK && i < GM_LINK_DRAIN_MAX; i++) {
        size_t used = 0;
        const ssize_t n = recv(l->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return GM_OK;
        if (n <= 0)
            return closed(l, n < 0 ? errno : 0, err);
        if (!l->busy) { /* nothing was asked: whatever it says, the connection is of no more use */
            gm_link_shut(l);
            return GM_OK;
        }
        rc = gm_http_reply_feed(&l->reply, bytes, (size_t)n, &used, sink, ctx, err);
        if (rc == GM_OK && l->reply.at == GM_HTTP_DONE) {
            l->busy = false;
            l->served++;
            if (!l->reply.keep || used < (size_t)n)
                gm_link_shut(l);
            return GM_OK;
        }
    }
    if (rc != GM_OK)
        gm_link_shut(l);
    return rc;
}
