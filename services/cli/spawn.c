/* spawn.c - one process of a pipeline: its command line, its log, its last words.
 *
 * Owns:      the options that each program is started with.
 * Does not:  watch it afterwards (supervise.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "services/cli/spawn.h"

enum { ARGS_MAX = 40, LOG_TAIL_BYTES = 16384, LOG_BYTES_MAX = 1 << 30 };

struct args {
    size_t n;
    char *argv[ARGS_MAX];
    bool full;
};

static void put(struct args *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct args *a, const char *format, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, format);
    const int n = vasprintf(&text, format, ap);
    va_end(ap);
    if (n < 0 || a->n >= ARGS_MAX - 1) {
        a->full = true;
        return;
    }
    a->argv[a->n++] = text;
}

static void put_pair(struct args *a, const char *name, const char *value)
{
    put(a, "%s", name);
    put(a, "%s", value);
}

static void put_number(struct args *a, const char *name, int64_t value)
{
    put(a, "%s", name);
    put(a, "%lld", (long long)value);
}

static void args_redis(struct args *a, const struct gm_home *home)
{
    put_pair(a, "redis-server", "--port");
    put(a, "0");
    put(a, "--unixsocket");
    put(a, "%s/redis.sock", home->run);
    put_pair(a, "--unixsocketperm", "600");
    put_pair(a, "--appendonly", "yes");
    put_pair(a, "--appendfsync", "everysec");
    put_pair(a, "--save", "");
    put_pair(a, "--daemonize", "no");
    put(a, "--dir");
    put(a, "%s/redis", home->dir);
}

static void args_net(struct args *a, const struct gm_home *home, const struct gm_proc *p)
{
    struct gm_home_net net;
    if (gm_home_net(home, p->role, p->index, &net, NULL) != GM_OK) {
        a->full = true;
        return;
    }
    put_pair(a, "--net", net.book);
    put_pair(a, "--key", net.key);
}

static void args_service(struct args *a, const struct gm_home *home, const struct gm_state *st,
                         const struct gm_proc *p, const char *program)
{
    const struct gm_settings *set = &st->set;
    put(a, "%s", program);
    put_pair(a, "--run-dir", home->run);
    put_number(a, "--index", p->index);
    if (set->tcp)
        args_net(a, home, p);
    if (strcmp(p->role, "tokenizer") == 0)
        put_pair(a, "--model", set->model);
    if (strcmp(p->role, "orchestrator") == 0) {
        put_number(a, "--shards", set->cut.n);
        put(a, "--redis");
        put(a, "%s/redis.sock", home->run);
        put_number(a, "--context", set->context);
        put_number(a, "--session-ttl", set->session_ttl_ms);
        put(a, "%s", "--model");
        put(a, "%s", set->name);
    }
    if (strcmp(p->role, "gateway") == 0) {
        put(a, "--redis");
        put(a, "%s/redis.sock", home->run);
        put_pair(a, "--home", home->dir);
        put_pair(a, "--model", set->served);
        put_pair(a, "--http", set->http);
        if (set->origins[0])
            put_pair(a, "--origins", set->origins);
        if (set->insecure)
            put(a, "--insecure");
    }
    if (strcmp(p->role, "shard") == 0) {
        put_number(a, "--shards", set->cut.n);
        put(a, "--layers");
        put(a, "%d:%d", p->begin, p->end);
        put_pair(a, "--model", set->model);
        if (strcmp(set->adapter, "none") != 0)
            put_pair(a, "--adapter", set->adapter);
        put_number(a, "--threads", set->threads);
        put_number(a, "--context", set->context);
        put_number(a, "--kv-tokens", set->pool_tokens);
        put_pair(a, "--kv", set->kv);
        put_pair(a, "--speculate", set->speculate);
    }
}

static enum gm_status log_path(char out[GM_PATH_MAX], const struct gm_home *home,
                               const struct gm_proc *p, struct gm_err *err)
{
    char name[64];
    snprintf(name, sizeof name, "logs/%s-%u.log", p->role, p->index);
    return gm_home_path(out, home, name, err);
}

/* After fork: only calls that are safe between fork and exec. The program runs once a byte has come
 * from go_fd; its end alone says that the parent died before it had noted this process. */
