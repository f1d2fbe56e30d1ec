/* edge.c - the Tokenizer service's calls: protobuf in, plain calls of tokenizer.h, protobuf out.
 *
 * Owns:      the table of methods.
 * Does not:  encode (spm.cc), render turns (turns.c) or keep anything between calls.
 */
#include <stdlib.h>

#include "services/tokenizer/edge.h"

/* Tokens that a served text model never emits: structure that only the template makes. */
static const enum gm_special banned_specials[] = {
    GM_SPECIAL_PAD,
    GM_SPECIAL_BOS,
    GM_SPECIAL_UNK,
    GM_SPECIAL_START_OF_TURN,
    GM_SPECIAL_START_OF_IMAGE,
    GM_SPECIAL_END_OF_IMAGE,
    GM_SPECIAL_IMAGE_SOFT,
};
enum { BANNED = sizeof banned_specials / sizeof banned_specials[0] };

/* Replies with the ids and frees them; or passes the failure on. */
static enum gm_status reply_ids(struct gm_stream *stream, enum gm_status rc, struct gm_ids *ids)
{
    if (rc == GM_OK) {
        Gm__IdsReply reply = GM__IDS_REPLY__INIT;
        reply.n_ids = ids->n;
        reply.ids = ids->v;
        rc = gm_rpc_reply(stream, &reply.base);
    }
    gm_ids_free(ids);
    return rc;
}

static enum gm_status encode(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                             struct gm_err *err)
{
    struct gm_tokenizer_service *s = self;
    const Gm__EncodeRequest *in = (const Gm__EncodeRequest *)request;
    struct gm_ids ids = { NULL, 0, 0 };
    enum gm_status rc =
        in->has_bos && in->bos
            ? gm_turns_raw(s->tok, (const char *)in->text.data, in->text.len, false, &ids, err)
            : gm_tokenizer_encode(s->tok, (const char *)in->text.data, in->text.len, &ids, err);
    return reply_ids(stream, rc, &ids);
}

static enum gm_status encode_turn(void *self, struct gm_stream *stream,
                                  const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_tokenizer_service *s = self;
    const Gm__TurnRequest *in = (const Gm__TurnRequest *)request;
    const bool continued = in->has_continued && in->continued;
    struct gm_ids ids = { NULL, 0, 0 };
    enum gm_status rc;
    if (!in->has_messages)
        return gm_fail(err, GM_INVALID, "a turn needs messages");
    if (in->has_raw && in->raw) {
        rc = gm_turns_raw(s->tok, (const char *)in->messages.data, in->messages.len, continued,
                          &ids, err);
    } else {
        const struct gm_turns_json json = {
            .messages = (const char *)in->messages.data,
            .messages_len = in->messages.len,
            .tools = in->has_tools ? (const char *)in->tools.data : NULL,
            .tools_len = in->has_tools ? in->tools.len : 0,
            .continued = continued,
        };
        rc = gm_turns_from_json(s->tok, &json, &ids, err);
    }
    return reply_ids(stream, rc, &ids);
}

static enum gm_status decode(void *self, struct gm_stream *stream, const ProtobufCMessage *request,
                             struct gm_err *err)
{
    struct gm_tokenizer_service *s = self;
    const Gm__DecodeRequest *in = (const Gm__DecodeRequest *)request;
    const struct gm_vocab *vocab = gm_tokenizer_vocab(s->tok);
    for (size_t i = 0; i < in->n_ids; i++)
        if (in->ids[i] < 0 || (uint32_t)in->ids[i] >= gm_vocab_n(vocab))
            return gm_fail(err, GM_INVALID, "token id %d is not in 0..%u", in->ids[i],
                           gm_vocab_n(vocab) - 1);
    struct gm_buf text = GM_BUF(GM_BODY_BYTES_MAX);
    enum gm_status rc = gm_vocab_decode(vocab, in->ids, in->n_ids, &text, err);
    if (rc == GM_OK) {
        Gm__TextReply reply = GM__TEXT_REPLY__INIT;
        reply.text.data = (uint8_t *)text.data;
        reply.text.len = text.len;
        rc = gm_rpc_reply(stream, &reply.base);
    }
    gm_buf_free(&text);
    return rc;
}

static enum gm_status vocabulary(void *self, struct gm_stream *stream,
                                 const ProtobufCMessage *request, struct gm_err *err)
{
    struct gm_tokenizer_service *s = self;
    const struct gm_vocab *vocab = gm_tokenizer_vocab(s->tok);
    (void)request;
    struct gm_ids close = { NULL, 0, 0 };
    enum gm_status rc = gm_turns_close(s->tok, &close, err);
    if (rc != GM_OK && rc != GM_PRECONDITION) /* a vocabulary without turns serves raw text */
        return rc;

    int32_t banned[BANNED], ends[2];
    Gm__VocabReply reply = GM__VOCAB_REPLY__INIT;
    for (size_t i = 0; i < BANNED; i++) {
        int32_t id = gm_vocab_special(vocab, banned_specials[i]);
        if (id >= 0)
            banned[reply.n_banned++] = id;
    }
    static const enum gm_special end_specials[2] = { GM_SPECIAL_EOS, GM_SPECIAL_END_OF_TURN };
    for (size_t i = 0; i < 2; i++) {
        int32_t id = gm_vocab_special(vocab, end_specials[i]);
        if (id >= 0)
            ends[reply.n_end_ids++] = id;
    }
    reply.path = s->vocab_path;
    reply.hash = gm_vocab_hash(vocab);
    reply.banned = banned;
    reply.end_ids = ends;
    reply.n_close_ids = close.n;
    reply.close_ids = close.v;
    rc = gm_rpc_reply(stream, &reply.base);
    gm_ids_free(&close);
    return rc;
}

const struct gm_method gm_tokenizer_methods[] = {
    { "Tokenizer.Encode", &gm__encode_request__descriptor, encode },
    { "Tokenizer.EncodeTurn", &gm__turn_request__descriptor, encode_turn },
    { "Tokenizer.Decode", &gm__decode_request__descriptor, decode },
    { "Tokenizer.Vocab", &gm__empty__descriptor, vocabulary },
    { NULL, NULL, NULL },
};
