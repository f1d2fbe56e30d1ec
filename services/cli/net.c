/* net.c - a pipeline over TCP on this machine: its keys, its ports, its address book.
 *
 * Owns:      HOME/keys (kept), the address book beside the sockets (as long as the pipeline).
 * Does not:  know the book's form beyond writing a line (common/net/book.h).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "services/cli/cli.h"

enum {
    /* Below the ports that Linux gives to outgoing connections, so that none of those takes the
     * port of a process that is being restarted. */
    PORT_FIRST = 20000,
    PORT_LAST = 32000,
};

static const char *const book_name = "net.book";
static const char *const client_role = "client";

static enum gm_status key_path(const struct gm_home *home, const char *role, uint32_t index,
                               char out[GM_PATH_MAX], struct gm_err *err)
{
    char name[64];
    snprintf(name, sizeof name, "keys/%.16s-%u.key", role, index);
    return gm_home_path(out, home, name, err);
}

enum gm_status gm_home_net(const struct gm_home *home, const char *role, uint32_t index,
                           struct gm_home_net *net, struct gm_err *err)
{
    if (gm_path_join(net->book, sizeof net->book, home->run, book_name, err) != GM_OK)
        return err ? err->status : GM_RANGE;
    net->options = (struct gm_net_options){ .book = net->book, .key = net->key };
    return key_path(home, role, index, net->key, err);
}

enum gm_status gm_home_client(struct gm_client **out, const struct gm_home *home,
                              struct gm_err *err)
{
    struct gm_home_net net;
    *out = NULL;
    const enum gm_status rc = gm_home_net(home, client_role, 0, &net, err);
    if (rc != GM_OK)
        return rc;
    return gm_client_open(out, home->run, gm_path_exists(net.book) ? &net.options : NULL, err);
}

void gm_home_net_sweep(const struct gm_home *home)
{
    struct gm_home_net net;
    if (gm_home_net(home, client_role, 0, &net, NULL) == GM_OK)
        unlink(net.book);
}

/* ---- ports ------------------------------------------------------------------------------------
 */

/* Ports are held until all are chosen, so that none is chosen twice. */
struct ports {
    int fd[GM_CLI_PROCS_MAX];
    size_t n;
    uint32_t next;
};

static int listen_at(uint32_t port)
{
    const struct sockaddr_in a = { .sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)port),
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (const struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static enum gm_status take_port(struct ports *p, uint32_t *port, struct gm_err *err)
{
    enum { COUNT = PORT_LAST - PORT_FIRST + 1 };
    for (int i = 0; i < COUNT && p->n < GM_CLI_PROCS_MAX; i++) {
        *port = PORT_FIRST + p->next++ % COUNT;
        if ((p->fd[p->n] = listen_at(*port)) >= 0) {
            p->n++;
            return GM_OK;
        }
    }
    return gm_fail(err, GM_EXHAUSTED, "no free port from %d to %d on 127.0.0.1", PORT_FIRST,
                   PORT_LAST);
}

static void give_ports(struct ports *p)
{
    for (size_t i = 0; i < p->n; i++)
        close(p->fd[i]);
}

/* ---- keys and the book ------------------------------------------------------------------------
 */

/* The public half of a key file, which is made where there is none. */
enum gm_status gm_cli_public_key(const char *path, char text[GM_CURVE_TEXT + 1], struct gm_err *err)
{
    uint8_t secret[GM_CURVE_BYTES], shared[GM_CURVE_BYTES];
    enum gm_status rc = gm_path_exists(path) ? GM_EXISTS : gm_curve_make(path, text, err);
    if (rc != GM_EXISTS)
        return rc;
    rc = gm_curve_read(path, secret, shared, err);
    explicit_bzero(secret, sizeof secret);
    if (rc == GM_OK)
        gm_curve_text(shared, text);
    return rc;
}

static enum gm_status put_row(struct gm_buf *book, const struct gm_home *home, const char *role,
                              uint32_t index, struct ports *ports, struct gm_err *err)
{
    char path[GM_PATH_MAX], key[GM_CURVE_TEXT + 1], endpoint[64] = "-";
    uint32_t port = 0;
    enum gm_status rc = key_path(home, role, index, path, err);
    if (rc == GM_OK)
        rc = gm_cli_public_key(path, key, err);
    if (rc == GM_OK && ports)
        rc = take_port(ports, &port, err);
    if (rc == GM_OK && ports)
        snprintf(endpoint, sizeof endpoint, "tcp://127.0.0.1:%u", port);
    return rc == GM_OK ? gm_buf_printf(book, err, "%s-%u %s %s\n", role, index, endpoint, key) : rc;
}

static enum gm_status put_rows(struct gm_buf *book, const struct gm_home *home,
                               const struct gm_state *st, struct ports *ports, struct gm_err *err)
{
    enum gm_status rc =
        gm_buf_append_text(book, "# made by gemline up --tcp; gone when it ends\n", err);
    for (size_t i = 0; rc == GM_OK && i < st->n; i++)
        if (strcmp(st->procs[i].role, "redis") != 0)
            rc = put_row(book, home, st->procs[i].role, st->procs[i].index, ports, err);
    return rc == GM_OK ? put_row(book, home, client_role, 0, NULL, err) : rc;
}

enum gm_status gm_home_net_make(const struct gm_home *home, const struct gm_state *st,
                                struct gm_err *err)
{
    struct gm_buf book = GM_BUF(GM_BOOK_BYTES_MAX);
    struct ports ports = { .next = (uint32_t)gm_random_u64() % PORT_FIRST };
    struct gm_home_net net;
    char path[GM_PATH_MAX];
    enum gm_status rc = gm_home_path(path, home, "keys", err);
    if (rc == GM_OK)
        rc = gm_dir_make(path, 0700, err);
    if (rc == GM_OK)
        rc = gm_home_net(home, client_role, 0, &net, err);
    if (rc == GM_OK)
        rc = put_rows(&book, home, st, &ports, err);
    if (rc == GM_OK)
        rc = gm_file_write(net.book, gm_buf_text(&book), book.len, 0600, err);
    give_ports(&ports);
    gm_buf_free(&book);
    return rc;
}
