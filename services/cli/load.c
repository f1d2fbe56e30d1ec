/* load.c - `gemline load`: many clients of an OpenAI server, and how they are served.
 *
 * Owns:      the options, when each client asks, when the run ends.
 * Does not:  know what is asked (load_prompt.c) or how (load_client.c), or count (load_report.c).
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include "services/cli/load.h"

enum { REPORT_BYTES_MAX = 64 << 10, SPARE_FILES = 64, TIMEOUT_MS_MAX = 86400000 };
#define RATE_MAX 100000.0

/* clang-format off */
#define ROW(word, member, what) \
    .name = word, .at = offsetof(struct gm_load_options, member), .help = what
#define INT(word, member, low, high, value, what) \
    { ROW(word, member, what), .kind = GM_OPT_INT, .min = low, .max = high, .def = value }
static const struct gm_opt opts[] = {
    { ROW("url", url, "the server (default: the gateway of this home)"),
      .kind = GM_OPT_TEXT, .arg = "URL" },
    { ROW("key", key, "sent as Authorization: Bearer KEY"), .kind = GM_OPT_TEXT, .arg = "KEY" },
    { ROW("model", model, "the model's name (default: the first that the server lists)"),
      .kind = GM_OPT_TEXT, .arg = "NAME" },
    { ROW("api", api, "/v1/chat/completions or /v1/completions"),
      .kind = GM_OPT_ENUM, .choices = GM_LOAD_APIS, .def = "chat" },
    { .kind = GM_OPT_HEADING, .help = "how much" },
    INT("clients", clients, 0, GM_LOAD_CLIENTS_MAX, "0",
        "conversations at once (0: one; with --rate 1024, the most requests that run)"),
    INT("turns", turns, 1, GM_LOAD_TURNS_MAX, "1", "of a conversation"),
    INT("requests", requests, 0, GM_LOAD_REQUESTS_MAX, "0",
        "in all (0: one conversation of each client, or what --duration gives)"),
    { ROW("duration", duration_ms, "no request is begun after it"),
      .kind = GM_OPT_DURATION, .max = TIMEOUT_MS_MAX, .def = "0" },
    { ROW("rate", rate, "requests a second at random times, whatever the server does, timed from "
                        "when they were to be sent (0: each client asks when it has its answer)"),
      .kind = GM_OPT_FLOAT, .max = RATE_MAX, .def = "0" },
    INT("idle", idle, 0, GM_LOAD_IDLE_MAX, "0", "connections held meanwhile that ask nothing"),
    { ROW("timeout", timeout_ms, "of one answer"),
      .kind = GM_OPT_DURATION, .min = 100, .max = TIMEOUT_MS_MAX, .def = "10m" },
    { .kind = GM_OPT_HEADING, .help = "what is asked" },
    INT("max-tokens", max_tokens, 1, GM_LOAD_TOKENS_MAX, "64", "of each answer"),
    INT("prompt-tokens", prompt_tokens, 1, GM_LOAD_TOKENS_MAX / 8, "64",
        "about so many in each turn's prompt, random words"),
    { ROW("file", file, "prompts instead, one a line, chosen at random (- is stdin)"),
      .kind = GM_OPT_TEXT, .arg = "FILE" },
    { ROW("seed", seed, "another seed, other prompts"), .kind = GM_OPT_UINT, .def = "1" },
    { ROW("cache-prompt", cache_prompt, "send llama.cpp's cache_prompt (only when given)"),
      .kind = GM_OPT_FLAG, .negatable = true },
    { ROW("json", json, "one JSON object on one line"), .kind = GM_OPT_FLAG },
};
/* clang-format on */

