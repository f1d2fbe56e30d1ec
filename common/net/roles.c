/* roles.c - which key may send what: see roles.h.
 *
 * Owns:      the table.
 * Does not:  look at bodies, HELLO's apart.
 */
#include "common/net/roles.h"

#include <stdio.h>
#include <string.h>

#include "common/base/conf.h"
#include "ring.pb-c.h"

#define ROLES "orchestrator|shard|sampler|tokenizer|gateway|client"

/* Every role may ask how another process is and what it can do. */
#define ASK    "Health|Reflection"
#define CLIENT ASK "|Orchestrator|Tokenizer"

enum { KIND_BITS = 64, SERVICE_MAX = 64 };
#define BIT(kind) ((uint64_t)1 << GM__KIND__##kind)

struct role {
    const char *name;
    enum gm_role_inbox inbox;
    const char *calls; /* services whose methods it may call; NULL: all */
    uint64_t ring;     /* kinds of ring messages */
};

static const struct role roles[] = {
    { "orchestrator", GM_INBOX_MUST, NULL, UINT64_MAX },
    { "shard", GM_INBOX_MUST, ASK,
      BIT(HIDDEN_ROWS) | BIT(CANDIDATES) | BIT(CHUNK_DONE) | BIT(SCORED) | BIT(FAULT) |
          BIT(HELLO) },
    { "sampler", GM_INBOX_MUST, ASK,
      BIT(CHOSEN) | BIT(MORE) | BIT(EMITTED) | BIT(FAULT) | BIT(HELLO) },
    { "tokenizer", GM_INBOX_MUST, ASK, BIT(HELLO) },
    { "gateway", GM_INBOX_MAY, CLIENT, 0 },
    { "client", GM_INBOX_NONE, CLIENT, 0 },
};

/* The row of a role, or of a name that begins with the role and "-". */
static const struct role *row_of(const char *name)
{
    const size_t n = strcspn(name, "-");
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strlen(roles[i].name) == n && memcmp(roles[i].name, name, n) == 0)
            return &roles[i];
    return NULL;
}

bool gm_role_find(const char *role, enum gm_role_inbox *inbox)
{
    const struct role *r = strchr(role, '-') ? NULL : row_of(role);
    if (r)
        *inbox = r->inbox;
    return r != NULL;
}

const char *gm_role_list(void)
{
    return ROLES;
}

static enum gm_status check_call(const struct gm_msg *msg, const struct role *r, struct gm_err *err)
{
    const char *method = msg->env->method ? msg->env->method : "";
    char service[SERVICE_MAX];
    snprintf(service, sizeof service, "%.*s", (int)strcspn(method, "."), method);
    if (!r->calls || gm_conf_choice(r->calls, service) >= 0)
        return GM_OK;
    return gm_fail(err, GM_DENIED,
                   "%s may not call %.80s: the key of a %s may call %s; use the key of another "
                   "role",
                   msg->who, method[0] ? method : "without a method", r->name, r->calls);
}

static enum gm_status check_hello(const struct gm_msg *msg, struct gm_err *err)
{
    char name[2 * GM_ROLE_MAX];
    Gm__Hello *h = gm_msg_unpack(msg, &gm__hello__descriptor, err);
    if (!h)
        return err ? err->status : GM_INVALID;
    snprintf(name, sizeof name, "%.*s-%u", GM_ROLE_MAX - 1, h->role, h->index);
    const enum gm_status rc =
        strcmp(name, msg->who) == 0
            ? GM_OK
            : gm_fail(err, GM_DENIED, "the key of %s says HELLO as %.40s", msg->who, name);
    gm__hello__free_unpacked(h, NULL);
    return rc;
}

static const char *kind_name(Gm__Kind kind)
{
    const ProtobufCEnumValue *v =
        protobuf_c_enum_descriptor_get_value(&gm__kind__descriptor, (int)kind);
    return v ? v->name : "of an unknown kind";
}

enum gm_status gm_role_check(const struct gm_msg *msg, struct gm_err *err)
{
    const Gm__Kind kind = msg->env->kind;
    const struct role *r = msg->who ? row_of(msg->who) : NULL;
    if (!r)
        return gm_fail(err, GM_DENIED, "a message of nobody: its connection has no key of a role");
    if (kind == GM__KIND__CALL)
        return check_call(msg, r, err);
    if ((int)kind >= 0 && kind < GM__KIND__TOKEN_ROWS)
        return GM_OK; /* about a call that was let in */
    if ((int)kind < 0 || (int)kind >= KIND_BITS || !(r->ring >> kind & 1))
        return gm_fail(err, GM_DENIED, "%s may not send a ring message %s: it has the key of a %s",
                       msg->who, kind_name(kind), r->name);
    return kind == GM__KIND__HELLO ? check_hello(msg, err) : GM_OK;
}
