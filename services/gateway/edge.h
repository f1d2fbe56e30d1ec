/* edge.h - the gateway's edge: HTTP exchanges on one side, calls to the pipeline on the other.
 *
 * Owns:      struct gm_gateway and struct gm_job, which the edge_*.c files share.
 * Does not:  leave this folder; everything else here works on plain structs.
 *
 *   edge.c           the process: what it knows of the pipeline, checks of a request, dispatch
 *   edge_key.c       who asks: keys, cookies, tenants
 *   edge_job.c       a request that runs turns: from the parsed body to the last token
 *   edge_render.c    what its client hears: JSON or events
 *   edge_score.c     log-probabilities of given tokens; tokens and texts
 *   edge_response.c  stored responses
 *   edge_session.c   stored sessions, and streams that are picked up again
 *   edge_info.c      what is served and how it goes: models, health, metrics, files
 */
#ifndef GM_GATEWAY_EDGE_H
#define GM_GATEWAY_EDGE_H

#include "common/net.h"
#include "common/net/follow.h"
#include "services/gateway/admission.h"
#include "services/gateway/answer.h"
#include "services/gateway/guard.h"
#include "services/gateway/http.h"
#include "services/gateway/keyring.h"
#include "services/gateway/listen.h"
#include "services/gateway/metrics.h"
#include "services/gateway/path.h"
#include "services/gateway/request.h"

enum {
    GM_TENANT_MAX = 64,            /* bytes of a tenant's name */
    GM_INFO_MS = 1000,             /* between two questions to the pipeline */
    GM_PATIENCE_MS = 60000,        /* how long a turn goes on when nobody listens */
    GM_ASK_MS = 15000,             /* calls to the pipeline that are no turns */
    GM_JSON_BYTES_MAX = 128 << 20, /* one JSON answer */
    GM_JOBS_MAX = 4096,            /* requests being worked on */
    GM_AGAIN_MS = 100,             /* a turn that found no pages is begun again after this */
    GM_HASH_HEX = 33,              /* a hash of 16 bytes in hex digits, with the ending 0 */
};
#define GM_LOCAL_TENANT "local"

struct gm_job;
struct gm_gateway;
struct gm_scoring;

/* One answer of a request: a turn of the pipeline. */
struct gm_run {
    struct gm_job *job;
    uint32_t index;           /* of the choice in the answer */
    uint32_t prompt, choice;  /* which prompt's, and which of its n */
    struct gm_follow *follow; /* NULL: not begun, or ended */
    bool begun, started, ended;
    char turn[GM_ID_BYTES + 16], session[GM_REQUEST_ID_MAX + 1];
    int64_t again_ms; /* > 0: it found no pages and is begun again then */
    struct gm_detok detok;
    struct gm_buf text;             /* the answer so far */
    size_t told;                    /* bytes of it that were sent as events */
    struct gm_answer_token *tokens; /* owned with their alternatives; where they are asked for */
    size_t n_tokens, tokens_cap, tokens_told;
    struct gm_text_at at; /* of streamed text completions */
    uint32_t n;           /* tokens of the answer */
    const char *finish;   /* NULL: goes on */
    uint32_t prompt_tokens, cached_tokens;
    int64_t first_us, last_us;
};

