/* cli.h - what the files of the command line share: options, the home, its state, a connection.
 *
 * Owns:      the structs below.
 * Does not:  hold logic that a service needs.
 */
#ifndef GM_CLI_H
#define GM_CLI_H

#include <sys/types.h>

#include "common/net.h"
#include "services/cli/cut.h"

enum {
    GM_CLI_OK = 0,
    GM_CLI_FAILED = 1,
    GM_CLI_WRONG_USE = 2,
    GM_CLI_INPUT_BYTES_MAX = 64 << 20, /* a file or stdin, in all */
    GM_CLI_PROCS_MAX = GM_CUT_SHARDS_MAX + 5,
    GM_CLI_HTTP_MAX = 80,    /* bytes of ADDR:PORT */
    GM_CLI_RESTARTS_MAX = 5, /* within GM_CLI_RESTARTS_MS: the process is given up */
    GM_CLI_RESTARTS_MS = 60000,
    GM_CLI_GRACE_MS = 10000, /* from SIGTERM to SIGKILL */
    GM_CLI_DRAIN_MS = 30000, /* the same of the gateway: answers that run end first */
    GM_CLI_CALL_MS = 30000,
    GM_CLI_ID_MAX = 64, /* bytes of a session id */
};

/* ---- main.c ---------------------------------------------------------------------------------- */
/* Prints "gemline: sentence" and returns GM_CLI_FAILED or GM_CLI_WRONG_USE. */
int gm_cli_fail(const struct gm_err *err);
int gm_cli_wrong(const struct gm_err *err);
/* Parses; returns -1 to go on, else the exit code (help was printed, or wrong use was told). */
int gm_cli_parse(const struct gm_program *program, int argc, char *const argv[], void *into,
                 struct gm_args *args);
/* A line on stderr, only when that is a terminal. */
void gm_cli_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line on a terminal that is written over; total 0 takes it away. */
void gm_cli_meter(uint32_t done, uint32_t total);
/* Writes all of it to stdout and flushes; GM_UNAVAILABLE when nobody reads. */
enum gm_status gm_cli_write(const void *bytes, size_t n, struct gm_err *err);
/* A whole file into *out; "-" is stdin. */
enum gm_status gm_cli_read(const char *path, struct gm_buf *out, struct gm_err *err);
/* 1-64 of A-Za-z0-9._- */
enum gm_status gm_cli_check_session(const char *id, struct gm_err *err);

/* ---- options.c: the options of `up`, which run, chat and score take too -----------------------
 */
struct gm_up_options {
    int64_t shards, threads, context, kv_tokens, session_ttl_ms;
    int32_t kv;
    int32_t speculate;
    bool insecure, tcp;
    const char *layers, *model, *adapter, *http, *origins;
};

#define GM_UP_ROWS_N 14
#define GM_UP_ROW(type, field, member, word, what)                                                 \
    .name = word, .at = offsetof(type, field.member), .help = what
