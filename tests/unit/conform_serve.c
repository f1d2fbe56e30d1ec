/* conform_serve.c - the Conform service: see conform_serve.h.
 *
 * Owns:      what stands on the heap for an open stream, freed when it ends.
 * Does not:  run a loop of its own.
 */
#include "tests/unit/conform_serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/net/reflect.h"

/* CONFORM_SET: the file that the Makefile made of conform.proto. */
__asm__(".section .rodata\n"
        "conform_set_begin:\n"
        ".incbin \"" CONFORM_SET "\"\n"
        "conform_set_end:\n"
        ".byte 0\n"
        ".previous\n");
extern const uint8_t conform_set_begin[], conform_set_end[];

/* One open stream. */
struct open {
    struct gm_stream *stream;
    uint32_t sent, count, after, sum;
    bool done;
    struct gm_err end;
    struct gm_buf text;    /* Sum */
    char **words;          /* Chat: what has not gone back yet */
    size_t n_words, first; /* [first, n_words) */
    int64_t due_ms;        /* Slow */
    struct open *next;     /* Slow: the list of those that wait */
};

static struct open *slow;

static void open_free(struct open *o)
{
    for (struct open **at = &slow; *at; at = &(*at)->next)
        if (*at == o) {
            *at = o->next;
            break;
        }
    for (size_t i = o->first; i < o->n_words; i++)
        free(o->words[i]);
    free(o->words);
    gm_buf_free(&o->text);
    free(o);
}

static struct open *open_new(struct gm_stream *s, gm_stream_event *event)
{
    struct open *o = calloc(1, sizeof *o);
    if (!o)
        abort(); /* a test's */
    o->stream = s;
    o->end = GM_ERR_NONE;
    o->text = GM_BUF(1 << 20);
    gm_stream_on_event(s, event, o);
    return o;
}

static void end(struct open *o)
{
    gm_stream_on_event(o->stream, NULL, NULL);
    gm_stream_end(o->stream, &o->end);
    open_free(o);
}

static void asked(struct gm_err *err, const Gm__Word *w)
{
    (void)gm_fail(err, (enum gm_status)w->status, "%s", w->text ? w->text : "as asked");
    err->retry_ms = w->retry_ms;
}

/* ---- unary ----------------------------------------------------------------------------------- */

static enum gm_status echo(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    (void)self;
    (void)err;
    return gm_rpc_reply(s, request);
}

static enum gm_status fail(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    (void)self;
    (void)s;
    asked(err, (const Gm__Word *)request);
    return err->status;
}

static enum gm_status large(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    Gm__Word out = GM__WORD__INIT;
    (void)self;
    (void)err;
    out.has_blob = 1;
    out.blob.len = (size_t)((const Gm__Word *)request)->count << 10;
    out.blob.data = calloc(1, out.blob.len + 1);
    const enum gm_status rc = gm_rpc_reply(s, &out.base);
    free(out.blob.data);
    return rc;
}

static enum gm_status meta(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    static const char *const known[] = { "user", "x-a.b_c" };
    char lines[2][64], *at[2];
    Gm__Word out = GM__WORD__INIT;
    (void)self;
    (void)request;
    out.keys = at;
    for (size_t i = 0; i < 2; i++) {
        size_t len;
        const uint8_t *value = gm_stream_meta(s, known[i], &len);
        if (!value)
            continue;
        snprintf(lines[i], sizeof lines[i], "%s=%.*s", known[i], (int)len, value);
        at[out.n_keys++] = lines[i];
        if (gm_stream_trailer(s, known[i], value, len, err) != GM_OK)
            return err->status;
    }
    const char *trace = gm_stream_trace(s);
    if (trace[0] && gm_stream_trailer(s, "trace", trace, strlen(trace), err) != GM_OK)
        return err->status;
    return gm_rpc_reply(s, &out.base);
}

static void on_slow(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    (void)s;
    (void)credit;
    if (gone)
        open_free(ctx);
}

static enum gm_status wait_for(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                               struct gm_err *err)
{
    const Gm__Word *in = (const Gm__Word *)request;
    struct open *o = open_new(s, on_slow);
    (void)self;
    (void)err;
    o->due_ms = gm_now_ms() + in->wait_ms;
    o->next = slow;
    slow = o;
    return gm_buf_append_text(&o->text, in->text ? in->text : "", NULL);
}

static void answer_slow(void)
{
    for (struct open *o = slow, *next; o; o = next) {
        Gm__Word out = GM__WORD__INIT;
        next = o->next;
        if (gm_now_ms() < o->due_ms)
            continue;
        out.text = (char *)(uintptr_t)gm_buf_text(&o->text);
        gm_stream_on_event(o->stream, NULL, NULL);
        gm_rpc_reply(o->stream, &out.base);
        open_free(o);
    }
}

/* ---- server stream --------------------------------------------------------------------------- */

static void count_on(struct open *o)
{
    while (o->sent < o->count && (o->end.status == GM_OK || o->sent < o->after)) {
        Gm__Word out = GM__WORD__INIT;
        out.has_count = 1;
        out.count = o->sent;
        if (!gm_stream_item(o->stream, &out.base))
            return;
        o->sent++;
    }
    end(o);
}

