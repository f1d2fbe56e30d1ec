/* tokenize.c - `gemline tokenize`: text to ids and back, whole or a JSON line each.
 *
 * Owns:      the forms of input and output.
 * Does not:  split text (the tokenizer process does).
 */
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/cli/lines.h"

struct options {
    const char *model;
    bool no_bos, decode, json;
};

static const struct gm_opt opts[] = {
    { .name = "no-bos",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, no_bos),
      .help = "without <bos> before the text" },
    { .name = "decode",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, decode),
      .help = "ids to text" },
    { .name = "json",
      .kind = GM_OPT_FLAG,
      .at = offsetof(struct options, json),
      .help = "each line {\"text\": ...} to an array of ids, or with --decode the other way" },
    { .name = "model",
      .kind = GM_OPT_TEXT,
      .at = offsetof(struct options, model),
      .arg = "FILE",
      .help = "a GGUF file, when no pipeline runs" },
};
static const struct gm_program program = {
    .name = "gemline tokenize",
    .usage = "[options] [FILE]",
    .about = "Prints the token ids of FILE or stdin.",
    .opts = opts,
    .n_opts = sizeof opts / sizeof opts[0],
    .positionals_max = 1,
};

static enum gm_status put_ids(const int32_t *ids, size_t n, bool json, struct gm_buf *out,
                              struct gm_err *err)
{
    enum gm_status rc = json ? gm_buf_append_text(out, "[", err) : GM_OK;
    for (size_t i = 0; rc == GM_OK && i < n; i++)
        rc = gm_buf_printf(out, err, "%s%d", i == 0 ? "" : json ? ", " : " ", ids[i]);
    return rc == GM_OK ? gm_buf_append_text(out, json ? "]\n" : "\n", err) : rc;
}

enum gm_status gm_ids_of_text(struct gm_conn *c, const char *text, size_t n, bool bos,
                              struct gm_ids_list *ids, struct gm_err *err)
{
    Gm__EncodeRequest q = GM__ENCODE_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    q.text.data = (uint8_t *)text;
    q.text.len = n;
    q.has_bos = 1;
    q.bos = bos;
    memset(ids, 0, sizeof *ids);
    enum gm_status rc =
        gm_client_call(c->client,
                       &(struct gm_client_to){ "tokenizer", 0, "Tokenizer.Encode", &q.base,
                                               &gm__ids_reply__descriptor, GM_CLI_CALL_MS },
                       &reply, err);
    if (rc != GM_OK)
        return rc;
    const Gm__IdsReply *r = (const Gm__IdsReply *)reply;
    ids->ids = malloc((r->n_ids + 1) * sizeof *ids->ids);
    if (ids->ids && r->n_ids)
        memcpy(ids->ids, r->ids, r->n_ids * sizeof *ids->ids);
    ids->n = r->n_ids;
    protobuf_c_message_free_unpacked(reply, NULL);
    return ids->ids ? GM_OK : gm_fail(err, GM_EXHAUSTED, "no memory for %zu ids", ids->n);
}

static enum gm_status encode(struct gm_conn *c, const struct options *o, const char *text, size_t n,
                             struct gm_buf *out, struct gm_err *err)
{
    struct gm_ids_list ids;
    enum gm_status rc = gm_ids_of_text(c, text, n, !o->no_bos, &ids, err);
    if (rc == GM_OK)
        rc = put_ids(ids.ids, ids.n, o->json, out, err);
    free(ids.ids);
    return rc;
}

static enum gm_status encode_line(struct gm_conn *c, const struct options *o, const char *line,
                                  size_t n, struct gm_buf *out, struct gm_err *err)
{
    json_error_t at;
    json_t *j = json_loadb(line, n, JSON_ALLOW_NUL, &at);
    json_t *text = json_object_get(j, "text");
    enum gm_status rc =
        json_is_string(text)
            ? encode(c, o, json_string_value(text), json_string_length(text), out, err)
            : gm_fail(err, GM_INVALID, "a line is {\"text\": \"...\"}: %.100s",
                      j ? "there is no text in it" : at.text);
    json_decref(j);
    return rc;
}

