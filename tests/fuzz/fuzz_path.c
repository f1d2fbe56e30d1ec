// uses: services/gateway/request.c services/gateway/params.c services/gateway/problem.c
// uses: services/gateway/scan.c services/gateway/path.c services/gateway/read_messages.c
// uses: services/gateway/read_more.c services/gateway/read_options.c
// uses: services/gateway/read_prompts.c
// libs: -ljansson
/* fuzz_path.c - libFuzzer target: any bytes as a request's method and target.
 *
 * Owns:      what must hold of every target: a route with a checked id, or a problem.
 * Does not:  know which targets are right (tests/unit/test_path.c).
 * Input:     the first byte chooses the method, the rest is the target. Built and run by
 *            tools/fuzz.sh; seeds in tests/fuzz/path.
 */
#include <stdlib.h>
#include <string.h>

#include "services/gateway/path.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void check_path(const struct gm_path *p)
{
    size_t len = strlen(p->id);
    must(p->route > GM_ROUTE_NONE && p->route < GM_ROUTES && p->row->route == p->route);
    must(gm_utf8_bad(p->id, len) == len && p->allow[0] == '\0');
    must((len > 0) == (strstr(p->row->pattern, "{id}") != NULL));
    must(len == 0 || p->route == GM_ROUTE_MODEL || gm_request_id_ok(p->id, len));
    must(!p->has_from || p->route == GM_ROUTE_SESSION_STREAM);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const methods[] = { "GET", "POST", "DELETE", "HEAD", "OPTIONS", "", "get" };
    struct gm_path p;
    struct gm_problem why;
    if (size < 1)
        return 0;
    char *target = malloc(size > 1 ? size - 1 : 1); /* exactly the target */
    if (target == NULL)
        return 0;
    memcpy(target, data + 1, size - 1);
    if (gm_path_find(methods[data[0] % 7], target, size - 1, &p, &why)) {
        must(why.http == 0);
        check_path(&p);
    } else {
        must(why.http == 400 || why.http == 404 || why.http == 405 || why.http == 414);
        must(why.text[0] != '\0' && (why.http == 405) == (p.allow[0] != '\0'));
        must(gm_utf8_bad(why.text, strlen(why.text)) == strlen(why.text));
        must(gm_utf8_bad(why.param, strlen(why.param)) == strlen(why.param));
    }
    free(target);
    return 0;
}
