/* request_check.h - what the tests of request bodies share.
 *
 * Owns:      parsing with the default limits, the check that a body is refused, long bodies.
 * Does not:  hold tests.
 */
#ifndef GM_TESTS_REQUEST_CHECK_H
#define GM_TESTS_REQUEST_CHECK_H

#include "services/gateway/params.h"

#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MSG      "\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]"
#define CHAT(x)  "{" MSG ", " x "}"
#define TURNS(x) "{\"messages\": [" x "]}"

enum { TEXT_MAX = 1 << 20 };

static struct gm_request_limits limits; /* main sets them */

static inline bool parse_n(struct gm_request *r, enum gm_api api, const char *body, size_t n,
                           struct gm_problem *why)
{
    return gm_request_parse(r, api, body, n, &limits, why);
}

static inline bool parse(struct gm_request *r, enum gm_api api, const char *body)
{
    struct gm_problem why;
    bool ok = parse_n(r, api, body, strlen(body), &why);
    if (!ok)
        fprintf(stderr, "\n%s\nis refused: %s: %s\n", body, why.param, why.text);
    return ok;
}

/* The body is refused with this status, and this parameter (NULL: any). */
static inline void refused(enum gm_api api, const char *body, int http, const char *param)
{
    struct gm_request r;
    struct gm_problem why;
    bool ok = parse_n(&r, api, body, strlen(body), &why);
    if (ok || why.http != http || (param != NULL && strcmp(why.param, param) != 0))
        fprintf(stderr, "\n%.300s\n%s: %d %s: %s\n", body, ok ? "is taken" : "is refused", why.http,
                why.param, why.text);
    CU_ASSERT_FALSE(ok);
    CU_ASSERT_EQUAL(why.http, http);
    if (param != NULL)
        CU_ASSERT_STRING_EQUAL(why.param, param);
    CU_ASSERT_TRUE(why.text[0] != '\0' && why.type[0] != '\0');
    CU_ASSERT_TRUE(gm_utf8_bad(why.text, strlen(why.text)) == strlen(why.text));
    gm_request_free(&r);
}

/* A body of n times `unit` between `head` and `tail`. */
static inline char *repeated(const char *head, const char *unit, size_t n, const char *tail)
{
    size_t each = strlen(unit);
    char *text = malloc(strlen(head) + n * each + strlen(tail) + 1);
    size_t used = strlen(head);
    memcpy(text, head, used);
    for (size_t i = 0; i < n; i++, used += each)
        memcpy(text + used, unit, each);
    memcpy(text + used, tail, strlen(tail) + 1);
    return text;
}

static inline void refused_many(enum gm_api api, char *body, int http, const char *code)
{
    struct gm_request r;
    struct gm_problem why;
    CU_ASSERT_FALSE(parse_n(&r, api, body, strlen(body), &why));
    if (strcmp(why.code, code) != 0)
        fprintf(stderr, "\n%.60s...: %d %s %s\n", body, why.http, why.code, why.text);
    CU_ASSERT_EQUAL(why.http, http);
    CU_ASSERT_STRING_EQUAL(why.code, code);
    free(body);
}

#endif
