/* test_book.c - the address book, key files, and what a process makes of them.
 *
 * Owns:      the checks of book.h, with lines and files that mean harm.
 * Does not:  open connections (test_curve.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "common/base/fs.h"
#include "common/net/book.h"

enum { KEYS = 8, FUZZ_N = 20000, TEXT_MAX = 4096 };

static char dir[64];
static char keys[KEYS][GM_CURVE_TEXT + 1], secrets[KEYS][GM_CURVE_TEXT + 1];

static enum gm_status parse(struct gm_book *book, const char *text, struct gm_err *err)
{
    *err = GM_ERR_NONE;
    return gm_book_parse(book, text, strlen(text), err);
}

/* ---- the book ---------------------------------------------------------------------------------
 */

static void test_good(void)
{
    char text[TEXT_MAX];
    struct gm_book book;
    struct gm_err err;
    uint8_t key[GM_CURVE_BYTES];
    (void)snprintf(text, sizeof text,
                   "# a comment\n\n  # another\r\norchestrator-0 tcp://10.0.0.1:5600 %s\r\n"
                   "\tshard-0\ttcp://shard-0.ring_a.example:5601   %s  \n"
                   "shard-11 tcp://[fe80::1]:65535 %s\ngateway-0 - %s\nclient-3 %s",
                   keys[0], keys[1], keys[2], keys[3], keys[4]);
    CU_ASSERT_EQUAL_FATAL(parse(&book, text, &err), GM_OK);
    CU_ASSERT_EQUAL(book.n, 5);
    const struct gm_book_row *row = gm_book_find(&book, "shard", 11);
    CU_ASSERT_FATAL(row != NULL);
    CU_ASSERT_STRING_EQUAL(row->name, "shard-11");
    CU_ASSERT_STRING_EQUAL(row->endpoint, "tcp://[fe80::1]:65535");
    CU_ASSERT_PTR_EQUAL(gm_book_endpoint(&book, "tcp://shard-0.ring_a.example:5601"),
                        gm_book_find(&book, "shard", 0));
    CU_ASSERT_PTR_NULL(gm_book_endpoint(&book, "tcp://shard-0.ring_a.example:5602"));
    CU_ASSERT_PTR_NULL(gm_book_endpoint(&book, "")); /* those that only connect have none */
    CU_ASSERT_PTR_NULL(gm_book_find(&book, "shard", 1));
    (void)zmq_z85_decode(key, keys[4]);
    CU_ASSERT_PTR_EQUAL(gm_book_key(&book, key), gm_book_find(&book, "client", 3));
    key[0] ^= 1;
    CU_ASSERT_PTR_NULL(gm_book_key(&book, key));
    gm_book_close(&book);
    gm_book_close(&book);
}

/* One line each, K for a good key; and what the sentence must name. */
static const struct {
    const char *line, *says;
} bad[] = {
    { "shard-0", "1 words" },
    { "shard-0 tcp://a:1 K more", "4 words" },
    { "shard tcp://a:1 K", "ROLE-INDEX" },
    { "-0 tcp://a:1 K", "ROLE-INDEX" },
    { "shard-x tcp://a:1 K", "ROLE-INDEX" },
    { "shard--1 tcp://a:1 K", "ROLE-INDEX" },
    { "shard-99999999999999999999 tcp://a:1 K", "ROLE-INDEX" },
    { "shard-1025 tcp://a:1 K", "ROLE-INDEX" },
    { "root-0 tcp://a:1 K", "roles are" },
    { "averyverylongrolename-0 tcp://a:1 K", "ROLE-INDEX" },
    { "shard-0 - K", "needs an endpoint" },
    { "shard-0 K", "needs an endpoint" },
    { "client-0 tcp://a:1 K", "listens nowhere" },
    { "shard-0 tcp://a K", "no endpoint" },
    { "shard-0 tcp://a: K", "no endpoint" },
    { "shard-0 tcp://:1 K", "no endpoint" },
    { "shard-0 tcp://a:0 K", "no endpoint" },
    { "shard-0 tcp://a:01 K", "no endpoint" },
    { "shard-0 tcp://a:65536 K", "no endpoint" },
    { "shard-0 tcp://a:1x K", "no endpoint" },
    { "shard-0 tcp://*:1 K", "no endpoint" },
    { "shard-0 tcp://b;a:1 K", "no endpoint" },
    { "shard-0 tcp://a/b:1 K", "no endpoint" },
    { "shard-0 tcp://[::1:1 K", "no endpoint" },
    { "shard-0 tcp://[]:1 K", "no endpoint" },
    { "shard-0 tcp://[::1]x:1 K", "no endpoint" },
    { "shard-0 ipc:///tmp/x.sock K", "no endpoint" },
    { "shard-0 tcp:// K", "no endpoint" },
    { "shard-0 tcp://a:1 K-", "no public key" },
    { "shard-0 tcp://a:1 short", "no public key" },
    { "shard-0 tcp://a:1 ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~", "no public key" },
    { "shard-0 tcp://a:1 ########################################", "no public key" },
    { "", "no process" },
    { "# only this", "no process" },
};

