/* attach.c - a connection to a pipeline: the home's, or one of our own for as long as we run.
 *
 * Owns:      struct gm_conn; the end of what it started.
 * Does not:  supervise (supervise.c), or know what is asked.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "services/cli/cli.h"

enum { POLL_MS = 20, INFO_MS = 1000 };

static enum gm_status check_model(const struct gm_state *st, const struct gm_up_options *o,
                                  struct gm_err *err)
{
    char path[GM_PATH_MAX];
    if (!o->model)
        return GM_OK;
    if (gm_options_model(o, path, err) != GM_OK)
        return err->status;
    if (strcmp(path, st->set.model) != 0)
        return gm_fail(err, GM_PRECONDITION,
                       "the pipeline of this home runs %.150s; run gemline down first, or set "
                       "another GEMLINE_HOME",
                       st->set.model);
    return GM_OK;
}

/* Without an orchestrator nothing is answered; who keeps dying is not waited for. */
static enum gm_status check_alive(const struct gm_state *st, struct gm_err *err)
{
    for (size_t i = 0; i < st->n; i++)
        if (st->procs[i].failed && strcmp(st->procs[i].role, "orchestrator") == 0)
            return gm_fail(err, GM_UNAVAILABLE, "%.250s; try again in a moment", st->procs[i].why);
    return GM_OK;
}

/* The home's own pipeline, once it has been ready. *found false: there is none. */
static enum gm_status find(struct gm_conn *c, const struct gm_up_options *o, bool *found,
                           struct gm_err *err)
{
    struct gm_state *st = calloc(1, sizeof *st);
    enum gm_status rc = GM_OK;
    *found = false;
    if (!st)
        return gm_fail(err, GM_EXHAUSTED, "no memory");
    while (gm_state_load(st, &c->home, NULL) == GM_OK && !st->single && gm_state_alive(st)) {
        rc = check_model(st, o, err);
        if (rc == GM_OK)
            rc = check_alive(st, err);
        *found = rc == GM_OK && st->ready;
        if (rc != GM_OK || *found)
            break;
        if (!gm_state_supervised(st)) {
            rc = gm_fail(err, GM_UNAVAILABLE,
                         "the pipeline of this home never got ready and its "
                         "gemline up is gone; run gemline down");
            break;
        }
        if (gm_stopping()) {
            rc = gm_fail(err, GM_CANCELLED, "stopped while the pipeline was starting");
            break;
        }
        gm_sleep_ms(POLL_MS);
    }
    free(st);
    return rc;
}

/* Settings of a pipeline that is a tokenizer alone: only the model file counts. */
static enum gm_status settings(const struct gm_up_options *o, bool tokenizer_only,
                               struct gm_settings *set, struct gm_err *err)
{
    if (!tokenizer_only)
        return gm_options_resolve(o, set, err);
    memset(set, 0, sizeof *set);
    return gm_options_model(o, set->model, err);
}

static enum gm_status start_in_temp(struct gm_conn *c, const struct gm_job *job, struct gm_err *err)
{
    struct gm_home *temp = calloc(1, sizeof *temp);
    if (!temp)
        return gm_fail(err, GM_EXHAUSTED, "no memory");
    enum gm_status rc = gm_home_open_temp(temp, &c->home, err);
    if (rc == GM_OK) {
        c->home = *temp;
        c->temp = true;
        struct gm_job mine = *job;
        mine.home = &c->home;
        rc = gm_daemon_start(mine, &c->child, &c->lifeline, err);
    }
    free(temp);
    return rc;
}

static enum gm_status start(struct gm_conn *c, const struct gm_up_options *o, bool tokenizer_only,
                            struct gm_err *err)
{
    struct gm_settings *set = calloc(1, sizeof *set);
    if (!set)
        return gm_fail(err, GM_EXHAUSTED, "no memory");
    enum gm_status rc = settings(o, tokenizer_only, set, err);
    const struct gm_job job = { .home = &c->home,
                                .set = set,
                                .single = true,
                                .tokenizer_only = tokenizer_only,
                                .lifeline = -1 };
    if (rc == GM_OK && !tokenizer_only) {
        gm_cli_pack_first(set->model, set->threads);
        gm_cli_progress("starting a pipeline for this command (gemline up keeps one)");
        rc = gm_daemon_start(job, &c->child, &c->lifeline, err);
        if (rc == GM_ABORTED) {
            bool found = false;
            rc = find(c, o, &found, err);
            if (rc == GM_OK && found) {
                free(set);
                return GM_OK;
            }
            if (rc == GM_OK) {
                fprintf(stderr, "gemline: another command's pipeline has this home; using a "
                                "temporary one, whose sessions are not kept\n");
                rc = start_in_temp(c, &job, err);
            }
        }
    } else if (rc == GM_OK) {
        rc = start_in_temp(c, &job, err);
    }
    free(set);
    return rc;
}

/* Asks the orchestrator for the context, waiting for one that is being restarted. */
static enum gm_status ask_info(struct gm_conn *c, struct gm_err *err)
{
    const int64_t until = gm_now_ms() + GM_CLIENT_PATIENCE_MS;
    Gm__Empty empty = GM__EMPTY__INIT;
    for (;;) {
        ProtobufCMessage *reply = NULL;
        const enum gm_status rc = gm_client_call(
            c->client,
            &(struct gm_client_to){ "orchestrator", 0, "Orchestrator.Info", &empty.base,
                                    &gm__info_reply__descriptor, INFO_MS },
            &reply, err);
        if (rc == GM_OK) {
            c->context = ((Gm__InfoReply *)reply)->context;
            protobuf_c_message_free_unpacked(reply, NULL);
            return GM_OK;
        }
        if ((rc != GM_UNAVAILABLE && rc != GM_DEADLINE) || gm_now_ms() > until || gm_stopping())
            return rc;
        gm_sleep_ms(POLL_MS);
    }
}

static enum gm_status open_vocab(struct gm_conn *c, struct gm_err *err)
{
    char path[GM_PATH_MAX];
    const enum gm_status rc = gm_path_join(path, sizeof path, c->home.run, "vocab.gmv", err);
    return rc == GM_OK ? gm_vocab_open(&c->vocab, path, err) : rc;
}

enum gm_status gm_conn_open(struct gm_conn *c, const struct gm_up_options *o, bool tokenizer_only,
                            struct gm_err *err)
{
    bool found = false;
    memset(c, 0, sizeof *c);
    c->lifeline = -1;
    enum gm_status rc = gm_home_open(&c->home, NULL, err);
    if (rc == GM_OK)
        rc = find(c, o, &found, err);
    if (rc == GM_OK && !found)
        rc = start(c, o, tokenizer_only, err);
    if (rc == GM_OK)
        rc = gm_home_client(&c->client, &c->home, err);
    if (rc == GM_OK && !tokenizer_only)
        rc = ask_info(c, err);
    if (rc == GM_OK)
        rc = open_vocab(c, err);
    if (rc != GM_OK)
        gm_conn_close(c);
    return rc;
}

void gm_conn_close(struct gm_conn *c)
{
    gm_client_close(&c->client);
    gm_vocab_close(&c->vocab);
    if (c->lifeline >= 0)
        close(c->lifeline);
    c->lifeline = -1;
    while (c->child > 0 && waitpid(c->child, NULL, 0) < 0 && errno == EINTR)
        ;
    c->child = 0;
    if (c->temp)
        gm_home_remove(&c->home);
    c->temp = false;
}
