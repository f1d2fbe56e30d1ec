/* main.c - the sampler process: options and the loop.
 *
 * Owns:      start and end of the process, what it says of its health.
 * Does not:  take messages apart (edge.c).
 */
#include <stdio.h>

#include "services/sampler/edge.h"

struct options {
    const char *run_dir;
    int64_t index;
    struct gm_net_options net;
};

static const struct gm_opt opts[] = {
    { .name = "run-dir",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, run_dir),
      .arg = "DIR",
      .help = "run directory: sockets and the vocabulary file" },
    { .name = "index",
      .kind = GM_OPT_INT,
      .at = offsetof(struct options, index),
      .def = "0",
      .min = 0,
      .max = 1024,
      .help = "number of this instance" },
    GM_NET_OPTIONS(struct options, net),
};
static const struct gm_program program = {
    .name = "gm-sampler",
    .usage = "--run-dir DIR [options]",
    .about = "Chooses tokens from the last shard's candidates. Started by `gemline up`.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

static void count_rate(struct gm_sampler_service *s)
{
    const int64_t now = gm_now_ms();
    if (now - s->second_ms < 1000)
        return;
    s->tokens_per_s =
        (double)(s->chosen - s->chosen_before) * 1000.0 / (double)(now - s->second_ms);
    s->chosen_before = s->chosen;
    s->second_ms = now;
}

static void say_health(void *self, Gm__HealthReply *health)
{
    struct gm_sampler_service *s = self;
    count_rate(s);
    health->state = (char *)(s->vocab_open ? "ready" : "starting");
    health->has_sessions = 1;
    health->sessions = (uint32_t)s->seqs.n;
    health->has_tokens_per_s = 1;
    health->tokens_per_s = s->tokens_per_s;
}

static void say_hello(void *self, Gm__Hello *hello)
{
    struct gm_sampler_service *s = self;
    hello->has_ready = 1;
    hello->ready = s->vocab_open;
}

static int next_ms(void *self)
{
    struct gm_sampler_service *s = self;
    return s->vocab_open ? -1 : GM_VOCAB_RETRY_MS;
}

static enum gm_status step(void *self, bool *again, struct gm_err *err)
{
    struct gm_sampler_service *s = self;
    (void)err;
    *again = false;
    if (!s->vocab_open && gm_sampler_vocab(s))
        gm_service_hello(&s->base); /* ready now: do not wait for the next second */
    return GM_OK;
}

int main(int argc, char **argv)
{
    static struct gm_sampler_service s;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    if (gm_conf_parse(&program, argc, argv, &o, &args, &err) != GM_OK) {
        fprintf(stderr, "gm-sampler: %s\n", err.text);
        return 2;
    }
    if (args.help) {
        gm_conf_help(&program, stdout);
        return 0;
    }
    if (!o.run_dir) {
        fprintf(stderr, "gm-sampler: --run-dir is needed; see --help\n");
        return 2;
    }
    gm_log_open("sampler", 2);
    s.base = (struct gm_service){ .role = "sampler",
                                  .index = (uint32_t)o.index,
                                  .run_dir = o.run_dir,
                                  .net_options = &o.net,
                                  .methods = gm_sampler_methods,
                                  .self = &s,
                                  .on_message = gm_sampler_on_message,
                                  .step = step,
                                  .next_ms = next_ms,
                                  .health = say_health,
                                  .hello = say_hello };
    enum gm_status rc =
        gm_path_join(s.vocab_path, sizeof s.vocab_path, o.run_dir, "vocab.gmv", &err);
    if (rc == GM_OK)
        rc = gm_idmap_open(&s.seqs, 64, GM_SAMPLER_SEQS_MAX, &err);
    if (rc == GM_OK)
        rc = gm_service_open(&s.base, &err);
    if (rc == GM_OK)
        rc = gm_service_run(&s.base, &err);
    if (rc != GM_OK)
        fprintf(stderr, "gm-sampler: %s\n", err.text);
    gm_service_close(&s.base);
    gm_sampler_close_all(&s);
    return rc == GM_OK ? 0 : 1;
}
