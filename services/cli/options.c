/* options.c - the options of a pipeline: their form, and what they come to on this machine.
 *
 * Owns:      the default model and adapter, the defaults that depend on the model.
 * Does not:  start anything.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/cli.h"

enum {
    CONTEXT_DEFAULT = 8192,
    CONTEXT_MIN = 16,
    POOL_TURNS = 256,        /* the pool is made for so many turns .. */
    POOL_TURN_TOKENS = 2048, /* .. of so many tokens .. */
    POOL_MEMORY_PART = 4,    /* .. but takes no more than this part of the free memory: kept
                                conversations fill it in time; */
    POOL_CONTEXTS = 4,       /* and at the least it holds so many whole contexts */
};

static const char *const default_model = "gemline/gemma-3-270m-q4_k_m.gguf";
static const char *const default_adapter = "../../../models/gemma3-270m-chat";
static const char *const kv_names[] = { "f32", "bf16", "f16", "q8" };
static const char *const speculate_names[] = { "on", "off" };

enum gm_status gm_options_check(const struct gm_program *program, const struct gm_args *args,
                                const struct gm_up_options *o, struct gm_err *err)
{
    if (o->layers && gm_conf_from(program, args, "shards") == GM_FROM_ARGV)
        return gm_fail(err, GM_INVALID, "give --shards or --layers, not both");
    if (o->layers && gm_cut_check_text(o->layers, err) != GM_OK)
        return err->status;
    if (o->http && strcmp(o->http, "off") != 0 &&
        (!strrchr(o->http, ':') || strlen(o->http) >= GM_CLI_HTTP_MAX))
        return gm_fail(err, GM_INVALID, "--http takes ADDR:PORT, as 127.0.0.1:8080, or off");
    if (o->origins && strlen(o->origins) >= sizeof(((struct gm_settings *)0)->origins))
        return gm_fail(err, GM_INVALID, "--http-origins is longer than 1,023 bytes");
    if (o->context && o->context < CONTEXT_MIN)
        return gm_fail(err, GM_INVALID, "--context is at least %d tokens", CONTEXT_MIN);
    if (o->kv_tokens && o->kv_tokens < CONTEXT_MIN)
        return gm_fail(err, GM_INVALID, "--kv-tokens is at least %d tokens", CONTEXT_MIN);
    return GM_OK;
}

static enum gm_status real_path(const char *path, char out[GM_PATH_MAX], const char *what,
                                struct gm_err *err)
{
    char *real = realpath(path, NULL);
    if (!real)
        return gm_fail(err, GM_NOT_FOUND, "%s %.200s: %s", what, path, strerror(errno));
    const int n = snprintf(out, GM_PATH_MAX, "%s", real);
    free(real);
    return n < GM_PATH_MAX ? GM_OK : gm_fail(err, GM_RANGE, "the path of %s is too long", what);
}

enum gm_status gm_options_model(const struct gm_up_options *o, char out[GM_PATH_MAX],
                                struct gm_err *err)
{
    if (o->model)
        return real_path(o->model, out, "the model", err);
    char cache[GM_PATH_MAX];
    if (gm_cache_home(cache, sizeof cache, err) != GM_OK ||
        gm_path_join(cache, sizeof cache, cache, default_model, err) != GM_OK)
        return err->status;
    if (!gm_path_exists(cache))
        return gm_fail(err, GM_NOT_FOUND,
                       "the default model %.200s is not there; run make model, or give --model",
                       cache);
    return real_path(cache, out, "the model", err);
}

static enum gm_status resolve_adapter(const struct gm_up_options *o, char out[GM_PATH_MAX],
                                      struct gm_err *err)
{
    snprintf(out, GM_PATH_MAX, "none");
    if (o->adapter && strcmp(o->adapter, "none") != 0)
        return real_path(o->adapter, out, "the adapter", err);
    if (o->adapter)
        return GM_OK;
    char ours[GM_PATH_MAX], asked[GM_PATH_MAX], path[GM_PATH_MAX];
    const struct gm_up_options plain = { 0 };
    if (o->model && (gm_options_model(&plain, ours, NULL) != GM_OK ||
                     gm_options_model(o, asked, NULL) != GM_OK || strcmp(ours, asked) != 0))
        return GM_OK;
    if (gm_self_dir(path, sizeof path, err) != GM_OK ||
        gm_path_join(path, sizeof path, path, default_adapter, err) != GM_OK)
        return err->status;
    return real_path(path, out, "the default adapter (or say --adapter none)", err);
}

static void name_of(const char *path, char *out, size_t cap)
{
    const char *base = strrchr(path, '/');
    snprintf(out, cap, "%.*s", (int)cap - 1, base ? base + 1 : path);
    char *dot = strrchr(out, '.');
    if (dot && dot != out)
        *dot = 0;
}

/* Tokens of the pool where --kv-tokens is not given. */
static enum gm_status pool_tokens(const struct gm_settings *s, int kv, int64_t *tokens,
                                  struct gm_err *err)
{
    uint64_t free_bytes = 0;
    if (gm_memory_available_bytes(&free_bytes, err) != GM_OK)
        return err->status;
    const int64_t each = s->cut.token_bytes[kv] > 0 ? s->cut.token_bytes[kv] : 1;
    const int64_t fit = (int64_t)(free_bytes / POOL_MEMORY_PART) / each;
    const int64_t most = (int64_t)POOL_TURNS * POOL_TURN_TOKENS;
    const int64_t least = POOL_CONTEXTS * s->context;
    *tokens = fit < most ? fit : most;
    *tokens = *tokens > least ? *tokens : least;
    return GM_OK;
}

enum gm_status gm_options_resolve(const struct gm_up_options *o, struct gm_settings *s,
                                  struct gm_err *err)
{
    memset(s, 0, sizeof *s);
    if (gm_options_model(o, s->model, err) != GM_OK ||
        resolve_adapter(o, s->adapter, err) != GM_OK ||
        gm_cut_make(&s->cut, s->model, o->shards, o->layers, err) != GM_OK)
        return err->status;
    name_of(s->model, s->name, sizeof s->name);
    snprintf(s->served, sizeof s->served, "%.63s",
             strcmp(s->cut.variant, "custom") == 0 ? s->name : s->cut.variant);
    snprintf(s->kv, sizeof s->kv, "%s", kv_names[o->kv]);
    snprintf(s->speculate, sizeof s->speculate, "%s", speculate_names[o->speculate]);
    snprintf(s->http, sizeof s->http, "%s", o->http ? o->http : "auto");
    snprintf(s->origins, sizeof s->origins, "%s", o->origins ? o->origins : "");
    s->insecure = o->insecure;
    s->tcp = o->tcp;
    s->threads = o->threads ? o->threads : (int64_t)gm_cpus_usable();
    s->session_ttl_ms = o->session_ttl_ms;
    s->context = o->context;
    if (!s->context)
        s->context = s->cut.context < CONTEXT_DEFAULT ? s->cut.context : CONTEXT_DEFAULT;
    if (s->context > s->cut.context)
        return gm_fail(err, GM_INVALID, "--context %lld is more than the model's %d; give less",
                       (long long)s->context, s->cut.context);
    s->kv_tokens = s->pool_tokens = o->kv_tokens;
    return o->kv_tokens ? GM_OK : pool_tokens(s, o->kv, &s->pool_tokens, err);
}
