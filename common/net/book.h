/* book.h - the address book of a pipeline over TCP: who listens where, and whose key is whose.
 *
 * Owns:      the book's form, key files, struct gm_net: what one process knows of the network.
 * Does not:  open sockets (bus.c), judge connections (zap.c) or know what a role may (roles.c).
 *
 * A line of a book is "ROLE-INDEX ENDPOINT PUBLICKEY":
 *
 *     orchestrator-0  tcp://orchestrator.example:5600  )C@/bJ!f]eujuO6cA4Gt<RnG#Ni:Z1Q}}4JYqr$x
 *     client-0        -                                bQ+Od9q7B2C#xfp}OT{i>%fE>iE(H1uAa$v)TrF{
 *
 * "-" or nothing as the endpoint: it connects only. Empty lines and lines that begin with # are
 * passed over. A name, an endpoint and a key stand in one line at most. The file is read once, at
 * start: to change it, write a new one and restart the processes (those whose line did not change
 * may go on until then).
 */
#ifndef GM_NET_BOOK_H
#define GM_NET_BOOK_H

#include "common/net/bus.h"
#include "common/net/roles.h"

enum {
    GM_BOOK_BYTES_MAX = 1 << 20,
    GM_BOOK_ROWS_MAX = 1024,
    GM_BOOK_LINE_MAX = 512, /* bytes of a line */
    GM_BOOK_NAME_MAX = 32,  /* "shard-12" with its ending 0 */
    GM_BOOK_INDEX_MAX = 1024,
    GM_HOST_MAX = 128,    /* bytes of a host's name or address */
    GM_CURVE_BYTES = 32,  /* of a key */
    GM_CURVE_TEXT = 40,   /* of a key as text (Z85, ZeroMQ RFC 32) */
    GM_KEY_FILE_MAX = 64, /* bytes of a key file */
};

struct gm_book_row {
    char role[GM_ROLE_MAX];
    uint32_t index;
    char name[GM_BOOK_NAME_MAX];    /* "ROLE-INDEX" */
    char endpoint[GM_ENDPOINT_MAX]; /* "": it connects only */
    uint8_t key[GM_CURVE_BYTES];
};
struct gm_book {
    struct gm_book_row *rows; /* owned */
    size_t n;
};

/* Reads a book from text (len bytes). GM_INVALID with the line's number. *book is then empty. */
enum gm_status gm_book_parse(struct gm_book *book, const char *text, size_t len,
                             struct gm_err *err);
enum gm_status gm_book_read(struct gm_book *book, const char *path, struct gm_err *err);
void gm_book_close(struct gm_book *book); /* idempotent */

/* NULL: not listed. */
const struct gm_book_row *gm_book_find(const struct gm_book *book, const char *role,
                                       uint32_t index);
const struct gm_book_row *gm_book_endpoint(const struct gm_book *book, const char *endpoint);
const struct gm_book_row *gm_book_key(const struct gm_book *book,
                                      const uint8_t key[GM_CURVE_BYTES]);

/* ---- key files: the secret half alone, as text; the public half follows from it -----------------
 */
/* Makes a pair: the secret key goes to a new file (0600), the public one into text. GM_EXISTS: the
 * file is there, and nothing was changed. */
enum gm_status gm_curve_make(const char *path, char text[GM_CURVE_TEXT + 1], struct gm_err *err);
/* GM_DENIED: others may read the file (a file of root's may be read by its group too). Nothing of
 * its content stands in the sentence. Wipe `secret` after use. */
enum gm_status gm_curve_read(const char *path, uint8_t secret[GM_CURVE_BYTES],
                             uint8_t shared[GM_CURVE_BYTES], struct gm_err *err);
void gm_curve_text(const uint8_t key[GM_CURVE_BYTES], char text[GM_CURVE_TEXT + 1]);

/* ---- what a process knows of the network --------------------------------------------------------
 */
struct gm_net_options {
    const char *book, *key; /* files; both NULL: sockets of the run directory, no keys */
    const char *listen;     /* address to listen on; NULL: the host of the book */
};
struct gm_net {
    struct gm_book book;
    uint8_t secret[GM_CURVE_BYTES], shared[GM_CURVE_BYTES];
    const struct gm_book_row *self;
    char bind[GM_ENDPOINT_MAX]; /* where the inbox listens; "": it has none */
};
/* *out NULL with GM_OK: no network. The key must be that of ROLE-INDEX in the book; index -1: of
 * any of the role. GM_PRECONDITION when it is another's. */
enum gm_status gm_net_open(struct gm_net **out, const struct gm_net_options *o, const char *role,
                           int64_t index, struct gm_err *err);
void gm_net_close(struct gm_net **net); /* idempotent; wipes the key. After the bus. */

/* Rows of an option table for a struct gm_net_options in the caller's struct. */
#define GM_NET_OPTION(type, field, member, word, what, text)                                       \
    {                                                                                              \
        .name = word, .kind = GM_OPT_TEXT, .at = offsetof(type, field.member), .arg = what,        \
        .help = text                                                                               \
    }
#define GM_NET_OPTIONS(type, field)                                                                \
    GM_NET_OPTION(type, field, book, "net", "FILE",                                                \
                  "address book: speak TCP with CURVE, not sockets of the run directory"),         \
        GM_NET_OPTION(type, field, key, "key", "FILE",                                             \
                      "our secret key, of mode 0600 (gemline netkey makes one)"),                  \
        GM_NET_OPTION(type, field, listen, "listen", "ADDR",                                       \
                      "address to listen on (default: the book's host; where that is a name, "     \
                      "every address)")

#endif
