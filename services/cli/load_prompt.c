/* load_prompt.c - what `gemline load` asks: prompts by number, and the bodies of requests.
 *
 * Owns:      the words of the prompts, the two forms of a body.
 * Does not:  send, or keep conversations.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/load.h"

enum { LINES_MAX = 1 << 20 };

/* One token each with the blank before it, in every Gemma vocabulary. */
static const char *const words[] = {
    "river",  "house",   "north",   "letter", "engine", "city",    "sea",     "winter",
    "book",   "queen",   "water",   "light",  "stone",  "field",   "road",    "bridge",
    "garden", "window",  "music",   "paper",  "market", "summer",  "forest",  "island",
    "doctor", "morning", "evening", "time",   "world",  "teacher", "village", "mountain",
};
enum { WORDS = sizeof words / sizeof words[0] };

enum gm_status gm_load_prompts(struct gm_load *load, const char *path, struct gm_err *err)
{
    size_t cap = 0;
    load->prompts = GM_BUF(GM_CLI_INPUT_BYTES_MAX);
    if (gm_cli_read(path, &load->prompts, err) != GM_OK)
        return err->status;
    if (gm_utf8_bad(gm_buf_text(&load->prompts), load->prompts.len) != load->prompts.len)
        return gm_fail(err, GM_INVALID, "%.200s is no UTF-8 text", path);
    for (char *at = load->prompts.data, *end; at && *at; at = end) {
        end = at + strcspn(at, "\n");
        if (*end)
            *end++ = 0;
        if (!*at)
            continue;
        if (load->n_lines == cap) {
            cap = cap ? 2 * cap : 1024;
            const char **more = cap <= LINES_MAX ? realloc(load->lines, cap * sizeof *more) : NULL;
            if (!more)
                return gm_fail(err, GM_EXHAUSTED, "%.200s has more than %d lines; give fewer", path,
                               LINES_MAX);
            load->lines = more;
        }
        load->lines[load->n_lines++] = at;
    }
    if (load->n_lines == 0)
        return gm_fail(err, GM_INVALID, "%.200s is empty; --file takes one prompt a line", path);
    return GM_OK;
}

enum gm_status gm_load_prompt(const struct gm_load *load, uint64_t conversation, uint32_t turn,
                              struct gm_buf *out, struct gm_err *err)
{
    uint64_t state = load->o->seed;
    state = gm_load_random(&state) ^ conversation;
    state = gm_load_random(&state) ^ turn;
    if (load->n_lines)
        return gm_buf_append_text(out, load->lines[gm_load_random(&state) % load->n_lines], err);
    enum gm_status rc = GM_OK;
    for (int64_t i = 0; rc == GM_OK && i < load->o->prompt_tokens; i++)
        rc = gm_buf_printf(out, err, "%s%s", i ? " " : "", words[gm_load_random(&state) % WORDS]);
    return rc;
}

enum gm_status gm_load_body(struct gm_load *load, const struct gm_load_client *c,
                            struct gm_err *err)
{
    const struct gm_load_options *o = load->o;
    struct gm_buf *b = &load->body;
    gm_buf_clear(b);
    enum gm_status rc = gm_buf_append_text(b, "{", err);
    if (rc == GM_OK && load->model[0]) {
        rc = gm_buf_append_text(b, "\"model\": ", err);
        if (rc == GM_OK)
            rc = gm_buf_append_json(b, load->model, strlen(load->model), err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(b, ", ", err);
    }
    const bool chat = o->api == GM_LOAD_CHAT; /* history and asked hold the inside of the JSON */
    if (rc == GM_OK)
        rc = gm_buf_printf(b, err, "%s%s%s%s, ", chat ? "\"messages\": [" : "\"prompt\": \"",
                           gm_buf_text(&c->history), gm_buf_text(&c->asked), chat ? "]" : "\"");
    if (rc == GM_OK)
        rc = gm_buf_printf(b, err,
                           "\"max_tokens\": %lld, \"temperature\": 0, \"ignore_eos\": true, "
                           "\"stream\": true, \"stream_options\": {\"include_usage\": true}",
                           (long long)o->max_tokens);
    if (rc == GM_OK && o->cache_given)
        rc = gm_buf_printf(b, err, ", \"cache_prompt\": %s", o->cache_prompt ? "true" : "false");
    return rc == GM_OK ? gm_buf_append_text(b, "}", err) : rc;
}
