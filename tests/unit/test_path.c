// uses: services/gateway/path.c services/gateway/problem.c services/gateway/request.c
// uses: services/gateway/params.c services/gateway/scan.c services/gateway/read_options.c
// uses: services/gateway/read_more.c services/gateway/read_prompts.c
// uses: services/gateway/read_messages.c
// libs: -ljansson
/* test_path.c - each route of the table, ids, queries, and what is 400, 404, 405 and 414.
 *
 * Owns:      the checks of path.c.
 * Does not:  need a gateway.
 */
#include "services/gateway/path.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Finds the target; the status, 200 when there is a route. */
static int find(const char *method, const char *target, struct gm_path *p, struct gm_problem *why)
{
    size_t len = strlen(target);
    char *exact = malloc(len > 0 ? len : 1); /* no 0 behind it */
    memcpy(exact, target, len);
    bool ok = gm_path_find(method, exact, len, p, why);
    free(exact);
    CU_ASSERT_EQUAL(ok, why->http == 0);
    if (!ok)
        CU_ASSERT_TRUE(why->text[0] != '\0' &&
                       gm_utf8_bad(why->text, strlen(why->text)) == strlen(why->text));
    return ok ? 200 : why->http;
}

static void expect(const char *method, const char *target, enum gm_route route, const char *id)
{
    struct gm_path p;
    struct gm_problem why;
    int status = find(method, target, &p, &why);
    if (status != 200 || p.route != route || strcmp(p.id, id) != 0)
        fprintf(stderr, "\n%s %s: %d, route %d, id \"%s\", %s\n", method, target, status, p.route,
                p.id, why.text);
    CU_ASSERT_EQUAL(status, 200);
    CU_ASSERT_EQUAL(p.route, route);
    CU_ASSERT_STRING_EQUAL(p.id, id);
}

static void refused(const char *method, const char *target, int http)
{
    struct gm_path p;
    struct gm_problem why;
    int status = find(method, target, &p, &why);
    if (status != http)
        fprintf(stderr, "\n%s %s: %d, not %d\n", method, target, status, http);
    CU_ASSERT_EQUAL(status, http);
}

/* Every row is reached by its own method and pattern, and by no other row's. */
static void each_row(void)
{
    bool seen[GM_ROUTES] = { false };
    for (size_t i = 0; i < gm_routes_n; i++) {
        const struct gm_route_row *row = &gm_routes[i];
        char target[128];
        const char *mark = strstr(row->pattern, "{id}");
        const char *id = row->route == GM_ROUTE_FILE ? "app.js" : "resp_a.B-1";
        if (mark == NULL)
            snprintf(target, sizeof target, "%s", row->pattern);
        else
            snprintf(target, sizeof target, "%.*s%s%s", (int)(mark - row->pattern), row->pattern,
                     id, mark + 4);
        expect(row->method, target, row->route, mark != NULL ? id : "");
        CU_ASSERT_TRUE(row->doc[0] != '\0');
        CU_ASSERT_EQUAL(row->api != 0,
                        strcmp(row->method, "POST") == 0 && row->route != GM_ROUTE_SESSION_UNDO);
        CU_ASSERT_FALSE(seen[row->route]);
        seen[row->route] = true;
        refused("PATCH", target, 405);
        refused("get", target, 405);
        refused("OPTIONS", target, 405);
        strncat(target, "/", sizeof target - strlen(target) - 1);
        refused(row->method, target, 404);
    }
    for (int i = GM_ROUTE_NONE + 1; i < GM_ROUTES; i++)
        CU_ASSERT_TRUE(seen[i]);
}

