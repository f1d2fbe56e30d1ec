/* main.c - the tokenizer process: options, vocabulary, the loop.
 *
 * Owns:      opening the vocabulary from a GGUF or a .model file, and writing the edge's copy of
 * it. Does not:  answer calls (edge.c).
 */
#include <malloc.h>
#include <stdio.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/gguf.h"
#include "services/tokenizer/edge.h"

enum { FAILED_HELLOS_MS = 1500 }; /* how long a process that cannot serve says so before it ends */

struct options {
    const char *run_dir;
    const char *model;
    int64_t index;
    struct gm_net_options net;
};

static const struct gm_opt opts[] = {
    { .name = "run-dir",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, run_dir),
      .arg = "DIR",
      .help = "run directory: sockets and the vocabulary file" },
    { .name = "model",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, model),
      .arg = "FILE",
      .help = "a GGUF file, or a sentencepiece .model file" },
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
    .name = "gm-tokenizer",
    .usage = "--run-dir DIR --model FILE [options]",
    .about = "Turns text and conversations into token ids. Started by `gemline up`.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
};

/* The arrays of a GGUF vocabulary; freed as one by the caller. */
struct arrays {
    struct gm_text_view *views;
    const char **pieces;
    uint32_t *lens;
    float *scores;
    int32_t *types;
};

static void arrays_free(struct arrays *a)
{
    free(a->views);
    free(a->pieces);
    free(a->lens);
    free(a->scores);
    free(a->types);
}

static enum gm_status arrays_read(struct arrays *a, const struct gm_gguf *g, size_t n,
                                  struct gm_err *err)
{
    a->views = calloc(n, sizeof *a->views);
    a->pieces = calloc(n, sizeof *a->pieces);
    a->lens = calloc(n, sizeof *a->lens);
    a->scores = calloc(n, sizeof *a->scores);
    a->types = calloc(n, sizeof *a->types);
    if (!a->views || !a->pieces || !a->lens || !a->scores || !a->types)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a vocabulary of %zu pieces", n);
    enum gm_status rc = gm_gguf_texts(g, "tokenizer.ggml.tokens", a->views, n, err);
    if (rc == GM_OK)
        rc = gm_gguf_floats(g, "tokenizer.ggml.scores", a->scores, n, err);
    if (rc == GM_OK)
        rc = gm_gguf_ints(g, "tokenizer.ggml.token_type", a->types, n, err);
    for (size_t i = 0; rc == GM_OK && i < n; i++) {
        if (a->views[i].len > GM_PIECE_BYTES_MAX)
            return gm_fail(err, GM_INVALID, "piece %zu of the vocabulary has %zu bytes, at most %d",
                           i, a->views[i].len, GM_PIECE_BYTES_MAX);
        a->pieces[i] = a->views[i].ptr;
        a->lens[i] = (uint32_t)a->views[i].len;
    }
    return rc;
}

static int32_t special_id(const struct gm_gguf *g, const char *key)
{
    int64_t v;
    return gm_gguf_int(g, key, &v, NULL) == GM_OK && v >= 0 && v < GM_VOCAB_IDS_MAX ? (int32_t)v
                                                                                    : -1;
}

/* The pieces that have a row of the embedding. Some converters list <image_soft_token> behind them,
 * which has none; rows without a piece could be chosen and have no text. */
static enum gm_status usable_pieces(const struct gm_gguf *g, size_t *n, struct gm_err *err)
{
    const struct gm_tensor *embed = gm_gguf_tensor(g, "token_embd.weight");
    if (!embed || embed->dims[1] == (int64_t)*n)
        return GM_OK;
    if (embed->dims[1] > (int64_t)*n)
        return gm_fail(err, GM_INVALID,
                       "the vocabulary has %zu pieces but the embedding %" PRId64
                       " rows; convert the model again with its whole vocabulary",
                       *n, embed->dims[1]);
    *n = (size_t)embed->dims[1];
    return GM_OK;
}

