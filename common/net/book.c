/* book.c - the address book and key files: see book.h.
 *
 * Owns:      the parser, the modes of key files.
 * Does not:  resolve names (ZeroMQ does, at each connection).
 */
#include "common/net/book.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/base/fs.h"

enum { FIELDS_MAX = 3, PORT_MAX = 65535 };

static const char scheme[] = "tcp://";
static const char blanks[] = " \t\r";

/* ---- endpoints --------------------------------------------------------------------------------
 */

/* Where the host of "tcp://HOST:PORT" ends; NULL: it has no port. */
static const char *port_of(const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    return colon && colon >= endpoint + sizeof scheme - 1 ? colon + 1 : NULL;
}

/* An address in digits: what a process can bind to as it is. */
static bool host_in_digits(const char *host, size_t n)
{
    return host[0] == '[' || strspn(host, "0123456789.") >= n;
}

static enum gm_status check_endpoint(const char *text, struct gm_err *err)
{
    static const char name_bytes[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    const char *host = text + sizeof scheme - 1, *port = NULL;
    int64_t number;
    bool good = strncmp(text, scheme, sizeof scheme - 1) == 0 && (port = port_of(text)) != NULL &&
                gm_parse_i64(port, 1, PORT_MAX, &number, NULL) == GM_OK && port[0] != '0';
    const size_t n = good ? (size_t)(port - 1 - host) : 0;
    good = good && n > 0 && n < GM_HOST_MAX;
    if (good && host[0] == '[')
        good = n > 2 && host[n - 1] == ']' && strspn(host + 1, "0123456789abcdefABCDEF:.") == n - 2;
    else if (good)
        good = strspn(host, name_bytes) == n;
    return good ? GM_OK
                : gm_fail(err, GM_INVALID,
                          "\"%.60s\" is no endpoint: write tcp://HOST:PORT, or - where the process "
                          "connects only",
                          text);
}

/* ---- lines ------------------------------------------------------------------------------------
 */

static enum gm_status parse_name(struct gm_book_row *row, const char *text,
                                 enum gm_role_inbox *inbox, struct gm_err *err)
{
    const char *dash = strrchr(text, '-');
    const size_t n = dash ? (size_t)(dash - text) : 0;
    int64_t index = -1;
    if (n > 0 && n < sizeof row->role)
        snprintf(row->role, sizeof row->role, "%.*s", (int)n, text);
    if (!row->role[0] || !gm_role_find(row->role, inbox) ||
        gm_parse_i64(dash + 1, 0, GM_BOOK_INDEX_MAX, &index, NULL) != GM_OK)
        return gm_fail(err, GM_INVALID, "\"%.40s\" is no ROLE-INDEX, as shard-0; roles are %s",
                       text, gm_role_list());
    row->index = (uint32_t)index;
    snprintf(row->name, sizeof row->name, "%s-%u", row->role, row->index);
    return GM_OK;
}

static enum gm_status parse_key(uint8_t key[GM_CURVE_BYTES], const char *text, struct gm_err *err)
{
    if (strlen(text) != GM_CURVE_TEXT || !zmq_z85_decode(key, text))
        return gm_fail(err, GM_INVALID,
                       "the last word of the line is no public key of %d characters (Z85); gemline "
                       "netkey prints one",
                       GM_CURVE_TEXT);
    return GM_OK;
}

static enum gm_status parse_fields(struct gm_book_row *row, char *const *field, int n,
                                   struct gm_err *err)
{
    enum gm_role_inbox inbox = GM_INBOX_NONE;
    memset(row, 0, sizeof *row);
    if (n < 2 || n > FIELDS_MAX)
        return gm_fail(err, GM_INVALID, "%d words; a line is ROLE-INDEX ENDPOINT PUBLICKEY", n);
    if (parse_name(row, field[0], &inbox, err) != GM_OK ||
        parse_key(row->key, field[n - 1], err) != GM_OK)
        return err->status;
    const char *endpoint = n == FIELDS_MAX ? field[1] : "-";
    const bool none = strcmp(endpoint, "-") == 0;
    if (none && inbox == GM_INBOX_MUST)
        return gm_fail(err, GM_INVALID, "%s needs an endpoint, as tcp://HOST:PORT", row->name);
    if (!none && inbox == GM_INBOX_NONE)
        return gm_fail(err, GM_INVALID, "%s listens nowhere: write - as its endpoint", row->name);
    if (!none && check_endpoint(endpoint, err) != GM_OK)
        return err->status;
    snprintf(row->endpoint, sizeof row->endpoint, "%s", none ? "" : endpoint);
    return GM_OK;
}

static enum gm_status check_alone(const struct gm_book *book, const struct gm_book_row *row,
                                  struct gm_err *err)
{
    for (size_t i = 0; i < book->n; i++) {
        const struct gm_book_row *other = &book->rows[i];
        if (strcmp(other->name, row->name) == 0)
            return gm_fail(err, GM_INVALID, "%s stands in the book twice", row->name);
        if (row->endpoint[0] && strcmp(other->endpoint, row->endpoint) == 0)
            return gm_fail(err, GM_INVALID, "%s has the endpoint of %s", row->name, other->name);
        if (memcmp(other->key, row->key, sizeof row->key) == 0)
            return gm_fail(err, GM_INVALID,
                           "%s has the key of %s: each process needs a key of its own", row->name,
                           other->name);
    }
    return GM_OK;
}

static enum gm_status parse_line(struct gm_book *book, char *line, struct gm_err *err)
{
    char *field[FIELDS_MAX + 1];
    int n = 0;
    for (char *at = line + strspn(line, blanks); *at && n <= FIELDS_MAX;) {
        field[n++] = at;
        at += strcspn(at, blanks);
        if (*at)
            *at++ = 0;
        at += strspn(at, blanks);
    }
    if (n == 0 || field[0][0] == '#')
        return GM_OK;
    struct gm_book_row row;
    if (parse_fields(&row, field, n, err) != GM_OK || check_alone(book, &row, err) != GM_OK)
        return err->status;
    if (book->n == GM_BOOK_ROWS_MAX)
        return gm_fail(err, GM_EXHAUSTED, "a book has at most %d lines", GM_BOOK_ROWS_MAX);
    book->rows[book->n++] = row;
    return GM_OK;
}

enum gm_status gm_book_parse(struct gm_book *book, const char *text, size_t len, struct gm_err *err)
{
    char line[GM_BOOK_LINE_MAX];
    struct gm_err why = GM_ERR_NONE;
    size_t number = 0;
    memset(book, 0, sizeof *book);
    book->rows = calloc(GM_BOOK_ROWS_MAX, sizeof *book->rows);
    if (!book->rows)
        return gm_fail(err, GM_EXHAUSTED, "no memory for an address book");
    for (size_t at = 0; at < len && why.status == GM_OK; number++) {
        const char *end = memchr(text + at, '\n', len - at);
        const size_t n = (end ? (size_t)(end - text) : len) - at;
        if (n >= sizeof line || memchr(text + at, 0, n)) {
            gm_fail(&why, GM_INVALID, "it has a byte 0 or is longer than %d bytes",
                    GM_BOOK_LINE_MAX - 1);
        } else {
            memcpy(line, text + at, n);
            line[n] = 0;
            parse_line(book, line, &why);
        }
        at += n + 1;
    }
    if (why.status == GM_OK && book->n == 0)
        gm_fail(&why, GM_INVALID, "no process stands in it");
    if (why.status == GM_OK)
        return GM_OK;
    gm_book_close(book);
    return gm_fail(err, why.status, "line %zu of the address book: %s", number, why.text);
}

enum gm_status gm_book_read(struct gm_book *book, const char *path, struct gm_err *err)
{
    struct gm_buf text = GM_BUF(GM_BOOK_BYTES_MAX);
    memset(book, 0, sizeof *book);
    enum gm_status rc = gm_file_read(path, &text, err);
    if (rc == GM_OK)
        rc = gm_book_parse(book, gm_buf_text(&text), text.len, err);
    gm_buf_free(&text);
    return rc;
}

void gm_book_close(struct gm_book *book)
{
    free(book->rows);
    memset(book, 0, sizeof *book);
}

const struct gm_book_row *gm_book_find(const struct gm_book *book, const char *role, uint32_t index)
{
    for (size_t i = 0; i < book->n; i++)
        if (book->rows[i].index == index && strcmp(book->rows[i].role, role) == 0)
            return &book->rows[i];
    return NULL;
}

const struct gm_book_row *gm_book_endpoint(const struct gm_book *book, const char *endpoint)
{
    for (size_t i = 0; i < book->n; i++)
        if (endpoint[0] && strcmp(book->rows[i].endpoint, endpoint) == 0)
            return &book->rows[i];
    return NULL;
}

const struct gm_book_row *gm_book_key(const struct gm_book *book, const uint8_t key[GM_CURVE_BYTES])
{
    for (size_t i = 0; i < book->n; i++)
        if (memcmp(book->rows[i].key, key, GM_CURVE_BYTES) == 0)
            return &book->rows[i];
    return NULL;
}

/* ---- key files --------------------------------------------------------------------------------
 */

void gm_curve_text(const uint8_t key[GM_CURVE_BYTES], char text[GM_CURVE_TEXT + 1])
{
    (void)zmq_z85_encode(text, key, GM_CURVE_BYTES); /* fails for other lengths only */
}

enum gm_status gm_curve_make(const char *path, char text[GM_CURVE_TEXT + 1], struct gm_err *err)
{
    char secret[GM_CURVE_TEXT + 2];
    if (zmq_curve_keypair(text, secret) != 0)
        return gm_fail(err, GM_UNSUPPORTED, "this libzmq has no CURVE; install one with libsodium");
    secret[GM_CURVE_TEXT] = '\n';
    struct gm_newfile file;
    enum gm_status rc = gm_newfile_open(&file, path, 0600, GM_CURVE_TEXT + 1, err);
    if (rc == GM_OK)
        rc = gm_newfile_write(&file, 0, secret, GM_CURVE_TEXT + 1, err);
    if (rc == GM_OK)
        rc = gm_newfile_commit(&file, false, err);
    else
        gm_newfile_drop(&file);
    explicit_bzero(secret, sizeof secret);
    return rc;
}

/* Who else may read it: nobody, but the group of a file that root gave us. */
static enum gm_status check_mode(int fd, const char *path, struct gm_err *err)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return gm_fail(err, GM_INVALID, "the key file %.200s is no regular file", path);
    const mode_t open_to = st.st_uid == 0 && geteuid() != 0 ? 0037 : 0077;
    if (st.st_mode & open_to)
        return gm_fail(err, GM_DENIED,
                       "the key file %.200s may be read by others (mode %03o); chmod 600, and make "
                       "another key if they may have",
                       path, (unsigned)(st.st_mode & 0777));
    return GM_OK;
}