static void fill(char *out, size_t cap, const char *line, const char *key)
{
    const char *at = strstr(line, " K");
    if (at)
        (void)snprintf(out, cap, "%.*s %s%s", (int)(at - line), line, key, at + 2);
    else
        (void)snprintf(out, cap, "%s", line);
}

static void test_bad_lines(void)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[TEXT_MAX], line[TEXT_MAX / 2];
        struct gm_book book;
        struct gm_err err;
        fill(line, sizeof line, bad[i].line, keys[0]);
        const bool empty = strcmp(bad[i].says, "no process") == 0;
        (void)snprintf(text, sizeof text, empty ? "%s\n" : "# first\n%s\nclient-9 %s\n", line,
                       keys[7]);
        CU_ASSERT_EQUAL(parse(&book, text, &err), GM_INVALID);
        CU_ASSERT_PTR_NULL(book.rows);
        CU_ASSERT(strstr(err.text, bad[i].says) != NULL);
        CU_ASSERT(empty || strstr(err.text, "line 2 ") != NULL);
        if (!strstr(err.text, bad[i].says))
            (void)fprintf(stderr, "%s: %s\n", bad[i].line, err.text);
    }
}

static void test_twice(void)
{
    static const struct {
        const char *first, *second;
        int key;
        const char *says;
    } pairs[] = {
        { "shard-0 tcp://a:1", "shard-0 tcp://a:2", 1, "twice" },
        { "shard-0 tcp://a:1", "shard-1 tcp://a:1", 1, "endpoint of shard-0" },
        { "shard-0 tcp://a:1", "client-0 -", 0, "key of shard-0" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        char text[TEXT_MAX];
        struct gm_book book;
        struct gm_err err;
        (void)snprintf(text, sizeof text, "%s %s\n%s %s\n", pairs[i].first, keys[0],
                       pairs[i].second, keys[pairs[i].key]);
        CU_ASSERT_EQUAL(parse(&book, text, &err), GM_INVALID);
        CU_ASSERT(strstr(err.text, pairs[i].says) != NULL);
    }
}

static void test_limits(void)
{
    struct gm_book book;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf text = GM_BUF(GM_BOOK_BYTES_MAX);
    char pub[GM_CURVE_TEXT + 1], sec[GM_CURVE_TEXT + 1];
    for (int i = 0; i <= GM_BOOK_ROWS_MAX; i++) {
        const bool client = i > GM_BOOK_ROWS_MAX / 2;
        CU_ASSERT_FATAL(zmq_curve_keypair(pub, sec) == 0);
        CU_ASSERT(gm_buf_printf(&text, &err, "%s-%d %s %s\n", client ? "client" : "gateway", i, "-",
                                pub) == GM_OK);
        if (i == GM_BOOK_ROWS_MAX - 1) {
            CU_ASSERT_EQUAL(gm_book_parse(&book, text.data, text.len, &err), GM_OK);
            CU_ASSERT_EQUAL(book.n, GM_BOOK_ROWS_MAX);
            gm_book_close(&book);
        }
    }
    CU_ASSERT_EQUAL(gm_book_parse(&book, text.data, text.len, &err), GM_EXHAUSTED);
    CU_ASSERT(strstr(err.text, "at most") != NULL);
    gm_buf_free(&text);
    char line[GM_BOOK_LINE_MAX + 2];
    memset(line, '#', sizeof line);
    CU_ASSERT_EQUAL(gm_book_parse(&book, line, GM_BOOK_LINE_MAX, &err), GM_INVALID);
    CU_ASSERT(strstr(err.text, "longer") != NULL);
    CU_ASSERT_EQUAL(gm_book_parse(&book, "# a\0b\n", 6, &err), GM_INVALID);
    CU_ASSERT(strstr(err.text, "byte 0") != NULL);
}

/* Changed bytes of a good book: it is refused with a line's number, or what it says is sound. */
static void test_fuzz(void)
{
    char good[TEXT_MAX], text[TEXT_MAX];
    uint64_t x = 88172645463325252u;
    int refused = 0, taken = 0;
    const int n = snprintf(good, sizeof good,
                           "shard-0 tcp://a.example:5601 %s\nsampler-0 tcp://127.0.0.1:5602 %s\n"
                           "client-0 - %s\n",
                           keys[0], keys[1], keys[2]);
    for (int i = 0; i < FUZZ_N; i++) {
        struct gm_book book;
        struct gm_err err = GM_ERR_NONE;
        memcpy(text, good, (size_t)n);
        for (int k = 0; k < 1 + i % 4; k++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            text[x % (uint64_t)n] = (char)(x >> 32);
        }
        const enum gm_status rc = gm_book_parse(&book, text, (size_t)n - x % 7, &err);
        refused += rc != GM_OK;
        taken += rc == GM_OK;
        if (rc != GM_OK && (book.rows || strncmp(err.text, "line ", 5) != 0))
            CU_FAIL("a refused book is empty and names a line");
        for (size_t r = 0; r < book.n; r++)
            if (gm_book_find(&book, book.rows[r].role, book.rows[r].index) != &book.rows[r] ||
                (book.rows[r].endpoint[0] && strncmp(book.rows[r].endpoint, "tcp://", 6) != 0))
                CU_FAIL("a row that is taken is sound");
        gm_book_close(&book);
    }
    CU_ASSERT(refused > FUZZ_N / 10);
    CU_ASSERT(taken > FUZZ_N / 100);
}

/* ---- key files --------------------------------------------------------------------------------
 */

static void path_of(char out[GM_PATH_MAX], const char *name)
{
    (void)snprintf(out, GM_PATH_MAX, "%s/%s", dir, name);
}

static void test_key_file(void)
{
    char path[GM_PATH_MAX], text[GM_CURVE_TEXT + 1], again[GM_CURVE_TEXT + 1];
    uint8_t secret[GM_CURVE_BYTES], shared[GM_CURVE_BYTES];
    struct gm_err err = GM_ERR_NONE;
    struct stat st;
    path_of(path, "made.key");
    CU_ASSERT_EQUAL_FATAL(gm_curve_make(path, text, &err), GM_OK);
    CU_ASSERT(stat(path, &st) == 0 && (st.st_mode & 07777) == 0600);
    CU_ASSERT_EQUAL(gm_curve_read(path, secret, shared, &err), GM_OK);
    gm_curve_text(shared, again);
    CU_ASSERT_STRING_EQUAL(text, again);
    CU_ASSERT_EQUAL(gm_curve_make(path, again, &err), GM_EXISTS);
    uint8_t same[GM_CURVE_BYTES];
    CU_ASSERT_EQUAL(gm_curve_read(path, same, shared, &err), GM_OK);
    CU_ASSERT(memcmp(secret, same, sizeof same) == 0);
    static const mode_t open_to_others[] = { 0640, 0604, 0660, 0601, 0610, 0602 };
    for (size_t i = 0; i < sizeof open_to_others / sizeof *open_to_others; i++) {
        CU_ASSERT(chmod(path, open_to_others[i]) == 0);
        CU_ASSERT_EQUAL(gm_curve_read(path, same, shared, &err), GM_DENIED);
        CU_ASSERT(strstr(err.text, "chmod 600") != NULL);
    }
    CU_ASSERT(chmod(path, 0400) == 0);
    CU_ASSERT_EQUAL(gm_curve_read(path, same, shared, &err), GM_OK);
}

static void test_bad_key_file(void)
{
    char path[GM_PATH_MAX], text[256];
    uint8_t secret[GM_CURVE_BYTES], shared[GM_CURVE_BYTES];
    struct gm_err err = GM_ERR_NONE;
    path_of(path, "bad.key");
    CU_ASSERT_EQUAL(gm_curve_read(path, secret, shared, &err), GM_NOT_FOUND);
    CU_ASSERT(strstr(err.text, "netkey") != NULL);
    static const struct {
        const char *before;
        int n; /* bytes of a secret key between them */
        const char *behind;
    } forms[] = { { "", 0, "" },     { "", 20, "" },     { "", GM_CURVE_TEXT, "x" },
                  { "\n", 40, "" },  { "", 40, "\nx" },  { "", 39, " " },
                  { "", 39, "~" },   { "", 39, "\xff" }, { "", 40, "\n\n\n\n\n#" },
                  { "key ", 36, "" } };
    char part[21]; /* what must not stand in a sentence */
    (void)snprintf(part, sizeof part, "%.20s", secrets[0]);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        (void)snprintf(text, sizeof text, "%s%.*s%s", forms[i].before, forms[i].n, secrets[0],
                       forms[i].behind);
        CU_ASSERT_EQUAL(gm_file_write(path, text, strlen(text), 0600, &err), GM_OK);
        CU_ASSERT_EQUAL(gm_curve_read(path, secret, shared, &err), GM_INVALID);
        CU_ASSERT_PTR_NULL(strstr(err.text, part));
    }
    CU_ASSERT_EQUAL(gm_curve_read(dir, secret, shared, &err), GM_INVALID);
    path_of(path, "fifo.key");
    CU_ASSERT(mkfifo(path, 0600) == 0);
    CU_ASSERT_EQUAL(gm_curve_read(path, secret, shared, &err), GM_INVALID); /* and does not wait */
}

