/* state.c - HOME/state.json: which processes a pipeline has and what it was started with.
 *
 * Owns:      the file's form, the comparison of options, and the end of processes by pid and start.
 * Does not:  start processes (supervise.c).
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/cli/cli.h"

enum { STATE_BYTES_MAX = 1 << 20, POLL_MS = 5, STOP_RANKS = 4, PID_MAX = INT32_MAX };

static const char *const file_name = "state.json";

/* ---- the settings as rows: one table to store, load and compare -------------------------------
 */
struct row {
    const char *name; /* of the option, without dashes */
    size_t at, size;  /* size 0: int64_t, else a text of so many bytes */
    bool found;       /* by us, not asked for: nothing to compare */
};
#define TEXT(option, member)                                                                       \
    {                                                                                              \
        option, offsetof(struct gm_settings, member), sizeof(((struct gm_settings *)0)->member),   \
            false                                                                                  \
    }
#define NUMBER(option, member)                                                                     \
    {                                                                                              \
        option, offsetof(struct gm_settings, member), 0, false                                     \
    }
static const struct row rows[] = {
    TEXT("model", model),
    TEXT("adapter", adapter),
    TEXT("layers", cut.text),
    NUMBER("threads", threads),
    NUMBER("context", context),
    NUMBER("kv-tokens", kv_tokens),
    TEXT("kv", kv),
    TEXT("speculate", speculate),
    TEXT("http", http),
    TEXT("http-origins", origins),
    NUMBER("insecure", insecure),
    NUMBER("tcp", tcp),
    NUMBER("session-ttl", session_ttl_ms),
    TEXT("name", name),
    TEXT("served", served),
    { "pool-tokens", offsetof(struct gm_settings, pool_tokens), 0, true },
};
enum { ROWS = sizeof rows / sizeof rows[0] };

static void row_text(const struct row *row, const struct gm_settings *s, char *out, size_t cap)
{
    const char *at = (const char *)s + row->at;
    int64_t value;
    if (row->size) {
        snprintf(out, cap, "%s", at);
        return;
    }
    memcpy(&value, at, sizeof value);
    snprintf(out, cap, "%lld", (long long)value);
}

static void row_set(const struct row *row, struct gm_settings *s, const char *text)
{
    char *at = (char *)s + row->at;
    int64_t value = 0;
    if (row->size) {
        snprintf(at, row->size, "%s", text);
        return;
    }
    (void)gm_parse_i64(text, 0, INT64_MAX, &value, NULL);
    memcpy(at, &value, sizeof value);
}

enum gm_status gm_state_compare(const struct gm_state *st, const struct gm_settings *want,
                                struct gm_err *err)
{
    char have_text[GM_PATH_MAX], want_text[GM_PATH_MAX];
    for (int i = 0; i < ROWS; i++) {
        row_text(&rows[i], &st->set, have_text, sizeof have_text);
        row_text(&rows[i], want, want_text, sizeof want_text);
        if (!rows[i].found && strcmp(have_text, want_text) != 0)
            return gm_fail(err, GM_PRECONDITION,
                           "the pipeline of this home runs with --%s%s %.120s, not %.120s; run "
                           "gemline down first",
                           rows[i].name, strcmp(rows[i].name, "layers") == 0 ? " (--shards)" : "",
                           have_text, want_text);
    }
    return GM_OK;
}

/* ---- the file ---------------------------------------------------------------------------------
 */
static json_t *proc_json(const struct gm_proc *p)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:b, s:s}", "role", p->role, "index",
                     (json_int_t)p->index, "pid", (json_int_t)p->pid, "start", (json_int_t)p->start,
                     "started_ms", (json_int_t)p->started_ms, "begin", p->begin, "end", p->end,
                     "restarts", p->restarts, "failed", p->failed, "why", p->failed ? p->why : "");
}

enum gm_status gm_state_store(const struct gm_state *st, const struct gm_home *home,
                              struct gm_err *err)
{
    char path[GM_PATH_MAX], text[GM_PATH_MAX];
    json_t *options = json_object(), *procs = json_array();
    for (int i = 0; i < ROWS; i++) {
        row_text(&rows[i], &st->set, text, sizeof text);
        json_object_set_new(options, rows[i].name, json_string(text));
    }
    for (size_t i = 0; i < st->n; i++)
        json_array_append_new(procs, proc_json(&st->procs[i]));
    json_t *all =
        json_pack("{s:b, s:b, s:I, s:I, s:o, s:o}", "private", st->single, "ready", st->ready,
                  "pid", (json_int_t)st->supervisor_pid, "start", (json_int_t)st->supervisor_start,
                  "options", options, "processes", procs);
    char *dump = all ? json_dumps(all, JSON_COMPACT) : NULL;
    json_decref(all);
    if (!dump)
        return gm_fail(err, GM_EXHAUSTED, "no memory to write %s, or a path is no UTF-8",
                       file_name);
    enum gm_status rc = gm_home_path(path, home, file_name, err);
    if (rc == GM_OK)
        rc = gm_file_write(path, dump, strlen(dump), 0600, err);
    free(dump);
    return rc;
}