static void ids(void)
{
    expect("GET", "/v1/models/gemma3-270m", GM_ROUTE_MODEL, "gemma3-270m");
    expect("GET", "/v1/models/a%20b%C3%A4%2Fc+d", GM_ROUTE_MODEL, "a b\xc3\xa4/c+d");
    expect("GET", "/v1/sessions/%61%2e%42", GM_ROUTE_SESSION_GET, "a.B");
    expect("GET", "/favicon.svg?v=2&x", GM_ROUTE_FILE, "favicon.svg");
    static const char *const wrong[] = {
        "/v1/sessions/a%2Fb",
        "/v1/sessions/a%",
        "/v1/sessions/a%4",
        "/v1/sessions/a%zz",
        "/v1/sessions/a%00b",
        "/v1/sessions/%0a",
        "/v1/sessions/a b",
        "/v1/sessions/%FF",
        "/v1/sessions/\xff",
        "/v1/sessions/%ED%A0%80",
        "/v1/sessions/a:b",
        "/v1/models/%",
        "/v1/models/\x01",
        "/v1/responses/a%20b",
        "/v1/models/%C3",
        "/v1/sessions/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refused("GET", wrong[i], 400);
    char out[8];
    CU_ASSERT_TRUE(gm_path_decode("1234567", 7, out, sizeof out));
    CU_ASSERT_FALSE(gm_path_decode("12345678", 8, out, sizeof out));
    CU_ASSERT_TRUE(gm_path_decode("%41", 3, out, sizeof out));
    CU_ASSERT_STRING_EQUAL(out, "A");
    CU_ASSERT_FALSE(gm_path_decode("%41", 2, out, sizeof out));
}

static void queries(void)
{
    struct gm_path p;
    struct gm_problem why;
    CU_ASSERT_EQUAL(find("GET", "/v1/sessions/a/stream?from=12", &p, &why), 200);
    CU_ASSERT_TRUE(p.has_from && p.from == 12);
    CU_ASSERT_EQUAL(find("GET", "/v1/sessions/a/stream?&from=%31&", &p, &why), 200);
    CU_ASSERT_TRUE(p.has_from && p.from == 1);
    CU_ASSERT_EQUAL(find("GET", "/v1/sessions/a/stream", &p, &why), 200);
    CU_ASSERT_FALSE(p.has_from);
    CU_ASSERT_EQUAL(find("GET", "/v1/sessions/a/stream?", &p, &why), 200);
    static const char *const wrong[] = {
        "/v1/sessions/a/stream?from=",
        "/v1/sessions/a/stream?from",
        "/v1/sessions/a/stream?from=-1",
        "/v1/sessions/a/stream?from=1.5",
        "/v1/sessions/a/stream?from=4294967296",
        "/v1/sessions/a/stream?from=1&from=1",
        "/v1/sessions/a/stream?from=%",
        "/v1/sessions/a/stream?prompt=hi",
        "/v1/sessions/a/stream?=1",
        "/v1/models?x=1",
        "/v1/models?x",
        "/v1/sessions/a/stream?from=1?from=1",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        refused("GET", wrong[i], 400);
    refused("POST", "/v1/chat/completions?prompt=hi", 400);
    expect("GET", "/?prompt=hi", GM_ROUTE_PAGE, "");
    expect("GET", "/?%", GM_ROUTE_PAGE, "");
}

static void missing(void)
{
    static const char *const none[] = {
        "",
        "v1/models",
        "*",
        "//",
        "/v1",
        "/v1/",
        "/v1//models",
        "/v1/models//",
        "/v1/chat",
        "/V1/models",
        "/app",
        "/.env",
        "/..",
        "/a%2fb.js",
        "/../etc/passwd",
        "/%2e%2e/x",
        "/v1/sessions//undo",
        "/a/b/c/d/e/f/g/h/i/j",
        "http://x/v1/models",
        "/health/x",
        "\xff",
        "/v1/sessions/a/undo/b",
        "?",
        "/%68ealth",
    };
    struct gm_path p;
    struct gm_problem why;
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        CU_ASSERT_EQUAL(find("GET", none[i], &p, &why), 404);
        CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "/v1/chat/completions"));
    }
    CU_ASSERT_EQUAL(find("POST", "/v1/embeddings", &p, &why), 404);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "embeddings are not served"));
    CU_ASSERT_EQUAL(find("POST", "/v1/messages", &p, &why), 404);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "Anthropic"));
    CU_ASSERT_EQUAL(find("POST", "/api/generate", &p, &why), 404);
    CU_ASSERT_PTR_NOT_NULL(strstr(why.text, "Ollama"));

    CU_ASSERT_EQUAL(find("PUT", "/v1/sessions/a", &p, &why), 405);
    CU_ASSERT_STRING_EQUAL(p.allow, "GET, HEAD, DELETE");
    CU_ASSERT_EQUAL(find("GET", "/v1/chat/completions", &p, &why), 405);
    CU_ASSERT_STRING_EQUAL(p.allow, "POST");
    CU_ASSERT_EQUAL(find("POST", "/openapi.json", &p, &why), 405);
    CU_ASSERT_STRING_EQUAL(p.allow, "GET, HEAD");
    CU_ASSERT_EQUAL(find("HEAD", "/v1/models", &p, &why), 200);
    CU_ASSERT_TRUE(p.head && p.route == GM_ROUTE_MODELS);

    char text[GM_TARGET_BYTES_MAX + 2];
    memset(text, 'a', sizeof text);
    text[0] = '/';
    text[GM_TARGET_BYTES_MAX + 1] = '\0';
    CU_ASSERT_EQUAL(find("GET", text, &p, &why), 414);
    text[GM_TARGET_BYTES_MAX] = '\0';
    CU_ASSERT_EQUAL(find("GET", text, &p, &why), 404);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("path", NULL, NULL);
    CU_add_test(s, "each row of the table", each_row);
    CU_add_test(s, "ids", ids);
    CU_add_test(s, "queries", queries);
    CU_add_test(s, "nothing there", missing);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
