/* openapi.c - the interface as a document: see openapi.h.
 *
 * Owns:      the form of both texts, and the few sentences that no table has.
 * Does not:  serve them (edge_info.c) or write files (gm-gateway --print).
 */
#include "services/gateway/openapi.h"

#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/params.h"
#include "services/gateway/path.h"

enum { NAME_MAX = 96, TYPES = 6 };

static const char *const json_types[TYPES] = { "string",  "number", "integer",
                                               "boolean", "array",  "object" };
static const char *const uses[] = { "honoured", "accepted without effect", "refused" };

/* ---- names ------------------------------------------------------------------------------------
 */

static const char *api_title(enum gm_api api)
{
    static const struct {
        enum gm_api api;
        const char *title;
    } titles[] = {
        { GM_API_CHAT, "ChatCompletionRequest" }, { GM_API_COMPLETION, "CompletionRequest" },
        { GM_API_RESPONSE, "ResponseRequest" },   { GM_API_SCORE, "ScoreRequest" },
        { GM_API_TOKENIZE, "TokenizeRequest" },   { GM_API_DETOKENIZE, "DetokenizeRequest" },
    };
    for (size_t i = 0; i < sizeof titles / sizeof titles[0]; i++)
        if (titles[i].api == api)
            return titles[i].title;
    return "Request";
}

/* "post_v1_chat_completions": names an operation. */
static void operation_of(const struct gm_route_row *r, char out[NAME_MAX])
{
    snprintf(out, NAME_MAX, "%s%s", r->method, r->pattern);
    for (char *c = out; *c; c++)
        *c = (char)(isalnum((unsigned char)*c) ? tolower((unsigned char)*c) : '_');
}

/* ---- openapi.json -----------------------------------------------------------------------------
 */

static json_t *types_of(unsigned types)
{
    json_t *list = json_array();
    for (int i = 0; i < TYPES; i++)
        if (types & (1u << i))
            json_array_append_new(list, json_string(json_types[i]));
    json_array_append_new(list, json_string("null"));
    return list;
}

static json_t *param_json(const struct gm_param *p)
{
    json_t *j = json_object();
    char text[700];
    snprintf(text, sizeof text, "%s%s%s%s", p->ours ? "Extension. " : "",
             p->use == GM_PARAM_ACCEPTED ? "Accepted without effect. " : "", p->doc,
             p->use == GM_PARAM_REFUSED ? " (400 when given)" : "");
    json_object_set_new(j, "type", types_of(p->types));
    json_object_set_new(j, "description", json_string(text));
    json_object_set_new(j, "x-gemline-use", json_string(uses[p->use]));
    return j;
}

static json_t *schema_of(enum gm_api api)
{
    json_t *s = json_object(), *properties = json_object(), *required = json_array();
    for (size_t i = 0; i < gm_params_n; i++) {
        const struct gm_param *p = &gm_params[i];
        if (!(p->apis & api))
            continue;
        json_object_set_new(properties, p->name, param_json(p));
        if (p->required)
            json_array_append_new(required, json_string(p->name));
    }
    json_object_set_new(s, "type", json_string("object"));
    json_object_set_new(s, "additionalProperties", json_false());
    json_object_set_new(s, "properties", properties);
    if (json_array_size(required) > 0)
        json_object_set(s, "required", required);
    json_decref(required);
    return s;
}

static json_t *parameter(const char *name, const char *in, const char *type, bool required)
{
    return json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", name, "in", in, "required", required,
                     "schema", "type", type);
}

