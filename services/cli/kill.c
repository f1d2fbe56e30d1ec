/* kill.c - `gemline kill`: SIGKILL of one process of the home, for drills.
 *
 * Owns:      the command.
 * Does not:  restart (the supervisor does).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/cli.h"

static const struct gm_program program = {
    .name = "gemline kill",
    .usage = "ROLE[:INDEX]",
    .about = "Kills one process with SIGKILL: shard, sampler, tokenizer, orchestrator, gateway or "
             "redis.",
    .positionals_max = 1,
};

static enum gm_status parse(const struct gm_args *args, char role[16], int64_t *index,
                            struct gm_err *err)
{
    static const char *const roles = "shard|sampler|tokenizer|orchestrator|gateway|redis";
    if (args->n != 1)
        return gm_fail(err, GM_INVALID, "name a process, for example gemline kill shard:0");
    const char *word = args->positionals[0], *colon = strchr(word, ':');
    const size_t n = colon ? (size_t)(colon - word) : strlen(word);
    *index = 0;
    if (n < 16)
        snprintf(role, 16, "%.*s", (int)n, word);
    if (n >= 16 || gm_conf_choice(roles, role) < 0)
        return gm_fail(err, GM_INVALID, "there is no role \"%.40s\"; roles are %s", word, roles);
    return colon ? gm_parse_i64(colon + 1, 0, GM_CUT_SHARDS_MAX - 1, index, err) : GM_OK;
}

int gm_cmd_kill(int argc, char **argv)
{
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    static struct gm_home home;
    static struct gm_state st;
    char nothing = 0, role[16];
    int64_t index;
    const int code = gm_cli_parse(&program, argc, argv, &nothing, &args);
    if (code >= 0)
        return code;
    if (parse(&args, role, &index, &err) != GM_OK)
        return gm_cli_wrong(&err);
    if (gm_home_open(&home, NULL, &err) != GM_OK)
        return gm_cli_fail(&err);
    if (gm_state_load(&st, &home, NULL) == GM_OK)
        for (size_t i = 0; i < st.n; i++) {
            const struct gm_proc *p = &st.procs[i];
            if (strcmp(p->role, role) == 0 && p->index == (uint32_t)index && p->pid > 0 &&
                gm_pid_alive(p->pid, p->start) && kill((pid_t)p->pid, SIGKILL) == 0)
                return GM_CLI_OK;
        }
    gm_fail(&err, GM_NOT_FOUND, "no %s:%lld runs in this home; see gemline status", role,
            (long long)index);
    return gm_cli_fail(&err);
}
