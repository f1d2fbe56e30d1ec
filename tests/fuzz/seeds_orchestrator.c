/* seeds_orchestrator.c - seeds for the orchestrator: turns with what the ring and Redis say to
 * them.
 *
 * Owns:      which stories there are.
 * Does not:  write them (make_seeds.c).
 */
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/seeds_messages.h"

#define TEXT(t) ((char *)(uintptr_t)(t))

enum { OWN_ANSWER = SERVE_OWN, TICKET_FIRST = 3, TICKET_LAST = 13, VOCAB = 100, REPLY_MAX = 1024 };

/* ---- answers of Redis ------------------------------------------------------------------------ */

struct reply {
    uint8_t bytes[REPLY_MAX];
    size_t n;
};

static void add(struct reply *r, const void *bytes, size_t n)
{
    if (r->n + n > sizeof r->bytes)
        abort();
    memcpy(r->bytes + r->n, bytes, n);
    r->n += n;
}

static void add_byte(struct reply *r, int byte)
{
    const uint8_t b = (uint8_t)byte;
    add(r, &b, 1);
}

static void add_text(struct reply *r, const void *text, size_t n)
{
    const uint8_t head[] = { 2, (uint8_t)n, (uint8_t)(n >> 8) };
    add(r, head, sizeof head);
    add(r, text, n);
}

static void add_number(struct reply *r, int64_t x)
{
    add_byte(r, 1);
    add(r, &x, sizeof x);
}

static void add_array(struct reply *r, int n)
{
    add_byte(r, 3);
    add_byte(r, n);
}

static void add_message(struct reply *r, const ProtobufCMessage *m)
{
    uint8_t bytes[REPLY_MAX];
    if (protobuf_c_message_get_packed_size(m) > sizeof bytes)
        abort();
    add_text(r, bytes, protobuf_c_message_pack(m, bytes));
}

static void answer(struct seed *s, const struct reply *r)
{
    seed_step(s, OWN_ANSWER, r->bytes, r->n);
}

static void answer_nothing(struct seed *s)
{
    struct reply r = { .n = 0 };
    add_array(&r, 0);
    answer(s, &r);
}

static void answer_one(struct seed *s)
{
    struct reply r = { .n = 0 };
    add_number(&r, 1);
    answer(s, &r);
}

/* A session of `turns` turns of four ids each, or a new one. */
static void answer_session(struct seed *s, int turns)
{
    static const int32_t ids[] = { 5, 6, 7, 8, 9, 10, 11, 12 };
    struct reply r = { .n = 0 };
    add_array(&r, 5);
    add_number(&r, 0);
    add_number(&r, 0);
    add_array(&r, 3);
    for (int i = 0; i < 3; i++) {
        if (turns > 0)
            add_text(&r, "1000", 4);
        else
            add_byte(&r, 0);
    }
    add_text(&r, ids, (size_t)turns * 4 * sizeof *ids);
    add_array(&r, turns);
    for (int i = 0; i < turns; i++) {
        Gm__TurnInfo info = GM__TURN_INFO__INIT;
        Gm__Sampling sampling = GM__SAMPLING__INIT;
        info.turn = TEXT("old");
        info.start = (uint32_t)i * 4;
        info.prompt_end = info.start + 2;
        info.answer_end = info.start + 4;
        info.finish = TEXT("stop");
        info.sampling = &sampling;
        add_message(&r, &info.base);
    }
    answer(s, &r);
}

/* ---- the ring -------------------------------------------------------------------------------- */

static void hello_of(struct seed *s, const char *role, uint32_t index, uint64_t boot)
{
    Gm__Hello h = GM__HELLO__INIT;
    h.index = index;
    h.has_begin = 1;
    h.begin = 2 * index;
    h.role = TEXT(role);
    h.boot = boot;
    h.numerics = TEXT("n");
    h.has_end = h.has_ready = h.has_vocab = h.has_context = 1;
    h.end = 2 * index + 2;
    h.ready = 1;
    h.vocab = VOCAB;
    h.context = 64;
    seed_message(s, GM__KIND__HELLO, &h.base);
}