static json_t *operation_json(const struct gm_route_row *r)
{
    char name[NAME_MAX], ref[NAME_MAX];
    json_t *op = json_object(), *parameters = json_array();
    operation_of(r, name);
    json_object_set_new(op, "operationId", json_string(name));
    json_object_set_new(op, "summary", json_string(r->doc));
    if (strstr(r->pattern, "{id}"))
        json_array_append_new(parameters, parameter("id", "path", "string", true));
    if (r->query && strcmp(r->query, "*") != 0)
        json_array_append_new(parameters, parameter(r->query, "query", "integer", false));
    if (json_array_size(parameters) > 0)
        json_object_set(op, "parameters", parameters);
    json_decref(parameters);
    if (r->api) {
        snprintf(ref, sizeof ref, "#/components/schemas/%s", api_title(r->api));
        json_object_set_new(op, "requestBody",
                            json_pack("{s:b, s:{s:{s:{s:s}}}}", "required", 1, "content",
                                      "application/json", "schema", "$ref", ref));
    }
    if (r->scope == GM_SCOPE_NONE)
        json_object_set_new(op, "security", json_array());
    json_object_set_new(op, "responses",
                        json_pack("{s:{s:s}, s:{s:s, s:{s:{s:{s:s}}}}}", "200", "description",
                                  "The answer.", "default", "description", "What is wrong.",
                                  "content", "application/json", "schema", "$ref",
                                  "#/components/schemas/Error"));
    return op;
}

static json_t *paths_json(void)
{
    json_t *paths = json_object();
    for (size_t i = 0; i < gm_routes_n; i++) {
        const struct gm_route_row *r = &gm_routes[i];
        char method[16];
        json_t *path = json_object_get(paths, r->pattern);
        if (r->route == GM_ROUTE_FILE)
            continue;
        if (!path) {
            path = json_object();
            json_object_set_new(paths, r->pattern, path);
        }
        snprintf(method, sizeof method, "%s", r->method);
        for (char *c = method; *c; c++)
            *c = (char)tolower((unsigned char)*c);
        json_object_set_new(path, method, operation_json(r));
    }
    return paths;
}

static json_t *document(void)
{
    static const enum gm_api apis[] = { GM_API_CHAT,  GM_API_COMPLETION, GM_API_RESPONSE,
                                        GM_API_SCORE, GM_API_TOKENIZE,   GM_API_DETOKENIZE };
    json_t *schemas = json_object();
    for (size_t i = 0; i < sizeof apis / sizeof apis[0]; i++)
        json_object_set_new(schemas, api_title(apis[i]), schema_of(apis[i]));
    json_object_set_new(
        schemas, "Error",
        json_pack("{s:s, s:{s:{s:s, s:{s:{s:s}, s:{s:s}, s:{s:[s,s]}, s:{s:[s,s]}}}}}", "type",
                  "object", "properties", "error", "type", "object", "properties", "message",
                  "type", "string", "type", "type", "string", "param", "type", "string", "null",
                  "code", "type", "string", "null"));
    return json_pack("{s:s, s:{s:s, s:s, s:s}, s:o, s:{s:o, s:{s:{s:s, s:s}}}, s:[{s:[]}, {}]}",
                     "openapi", "3.1.0", "info", "title", "Gemline", "version", "1", "description",
                     "OpenAI's API for Gemma models, and what Gemline adds to it.", "paths",
                     paths_json(), "components", "schemas", schemas, "securitySchemes", "key",
                     "type", "http", "scheme", "bearer", "security", "key");
}

