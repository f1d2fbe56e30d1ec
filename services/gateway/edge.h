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
    GM_TENANT_MAX = 64,       /* bytes of a tenant's name */
    GM_INFO_MS = 1000,        /* between two questions to the pipeline */
    GM_PATIENCE_MS = 60000,   /* how long a turn goes on when this gateway is gone */
    GM_CALL_TIMEOUT_MS = 10000,
    GM_ANSWER_TEXT_MAX = 64 << 20, /* bytes of one JSON answer */
    GM_JOBS_MAX = 2048,       /* requests being worked on, turns or not */
    GM_RUNS_MAX = 256,        /* answers of one request: prompts x n */
    GM_TRY_AGAIN_MS = 100,    /* a turn that found no pages is sent again after this */
};

struct gm_job;

/* One answer of a request: a turn of the pipeline. */
struct gm_run {
    struct gm_job *job;
    uint32_t index;
    struct gm_follow *follow; /* NULL: not begun, or ended */
    bool begun, ended, lifted; /* lifted: counted as running */
    char turn[GM_ID_BYTES + 8], session[GM_ID_BYTES + 8];
    int64_t again_ms; /* > 0: it found no pages and is begun again then */
    struct gm_detok detok;
    struct gm_buf text; /* the answer so far */
    size_t told;        /* bytes of it that were sent as events */
    struct gm_answer_token *tokens; /* owned, with their alternatives */
    size_t n_tokens, cap, tokens_told;
    uint32_t n; /* tokens of the answer */
    char finish[12];
    uint64_t seed;
    uint32_t prompt_tokens, cached_tokens;
    int64_t first_us, last_us;
    /* echo: log-probabilities of the prompt */
    int32_t *prompt_ids; /* owned */
    size_t n_prompt_ids;
};

/* A request being worked on. */
struct gm_job {
    struct gm_gateway *g;
    struct gm_job *prev, *next;
    uint64_t serial;       /* names it in callbacks: it may be gone by then */
    struct gm_exchange *x; /* NULL: the client left */
    struct gm_match match; /* route and its {id} */
    char tenant[GM_TENANT_MAX + 1];
    char key_id[GM_KEY_ID_MAX + 1]; /* "": none */
    struct gm_request req;
    bool parsed;
    char id[GM_ID_BYTES + 16]; /* of the answer: "chatcmpl-..." */
    int64_t created_s, begun_us, first_us;
    struct gm_run *runs; /* owned */
    uint32_t n_runs, n_begun, n_ended;
    bool waiting, counted, kept, stream_begun;
    int64_t waiting_since_ms;
    char idempotency[80]; /* "": none; else hash of the key, which names the turn */
    uint64_t call;        /* an open call of ours; 0: none */
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
    char address[GM_ADDRESS_MAX], address_path[GM_PATH_MAX];
    int listen_fd, n_http_fds;
    bool http_ready;
    int64_t http_due_ms, draining_ms;
    /* the pipeline */
    char orchestrator[GM_ENDPOINT_MAX];
    struct gm_vocab vocab;
    bool vocab_open, ready, asking;
    uint32_t context;
    char numerics[256], waiting_for[128];
    int64_t asked_ms, started_s;
    /* requests */
    struct gm_job *jobs, *jobs_last; /* oldest first */
    size_t n_jobs;
    struct gm_idmap serials;
    uint64_t next_serial;
    struct gm_admission admission;
    /* keys */
    struct gm_keyring *keys;
    uint8_t secret[32];
    bool keys_known;
    int64_t keys_asked_ms;
    struct gm_metrics metrics;
};

/* ---- edge.c ---- */
enum gm_status gm_gateway_open(struct gm_gateway *g, const char *secret_path, struct gm_err *err);
void gm_gateway_close(struct gm_gateway *g);
struct gm_http_hooks gm_gateway_hooks(struct gm_gateway *g);
void gm_gateway_tick(struct gm_gateway *g);
int gm_gateway_next_ms(struct gm_gateway *g);
void gm_gateway_health(void *self, Gm__HealthReply *health);
/* May it be reached beyond this machine? Failure says why not; *open: it may begin now. */
enum gm_status gm_gateway_may_open(struct gm_gateway *g, bool *open, struct gm_err *err);
struct gm_peer *gm_gateway_peer(struct gm_gateway *g, const char *role, struct gm_err *err);

#endif