#define GM_UP_ROWS(type, field)                                                                    \
    { GM_UP_ROW(type, field, shards, "shards", "processes that share the layers"),                 \
      .kind = GM_OPT_INT, .min = 1, .max = GM_CUT_SHARDS_MAX, .def = "1" },                        \
        { GM_UP_ROW(type, field, layers, "layers", "the cut, as 0:6,6:12,12:18"),                  \
          .kind = GM_OPT_TEXT, .arg = "CUT" },                                                     \
        { GM_UP_ROW(type, field, model, "model",                                                   \
                    "a GGUF file (default: Gemma 3 270M of the cache)"),                           \
          .kind = GM_OPT_TEXT, .arg = "FILE" },                                                    \
        { GM_UP_ROW(type, field, adapter, "adapter", "a LoRA folder (PEFT), or none"),             \
          .kind = GM_OPT_TEXT, .arg = "DIR" },                                                     \
        { GM_UP_ROW(type, field, threads, "threads", "threads of a shard (0: all usable CPUs)"),   \
          .kind = GM_OPT_INT, .max = 256, .def = "0" },                                            \
        { GM_UP_ROW(type, field, context, "context",                                               \
                    "tokens of one conversation (0: 8192, or the "                                 \
                    "model's)"),                                                                   \
          .kind = GM_OPT_INT, .max = 1 << 20, .def = "0" },                                        \
        { GM_UP_ROW(type, field, kv_tokens, "kv-tokens",                                           \
                    "tokens of all together (0: 256 x 2048, or what a "                            \
                    "quarter of the free memory holds)"),                                          \
          .kind = GM_OPT_INT, .max = 1 << 28, .def = "0" },                                        \
        { GM_UP_ROW(type, field, kv, "kv", "how keys and values are kept"), .kind = GM_OPT_ENUM,   \
          .choices = GM_CLI_KV_CHOICES, .def = "bf16" },                                           \
        { GM_UP_ROW(type, field, speculate, "speculate",                                           \
                    "guess tokens ahead from the text so far"),                                    \
          .kind = GM_OPT_ENUM, .choices = GM_CLI_SPECULATE_CHOICES },                              \
        { GM_UP_ROW(type, field, http, "http",                                                     \
                    "where the HTTP gateway listens, or off (default: 127.0.0.1:8080, or the "     \
                    "next free port)"),                                                            \
          .kind = GM_OPT_TEXT, .arg = "ADDR:PORT" },                                               \
        { GM_UP_ROW(type, field, insecure, "insecure",                                             \
                    "let the gateway listen beyond this machine without API keys"),                \
          .kind = GM_OPT_FLAG },                                                                   \
        { GM_UP_ROW(type, field, tcp, "tcp",                                                       \
                    "the processes speak TCP (127.0.0.1) with keys, not Unix sockets"),            \
          .kind = GM_OPT_FLAG },                                                                   \
        { GM_UP_ROW(type, field, origins, "http-origins",                                          \
                    "web pages of these origins may use the gateway (CORS), as "                   \
                    "https://a.example,https://b.example"),                                        \
          .kind = GM_OPT_TEXT, .arg = "LIST" },                                                    \
    {                                                                                              \
        GM_UP_ROW(type, field, session_ttl_ms, "session-ttl",                                      \
                  "a conversation unused for so long is dropped"),                                 \
            .kind = GM_OPT_DURATION, .min = 1000, .max = 1e12, .def = "7d"                         \
    }

#define GM_CLI_KV_CHOICES        "f32|bf16|f16|q8"
#define GM_CLI_SPECULATE_CHOICES "on|off" /* the first is the default */

/* Everything that a pipeline is started with, resolved. */
struct gm_settings {
    char model[GM_PATH_MAX], adapter[GM_PATH_MAX]; /* adapter "none" or a folder */
    char name[256];                                /* of the model's file, for people */
    char served[64]; /* of the model, for clients of the gateway: "gemma3-270m" */
    char kv[8], speculate[8];
    char http[GM_CLI_HTTP_MAX];                          /* "ADDR:PORT", "auto" or "off" */
    char origins[1024];                                  /* "" or a list with commas */
    int64_t insecure, tcp;                               /* 0 or 1 */
    int64_t threads, context, kv_tokens, session_ttl_ms; /* kv_tokens 0: not said */
    int64_t pool_tokens; /* what kv_tokens comes to here: of the start, compared with nothing */
    struct gm_cut cut;
};

/* The form of the options, without the model: GM_INVALID is wrong use. */
enum gm_status gm_options_check(const struct gm_program *program, const struct gm_args *args,
                                const struct gm_up_options *o, struct gm_err *err);
/* The model file that the options mean, as a real path. GM_NOT_FOUND says how to get it. */
enum gm_status gm_options_model(const struct gm_up_options *o, char out[GM_PATH_MAX],
                                struct gm_err *err);
enum gm_status gm_options_resolve(const struct gm_up_options *o, struct gm_settings *s,
                                  struct gm_err *err);

/* ---- home.c ---------------------------------------------------------------------------------- */
struct gm_home {
    char dir[GM_PATH_MAX]; /* state, lock, logs, Redis's data */
    char run[GM_PATH_MAX]; /* sockets: dir itself, or a short folder when dir is too long */
};
/* dir NULL: of the environment. Makes the folders (0700). */
enum gm_status gm_home_open(struct gm_home *home, const char *dir, struct gm_err *err);
/* A fresh private home inside `parent`, for a pipeline beside its own. */
enum gm_status gm_home_open_temp(struct gm_home *home, const struct gm_home *parent,
                                 struct gm_err *err);
