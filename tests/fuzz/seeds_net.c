/* seeds_net.c - seeds for the net layer alone: envelopes and datagrams, answers to a client.
 *
 * Owns:      which traffic there is.
 * Does not:  write them (make_seeds.c).
 */
#include <string.h>

#include "tests/fuzz/seeds_messages.h"

#define TEXT(t) ((char *)(uintptr_t)(t))

static Gm__Envelope envelope(Gm__Kind kind, uint64_t call, const char *method)
{
    Gm__Envelope env = GM__ENVELOPE__INIT;
    env.version = 1;
    env.kind = kind;
    env.has_call = 1;
    env.call = call;
    env.method = TEXT(method);
    env.has_timeout_us = env.has_credit = env.has_boot = 1;
    env.timeout_us = 1000000;
    env.credit = 2;
    env.boot = 9;
    return env;
}

static void datagram(struct seed *s, const Gm__Envelope *env, const ProtobufCMessage *body)
{
    uint8_t bytes[1024];
    const uint32_t head[2] = { (uint32_t)gm__envelope__get_packed_size(env),
                               (uint32_t)protobuf_c_message_get_packed_size(body) };
    memcpy(bytes, head, sizeof head);
    gm__envelope__pack(env, bytes + sizeof head);
    protobuf_c_message_pack(body, bytes + sizeof head + head[0]);
    memset(bytes + sizeof head + head[0] + head[1], 0, 16); /* rows */
    seed_step(s, SERVE_LANE, bytes, sizeof head + head[0] + head[1] + 16);
}

static void server_side(void)
{
    struct seed s = SEED_NEW;
    Gm__EncodeRequest echo = GM__ENCODE_REQUEST__INIT;
    Gm__StartRequest park = GM__START_REQUEST__INIT;
    Gm__Chosen chosen = GM__CHOSEN__INIT;
    echo.text = (ProtobufCBinaryData){ 4, (uint8_t *)TEXT("text") };
    park.turn = TEXT("t");
    seed_message(&s, SERVE_CALL, &echo.base);
    echo.has_bos = 1;
    seed_message(&s, SERVE_CALL, &echo.base);
    seed_step(&s, SERVE_STREAM + 1, "", 0);
    seed_step(&s, SERVE_CONTROL, "\0\0\5\0", 4);
    seed_message(&s, SERVE_CALL + 2, &park.base);
    seed_step(&s, SERVE_CONTROL, "\2\0\0\0", 4);
    seed_step(&s, SERVE_CONTROL, "\1\0\0\0", 4);
    for (int method = 3; method < 8; method++)
        seed_step(&s, SERVE_CALL + method, "", 0);
    Gm__Envelope env = envelope(GM__KIND__CALL, 70, "Test.Count");
    seed_raw(&s, &env, "", 0);
    env = envelope(GM__KIND__CALL, 71, "No.Method");
    seed_raw(&s, &env, "", 0);
    env.version = 9;
    seed_raw(&s, &env, "", 0);
    env = envelope(GM__KIND__PING, 70, NULL);
    seed_raw(&s, &env, "", 0);
    seed_u16(&s, SERVE_ADVANCE, 200);
    chosen.ticket = 5;
    env = envelope(GM__KIND__CHOSEN, 0, NULL);
    env.has_made_us = 1;
    env.made_us = 1000000000;
    datagram(&s, &env, &chosen.base);
    seed_message(&s, GM__KIND__CHOSEN, &chosen.base);
    env = envelope(GM__KIND__CALL, 72, "Test.Echo");
    datagram(&s, &env, &chosen.base);
    seed_save(&s, "envelope", "server");
}

