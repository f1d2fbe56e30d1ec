/* supervise.c - the pipeline of one home: starts its processes, restarts what dies, stops all.
 *
 * Owns:      the home's lock, the processes, the state file while it runs.
 * Does not:  fork itself into the background (daemon.c) or print.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/cli/cli.h"
#include "services/cli/spawn.h"

enum {
    START_POLL_MS = 10, /* between questions to the orchestrator while it starts */
    INFO_MS = 250,      /* one such question */
    IDLE_MS = 2000,     /* a look at everything, descriptors or not */
    BLIND_MS = 50,      /* the same where the kernel has no pidfd */
    RETRY_MS = 1000,    /* a process that could not be forked */
    DENIED_MS = 5000,   /* a start that the orchestrator calls impossible for so long is */
};

struct super {
    const struct gm_job *job;
    struct gm_state st;
    struct gm_lock lock;
    struct gm_client *client;
    bool started;      /* on_ready was called: a death is a matter of restarting */
    bool unsaved;      /* the state file is older than the state: no room on the disk, say */
    int64_t denied_ms; /* since when the orchestrator says that it cannot start; 0: it does not */
    struct gm_err denied; /* its sentence */
};

static void forget_pid(struct gm_proc *p)
{
    if (p->pidfd >= 0)
        close(p->pidfd);
    p->pidfd = -1;
    p->pid = 0;
}

/* The state file is for commands and for a supervisor that takes over: a pipeline that runs goes on
 * without it, and it is written as soon as it can be. */
static enum gm_status store_state(struct super *s, struct gm_err *err)
{
    const enum gm_status rc = gm_state_store(&s->st, s->job->home, err);
    s->unsaved = rc != GM_OK;
    return rc;
}

static enum gm_status start_proc(struct super *s, struct gm_proc *p, bool again, struct gm_err *err)
{
    enum gm_status rc = gm_spawn(s->job->home, &s->st, p, again, err);
    if (rc == GM_OK)
        rc = store_state(s, err);
    if (rc == GM_OK)
        gm_info("started %s-%u pid=%lld", p->role, p->index, (long long)p->pid);
    return rc;
}

static void add_proc(struct gm_state *st, const char *role, uint32_t index)
{
    struct gm_proc *p = &st->procs[st->n++];
    memset(p, 0, sizeof *p);
    snprintf(p->role, sizeof p->role, "%s", role);
    p->index = index;
    p->pidfd = -1;
    if (strcmp(role, "shard") == 0) {
        p->begin = st->set.cut.first[index];
        p->end = st->set.cut.first[index + 1];
    }
}

/* A pipeline that a command started for itself has none. */
static bool has_gateway(const struct super *s)
{
    return !s->job->tokenizer_only && !s->job->single && strcmp(s->st.set.http, "off") != 0;
}

static void list_procs(struct super *s)
{
    s->st.n = 0;
    if (!s->job->tokenizer_only) {
        add_proc(&s->st, "redis", 0);
        add_proc(&s->st, "orchestrator", 0);
        add_proc(&s->st, "sampler", 0);
    }
    add_proc(&s->st, "tokenizer", 0);
    for (int32_t i = 0; !s->job->tokenizer_only && i < s->st.set.cut.n; i++)
        add_proc(&s->st, "shard", (uint32_t)i);
    if (has_gateway(s))
        add_proc(&s->st, "gateway", 0);
}

/* ---- deaths -----------------------------------------------------------------------------------
 */
/* Five restarts in a minute, and the next death is final. */
static bool worn_out(const struct gm_proc *p)
{
    const int64_t oldest = p->recent_ms[p->restarts % GM_CLI_RESTARTS_MAX];
    return oldest && gm_now_ms() - oldest < GM_CLI_RESTARTS_MS;
}