/* A request being worked on. */
struct gm_job {
    struct gm_gateway *g;
    struct gm_job *prev, *next;
    uint64_t serial;       /* names it in callbacks: it may be gone by then */
    struct gm_exchange *x; /* NULL: the client left */
    struct gm_path path;
    char
        trace[GM_TRACE_MAX]; /* our span, below the client's if it named one (header traceparent) */
    char tenant[GM_TENANT_MAX + 1];
    char key_id[GM_KEY_ID_DIGITS + 1]; /* "": none */
    struct gm_request req;
    struct gm_buf messages;    /* of the whole conversation, where it is not the request's own */
    char id[GM_ID_BYTES + 16]; /* of the answer: "chatcmpl-..." */
    int64_t created_s, begun_us;
    uint64_t seed;
    struct gm_run *runs; /* owned */
    uint32_t n_runs, n_ended;
    bool admitted, waiting; /* counted as running, as waiting */
    bool kept;              /* its turns go on when the client leaves: it may ask again */
    bool streaming;         /* the event stream has begun */
    int64_t waiting_ms;     /* since when */
    char body_hash[GM_HASH_HEX];
    char idempotency[GM_HASH_HEX];  /* "": none; else what names its turns */
    uint32_t sequence;              /* events of a response sent */
    char item_id[GM_ID_BYTES + 16]; /* of a response's message */
    struct gm_usage usage;          /* of a response */
    struct gm_scoring *scoring;     /* owned: prompts that are scored (edge_score.c) */
    /* what a route keeps for itself, and how it is freed */
    void *own;
    void (*own_free)(void *own);
};

struct gm_gateway {
    struct gm_service base;
    struct gm_http *http;
    struct gm_store *store;
    const char *run_dir, *model, *origins;
    bool insecure, local;
    struct gm_http_limits limits;
    char address[GM_ADDRESS_MAX], address_path[GM_PATH_MAX];
    int listen_fd, n_http_fds;
    bool http_ready;
    int64_t http_due_ms, draining_ms, quiet_ms;
    /* the pipeline */
    char orchestrator[GM_ENDPOINT_MAX];
    struct gm_follows *follows;
    struct gm_vocab vocab;
    bool vocab_open, ready, asking;
    uint32_t context, n_shards;
    char numerics[256], waiting_for[128];
    char fingerprint[24]; /* names the bits of an answer: a hash of the numerics id */
    int64_t asked_ms, started_s;
    int store_ms, follow_ms; /* until the followed turns must be looked after; -1: never */
    /* requests */
    struct gm_job *jobs, *jobs_last; /* oldest first */
    size_t n_jobs;
    struct gm_idmap serials;
    uint64_t next_serial;
    struct gm_admission admission;
    /* keys */
    struct gm_keyring *keys;
    bool keys_asking;
    int64_t keys_asked_ms;
    struct gm_metrics metrics;
    int64_t shard_us[GM_METRICS_SHARDS_MAX]; /* when each was asked last */
};

/* ---- edge.c ---- */
enum gm_status gm_gateway_open(struct gm_gateway *g, const char *home, struct gm_err *err);
void gm_gateway_close(struct gm_gateway *g);
struct gm_http_hooks gm_gateway_hooks(struct gm_gateway *g);
void gm_gateway_tick(struct gm_gateway *g);
int gm_gateway_next_ms(struct gm_gateway *g);
void gm_gateway_health(void *self, Gm__HealthReply *health);

/* ---- edge_job.c: the life of a request ---- */
struct gm_job *gm_job_new(struct gm_gateway *g, struct gm_exchange *x);
struct gm_job *gm_job_of(struct gm_gateway *g, uint64_t serial);
/* Answers and ends the job; the job is gone after it. */
void gm_job_fail(struct gm_job *j, const struct gm_problem *why);
void gm_job_fail_err(struct gm_job *j, const struct gm_err *err);
void gm_job_json(struct gm_job *j, int status, struct gm_buf *json);
void gm_job_end(struct gm_job *j);  /* the answer is given, or nobody waits for it */
void gm_job_gone(struct gm_job *j); /* the client left */

/* A call to a process of the pipeline; answer is called once while the job lives, with body NULL
 * when err says why. False: the job has been failed. */
typedef void gm_job_answer(struct gm_job *j, const ProtobufCMessage *body,
                           const struct gm_err *err);
