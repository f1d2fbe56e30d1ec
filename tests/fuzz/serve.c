/* serve.c - a service's real loop driven by the steps of an input: see serve.h.
 *
 * Owns:      the state of one run.
 * Does not:  keep anything from one input to the next.
 */
#include "tests/fuzz/serve.h"

#include <stdio.h>

#include "common/net/bus_inner.h"
#include "common/net/version.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_sys.h"
#include "tests/fuzz/seam_zmq.h"

enum {
    BUSY_ROUNDS_MAX = 200, /* rounds of a loop that does not wait, before the next step */
    IDLE_ROUNDS = 12,      /* waits after the last step */
    IDLE_MS = 1900,        /* and what each lets go by */
    OPEN_MAX = 64,         /* calls of the service that are remembered */
    CREDIT = 1000,
    FLOATS_MAX = 8192,
    METHODS_MAX = 64,
    ENVELOPE_MAX = 512,
};

/* A call that the service made. */
struct open_call {
    char to[GM_ENDPOINT_MAX];
    uint64_t id;
};

static struct {
    const struct serve_to *to;
    struct gm_service *service;
    const uint8_t *data;
    size_t size;
    int busy, idle;
    uint64_t call; /* the last one of the clients */
    struct open_call open[OPEN_MAX];
    size_t n_open;
    float *rows; /* of the next message; owned */
    size_t n_rows;
    const uint8_t *lane; /* the datagram that waits */
    size_t lane_size;
} run;

/* ---- what the service sends ------------------------------------------------------------------ */

static void on_sent(const char *endpoint, const struct seam_frame *frames, size_t n)
{
    const size_t head = endpoint == NULL ? 1 : 0;
    must(n >= head + 2);
    Gm__Envelope *env = gm__envelope__unpack(NULL, frames[head].size, frames[head].data);
    must(env != NULL && env->has_boot);
    if (endpoint != NULL && env->kind == GM__KIND__CALL && run.n_open < OPEN_MAX) {
        struct open_call *c = &run.open[run.n_open++];
        (void)snprintf(c->to, sizeof c->to, "%s", endpoint);
        c->id = env->call;
    }
    gm__envelope__free_unpacked(env, NULL);
}

/* ---- what it receives ------------------------------------------------------------------------ */

static void arrive(const char *endpoint, Gm__Envelope *env, const uint8_t *body, size_t n)
{
    uint8_t bytes[ENVELOPE_MAX];
    static const uint8_t client[] = "client-7";
    const size_t env_n = gm__envelope__get_packed_size(env);
    must(env_n <= sizeof bytes);
    gm__envelope__pack(env, bytes);
    const struct seam_frame frames[] = { { client, sizeof client },
                                         { bytes, env_n },
                                         { body, n },
                                         { (const uint8_t *)run.rows,
                                           run.n_rows * sizeof(float) } };
    const size_t skip = endpoint == NULL ? 0 : 1;
    (void)seam_zmq_push(endpoint, frames + skip, (run.n_rows > 0 ? 4 : 3) - skip);
    free(run.rows);
    run.rows = NULL;
    run.n_rows = 0;
}

static void envelope_of(Gm__Envelope *env, Gm__Kind kind, uint64_t call)
{
    gm__envelope__init(env);
    env->version = GM_PROTOCOL_MAX;
    env->kind = kind;
    env->has_call = call > 0;
    env->call = call;
}

static void raw(const char *endpoint, const uint8_t *data, size_t size)
{
    static const uint8_t client[] = "client-8";
    size_t env_n = take_u16(&data, &size);
    env_n = env_n < size ? env_n : size;
    const struct seam_frame frames[] = { { client, sizeof client },
                                         { data, env_n },
                                         { data + env_n, size - env_n } };
    const size_t skip = endpoint == NULL ? 0 : 1;
    (void)seam_zmq_push(endpoint, frames + skip, 3 - skip);
}

