/* ring_driver.c - plays the orchestrator to a real ring of processes, for tests of the ring alone.
 *
 * Owns:      starting tokenizer, sampler and shards, one ticket at a time, the results as JSON
 * lines in the form of `gemline score` (or {"ids": [...]} of a generated answer). Does not:  keep
 * sessions, retry, or use Redis.
 *
 *     ring_driver BIN_DIR RUN_DIR MODEL ADAPTER|none SHARDS score TOP  < lines of ids
 *     ring_driver BIN_DIR RUN_DIR MODEL ADAPTER|none SHARDS generate N < lines of ids
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/model/gguf.h"
#include "common/net.h"

enum { CONTEXT = 9216, IDS_MAX = 16384, TOP_MAX = 128, START_MS = 60000, LINE_MAX_BYTES = 1 << 20 };

struct driver {
    struct gm_service base;
    const char *bin, *run, *model, *adapter;
    int shards;
    pid_t pids[GM_SHARDS_MAX + 2];
    int n_pids;
    char numerics[256];
    bool shard_ready[GM_SHARDS_MAX], sampler_ready, tokenizer_ready;
    char home[GM_ENDPOINT_MAX], first[GM_ENDPOINT_MAX], last[GM_ENDPOINT_MAX];
    char sampler[GM_ENDPOINT_MAX];
    /* the ticket that runs */
    uint64_t ticket;
    int32_t ids[IDS_MAX];
    int n_ids;
    bool call_done, failed;
    uint32_t have;
    int got; /* scored rows, or generated tokens */
    double next[IDS_MAX];
    int32_t out[IDS_MAX];
    Gm__Scored *rows[IDS_MAX];
    bool finished;
};

static void start(struct driver *d, const char *program, char *const *more)
{
    char path[GM_PATH_MAX];
    char *argv[40];
    int n = 0;
    snprintf(path, sizeof path, "%s/%s", d->bin, program);
    argv[n++] = path;
    argv[n++] = (char *)"--run-dir";
    argv[n++] = (char *)d->run;
    for (; *more && n < 39; more++)
        argv[n++] = *more;
    argv[n] = NULL;
    const pid_t pid = fork();
    if (pid == 0) {
        execv(path, argv);
        _exit(127);
    }
    d->pids[d->n_pids++] = pid;
}

static bool start_all(struct driver *d)
{
    struct gm_gguf *g = NULL;
    struct gm_config cfg;
    struct gm_err err = GM_ERR_NONE;
    int32_t first[GM_SHARDS_MAX + 1];
    if (gm_gguf_open(&g, d->model, &err) != GM_OK || gm_gguf_config(g, &cfg, &err) != GM_OK ||
        gm_config_cut(&cfg, d->shards, first, &err) != GM_OK) {
        fprintf(stderr, "ring_driver: %s\n", err.text);
        return false;
    }
    gm_gguf_close(&g);
    char *model[] = { (char *)"--model", (char *)d->model, NULL };
    start(d, "gm-tokenizer", model);
    start(d, "gm-sampler", model + 2);
    for (int i = 0; i < d->shards; i++) {
        char index[16], shards[16], layers[32], context[16];
        snprintf(index, sizeof index, "%d", i);
        snprintf(shards, sizeof shards, "%d", d->shards);
        snprintf(layers, sizeof layers, "%d:%d", first[i], first[i + 1]);
        snprintf(context, sizeof context, "%d", CONTEXT);
        const bool none = strcmp(d->adapter, "none") == 0;
        char *args[] = { (char *)"--index",
                         index,
                         (char *)"--shards",
                         shards,
                         (char *)"--layers",
                         layers,
                         (char *)"--model",
                         (char *)d->model,
                         (char *)"--context",
                         context,
                         (char *)"--kv-tokens",
                         (char *)"16384",
                         (char *)"--threads",
                         (char *)"2",
                         none ? NULL : (char *)"--adapter",
                         (char *)d->adapter,
                         NULL };
        start(d, "gm-shard", args);
    }
    return true;
}