static _Noreturn void become(char *const argv[], int null_fd, int log_fd, int go_fd)
{
    char go;
    static const int back_to_default[] = { SIGPIPE, SIGINT, SIGTERM, SIGHUP };
    struct sigaction plain = { .sa_handler = SIG_DFL };
    sigset_t none;
    sigemptyset(&none);
    for (size_t i = 0; i < sizeof back_to_default / sizeof back_to_default[0]; i++)
        sigaction(back_to_default[i], &plain, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    ssize_t got;
    while ((got = read(go_fd, &go, 1)) < 0 && errno == EINTR)
        ;
    if (got != 1)
        _exit(126);
    if (dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0)
        _exit(127);
    close_range(3, ~0U, 0);
    execvp(argv[0], argv);
    static const char sentence[] = "the program cannot be started; run make setup and make\n";
    if (write(2, sentence, sizeof sentence - 1) < 0)
        _exit(126);
    _exit(127);
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* Forks; the child waits for a byte in *go. */
static enum gm_status fork_it(struct args *a, const char *log, bool again, pid_t *pid, int *go,
                              struct gm_err *err)
{
    const int log_fd =
        open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (again ? 0 : O_TRUNC), 0600);
    const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int pipe_fds[2] = { -1, -1 };
    enum gm_status rc = GM_OK;
    if (log_fd < 0 || null_fd < 0)
        rc = gm_fail(err, GM_UNKNOWN, "cannot open %.200s: %s", log, strerror(errno));
    else if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        rc = gm_fail(err, GM_EXHAUSTED, "cannot make a pipe: %s", strerror(errno));
    if (rc == GM_OK) {
        *pid = fork();
        if (*pid == 0) {
            close(pipe_fds[1]);
            become(a->argv, null_fd, log_fd, pipe_fds[0]);
        }
        if (*pid < 0)
            rc = gm_fail(err, GM_EXHAUSTED, "cannot start a process: %s", strerror(errno));
    }
    close_fd(log_fd);
    close_fd(null_fd);
    close_fd(pipe_fds[0]);
    *go = rc == GM_OK ? pipe_fds[1] : -1;
    if (rc != GM_OK)
        close_fd(pipe_fds[1]);
    return rc;
}

/* Notes the child in the state, then lets it run: also where that could not be stored, a service
 * that runs is worth more than one that the next supervisor knows. */
static enum gm_status let_go(const struct gm_home *home, const struct gm_state *st, int go,
                             struct gm_err *err)
{
    const enum gm_status rc = gm_state_store(st, home, err);
    const bool went = write(go, "", 1) == 1;
    close(go);
    return went || rc != GM_OK
               ? rc
               : gm_fail(err, GM_UNKNOWN, "cannot let a process run: %s", strerror(errno));
}

enum gm_status gm_spawn(const struct gm_home *home, const struct gm_state *st, struct gm_proc *p,
                        bool again, struct gm_err *err)
{
    struct args a = { 0 };
    char folder[GM_PATH_MAX], log[GM_PATH_MAX], program[GM_PATH_MAX + 32];
    if (gm_self_dir(folder, sizeof folder, err) != GM_OK || log_path(log, home, p, err) != GM_OK)
        return err ? err->status : GM_INTERNAL;
    snprintf(program, sizeof program, "%s/gm-%s", folder, p->role);
    if (strcmp(p->role, "redis") == 0)
        args_redis(&a, home);
    else
        args_service(&a, home, st, p, program);
    pid_t pid = 0;
    int go = -1;
    enum gm_status rc = a.full ? gm_fail(err, GM_EXHAUSTED, "no memory for a command line")
                               : fork_it(&a, log, again, &pid, &go, err);
    for (size_t i = 0; i < a.n; i++)
        free(a.argv[i]);
    if (rc != GM_OK)
        return rc;
    p->pid = pid;
    p->started_ms = gm_wall_ms();
    p->pidfd = pidfd_open(pid, 0);
    if (gm_pid_start(pid, &p->start, NULL) != GM_OK)
        p->start = 0; /* it has ended already: found at the next look */
    return let_go(home, st, go, err);
}

/* "TIME level role[pid] what: sentence status=X at=y" -> "sentence" in place. */
static char *message_of(char *line)
{
    char *cut = strstr(line, " status=");
    if (cut)
        *cut = 0;
    char *at = strstr(line, "] ");
    if (!at || !strstr(line, "Z "))
        return line;
    return at + 2;
}

enum gm_status gm_spawn_sentence(const struct gm_home *home, const struct gm_proc *p,
                                 struct gm_err *err)
{
    char path[GM_PATH_MAX], tail[LOG_TAIL_BYTES + 1], *best = NULL, *last = NULL;
    ssize_t n = -1;
    const int fd = log_path(path, home, p, NULL) == GM_OK ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        const off_t size = lseek(fd, 0, SEEK_END);
        n = pread(fd, tail, LOG_TAIL_BYTES, size > LOG_TAIL_BYTES ? size - LOG_TAIL_BYTES : 0);
        close(fd);
    }
    tail[n > 0 ? n : 0] = 0;
    for (char *line = tail, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        if (*line)
            last = line;
        if (strstr(line, "Z error "))
            best = line;
    }
    const char *why = best ? message_of(best) : last ? message_of(last) : "it says nothing";
    return gm_fail(err, GM_UNAVAILABLE, "%s-%u: %.300s", p->role, p->index, why);
}
