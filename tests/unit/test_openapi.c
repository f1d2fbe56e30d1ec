// uses: services/gateway/openapi.c services/gateway/params.c services/gateway/path.c
// uses: services/gateway/problem.c services/gateway/request.c services/gateway/scan.c
// uses: services/gateway/read_messages.c services/gateway/read_more.c
// uses: services/gateway/read_options.c services/gateway/read_prompts.c
// libs: -ljansson
/* test_openapi.c - the description of the API: whole, and the same as in docs/api.md.
 *
 * Owns:      what openapi.h promises.
 * Does not:  check what a parameter does (test_request.c).
 */
#include <CUnit/Basic.h>
#include <jansson.h>
#include <string.h>

#include "common/base/fs.h"
#include "services/gateway/openapi.h"
#include "services/gateway/params.h"
#include "services/gateway/path.h"

static json_t *document(void)
{
    struct gm_buf text = GM_BUF(GM_OPENAPI_BYTES_MAX);
    CU_ASSERT_EQUAL_FATAL(gm_openapi_json(&text, NULL), GM_OK);
    json_t *doc = json_loadb(gm_buf_text(&text), text.len, JSON_REJECT_DUPLICATES, NULL);
    gm_buf_free(&text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(doc);
    return doc;
}

static void every_route(void)
{
    json_t *doc = document(), *paths = json_object_get(doc, "paths");
    for (size_t i = 0; i < gm_routes_n; i++) {
        char method[16];
        size_t n = 0;
        for (const char *c = gm_routes[i].method; *c; c++)
            method[n++] = (char)(*c | 0x20);
        method[n] = 0;
        if (gm_routes[i].route == GM_ROUTE_FILE)
            continue;
        const json_t *op = json_object_get(json_object_get(paths, gm_routes[i].pattern), method);
        CU_ASSERT_PTR_NOT_NULL(json_object_get(op, "operationId"));
        CU_ASSERT_EQUAL(json_object_get(op, "requestBody") != NULL, gm_routes[i].api != 0);
    }
    json_decref(doc);
}

static void every_parameter(void)
{
    json_t *doc = document();
    const json_t *schemas = json_object_get(json_object_get(doc, "components"), "schemas");
    const json_t *chat =
        json_object_get(json_object_get(schemas, "ChatCompletionRequest"), "properties");
    size_t n = 0;
    for (size_t i = 0; i < gm_params_n; i++) {
        if (!(gm_params[i].apis & GM_API_CHAT))
            continue;
        n++;
        CU_ASSERT_PTR_NOT_NULL(
            json_object_get(json_object_get(chat, gm_params[i].name), "description"));
    }
    CU_ASSERT_EQUAL(json_object_size(chat), n);
    json_decref(doc);
}

static void page_is_current(void)
{
    struct gm_buf want = GM_BUF(GM_OPENAPI_BYTES_MAX), have = GM_BUF(GM_OPENAPI_BYTES_MAX);
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL_FATAL(gm_openapi_markdown(&want, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_file_read("docs/api.md", &have, &err), GM_OK);
    /* else: build/bin/gm-gateway --print markdown > docs/api.md */
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&want), gm_buf_text(&have));
    gm_buf_free(&want);
    gm_buf_free(&have);
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("openapi", NULL, NULL);
    CU_add_test(s, "every route is described", every_route);
    CU_add_test(s, "every parameter is described", every_parameter);
    CU_add_test(s, "docs/api.md is current", page_is_current);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
