/* load_link.h - one connection to an HTTP server that never waits: a request out, a reply in.
 *
 * Owns:      the address of the server, the socket, the bytes on their way, the state of the reply.
 * Does not:  know what is asked, or wait (load.c does).
 */
#ifndef GM_LOAD_LINK_H
#define GM_LOAD_LINK_H

#include <sys/socket.h>

#include "services/cli/load_http.h"

enum {
    GM_LINK_HOST_MAX = 255,
    GM_LINK_PATH_MAX = 200,
    GM_LINK_KEY_MAX = 1024,
    GM_LINK_OUT_MAX = 8 << 20, /* one request */
    GM_LINK_DRAIN_MAX = 8,     /* reads of one link before the others have their turn */
};

struct gm_target {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    char host[GM_LINK_HOST_MAX + 16]; /* of the Host header: name and port */
    char path[GM_LINK_PATH_MAX];      /* before /v1/..., without a slash at its end */
    const char *key;                  /* NULL: no Authorization */
};

/* "http://HOST[:PORT][/PATH]", also without "http://"; a path /v1 at the end is dropped.
 * GM_INVALID: wrong form, https; GM_UNAVAILABLE: the name cannot be resolved. `key` is kept by
 * pointer. */
enum gm_status gm_target_parse(struct gm_target *t, const char *url, const char *key,
                               struct gm_err *err);

enum gm_link_is { GM_LINK_SHUT, GM_LINK_CONNECTING, GM_LINK_OPEN };

struct gm_link {
    enum gm_link_is is;
    int fd, epoll;
    bool busy;    /* a request was given and its reply is not done */
    bool refused; /* the last failure: nobody listens there */
    bool stale;   /* the last failure: a connection that had served before was closed meanwhile */
    uint32_t served;
    struct gm_buf out;
    size_t sent;
    struct gm_http_reply reply;
    void *owner; /* of whoever uses it */
    int kind;    /* likewise */
};

void gm_link_begin(struct gm_link *l, int epoll, void *owner, int kind);
/* Closes; the memory of buffers goes back. Idempotent; gm_link_ask opens again. */
void gm_link_shut(struct gm_link *l);

/* Sends a request on the open connection, or on a new one. body NULL: GET. GM_UNAVAILABLE: it
 * cannot be sent; GM_EXHAUSTED: too long, or no more connections can be opened. */
enum gm_status gm_link_ask(struct gm_link *l, const struct gm_target *t, const char *path,
                           const struct gm_buf *body, struct gm_err *err);

/* What epoll said of this link. The reply is done when GM_OK and !busy. On a failure the link is
 * shut; `refused` and `stale` say more. Body bytes go to `sink`. */
enum gm_status gm_link_ready(struct gm_link *l, uint32_t events, gm_http_sink *sink, void *ctx,
                             struct gm_err *err);

#endif
