/* load_http.c - an HTTP/1.1 reply and server-sent events from pieces of bytes.
 *
 * Owns:      the two state machines.
 * Does not:  read sockets, keep bodies, or accept what the standards forbid.
 */
#include "services/cli/load_http.h"

#include <string.h>
#include <strings.h>

void gm_http_reply_begin(struct gm_http_reply *r)
{
    struct gm_buf line = r->line;
    gm_buf_clear(&line);
    line.max = GM_HTTP_LINE_MAX;
    *r = (struct gm_http_reply){ .retry_after_s = -1, .line = line };
}

void gm_http_reply_free(struct gm_http_reply *r)
{
    gm_buf_free(&r->line);
}

/* "HTTP/1.1 200 OK", "HTTP/1.0 404". */
static enum gm_status read_status(struct gm_http_reply *r, struct gm_err *err)
{
    const char *text = gm_buf_text(&r->line);
    char code[4] = "";
    int64_t value = 0;
    const bool form = strncmp(text, "HTTP/1.", 7) == 0 && (text[7] == '0' || text[7] == '1') &&
                      text[8] == ' ' && strlen(text) >= 12 && (text[12] == 0 || text[12] == ' ');
    if (form)
        memcpy(code, text + 9, 3);
    if (!form || gm_parse_i64(code, 100, 599, &value, NULL) != GM_OK)
        return gm_fail(err, GM_DATA_LOSS, "\"%.40s\" is no status line of HTTP/1.1", text);
    r->status = (int)value;
    r->keep = text[7] == '1';
    r->at = GM_HTTP_HEADER;
    return GM_OK;
}

/* Whether `list` ("gzip, Chunked") has the word. */
static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    while (*list) {
        list += strspn(list, " \t,");
        const size_t len = strcspn(list, " \t,;");
        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += strcspn(list, ",");
    }
    return false;
}

static enum gm_status read_length(struct gm_http_reply *r, const char *value, struct gm_err *err)
{
    uint64_t length = 0;
    if (gm_parse_u64(value, 0, UINT64_MAX, &length, NULL) != GM_OK ||
        (r->sized && r->left != length))
        return gm_fail(err, GM_DATA_LOSS, "the reply has a wrong Content-Length, \"%.40s\"", value);
    r->sized = true;
    r->left = length;
    return GM_OK;
}

static enum gm_status read_header(struct gm_http_reply *r, struct gm_err *err)
{
    char *line = r->line.data;
    char *colon = strchr(line, ':');
    if (!colon || colon == line || strcspn(line, " \t") < (size_t)(colon - line))
        return gm_fail(err, GM_DATA_LOSS, "\"%.40s\" is no header line", line);
    *colon = 0;
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    char *end = line + r->line.len;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = 0;
    if (strcasecmp(line, "content-length") == 0)
        return read_length(r, value, err);
    if (strcasecmp(line, "transfer-encoding") == 0) {
        if (strcasecmp(value, "chunked") != 0)
            return gm_fail(err, GM_DATA_LOSS, "Transfer-Encoding \"%.40s\" is not known here",
                           value);
        r->chunked = true;
    } else if (strcasecmp(line, "connection") == 0) {
        if (has_word(value, "close"))
            r->keep = false;
        else if (has_word(value, "keep-alive"))
            r->keep = true;
    } else if (strcasecmp(line, "retry-after") == 0) {
        int64_t seconds = 0;
        if (gm_parse_i64(value, 0, INT32_MAX, &seconds, NULL) == GM_OK)
            r->retry_after_s = seconds;
    }
    return GM_OK;
}