static enum gm_status read_text(const char *path, char text[GM_KEY_FILE_MAX + 1],
                                struct gm_err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return gm_fail(err, errno == ENOENT ? GM_NOT_FOUND : GM_DENIED,
                       "the key file %.200s: %s; gemline netkey makes one", path, strerror(errno));
    enum gm_status rc = check_mode(fd, path, err);
    const ssize_t n = rc == GM_OK ? read(fd, text, GM_KEY_FILE_MAX) : -1;
    close(fd);
    if (rc == GM_OK && n < 0)
        rc = gm_fail(err, GM_UNKNOWN, "the key file %.200s: %s", path, strerror(errno));
    text[n > 0 ? n : 0] = 0;
    return rc;
}

enum gm_status gm_curve_read(const char *path, uint8_t secret[GM_CURVE_BYTES],
                             uint8_t shared[GM_CURVE_BYTES], struct gm_err *err)
{
    char text[GM_KEY_FILE_MAX + 1] = "", other[GM_CURVE_TEXT + 1];
    enum gm_status rc = read_text(path, text, err);
    const size_t n = strcspn(text, "\r\n");
    if (rc == GM_OK && (n != GM_CURVE_TEXT || text[n + strspn(text + n, "\r\n")] != 0))
        rc = gm_fail(err, GM_INVALID, "%.200s holds no secret key of %d characters (Z85)", path,
                     GM_CURVE_TEXT);
    text[n] = 0;
    if (rc == GM_OK && (!zmq_z85_decode(secret, text) || zmq_curve_public(other, text) != 0 ||
                        !zmq_z85_decode(shared, other)))
        rc = gm_fail(err, GM_INVALID, "%.200s holds no secret key; gemline netkey makes one", path);
    explicit_bzero(text, sizeof text);
    return rc;
}