/* Removes a temporary home with all that is in it. */
void gm_home_remove(const struct gm_home *home);
/* Where the home's gateway listens, "ADDR:PORT". GM_NOT_FOUND: none does (yet). */
enum gm_status gm_home_http(const struct gm_home *home, char out[GM_CLI_HTTP_MAX],
                            struct gm_err *err);
/* Removes sockets and, when it is one, the short folder. */
void gm_home_sweep(const struct gm_home *home);
/* Calls fn for each private home inside. */
void gm_home_each_temp(const struct gm_home *home,
                       void (*fn)(const struct gm_home *temp, void *ctx), void *ctx);
enum gm_status gm_home_path(char out[GM_PATH_MAX], const struct gm_home *home, const char *name,
                            struct gm_err *err);

/* ---- state.c: HOME/state.json ---------------------------------------------------------------- */
struct gm_proc {
    char role[16];
    uint32_t index;
    int64_t pid;    /* 0: not running */
    uint64_t start; /* clock ticks; with pid it names the process */
    int64_t started_ms;
    int32_t begin, end; /* layers of a shard */
    int32_t restarts;
    bool failed;
    int pidfd;                              /* -1: none; not stored */
    int64_t recent_ms[GM_CLI_RESTARTS_MAX]; /* last restarts, a ring; not stored */
};
struct gm_state {
    bool single; /* of one command: others cannot attach */
    bool ready;  /* a turn could be served once */
    int64_t supervisor_pid;
    uint64_t supervisor_start;
    struct gm_settings set;
    size_t n;
    struct gm_proc procs[GM_CLI_PROCS_MAX];
};
/* GM_NOT_FOUND: no such file. */
enum gm_status gm_state_load(struct gm_state *st, const struct gm_home *home, struct gm_err *err);
enum gm_status gm_state_store(const struct gm_state *st, const struct gm_home *home,
                              struct gm_err *err);
void gm_state_remove(const struct gm_home *home);
bool gm_state_supervised(const struct gm_state *st);
/* True when the supervisor or any process lives. */
bool gm_state_alive(const struct gm_state *st);
/* Compares what was asked with what runs; GM_PRECONDITION names the first difference. */
enum gm_status gm_state_compare(const struct gm_state *st, const struct gm_settings *want,
                                struct gm_err *err);
/* SIGTERM in order (gateway, orchestrator, the others, Redis), SIGKILL after GM_CLI_GRACE_MS;
 * returns when all are gone. */
void gm_state_stop(struct gm_state *st);

/* ---- net.c: a home's pipeline over TCP --------------------------------------------------------
 */
struct gm_home_net {
    char book[GM_PATH_MAX], key[GM_PATH_MAX];
    struct gm_net_options options; /* points to them */
};
/* The files of one process of the home. */
enum gm_status gm_home_net(const struct gm_home *home, const char *role, uint32_t index,
                           struct gm_home_net *net, struct gm_err *err);
/* The public half of a key file, which is made where there is none. */
enum gm_status gm_cli_public_key(const char *path, char text[GM_CURVE_TEXT + 1],
                                 struct gm_err *err);
/* Makes the keys that are missing, chooses free ports and writes the book for st->procs. */
enum gm_status gm_home_net_make(const struct gm_home *home, const struct gm_state *st,
                                struct gm_err *err);
void gm_home_net_sweep(const struct gm_home *home); /* removes the book */
/* A client of the home's pipeline: over TCP where it has a book. */
enum gm_status gm_home_client(struct gm_client **out, const struct gm_home *home,
                              struct gm_err *err);

/* ---- supervise.c ----------------------------------------------------------------------------- */
struct gm_job {
    const struct gm_home *home;
    const struct gm_settings *set;
    bool single;
    bool tokenizer_only;
    int lifeline;             /* ends when this reads end of file; -1: none */
    void (*on_ready)(void *); /* once, when a turn can be served */
    void *ctx;
};
/* Runs a pipeline until a stop signal or the lifeline's end. GM_OK: it was stopped; GM_EXISTS: one
 * with the same options runs already (on_ready was called); GM_ABORTED: another command's own
 * pipeline holds the home; else why it could not start. */
