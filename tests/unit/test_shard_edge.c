// uses: services/shard/admit.c services/shard/batch.c services/shard/draft.c
// uses: services/shard/edge.c services/shard/evict.c services/shard/prefix.c
// uses: services/shard/step.c
/* test_shard_edge.c - messages and calls that a shard refuses, over a small model and a real bus.
 *
 * Owns:      cases that fuzzing found (tests/fuzz/fuzz_edge_shard.c).
 * Does not:  compute anything that counts (test_model.c, test_speculate.c).
 */
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "services/shard/edge.h"
#include "tests/unit/support_gguf.h"

enum { CONTEXT = 64, PROMPT = 8, POSITIONS = 32, PATIENCE_MS = 10000 };

static char dir[] = "/tmp/gmshardXXXXXX", model[64], endpoint[GM_ENDPOINT_MAX];
static struct gm_shard_service sh;
static struct gm_bus *bus; /* the caller's */
static struct gm_rpc *rpc;
static struct gm_peer *peer;

/* ---- a shard and its caller ------------------------------------------------------------------ */

static bool shard_open(struct gm_err *err)
{
    struct gm_config c = gm_fake_config(GM_ARCH_GEMMA3);
    c.layers = 1;
    const struct gm_fake_spec spec = gm_fake_spec_of(&c, GM_TYPE_F32, 1);
    gm_fake_model(&spec, model);
    const struct gm_slice_opts o = { .model_path = model,
                                     .spec = { 0, 1, true, true },
                                     .kernels = &gm_ref,
                                     .threads = 1,
                                     .kv_tokens = 2 * CONTEXT,
                                     .context = CONTEXT,
                                     .rows_max = GM_BATCH_ROWS_MAX,
                                     .kv_type = GM_KV_F32 };
    sh = (struct gm_shard_service){ .open = true, .context = CONTEXT };
    sh.shard.kernels = &gm_ref;
    sh.shard.is_first = sh.shard.is_last = true;
    sh.shard.speculate = true;
    if (gm_slice_open(&sh.shard.slice, &o, err) != GM_OK || gm_shard_init(&sh.shard, err) != GM_OK)
        return false;
    gm_shard_out_init(&sh);
    return true;
}

static bool ends_open(void)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    struct gm_err err = GM_ERR_NONE;
    if (mkdtemp(dir) == NULL)
        return false;
    (void)snprintf(model, sizeof model, "%s/model.gguf", dir);
    if (gm_endpoint(endpoint, dir, "shard", 0, &err) != GM_OK || !shard_open(&err) ||
        gm_bus_open(&sh.base.bus, "shard-0", endpoint, &err) != GM_OK ||
        gm_rpc_open(&sh.base.rpc, sh.base.bus, gm_shard_methods, &sh, &err) != GM_OK ||
        gm_bus_open(&bus, "tester", NULL, &err) != GM_OK ||
        gm_rpc_open(&rpc, bus, none, NULL, &err) != GM_OK)
        (void)fprintf(stderr, "shard: %s\n", err.text);
    else
        peer = gm_bus_peer(bus, endpoint, &err);
    return peer != NULL;
}

static void ends_close(void)
{
    gm_rpc_close(&rpc);
    gm_bus_close(&bus);
    gm_rpc_close(&sh.base.rpc);
    gm_bus_close(&sh.base.bus);
    gm_shard_close(&sh.shard);
    gm_slice_close(&sh.shard.slice);
    (void)unlink(model);
    (void)rmdir(dir);
}

static void turn_once(struct gm_bus *b, struct gm_rpc *r)
{
    struct gm_msg msg;
    (void)gm_rpc_tick(r);
    (void)gm_bus_wait(b, 1, NULL, 0, NULL);
    while (gm_bus_take(b, &msg)) {
        (void)gm_rpc_handle(r, &msg);
        gm_msg_free(&msg);
    }
}

struct heard {
    bool done;
    enum gm_status status;
};

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct heard *h = ctx;
    (void)body;
    h->done = done;
    h->status = err->status;
}

static enum gm_status call(const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *reply)
{
    struct heard h = { false, GM_UNKNOWN };
    struct gm_err err = GM_ERR_NONE;
    const int64_t end = gm_now_ms() + PATIENCE_MS;
    if (gm_rpc_call(rpc, &(struct gm_call){ peer, method, request, reply, 0, 0, on_answer, &h },
                    &err) == 0)
        return err.status;
    while (!h.done && gm_now_ms() < end) {
        turn_once(sh.base.bus, sh.base.rpc);
        turn_once(bus, rpc);
    }
    return h.done ? h.status : GM_DEADLINE;
}