enum gm_status gm_openapi_json(struct gm_buf *out, struct gm_err *err)
{
    json_t *doc = document();
    char *text = doc ? json_dumps(doc, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(doc);
    if (!text)
        return gm_fail(err, GM_EXHAUSTED, "no memory for openapi.json");
    const enum gm_status rc = gm_buf_append_text(out, text, err);
    free(text);
    return rc;
}

/* ---- docs/api.md ------------------------------------------------------------------------------
 */

static const char intro[] =
    "# The HTTP API\n\n"
    "Made by `gm-gateway --print markdown` from the tables that read requests; `GET /openapi.json` "
    "is made from the\nsame ones. `make lint` fails when this page is not current.\n\n"
    "Bodies are JSON. `null` means absent. A parameter that is in no table below is 400 with its "
    "name in `param`: none\nis dropped without a word. Errors have OpenAI's form "
    "(`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`); 429 and\n503 carry "
    "`Retry-After`. Every answer has an `X-Request-Id`: the client's, or one made here.\n\n"
    "`Authorization: Bearer gm-ID-SECRET` is needed once there is a key (`gemline key add`); see "
    "[operate.md](operate.md).\n\n"
    "| header of a request | meaning |\n|---|---|\n"
    "| `X-Session-Id` | as the body's `session`: a named conversation kept by the server |\n"
    "| `Idempotency-Key` | the same request again has the same answer, from where it was, also "
    "when "
    "the gateway died meanwhile; with another body: 422 |\n"
    "| `X-Request-Id` | comes back, and stands in the log |\n\n"
    "A streamed answer is one event a chunk: `id: N` (tokens so far), `data: {…}`. When a "
    "connection breaks,\n`GET /v1/sessions/{id}/stream?from=N` goes on behind the N-th token; "
    "`{id}` is the answer's `X-Session-Id`.\nAn error after the headers is "
    "`data: {\"error\": …}`, and the connection ends without `[DONE]`.\n\n";

static enum gm_status put_routes(struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(out, "## Calls\n\n| call | |\n|---|---|\n", err);
    for (size_t i = 0; rc == GM_OK && i < gm_routes_n; i++)
        if (gm_routes[i].route != GM_ROUTE_FILE)
            rc = gm_buf_printf(out, err, "| `%s %s` | %s |\n", gm_routes[i].method,
                               gm_routes[i].pattern, gm_routes[i].doc);
    return rc;
}

/* A doc's text in a table's cell. */
static enum gm_status put_cell(struct gm_buf *out, const char *text, struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    for (; rc == GM_OK && *text; text++)
        rc = gm_buf_append(out, *text == '|' ? "\\|" : text, *text == '|' ? 2 : 1, err);
    return rc;
}

static enum gm_status put_rows(struct gm_buf *out, enum gm_api api, enum gm_param_use use,
                               struct gm_err *err)
{
    enum gm_status rc = GM_OK;
    char types[128];
    for (size_t i = 0; rc == GM_OK && i < gm_params_n; i++) {
        const struct gm_param *p = &gm_params[i];
        if (!(p->apis & api) || p->use != use)
            continue;
        rc = gm_buf_printf(out, err, "| `%s`%s%s | %s | ", p->name, p->required ? " (needed)" : "",
                           p->ours ? " (ours)" : "",
                           use == GM_PARAM_REFUSED ? "refused"
                                                   : gm_param_types(p->types, types, sizeof types));
        if (rc == GM_OK && use == GM_PARAM_ACCEPTED)
            rc = gm_buf_append_text(out, "Without effect. ", err);
        if (rc == GM_OK && use == GM_PARAM_ACCEPTED && p->only) {
            rc = gm_buf_append_text(out, "Only `", err);
            rc = rc == GM_OK ? put_cell(out, p->only, err) : rc;
            rc = rc == GM_OK ? gm_buf_append_text(out, "`. ", err) : rc;
        }
        if (rc == GM_OK)
            rc = put_cell(out, p->doc, err);
        if (rc == GM_OK)
            rc = gm_buf_append_text(out, " |\n", err);
    }
    return rc;
}

enum gm_status gm_openapi_markdown(struct gm_buf *out, struct gm_err *err)
{
    enum gm_status rc = gm_buf_append_text(out, intro, err);
    if (rc == GM_OK)
        rc = put_routes(out, err);
    for (size_t i = 0; rc == GM_OK && i < gm_routes_n; i++) {
        const struct gm_route_row *r = &gm_routes[i];
        if (!r->api)
            continue;
        rc = gm_buf_printf(out, err, "\n## %s %s\n\n| parameter | type | |\n|---|---|---|\n",
                           r->method, r->pattern);
        for (int use = GM_PARAM_HONOURED; rc == GM_OK && use <= GM_PARAM_REFUSED; use++)
            rc = put_rows(out, r->api, (enum gm_param_use)use, err);
    }
    return rc;
}
