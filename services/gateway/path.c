/* path.c - the table of routes, and how a target is matched with it.
 *
 * Owns:      splitting at '/', decoding each segment once, the query's names, the sentences of 404.
 * Does not:  normalise: "//", "." and ".." are segments like others and match nothing.
 */
#include "services/gateway/path.h"

#include <stdio.h>
#include <string.h>

enum { SHOWN_MAX = 80 }; /* bytes of a client's path shown in a sentence */

/* clang-format off */
const struct gm_route_row gm_routes[] = {
    { "GET", "/", GM_ROUTE_PAGE, GM_SCOPE_PAGE, 0, "*", "The web page." },
    { "POST", "/v1/chat/completions", GM_ROUTE_CHAT, GM_SCOPE_API, GM_API_CHAT, NULL,
      "Answers a conversation." },
    { "POST", "/v1/completions", GM_ROUTE_COMPLETION, GM_SCOPE_API, GM_API_COMPLETION, NULL,
      "Continues prompts." },
    { "POST", "/v1/responses", GM_ROUTE_RESPONSE, GM_SCOPE_API, GM_API_RESPONSE, NULL,
      "Answers an input and keeps the response." },
    { "GET", "/v1/responses/{id}", GM_ROUTE_RESPONSE_GET, GM_SCOPE_API, 0, NULL,
      "A stored response." },
    { "DELETE", "/v1/responses/{id}", GM_ROUTE_RESPONSE_DELETE, GM_SCOPE_API, 0, NULL,
      "Forgets a stored response." },
    { "GET", "/v1/models", GM_ROUTE_MODELS, GM_SCOPE_API, 0, NULL, "The running model, listed." },
    { "GET", "/v1/models/{id}", GM_ROUTE_MODEL, GM_SCOPE_API, 0, NULL, "The running model." },
    { "POST", "/v1/score", GM_ROUTE_SCORE, GM_SCOPE_API, GM_API_SCORE, NULL,
      "Log-probabilities of texts or token ids." },
    { "POST", "/v1/tokenize", GM_ROUTE_TOKENIZE, GM_SCOPE_API, GM_API_TOKENIZE, NULL,
      "Token ids of a text or a conversation." },
    { "POST", "/v1/detokenize", GM_ROUTE_DETOKENIZE, GM_SCOPE_API, GM_API_DETOKENIZE, NULL,
      "The text of token ids." },
    { "GET", "/v1/sessions", GM_ROUTE_SESSIONS, GM_SCOPE_API, 0, NULL, "The stored sessions." },
    { "GET", "/v1/sessions/{id}", GM_ROUTE_SESSION_GET, GM_SCOPE_API, 0, NULL,
      "A session with its turns." },
    { "DELETE", "/v1/sessions/{id}", GM_ROUTE_SESSION_DELETE, GM_SCOPE_API, 0, NULL,
      "Forgets a session." },
    { "POST", "/v1/sessions/{id}/undo", GM_ROUTE_SESSION_UNDO, GM_SCOPE_API, 0, NULL,
      "Removes a session's last turn." },
    { "GET", "/v1/sessions/{id}/stream", GM_ROUTE_SESSION_STREAM, GM_SCOPE_API, 0, "from",
      "The running or last answer of a session, as events, from its token N on (?from=N)." },
    { "GET", "/health", GM_ROUTE_HEALTH, GM_SCOPE_NONE, 0, "*", "200 while the gateway lives." },
    { "GET", "/ready", GM_ROUTE_READY, GM_SCOPE_NONE, 0, "*", "200 while requests are served." },
    { "GET", "/metrics", GM_ROUTE_METRICS, GM_SCOPE_METRICS, 0, "*", "Prometheus text." },
    { "GET", "/openapi.json", GM_ROUTE_OPENAPI, GM_SCOPE_API, 0, "*", "This interface." },
    /* last: what has a pattern of its own is no file */
    { "GET", "/{id}", GM_ROUTE_FILE, GM_SCOPE_PAGE, 0, "*", "A file of the web page." },
};
/* clang-format on */
const size_t gm_routes_n = sizeof gm_routes / sizeof gm_routes[0];

/* ---- 404 ------------------------------------------------------------------------------------- */

struct guide {
    const char *prefix, *text;
};

static const struct guide guides[] = {
    { "/v1/embeddings", "embeddings are not served" },
    { "/v1/messages", "Anthropic's API is not served" },
    { "/api/", "Ollama's API is not served" },
    { "/v1/audio", "audio is not served" },
    { "/v1/images", "images are not served" },
    { "/v1/", "there is no such call" },
};