static void on_count(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    (void)s;
    if (gone)
        open_free(ctx);
    else if (credit > 0)
        count_on(ctx);
}

static enum gm_status count(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                            struct gm_err *err)
{
    const Gm__Word *in = (const Gm__Word *)request;
    struct open *o = open_new(s, on_count);
    (void)self;
    (void)err;
    o->count = in->count;
    o->after = in->after;
    if (in->has_status)
        asked(&o->end, in);
    count_on(o);
    return GM_OK;
}

/* ---- client stream --------------------------------------------------------------------------- */

static uint32_t on_number(void *ctx, struct gm_stream *s, const ProtobufCMessage *message)
{
    struct open *o = ctx;
    const Gm__Word *in = (const Gm__Word *)message;
    Gm__Word out = GM__WORD__INIT;
    if (in && in->has_status) {
        asked(&o->end, in);
        end(o);
        return 0;
    }
    if (in) {
        o->sum += in->count;
        (void)gm_buf_append_text(&o->text, in->text ? in->text : "", NULL);
        return 1;
    }
    out.has_count = 1;
    out.count = o->sum;
    out.text = o->text.len ? (char *)(uintptr_t)gm_buf_text(&o->text) : NULL;
    gm_stream_on_event(s, NULL, NULL);
    gm_rpc_reply(s, &out.base);
    open_free(o);
    return 0;
}

static enum gm_status sum(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                          struct gm_err *err)
{
    (void)self;
    (void)request;
    (void)err;
    gm_stream_on_message(s, on_number, open_new(s, on_slow));
    return GM_OK;
}

/* ---- both ways ------------------------------------------------------------------------------- */

/* Gives back what it may; each word that went back makes room for another. */
static void chat_on(struct open *o)
{
    uint32_t freed = 0;
    while (o->first < o->n_words) {
        Gm__Word out = GM__WORD__INIT;
        out.text = o->words[o->first];
        if (!gm_stream_item(o->stream, &out.base))
            break;
        free(o->words[o->first++]);
        freed++;
    }
    if (o->first == o->n_words && o->done)
        end(o);
    else if (freed > 0)
        gm_stream_room(o->stream, freed);
}

static void on_chat(void *ctx, struct gm_stream *s, bool gone, uint32_t credit)
{
    (void)s;
    if (gone)
        open_free(ctx);
    else if (credit > 0)
        chat_on(ctx);
}

static uint32_t on_word(void *ctx, struct gm_stream *s, const ProtobufCMessage *message)
{
    struct open *o = ctx;
    const Gm__Word *in = (const Gm__Word *)message;
    (void)s;
    if (in && !in->has_status) {
        o->words = realloc(o->words, (o->n_words + 1) * sizeof *o->words);
        o->words[o->n_words++] = strdup(in->text ? in->text : "");
    } else {
        o->done = true;
        if (in)
            asked(&o->end, in);
    }
    chat_on(o);
    return 0;
}

static enum gm_status chat(void *self, struct gm_stream *s, const ProtobufCMessage *request,
                           struct gm_err *err)
{
    (void)self;
    (void)request;
    (void)err;
    gm_stream_on_message(s, on_word, open_new(s, on_chat));
    return GM_OK;
}

/* ---- the service ----------------------------------------------------------------------------- */

bool conform_open(struct conform *c, const char *endpoint)
{
    static const struct gm_method methods[] = {
        { "Conform.Echo", &gm__word__descriptor, echo },
        { "Conform.Count", &gm__word__descriptor, count },
        { "Conform.Sum", &gm__word__descriptor, sum },
        { "Conform.Chat", &gm__word__descriptor, chat },
        { "Conform.Fail", &gm__word__descriptor, fail },
        { "Conform.Slow", &gm__word__descriptor, wait_for },
        { "Conform.Meta", &gm__word__descriptor, meta },
        { "Conform.Large", &gm__word__descriptor, large },
        { NULL, NULL, NULL },
    };
    struct gm_err err = GM_ERR_NONE;
    *c = (struct conform){ NULL, NULL };
    if (gm_reflect_add(conform_set_begin, (size_t)(conform_set_end - conform_set_begin), &err) ==
            GM_OK &&
        gm_bus_open(&c->bus, "conform-0", endpoint, &err) == GM_OK &&
        gm_rpc_open(&c->rpc, c->bus, methods, c, &err) == GM_OK)
        return true;
    fprintf(stderr, "conform: %s\n", err.text);
    return false;
}

void conform_close(struct conform *c)
{
    gm_rpc_close(&c->rpc);
    gm_bus_close(&c->bus);
    while (slow)
        open_free(slow);
}

void conform_turn(struct conform *c, int wait_ms)
{
    struct gm_msg msg;
    int ms = gm_rpc_tick(c->rpc);
    if (ms < 0 || ms > wait_ms)
        ms = wait_ms;
    (void)gm_bus_wait(c->bus, slow && ms > 5 ? 5 : ms, NULL, 0, NULL);
    while (gm_bus_take(c->bus, &msg)) {
        (void)gm_rpc_handle(c->rpc, &msg);
        gm_msg_free(&msg);
    }
    answer_slow();
}