struct gm_job_call {
    const char *role, *method;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply;
    gm_job_answer *answer;
    uint32_t index;      /* of the process */
    uint32_t timeout_ms; /* 0: GM_ASK_MS */
};
bool gm_job_call(struct gm_job *j, const struct gm_job_call *call);
/* A command to Redis, in the same way. */
struct redisReply;
typedef void gm_job_reply(struct gm_job *j, const struct redisReply *r, const struct gm_err *err);
bool gm_job_redis(struct gm_job *j, gm_job_reply *reply, int argc, const char **argv,
                  const size_t *lens);

/* ---- edge_turn.c: a request that runs turns ---- */
void gm_turns_begin(struct gm_job *j); /* the body is parsed, the tenant known */
void gm_turns_admit(struct gm_job *j); /* history and idempotency are settled */
void gm_turns_start(struct gm_job *j); /* there is room */
void gm_turns_drop(struct gm_job *j);  /* leaves what runs; counts it out */
void gm_turns_tick(struct gm_gateway *g);
bool gm_turns_wait(const struct gm_gateway *g); /* for room, or for pages */
/* A hash of the tenant and n bytes. */
void gm_turns_hash(char out[GM_HASH_HEX], const char *tenant, const void *bytes, size_t n);
void gm_turns_pick_up(struct gm_job *j, const char *session, uint32_t from);

/* ---- edge_render.c: what the client of a turn hears ---- */
void gm_render_started(struct gm_run *run);
void gm_render_tokens(struct gm_run *run); /* more text or tokens are there */
void gm_render_ended(struct gm_run *run);  /* finish is set */
void gm_render_done(struct gm_job *j);     /* all runs have ended: completes the answer */
void gm_render_error(struct gm_job *j, const struct gm_problem *why); /* in a stream */
void gm_render_event(struct gm_job *j, enum gm_response_event kind);

/* ---- edge_response.c ---- */
void gm_response_begin(struct gm_job *j); /* previous_response_id, then gm_turns_admit */
void gm_response_get(struct gm_job *j);
void gm_response_delete(struct gm_job *j);
enum gm_status gm_response_fill(struct gm_job *j, struct gm_response *r);
void gm_response_done(struct gm_job *j); /* stores what may be continued, then answers */

/* ---- edge_score.c ---- */
void gm_score_begin(struct gm_job *j);
void gm_tokenize_begin(struct gm_job *j);
void gm_detokenize_begin(struct gm_job *j);
void gm_scoring_free(struct gm_job *j);
/* Completions: prompts whose log-probabilities are echoed are scored first; then the turns. */
void gm_echo_begin(struct gm_job *j);
/* The prompt's tokens with their log-probabilities; 0 when there are none. */
size_t gm_echo_tokens(const struct gm_job *j, uint32_t prompt, const struct gm_answer_token **out);
enum gm_status gm_echo_text(const struct gm_job *j, uint32_t prompt, struct gm_buf *out);

/* ---- edge_session.c ---- */
void gm_sessions_begin(struct gm_job *j); /* any route of sessions */

/* ---- edge_info.c ---- */
void gm_info_begin(struct gm_job *j); /* models, health, ready, metrics, openapi.json, the page */

/* ---- edge_key.c ---- */
/* *open: requests may be taken now. A failure says why they never may (no keys, and an address
 * beyond this machine). */
enum gm_status gm_gateway_may_open(struct gm_gateway *g, bool *open, struct gm_err *err);
enum gm_status gm_keys_open(struct gm_gateway *g, const char *home, struct gm_err *err);
void gm_keys_close(struct gm_gateway *g);
void gm_keys_tick(struct gm_gateway *g);
int64_t gm_keys_next_ms(const struct gm_gateway *g);
/* Finds out who asks; false: refused, the job is gone. `then` may run later. */
void gm_keys_check(struct gm_job *j, void (*then)(struct gm_job *j));
/* Gives a browser that has none the cookie that is its tenant. */
void gm_keys_cookie(struct gm_job *j);
/* Counts tokens against the key's day. */
void gm_keys_charge(struct gm_job *j, uint32_t tokens);

#endif
