/* load.h - what the files of `gemline load` share: options, counts, clients, idle connections.
 *
 * Owns:      the structs below.
 * Does not:  know HTTP (load_http.h) or sockets (load_link.h).
 */
#ifndef GM_LOAD_H
#define GM_LOAD_H

#include "services/cli/cli.h"
#include "services/cli/load_link.h"
#include "services/cli/load_series.h"

enum {
    GM_LOAD_CLIENTS_MAX = 16384,
    GM_LOAD_CLIENTS_OPEN = 1024, /* open loop: most requests that run at once, unless told */
    GM_LOAD_TURNS_MAX = 1000,
    GM_LOAD_REQUESTS_MAX = 1 << 24,
    GM_LOAD_IDLE_MAX = 60000,
    GM_LOAD_TOKENS_MAX = 1 << 20,
    GM_LOAD_HISTORY_MAX = 4 << 20,  /* bytes of one conversation, as JSON */
    GM_LOAD_PROBLEM_MAX = 16 << 10, /* bytes kept of an answer that is not 200 */
    GM_LOAD_KEEP = 1 << 20,         /* numbers of one series that are kept */
    GM_LOAD_STATUSES = 16,          /* different statuses that are counted apart */
    GM_LOAD_SAY_MAX = 160,          /* bytes of a server's sentence */
    GM_LOAD_GONE_MS = 3000,         /* nobody has listened for so long: the server is gone */
    GM_LOAD_AGAIN_MS = 200,         /* after a failure a client waits so long */
    GM_LOAD_PATIENCE_S = 10,        /* and after a refusal as the server says, at most so long */
    GM_LOAD_TICK_MS = 20,           /* timeouts are looked at so often */
};

/* clang-format off */
#define GM_LOAD_APIS "chat|completion"
/* clang-format on */
enum gm_load_api { GM_LOAD_CHAT, GM_LOAD_COMPLETION };

struct gm_load_options {
    const char *url, *key, *model, *file;
    int64_t clients, turns, requests, duration_ms, timeout_ms, max_tokens, prompt_tokens, idle;
    double rate; /* requests a second; 0: closed loop */
    uint64_t seed;
    int32_t api;
    bool cache_prompt, cache_given, json;
};

/* ---- counts ---------------------------------------------------------------------------------- */
struct gm_load_status {
    int status;
    uint64_t n;
};
struct gm_load_counts {
    uint64_t issued, done, failed, timed_out, cut; /* cut: ran when the command was stopped */
    uint64_t refused, refused_hint;                /* hint: with Retry-After */
    struct gm_load_status by_status[GM_LOAD_STATUSES];
    size_t n_status;
    uint64_t tokens, prompt_tokens, cached_tokens;
    uint64_t by_usage, by_chunks; /* answers whose tokens the server counted, or we */
    struct gm_series first, first_later, gap, answer, rate, refusal, late; /* ms; rate tokens/s */
    char refused_say[GM_LOAD_SAY_MAX], failed_say[GM_LOAD_SAY_MAX];        /* the first one's */
    int64_t began_us, ended_us; /* first request sent, last answer's end; 0: none */
    uint32_t running_most;
    int64_t idle_wanted, idle_opened, idle_usable;
    char idle_say[GM_LOAD_SAY_MAX];
    bool stopped;
};
void gm_load_counts_begin(struct gm_load_counts *c);
void gm_load_counts_free(struct gm_load_counts *c);
void gm_load_count_refusal(struct gm_load_counts *c, int status, double ms, bool hint);
/* The report, for people or as one line of JSON. */
enum gm_status gm_load_report(struct gm_load_counts *c, const struct gm_load_options *o,
                              struct gm_buf *out, struct gm_err *err);

/* ---- one client ------------------------------------------------------------------------------ */
enum gm_load_kind { GM_LOAD_LINK_CLIENT, GM_LOAD_LINK_IDLE };