/* The empty line after the headers: what follows? */
static enum gm_status end_headers(struct gm_http_reply *r, struct gm_err *err)
{
    if (r->status < 200) {
        const int interim = r->interim + 1;
        if (r->status == 101 || interim > GM_HTTP_INTERIM_MAX)
            return gm_fail(err, GM_DATA_LOSS, "the server keeps answering %d", r->status);
        gm_http_reply_begin(r);
        r->started = true;
        r->interim = interim;
    } else if (r->status == 204 || r->status == 304) {
        r->at = GM_HTTP_DONE;
    } else if (r->chunked) {
        r->at = GM_HTTP_CHUNK_SIZE;
    } else if (r->sized) {
        r->at = r->left ? GM_HTTP_BODY : GM_HTTP_DONE;
    } else {
        r->keep = false;
        r->at = GM_HTTP_BODY_CLOSE;
    }
    return GM_OK;
}

/* "1a" or "1a; name=value". */
static enum gm_status read_chunk_size(struct gm_http_reply *r, struct gm_err *err)
{
    enum { DIGITS_MAX = 15 };
    static const char digits[] = "0123456789abcdef";
    const char *text = gm_buf_text(&r->line);
    size_t n = 0;
    r->left = 0;
    for (; text[n]; n++) {
        const char c = (char)(text[n] >= 'A' && text[n] <= 'F' ? text[n] + 32 : text[n]);
        const char *digit = strchr(digits, c);
        if (!digit)
            break;
        if (n == DIGITS_MAX)
            return gm_fail(err, GM_DATA_LOSS, "a chunk of size \"%.40s\" is too large", text);
        r->left = r->left * 16 + (uint64_t)(digit - digits);
    }
    const char *rest = text + n + strspn(text + n, " \t");
    if (n == 0 || (*rest && *rest != ';'))
        return gm_fail(err, GM_DATA_LOSS, "\"%.40s\" is no size of a chunk", text);
    r->at = r->left ? GM_HTTP_CHUNK_DATA : GM_HTTP_TRAILER;
    return GM_OK;
}

/* A line without its end is in r->line. */
static enum gm_status read_line(struct gm_http_reply *r, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    if (r->line.len && r->line.data[r->line.len - 1] == '\r')
        r->line.data[--r->line.len] = 0;
    if (memchr(gm_buf_text(&r->line), 0, r->line.len))
        return gm_fail(err, GM_DATA_LOSS, "a line of the reply's head holds a zero byte");
    switch (r->at) {
    case GM_HTTP_STATUS:
        rc = read_status(r, err);
        break;
    case GM_HTTP_HEADER:
        rc = r->line.len ? read_header(r, err) : end_headers(r, err);
        break;
    case GM_HTTP_CHUNK_SIZE:
        r->heads = 0;
        rc = read_chunk_size(r, err);
        break;
    case GM_HTTP_CHUNK_END:
        if (r->line.len)
            rc = gm_fail(err, GM_DATA_LOSS, "a chunk is longer than its size says");
        r->at = GM_HTTP_CHUNK_SIZE;
        break;
    default: /* trailers say nothing that we use */
        if (!r->line.len)
            r->at = GM_HTTP_DONE;
        break;
    }
    gm_buf_clear(&r->line);
    return rc;
}

static bool in_body(const struct gm_http_reply *r)
{
    return r->at == GM_HTTP_BODY || r->at == GM_HTTP_CHUNK_DATA || r->at == GM_HTTP_BODY_CLOSE;
}

/* Takes a part of a line; *used: of these n bytes. */
static enum gm_status take_line(struct gm_http_reply *r, const char *bytes, size_t n, size_t *used,
                                struct gm_err *err)
{
    const char *end = memchr(bytes, '\n', n);
    const size_t part = end ? (size_t)(end - bytes) : n;
    *used = part + (end != NULL);
    r->heads += *used;
    if (r->heads > GM_HTTP_HEADS_MAX)
        return gm_fail(err, GM_EXHAUSTED, "the headers of a reply are longer than %d KiB",
                       GM_HTTP_HEADS_MAX >> 10);
    if (gm_buf_append(&r->line, bytes, part, NULL) != GM_OK)
        return gm_fail(err, GM_EXHAUSTED, "a header of a reply is longer than %d KiB",
                       GM_HTTP_LINE_MAX >> 10);
    return end ? read_line(r, err) : GM_OK;
}

