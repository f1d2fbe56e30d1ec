/* main.c - the shard process: options, the slice, the loop.
 *
 * Owns:      start and end of the process, what it says of itself (HELLO, Health).
 * Does not:  take messages apart (edge.c) or compute (step.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/shard/edge.h"

enum { FAILED_HELLOS_MS = 1500 }; /* how long a process that cannot serve says so before it ends */

struct options {
    const char *run_dir, *layers, *model, *adapter;
    int64_t index, shards, threads, context, kv_tokens;
    int32_t kv, speculate;
    bool kernels;
    struct gm_net_options net;
};

#define TEXT(opt, field, what, text)                                                               \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_TEXT, .at = offsetof(struct options, field), .arg = what,      \
        .help = text                                                                               \
    }
#define NUMBER(opt, field, first, low, high, text)                                                 \
    {                                                                                              \
        .name = opt, .kind = GM_OPT_INT, .at = offsetof(struct options, field), .def = first,      \
        .min = low, .max = high, .help = text                                                      \
    }

static const struct gm_opt opts[] = {
    TEXT("run-dir", run_dir, "DIR", "run directory: sockets"),
    NUMBER("index", index, "0", 0, GM_SHARDS_MAX - 1, "number of this shard"),
    NUMBER("shards", shards, "1", 1, GM_SHARDS_MAX, "shards of the chain"),
    TEXT("layers", layers, "A:B", "layers of this shard: from A up to, not with, B"),
    TEXT("model", model, "FILE", "the model, a GGUF file"),
    TEXT("adapter", adapter, "DIR", "a LoRA adapter in PEFT's form"),
    NUMBER("threads", threads, "1", 1, GM_THREADS_MAX, "threads of a kernel"),
    NUMBER("context", context, "8192", 16, 1 << 20, "positions of one sequence"),
    NUMBER("kv-tokens", kv_tokens, "32768", 16, 1 << 28, "positions of all sequences together"),
    { .name = "kv",
      .kind = GM_OPT_ENUM,
      .at = offsetof(struct options, kv),
      .choices = "f32|bf16|f16|q8",
      .def = "bf16",
      .help = "how keys and values are kept" },
    { .name = "speculate",
      .kind = GM_OPT_ENUM,
      .at = offsetof(struct options, speculate),
      .choices = "off|on",
      .help = "the first shard guesses tokens ahead" },
    { .name = "kernels",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, kernels),
      .help = "print which kernels would run, and end" },
    GM_NET_OPTIONS(struct options, net),
};
static const struct gm_program program = {
    .name = "gm-shard",
    .usage = "--run-dir DIR --model FILE --layers A:B [options]",
    .about = "Computes a range of layers. Started by `gemline up`.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

static void count_rate(struct gm_shard_service *s)
{
    const int64_t now = gm_now_ms();
    if (now - s->second_ms < 1000)
        return;
    s->tokens_per_s =
        (double)(s->shard.decoded - s->decoded_before) * 1000.0 / (double)(now - s->second_ms);
    s->decoded_before = s->shard.decoded;
    s->second_ms = now;
}

static void say_health(void *self, Gm__HealthReply *h)
{
    struct gm_shard_service *s = self;
    h->state = (char *)(s->open ? "ready" : s->failed[0] ? "failed" : "starting");
    h->text = s->failed[0] ? s->failed : NULL;
    h->has_begin = h->has_end = 1;
    h->begin = (uint32_t)s->begin;
    h->end = (uint32_t)s->end;
    if (!s->open)
        return;
    count_rate(s);
    gm_shard_usage(&s->shard, &h->kv_bytes_total, &h->kv_bytes_used, &h->kv_bytes_kept);
    h->has_kv_bytes_total = h->has_kv_bytes_used = h->has_kv_bytes_kept = 1;
    h->has_sessions = 1;
    h->sessions = (uint32_t)s->shard.tickets.n;
    h->has_tokens_per_s = 1;
    h->tokens_per_s = s->tokens_per_s;
    h->numerics = (char *)gm_slice_numerics(s->shard.slice);
    h->model = (char *)gm_slice_config(s->shard.slice)->name;
    h->has_drafted = h->has_accepted = 1;
    h->drafted = s->shard.drafted;
    h->accepted = s->shard.accepted;
    struct gm_kv_use use;
    gm_kv_usage(gm_slice_kv(s->shard.slice), &use);
    h->has_pages_total = h->has_pages_free = 1;
    h->pages_total = (uint32_t)use.pages_total;
    h->pages_free = (uint32_t)use.pages_free;
    h->has_busy_us = h->has_prefix_tokens = h->has_prompt_tokens = 1;
    h->busy_us = s->shard.busy_us;
    h->prefix_tokens = s->shard.prefix_tokens;
    h->prompt_tokens = s->shard.prompt_tokens;
}

static void say_hello(void *self, Gm__Hello *h)
{
    struct gm_shard_service *s = self;
    h->has_ready = 1;
    h->ready = s->open;
    h->has_begin = h->has_end = 1;
    h->begin = (uint32_t)s->begin;
    h->end = (uint32_t)s->end;
    h->endpoint = s->base.endpoint;
    h->failed = s->failed[0] ? s->failed : NULL;
    if (!s->open)
        return;
    h->numerics = (char *)gm_slice_numerics(s->shard.slice);
    h->has_vocab = h->has_context = 1;
    h->vocab = (uint32_t)gm_slice_config(s->shard.slice)->vocab;
    h->context = (uint32_t)s->context;
}

static int next_ms(void *self)
{
    struct gm_shard_service *s = self;
    if (s->lost)
        return gm_shard_look_ms(s);
    if (!s->open)
        return FAILED_HELLOS_MS;
    return s->shard.held ? 1 : -1;
}

static enum gm_status step(void *self, bool *again, struct gm_err *err)
{
    struct gm_shard_service *s = self;
    if (s->open || s->lost)
        gm_shard_look(s);
    if (!s->open && !s->lost) {
        if (!s->second_ms)
            s->second_ms = gm_now_ms();
        if (gm_now_ms() - s->second_ms >= FAILED_HELLOS_MS)
            return gm_fail(err, GM_INVALID, "%s", s->failed);
        return GM_OK;
    }
    if (s->open && (s->more || s->shard.held)) {
        s->more = false;
        bool left = false;
        gm_shard_step(&s->shard, &left);
        s->more |= left;
        if (s->shard.lost.status != GM_OK)
            gm_shard_lost(s);
    }
    *again = s->open && s->more;
    return GM_OK;
}

static enum gm_status parse_layers(struct gm_shard_service *s, const char *text, struct gm_err *err)
{
    char *end = NULL;
    const long a = strtol(text, &end, 10);
    const long b = end && *end == ':' ? strtol(end + 1, &end, 10) : -1;
    if (!end || *end || a < 0 || b <= a || b > GM_LAYERS_MAX)
        return gm_fail(err, GM_INVALID, "--layers takes A:B with A < B, not %s", text);
    s->begin = (int32_t)a;
    s->end = (int32_t)b;
    return GM_OK;
}

static enum gm_status open_slice(struct gm_shard_service *s, const struct options *o,
                                 struct gm_err *err)
{
    const char *why = NULL;
    s->shard.kernels = gm_kernels_select(NULL, &why);
    if (!s->shard.kernels)
        return gm_fail(err, GM_INVALID, "GM_KERNELS: %s", why ? why : "no such kernel set");
    s->shard.is_first = o->index == 0;
    s->shard.is_last = o->index == o->shards - 1;
    s->shard.speculate = o->speculate == 1;
    s->context = (int32_t)o->context;
    s->slice_opts = (struct gm_slice_opts){
        .model_path = o->model,
        .adapter_dir = o->adapter,
        .spec = { s->begin, s->end, s->shard.is_first, s->shard.is_last },
        .kernels = s->shard.kernels,
        .threads = (int)o->threads,
        .kv_tokens = o->kv_tokens,
        .context = (int32_t)o->context,
        .rows_max = GM_BATCH_ROWS_MAX,
        .kv_type = (enum gm_kv_type)o->kv,
    };
    return gm_shard_open(s, err);
}

static int serve(struct gm_shard_service *s, const struct options *o)
{
    static const struct gm_method none[] = { { NULL, NULL, NULL } };
    struct gm_err err = GM_ERR_NONE;
    if (open_slice(s, o, &err) != GM_OK) {
        snprintf(s->failed, sizeof s->failed, "%s", err.text);
        fprintf(stderr, "gm-shard: %s\n", err.text);
    }
    gm_shard_out_init(s);
    s->base = (struct gm_service){ .role = "shard",
                                   .index = (uint32_t)o->index,
                                   .run_dir = o->run_dir,
                                   .net_options = &o->net,
                                   .methods = s->open ? gm_shard_methods : none,
                                   .self = s,
                                   .on_message = gm_shard_on_message,
                                   .step = step,
                                   .next_ms = next_ms,
                                   .health = say_health,
                                   .hello = say_hello };
    enum gm_status rc = gm_service_open(&s->base, &err);
    if (rc == GM_OK)
        rc = gm_service_run(&s->base, &err);
    if (rc != GM_OK && s->open)
        fprintf(stderr, "gm-shard: %s\n", err.text);
    if (s->open)
        gm_shard_close(&s->shard);
    gm_service_close(&s->base);
    gm_slice_close(&s->shard.slice);
    return rc == GM_OK && (s->open || s->lost) ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct gm_shard_service s;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    if (gm_conf_parse(&program, argc, argv, &o, &args, &err) != GM_OK) {
        fprintf(stderr, "gm-shard: %s\n", err.text);
        return 2;
    }
    if (args.help) {
        gm_conf_help(&program, stdout);
        return 0;
    }
    if (o.kernels) {
        const char *why = NULL;
        const struct gm_kernels *k = gm_kernels_select(NULL, &why);
        if (!k) {
            fprintf(stderr, "gm-shard: GM_KERNELS: %s\n", why ? why : "no such kernel set");
            return 1;
        }
        gm_kernels_print(k, stdout);
        return 0;
    }
    if (!o.run_dir || !o.model || !o.layers || o.index >= o.shards) {
        fprintf(stderr, "gm-shard: --run-dir, --model and --layers are needed, and --index below "
                        "--shards; see --help\n");
        return 2;
    }
    if (parse_layers(&s, o.layers, &err) != GM_OK) {
        fprintf(stderr, "gm-shard: %s\n", err.text);
        return 2;
    }
    gm_log_open("shard", 2);
    return serve(&s, &o);
}
