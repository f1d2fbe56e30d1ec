/* down.c - `gemline down`: ends everything of the home, supervised or not.
 *
 * Owns:      the order: the supervisor first, what is left after it, private homes inside.
 * Does not:  touch another home.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "services/cli/cli.h"

enum { SUPERVISOR_MS = 3 * GM_CLI_GRACE_MS + 2000, POLL_MS = 10 };

static const struct gm_program program = {
    .name = "gemline down",
    .usage = "",
    .about = "Stops the pipeline of this home and returns when every process is gone.",
};

static void stop_home(const struct gm_home *home, void *ctx)
{
    const bool temp = ctx != NULL;
    struct gm_state *st = calloc(1, sizeof *st);
    if (!st)
        return;
    while (gm_state_load(st, home, NULL) == GM_OK) {
        const int64_t until = gm_now_ms() + SUPERVISOR_MS;
        if (gm_state_supervised(st)) {
            (void)kill((pid_t)st->supervisor_pid, SIGTERM);
            (void)kill((pid_t)st->supervisor_pid, SIGCONT);
        }
        while (gm_state_supervised(st) && gm_now_ms() < until)
            gm_sleep_ms(POLL_MS);
        if (gm_state_supervised(st))
            (void)kill((pid_t)st->supervisor_pid, SIGKILL);
        struct gm_state *now = calloc(1, sizeof *now);
        const bool again = now && gm_state_load(now, home, NULL) == GM_OK;
        gm_state_stop(again ? now : st);
        free(now);
        gm_state_remove(home);
        gm_home_sweep(home);
    }
    free(st);
    if (temp)
        gm_home_remove(home);
}

int gm_cmd_down(int argc, char **argv)
{
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    static struct gm_home home;
    char nothing = 0;
    const int code = gm_cli_parse(&program, argc, argv, &nothing, &args);
    if (code >= 0)
        return code;
    if (gm_home_open(&home, NULL, &err) != GM_OK)
        return gm_cli_fail(&err);
    stop_home(&home, NULL);
    gm_home_each_temp(&home, stop_home, &home);
    return GM_CLI_OK;
}