static enum gm_status decode(struct gm_conn *c, const struct options *o,
                             const struct gm_ids_list *ids, struct gm_buf *out, struct gm_err *err)
{
    struct gm_buf text = GM_BUF(GM_CLI_INPUT_BYTES_MAX);
    enum gm_status rc = gm_vocab_decode(&c->vocab, ids->ids, ids->n, &text, err);
    if (rc == GM_OK && !o->json)
        rc = gm_buf_append(out, gm_buf_text(&text), text.len, err);
    else if (rc == GM_OK) {
        rc = gm_buf_append_text(out, "{\"text\": ", err);
        if (rc == GM_OK)
            rc = gm_buf_append_json(out, gm_buf_text(&text), text.len, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(out, "}\n", err);
    }
    gm_buf_free(&text);
    return rc;
}

enum gm_status gm_ids_of_json(const char *line, size_t n, uint32_t vocab, struct gm_ids_list *ids,
                              struct gm_err *err)
{
    json_error_t at;
    json_t *j = json_loadb(line, n, 0, &at);
    memset(ids, 0, sizeof *ids);
    if (!json_is_array(j)) {
        json_decref(j);
        return gm_fail(err, GM_INVALID, "a line is an array of token ids: %.100s",
                       j ? "this is none" : at.text);
    }
    const size_t count = json_array_size(j);
    enum gm_status rc = GM_OK;
    ids->ids = malloc((count + 1) * sizeof *ids->ids);
    if (!ids->ids)
        rc = gm_fail(err, GM_EXHAUSTED, "no memory for %zu ids", count);
    for (size_t i = 0; rc == GM_OK && i < count; i++) {
        const json_t *one = json_array_get(j, i);
        const json_int_t id = json_integer_value(one);
        if (!json_is_integer(one) || id < 0 || id >= (json_int_t)vocab)
            rc = gm_fail(err, GM_INVALID, "entry %zu of the array is no token id (0..%u)", i,
                         vocab - 1);
        else
            ids->ids[ids->n++] = (int32_t)id;
    }
    json_decref(j);
    return rc;
}

/* "2 818, [5]" -> a JSON array, so that one reader judges the numbers. */
static enum gm_status decode_plain(struct gm_conn *c, const struct options *o,
                                   const struct gm_buf *in, struct gm_buf *out, struct gm_err *err)
{
    struct gm_buf json = GM_BUF(2 * (size_t)GM_CLI_INPUT_BYTES_MAX);
    struct gm_ids_list ids = { NULL, 0 };
    const char *at = gm_buf_text(in);
    enum gm_status rc = gm_buf_append_text(&json, "[", err);
    while (rc == GM_OK) {
        at += strspn(at, " \t\r\n,[]");
        const size_t n = strcspn(at, " \t\r\n,[]");
        if (!n)
            break;
        rc = json.len > 1 ? gm_buf_append_text(&json, ",", err) : GM_OK;
        if (rc == GM_OK)
            rc = gm_buf_append(&json, at, n, err);
        at += n;
    }
    if (rc == GM_OK)
        rc = gm_buf_append_text(&json, "]", err);
    if (rc == GM_OK)
        rc = gm_ids_of_json(json.data, json.len, gm_vocab_n(&c->vocab), &ids, err);
    if (rc == GM_OK)
        rc = decode(c, o, &ids, out, err);
    free(ids.ids);
    gm_buf_free(&json);
    return rc;
}

static enum gm_status decode_line(struct gm_conn *c, const struct options *o, const char *line,
                                  size_t n, struct gm_buf *out, struct gm_err *err)
{
    struct gm_ids_list ids;
    enum gm_status rc = gm_ids_of_json(line, n, gm_vocab_n(&c->vocab), &ids, err);
    if (rc == GM_OK)
        rc = decode(c, o, &ids, out, err);
    free(ids.ids);
    return rc;
}

bool gm_line_next(const struct gm_buf *in, size_t *at, const char **line, size_t *n)
{
    while (*at < in->len) {
        const char *begin = in->data + *at;
        const char *end = memchr(begin, '\n', in->len - *at);
        *line = begin;
        *n = end ? (size_t)(end - begin) : in->len - *at;
        *at += *n + (end ? 1 : 0);
        for (size_t i = 0; i < *n; i++)
            if (!isspace((unsigned char)begin[i]))
                return true;
    }
    return false;
}

static enum gm_status work(struct gm_conn *c, const struct options *o, const struct gm_buf *in,
                           struct gm_err *err)
{
    struct gm_buf out = GM_BUF(8 * (size_t)GM_CLI_INPUT_BYTES_MAX);
    const char *line;
    size_t n, at = 0;
    unsigned long number = 0;
    enum gm_status rc = GM_OK;
    if (!o->json)
        rc = o->decode ? decode_plain(c, o, in, &out, err)
                       : encode(c, o, gm_buf_text(in), in->len, &out, err);
    while (o->json && rc == GM_OK && !gm_stopping() && gm_line_next(in, &at, &line, &n)) {
        number++;
        rc = o->decode ? decode_line(c, o, line, n, &out, err)
                       : encode_line(c, o, line, n, &out, err);
        if (rc != GM_OK)
            gm_err_prefix(err, "line %lu", number);
    }
    if (rc == GM_OK)
        rc = gm_cli_write(gm_buf_text(&out), out.len, err);
    gm_buf_free(&out);
    return rc;
}

int gm_cmd_tokenize(int argc, char **argv)
{
    static struct gm_conn conn;
    struct options o;
    struct gm_args args;
    struct gm_err err = GM_ERR_NONE;
    struct gm_buf in = GM_BUF(GM_CLI_INPUT_BYTES_MAX);
    const int code = gm_cli_parse(&program, argc, argv, &o, &args);
    if (code >= 0)
        return code;
    const struct gm_up_options up = { .model = o.model, .shards = 1 };
    enum gm_status rc = gm_cli_read(args.n ? args.positionals[0] : "-", &in, &err);
    if (rc == GM_OK)
        rc = gm_conn_open(&conn, &up, true, &err);
    if (rc == GM_OK) {
        rc = work(&conn, &o, &in, &err);
        gm_conn_close(&conn);
    }
    gm_buf_free(&in);
    return rc == GM_OK ? GM_CLI_OK : gm_cli_fail(&err);
}