bool gm_path_unknown(const char *path, size_t len, struct gm_problem *why)
{
    char shown[SHOWN_MAX + 1] = "";
    const char *text = "there is nothing";
    if (len > 0)
        snprintf(shown, sizeof shown, "%.*s", len < SHOWN_MAX ? (int)len : SHOWN_MAX, path);
    for (size_t i = 0; i < sizeof guides / sizeof guides[0]; i++) {
        size_t n = strlen(guides[i].prefix);
        if (len >= n && memcmp(path, guides[i].prefix, n) == 0) {
            text = guides[i].text;
            break;
        }
    }
    return gm_problem_set(why, 404, "unknown_path", NULL,
                          "%s at %s; served are /v1/chat/completions, /v1/completions, "
                          "/v1/responses, /v1/models, /v1/score, /v1/tokenize, /v1/detokenize, "
                          "/v1/sessions, /health, /ready, /metrics and /openapi.json",
                          text, shown);
}

/* ---- decoding -------------------------------------------------------------------------------- */

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool gm_path_decode(const char *text, size_t n, char *out, size_t cap)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '%') {
            int high = n - i > 2 ? hex(text[i + 1]) : -1;
            int low = n - i > 2 ? hex(text[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = (unsigned char)(high * 16 + low);
            i += 2;
        }
        if (c < 0x20 || c == 0x7F || used + 1 >= cap)
            return false;
        out[used++] = (char)c;
    }
    out[used] = '\0';
    return gm_utf8_bad(out, used) == used;
}

/* ---- matching -------------------------------------------------------------------------------- */

struct part {
    const char *text;
    size_t len;
};

/* The path's segments: "/v1/models" is v1 and models, "/" is one empty segment. False: it does not
 * begin with '/', or has more than any route. */
static bool split(const char *path, size_t len, struct part parts[GM_PATH_PARTS_MAX], size_t *n)
{
    *n = 0;
    if (len == 0 || path[0] != '/')
        return false;
    for (size_t at = 1; at <= len;) {
        const char *end = at < len ? memchr(path + at, '/', len - at) : NULL;
        size_t stop = end != NULL ? (size_t)(end - path) : len;
        if (*n == GM_PATH_PARTS_MAX)
            return false;
        parts[(*n)++] = (struct part){ path + at, stop - at };
        at = stop + 1;
    }
    return true;
}

/* Whether the segments fit the pattern; then *id is the one that stands for {id}. */
static bool fits(const char *pattern, const struct part *parts, size_t n, const struct part **id)
{
    struct part want[GM_PATH_PARTS_MAX];
    size_t n_want = 0;
    *id = NULL;
    if (!split(pattern, strlen(pattern), want, &n_want) || n != n_want)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (want[i].len == 4 && memcmp(want[i].text, "{id}", 4) == 0 && parts[i].len > 0)
            *id = &parts[i];
        else if (want[i].len != parts[i].len || memcmp(want[i].text, parts[i].text, want[i].len))
            return false;
    }
    return true;
}

static bool is_method(const char *given, const char *row, bool *head)
{
    *head = strcmp(given, "HEAD") == 0;
    return strcmp(*head ? "GET" : given, row) == 0;
}

static void add_allow(char *allow, size_t cap, const char *method)
{
    bool get = strcmp(method, "GET") == 0;
    size_t used = strlen(allow);
    snprintf(allow + used, cap - used, "%s%s%s", used > 0 ? ", " : "", method, get ? ", HEAD" : "");
}

/* ---- ids and queries ------------------------------------------------------------------------- */

static bool take_id(struct gm_path *p, const struct part *id, struct gm_problem *why)
{
    if (!gm_path_decode(id->text, id->len, p->id, sizeof p->id))
        return gm_problem_set(why, 400, "invalid_path", "id",
                              "the id in the path is no UTF-8 text of 1 to %d bytes, rightly "
                              "percent-encoded",
                              GM_PATH_ID_MAX);
    size_t len = strlen(p->id);
    switch (p->route) {
    case GM_ROUTE_MODEL: /* any name: the caller compares it */
        return true;
    case GM_ROUTE_FILE:
        if (gm_request_id_ok(p->id, len) && p->id[0] != '.')
            return true;
        return gm_path_unknown("/", 1, why);
    default:
        if (gm_request_id_ok(p->id, len))
            return true;
        return gm_problem_set(why, 400, "invalid_path", "id",
                              "the id in the path must be 1 to %d of A-Z a-z 0-9 . _ -",
                              GM_REQUEST_ID_MAX);
    }
}