/* ---- what a process makes of both -------------------------------------------------------------
 */

static enum gm_status open_net(const char *role, int64_t index, const char *listen,
                               char bind[GM_ENDPOINT_MAX], struct gm_err *err)
{
    char book[GM_PATH_MAX], key[GM_PATH_MAX];
    struct gm_net *net = NULL;
    path_of(book, "book");
    path_of(key, "0.key");
    *err = GM_ERR_NONE;
    const enum gm_status rc =
        gm_net_open(&net, &(struct gm_net_options){ .book = book, .key = key, .listen = listen },
                    role, index, err);
    (void)snprintf(bind, GM_ENDPOINT_MAX, "%s", net ? net->bind : "none");
    CU_ASSERT((net != NULL) == (rc == GM_OK));
    gm_net_close(&net);
    return rc;
}

static void test_net(void)
{
    static const struct {
        const char *endpoint, *listen, *bind;
    } binds[] = {
        { "tcp://127.0.0.1:77", NULL, "tcp://127.0.0.1:77" },
        { "tcp://[::1]:77", NULL, "tcp://[::1]:77" },
        { "tcp://shard.example:77", NULL, "tcp://*:77" }, /* the name may be a balancer's */
        { "tcp://shard.example:77", "10.1.2.3", "tcp://10.1.2.3:77" },
        { "tcp://10.1.2.3:77", "*", "tcp://*:77" },
    };
    char path[GM_PATH_MAX], text[256], bind[GM_ENDPOINT_MAX];
    struct gm_err err = GM_ERR_NONE;
    path_of(path, "0.key");
    CU_ASSERT_EQUAL(gm_file_write(path, secrets[0], GM_CURVE_TEXT, 0600, &err), GM_OK);
    path_of(path, "book");
    for (size_t i = 0; i < sizeof binds / sizeof *binds; i++) {
        (void)snprintf(text, sizeof text, "shard-2 %s %s\nclient-0 %s", binds[i].endpoint, keys[0],
                       keys[1]);
        CU_ASSERT_EQUAL(gm_file_write(path, text, strlen(text), 0600, &err), GM_OK);
        CU_ASSERT_EQUAL(open_net("shard", 2, binds[i].listen, bind, &err), GM_OK);
        CU_ASSERT_STRING_EQUAL(bind, binds[i].bind);
    }
    CU_ASSERT_EQUAL(open_net("shard", 2, "", bind, &err), GM_INVALID);
    CU_ASSERT_EQUAL(open_net("shard", 1, NULL, bind, &err), GM_PRECONDITION);
    CU_ASSERT(strstr(err.text, "shard-2") != NULL);
    CU_ASSERT_EQUAL(open_net("client", -1, NULL, bind, &err), GM_PRECONDITION);
    (void)snprintf(text, sizeof text, "client-4 %s", keys[0]);
    CU_ASSERT_EQUAL(gm_file_write(path, text, strlen(text), 0600, &err), GM_OK);
    CU_ASSERT_EQUAL(open_net("client", -1, NULL, bind, &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(bind, "");
    (void)snprintf(text, sizeof text, "client-4 %s", keys[1]);
    CU_ASSERT_EQUAL(gm_file_write(path, text, strlen(text), 0600, &err), GM_OK);
    CU_ASSERT_EQUAL(open_net("client", -1, NULL, bind, &err), GM_PRECONDITION);
    CU_ASSERT(strstr(err.text, keys[0]) != NULL); /* the public key that has no line */

    struct gm_net *net = NULL;
    CU_ASSERT_EQUAL(gm_net_open(&net, &(struct gm_net_options){ 0 }, "shard", 0, &err), GM_OK);
    CU_ASSERT_PTR_NULL(net);
    CU_ASSERT_EQUAL(gm_net_open(&net, NULL, "shard", 0, &err), GM_OK);
    CU_ASSERT_EQUAL(gm_net_open(&net, &(struct gm_net_options){ .book = path }, "shard", 0, &err),
                    GM_INVALID);
    CU_ASSERT_EQUAL(gm_net_open(&net, &(struct gm_net_options){ .key = path }, "shard", 0, &err),
                    GM_INVALID);
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

int main(void)
{
    (void)snprintf(dir, sizeof dir, "/tmp/gmbookXXXXXX");
    if (!mkdtemp(dir) || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    for (int i = 0; i < KEYS; i++)
        if (zmq_curve_keypair(keys[i], secrets[i]) != 0)
            return 2;
    CU_pSuite suite = CU_add_suite("net: address book", NULL, NULL);
    if (!suite || !CU_add_test(suite, "a good book", test_good) ||
        !CU_add_test(suite, "bad lines", test_bad_lines) ||
        !CU_add_test(suite, "something twice", test_twice) ||
        !CU_add_test(suite, "limits", test_limits) || !CU_add_test(suite, "noise", test_fuzz) ||
        !CU_add_test(suite, "the process's own line", test_net) ||
        !CU_add_test(suite, "key files", test_key_file) ||
        !CU_add_test(suite, "bad key files", test_bad_key_file))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return nftw(dir, drop, 8, FTW_DEPTH | FTW_PHYS) != 0 || failures > 0;
}