static void call_method(const struct step *s, uint32_t credit)
{
    Gm__Envelope env;
    static const char *const everywhere[] = { "Health.Check", "Health.Watch",
                                              "Reflection.Describe" };
    const char *name;
    size_t n = 0;
    while (run.service != NULL && run.service->methods != NULL &&
           run.service->methods[n].name != NULL)
        n++;
    const size_t at = (size_t)(s->code % METHODS_MAX);
    name = at < n ? run.service->methods[at].name : everywhere[(at - n) % 3];
    envelope_of(&env, GM__KIND__CALL, ++run.call);
    env.method = (char *)(uintptr_t)name;
    env.has_credit = 1;
    env.credit = credit;
    arrive(NULL, &env, s->data, s->size);
}

static void control(const uint8_t *data, size_t size)
{
    static const Gm__Kind kinds[] = { GM__KIND__CREDIT, GM__KIND__CANCEL, GM__KIND__PING };
    Gm__Envelope env;
    if (size < 2)
        return;
    const Gm__Kind kind = kinds[data[0] % 3];
    const uint64_t back = data[1] % 8;
    data += 2;
    size -= 2;
    envelope_of(&env, kind, run.call > back ? run.call - back : 1);
    env.has_credit = 1;
    env.credit = (uint32_t)take_u16(&data, &size);
    arrive(NULL, &env, (const uint8_t *)"", 0);
}

/* A message of a call of the client's, or that none follows. */
static void send_more(Gm__Kind kind, const uint8_t *data, size_t size)
{
    Gm__Envelope env;
    const uint64_t back = size > 0 ? data[0] % 8 : 0;
    envelope_of(&env, kind, run.call > back ? run.call - back : 1);
    arrive(NULL, &env, size > 0 ? data + 1 : (const uint8_t *)"",
           kind == GM__KIND__SEND && size > 0 ? size - 1 : 0);
}

static void room(uint32_t credit)
{
    Gm__Envelope env;
    if (run.n_open == 0)
        return;
    envelope_of(&env, GM__KIND__CREDIT, run.open[0].id);
    env.has_credit = 1;
    env.credit = credit;
    arrive(run.open[0].to, &env, (const uint8_t *)"", 0);
}

static void answer(Gm__Kind kind, uint32_t status, const uint8_t *data, size_t size)
{
    Gm__Envelope env;
    char text[ENVELOPE_MAX / 2] = "";
    if (run.n_open == 0)
        return;
    const struct open_call first = run.open[0];
    if (kind != GM__KIND__ITEM)
        memmove(&run.open[0], &run.open[1], --run.n_open * sizeof run.open[0]);
    envelope_of(&env, kind, first.id);
    env.has_boot = env.has_status = 1;
    env.boot = 1;
    env.status = status;
    if (status != GM_OK) {
        const size_t n = size < sizeof text - 1 ? size : sizeof text - 1;
        memcpy(text, data, n);
        env.text = text;
        env.has_retry_ms = 1;
        env.retry_ms = (uint32_t)n;
        size = 0;
    }
    arrive(first.to, &env, data, size);
}

static void payload(const uint8_t *data, size_t size)
{
    const size_t n = take_u16(&data, &size) % (FLOATS_MAX + 1);
    free(run.rows);
    run.rows = calloc(n + 1, sizeof *run.rows);
    must(run.rows != NULL);
    run.n_rows = n;
    for (size_t i = 0; size > 0 && i < n * sizeof *run.rows; i++)
        ((uint8_t *)run.rows)[i] = data[i % size];
}

