/* main.c - the gateway process: options, the listening socket, the loop.
 *
 * Owns:      start and end of the process, the file that says where it listens, draining.
 * Does not:  know HTTP (http.c) or turns (edge.c).
 */
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "services/gateway/edge.h"
#include "services/gateway/listen.h"
#include "services/gateway/openapi.h"

enum {
    DAY_MS = 86400000,
    DRAIN_MS = 600000,     /* the longest drain: who wants it shorter sends a second signal */
    DRAIN_QUIET_MS = 1000, /* after the last answer: clients that keep a connection hear 503 */
};

static const char *const default_address = "127.0.0.1:8080";

struct options {
    const char *run_dir, *home, *redis, *model, *http, *origins;
    int64_t index, turns, connections, headers_ms, body_ms, idle_ms, stall_ms;
    bool insecure;
    int32_t print;
    struct gm_net_options net;
};

enum print { PRINT_NOTHING, PRINT_OPENAPI, PRINT_MARKDOWN };

#define TEXT(opt, field, what, text)                                                               \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_TEXT, .at = offsetof(struct options, field), .arg = what,      \
        .help = text                                                                               \
    }

#define NUMBER(opt, field, most, value, what, text)                                                \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_INT, .at = offsetof(struct options, field), .min = 1,          \
        .max = (most), .def = value, .arg = what, .help = text                                     \
    }

