/* listen.c - the listening socket: see listen.h.
 *
 * Owns:      reading ADDR:PORT, bind, listen.
 * Does not:  resolve names: an address is given in digits.
 */
#include "services/gateway/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/text.h"
#include "services/gateway/http.h"

enum { PORT_MAX = 65535 };

struct where {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at;
    socklen_t len;
    int port;
};

static enum gm_status parse(const char *text, struct where *w, struct gm_err *err)
{
    char host[GM_ADDRESS_MAX];
    const char *colon = strrchr(text, ':');
    int64_t port = 0;
    size_t n = colon ? (size_t)(colon - text) : 0;
    memset(w, 0, sizeof *w);
    if (!colon || n == 0 || n >= sizeof host ||
        gm_parse_i64(colon + 1, 1, PORT_MAX, &port, NULL) != GM_OK)
        return gm_fail(err, GM_INVALID, "%.100s is no ADDR:PORT, as 127.0.0.1:8080", text);
    w->port = (int)port;
    if (text[0] == '[' && text[n - 1] == ']') {
        snprintf(host, sizeof host, "%.*s", (int)n - 2, text + 1);
        w->at.v6.sin6_family = AF_INET6;
        w->len = sizeof w->at.v6;
        if (inet_pton(AF_INET6, host, &w->at.v6.sin6_addr) == 1)
            return GM_OK;
    } else {
        snprintf(host, sizeof host, "%.*s", (int)n, text);
        w->at.v4.sin_family = AF_INET;
        w->len = sizeof w->at.v4;
        if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host,
                      &w->at.v4.sin_addr) == 1)
            return GM_OK;
    }
    return gm_fail(err, GM_INVALID, "%.100s is no address in digits, as 127.0.0.1 or [::1]", text);
}

static void put_port(struct where *w, int port)
{
    if (w->at.any.sa_family == AF_INET6)
        w->at.v6.sin6_port = htons((uint16_t)port);
    else
        w->at.v4.sin_port = htons((uint16_t)port);
}

bool gm_address_local(const char *address)
{
    struct where w;
    if (parse(address, &w, NULL) != GM_OK)
        return false;
    if (w.at.any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&w.at.v6.sin6_addr);
    return ntohl(w.at.v4.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static void name_of(const struct where *w, int port, char out[GM_ADDRESS_MAX])
{
    char host[INET6_ADDRSTRLEN] = "";
    const bool v6 = w->at.any.sa_family == AF_INET6;
    inet_ntop(w->at.any.sa_family,
              v6 ? (const void *)&w->at.v6.sin6_addr : (const void *)&w->at.v4.sin_addr, host,
              sizeof host);
    snprintf(out, GM_ADDRESS_MAX, v6 ? "[%s]:%d" : "%s:%d", host, port);
}

enum gm_status gm_listen(const char *address, bool port_free, int *fd, char at[GM_ADDRESS_MAX],
                         struct gm_err *err)
{
    struct where w;
    const int on = 1;
    int why = 0;
    *fd = -1;
    if (parse(address, &w, err) != GM_OK)
        return err ? err->status : GM_INVALID;
    for (int i = 0; i < (port_free ? GM_PORTS_TRIED : 1) && w.port + i <= PORT_MAX; i++) {
        const int s =
            socket(w.at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
        if (s < 0)
            return gm_fail(err, GM_EXHAUSTED, "no further socket: %s", strerror(errno));
        (void)setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        put_port(&w, w.port + i);
        if (bind(s, &w.at.any, w.len) == 0 && listen(s, GM_HTTP_BACKLOG) == 0) {
            name_of(&w, w.port + i, at);
            *fd = s;
            return GM_OK;
        }
        why = errno;
        close(s);
        if (why != EADDRINUSE)
            break;
    }
    if (why == EADDRINUSE)
        return gm_fail(err, GM_EXISTS, "the port of %.100s is taken; give --http another one",
                       address);
    return gm_fail(err, GM_DENIED, "cannot listen on %.100s: %s", address, strerror(why));
}