/* ---- the network ------------------------------------------------------------------------------
 */

static enum gm_status find_self(struct gm_net *net, const char *role, int64_t index,
                                struct gm_err *err)
{
    const struct gm_book_row *self = gm_book_key(&net->book, net->shared);
    char text[GM_CURVE_TEXT + 1];
    gm_curve_text(net->shared, text);
    if (!self)
        return gm_fail(err, GM_PRECONDITION,
                       "the address book does not list our key (%s): add a line for it", text);
    if (strcmp(self->role, role) != 0 || (index >= 0 && self->index != index))
        return gm_fail(err, GM_PRECONDITION,
                       "the key is that of %s in the address book, and this is a process of the "
                       "role %s (index %lld); give it its own key",
                       self->name, role, (long long)index);
    net->self = self;
    return GM_OK;
}

/* The book's endpoint, or the same port at the address to listen on. A name may stand for another
 * machine's address (of a balancer, of a service), so it says only where others connect to. */
static enum gm_status find_bind(struct gm_net *net, const char *listen, struct gm_err *err)
{
    const char *endpoint = net->self->endpoint;
    const char *port = endpoint[0] ? port_of(endpoint) : NULL;
    if (!port)
        return GM_OK;
    const char *host = endpoint + sizeof scheme - 1;
    int n = (int)(port - 1 - host);
    if (listen) {
        host = listen;
        n = (int)strnlen(listen, GM_HOST_MAX);
    } else if (!host_in_digits(host, (size_t)n)) {
        host = "*";
        n = 1;
    }
    if (n == 0 || n == GM_HOST_MAX)
        return gm_fail(err, GM_INVALID, "--listen takes an address of this machine, or *");
    snprintf(net->bind, sizeof net->bind, "%s%.*s:%s", scheme, n, host, port);
    return GM_OK;
}

enum gm_status gm_net_open(struct gm_net **out, const struct gm_net_options *o, const char *role,
                           int64_t index, struct gm_err *err)
{
    *out = NULL;
    if (!o || (!o->book && !o->key && !o->listen))
        return GM_OK;
    if (!o->book || !o->key)
        return gm_fail(err, GM_INVALID, "--net and --key go together: the book, and our own key");
    struct gm_net *net = calloc(1, sizeof *net);
    if (!net)
        return gm_fail(err, GM_EXHAUSTED, "no memory for an address book");
    enum gm_status rc = gm_book_read(&net->book, o->book, err);
    if (rc == GM_OK)
        rc = gm_curve_read(o->key, net->secret, net->shared, err);
    if (rc == GM_OK)
        rc = find_self(net, role, index, err);
    if (rc == GM_OK)
        rc = find_bind(net, o->listen, err);
    if (rc != GM_OK) {
        gm_net_close(&net);
        return rc;
    }
    *out = net;
    return GM_OK;
}

void gm_net_close(struct gm_net **net)
{
    if (!*net)
        return;
    gm_book_close(&(*net)->book);
    explicit_bzero((*net)->secret, sizeof(*net)->secret);
    free(*net);
    *net = NULL;
}