enum gm_status gm_supervise(const struct gm_job *job, struct gm_err *err);

/* ---- daemon.c: a supervisor as a process of its own -------------------------------------------
 */
/* Forks one that holds nothing of this process; returns when it is ready. *lifeline (may be NULL:
 * it outlives us) is what to close to end it; *pid is its process. Errors as gm_supervise. */
enum gm_status gm_daemon_start(struct gm_job job, pid_t *pid, int *lifeline, struct gm_err *err);

/* ---- attach.c -------------------------------------------------------------------------------- */
struct gm_conn {
    struct gm_home home; /* of the pipeline */
    struct gm_client *client;
    struct gm_vocab vocab;
    uint32_t context;
    pid_t child; /* 0: the pipeline is not ours */
    int lifeline;
    bool temp;
};
/* Finds the home's pipeline or starts one. tokenizer_only: enough for tokenize. */
enum gm_status gm_conn_open(struct gm_conn *c, const struct gm_up_options *o, bool tokenizer_only,
                            struct gm_err *err);
/* Ends what gm_conn_open started. Idempotent. */
void gm_conn_close(struct gm_conn *c);

/* ---- turn.c ---------------------------------------------------------------------------------- */
struct gm_turn_options {
    const char *session; /* NULL: a new one */
    const char *system;  /* NULL: none */
    bool raw, retry;
    bool stream; /* text goes to stdout as it comes */
    bool ignore_eos;
    uint32_t timeout_ms;
    Gm__Sampling *sampling; /* NULL: what is stored (retry) */
};
struct gm_answer {
    struct gm_buf text;
    int32_t *ids;       /* owned, n */
    Gm__Token **tokens; /* owned copies, n */
    size_t n, cap;
    char session[GM_CLI_ID_MAX + 1];
    char reason[16];
    uint64_t seed;
    uint32_t prompt_tokens, cached_tokens;
    double prefill_ms, decode_ms;
};
/* Runs one turn; `prompt` is text. The answer is valid (perhaps in part) also after a failure. */
enum gm_status gm_turn_run(struct gm_conn *c, const struct gm_turn_options *o,
                           const struct gm_buf *prompt, struct gm_answer *a, struct gm_err *err);
void gm_answer_free(struct gm_answer *a);
/* {"text": ...} on one line with its newline. */
enum gm_status gm_answer_json(const struct gm_answer *a, const struct gm_vocab *v,
                              struct gm_buf *out, struct gm_err *err);

/* ---- session.c ------------------------------------------------------------------------------- */
/* Prints a conversation as people read it, or the list. */
enum gm_status gm_session_print(struct gm_conn *c, const char *id, bool json, struct gm_err *err);
enum gm_status gm_session_list(struct gm_conn *c, bool json, struct gm_err *err);
enum gm_status gm_session_call(struct gm_conn *c, const char *method, const char *id,
                               struct gm_err *err);

/* ---- commands: argv[0] is the command's name --------------------------------------------------
 */
int gm_cmd_up(int argc, char **argv);
int gm_cmd_down(int argc, char **argv);
int gm_cmd_status(int argc, char **argv);
int gm_cmd_run(int argc, char **argv);
int gm_cmd_chat(int argc, char **argv);
int gm_cmd_session(int argc, char **argv);
int gm_cmd_key(int argc, char **argv);
int gm_cmd_tokenize(int argc, char **argv);
int gm_cmd_score(int argc, char **argv);
int gm_cmd_plan(int argc, char **argv);
int gm_cmd_synth(int argc, char **argv);
int gm_cmd_pack(int argc, char **argv);
/* Packs the weights of a first start, with a meter on a terminal; a failure is not one of the
 * start. */
void gm_cli_pack_first(const char *model, int64_t threads);
int gm_cmd_netkey(int argc, char **argv);
int gm_cmd_kill(int argc, char **argv);
int gm_cmd_bench(int argc, char **argv);
int gm_cmd_load(int argc, char **argv);

#endif
