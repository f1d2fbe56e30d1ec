/* seeds_messages.c - seeds that are messages to sampler, shard and tokenizer.
 *
 * Owns:      which conversations there are.
 * Does not:  write them (make_seeds.c), or know the others (seeds_orchestrator.c,
 *            seeds_net.c).
 */
#include "tests/fuzz/seeds_messages.h"

#include <stdlib.h>
#include <string.h>

#define PEER    ((char *)(uintptr_t) "ipc:///run/peer-0.sock")
#define TEXT(t) ((char *)(uintptr_t)(t))

/* ---- one seed -------------------------------------------------------------------------------- */

void seed_step(struct seed *s, int code, const void *bytes, size_t n)
{
    const uint8_t head[3] = { (uint8_t)code, (uint8_t)n, (uint8_t)(n >> 8) };
    (void)gm_buf_append(&s->out, (const char *)head, sizeof head, NULL);
    (void)gm_buf_append(&s->out, bytes, n, NULL);
}

void seed_message(struct seed *s, int code, const ProtobufCMessage *m)
{
    const size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *bytes = malloc(n + 1);
    if (bytes == NULL)
        abort();
    protobuf_c_message_pack(m, bytes);
    seed_step(s, code, bytes, n);
    free(bytes);
}

void seed_u16(struct seed *s, int code, unsigned n)
{
    const uint8_t bytes[2] = { (uint8_t)n, (uint8_t)(n >> 8) };
    seed_step(s, code, bytes, sizeof bytes);
}

void seed_raw(struct seed *s, const Gm__Envelope *env, const void *body, size_t n)
{
    uint8_t bytes[1024];
    const size_t env_n = gm__envelope__get_packed_size(env);
    if (2 + env_n + n > sizeof bytes)
        abort();
    bytes[0] = (uint8_t)env_n;
    bytes[1] = (uint8_t)(env_n >> 8);
    gm__envelope__pack(env, bytes + 2);
    memcpy(bytes + 2 + env_n, body, n);
    seed_step(s, SERVE_RAW, bytes, 2 + env_n + n);
}

void seed_save(struct seed *s, const char *target, const char *name)
{
    seed_write(target, name, s->out.data, s->out.len);
    gm_buf_free(&s->out);
}

/* ---- sampler --------------------------------------------------------------------------------- */

enum { PROMPT = 4, VOCAB = 12 };

static void sampler_open(struct seed *s, const Gm__Sampling *sampling, uint32_t credit)
{
    static int32_t ends[] = { 0 }, so_far[] = { 3, 4 };
    Gm__OpenRequest r = GM__OPEN_REQUEST__INIT;
    r.ticket = 1;
    r.sampling = (Gm__Sampling *)(uintptr_t)sampling;
    r.prompt_len = PROMPT;
    r.n_end_ids = 1;
    r.end_ids = ends;
    r.n_so_far = sampling->n_stops > 0 ? 2 : 0;
    r.so_far = so_far;
    r.first = r.last = r.home = PEER;
    r.has_credit = 1;
    r.credit = credit;
    seed_message(s, SERVE_CALL, &r.base);
}

static void sampler_row(struct seed *s, uint32_t pos, uint32_t ahead)
{
    static int32_t ids[] = { 1, 2, 3, 4, 9, 0 };
    static float logits[] = { 4.0f, 3.0f, 2.0f, 1.0f, 0.5f, 0.25f };
    Gm__TopId top[2], *tops[] = { &top[0], &top[1] };
    Gm__AheadRow row[2], *rows[] = { &row[0], &row[1] };
    Gm__Candidates c = GM__CANDIDATES__INIT;
    for (int i = 0; i < 2; i++) {
        gm__top_id__init(&top[i]);
        top[i].id = ids[i];
        top[i].logprob = -1.0f - (float)i;
        gm__ahead_row__init(&row[i]);
        row[i].id = ids[i];
        row[i].n_ids = row[i].n_logits = row[i].n_raw = sizeof ids / sizeof *ids;
        row[i].ids = ids;
        row[i].logits = row[i].raw = logits;
        row[i].lse_raw = row[i].lse_t = 4.5;
    }
    c.ticket = 1;
    c.pos = pos;
    c.n_ids = c.n_logits = c.n_raw = sizeof ids / sizeof *ids;
    c.ids = ids;
    c.logits = c.raw = logits;
    c.lse_raw = c.lse_t = 4.5;
    c.vocab = VOCAB;
    c.n_top = 2;
    c.top = tops;
    c.n_ahead = ahead;
    c.ahead = rows;
    seed_message(s, GM__KIND__CANDIDATES, &c.base);
}

