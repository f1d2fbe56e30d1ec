/* status.c - `gemline status`: every process of the home, as it says of itself.
 *
 * Owns:      the two forms of the output.
 * Does not:  judge: `ready` is the orchestrator's word while all processes live.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/cli.h"

enum { CALL_MS = 500, OUT_BYTES_MAX = 1 << 20 };

struct options {
    bool json;
};

static const struct gm_opt opts[] = {
    { .name = "json",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, json),
      .help = "one JSON object on one line" },
};
static const struct gm_program program = {
    .name = "gemline status",
    .usage = "[--json]",
    .about = "Shows the processes of this home's pipeline.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

struct health {
    char state[16];
    uint32_t sessions;
    double tokens_per_s;
    uint64_t rss_bytes;
    bool guesses; /* a shard: it counts them */
    uint64_t drafted, accepted;
    char text[GM_ERR_TEXT_MAX]; /* why it cannot serve; "": nothing to say */
};

static void ask(struct gm_client *client, const struct gm_proc *p, struct health *h)
{
    memset(h, 0, sizeof *h);
    const bool alive = p->pid > 0 && gm_pid_alive(p->pid, p->start);
    const bool redis = strcmp(p->role, "redis") == 0;
    snprintf(h->state, sizeof h->state, "%s",
             p->failed ? "failed"
             : alive   ? (redis ? "ready" : "starting")
                       : "down");
    if (!alive)
        return;
    (void)gm_pid_rss_bytes(p->pid, &h->rss_bytes, NULL);
    if (redis || !client || p->failed) /* it lives, perhaps not for long */
        return;
    Gm__Empty empty = GM__EMPTY__INIT;
    ProtobufCMessage *reply = NULL;
    const enum gm_status rc =
        gm_client_call(client,
                       &(struct gm_client_to){ p->role, p->index, "Health.Check", &empty.base,
                                               &gm__health_reply__descriptor, CALL_MS },
                       &reply, NULL);
    if (rc != GM_OK || !reply) {
        snprintf(h->state, sizeof h->state, "unresponsive");
        return;
    }
    const Gm__HealthReply *r = (const Gm__HealthReply *)reply;
    snprintf(h->state, sizeof h->state, "%s", r->state);
    h->sessions = r->has_sessions ? r->sessions : 0;
    h->tokens_per_s = r->has_tokens_per_s ? r->tokens_per_s : 0;
    h->guesses = r->has_drafted && r->has_accepted;
    h->drafted = r->drafted;
    h->accepted = r->accepted;
    snprintf(h->text, sizeof h->text, "%s", r->text ? r->text : "");
    protobuf_c_message_free_unpacked(reply, NULL);
}

static bool ask_ready(struct gm_client *client)
{
    Gm__Empty empty = GM__EMPTY__INIT;
    ProtobufCMessage *reply = NULL;
    if (!client ||
        gm_client_call(client,
                       &(struct gm_client_to){ "orchestrator", 0, "Orchestrator.Info", &empty.base,
                                               &gm__info_reply__descriptor, CALL_MS },
                       &reply, NULL) != GM_OK)
        return false;
    const bool ready = ((Gm__InfoReply *)reply)->ready;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ready;
}

