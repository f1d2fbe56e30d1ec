/* daemon.c - a supervisor as a process of its own, with nothing of ours in its hands.
 *
 * Owns:      the fork, its descriptors, the word it sends back.
 * Does not:  supervise.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/cli/cli.h"

/* Descriptors of the daemon. */
enum { FD_REPORT = 3, FD_LIFELINE = 4, FD_FREE = 5, FD_MOVED = 20, POLL_MS = 50 };

/* What goes back through the pipe, once. */
struct report {
    int32_t status; /* GM_OK: ready */
    char text[GM_ERR_TEXT_MAX];
};

static void send_report(enum gm_status status, const char *text)
{
    struct report r = { .status = (int32_t)status };
    snprintf(r.text, sizeof r.text, "%s", text);
    const ssize_t wrote = write(FD_REPORT, &r, sizeof r);
    if (wrote != (ssize_t)sizeof r)
        gm_warn("the command that started this pipeline is gone");
    close(FD_REPORT);
}

static void say_ready(void *ctx)
{
    *(bool *)ctx = true;
    send_report(GM_OK, "");
}

/* Moves the two pipes to fixed places, everything else away, the log to HOME/logs. */
static bool settle(const struct gm_home *home, int report, int lifeline)
{
    char path[GM_PATH_MAX];
    setsid();
    if (gm_home_path(path, home, "logs", NULL) != GM_OK || gm_dir_make(path, 0700, NULL) != GM_OK ||
        gm_home_path(path, home, "logs/up-0.log", NULL) != GM_OK)
        return false;
    const int null_fd = open("/dev/null", O_RDWR);
    const int log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    const int up = fcntl(report, F_DUPFD, FD_MOVED);
    const int life = lifeline >= 0 ? fcntl(lifeline, F_DUPFD, FD_MOVED) : null_fd;
    if (null_fd < 0 || log_fd < 0 || up < 0 || life < 0)
        return false;
    const bool good = dup2(null_fd, 0) >= 0 && dup2(log_fd, 1) >= 0 && dup2(log_fd, 2) >= 0 &&
                      dup2(up, FD_REPORT) >= 0 && dup2(life, FD_LIFELINE) >= 0;
    close_range(FD_FREE, ~0U, 0);
    return good && chdir("/") == 0;
}

static _Noreturn void daemon_main(struct gm_job job, int report, int lifeline)
{
    struct gm_err err = GM_ERR_NONE;
    bool ready = false;
    if (!settle(job.home, report, lifeline))
        _exit(GM_CLI_FAILED);
    gm_log_open("up", STDERR_FILENO);
    job.lifeline = lifeline >= 0 ? FD_LIFELINE : -1;
    job.on_ready = say_ready;
    job.ctx = &ready;
    const enum gm_status rc = gm_supervise(&job, &err);
    if (!ready)
        send_report(rc == GM_OK ? GM_CANCELLED : rc, err.text);
    /* Not _exit, so that a leak is found. Nothing of the parent's is printed twice: it flushed. */
    exit(rc == GM_OK || rc == GM_EXISTS ? GM_CLI_OK : GM_CLI_FAILED);
}

static enum gm_status await_report(int fd, struct gm_err *err)
{
    struct report r;
    size_t got = 0;
    while (got < sizeof r) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (gm_stopping())
            return gm_fail(err, GM_CANCELLED, "stopped while the pipeline was starting");
        if (poll(&p, 1, POLL_MS) <= 0)
            continue;
        const ssize_t n = read(fd, (char *)&r + got, sizeof r - got);
        if (n <= 0)
            return gm_fail(err, GM_INTERNAL,
                           "the supervisor ended without a word; see logs/up-0.log in the home");
        got += (size_t)n;
    }
    r.text[sizeof r.text - 1] = 0;
    return r.status == GM_OK ? GM_OK : gm_fail(err, (enum gm_status)r.status, "%s", r.text);
}

enum gm_status gm_daemon_start(struct gm_job job, pid_t *pid, int *lifeline, struct gm_err *err)
{
    int report[2], life[2] = { -1, -1 };
    if (pipe2(report, O_CLOEXEC) != 0)
        return gm_fail(err, GM_EXHAUSTED, "cannot make a pipe: %s", strerror(errno));
    if (lifeline && pipe2(life, O_CLOEXEC) != 0) {
        close(report[0]);
        close(report[1]);
        return gm_fail(err, GM_EXHAUSTED, "cannot make a pipe: %s", strerror(errno));
    }
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0)
        daemon_main(job, report[1], life[0]);
    close(report[1]);
    if (life[0] >= 0)
        close(life[0]);
    enum gm_status rc = child < 0 ? gm_fail(err, GM_EXHAUSTED, "cannot fork: %s", strerror(errno))
                                  : await_report(report[0], err);
    close(report[0]);
    if (rc == GM_OK) {
        *pid = child;
        if (lifeline)
            *lifeline = life[1];
        return GM_OK;
    }
    if (life[1] >= 0)
        close(life[1]);
    if (child > 0 && rc == GM_CANCELLED)
        (void)kill(child, SIGTERM);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return rc;
}