/* Whether `name` is one of the words of `list`. */
static bool is_word(const char *list, const char *name)
{
    size_t len = strlen(name);
    while (len > 0 && *list != '\0') {
        size_t n = strcspn(list, " ");
        if (n == len && memcmp(list, name, n) == 0)
            return true;
        list += n + (list[n] == ' ');
    }
    return false;
}

static bool take_pair(struct gm_path *p, const char *name, const char *value,
                      struct gm_problem *why)
{
    uint64_t from = 0;
    if (!is_word(p->row->query, name))
        return gm_problem_set(why, 400, "unknown_parameter", name,
                              "\"%.40s\" is no query parameter of %s", name, p->row->pattern);
    if (p->has_from)
        return gm_problem_set(why, 400, "invalid_value", name, "%s is given twice", name);
    if (gm_parse_u64(value, 0, UINT32_MAX, &from, NULL) != GM_OK)
        return gm_problem_set(why, 400, "invalid_value", name,
                              "%s must be a whole number, 0 or more", name);
    p->has_from = true;
    p->from = (uint32_t)from;
    return true;
}

static bool take_query(struct gm_path *p, const char *text, size_t len, struct gm_problem *why)
{
    if (p->row->query != NULL && strcmp(p->row->query, "*") == 0)
        return true;
    while (len > 0) {
        const char *end = memchr(text, '&', len);
        size_t n = end != NULL ? (size_t)(end - text) : len;
        const char *equal = memchr(text, '=', n);
        size_t n_name = equal != NULL ? (size_t)(equal - text) : n;
        char name[48], value[48] = "";
        if (!gm_path_decode(text, n_name, name, sizeof name) ||
            (equal != NULL && !gm_path_decode(equal + 1, n - n_name - 1, value, sizeof value)))
            return gm_problem_set(why, 400, "invalid_query", NULL,
                                  "the query is not rightly percent-encoded, or too long");
        if (n > 0 && p->row->query == NULL)
            return gm_problem_set(why, 400, "unknown_parameter", name,
                                  "\"%s\": %s has no query parameters", name, p->row->pattern);
        if (n > 0 && !take_pair(p, name, value, why))
            return false;
        text += end != NULL ? n + 1 : n;
        len -= end != NULL ? n + 1 : n;
    }
    return true;
}

/* ---- all ------------------------------------------------------------------------------------- */

bool gm_path_find(const char *method, const char *target, size_t len, struct gm_path *p,
                  struct gm_problem *why)
{
    struct part parts[GM_PATH_PARTS_MAX];
    const struct part *id = NULL;
    size_t n = 0;
    memset(p, 0, sizeof *p);
    memset(why, 0, sizeof *why);
    if (len > GM_TARGET_BYTES_MAX)
        return gm_problem_set(why, 414, "uri_too_long", NULL,
                              "the path and query have %zu bytes; at most %d fit", len,
                              GM_TARGET_BYTES_MAX);
    const char *mark = len > 0 ? memchr(target, '?', len) : NULL;
    size_t path_len = mark != NULL ? (size_t)(mark - target) : len;
    if (!split(target, path_len, parts, &n))
        return gm_path_unknown(target, path_len, why);
    for (size_t i = 0; i < gm_routes_n; i++) {
        const struct gm_route_row *row = &gm_routes[i];
        bool is_file = row->route == GM_ROUTE_FILE;
        if (!fits(row->pattern, parts, n, &id) || (is_file && p->allow[0] != '\0'))
            continue;
        if (is_file && memchr(id->text, '.', id->len) == NULL)
            continue;
        if (is_method(method, row->method, &p->head)) {
            p->route = row->route;
            p->row = row;
            p->allow[0] = '\0';
            if (id != NULL && !take_id(p, id, why))
                return false;
            return mark == NULL || take_query(p, mark + 1, len - path_len - 1, why);
        }
        add_allow(p->allow, sizeof p->allow, row->method);
    }
    if (p->allow[0] == '\0')
        return gm_path_unknown(target, path_len, why);
    return gm_problem_set(why, 405, "method_not_allowed", NULL, "this path takes %s only",
                          p->allow);
}