/* Hands the shard a message of the ring, and lets it compute. */
static enum gm_status give(Gm__Kind kind, const ProtobufCMessage *body)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    uint8_t bytes[4096];
    struct gm_err err = GM_ERR_NONE;
    env.version = 1;
    env.kind = kind;
    if (protobuf_c_message_get_packed_size(body) > sizeof bytes)
        return GM_RANGE;
    const struct gm_msg msg = { .env = &env,
                                .body = bytes,
                                .body_len = protobuf_c_message_pack(body, bytes) };
    const enum gm_status rc = gm_shard_on_message(&sh, &msg, &err);
    bool more = true;
    for (int i = 0; i < 100 && (more || sh.shard.held); i++)
        gm_shard_step(&sh.shard, &more);
    return rc;
}

/* ---- requests -------------------------------------------------------------------------------- */

static Gm__ReserveRequest reserve_of(uint64_t ticket, const char *session)
{
    static int32_t ids[PROMPT] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    Gm__ReserveRequest r = GM__RESERVE_REQUEST__INIT;
    r.ticket = ticket;
    r.session = (char *)(uintptr_t)session;
    r.n_ids = PROMPT;
    r.ids = ids;
    r.positions = POSITIONS;
    r.prompt_len = PROMPT;
    r.numerics = (char *)(uintptr_t)gm_slice_numerics(sh.shard.slice);
    r.next = r.home = r.first = endpoint;
    return r;
}

static enum gm_status reserve(const Gm__ReserveRequest *r)
{
    return call("Shard.Reserve", &r->base, &gm__reserve_reply__descriptor);
}

static void release(uint64_t ticket, bool keep)
{
    Gm__ReleaseRequest r = GM__RELEASE_REQUEST__INIT;
    r.ticket = ticket;
    r.has_keep = 1;
    r.keep = keep;
    CU_ASSERT_EQUAL(call("Shard.Release", &r.base, &gm__empty__descriptor), GM_OK);
}

static enum gm_status prompt(uint64_t ticket)
{
    Gm__Span span = GM__SPAN__INIT;
    Gm__TokenRows rows = GM__TOKEN_ROWS__INIT;
    span.ticket = ticket;
    span.has_start = span.start = span.has_last = span.last = 1;
    rows.span = &span;
    return give(GM__KIND__TOKEN_ROWS, &rows.base);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_reserve(void)
{
    Gm__ReserveRequest r = reserve_of(1, "t/a");
    r.next = NULL; /* candidates would have nowhere to go */
    CU_ASSERT_EQUAL(reserve(&r), GM_INVALID);
    r = reserve_of(1, "t/a");
    r.first = NULL;
    CU_ASSERT_EQUAL(reserve(&r), GM_INVALID);
    r = reserve_of(1, "t/a");
    r.home = NULL;
    CU_ASSERT_EQUAL(reserve(&r), GM_INVALID);
    r = reserve_of(1, "t/a");
    r.prompt_len = UINT32_MAX; /* as a place in the sequence it would be below 0 */
    CU_ASSERT_EQUAL(reserve(&r), GM_INVALID);
    r = reserve_of(1, ""); /* was kept under no name, freed and found again */
    CU_ASSERT_EQUAL(reserve(&r), GM_INVALID);
    CU_ASSERT_EQUAL(sh.shard.tickets.n, 0);
    r = reserve_of(1, "t/a");
    CU_ASSERT_EQUAL(reserve(&r), GM_OK);
    release(1, false);
}

/* Positions that are none: beyond the context, and such as have no int32_t. */
static void test_positions(void)
{
    static const uint32_t wrong[] = { CONTEXT, INT32_MAX - 1, INT32_MAX, 1u << 31, UINT32_MAX };
    const Gm__ReserveRequest r = reserve_of(2, "t/b");
    Gm__Chosen c = GM__CHOSEN__INIT;
    Gm__More m = GM__MORE__INIT;
    CU_ASSERT_EQUAL_FATAL(reserve(&r), GM_OK);
    CU_ASSERT_EQUAL(prompt(2), GM_OK);
    c.ticket = m.ticket = 2;
    m.k = 4;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        c.pos = m.pos = wrong[i];
        CU_ASSERT_EQUAL(give(GM__KIND__CHOSEN, &c.base), GM_INVALID);
        CU_ASSERT_EQUAL(give(GM__KIND__MORE, &m.base), GM_INVALID);
    }
    c.pos = PROMPT;
    CU_ASSERT_EQUAL(give(GM__KIND__CHOSEN, &c.base), GM_OK);
    const struct gm_ticket *t = gm_shard_ticket(&sh.shard, 2);
    CU_ASSERT_EQUAL(gm_kv_len(t->session->seq), PROMPT + 1);
    release(2, false);
}

int main(void)
{
    gm_log_open("test_shard_edge", -1);
    if (!ends_open() || CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    CU_pSuite suite = CU_add_suite("the shard's edge", NULL, NULL);
    if (suite == NULL || !CU_add_test(suite, "what a turn must say", test_reserve) ||
        !CU_add_test(suite, "positions that are none", test_positions))
        return 2;
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    ends_close();
    return failures > 0;
}