enum gm_client_is { GM_CLIENT_FREE, GM_CLIENT_RUNNING, GM_CLIENT_WAITING };

struct gm_load;
struct gm_load_client {
    struct gm_load *load;
    struct gm_link link;
    struct gm_sse sse;
    struct gm_buf history; /* what the conversation holds before the turn that runs */
    struct gm_buf asked;   /* the turn that runs */
    struct gm_buf answer;  /* text, or the body of a refusal */
    enum gm_client_is is;
    uint64_t conversation;              /* a number that makes its prompts */
    uint32_t index, turn;               /* turn: 0 is the first */
    uint32_t conversations;             /* closed loop: begun by this client */
    int64_t from_us, first_us, last_us; /* intended start, first and last piece of text */
    int64_t wake_us;                    /* waiting: until then */
    uint64_t chunks, made, prompt_tokens, cached_tokens;
    bool counted, ended, again; /* usage seen; [DONE] seen; sent twice */
};

struct gm_load {
    const struct gm_load_options *o;
    struct gm_target target;
    struct gm_load_counts counts;
    struct gm_load_client *clients;
    uint32_t n, running, waiting;
    uint32_t *free_clients, n_free; /* open loop: a stack */
    struct gm_idle *idle;
    int64_t n_idle;
    int epoll;
    int64_t end_us;    /* no request is begun after it; 0: no such time */
    int64_t next_us;   /* open loop: when the next request is to be sent */
    uint64_t arrivals; /* state of the random gaps between them */
    uint64_t conversations;
    int64_t gone_us;       /* nobody has listened since; 0: somebody does */
    struct gm_buf body;    /* of the request that is being made */
    struct gm_buf prompts; /* --file */
    const char **lines;
    size_t n_lines;
    char model[GM_LOAD_SAY_MAX];
};

void gm_client_begin(struct gm_load_client *c, struct gm_load *load, uint32_t index);
void gm_client_free(struct gm_load_client *c);
/* Sends the next turn; `from_us` is when it was to be sent. */
void gm_client_ask(struct gm_load_client *c, int64_t from_us);
/* What epoll said of its connection. */
void gm_client_ready(struct gm_load_client *c, uint32_t events);
/* Gives the running turn up. */
void gm_client_fail(struct gm_load_client *c, const char *why);
/* load.c: the client's turn is over; it is free, or waits until c->wake_us. */
void gm_load_over(struct gm_load_client *c);

/* ---- load_prompt.c: what is asked ------------------------------------------------------------ */
/* The file's lines; GM_INVALID: none. */
enum gm_status gm_load_prompts(struct gm_load *load, const char *path, struct gm_err *err);
/* The text of a turn; the same numbers give the same text. */
enum gm_status gm_load_prompt(const struct gm_load *load, uint64_t conversation, uint32_t turn,
                              struct gm_buf *out, struct gm_err *err);
/* The body of a client's request into load->body. */
enum gm_status gm_load_body(struct gm_load *load, const struct gm_load_client *c,
                            struct gm_err *err);

/* ---- load_wait.c: the wait; connections that are kept and ask nothing; the model ------------- */
/* Waits for at most `us` microseconds and gives what came to the clients and the idle. */
void gm_load_wait(struct gm_load *load, int64_t us);
/* Opens o->idle connections, one GET /health each; returns when each is open or has failed. */
enum gm_status gm_idle_open(struct gm_load *load, struct gm_err *err);
/* Asks /health on each again and counts the answers. */
void gm_idle_check(struct gm_load *load);
void gm_idle_ready(struct gm_load *load, struct gm_link *link, uint32_t events);
void gm_idle_free(struct gm_load *load);
/* The name of the first model that the server lists, into load->model (empty when it lists none).
 * GM_UNAVAILABLE: nobody listens. */
enum gm_status gm_load_find_model(struct gm_load *load, struct gm_err *err);

#endif