static void hello(struct seed *s, const char *role, uint64_t boot)
{
    hello_of(s, role, 0, boot);
}

/* All are there, Redis had no turn, and the vocabulary is known. */
static void ring_up(struct seed *s)
{
    static int32_t ends[] = { 1 }, close[] = { 2, 3 };
    Gm__VocabReply v = GM__VOCAB_REPLY__INIT;
    answer_nothing(s);
    hello(s, "tokenizer", 1);
    v.path = TEXT("/run/vocab.gmv");
    v.n_end_ids = 1;
    v.end_ids = ends;
    v.n_close_ids = 2;
    v.close_ids = close;
    v.n_banned = 1;
    v.banned = ends;
    seed_message(s, SERVE_ANSWER, &v.base);
    hello(s, "sampler", 1);
    hello(s, "shard", 1);
}

static void start(struct seed *s, const char *turn, const char *session, bool ephemeral)
{
    Gm__StartRequest r = GM__START_REQUEST__INIT;
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    r.turn = TEXT(turn);
    r.session = TEXT(session);
    r.has_messages = r.has_ephemeral = r.has_title = 1;
    r.messages = (ProtobufCBinaryData){ 2, (uint8_t *)TEXT("[]") };
    r.title = (ProtobufCBinaryData){ 2, (uint8_t *)TEXT("ti") };
    r.ephemeral = ephemeral;
    sampling.has_max_tokens = 1;
    sampling.max_tokens = 6;
    r.sampling = &sampling;
    seed_message(s, SERVE_CALL, &r.base);
}

static void encoded(struct seed *s)
{
    static int32_t ids[] = { 20, 21, 22 };
    Gm__IdsReply r = GM__IDS_REPLY__INIT;
    r.n_ids = 3;
    r.ids = ids;
    seed_message(s, SERVE_ANSWER, &r.base);
}

static void opened(struct seed *s)
{
    Gm__ReserveReply r = GM__RESERVE_REPLY__INIT;
    seed_step(s, SERVE_ANSWER, "", 0); /* the sampler */
    r.boot = 1;
    r.have = 1;
    seed_message(s, SERVE_ANSWER, &r.base);
}

static void emitted(struct seed *s, uint64_t ticket, uint32_t pos, const char *finish)
{
    Gm__Token tokens[2], *list[] = { &tokens[0], &tokens[1] };
    Gm__Emitted e = GM__EMITTED__INIT;
    for (uint32_t i = 0; i < 2; i++) {
        gm__token__init(&tokens[i]);
        tokens[i].pos = pos + i;
        tokens[i].id = 30 + (int32_t)i;
    }
    e.ticket = ticket;
    e.n_tokens = 2;
    e.tokens = list;
    e.finish = TEXT(finish);
    seed_message(s, GM__KIND__EMITTED, &e.base);
}

static void fault(struct seed *s, uint64_t ticket, uint32_t status)
{
    Gm__Fault f = GM__FAULT__INIT;
    f.ticket = ticket;
    f.status = status;
    f.text = TEXT("it broke");
    seed_message(s, GM__KIND__FAULT, &f.base);
}

/* ---- stories --------------------------------------------------------------------------------- */

/* The tickets of a run: the target draws 3, 5, 7 ...; who draws which is found by trying some. */
static void told_to_all(struct seed *s, uint32_t pos, const char *finish)
{
    for (uint64_t ticket = TICKET_FIRST; ticket < TICKET_LAST; ticket += 2)
        emitted(s, ticket, pos, finish);
}