static void on_hello(struct driver *d, const Gm__Hello *h)
{
    const bool ready = h->has_ready && h->ready;
    if (h->failed) {
        fprintf(stderr, "ring_driver: %s: %s\n", h->role, h->failed);
        d->failed = true;
    } else if (strcmp(h->role, "sampler") == 0) {
        d->sampler_ready = ready;
    } else if (strcmp(h->role, "tokenizer") == 0) {
        d->tokenizer_ready = ready;
    } else if (h->index < (uint32_t)d->shards) {
        d->shard_ready[h->index] = ready;
        if (h->numerics)
            snprintf(d->numerics, sizeof d->numerics, "%s", h->numerics);
    }
}

static enum gm_status on_message(void *self, const struct gm_msg *msg, struct gm_err *err)
{
    struct driver *d = self;
    if (msg->env->kind == GM__KIND__HELLO) {
        Gm__Hello *h = gm_msg_unpack(msg, &gm__hello__descriptor, err);
        if (h)
            on_hello(d, h);
        if (h)
            gm__hello__free_unpacked(h, NULL);
    } else if (msg->env->kind == GM__KIND__SCORED) {
        Gm__Scored *s = gm_msg_unpack(msg, &gm__scored__descriptor, err);
        if (s && s->ticket == d->ticket && s->n_rows == 1 && s->rows[0]->pos < IDS_MAX &&
            !d->rows[s->rows[0]->pos]) {
            d->rows[s->rows[0]->pos] = s;
            d->got++;
        }
    } else if (msg->env->kind == GM__KIND__EMITTED) {
        Gm__Emitted *e = gm_msg_unpack(msg, &gm__emitted__descriptor, err);
        for (size_t i = 0; e && e->ticket == d->ticket && i < e->n_tokens; i++)
            if (d->got < IDS_MAX)
                d->out[d->got++] = e->tokens[i]->id;
        d->finished |= e && e->ticket == d->ticket && e->finish;
        if (e)
            gm__emitted__free_unpacked(e, NULL);
    } else if (msg->env->kind == GM__KIND__FAULT) {
        Gm__Fault *f = gm_msg_unpack(msg, &gm__fault__descriptor, err);
        fprintf(stderr, "ring_driver: fault: %s\n", f ? f->text : "unreadable");
        d->failed = true;
        if (f)
            gm__fault__free_unpacked(f, NULL);
    }
    return GM_OK;
}

/* Handles messages until *flag, a failure, or the time is over. */
static bool pump(struct driver *d, const bool *flag, int64_t until_ms)
{
    struct gm_err err = GM_ERR_NONE;
    while (!*flag && !d->failed && gm_now_ms() < until_ms) {
        struct gm_msg msg;
        gm_bus_wait(d->base.bus, 50, NULL, 0, &err);
        while (gm_bus_take(d->base.bus, &msg)) {
            if (!gm_rpc_handle(d->base.rpc, &msg))
                on_message(d, &msg, &err);
            gm_msg_free(&msg);
        }
        gm_rpc_tick(d->base.rpc);
    }
    return *flag && !d->failed;
}

static void on_answer(void *ctx, bool done, const ProtobufCMessage *body, const struct gm_err *err)
{
    struct driver *d = ctx;
    (void)done;
    if (err->status != GM_OK) {
        fprintf(stderr, "ring_driver: %s: %s\n", gm_status_name(err->status), err->text);
        d->failed = true;
    } else if (body->descriptor == &gm__reserve_reply__descriptor) {
        d->have = ((const Gm__ReserveReply *)body)->have;
    }
    d->call_done = true;
}

static bool call(struct driver *d, const char *to, const char *method, const ProtobufCMessage *body,
                 const ProtobufCMessageDescriptor *reply)
{
    struct gm_err err = GM_ERR_NONE;
    struct gm_peer *peer = gm_bus_peer(d->base.bus, to, &err);
    d->call_done = false;
    if (!peer ||
        !gm_rpc_call(d->base.rpc, peer, method, body, reply, 20000, 0, on_answer, d, &err)) {
        fprintf(stderr, "ring_driver: %s\n", err.text);
        return false;
    }
    return pump(d, &d->call_done, gm_now_ms() + 30000);
}

