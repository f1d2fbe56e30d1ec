/* load_wait.c - the one place where `gemline load` waits, and what comes before and after a run.
 *
 * Owns:      the wait, connections that are held and ask nothing, the question for the model.
 * Does not:  know turns (load_client.c).
 */
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "services/cli/load.h"

enum {
    EVENTS_MAX = 256,
    AT_ONCE_MAX = 64,      /* idle connections that are being opened or asked */
    IDLE_STALL_MS = 10000, /* none opened or answered for so long: the rest counts as lost */
    MODEL_MS = 30000,      /* for the list of models */
    LIST_BYTES_MAX = 1 << 20,
};

enum idle_is { IDLE_UNOPENED, IDLE_ASKED, IDLE_HELD, IDLE_CHECKED, IDLE_LOST };

struct gm_idle {
    struct gm_link link;
    enum idle_is is;
};

void gm_load_wait(struct gm_load *load, int64_t us)
{
    struct epoll_event events[EVENTS_MAX];
    struct pollfd one = { .fd = load->epoll, .events = POLLIN };
    us = us < 0 ? 0 : us;
    const struct timespec ts = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
    if (ppoll(&one, 1, &ts, NULL) <= 0)
        return;
    const int n = epoll_wait(load->epoll, events, EVENTS_MAX, 0);
    for (int i = 0; i < n; i++) {
        struct gm_link *link = events[i].data.ptr;
        if (link->kind == GM_LOAD_LINK_CLIENT)
            gm_client_ready(link->owner, events[i].events);
        else
            gm_idle_ready(load, link, events[i].events);
    }
}

/* ---- idle connections ------------------------------------------------------------------------ */
static enum gm_status ignore(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    (void)ctx, (void)bytes, (void)n, (void)err;
    return GM_OK;
}

static void lose(struct gm_load *load, struct gm_idle *idle, const char *why)
{
    if (!load->counts.idle_say[0])
        snprintf(load->counts.idle_say, sizeof load->counts.idle_say, "%s", why);
    gm_link_shut(&idle->link);
    idle->is = IDLE_LOST;
}

void gm_idle_ready(struct gm_load *load, struct gm_link *link, uint32_t events)
{
    struct gm_idle *idle = link->owner;
    struct gm_err err = GM_ERR_NONE;
    char why[GM_LOAD_SAY_MAX];
    const bool busy = link->busy;
    const enum gm_status rc = gm_link_ready(link, events, ignore, NULL, &err);
    if (rc != GM_OK) {
        lose(load, idle, err.text);
    } else if (!busy && link->is == GM_LINK_SHUT) {
        lose(load, idle, "the server closed it while it was held");
    } else if (busy && !link->busy && (link->reply.status != 200 || link->is == GM_LINK_SHUT)) {
        snprintf(why, sizeof why, "GET /health was answered %d%s", link->reply.status,
                 link->is == GM_LINK_SHUT ? ", and the connection closed" : "");
        lose(load, idle, why);
    } else if (busy && !link->busy) {
        const bool checked = link->served > 1;
        load->counts.idle_opened += !checked;
        load->counts.idle_usable += checked;
        idle->is = checked ? IDLE_CHECKED : IDLE_HELD;
        gm_buf_free(&link->out); /* thousands are held */
        gm_http_reply_free(&link->reply);
    }
}

/* Asks /health on each one that is `from`, some at a time; ends when all have been answered. */
static void ask_all(struct gm_load *load, enum idle_is from)
{
    struct gm_err err = GM_ERR_NONE;
    int64_t at = 0, before = -1, moved_ms = gm_now_ms();
    for (int64_t done = 0; done < load->n_idle && !gm_stopping();) {
        int64_t asked = 0;
        done = 0;
        for (int64_t i = 0; i < at; i++)
            asked += load->idle[i].is == IDLE_ASKED;
        done = at - asked;
        if (done != before)
            moved_ms = gm_now_ms();
        before = done;
        if (gm_now_ms() - moved_ms > IDLE_STALL_MS)
            break;
        for (; asked < AT_ONCE_MAX && at < load->n_idle; at++) {
            struct gm_idle *idle = &load->idle[at];
            if (idle->is != from)
                continue;
            idle->is = IDLE_ASKED;
            asked++;
            if (gm_link_ask(&idle->link, &load->target, "/health", NULL, &err) != GM_OK)
                lose(load, idle, err.text);
        }
        gm_load_wait(load, asked ? GM_LOAD_TICK_MS * 1000 : 0);
    }
    for (int64_t i = 0; i < load->n_idle; i++)
        if (load->idle[i].is == IDLE_ASKED || (load->idle[i].is == from && !gm_stopping()))
            lose(load, &load->idle[i], "GET /health was not answered in time");
}