static enum gm_status put_json(struct gm_buf *b, const struct gm_state *st, bool ready,
                               const struct health *h, const char *http, struct gm_err *err)
{
    enum gm_status rc =
        gm_buf_printf(b, err, "{\"ready\": %s, \"model\": ", ready ? "true" : "false");
    if (rc == GM_OK && !st->n)
        rc = gm_buf_append_text(b, "null", err);
    else if (rc == GM_OK)
        rc = gm_buf_append_json(b, st->set.name, strlen(st->set.name), err);
    if (rc == GM_OK && http[0])
        rc = gm_buf_printf(b, err, ", \"http\": \"%s\"", http);
    if (rc == GM_OK)
        rc = gm_buf_append_text(b, ", \"processes\": [", err);
    for (size_t i = 0; rc == GM_OK && i < st->n; i++) {
        const struct gm_proc *p = &st->procs[i];
        rc = gm_buf_printf(b, err, "%s{\"role\": \"%s\", \"index\": %u, \"pid\": %lld, ",
                           i ? ", " : "", p->role, p->index, (long long)p->pid);
        if (rc == GM_OK && p->end > 0)
            rc = gm_buf_printf(b, err, "\"layers\": [%d, %d], ", p->begin, p->end);
        if (rc == GM_OK)
            rc = gm_buf_printf(b, err,
                               "\"state\": \"%s\", \"restarts\": %d, \"sessions\": %u, "
                               "\"tokens_per_s\": %.6g, \"rss_bytes\": %llu",
                               h[i].state, p->restarts, h[i].sessions, h[i].tokens_per_s,
                               (unsigned long long)h[i].rss_bytes);
        if (rc == GM_OK && h[i].guesses)
            rc = gm_buf_printf(b, err, ", \"drafted\": %llu, \"accepted\": %llu",
                               (unsigned long long)h[i].drafted, (unsigned long long)h[i].accepted);
        if (rc == GM_OK && h[i].text[0])
            rc = gm_buf_append_text(b, ", \"text\": ", err);
        if (rc == GM_OK && h[i].text[0])
            rc = gm_buf_append_json(b, h[i].text, strlen(h[i].text), err);
        if (rc == GM_OK && p->failed)
            rc = gm_buf_append_text(b, ", \"error\": ", err);
        if (rc == GM_OK && p->failed)
            rc = gm_buf_append_json(b, p->why, strlen(p->why), err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(b, "}", err);
    }
    return rc == GM_OK ? gm_buf_append_text(b, "]}\n", err) : rc;
}

static enum gm_status put_plain(struct gm_buf *b, const struct gm_state *st, bool ready,
                                const struct health *h, const char *http, struct gm_err *err)
{
    if (!st->n)
        return gm_buf_append_text(b, "nothing runs in this home\n", err);
    enum gm_status rc =
        gm_buf_printf(b, err, "%s: %s%s\n%-14s %8s  %-12s %8s %8s %9s %8s\n", st->set.name,
                      ready ? "ready" : "not ready", st->single ? " (a command's own)" : "",
                      "process", "pid", "state", "restarts", "sessions", "tokens/s", "MiB");
    for (size_t i = 0; rc == GM_OK && i < st->n; i++) {
        char name[40];
        snprintf(name, sizeof name, "%s:%u", st->procs[i].role, st->procs[i].index);
        rc = gm_buf_printf(b, err, "%-14s %8lld  %-12s %8d %8u %9.1f %8.1f\n", name,
                           (long long)st->procs[i].pid, h[i].state, st->procs[i].restarts,
                           h[i].sessions, h[i].tokens_per_s, (double)h[i].rss_bytes / (1 << 20));
        if (rc == GM_OK && st->procs[i].failed)
            rc = gm_buf_printf(b, err, "               %s\n", st->procs[i].why);
    }
    for (size_t i = 0; rc == GM_OK && i < st->n; i++)
        if (h[i].text[0])
            rc = gm_buf_printf(b, err, "%s:%u: %s\n", st->procs[i].role, st->procs[i].index,
                               h[i].text);
    if (rc == GM_OK && http[0])
        rc = gm_buf_printf(b, err, "http://%s\n", http);
    for (size_t i = 0; rc == GM_OK && i < st->n; i++) /* all shards count the same */
        if (h[i].drafted > 0)
            return gm_buf_printf(b, err, "%llu of %llu guessed tokens were right\n",
                                 (unsigned long long)h[i].accepted,
                                 (unsigned long long)h[i].drafted);
    return rc;
}

int gm_cmd_status(int argc, char **argv)
{
    static struct gm_home home;
    static struct gm_state st;
    static struct health health[GM_CLI_PROCS_MAX];
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf out = GM_BUF(OUT_BYTES_MAX);
    struct gm_client *client = NULL;
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    if (gm_home_open(&home, NULL, &err) != GM_OK)
        return gm_cli_fail(&err);
    if (gm_state_load(&st, &home, NULL) != GM_OK || !gm_state_alive(&st))
        memset(&st, 0, sizeof st);
    if (st.n && gm_home_client(&client, &home, &err) != GM_OK)
        return gm_cli_fail(&err);
    bool all = st.n > 0;
    for (size_t i = 0; i < st.n; i++) {
        ask(client, &st.procs[i], &health[i]);
        all = all && strcmp(health[i].state, "ready") == 0;
    }
    const bool ready = all && ask_ready(client);
    gm_client_close(&client);
    char http[GM_CLI_HTTP_MAX] = "";
    if (st.n && gm_home_http(&home, http, NULL) != GM_OK)
        http[0] = 0;
    enum gm_status rc = o.json ? put_json(&out, &st, ready, health, http, &err)
                               : put_plain(&out, &st, ready, health, http, &err);
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&out), out.len, &err);
    gm_buf_free(&out);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
