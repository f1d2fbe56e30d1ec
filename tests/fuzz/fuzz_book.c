/* fuzz_book.c - libFuzzer target: any bytes as an address book, and as what a key's owner sends.
 *
 * Owns:      what must hold of every book (names, endpoints and keys are found again, each once),
 *            and of what a role may send: no call of another service, no HELLO in another's name.
 * Does not:  know which books are right (tests/unit/test_book.c).
 * Input:     the first byte: 0 a book; else which role sends: a kind, the length of a method's
 *            name, the name, a body. Seeds in tests/fuzz/book.
 */
#include <stdio.h>

#include "common/net.h"
#include "common/net/book.h"
#include "common/net/roles.h"
#include "tests/fuzz/must.h"

enum { METHOD_MAX = 200 };

static void read_book(const uint8_t *data, size_t size)
{
    struct gm_book book;
    struct gm_err err = GM_ERR_NONE;
    char *text = malloc(size + 1);
    must(text != NULL);
    memcpy(text, data, size);
    const enum gm_status rc = gm_book_parse(&book, text, size, &err);
    must_be_told(rc, &err);
    must(rc == GM_OK || book.n == 0);
    for (size_t i = 0; i < book.n; i++) {
        const struct gm_book_row *r = &book.rows[i];
        char key[GM_CURVE_TEXT + 1], name[2 * GM_BOOK_NAME_MAX];
        enum gm_role_inbox inbox;
        must(gm_role_find(r->role, &inbox) && r->index <= GM_BOOK_INDEX_MAX);
        (void)snprintf(name, sizeof name, "%s-%u", r->role, r->index);
        must(strcmp(name, r->name) == 0 && gm_book_find(&book, r->role, r->index) == r);
        must(gm_book_key(&book, r->key) == r);
        must(r->endpoint[0] == '\0' || gm_book_endpoint(&book, r->endpoint) == r);
        gm_curve_text(r->key, key);
        must(strlen(key) == GM_CURVE_TEXT);
    }
    gm_book_close(&book);
    free(text);
}

static void send_as(size_t which, const uint8_t *data, size_t size)
{
    static const char *const names[] = { "orchestrator-0", "shard-1",  "sampler-0",  "tokenizer-0",
                                         "gateway-0",      "client-7", "stranger-0", NULL };
    char method[METHOD_MAX + 1];
    Gm__Envelope env = GM__ENVELOPE__INIT;
    struct gm_err err = GM_ERR_NONE;
    if (size < 2)
        return;
    size_t n = data[1] < METHOD_MAX ? data[1] : METHOD_MAX;
    env.kind = (Gm__Kind)(int8_t)data[0];
    data += 2;
    size -= 2;
    n = n < size ? n : size;
    memcpy(method, data, n);
    method[n] = '\0';
    env.method = n > 0 ? method : NULL;
    const struct gm_msg msg = { .env = &env,
                                .body = data + n,
                                .body_len = size - n,
                                .who = names[which % (sizeof names / sizeof *names)] };
    const enum gm_status rc = gm_role_check(&msg, &err);
    must_be_told(rc, &err);
    if (rc != GM_OK)
        return;
    must(msg.who != NULL && strcmp(msg.who, "stranger-0") != 0);
    const bool inner = strcmp(msg.who, "orchestrator-0") == 0;
    if (env.kind == GM__KIND__CALL && !inner)
        must(strncmp(method, "Shard.", 6) != 0 && strncmp(method, "Sampler.", 8) != 0);
    if (env.kind != GM__KIND__HELLO)
        return;
    Gm__Hello *h = gm_msg_unpack(&msg, &gm__hello__descriptor, &err);
    must(h != NULL && strncmp(msg.who, h->role, strlen(h->role)) == 0);
    gm__hello__free_unpacked(h, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    if (data[0] == 0)
        read_book(data + 1, size - 1);
    else
        send_as(data[0], data + 1, size - 1);
    return 0;
}
