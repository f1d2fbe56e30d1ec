/* seam_store.c - Redis as an input plays it: see seam_store.h.
 *
 * Owns:      the commands that wait.
 * Does not:  connect.
 */
#include "tests/fuzz/seam_store.h"

#include <hiredis/hiredis.h>

#include "common/base/sys.h"
#include "common/net/store.h"
#include "tests/fuzz/must.h"

enum { DEPTH_MAX = 4, ITEMS_MAX = 64 };

struct op {
    struct op *next;
    gm_store_reply *fn;
    void *ctx;
    bool keep;
    int64_t deadline_ms;
};

static struct gm_store {
    struct op *first, **end;
    size_t n_kept;
    bool up;
} store;

/* ---- answers --------------------------------------------------------------------------------- */

static redisReply *reply_read(const uint8_t **data, size_t *size, int depth)
{
    static const int types[] = { REDIS_REPLY_NIL, REDIS_REPLY_INTEGER, REDIS_REPLY_STRING,
                                 REDIS_REPLY_ARRAY, REDIS_REPLY_STATUS };
    redisReply *r = calloc(1, sizeof *r);
    must(r != NULL);
    r->type = REDIS_REPLY_NIL;
    if (*size == 0)
        return r;
    r->type = types[(*data)[0] % 5];
    ++*data;
    --*size;
    if (r->type == REDIS_REPLY_INTEGER && *size >= sizeof r->integer) {
        memcpy(&r->integer, *data, sizeof r->integer);
        *data += sizeof r->integer;
        *size -= sizeof r->integer;
    } else if (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS) {
        const size_t asked = r->type == REDIS_REPLY_STRING ? take_u16(data, size) : 0;
        r->len = asked < *size ? asked : *size;
        r->str = malloc(r->len + 1);
        must(r->str != NULL);
        memcpy(r->str, *data, r->len);
        r->str[r->len] = '\0';
        *data += r->len;
        *size -= r->len;
    } else if (r->type == REDIS_REPLY_ARRAY && *size > 0) {
        const size_t n = depth < DEPTH_MAX ? (*data)[0] % ITEMS_MAX : 0;
        ++*data;
        --*size;
        r->element = calloc(n + 1, sizeof(redisReply *));
        must(r->element != NULL);
        while (r->elements < n)
            r->element[r->elements++] = reply_read(data, size, depth + 1);
    }
    return r;
}

static void reply_free(redisReply *r)
{
    for (size_t i = 0; i < r->elements; i++)
        reply_free(r->element[i]);
    free(r->element);
    free(r->str);
    free(r);
}

/* ---- commands -------------------------------------------------------------------------------- */

static void op_end(redisReply *reply, enum gm_status status, const char *text)
{
    struct op *op = store.first;
    struct gm_err err = GM_ERR_NONE;
    if (op == NULL)
        return;
    store.first = op->next;
    if (store.first == NULL)
        store.end = &store.first;
    store.n_kept -= op->keep;
    if (status != GM_OK)
        (void)gm_fail(&err, status, "%s", text);
    op->fn(op->ctx, reply, &err);
    free(op);
}

void seam_store_answer(const uint8_t *data, size_t size)
{
    if (store.first == NULL)
        return;
    redisReply *r = reply_read(&data, &size, 0);
    op_end(r, GM_OK, "");
    reply_free(r);
}

void seam_store_fail(void)
{
    op_end(NULL, GM_UNAVAILABLE, "Redis is away; try again in a moment");
}

void seam_store_set_up(bool up)
{
    store.up = up;
}

static void op_add(gm_store_reply *fn, void *ctx, bool keep)
{
    if (fn == NULL) /* nobody asks what became of it */
        return;
    struct op *op = calloc(1, sizeof *op);
    must(op != NULL);
    *op = (struct op){ NULL, fn, ctx, keep, gm_now_ms() + GM_STORE_TIMEOUT_MS };
    *store.end = op;
    store.end = &op->next;
    store.n_kept += keep;
}

/* Reads all that is sent, as the connection would. */
static void read_all(int argc, const char **argv, const size_t *lens)
{
    for (int i = 0; i < argc; i++) {
        char *copy = malloc(lens[i] + 1);
        must(copy != NULL);
        if (lens[i] > 0)
            memcpy(copy, argv[i], lens[i]);
        free(copy);
    }
}

/* ---- store.h --------------------------------------------------------------------------------- */

enum gm_status gm_store_open(struct gm_store **out, const char *unix_path, struct gm_err *err)
{
    (void)unix_path, (void)err;
    store = (struct gm_store){ NULL, &store.first, 0, true };
    *out = &store;
    return GM_OK;
}

void gm_store_close(struct gm_store **s)
{
    while (store.first != NULL) {
        struct op *op = store.first;
        store.first = op->next;
        free(op);
    }
    *s = NULL;
}

bool gm_store_up(const struct gm_store *s)
{
    return s->up;
}

size_t gm_store_pending(const struct gm_store *s)
{
    return s->n_kept;
}

void gm_store_ask(struct gm_store *s, gm_store_reply *fn, void *ctx, int argc, const char **argv,
                  const size_t *lens)
{
    struct gm_err err = GM_ERR_NONE;
    read_all(argc, argv, lens);
    if (s->up) {
        op_add(fn, ctx, false);
    } else if (fn != NULL) {
        (void)gm_fail(&err, GM_UNAVAILABLE, "Redis is away; try again in a moment");
        fn(ctx, NULL, &err);
    }
}

enum gm_status gm_store_write(struct gm_store *s, gm_store_reply *fn, void *ctx, int argc,
                              const char **argv, const size_t *lens, struct gm_err *err)
{
    (void)s, (void)err;
    read_all(argc, argv, lens);
    op_add(fn, ctx, true);
    return GM_OK;
}

int gm_store_fd(struct gm_store *s, struct pollfd *fd)
{
    (void)s, (void)fd;
    return 0;
}

void gm_store_on_fd(struct gm_store *s, const struct pollfd *fd)
{
    (void)s, (void)fd;
}

/* What waits too long ends: asks fail, writes are acknowledged by a Redis that is slow. */
int gm_store_tick(struct gm_store *s)
{
    static const uint8_t status[] = { 4 };
    while (s->first != NULL && gm_now_ms() >= s->first->deadline_ms) {
        if (s->first->keep)
            seam_store_answer(status, sizeof status);
        else
            seam_store_fail();
    }
    return -1;
}