static void turns(void)
{
    struct seed s = SEED_NEW;
    Gm__ChunkDone done = GM__CHUNK_DONE__INIT;
    Gm__ResumeRequest again = GM__RESUME_REQUEST__INIT;
    ring_up(&s);
    start(&s, "one", "s", false);
    answer_session(&s, 2);
    encoded(&s);
    answer_one(&s);
    opened(&s);
    for (uint64_t ticket = TICKET_FIRST; ticket < TICKET_LAST; ticket += 2) {
        done.ticket = ticket;
        seed_message(&s, GM__KIND__CHUNK_DONE, &done.base);
    }
    told_to_all(&s, 11, NULL);
    seed_u16(&s, SERVE_ADVANCE, 10);
    again.turn = TEXT("one");
    again.from = 12;
    seed_message(&s, SERVE_STREAM + 1, &again.base);
    for (uint64_t ticket = TICKET_FIRST; ticket < TICKET_LAST; ticket += 2)
        fault(&s, ticket, GM_UNAVAILABLE);
    opened(&s);
    opened(&s);
    told_to_all(&s, 13, "stop");
    answer_one(&s);
    answer_one(&s);
    seed_message(&s, SERVE_CALL + 1, &again.base);
    seed_save(&s, "edge_orchestrator", "turn");

    s = (struct seed)SEED_NEW;
    ring_up(&s);
    start(&s, "two", NULL, true);
    answer_session(&s, 0);
    seed_u16(&s, SERVE_ADVANCE, 50);
    hello(&s, "tokenizer", 2);
    encoded(&s);
    encoded(&s);
    answer_one(&s);
    opened(&s);
    told_to_all(&s, 3, NULL);
    hello(&s, "shard", 2);
    opened(&s);
    Gm__CancelRequest cancel = GM__CANCEL_REQUEST__INIT;
    cancel.turn = TEXT("two");
    seed_message(&s, SERVE_CALL + 2, &cancel.base);
    answer_one(&s);
    seed_step(&s, SERVE_CALL + 9, "", 0);
    seed_save(&s, "edge_orchestrator", "restarts");
}

static void score(void)
{
    static int32_t ids[] = { 4, 5, 6, 7, 8 };
    struct seed s = SEED_NEW;
    Gm__ScoreRequest r = GM__SCORE_REQUEST__INIT;
    Gm__TopId top = GM__TOP_ID__INIT, *tops[] = { &top };
    Gm__ReserveReply reserved = GM__RESERVE_REPLY__INIT;
    ring_up(&s);
    r.n_ids = 5;
    r.ids = ids;
    r.has_top_n = r.has_every = 1;
    r.top_n = 1;
    r.every = 2;
    seed_message(&s, SERVE_CALL + 3, &r.base);
    seed_message(&s, SERVE_ANSWER, &reserved.base);
    for (uint32_t pos = 0; pos < 5; pos += 2)
        for (uint64_t ticket = TICKET_FIRST; ticket < TICKET_LAST; ticket += 2) {
            Gm__ScoreRow row = GM__SCORE_ROW__INIT, *rows[] = { &row };
            Gm__Scored scored = GM__SCORED__INIT;
            row.pos = pos;
            row.has_next_logprob = 1;
            row.next_logprob = -1.5;
            row.n_top = 1;
            row.top = tops;
            scored.ticket = ticket;
            scored.n_rows = 1;
            scored.rows = rows;
            seed_message(&s, GM__KIND__SCORED, &scored.base);
        }
    seed_save(&s, "edge_orchestrator", "score");
}

