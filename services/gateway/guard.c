/* guard.c - web pages of other origins are kept out: see guard.h.
 *
 * Owns:      the comparison of names; all of it is plain text work.
 * Does not:  keep anything.
 */
#include "services/gateway/guard.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

static const char wrong_host[] =
    "the Host header names another machine; use the address that the server prints";
static const char wrong_origin[] =
    "web pages of this origin may not use the server; list it with gemline up --http-origins";
static const char cross_site[] =
    "a page of another site may not use the server; list its origin with --http-origins";

/* Is `name` (n bytes, without port) this machine's loopback? */
static bool loopback_name(const char *name, size_t n)
{
    static const char *const names[] = { "localhost", "[::1]" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == n && strncasecmp(names[i], name, n) == 0)
            return true;
    if (n < 7 || n > 15 || strncmp(name, "127.", 4) != 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!isdigit((unsigned char)name[i]) && name[i] != '.')
            return false;
    return true;
}

/* Where the port begins ("" if none), or NULL. */
static const char *port_of(const char *host)
{
    const char *colon = strrchr(host, ':'), *close = strrchr(host, ']');
    return colon && (!close || colon > close) ? colon : host + strlen(host);
}

static bool host_ok(const struct gm_guard *g, const char *host)
{
    const char *port = port_of(host);
    return loopback_name(host, (size_t)(port - host)) && strcmp(port, port_of(g->address)) == 0;
}

static bool in_list(const char *list, const char *origin)
{
    const size_t n = strlen(origin);
    for (const char *at = list; *at;) {
        while (*at == ',' || *at == ' ')
            at++;
        const size_t len = strcspn(at, ", ");
        if (len == n && n > 0 && strncasecmp(at, origin, n) == 0)
            return true;
        at += len;
    }
    return false;
}

/* The page came from us: the origin is the host that the request names. */
static bool own_origin(const char *origin, const char *host)
{
    static const char scheme[] = "http://", secure[] = "https://";
    if (!host)
        return false;
    if (strncasecmp(origin, scheme, sizeof scheme - 1) == 0)
        return strcasecmp(origin + sizeof scheme - 1, host) == 0;
    return strncasecmp(origin, secure, sizeof secure - 1) == 0 &&
           strcasecmp(origin + sizeof secure - 1, host) == 0;
}

const char *gm_guard_check(const struct gm_guard *g, const struct gm_guarded *r, bool *listed)
{
    *listed = r->origin && in_list(g->origins, r->origin);
    if (g->local && (!r->host || !host_ok(g, r->host)))
        return wrong_host;
    if (r->origin && !*listed && !own_origin(r->origin, r->host))
        return wrong_origin;
    if (!*listed && r->fetch_site && strcasecmp(r->fetch_site, "cross-site") == 0)
        return cross_site;
    return NULL;
}
