/* path.h - method and target of an HTTP request into a route: one table.
 *
 * Owns:      the routes, percent-decoding, the ids in paths, query parameters, 404 and 405.
 * Does not:  read headers or bodies, serve anything, or compare a model's name.
 * Threads:   any; there is no state.
 */
#ifndef GM_GATEWAY_PATH_H
#define GM_GATEWAY_PATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "services/gateway/request.h"

enum {
    GM_TARGET_BYTES_MAX = 2048, /* path and query: more is 414 */
    GM_PATH_ID_MAX = 128,       /* bytes of the {id}, decoded */
    GM_PATH_PARTS_MAX = 8,      /* segments of a path */
};

enum gm_route {
    GM_ROUTE_NONE,
    GM_ROUTE_PAGE, /* GET / */
    GM_ROUTE_FILE, /* GET /{id}: a file of the page; the caller knows which there are */
    GM_ROUTE_CHAT,
    GM_ROUTE_COMPLETION,
    GM_ROUTE_RESPONSE,
    GM_ROUTE_RESPONSE_GET,
    GM_ROUTE_RESPONSE_DELETE,
    GM_ROUTE_MODELS,
    GM_ROUTE_MODEL,
    GM_ROUTE_SCORE,
    GM_ROUTE_TOKENIZE,
    GM_ROUTE_DETOKENIZE,
    GM_ROUTE_SESSIONS,
    GM_ROUTE_SESSION_GET,
    GM_ROUTE_SESSION_DELETE,
    GM_ROUTE_SESSION_UNDO,
    GM_ROUTE_SESSION_STREAM,
    GM_ROUTE_HEALTH,
    GM_ROUTE_READY,
    GM_ROUTE_METRICS,
    GM_ROUTE_OPENAPI,
    GM_ROUTES,
};

/* What a key must be allowed to do. */
enum gm_scope {
    GM_SCOPE_NONE,    /* never asks for a key: /health, /ready */
    GM_SCOPE_PAGE,    /* the page's own files: no data of anybody, and it asks for the key */
    GM_SCOPE_API,     /* any key */
    GM_SCOPE_METRICS, /* loopback, or a key of that scope */
};

struct gm_route_row {
    const char *method;  /* "GET": HEAD goes the same way */
    const char *pattern; /* "/v1/sessions/{id}/stream" */
    enum gm_route route;
    enum gm_scope scope;
    enum gm_api api;   /* the body's, 0: it has none */
    const char *query; /* names of query parameters parted by blanks; NULL: none; "*": any */
    const char *doc;
};
extern const struct gm_route_row gm_routes[];
extern const size_t gm_routes_n;

struct gm_path {
    enum gm_route route;
    const struct gm_route_row *row; /* of the route */
    bool head;                      /* HEAD: the headers alone */
    char id[GM_PATH_ID_MAX + 1];    /* decoded {id}; "": none. UTF-8 without control characters */
    bool has_from;                  /* ?from=N */
    uint32_t from;
    char allow[32]; /* after 405: the value of the Allow header */
};

/* Finds the route of `target`: path and query as they stand in the request line, percent-encoded.
 * False with *why: 400 (encoding, id, query), 404 (which says what is served), 405 (p->allow), 414.
 * OPTIONS is 405 with p->allow: an answer to a preflight is the caller's.                        */
bool gm_path_find(const char *method, const char *target, size_t len, struct gm_path *p,
                  struct gm_problem *why);

/* 404 of a path that is none: also for a GM_ROUTE_FILE that the caller does not have. `path` may be
 * anything; it is shown cut and cleaned. Returns false. */
bool gm_path_unknown(const char *path, size_t len, struct gm_problem *why);

/* Decodes %XX (not '+') of n bytes into out[cap] with an ending 0. False: a wrong escape, a 0 byte,
 * another control character, no UTF-8, or it does not fit. */
bool gm_path_decode(const char *text, size_t n, char *out, size_t cap);

#endif