static enum gm_status open_gguf(const char *path, struct gm_tokenizer **out, struct gm_err *err)
{
    struct gm_gguf *g = NULL;
    struct arrays a = { NULL, NULL, NULL, NULL, NULL };
    size_t n = 0;
    enum gm_status rc = gm_gguf_open(&g, path, err);
    if (rc != GM_OK)
        return rc;
    rc = gm_gguf_array_len(g, "tokenizer.ggml.tokens", &n, err);
    if (rc == GM_OK && (n == 0 || n > GM_VOCAB_IDS_MAX))
        rc = gm_fail(err, GM_INVALID, "the vocabulary has %zu pieces, allowed are 1..%d", n,
                     GM_VOCAB_IDS_MAX);
    if (rc == GM_OK)
        rc = arrays_read(&a, g, n, err);
    if (rc == GM_OK)
        rc = usable_pieces(g, &n, err);
    if (rc == GM_OK) {
        const struct gm_piece_source src = {
            .n = (uint32_t)n,
            .pieces = a.pieces,
            .lens = a.lens,
            .scores = a.scores,
            .types = a.types,
            .bos = special_id(g, "tokenizer.ggml.bos_token_id"),
            .eos = special_id(g, "tokenizer.ggml.eos_token_id"),
            .unk = special_id(g, "tokenizer.ggml.unknown_token_id"),
            .pad = special_id(g, "tokenizer.ggml.padding_token_id"),
        };
        rc = gm_tokenizer_open_pieces(&src, out, err);
        if (rc == GM_OK && (rc = gm_mapguard_check(err)) != GM_OK)
            gm_tokenizer_close(out);
    }
    arrays_free(&a);
    gm_gguf_close(&g);
    return rc;
}

static enum gm_status open_vocabulary(struct gm_tokenizer_service *s, const struct options *o,
                                      struct gm_err *err)
{
    const size_t len = strlen(o->model);
    const bool spm = len > 6 && strcmp(o->model + len - 6, ".model") == 0;
    enum gm_status rc =
        spm ? gm_tokenizer_open_file(o->model, &s->tok, err) : open_gguf(o->model, &s->tok, err);
    if (rc == GM_OK)
        rc = gm_path_join(s->vocab_path, sizeof s->vocab_path, o->run_dir, "vocab.gmv", err);
    if (rc == GM_OK)
        rc = gm_vocab_write(gm_tokenizer_vocab(s->tok), s->vocab_path, err);
    return rc;
}

static void say_health(void *self, Gm__HealthReply *health)
{
    struct gm_tokenizer_service *s = self;
    health->state = (char *)(s->failed ? "failed" : "ready");
    health->text = (char *)s->failed;
}

static void say_hello(void *self, Gm__Hello *hello)
{
    struct gm_tokenizer_service *s = self;
    hello->has_ready = 1;
    hello->ready = !s->failed;
    hello->failed = (char *)s->failed;
    if (s->tok) {
        hello->has_vocab = 1;
        hello->vocab = gm_vocab_n(gm_tokenizer_vocab(s->tok));
    }
}

/* A process that cannot serve stays a moment so that its sentence is heard, then ends. */
static int failed_next_ms(void *self)
{
    struct gm_tokenizer_service *s = self;
    return s->failed ? FAILED_HELLOS_MS : -1;
}

static enum gm_status failed_step(void *self, bool *again, struct gm_err *err)
{
    struct gm_tokenizer_service *s = self;
    static int64_t since_ms;
    (void)again;
    if (!s->failed)
        return GM_OK;
    if (!since_ms)
        since_ms = gm_now_ms();
    if (gm_now_ms() - since_ms < FAILED_HELLOS_MS)
        return GM_OK;
    return gm_fail(err, GM_INVALID, "%s", s->failed);
}

int main(int argc, char **argv)
{
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE, why = GM_ERR_NONE;
    static struct gm_tokenizer_service s;
    if (gm_conf_parse(&program, argc, argv, &o, &args, &err) != GM_OK) {
        fprintf(stderr, "gm-tokenizer: %s\n", err.text);
        return 2;
    }
    if (args.help) {
        gm_conf_help(&program, stdout);
        return 0;
    }
    if (!o.run_dir || !o.model) {
        fprintf(stderr, "gm-tokenizer: --run-dir and --model are needed; see --help\n");
        return 2;
    }
    gm_log_open("tokenizer", 2);
    if (open_vocabulary(&s, &o, &why) != GM_OK) {
        fprintf(stderr, "gm-tokenizer: %s\n", why.text);
        s.failed = why.text;
    }
    (void)malloc_trim(0); /* what reading the vocabulary needed goes back to the system */
    s.base =
        (struct gm_service){ .role = "tokenizer",
                             .index = (uint32_t)o.index,
                             .run_dir = o.run_dir,
                             .net_options = &o.net,
                             .methods = s.failed ? gm_tokenizer_methods + 4 : gm_tokenizer_methods,
                             .self = &s,
                             .step = failed_step,
                             .next_ms = failed_next_ms,
                             .health = say_health,
                             .hello = say_hello };
    enum gm_status rc = gm_service_open(&s.base, &err);
    if (rc == GM_OK)
        rc = gm_service_run(&s.base, &err);
    if (rc != GM_OK && !s.failed)
        fprintf(stderr, "gm-tokenizer: %s\n", err.text);
    gm_service_close(&s.base);
    gm_tokenizer_close(&s.tok);
    return rc == GM_OK && !s.failed ? 0 : 1;
}