enum gm_status gm_http_reply_feed(struct gm_http_reply *r, const char *bytes, size_t n,
                                  size_t *used, gm_http_sink *sink, void *ctx, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    *used = 0;
    while (rc == GM_OK && *used < n && r->at != GM_HTTP_DONE) {
        size_t part = n - *used;
        r->started = true;
        if (!in_body(r)) {
            rc = take_line(r, bytes + *used, n - *used, &part, err);
            *used += part;
            continue;
        }
        if (r->at != GM_HTTP_BODY_CLOSE) {
            part = r->left < part ? (size_t)r->left : part;
            r->left -= part;
            if (r->left == 0)
                r->at = r->at == GM_HTTP_BODY ? GM_HTTP_DONE : GM_HTTP_CHUNK_END;
        }
        *used += part;
        rc = sink(ctx, bytes + *used - part, part, err);
    }
    return rc;
}

enum gm_status gm_http_reply_end(struct gm_http_reply *r, struct gm_err *err)
{
    if (r->at == GM_HTTP_BODY_CLOSE)
        r->at = GM_HTTP_DONE;
    if (r->at == GM_HTTP_DONE)
        return GM_OK;
    return gm_fail(err, GM_DATA_LOSS, "the server closed the connection %s",
                   r->started ? "inside its answer" : "before it answered");
}

void gm_sse_begin(struct gm_sse *s)
{
    gm_buf_clear(&s->line);
    gm_buf_clear(&s->data);
    s->line.max = s->data.max = GM_SSE_EVENT_MAX;
    s->after_cr = s->has_data = false;
}

void gm_sse_free(struct gm_sse *s)
{
    gm_buf_free(&s->line);
    gm_buf_free(&s->data);
}

static enum gm_status sse_line(struct gm_sse *s, gm_http_sink *event, void *ctx, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    const char *text = gm_buf_text(&s->line);
    if (s->line.len == 0) {
        if (s->has_data)
            rc = event(ctx, gm_buf_text(&s->data), s->data.len, err);
        gm_buf_clear(&s->data);
        s->has_data = false;
        return rc;
    }
    if (s->line.len < 4 || memcmp(text, "data", 4) != 0 || (s->line.len > 4 && text[4] != ':'))
        return GM_OK;
    size_t at = s->line.len > 4 ? 5 : 4;
    at += at < s->line.len && text[at] == ' ';
    if (s->has_data)
        rc = gm_buf_append(&s->data, "\n", 1, err);
    if (rc == GM_OK)
        rc = gm_buf_append(&s->data, text + at, s->line.len - at, err);
    s->has_data = true;
    return rc;
}

enum gm_status gm_sse_feed(struct gm_sse *s, const char *bytes, size_t n, gm_http_sink *event,
                           void *ctx, struct gm_err *err)
{
    for (size_t at = 0; at < n;) {
        if (s->after_cr && bytes[at] == '\n') {
            s->after_cr = false;
            at++;
            continue;
        }
        s->after_cr = false;
        size_t end = at;
        while (end < n && bytes[end] != '\n' && bytes[end] != '\r')
            end++;
        enum gm_status rc = gm_buf_append(&s->line, bytes + at, end - at, NULL);
        if (rc == GM_OK && end < n) {
            s->after_cr = bytes[end] == '\r';
            rc = sse_line(s, event, ctx, err);
            gm_buf_clear(&s->line);
        } else if (rc != GM_OK) {
            gm_fail(err, rc, "an event of the stream is longer than %d KiB",
                    GM_SSE_EVENT_MAX >> 10);
        }
        if (rc != GM_OK)
            return rc;
        at = end + (end < n);
    }
    return GM_OK;
}