static void sampler(void)
{
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    Gm__CreditRequest credit = GM__CREDIT_REQUEST__INIT;
    Gm__ReleaseRequest release = GM__RELEASE_REQUEST__INIT;
    ProtobufCBinaryData stops[] = { { 2, (uint8_t *)(uintptr_t) "ab" },
                                    { 1, (uint8_t *)(uintptr_t) "z" } };
    struct seed s = SEED_NEW;
    sampling.has_max_tokens = sampling.has_temperature = sampling.has_seed = 1;
    sampling.max_tokens = 8;
    sampling.temperature = 0.0f;
    sampler_open(&s, &sampling, 3);
    for (uint32_t i = 0; i < 5; i++)
        sampler_row(&s, PROMPT - 1 + i, i % 3);
    credit.ticket = release.ticket = 1;
    credit.credit = 10;
    seed_message(&s, SERVE_CALL + 1, &credit.base);
    seed_message(&s, SERVE_CALL + 2, &release.base);
    seed_step(&s, SERVE_CALL + 3, "", 0);
    seed_save(&s, "edge_sampler", "greedy");

    s = (struct seed)SEED_NEW;
    sampling.temperature = 0.8f;
    sampling.has_top_k = sampling.has_top_p = sampling.has_min_p = sampling.has_logprobs = 1;
    sampling.top_k = 4;
    sampling.top_p = 0.9f;
    sampling.min_p = 0.05f;
    sampling.logprobs = 2;
    sampling.n_stops = 2;
    sampling.stops = stops;
    sampler_open(&s, &sampling, 100);
    for (uint32_t i = 0; i < 6; i++)
        sampler_row(&s, PROMPT + 1 + i, 2);
    seed_save(&s, "edge_sampler", "stops");
}

/* ---- shard ----------------------------------------------------------------------------------- */

enum { D_MODEL = 32, IDS_MAX = 64 };

struct turn {
    uint64_t ticket;
    const char *session;
    uint32_t n, positions;
    bool score;
    uint32_t top_n;
    const Gm__Sampling *sampling;
    bool ephemeral;
};

static int32_t *shard_ids(void)
{
    static int32_t ids[IDS_MAX];
    for (int i = 0; i < IDS_MAX; i++)
        ids[i] = 1 + i * 5 % 37;
    return ids;
}

static void shard_reserve(struct seed *s, const struct turn *t)
{
    static int32_t banned[] = { 0, 5 };
    Gm__ReserveRequest r = GM__RESERVE_REQUEST__INIT;
    r.ticket = t->ticket;
    r.session = TEXT(t->session);
    r.n_ids = t->n;
    r.ids = shard_ids();
    r.positions = t->positions;
    r.prompt_len = t->n;
    r.sampling = (Gm__Sampling *)(uintptr_t)t->sampling;
    r.has_top_n = t->top_n > 0;
    r.top_n = t->top_n;
    r.has_score = r.has_every = t->score;
    r.score = t->score;
    r.every = 2;
    r.n_banned = 2;
    r.banned = banned;
    r.numerics = TEXT("n");
    r.next = r.home = r.first = PEER;
    r.has_order = r.has_ephemeral = 1;
    r.order = t->ticket;
    r.ephemeral = t->ephemeral;
    seed_message(s, SERVE_CALL, &r.base);
}

