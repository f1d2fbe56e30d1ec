/* up.c - `gemline up`: the pipeline of the home, in front or in the background.
 *
 * Owns:      the command's options.
 * Does not:  start or watch processes (supervise.c).
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "services/cli/cli.h"

struct options {
    struct gm_up_options up;
    bool detach;
};

/* clang-format off */
static const struct gm_opt opts[] = {
    { .name = "detach", .kind = GM_OPT_FLAG, .at = offsetof(struct options, detach),
      .help = "go on in the background; return when a turn can be served" },
    GM_UP_ROWS(struct options, up),
};
/* clang-format on */
static const struct gm_program program = {
    .name = "gemline up",
    .usage = "[--detach] [options]",
    .about = "Starts the pipeline of this home ($GEMLINE_HOME) and says `ready`.\n"
             "Stop it with Ctrl-C or gemline down.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

/* Where the gateway listens, for people and scripts. */
static void say_http(const struct gm_home *home)
{
    char http[GM_CLI_HTTP_MAX], line[GM_CLI_HTTP_MAX + 16];
    if (gm_home_http(home, http, NULL) != GM_OK)
        return;
    const int n = snprintf(line, sizeof line, "http://%s\n", http);
    (void)gm_cli_write(line, (size_t)n, NULL);
}

static void say_ready(void *ctx)
{
    (void)gm_cli_write("ready\n", 6, NULL);
    say_http(ctx);
}

static void log_to_home(const struct gm_home *home)
{
    char path[GM_PATH_MAX];
    if (gm_home_path(path, home, "logs", NULL) != GM_OK || gm_dir_make(path, 0700, NULL) != GM_OK ||
        gm_home_path(path, home, "logs/up-0.log", NULL) != GM_OK)
        return;
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        gm_log_open("up", fd);
        gm_log_set_level(GM_LOG_INFO);
    }
}

int gm_cmd_up(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    static struct gm_settings set;
    static struct gm_home home;
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (gm_options_check(&program, &args, &o.up, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (gm_options_resolve(&o.up, &set, &err) != GM_OK || gm_home_open(&home, NULL, &err) != GM_OK)
        return gm_cli_fail(&err);
    gm_cli_pack_first(set.model, set.threads);
    struct gm_job job = {
        .home = &home, .set = &set, .lifeline = -1, .on_ready = say_ready, .ctx = &home
    };
    enum gm_status rc;
    if (o.detach) {
        pid_t pid = 0;
        rc = gm_daemon_start(job, &pid, NULL, &err);
        if (rc == GM_OK || rc == GM_EXISTS)
            say_http(&home);
    } else {
        gm_cli_progress("starting %s, %d shard%s; the home is %s", set.name, set.cut.n,
                        set.cut.n > 1 ? "s" : "", home.dir);
        log_to_home(&home);
        rc = gm_supervise(&job, &err);
    }
    if (rc == GM_OK || rc == GM_EXISTS || (rc == GM_CANCELLED && gm_stopping()))
        return GM_CLI_OK;
    return gm_cli_fail(&err);
}