static const struct gm_opt opts[] = {
    TEXT("run-dir", run_dir, "DIR", "run directory: sockets and the vocabulary file"),
    TEXT("home", home, "DIR", "where the file key-secret lies (default: the run directory)"),
    TEXT("redis", redis, "PATH", "Redis's Unix socket: keys and stored responses"),
    TEXT("model", model, "NAME", "the name under which the model is served"),
    TEXT("http", http, "ADDR:PORT", "where to listen, or auto"),
    TEXT("origins", origins, "LIST", "origins of web pages that may use it"),
    { .name = "index",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, index),
      .def = "0",
      .max = 1024,
      .help = "number of this instance" },
    NUMBER("connections", connections, GM_HTTP_CONNECTIONS_MAX, "12000", "N",
           "connections at a time; past it unfinished ones go, then 503"),
    NUMBER("headers-ms", headers_ms, DAY_MS, "15000", "MS", "time for the headers of a request"),
    NUMBER("body-ms", body_ms, DAY_MS, "30000", "MS", "time for its body"),
    NUMBER("idle-ms", idle_ms, DAY_MS, "300000", "MS", "time between two requests"),
    NUMBER("stall-ms", stall_ms, DAY_MS, "60000", "MS",
           "how long a reader may take nothing of its answer"),
    { .name = "turns",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, turns),
      .def = "0",
      .max = GM_RUNNING_MAX,
      .arg = "N",
      .help = "turns that run at once, others wait (0: 16 for each CPU, at least 32)" },
    { .name = "insecure",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, insecure),
      .help = "listen beyond this machine without API keys" },
    { .name = "print",
      .kind = GM_OPT_ENUM,
      .at = offsetof(struct options, print),
      .choices = "nothing|openapi|markdown",
      .help = "print the description of the API and end" },
    GM_NET_OPTIONS(struct options, net),
};
static const struct gm_program program = {
    .name = "gm-gateway",
    .usage = "--run-dir DIR --redis PATH [options]",
    .about = "Speaks HTTP for the pipeline: OpenAI's API and a web page. Started by `gemline up`.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

/* ---- where it listens -------------------------------------------------------------------------
 */

static enum gm_status address_path(const struct options *o, char out[GM_PATH_MAX],
                                   struct gm_err *err)
{
    char name[32];
    snprintf(name, sizeof name, "gateway-%d.http", (int)o->index);
    return gm_path_join(out, GM_PATH_MAX, o->run_dir, name, err);
}

/* The address asked for; without one the address of our last life, so that clients find us again,
 * or the first free port. */
static enum gm_status open_socket(struct gm_gateway *g, const struct options *o, int *fd,
                                  struct gm_err *err)
{
    char path[GM_PATH_MAX];
    struct gm_buf last = GM_BUF(GM_ADDRESS_MAX - 1);
    if (o->http && strcmp(o->http, "auto") != 0)
        return gm_listen(o->http, false, fd, g->address, err);
    enum gm_status rc = GM_NOT_FOUND;
    if (address_path(o, path, NULL) == GM_OK && gm_file_read(path, &last, NULL) == GM_OK)
        rc = gm_listen(gm_buf_text(&last), false, fd, g->address, NULL);
    gm_buf_free(&last);
    return rc == GM_OK ? rc : gm_listen(default_address, true, fd, g->address, err);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static int fill_fds(void *self, struct pollfd *fds, int max)
{
    struct gm_gateway *g = self;
    int n = g->http ? gm_http_fds(g->http, fds, max) : 0;
    g->n_http_fds = n;
    return n < max ? n + gm_store_fd(g->store, fds + n) : n;
}

static void on_fds(void *self, const struct pollfd *fds, int n)
{
    struct gm_gateway *g = self;
    for (int i = 0; i < n; i++)
        if (i < g->n_http_fds)
            g->http_ready |= fds[i].revents != 0;
        else
            gm_store_on_fd(g->store, fds + i);
}

static int next_ms(void *self)
{
    struct gm_gateway *g = self;
    const int a = gm_gateway_next_ms(g), b = g->http ? gm_http_next_ms(g->http) : -1;
    g->http_due_ms = b < 0 ? INT64_MAX : gm_now_ms() + b;
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

/* Says where it listens, once a turn could be served through it. */
static enum gm_status open_http(struct gm_gateway *g, struct gm_err *err)
{
    const struct gm_http_hooks hooks = gm_gateway_hooks(g);
    enum gm_status rc = gm_http_open(&g->http, g->listen_fd, &hooks, &g->limits, err);
    if (rc == GM_OK)
        rc = gm_file_write(g->address_path, g->address, strlen(g->address), 0600, err);
    if (rc == GM_OK)
        gm_info("listening on http://%s", g->address);
    return rc;
}

static enum gm_status step(void *self, bool *again, struct gm_err *err)
{
    struct gm_gateway *g = self;
    *again = false;
    gm_gateway_tick(g);
    if (!g->http) {
        bool open = false;
        const enum gm_status rc = gm_gateway_may_open(g, &open, err);
        return rc == GM_OK && open ? open_http(g, err) : rc;
    }
    if (g->http_ready || gm_http_next_ms(g->http) == 0 || gm_now_ms() >= g->http_due_ms)
        gm_http_run(g->http);
    g->http_ready = false;
    return GM_OK;
}

/* Running answers end, new ones get 503. */
static bool drain(void *self)
{
    struct gm_gateway *g = self;
    if (!g->draining_ms) {
        g->draining_ms = gm_now_ms();
        if (g->http)
            gm_http_drain(g->http);
        gm_info("draining: %zu requests run", g->n_jobs);
    }
    if (!g->http)
        return true;
    if (g->n_jobs > 0)
        g->quiet_ms = 0;
    else if (!g->quiet_ms)
        g->quiet_ms = gm_now_ms();
    const bool quiet = g->quiet_ms && (gm_http_connections(g->http) == 0 ||
                                       gm_now_ms() - g->quiet_ms > DRAIN_QUIET_MS);
    return quiet || gm_now_ms() - g->draining_ms > DRAIN_MS;
}

static enum gm_status serve(struct gm_gateway *g, const struct options *o, struct gm_err *err)
{
    g->run_dir = o->run_dir;
    g->model = o->model ? o->model : "custom";
    g->insecure = o->insecure;
    g->admission.most = o->turns ? (uint32_t)o->turns : gm_admission_most(gm_cpus_usable());
    g->origins = o->origins ? o->origins : "";
    g->listen_fd = -1;
    g->limits = (struct gm_http_limits){ (size_t)o->connections, o->headers_ms, o->body_ms,
                                         o->idle_ms, o->stall_ms };
    g->base = (struct gm_service){ .role = "gateway",
                                   .index = (uint32_t)o->index,
                                   .run_dir = o->run_dir,
                                   .net_options = &o->net,
                                   .self = g,
                                   .step = step,
                                   .next_ms = next_ms,
                                   .health = gm_gateway_health,
                                   .drain = drain,
                                   .fds = fill_fds,
                                   .on_fds = on_fds };
    enum gm_status rc = address_path(o, g->address_path, err);
    if (rc == GM_OK)
        rc = open_socket(g, o, &g->listen_fd, err);
    g->local = rc == GM_OK && gm_address_local(g->address);
    if (rc == GM_OK)
        rc = gm_store_open(&g->store, o->redis, err);
    if (rc == GM_OK)
        rc = gm_service_open(&g->base, err);
    if (rc == GM_OK)
        rc = gm_gateway_open(g, o->home ? o->home : o->run_dir, err);
    return rc == GM_OK ? gm_service_run(&g->base, err) : rc;
}

/* The API's description, for docs/api.md and for others. */
static int print_api(enum print what)
{
    struct gm_buf text = GM_BUF(GM_OPENAPI_BYTES_MAX);
    const enum gm_status rc =
        what == PRINT_OPENAPI ? gm_openapi_json(&text, NULL) : gm_openapi_markdown(&text, NULL);
    const bool good = rc == GM_OK && fwrite(gm_buf_text(&text), 1, text.len, stdout) == text.len;
    gm_buf_free(&text);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct gm_gateway g;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    if (gm_conf_parse(&program, argc, argv, &o, &args, &err) != GM_OK) {
        fprintf(stderr, "gm-gateway: %s\n", err.text);
        return 2;
    }
    if (args.help) {
        gm_conf_help(&program, stdout);
        return 0;
    }
    if (o.print != PRINT_NOTHING)
        return print_api((enum print)o.print);
    if (!o.run_dir || !o.redis || sodium_init() < 0) {
        fprintf(stderr, "gm-gateway: --run-dir and --redis are needed; see --help\n");
        return 2;
    }
    gm_log_open("gateway", 2);
    const enum gm_status rc = serve(&g, &o, &err);
    if (rc != GM_OK)
        fprintf(stderr, "gm-gateway: %s\n", err.text);
    gm_http_close(&g.http);
    gm_gateway_close(&g);
    gm_service_close(&g.base);
    gm_store_close(&g.store);
    return rc == GM_OK ? 0 : 1;
}