static enum gm_status proc_died(struct super *s, struct gm_proc *p, struct gm_err *err)
{
    int how = 0;
    const bool ours = waitpid((pid_t)p->pid, &how, WNOHANG) == p->pid;
    gm_warn("%s-%u pid=%lld ended: %s %d", p->role, p->index, (long long)p->pid,
            WIFSIGNALED(how) ? "signal" : "status",
            WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    forget_pid(p);
    if (!s->started && ours && WIFEXITED(how))
        return gm_spawn_sentence(s->job->home, p, err);
    if (worn_out(p)) {
        p->failed = true;
        gm_error("%s-%u failed: %d restarts in %d s", p->role, p->index, GM_CLI_RESTARTS_MAX,
                 GM_CLI_RESTARTS_MS / 1000);
        (void)store_state(s, NULL);
        return s->started ? GM_OK : gm_spawn_sentence(s->job->home, p, err);
    }
    p->recent_ms[p->restarts++ % GM_CLI_RESTARTS_MAX] = gm_now_ms();
    struct gm_err local = GM_ERR_NONE;
    if (start_proc(s, p, true, &local) != GM_OK)
        gm_log_err(GM_LOG_ERROR, "restart", &local);
    return GM_OK;
}

static enum gm_status look_at_procs(struct super *s, struct gm_err *err)
{
    for (size_t i = 0; i < s->st.n; i++) {
        struct gm_proc *p = &s->st.procs[i];
        enum gm_status rc = GM_OK;
        if (p->pid > 0 && !gm_pid_alive(p->pid, p->start))
            rc = proc_died(s, p, err);
        else if (p->pid == 0 && !p->failed)
            (void)start_proc(s, p, true, NULL);
        if (rc != GM_OK)
            return rc;
    }
    return GM_OK;
}

/* Sleeps until something ends, at most wait_ms; false: it is time to stop. */
static bool sleep_on(struct super *s, int wait_ms)
{
    struct pollfd fds[GM_CLI_PROCS_MAX + 1];
    nfds_t n = 0;
    for (size_t i = 0; i < s->st.n; i++) {
        const struct gm_proc *p = &s->st.procs[i];
        if (p->pidfd >= 0)
            fds[n++] = (struct pollfd){ .fd = p->pidfd, .events = POLLIN };
        else if (p->pid > 0 && wait_ms > BLIND_MS)
            wait_ms = BLIND_MS;
        else if (!p->failed && p->pid == 0 && wait_ms > RETRY_MS)
            wait_ms = RETRY_MS;
    }
    const nfds_t life = n;
    if (s->job->lifeline >= 0)
        fds[n++] = (struct pollfd){ .fd = s->job->lifeline, .events = POLLIN };
    if (gm_stopping())
        return false;
    const int got = poll(fds, n, wait_ms);
    if (got > 0 && n > life && fds[life].revents)
        return false;
    return !gm_stopping();
}

/* ---- start ------------------------------------------------------------------------------------
 */
static bool call_ready(struct super *s)
{
    char path[GM_PATH_MAX];
    const bool whole = !s->job->tokenizer_only;
    snprintf(path, sizeof path, "%.4000s/%s", s->job->home->run,
             whole ? "orchestrator-0.sock" : "tokenizer-0.sock");
    if ((!s->st.set.tcp && !gm_path_exists(path)) ||
        (!s->client && gm_home_client(&s->client, s->job->home, NULL) != GM_OK))
        return false;
    Gm__Empty empty = GM__EMPTY__INIT;
    ProtobufCMessage *reply = NULL;
    bool ready = false;
    s->denied = GM_ERR_NONE;
    if (whole &&
        gm_client_call(s->client,
                       &(struct gm_client_to){ "orchestrator", 0, "Orchestrator.Info", &empty.base,
                                               &gm__info_reply__descriptor, INFO_MS },
                       &reply, &s->denied) == GM_OK)
        ready = ((Gm__InfoReply *)reply)->ready;
    if (!whole &&
        gm_client_call(s->client,
                       &(struct gm_client_to){ "tokenizer", 0, "Tokenizer.Vocab", &empty.base,
                                               &gm__vocab_reply__descriptor, INFO_MS },
                       &reply, NULL) == GM_OK)
        ready = true;
    if (reply)
        protobuf_c_message_free_unpacked(reply, NULL);
    char http[GM_CLI_HTTP_MAX];
    return ready && (!has_gateway(s) || gm_home_http(s->job->home, http, NULL) == GM_OK);
}

/* A process that cannot serve says so and ends soon, and its own words are better; what the
 * orchestrator refuses for longer (processes of two releases) does not go away by waiting. */
static enum gm_status denied(struct super *s, struct gm_err *err)
{
    if (s->denied.status != GM_PRECONDITION)
        s->denied_ms = 0;
    else if (s->denied_ms == 0)
        s->denied_ms = gm_now_ms();
    else if (gm_now_ms() - s->denied_ms > DENIED_MS)
        return gm_fail(err, GM_PRECONDITION, "%s", s->denied.text);
    return GM_OK;
}

static enum gm_status wait_ready(struct super *s, struct gm_err *err)
{
    while (!call_ready(s)) {
        if (!sleep_on(s, START_POLL_MS))
            return gm_fail(err, GM_CANCELLED, "stopped while the pipeline was starting");
        if (look_at_procs(s, err) != GM_OK || denied(s, err) != GM_OK)
            return err->status;
    }
    gm_client_close(&s->client);
    s->started = s->st.ready = true;
    return gm_state_store(&s->st, s->job->home, err);
}

/* Takes over living processes whose supervisor is gone: true when they are what we want. */
static enum gm_status adopt(struct super *s, bool *adopted, struct gm_err *err)
{
    *adopted = false;
    if (gm_state_load(&s->st, s->job->home, NULL) != GM_OK || !gm_state_alive(&s->st))
        return GM_OK;
    if (s->st.single || s->job->single) {
        gm_state_stop(&s->st);
        return GM_OK;
    }
    if (gm_state_compare(&s->st, s->job->set, err) != GM_OK)
        return err->status;
    for (size_t i = 0; i < s->st.n; i++) {
        struct gm_proc *p = &s->st.procs[i];
        p->pidfd = p->pid > 0 ? pidfd_open((pid_t)p->pid, 0) : -1;
        p->failed = false;
    }
    const int64_t pool = s->st.set.pool_tokens; /* a shard that comes back is as the others */
    s->st.set = *s->job->set;
    s->st.set.pool_tokens = pool > 0 ? pool : s->st.set.pool_tokens;
    *adopted = true;
    return GM_OK;
}

static enum gm_status start_all(struct super *s, struct gm_err *err)
{
    char path[GM_PATH_MAX];
    static const char *const folders[] = { "logs", "redis" };
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        if (gm_home_path(path, s->job->home, folders[i], err) != GM_OK ||
            gm_dir_make(path, 0700, err) != GM_OK)
            return err->status;
    bool adopted = false;
    if (adopt(s, &adopted, err) != GM_OK)
        return err->status;
    if (!adopted) {
        memset(&s->st, 0, sizeof s->st);
        s->st.set = *s->job->set;
        gm_home_sweep(s->job->home);
        if (mkdir(s->job->home->run, 0700) != 0 && errno != EEXIST)
            return gm_fail(err, GM_UNKNOWN, "cannot make %.100s: %s", s->job->home->run,
                           strerror(errno));
        list_procs(s);
        if (s->st.set.tcp && gm_home_net_make(s->job->home, &s->st, err) != GM_OK)
            return err->status;
    }
    s->st.single = s->job->single;
    s->st.supervisor_pid = getpid();
    if (gm_pid_start(getpid(), &s->st.supervisor_start, err) != GM_OK ||
        gm_state_store(&s->st, s->job->home, err) != GM_OK)
        return err->status;
    for (size_t i = 0; i < s->st.n; i++)
        if (s->st.procs[i].pid == 0 && start_proc(s, &s->st.procs[i], adopted, err) != GM_OK)
            return err->status;
    return GM_OK;
}

/* ---- another supervisor holds the lock ---------------------------------------------------------
 */
static enum gm_status join_other(struct super *s, struct gm_err *err)
{
    enum { PATIENCE_MS = 3000, POLL_MS = 20 };
    const int64_t until = gm_now_ms() + PATIENCE_MS;
    while (gm_state_load(&s->st, s->job->home, NULL) != GM_OK || !gm_state_supervised(&s->st)) {
        if (gm_stopping() || gm_now_ms() > until)
            return gm_fail(err, GM_UNAVAILABLE,
                           "the home is locked by process %lld, which tells nothing; try again",
                           (long long)s->lock.holder);
        gm_sleep_ms(POLL_MS);
    }
    if (s->st.single || s->job->single)
        return gm_fail(err, GM_ABORTED,
                       "a command of this home runs a pipeline of its own; wait for its end, or "
                       "run gemline down");
    if (gm_state_compare(&s->st, s->job->set, err) != GM_OK)
        return err->status;
    while (!s->st.ready) {
        gm_sleep_ms(POLL_MS);
        if (gm_stopping() || gm_state_load(&s->st, s->job->home, NULL) != GM_OK ||
            !gm_state_supervised(&s->st))
            return gm_fail(err, GM_UNAVAILABLE,
                           "the other gemline up of this home ended; see "
                           "its message, or run gemline up again");
    }
    while (!call_ready(s)) {
        gm_sleep_ms(POLL_MS);
        if (gm_state_load(&s->st, s->job->home, NULL) != GM_OK || gm_stopping())
            return gm_fail(err, GM_UNAVAILABLE, "the pipeline of this home ended meanwhile");
        for (size_t i = 0; i < s->st.n; i++)
            if (s->st.procs[i].failed)
                return gm_fail(err, GM_UNAVAILABLE,
                               "%s-%u of the running pipeline has failed; run gemline down, then "
                               "up again",
                               s->st.procs[i].role, s->st.procs[i].index);
    }
    gm_client_close(&s->client);
    if (s->job->on_ready)
        s->job->on_ready(s->job->ctx);
    return gm_fail(err, GM_EXISTS, "a pipeline with the same options runs already");
}

static enum gm_status run_locked(struct super *s, struct gm_err *err)
{
    enum gm_status rc = start_all(s, err);
    const bool touched = rc == GM_OK || s->st.supervisor_pid == getpid();
    if (rc == GM_OK)
        rc = wait_ready(s, err);
    if (rc == GM_OK) {
        if (s->job->on_ready)
            s->job->on_ready(s->job->ctx);
        while (sleep_on(s, IDLE_MS)) {
            (void)look_at_procs(s, NULL);
            if (s->unsaved)
                (void)store_state(s, NULL);
        }
    }
    gm_client_close(&s->client);
    if (!touched)
        return rc;
    gm_state_stop(&s->st);
    for (size_t i = 0; i < s->st.n; i++)
        forget_pid(&s->st.procs[i]);
    gm_home_sweep(s->job->home);
    gm_state_remove(s->job->home);
    return rc;
}

enum gm_status gm_supervise(const struct gm_job *job, struct gm_err *err)
{
    struct super *s = calloc(1, sizeof *s);
    char path[GM_PATH_MAX];
    if (!s)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the supervisor");
    s->job = job;
    s->lock = GM_LOCK_NONE;
    enum gm_status rc = gm_home_path(path, job->home, "lock", err);
    if (rc == GM_OK) {
        rc = gm_lock_open(&s->lock, path, err);
        if (rc == GM_UNAVAILABLE)
            rc = join_other(s, err);
        else if (rc == GM_OK)
            rc = run_locked(s, err);
    }
    gm_client_close(&s->client);
    gm_lock_close(&s->lock);
    free(s);
    return rc;
}