static void shard_span(struct seed *s, const Gm__Span *span, bool hidden)
{
    Gm__TokenRows token_rows = GM__TOKEN_ROWS__INIT;
    Gm__HiddenRows hidden_rows = GM__HIDDEN_ROWS__INIT;
    Gm__Span *one = (Gm__Span *)(uintptr_t)span;
    token_rows.span = one;
    hidden_rows.n_spans = 1;
    hidden_rows.spans = &one;
    hidden_rows.d_model = D_MODEL;
    if (hidden) {
        const size_t n = span->n_ids * D_MODEL;
        const uint8_t rows[] = { (uint8_t)n, (uint8_t)(n >> 8), 0, 0, 0x80, 0x3F };
        seed_step(s, SERVE_PAYLOAD, rows, sizeof rows);
        seed_message(s, GM__KIND__HIDDEN_ROWS, &hidden_rows.base);
    } else {
        seed_message(s, GM__KIND__TOKEN_ROWS, &token_rows.base);
    }
}

static Gm__Span span_of(uint64_t ticket, uint32_t pos, uint32_t n)
{
    Gm__Span span = GM__SPAN__INIT;
    span.ticket = ticket;
    span.pos = pos;
    span.n_ids = n;
    span.ids = shard_ids() + pos;
    span.has_last = span.last = 1;
    span.has_start = span.start = pos == 0;
    return span;
}

static void shard_chosen(struct seed *s, uint64_t ticket, uint32_t pos)
{
    Gm__Chosen c = GM__CHOSEN__INIT;
    c.ticket = ticket;
    c.pos = pos;
    c.id = shard_ids()[pos];
    seed_message(s, GM__KIND__CHOSEN, &c.base);
}

static void shard_end(struct seed *s, uint64_t ticket, const char *session)
{
    Gm__ReleaseRequest release = GM__RELEASE_REQUEST__INIT;
    Gm__ForgetRequest forget = GM__FORGET_REQUEST__INIT;
    release.ticket = ticket;
    release.has_keep = 1;
    release.keep = session == NULL;
    seed_message(s, SERVE_CALL + 1, &release.base);
    if (session != NULL) {
        forget.session = TEXT(session);
        seed_message(s, SERVE_CALL + 2, &forget.base);
    }
}

static void shard_only(void)
{
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    Gm__Bias bias = GM__BIAS__INIT, *biases[] = { &bias };
    Gm__More more = GM__MORE__INIT;
    struct seed s = SEED_NEW;
    bias.id = 7;
    bias.value = 2.5f;
    sampling.n_bias = 1;
    sampling.bias = biases;
    sampling.has_repeat_penalty = sampling.has_presence_penalty = 1;
    sampling.repeat_penalty = 1.1f;
    sampling.presence_penalty = 0.5f;
    const struct turn one = { 1, "t/a", 10, 40, false, 3, &sampling, false };
    const struct turn two = { 2, "t/a", 30, 50, false, 0, NULL, false };
    const struct turn other = { 3, "t/b", 34, 60, false, 0, NULL, false };
    Gm__Span span = span_of(1, 0, 10);
    shard_reserve(&s, &one);
    shard_span(&s, &span, false);
    for (uint32_t pos = 10; pos < 14; pos++)
        shard_chosen(&s, 1, pos);
    more.ticket = 1;
    more.pos = 13;
    more.k = 30;
    seed_message(&s, GM__KIND__MORE, &more.base);
    shard_end(&s, 1, NULL);
    shard_reserve(&s, &two);
    span = span_of(2, 13, 0);
    shard_span(&s, &span, false);
    shard_reserve(&s, &other);
    shard_end(&s, 2, "t/a");
    seed_step(&s, SERVE_CALL + 3, "", 0);
    seed_save(&s, "edge_shard", "only");

    s = (struct seed)SEED_NEW;
    const struct turn score = { 1, "score/1", 20, 20, true, 5, NULL, false };
    shard_reserve(&s, &score);
    span = span_of(1, 0, 0);
    span.has_start = span.start = 1;
    shard_span(&s, &span, false);
    shard_end(&s, 1, "t/a");
    seed_save(&s, "edge_shard", "score");
}