static bool reserve_all(struct driver *d, bool score, int top, Gm__Sampling *sampling, int answer)
{
    for (int i = 0; i < d->shards; i++) {
        char to[GM_ENDPOINT_MAX], next[GM_ENDPOINT_MAX];
        Gm__ReserveRequest r = GM__RESERVE_REQUEST__INIT;
        gm_endpoint(to, d->run, "shard", (uint32_t)i, NULL);
        gm_endpoint(next, d->run, i + 1 < d->shards ? "shard" : "sampler",
                    i + 1 < d->shards ? (uint32_t)i + 1 : 0, NULL);
        r.ticket = d->ticket;
        r.session = (char *)"test/ring";
        r.n_ids = (size_t)d->n_ids;
        r.ids = d->ids;
        r.positions = (uint32_t)(d->n_ids + answer);
        r.prompt_len = (uint32_t)d->n_ids;
        r.sampling = sampling;
        r.has_top_n = 1;
        r.top_n = (uint32_t)top;
        r.has_score = 1;
        r.score = score;
        r.numerics = d->numerics;
        r.next = next;
        r.home = d->home;
        r.first = d->first;
        if (!call(d, to, "Shard.Reserve", &r.base, &gm__reserve_reply__descriptor))
            return false;
    }
    return true;
}

static bool send_prompt(struct driver *d)
{
    struct gm_err err = GM_ERR_NONE;
    Gm__Span span = GM__SPAN__INIT;
    Gm__TokenRows rows = GM__TOKEN_ROWS__INIT;
    span.ticket = d->ticket;
    span.has_start = span.has_last = 1;
    span.start = span.last = 1;
    rows.span = &span;
    return gm_bus_post(d->base.bus, gm_bus_peer(d->base.bus, d->first, &err), GM__KIND__TOKEN_ROWS,
                       &rows.base, NULL, 0, &err) == GM_OK;
}

static void release_all(struct driver *d)
{
    Gm__ReleaseRequest r = GM__RELEASE_REQUEST__INIT;
    r.ticket = d->ticket;
    call(d, d->sampler, "Sampler.Close", &r.base, &gm__empty__descriptor);
    for (int i = 0; i < d->shards; i++) {
        char to[GM_ENDPOINT_MAX];
        gm_endpoint(to, d->run, "shard", (uint32_t)i, NULL);
        call(d, to, "Shard.Release", &r.base, &gm__empty__descriptor);
    }
}

static bool score(struct driver *d, int top)
{
    bool all = false;
    double sum = 0;
    if (!reserve_all(d, true, top, NULL, 0) || !send_prompt(d))
        return false;
    const int64_t until = gm_now_ms() + 600000;
    while (!all && !d->failed && gm_now_ms() < until) {
        bool never = false;
        pump(d, &never, gm_now_ms() + 20);
        all = d->got == d->n_ids;
    }
    if (!all)
        return false;
    printf("{\"logprobs\": [");
    for (int i = 0; i + 1 < d->n_ids; i++) {
        const double lp = d->rows[i]->rows[0]->next_logprob;
        sum += lp;
        printf("%s%.9g", i ? ", " : "", lp);
    }
    for (int what = 0; what < 2; what++) {
        printf("], \"%s\": [", what ? "top_logprobs" : "top_ids");
        for (int i = 0; i < d->n_ids; i++) {
            const Gm__ScoreRow *row = d->rows[i]->rows[0];
            printf("%s[", i ? ", " : "");
            for (size_t t = 0; t < row->n_top; t++) {
                printf("%s", t ? ", " : "");
                if (what)
                    printf("%.9g", (double)row->top[t]->logprob);
                else
                    printf("%d", row->top[t]->id);
            }
            printf("]");
        }
    }
    printf("], \"nll\": %.9g}\n", d->n_ids > 1 ? -sum / (d->n_ids - 1) : 0.0);
    for (int i = 0; i < d->n_ids; i++) {
        gm__scored__free_unpacked(d->rows[i], NULL);
        d->rows[i] = NULL;
    }
    return true;
}