static const struct gm_program program = {
    .name = "gemline load",
    .usage = "[--url URL] [options]",
    .about = "Puts load on an OpenAI server (Gemline's, llama-server, vLLM) and says how it is\n"
             "served: tokens a second, time to first token, gaps between tokens, refusals. Each\n"
             "client holds a conversation and sends its whole history with each turn. Answers are\n"
             "streamed, greedy, and as long as asked (ignore_eos). Ctrl-C prints what there is.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

/* ---- when a client asks ---------------------------------------------------------------------- */
/* Whether another request may be begun that is to be sent at `when`. */
static bool more(const struct gm_load *load, int64_t when)
{
    const int64_t most = load->o->requests;
    return (most == 0 || load->counts.issued < (uint64_t)most) &&
           (load->end_us == 0 || when < load->end_us) && !gm_stopping();
}

void gm_load_over(struct gm_load_client *c)
{
    struct gm_load *load = c->load;
    load->running--;
    c->is = GM_CLIENT_FREE;
    if (load->o->rate > 0) {
        load->free_clients[load->n_free++] = c->index;
        return;
    }
    const int64_t now = gm_now_us();
    if (!more(load, c->wake_us > now ? c->wake_us : now))
        return;
    if (c->wake_us <= now) {
        gm_client_ask(c, now);
    } else {
        c->is = GM_CLIENT_WAITING;
        load->waiting++;
    }
}

/* Microseconds to the next request of the open loop: exponential, so that they come at random. */
static int64_t draw_gap(struct gm_load *load)
{
    const double u = (double)(gm_load_random(&load->arrivals) >> 11) * 0x1p-53;
    return (int64_t)(-log1p(-u) * 1e6 / load->o->rate);
}

/* Open loop: sends what is due, while a client is free. */
static void send_due(struct gm_load *load)
{
    while (load->n_free > 0 && load->next_us <= gm_now_us() && more(load, load->next_us)) {
        struct gm_load_client *c = &load->clients[load->free_clients[--load->n_free]];
        const int64_t from = load->next_us;
        load->next_us += draw_gap(load);
        gm_client_ask(c, from);
    }
}

/* Wakes clients, and ends answers that take too long. */
static void look(struct gm_load *load)
{
    const int64_t now = gm_now_us();
    for (uint32_t i = 0; i < load->n; i++) {
        struct gm_load_client *c = &load->clients[i];
        if (c->is == GM_CLIENT_WAITING && c->wake_us <= now) {
            load->waiting--;
            c->is = GM_CLIENT_FREE;
            if (more(load, now))
                gm_client_ask(c, now);
        } else if (c->is == GM_CLIENT_RUNNING && now - c->from_us > load->o->timeout_ms * 1000) {
            load->counts.timed_out++;
            gm_client_fail(c, "no whole answer within --timeout");
        }
    }
}

static enum gm_status run(struct gm_load *load, struct gm_err *err)
{
    const bool open = load->o->rate > 0;
    const int64_t began = gm_now_us();
    int64_t tick = began;
    load->end_us = load->o->duration_ms ? began + load->o->duration_ms * 1000 : 0;
    load->arrivals = load->o->seed;
    load->next_us = began + (open ? draw_gap(load) : 0);
    for (uint32_t i = 0; open && i < load->n; i++)
        load->free_clients[load->n_free++] = load->n - 1 - i;
    for (uint32_t i = 0; !open && i < load->n && more(load, began); i++)
        gm_client_ask(&load->clients[i], gm_now_us());
    while (!gm_stopping()) {
        if (open)
            send_due(load);
        const bool coming = open && more(load, load->next_us);
        if (load->running == 0 && load->waiting == 0 && !coming)
            break;
        const int64_t now = gm_now_us();
        int64_t until = tick + GM_LOAD_TICK_MS * 1000;
        if (coming && load->n_free > 0 && load->next_us < until)
            until = load->next_us;
        gm_load_wait(load, until - now);
        if (gm_now_us() - tick >= GM_LOAD_TICK_MS * 1000) {
            look(load);
            tick = gm_now_us();
        }
        if (load->gone_us && gm_now_us() - load->gone_us > GM_LOAD_GONE_MS * 1000)
            return gm_fail(err, GM_UNAVAILABLE,
                           "the server went away: nobody has listened at %.100s for %d s",
                           load->target.host, GM_LOAD_GONE_MS / 1000);
    }
    load->counts.stopped = gm_stopping();
    return GM_OK;
}

/* Counts what answers that still run have brought, and the end of a run without an answer. */
static void count_cut(struct gm_load *load)
{
    struct gm_load_counts *n = &load->counts;
    for (uint32_t i = 0; i < load->n; i++) {
        const struct gm_load_client *c = &load->clients[i];
        if (c->is != GM_CLIENT_RUNNING)
            continue;
        n->cut++;
        n->tokens += c->chunks;
        n->by_chunks += c->chunks > 0;
        if (c->first_us)
            gm_series_add(&n->first, (double)(c->first_us - c->from_us) / 1e3);
        n->ended_us = c->last_us > n->ended_us ? c->last_us : n->ended_us;
    }
    if (n->ended_us == 0 && n->began_us)
        n->ended_us = gm_now_us();
}

/* ---- before and after ------------------------------------------------------------------------ */
static enum gm_status check(struct gm_load_options *o, const struct gm_args *args,
                            struct gm_err *err)
{
    o->cache_given = gm_conf_from(&program, args, "cache-prompt") == GM_FROM_ARGV;
    if (o->rate > 0 && !o->requests && !o->duration_ms)
        return gm_fail(err, GM_INVALID, "--rate needs an end: give --requests or --duration");
    if (o->file && gm_conf_from(&program, args, "prompt-tokens") == GM_FROM_ARGV)
        return gm_fail(err, GM_INVALID, "--file and --prompt-tokens exclude each other");
    if (o->model && strlen(o->model) >= GM_LOAD_SAY_MAX)
        return gm_fail(err, GM_INVALID, "--model is longer than %d bytes", GM_LOAD_SAY_MAX - 1);
    if (o->clients == 0)
        o->clients = o->rate > 0 ? GM_LOAD_CLIENTS_OPEN : 1;
    if (o->requests == 0 && !o->duration_ms)
        o->requests = o->clients * o->turns;
    return GM_OK;
}

/* As many open files as the connections need. */
static enum gm_status make_room(const struct gm_load_options *o, struct gm_err *err)
{
    const rlim_t need = (rlim_t)(o->clients + o->idle + SPARE_FILES);
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= need)
        return GM_OK;
    limit.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
    if (need > limit.rlim_max || setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return gm_fail(
            err, GM_EXHAUSTED,
            "%llu open files are needed and %llu allowed; raise ulimit -n, or give fewer "
            "clients",
            (unsigned long long)need, (unsigned long long)limit.rlim_max);
    return GM_OK;
}

/* The address, of --url or of this home's gateway. */
static enum gm_status find_target(struct gm_load *load, struct gm_err *err)
{
    struct gm_home home;
    char url[GM_CLI_HTTP_MAX];
    if (load->o->url)
        return gm_target_parse(&load->target, load->o->url, load->o->key, err);
    if (gm_home_open(&home, NULL, err) != GM_OK)
        return err->status;
    if (gm_home_http(&home, url, NULL) != GM_OK)
        return gm_fail(err, GM_NOT_FOUND,
                       "no gateway of this home runs; start one with gemline up, or give --url");
    return gm_target_parse(&load->target, url, load->o->key, err);
}

static enum gm_status open_load(struct gm_load *load, struct gm_err *err)
{
    const struct gm_load_options *o = load->o;
    if (make_room(o, err) != GM_OK || find_target(load, err) != GM_OK)
        return err->status;
    if (o->file && gm_load_prompts(load, o->file, err) != GM_OK)
        return err->status;
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->clients = calloc((size_t)o->clients, sizeof *load->clients);
    load->free_clients = calloc((size_t)o->clients, sizeof *load->free_clients);
    if (load->epoll < 0 || !load->clients || !load->free_clients)
        return gm_fail(err, GM_EXHAUSTED, "no room for %lld clients: %s", (long long)o->clients,
                       strerror(errno));
    for (; load->n < (uint32_t)o->clients; load->n++)
        gm_client_begin(&load->clients[load->n], load, load->n);
    snprintf(load->model, sizeof load->model, "%s", o->model ? o->model : "");
    if (gm_load_find_model(load, err) != GM_OK)
        return err->status;
    return gm_idle_open(load, err);
}

static void close_load(struct gm_load *load)
{
    gm_idle_free(load);
    for (uint32_t i = 0; i < load->n; i++)
        gm_client_free(&load->clients[i]);
    free(load->clients);
    free(load->free_clients);
    free(load->lines);
    gm_buf_free(&load->prompts);
    gm_buf_free(&load->body);
    gm_load_counts_free(&load->counts);
    if (load->epoll >= 0)
        close(load->epoll);
}

int gm_cmd_load(int argc, char **argv)
{
    static struct gm_load load;
    struct gm_load_options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE, ended = GM_ERR_NONE;
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (check(&o, &args, &err) != GM_OK)
        return gm_cli_wrong(&err);
    load.o = &o;
    load.epoll = -1;
    load.body = GM_BUF(2 * GM_LOAD_HISTORY_MAX);
    gm_load_counts_begin(&load.counts);
    enum gm_status rc = open_load(&load, &err);
    struct gm_buf out = GM_BUF(REPORT_BYTES_MAX);
    if (rc == GM_OK) {
        gm_cli_progress("asking %s", load.target.host);
        run(&load, &ended); /* the report comes first: what there is counts */
        count_cut(&load);
        if (load.n_idle)
            gm_idle_check(&load);
        rc = gm_load_report(&load.counts, &o, &out, &err);
        if (rc == GM_OK)
            rc = gm_cli_write(gm_buf_text(&out), out.len, &err);
        if (ended.status == GM_OK && load.counts.done == 0 && !load.counts.stopped)
            gm_fail(&ended, GM_UNAVAILABLE, "no request was answered");
    }
    gm_buf_free(&out);
    close_load(&load);
    if (rc == GM_OK && ended.status != GM_OK)
        return gm_cli_fail(&ended);
    if (rc == GM_INVALID)
        return gm_cli_wrong(&err);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
