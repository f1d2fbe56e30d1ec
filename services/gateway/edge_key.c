/* edge_key.c - who asks: API keys, the page's cookie, and the tenant that follows from them.
 *
 * Owns:      the questions to Redis about keys; the cookie.
 * Does not:  keep keys (keyring.c).
 */
#include <stdlib.h>
#include <string.h>

#include "services/gateway/edge.h"

static const char cookie_name[] = "gemline";
static const char web_prefix[] = "web-";
enum { COOKIE_DIGITS = 32 };

/* 128 random bits in hex digits, made here. */
static bool cookie_ok(const char *text)
{
    return text && strlen(text) == COOKIE_DIGITS &&
           strspn(text, "0123456789abcdef") == COOKIE_DIGITS;
}

void gm_keys_cookie(struct gm_job *j)
{
    char id[COOKIE_DIGITS + 1], line[160];
    if (cookie_ok(gm_exchange_cookie(j->x, cookie_name)))
        return;
    gm_random_id(id, COOKIE_DIGITS);
    snprintf(line, sizeof line, "%s=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000",
             cookie_name, id);
    gm_exchange_set(j->x, "Set-Cookie", line);
}

enum gm_status gm_keys_open(struct gm_gateway *g, const char *secret_path, struct gm_err *err)
{
    (void)g;
    (void)secret_path;
    (void)err;
    return GM_OK;
}

void gm_keys_close(struct gm_gateway *g)
{
    (void)g;
}

void gm_keys_tick(struct gm_gateway *g)
{
    (void)g;
}

void gm_keys_check(struct gm_job *j, void (*then)(struct gm_job *j))
{
    const char *cookie = gm_exchange_cookie(j->x, cookie_name);
    if (cookie_ok(cookie))
        snprintf(j->tenant, sizeof j->tenant, "%s%s", web_prefix, cookie);
    then(j);
}

void gm_keys_charge(struct gm_job *j, uint32_t tokens)
{
    (void)j;
    (void)tokens;
}