/* Streams of the client's messages: to the service, and of its own. */
static void client_streams(void)
{
    struct seed s = SEED_NEW;
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__Meta meta[2], *pairs[] = { &meta[0], &meta[1] };
    static const uint8_t own[][2] = { { 16 + 64 + 128, 90 }, { 18 + 32, 0 } };
    Gm__Envelope env = envelope(GM__KIND__CALL, 80, "Test.Talk");
    for (int i = 0; i < 2; i++) {
        gm__meta__init(&meta[i]);
        meta[i].key = TEXT(i == 0 ? "key" : "other-bin");
        meta[i].value = (ProtobufCBinaryData){ 3, (uint8_t *)TEXT("abc") };
    }
    env.n_meta = 2;
    env.meta = pairs;
    env.traceparent = TEXT("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    seed_raw(&s, &env, "", 0);
    seed_step(&s, SERVE_CALL + 3, "", 0);
    seed_step(&s, SERVE_SEND, "\0\12\2hi", 5);
    seed_step(&s, SERVE_SEND, "\0\12\2hi\20\1", 7);
    seed_step(&s, SERVE_DONE, "\0", 1);
    seed_step(&s, SERVE_CALL + 4, "", 0);
    seed_step(&s, SERVE_SEND, "\0\12\0", 3);
    seed_step(&s, SERVE_CONTROL, "\1\0\0\0", 4);
    for (int i = 0; i < 2; i++)
        seed_step(&s, SERVE_OWN, own[i], sizeof own[i]);
    seed_u16(&s, SERVE_ROOM, 3);
    seed_step(&s, SERVE_OWN, "\14", 1); /* a message */
    seed_step(&s, SERVE_OWN, "\54", 1); /* the end */
    seed_u16(&s, SERVE_ADVANCE, 600);
    seed_message(&s, SERVE_ANSWER, &event.base);
    seed_message(&s, SERVE_ITEM, &event.base);
    seed_u16(&s, SERVE_ADVANCE, 2000);
    seed_save(&s, "envelope", "client-streams");
}

static void client_side(void)
{
    struct seed s = SEED_NEW;
    Gm__TurnEvent event = GM__TURN_EVENT__INIT;
    Gm__FinishedEvent finished = GM__FINISHED_EVENT__INIT;
    finished.reason = TEXT("stop");
    event.finished = &finished;
    for (int how = 0; how < 4; how++) {
        const uint8_t bytes[2] = { (uint8_t)how, 50 };
        seed_step(&s, SERVE_OWN, bytes, sizeof bytes);
    }
    seed_message(&s, SERVE_ANSWER, &event.base);
    seed_step(&s, SERVE_REFUSE, "\10later", 6);
    seed_message(&s, SERVE_ITEM, &event.base);
    seed_step(&s, SERVE_OWN, "\44", 1);
    seed_step(&s, SERVE_OWN, "\50", 1);
    seed_step(&s, SERVE_OWN, "\54", 1);
    seed_step(&s, SERVE_REFUSE, "\214", 1);
    seed_save(&s, "envelope", "client");
}

static void turn_event(struct seed *s, uint32_t pos, bool started, const char *finish)
{
    Gm__TurnEvent e = GM__TURN_EVENT__INIT;
    Gm__StartedEvent first = GM__STARTED_EVENT__INIT;
    Gm__FinishedEvent last = GM__FINISHED_EVENT__INIT;
    Gm__ProgressEvent progress = GM__PROGRESS_EVENT__INIT;
    Gm__Token tokens[2], *list[] = { &tokens[0], &tokens[1] };
    for (uint32_t i = 0; i < 2; i++) {
        gm__token__init(&tokens[i]);
        tokens[i].pos = pos + i;
        tokens[i].id = 7;
    }
    first.session = TEXT("s");
    first.prompt_tokens = 4;
    first.turn = TEXT("turn");
    last.reason = TEXT(finish);
    last.completion_tokens = 4;
    progress.total = 4;
    e.started = started ? &first : NULL;
    e.progress = started ? &progress : NULL;
    e.finished = finish != NULL ? &last : NULL;
    e.n_tokens = pos > 0 ? 2 : 0;
    e.tokens = list;
    seed_message(s, SERVE_ITEM, &e.base);
}

static void client(void)
{
    Gm__SessionList list = GM__SESSION_LIST__INIT;
    Gm__SessionReply session = GM__SESSION_REPLY__INIT, *sessions[] = { &session };
    struct seed s = SEED_NEW;
    session.session = TEXT("s");
    list.n_sessions = 1;
    list.sessions = sessions;
    seed_step(&s, SERVE_OWN, "\0", 1);
    seed_message(&s, SERVE_ANSWER, &list.base);
    seed_save(&s, "client", "call");

    s = (struct seed)SEED_NEW;
    seed_step(&s, SERVE_OWN, "\1", 1);
    seed_step(&s, SERVE_ITEM, "", 0);
    seed_step(&s, SERVE_ITEM, "", 0);
    seed_step(&s, SERVE_REFUSE, "\214", 1);
    seed_save(&s, "client", "stream");

    for (uint8_t way = 2; way < 4; way++) {
        s = (struct seed)SEED_NEW;
        seed_step(&s, SERVE_OWN, &way, 1);
        turn_event(&s, 0, true, NULL);
        turn_event(&s, 4, false, NULL);
        seed_step(&s, SERVE_REFUSE, "\16away", 5); /* it is resumed */
        seed_u16(&s, SERVE_ADVANCE, 20);
        turn_event(&s, 0, true, NULL);
        turn_event(&s, 5, false, NULL);
        turn_event(&s, 0, false, way == 2 ? "stop" : "cancelled");
        seed_step(&s, SERVE_REFUSE, "\214", 1);
        seed_save(&s, "client", way == 2 ? "turn" : "given-up");
    }
}

void seeds_of_net(void)
{
    server_side();
    client_side();
    client_streams();
    client();
}