static void shard_crowd(void)
{
    static const char *const names[] = { "t/a", "t/b", "u/c", "u/d" };
    struct seed s = SEED_NEW;
    Gm__Span span;
    for (uint64_t i = 0; i < 4; i++) {
        const struct turn t = { i + 1, names[i], 40, 90, false, 0, NULL, false };
        shard_reserve(&s, &t);
        span = span_of(i + 1, 0, 0);
        span.has_start = span.start = 1;
        shard_span(&s, &span, false);
        if (i == 1)
            shard_end(&s, 1, NULL);
    }
    for (uint32_t pos = 40; pos < 44; pos++)
        for (uint64_t i = 0; i < 4; i++)
            shard_chosen(&s, i + 1, pos);
    seed_save(&s, "edge_shard", "crowd");
}

/* Sessions that begin alike: rows change hands, or are copied. */
static void shard_prefix(void)
{
    static const char *const names[] = { "t/a", "t/b", "t/c" };
    struct seed s = SEED_NEW;
    for (uint64_t i = 0; i < 3; i++) {
        const struct turn t = { i + 1, names[i], 40 + 8 * (uint32_t)i, 72, false, 0, NULL, i == 0 };
        Gm__Span span = span_of(i + 1, 0, 0);
        span.has_start = span.start = 1;
        if (i > 0)
            span.pos = 39;
        shard_reserve(&s, &t);
        shard_span(&s, &span, false);
        shard_end(&s, i + 1, NULL);
    }
    seed_save(&s, "edge_shard", "prefix");
}

static void shard_chain(void)
{
    const struct turn t = { 1, "t/a", 12, 40, false, 2, NULL, false };
    for (uint8_t place = 1; place <= 2; place++) {
        struct seed s = SEED_NEW;
        Gm__Span span = span_of(1, 0, place == 1 ? 0 : 12);
        Gm__ChunkDone done = GM__CHUNK_DONE__INIT;
        seed_step(&s, SERVE_OWN, &place, 1);
        shard_reserve(&s, &t);
        span.has_start = span.start = 1;
        shard_span(&s, &span, place == 2);
        done.ticket = 1;
        seed_message(&s, GM__KIND__CHUNK_DONE, &done.base);
        for (uint32_t pos = 12; pos < 20; pos += 3) {
            span = span_of(1, pos, 3);
            span.has_decode = span.decode = span.has_drafts = 1;
            span.drafts = 2;
            if (place == 2)
                shard_span(&s, &span, true);
            else
                shard_chosen(&s, 1, pos);
        }
        seed_save(&s, "edge_shard", place == 1 ? "first" : "last");
    }
}

/* ---- tokenizer ------------------------------------------------------------------------------- */

static ProtobufCBinaryData bytes_of(const char *text)
{
    return (ProtobufCBinaryData){ strlen(text), (uint8_t *)(uintptr_t)text };
}

static void tokenizer(void)
{
    static int32_t ids[] = { 17, 200, 290, 4 };
    struct seed s = SEED_NEW;
    Gm__EncodeRequest encode = GM__ENCODE_REQUEST__INIT;
    Gm__TurnRequest turn = GM__TURN_REQUEST__INIT;
    Gm__DecodeRequest decode = GM__DECODE_REQUEST__INIT;
    encode.text = bytes_of("the user  model\n\n\xc3\xa9 <start_of_turn>");
    encode.has_bos = encode.bos = 1;
    seed_message(&s, SERVE_CALL, &encode.base);
    turn.has_messages = turn.has_tools = 1;
    turn.messages = bytes_of("[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\","
                             "\"content\":[{\"type\":\"text\",\"text\":\"the\"}]}]");
    turn.tools = bytes_of("[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{"
                          "\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}}}]");
    seed_message(&s, SERVE_CALL + 1, &turn.base);
    turn.has_tools = 0;
    turn.has_raw = turn.raw = turn.has_continued = turn.continued = 1;
    seed_message(&s, SERVE_CALL + 1, &turn.base);
    decode.n_ids = 4;
    decode.ids = ids;
    seed_message(&s, SERVE_CALL + 2, &decode.base);
    seed_step(&s, SERVE_CALL + 3, "", 0);
    seed_step(&s, SERVE_CALL + 4, "", 0);
    seed_save(&s, "edge_tokenizer", "all");
}

void seeds_of_messages(void)
{
    sampler();
    shard_only();
    shard_crowd();
    shard_chain();
    shard_prefix();
    tokenizer();
    seeds_of_orchestrator();
    seeds_of_net();
}