static bool proc_load(struct gm_proc *p, json_t *j)
{
    const char *role = NULL, *why = "";
    json_int_t index, pid, start, started;
    int failed = 0;
    if (json_unpack(j, "{s:s, s:I, s:I, s:I, s:I, s:i, s:i, s:i, s:b, s?:s}", "role", &role,
                    "index", &index, "pid", &pid, "start", &start, "started_ms", &started, "begin",
                    &p->begin, "end", &p->end, "restarts", &p->restarts, "failed", &failed, "why",
                    &why) != 0)
        return false;
    if (index < 0 || index >= GM_CUT_SHARDS_MAX || pid < 0 || pid > PID_MAX ||
        strlen(role) >= sizeof p->role)
        return false;
    snprintf(p->role, sizeof p->role, "%s", role);
    p->index = (uint32_t)index;
    p->pid = pid;
    p->start = (uint64_t)start;
    p->started_ms = started;
    p->failed = failed;
    snprintf(p->why, sizeof p->why, "%s", why);
    p->pidfd = -1;
    return true;
}

static bool state_fill(struct gm_state *st, json_t *all)
{
    json_t *options = NULL, *procs = NULL;
    json_int_t pid, start;
    int single = 0, ready = 0;
    if (json_unpack(all, "{s:b, s:b, s:I, s:I, s:o, s:o}", "private", &single, "ready", &ready,
                    "pid", &pid, "start", &start, "options", &options, "processes", &procs) != 0 ||
        pid < 0 || pid > PID_MAX)
        return false;
    st->single = single;
    st->ready = ready;
    st->supervisor_pid = pid;
    st->supervisor_start = (uint64_t)start;
    for (int i = 0; i < ROWS; i++) {
        const char *text = json_string_value(json_object_get(options, rows[i].name));
        row_set(&rows[i], &st->set, text ? text : "");
    }
    for (size_t i = 0; i < json_array_size(procs) && i < GM_CLI_PROCS_MAX; i++)
        if (!proc_load(&st->procs[st->n++], json_array_get(procs, i)))
            return false;
    return true;
}

enum gm_status gm_state_load(struct gm_state *st, const struct gm_home *home, struct gm_err *err)
{
    memset(st, 0, sizeof *st);
    char path[GM_PATH_MAX];
    struct gm_buf b = GM_BUF(STATE_BYTES_MAX);
    enum gm_status rc = gm_home_path(path, home, file_name, err);
    if (rc == GM_OK)
        rc = gm_file_read(path, &b, err);
    if (rc != GM_OK)
        return rc;
    json_t *all = json_loadb(gm_buf_text(&b), b.len, 0, NULL);
    gm_buf_free(&b);
    const bool good = all && state_fill(st, all);
    json_decref(all);
    return good ? GM_OK
                : gm_fail(err, GM_DATA_LOSS, "%.200s is damaged; stop its processes and remove it",
                          path);
}

void gm_state_remove(const struct gm_home *home)
{
    char path[GM_PATH_MAX];
    if (gm_home_path(path, home, file_name, NULL) == GM_OK)
        unlink(path);
}

/* ---- processes --------------------------------------------------------------------------------
 */
static bool proc_alive(const struct gm_proc *p)
{
    return p->pid > 0 && gm_pid_alive(p->pid, p->start);
}

bool gm_state_supervised(const struct gm_state *st)
{
    return st->supervisor_pid > 0 && gm_pid_alive(st->supervisor_pid, st->supervisor_start);
}

bool gm_state_alive(const struct gm_state *st)
{
    bool alive = gm_state_supervised(st);
    for (size_t i = 0; i < st->n && !alive; i++)
        alive = proc_alive(&st->procs[i]);
    return alive;
}

static int stop_rank(const struct gm_proc *p)
{
    static const char *const order[] = { "gateway", "orchestrator", NULL, "redis" };
    for (int i = 0; i < STOP_RANKS; i++)
        if (order[i] && strcmp(p->role, order[i]) == 0)
            return i;
    return 2;
}

static bool rank_alive(struct gm_state *st, int rank)
{
    bool alive = false;
    for (size_t i = 0; i < st->n; i++) {
        if (stop_rank(&st->procs[i]) != rank || st->procs[i].pid <= 0)
            continue;
        (void)waitpid((pid_t)st->procs[i].pid, NULL, WNOHANG);
        alive = proc_alive(&st->procs[i]) || alive;
    }
    return alive;
}

static void rank_signal(struct gm_state *st, int rank, int sig)
{
    for (size_t i = 0; i < st->n; i++)
        if (stop_rank(&st->procs[i]) == rank && proc_alive(&st->procs[i])) {
            (void)kill((pid_t)st->procs[i].pid, sig);
            (void)kill((pid_t)st->procs[i].pid, SIGCONT);
        }
}

void gm_state_stop(struct gm_state *st)
{
    for (int rank = 0; rank < STOP_RANKS; rank++) {
        const int64_t until = gm_now_ms() + (rank == 0 ? GM_CLI_DRAIN_MS : GM_CLI_GRACE_MS);
        rank_signal(st, rank, SIGTERM);
        while (rank_alive(st, rank) && gm_now_ms() < until)
            gm_sleep_ms(POLL_MS);
        rank_signal(st, rank, SIGKILL);
        while (rank_alive(st, rank))
            gm_sleep_ms(POLL_MS);
    }
}