enum gm_status gm_idle_open(struct gm_load *load, struct gm_err *err)
{
    load->n_idle = load->counts.idle_wanted = load->o->idle;
    if (load->n_idle == 0)
        return GM_OK;
    load->idle = calloc((size_t)load->n_idle, sizeof *load->idle);
    if (!load->idle)
        return gm_fail(err, GM_EXHAUSTED, "no memory for %lld connections",
                       (long long)load->n_idle);
    for (int64_t i = 0; i < load->n_idle; i++)
        gm_link_begin(&load->idle[i].link, load->epoll, &load->idle[i], GM_LOAD_LINK_IDLE);
    gm_cli_progress("opening %lld connections", (long long)load->n_idle);
    ask_all(load, IDLE_UNOPENED);
    return GM_OK;
}

void gm_idle_check(struct gm_load *load)
{
    ask_all(load, IDLE_HELD);
}

void gm_idle_free(struct gm_load *load)
{
    for (int64_t i = 0; load->idle && i < load->n_idle; i++)
        gm_link_shut(&load->idle[i].link);
    free(load->idle);
    load->idle = NULL;
    load->n_idle = 0;
}

/* ---- the model ------------------------------------------------------------------------------- */
static enum gm_status keep(void *ctx, const char *bytes, size_t n, struct gm_err *err)
{
    return gm_buf_append(ctx, bytes, n, err);
}

/* One GET on a connection of its own. */
static enum gm_status get(struct gm_load *load, const char *path, struct gm_link *link,
                          struct gm_buf *body, struct gm_err *err)
{
    const int64_t until = gm_now_ms() + MODEL_MS;
    enum gm_status rc = gm_link_ask(link, &load->target, path, NULL, err);
    while (rc == GM_OK && link->busy) {
        struct epoll_event e;
        struct pollfd one = { .fd = load->epoll, .events = POLLIN };
        if (gm_stopping())
            return gm_fail(err, GM_CANCELLED, "stopped");
        if (gm_now_ms() > until)
            return gm_fail(err, GM_DEADLINE, "no answer within %d s", MODEL_MS / 1000);
        if (poll(&one, 1, GM_LOAD_TICK_MS) > 0 && epoll_wait(load->epoll, &e, 1, 0) == 1)
            rc = gm_link_ready(link, e.events, keep, body, err);
    }
    return rc;
}

enum gm_status gm_load_find_model(struct gm_load *load, struct gm_err *err)
{
    struct gm_link link;
    struct gm_buf body = GM_BUF(LIST_BYTES_MAX);
    gm_link_begin(&link, load->epoll, NULL, GM_LOAD_LINK_CLIENT);
    const enum gm_status rc = get(load, "/v1/models", &link, &body, err);
    if (rc != GM_OK)
        gm_err_prefix(err, "GET /v1/models at %.100s", load->target.host);
    if (link.refused)
        gm_fail(err, rc,
                "nobody listens at %.100s; start a server there (gemline up), or name "
                "another --url",
                load->target.host);
    if (rc == GM_OK && (link.reply.status == 401 || link.reply.status == 403)) {
        gm_fail(err, GM_UNAUTHENTICATED, "%.100s answers %d; give a --key that it takes",
                load->target.host, link.reply.status);
    } else if (rc == GM_OK && link.reply.status == 200 && !load->model[0]) {
        json_t *root = json_loadb(gm_buf_text(&body), body.len, 0, NULL);
        const char *id = json_string_value(
            json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
        if (id && strlen(id) < sizeof load->model)
            snprintf(load->model, sizeof load->model, "%s", id);
        json_decref(root);
    }
    gm_link_shut(&link);
    gm_buf_free(&body);
    return err->status;
}