static void do_step(const struct step *s)
{
    const uint8_t *data = s->data;
    size_t size = s->size;
    Gm__Envelope env;
    if (s->code >= SERVE_STREAM) {
        call_method(s, 1);
    } else if (s->code >= SERVE_CALL) {
        call_method(s, CREDIT);
    } else if (s->code >= SERVE_OWN) {
        if (run.to->own != NULL)
            run.to->own(s);
    } else if (s->code >= GM__KIND__TOKEN_ROWS) {
        envelope_of(&env, (Gm__Kind)s->code, 0);
        arrive(NULL, &env, data, size);
    } else if (s->code == SERVE_ADVANCE) {
        seam_sys_advance((int64_t)take_u16(&data, &size) * 10);
    } else if (s->code == SERVE_RAW) {
        raw(NULL, data, size);
    } else if (s->code == SERVE_RAW_PEER && size > 0) {
        const char *to = seam_zmq_endpoint(data[0]);
        if (to != NULL)
            raw(to, data + 1, size - 1);
    } else if (s->code == SERVE_CONTROL) {
        control(data, size);
    } else if (s->code == SERVE_ANSWER || s->code == SERVE_ITEM) {
        answer(s->code == SERVE_ITEM ? GM__KIND__ITEM : GM__KIND__REPLY, GM_OK, data, size);
    } else if (s->code == SERVE_REFUSE && size > 0) {
        answer(data[0] & 128 ? GM__KIND__END : GM__KIND__REPLY, data[0] % 20, data + 1, size - 1);
    } else if (s->code == SERVE_SEND || s->code == SERVE_DONE) {
        send_more(s->code == SERVE_SEND ? GM__KIND__SEND : GM__KIND__DONE, data, size);
    } else if (s->code == SERVE_ROOM) {
        room((uint32_t)take_u16(&data, &size));
    } else if (s->code == SERVE_PAYLOAD) {
        payload(data, size);
    } else if (s->code == SERVE_LANE && run.service != NULL) {
        run.lane = data;
        run.lane_size = size;
        run.service->bus->lane_ready = true;
    } else if (s->code == SERVE_FAIL && size > 0) {
        seam_zmq_fail(data[0] % 8);
    }
}

size_t __wrap_gm_lane_recv(const struct gm_lane *lane, uint8_t *buf);
void __wrap_gm_lane_open(struct gm_lane *lane, const char *endpoint);

size_t __wrap_gm_lane_recv(const struct gm_lane *lane, uint8_t *buf)
{
    const size_t n = run.lane_size < GM_LANE_BYTES_MAX + 1 ? run.lane_size : GM_LANE_BYTES_MAX + 1;
    (void)lane;
    if (n > 0)
        memcpy(buf, run.lane, n);
    run.lane_size = 0;
    return n;
}

void __wrap_gm_lane_open(struct gm_lane *lane, const char *endpoint)
{
    (void)endpoint;
    *lane = GM_LANE_NONE;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* The next step comes when the service waits, or has been busy for long. After the last one it is
 * left alone for a while. */
static void on_wait(int ms)
{
    struct step s;
    if (ms == 0 && ++run.busy < BUSY_ROUNDS_MAX)
        return;
    run.busy = 0;
    if (script_take(&run.data, &run.size, &s)) {
        do_step(&s);
        return;
    }
    seam_sys_advance(IDLE_MS);
    if (++run.idle > (run.to->idle_rounds > 0 ? run.to->idle_rounds : IDLE_ROUNDS))
        seam_sys_stop();
}

void serve_begin(const struct serve_to *to, const uint8_t *data, size_t size)
{
    gm_log_open("fuzz", -1); /* lines are made, and go nowhere */
    memset(&run, 0, sizeof run);
    run.to = to;
    run.data = data;
    run.size = size;
    seam_sys_reset();
    seam_zmq_fail(0);
    seam_zmq_on_send(on_sent);
    seam_sys_on_wait(on_wait);
}

void serve_service(struct gm_service *service)
{
    run.service = service;
}

void serve_end(void)
{
    seam_sys_on_wait(NULL);
    seam_zmq_on_send(NULL);
    free(run.rows);
    run.rows = NULL;
}

void serve_run(const struct serve_to *to, const uint8_t *data, size_t size)
{
    struct gm_err err = GM_ERR_NONE;
    serve_begin(to, data, size);
    const enum gm_status opened = gm_service_open(to->service, &err);
    if (opened != GM_OK)
        (void)fprintf(stderr, "serve: %s\n", err.text);
    must(opened == GM_OK);
    serve_service(to->service);
    must(gm_service_run(to->service, &err) == GM_OK);
    if (to->end != NULL)
        to->end(to->service);
    gm_service_close(to->service);
    serve_end();
}