/* What an earlier life left in Redis. */
static void recovery(void)
{
    static const int32_t out[] = { 30, 31 };
    static int32_t prompt[] = { 20, 21, 22 };
    struct seed s = SEED_NEW;
    struct reply r = { .n = 0 };
    Gm__TurnRecord rec = GM__TURN_RECORD__INIT;
    Gm__StartRequest request = GM__START_REQUEST__INIT;
    Gm__Sampling sampling = GM__SAMPLING__INIT;
    Gm__ResumeRequest resume = GM__RESUME_REQUEST__INIT;
    request.turn = TEXT("kept");
    sampling.has_max_tokens = sampling.has_seed = 1;
    sampling.max_tokens = 4;
    rec.request = &request;
    rec.sampling = &sampling;
    rec.session = TEXT("s");
    rec.tenant = TEXT("local");
    rec.numerics = TEXT("n");
    rec.n_prompt = 3;
    rec.prompt = prompt;
    add_array(&r, 2);
    add_message(&r, &rec.base);
    add_text(&r, out, sizeof out);
    answer(&s, &r);
    hello(&s, "tokenizer", 1);
    Gm__VocabReply v = GM__VOCAB_REPLY__INIT;
    v.path = TEXT("/run/vocab.gmv");
    seed_message(&s, SERVE_ANSWER, &v.base);
    hello(&s, "sampler", 1);
    hello(&s, "shard", 1);
    opened(&s);
    resume.turn = TEXT("kept");
    seed_message(&s, SERVE_CALL + 1, &resume.base);
    told_to_all(&s, 5, "length");
    answer_one(&s);
    seed_save(&s, "edge_orchestrator", "recovery");

    s = (struct seed)SEED_NEW;
    answer_nothing(&s);
    seed_message(&s, SERVE_STREAM + 1, &resume.base);
    r.n = 0;
    rec.finish = TEXT("stop");
    rec.has_answer = 1;
    rec.answer = 2;
    add_array(&r, 2);
    add_message(&r, &rec.base);
    add_text(&r, out, sizeof out);
    answer(&s, &r);
    seed_step(&s, SERVE_CONTROL, "\0\0\5\0", 4);
    resume.turn = TEXT("");
    resume.session = TEXT("s");
    seed_message(&s, SERVE_CALL + 1, &resume.base);
    answer_session(&s, 2);
    seed_save(&s, "edge_orchestrator", "replay");
}

static void sessions(void)
{
    struct seed s = SEED_NEW;
    Gm__SessionRequest r = GM__SESSION_REQUEST__INIT;
    struct reply list = { .n = 0 };
    answer_nothing(&s);
    r.session = TEXT("s");
    for (int method = 6; method < 9; method++) { /* show, undo, remove */
        seed_message(&s, SERVE_CALL + method, &r.base);
        answer_session(&s, 2);
        answer_one(&s);
    }
    seed_message(&s, SERVE_CALL + 5, &r.base);
    add_array(&list, 14);
    for (int i = 0; i < 2; i++) {
        add_text(&list, "id", 2);
        add_text(&list, "1000", 4);
        add_text(&list, "2000", 4);
        add_number(&list, 400);
        add_text(&list, "1", 1);
        add_text(&list, "title", 5);
        add_number(&list, 3);
    }
    answer(&s, &list);
    seed_step(&s, SERVE_CALL + 4, "", 0);
    seed_save(&s, "edge_orchestrator", "sessions");
}

/* A turn on two shards, of which the second comes back as another. */
static void two_shards(void)
{
    struct seed s = SEED_NEW;
    Gm__ReserveReply reserved = GM__RESERVE_REPLY__INIT;
    seed_step(&s, SERVE_OWN + 3, "\1", 1);
    ring_up(&s);
    hello_of(&s, "shard", 1, 1);
    start(&s, "one", "s", false);
    answer_session(&s, 0);
    encoded(&s);
    answer_one(&s);
    opened(&s);
    seed_message(&s, SERVE_ANSWER, &reserved.base);
    told_to_all(&s, 3, NULL);
    hello_of(&s, "shard", 1, 2);
    opened(&s);
    seed_step(&s, SERVE_REFUSE, "\10no pages", 9);
    seed_u16(&s, SERVE_ADVANCE, 20);
    seed_save(&s, "edge_orchestrator", "two-shards");
}

void seeds_of_orchestrator(void)
{
    two_shards();
    turns();
    score();
    recovery();
    sessions();
}