static bool generate(struct driver *d, int n)
{
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    Gm__OpenRequest open = GM__OPEN_REQUEST__INIT;
    sampling.has_temperature = sampling.has_max_tokens = sampling.has_ignore_eos = 1;
    sampling.temperature = 0;
    sampling.max_tokens = n;
    sampling.ignore_eos = 1;
    open.ticket = d->ticket;
    open.sampling = &sampling;
    open.prompt_len = (uint32_t)d->n_ids;
    open.first = d->first;
    open.last = d->last;
    open.home = d->home;
    open.has_credit = 1;
    open.credit = (uint32_t)n + 1;
    if (!call(d, d->sampler, "Sampler.Open", &open.base, &gm__empty__descriptor) ||
        !reserve_all(d, false, 0, &sampling, n) || !send_prompt(d))
        return false;
    const int64_t from = gm_now_us();
    if (!pump(d, &d->finished, gm_now_ms() + 300000))
        return false;
    printf("{\"ids\": [");
    for (int i = 0; i < d->got; i++)
        printf("%s%d", i ? ", " : "", d->out[i]);
    printf("], \"ms\": %.3f}\n", (double)(gm_now_us() - from) / 1000.0);
    return true;
}

static bool read_ids(struct driver *d, char *line)
{
    d->n_ids = 0;
    for (char *p = line; *p && d->n_ids < IDS_MAX;) {
        char *end = p;
        const long v = strtol(p, &end, 10);
        if (end != p)
            d->ids[d->n_ids++] = (int32_t)v;
        p = end != p ? end : p + 1;
    }
    return d->n_ids > 0;
}

static bool ready(struct driver *d)
{
    bool all = d->sampler_ready && d->tokenizer_ready;
    for (int i = 0; i < d->shards; i++)
        all = all && d->shard_ready[i];
    return all;
}

static bool run(struct driver *d, const char *mode, int number)
{
    char *line = malloc(LINE_MAX_BYTES);
    bool ok = line && start_all(d);
    const int64_t until = gm_now_ms() + START_MS;
    while (ok && !ready(d) && !d->failed && gm_now_ms() < until) {
        bool never = false;
        pump(d, &never, gm_now_ms() + 20);
    }
    ok = ok && ready(d) && !d->failed;
    while (ok && fgets(line, LINE_MAX_BYTES, stdin)) {
        if (!read_ids(d, line))
            continue;
        d->ticket = gm_random_u64();
        d->got = 0;
        d->finished = false;
        ok = strcmp(mode, "score") == 0 ? score(d, number) : generate(d, number);
        fflush(stdout);
        if (ok)
            release_all(d);
    }
    free(line);
    return ok && !d->failed;
}

int main(int argc, char **argv)
{
    static struct driver d;
    struct gm_err err = GM_ERR_NONE;
    if (argc != 8) {
        fprintf(stderr, "usage: ring_driver BIN RUN MODEL ADAPTER|none SHARDS score|generate N\n");
        return 2;
    }
    d.bin = argv[1];
    d.run = argv[2];
    d.model = argv[3];
    d.adapter = argv[4];
    d.shards = (int)strtol(argv[5], NULL, 10);
    if (d.shards < 1 || d.shards > GM_SHARDS_MAX)
        return 2;
    gm_endpoint(d.home, d.run, "orchestrator", 0, &err);
    gm_endpoint(d.first, d.run, "shard", 0, &err);
    gm_endpoint(d.last, d.run, "shard", (uint32_t)d.shards - 1, &err);
    gm_endpoint(d.sampler, d.run, "sampler", 0, &err);
    d.base = (struct gm_service){
        .role = "orchestrator", .run_dir = d.run, .self = &d, .on_message = on_message
    };
    bool ok = gm_service_open(&d.base, &err) == GM_OK;
    ok = ok && run(&d, argv[6], (int)strtol(argv[7], NULL, 10));
    for (int i = 0; i < d.n_pids; i++)
        kill(d.pids[i], SIGTERM);
    for (int i = 0; i < d.n_pids; i++)
        waitpid(d.pids[i], NULL, 0);
    gm_service_close(&d.base);
    return ok ? 0 : 1;
}
