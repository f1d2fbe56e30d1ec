/* orch.h - the orchestrator: running turns, sessions, the roster of the ring.
 *
 * Owns:      the structs and functions shared by the files of this folder.
 * Does not:  touch tensors, text or candidates.
 */
#ifndef GM_ORCH_H
#define GM_ORCH_H

#include "common/model/config.h"
#include "common/net.h"

enum {
    GM_TURNS_MAX = 640,     /* turns at once: running, waiting, being saved */
    GM_DEATHS_MAX = 3,      /* attempts a turn loses by itself, at one place: it ends INTERNAL */
    GM_SILENT_MS = 10000,   /* a process without HELLO for so long stands still, or is gone */
    GM_STALL_MS = 20000,    /* no token for so long: a new attempt */
    GM_STALL_TOKEN_MS = 50, /* and so much more for each prompt token */
    GM_ORPHAN_MS = 10000,   /* no word of the client for so long: the turn is cancelled, */
    GM_PATIENCE_MS_MAX = 120000, /* unless the request gives it longer, at most this */
    GM_UNREAD_MS = 60000,        /* a client that lives and takes nothing for so long: the same */
    GM_PAUSE_MS = 2000,          /* between two steps of the loop: this process did not run */
    GM_SAVE_PATIENCE_MS = 2000,  /* how long `finished` waits for Redis */
    GM_CALL_MS = 15000,          /* calls to shards, sampler and tokenizer */
    GM_RING_WAIT_MS = 60000,     /* how long a turn waits for the ring to be whole and to answer */
    GM_RETRY_HINT_MS = 500,
    GM_FAILED_HINT_MS = 2000,     /* the same while a process keeps dying */
    GM_PAGES_RETRY_MS = 100,      /* between two looks for pages; the oldest turn looks first */
    GM_PAGES_WAIT_MS = 30000,     /* how long a turn without a token waits for pages */
    GM_LEASE_MS = 60000,          /* a session's lease in Redis, unless renewed */
    GM_RECORD_KEEP_MS = 600000,   /* how long a finished turn can be asked for again */
    GM_VOCAB_IDS = 32,            /* end, close and banned ids */
    GM_ID_MAX = 64,               /* bytes of a tenant, session or turn id */
    GM_SESSIONS_LISTED = 10000,   /* most sessions of one list */
    GM_EVENT_TOKENS_MAX = 64,     /* tokens of one event */
    GM_SESSION_IDS_MAX = 1 << 20, /* ids of a stored session: the longest context there is */
    GM_JOURNAL_MS = 50,           /* between two writes of a journal: tokens that it lacks after a
                                     crash are computed again, the same ones */
};

/* A process of the ring as HELLO told it. */
struct gm_member {
    uint64_t boot;    /* 0: not heard of */
    int64_t heard_ms; /* the last HELLO */
    bool ready;
    uint32_t begin, end;
    char numerics[256];
    char failed[GM_ERR_TEXT_MAX];
    struct gm_versions versions; /* of the protocol; 0, 0: not heard of */
    char endpoint[GM_ENDPOINT_MAX];
    struct gm_peer *peer;
    bool asked;     /* whether it was restarted: the answer is on its way */
    uint64_t proof; /* the boot that it named over our own connection; 0: none was asked for */
};

struct gm_roster {
    int shards;
    struct gm_member shard[GM_SHARDS_MAX], sampler, tokenizer;
    bool vocab_known, vocab_asked; /* Tokenizer.Vocab has answered; is on its way */
    uint32_t vocab;
    char vocab_path[GM_PATH_MAX];
    int32_t end_ids[GM_VOCAB_IDS], close_ids[GM_VOCAB_IDS], banned[GM_VOCAB_IDS];
    size_t n_end, n_close, n_banned;
    char waiting_for[64];
    struct gm_err disagree; /* why two processes cannot talk to each other */
};

/* The states of a turn, in order. A new attempt leads from OPEN or RUN back to WAIT. */
enum gm_turn_state {
    GM_TURN_LOAD,   /* the session is leased and read */
    GM_TURN_ENCODE, /* the tokenizer makes ids */
    GM_TURN_RECORD, /* Redis acknowledges the record */
    GM_TURN_WAIT,   /* waits for the ring to be whole */
    GM_TURN_OPEN,   /* sampler, then shards 0 .. N-1 are asked */
    GM_TURN_RUN,    /* prefill and decode */
    GM_TURN_SAVE,   /* the end is being stored */
};

/* A conversation as Redis holds it, read anew for each turn. */
struct gm_sess {
    char tenant[GM_ID_MAX + 1], id[GM_ID_MAX + 1];
    bool exists, raw, busy;
    uint64_t created_ms, touched_ms;
    int32_t *ids; /* owned */
    size_t n_ids;
    Gm__TurnInfo **turns; /* owned */
    size_t n_turns;
    /* What Redis has of a turn that was asked for by its id; NULL: nothing */
    Gm__TurnRecord *record; /* owned */
    int32_t *answer;        /* owned; set when the turn has ended */
    size_t n_answer;
};

struct gm_orch;

struct gm_turn {
    struct gm_orch *orch;
    char key[2 * GM_ID_MAX + 3]; /* "tenant/turn" */
    char id[GM_ID_MAX + 1];
    uint64_t serial; /* names the turn in callbacks: it may be gone by then; older turns have lower
                        ones */
    enum gm_turn_state state;
    struct gm_stream *stream; /* NULL: nobody listens */
    bool started_sent, finished_sent, score;
    bool stored, written; /* the end was answered by Redis; and it is there */
    uint32_t sent;        /* tokens (or score rows) given to the stream */
    uint32_t granted;     /* tokens the sampler may emit in all */
    int64_t client_ms;    /* last word of the client */
    int64_t taken_ms;     /* when it took something last, or had all there was */
    struct gm_sess sess;
    Gm__StartRequest *request; /* owned; NULL for a score */
    Gm__Sampling *sampling;    /* owned; seed and max_tokens set */
    uint32_t start;            /* session ids before the turn */
    size_t turns_before;       /* turns of the session before this one */
    int32_t *prompt;           /* owned; whole context of the turn */
    size_t n_prompt;
    Gm__Token **tokens; /* owned; absolute positions from n_prompt on */
    size_t n_tokens, tokens_cap;
    size_t journalled;
    int64_t journal_ms;       /* when it was written last */
    char numerics[256];       /* what the turn is computed with; "": not begun yet */
    char trace[GM_TRACE_MAX]; /* span of the call that began it, above its own calls; "": none */
    int encodings;            /* times that the tokenizer was asked: only the last answer counts */
    bool encode_due;          /* the tokenizer died over it: asked again when its turn comes */
    bool cached_known;        /* `cached` is what the client is told */
    const char *finish;       /* NULL: goes on; a static text */
    struct gm_err end;        /* a failure that ends the turn after it is saved */
    /* the attempt */
    uint64_t ticket; /* 0: none */
    int step;        /* OPEN: -1 sampler, else the shard asked now */
    uint32_t have, rewind_min, cached;
    enum gm_status lost;            /* why the last attempt was; GM_OK: none was */
    int deaths, own_deaths, faults; /* attempts lost since it came further: with a process, alone
                                       with it, by themselves */
    uint32_t best;                  /* the farthest position that any attempt came to, */
    uint32_t reached, died_at;      /* that this one came to, and the last one that died alone */
    const struct gm_member *killed; /* who died last while the turn was at work */
    bool alone;                     /* nothing else was at work beside this attempt */
    int64_t wait_ms;  /* since when it wants an attempt and the ring gives none; 0: it has one */
    int64_t pages_ms; /* since when the turn waits for pages; 0: it does not */
    int64_t retry_ms; /* when it looks for them next */
    int64_t state_ms, progress_ms, lease_ms;
    /* score */
    uint32_t top_n, every;
    Gm__ScoreRow **rows; /* owned, in order */
    size_t n_rows, rows_cap, rows_want;
};

struct gm_orch {
    struct gm_service base;
    struct gm_roster roster;
    struct gm_store *store;
    struct gm_strmap turns;    /* key -> struct gm_turn */
    struct gm_idmap serials;   /* serial -> struct gm_turn */
    struct gm_idmap tickets;   /* ticket -> struct gm_turn */
    struct gm_replay *replays; /* turns that are told again */
    uint64_t next_serial;      /* begins with the time, so that turns of later lives are younger */
    char home[GM_ENDPOINT_MAX];
    const char *model;
    char instance[32]; /* "orchestrator-0": holds leases */
    uint32_t context;
    int64_t session_ttl_ms, unread_ms;
    bool recovered; /* running turns of an earlier life were read from Redis */
    bool recovering;
    int64_t recover_ms;
    int64_t step_ms; /* the last step of the loop */
};

/* ---- serve.c -----------------------------------------------------------------------------------
 */
struct gm_orch_options {
    const char *run_dir, *redis, *model; /* folder of the sockets; Redis's; NULL: "custom" */
    int64_t index, shards, context, session_ttl_ms;
    int64_t unread_ms; /* GM_UNREAD_MS, or less in tests */
    struct gm_net_options net;
};
/* Serves until a stop signal. One at a time in a process. */
enum gm_status gm_orch_serve(const struct gm_orch_options *opt, struct gm_err *err);

/* ---- roster.c ----------------------------------------------------------------------------------
 */
/* Takes what a process says of itself; the message is freed here. */
void gm_roster_hello(struct gm_orch *o, Gm__Hello *hello);
/* Remembers which versions of the protocol a process speaks; `hello` came with them. */
void gm_roster_speaks(struct gm_orch *o, const Gm__Hello *hello, struct gm_versions versions);
/* NULL when the ring is whole; else what is missing, or the sentence of a process that failed. */
const char *gm_roster_missing(struct gm_orch *o, bool *failed);
const char *gm_roster_numerics(const struct gm_orch *o);
/* NULL when all of the ring were heard of lately; else who stands still. One that computes for long
 * is silent too: nothing that runs is taken from it, but nothing new is sent there. */
const char *gm_roster_silent(struct gm_orch *o);
/* The orchestrator itself did not run for `gap` ms: nobody could be heard. */
void gm_roster_forgive(struct gm_orch *o, int64_t gap);

/* ---- turn.c: the life of a turn ----------------------------------------------------------------
 */
struct gm_turn *gm_turn_new(struct gm_orch *o, const char *tenant, const char *id,
                            struct gm_err *err);
void gm_turn_free(struct gm_turn *t);
/* What the turn's own calls say of their trace; borrowed from it until they are made. */
struct gm_call_more gm_turn_trace(const struct gm_turn *t);
struct gm_turn *gm_turn_of(struct gm_orch *o, uint64_t serial);
void gm_turn_attach(struct gm_turn *t, struct gm_stream *stream, uint32_t from);
void gm_turn_begin(struct gm_turn *t);  /* state LOAD */
void gm_turn_encode(struct gm_turn *t); /* state ENCODE; again after a restart */
void gm_turn_ready(struct gm_turn *t);  /* prompt known: on to the ring (state WAIT) */
void gm_turn_end(struct gm_turn *t, const char *finish); /* saves, then says finished */
void gm_turn_fail(struct gm_turn *t, const struct gm_err *why);
void gm_turn_saved(struct gm_turn *t, bool saved);
void gm_turn_flush(struct gm_turn *t);                   /* gives the stream what it may have */
void gm_turn_progress(struct gm_turn *t, uint32_t done); /* prompt tokens computed so far */
void gm_turn_tick(struct gm_turn *t);
void gm_turn_state_set(struct gm_turn *t, enum gm_turn_state state);
int64_t gm_turn_patience_ms(const struct gm_turn *t); /* how long it goes on without a client */
bool gm_turn_ephemeral(const struct gm_turn *t);      /* its session is of this turn alone */

/* ---- ring.c: attempts ---------------------------------------------------------------------------
 */
void gm_ring_begin(struct gm_turn *t); /* WAIT -> OPEN when the ring is whole */
/* This attempt is lost: by itself; with a process; or it never came to anything, because somebody
 * did not answer, which counts against no turn. */
void gm_ring_lost(struct gm_turn *t, const struct gm_err *why);
void gm_ring_died(struct gm_turn *t, const struct gm_member *who, const struct gm_err *why);
void gm_ring_unanswered(struct gm_turn *t);
void gm_ring_release(struct gm_turn *t, bool keep);
/* Has a process that is heard of for the first time end what this orchestrator opened there before
 * it was killed: those tickets are known to nobody now. */
void gm_ring_forget_lives(struct gm_orch *o, const struct gm_member *m, bool sampler);
void gm_ring_credit(struct gm_turn *t, uint32_t more);
enum gm_status gm_ring_message(void *self, const struct gm_msg *msg, struct gm_err *err);

/* ---- poison.c: the turn that kills --------------------------------------------------------------
 */
/* A row at `position`, or a token there, came back. */
void gm_poison_progress(struct gm_turn *t, uint32_t position);
/* A process of the ring died, or this attempt failed by itself: true when the turn is to end. */
bool gm_poison_died(struct gm_turn *t, const struct gm_member *who);
bool gm_poison_fault(struct gm_turn *t);
/* The tokenizer was restarted: those whose ids it owed ask again, one at a time; three times asked
 * in vain is the end. gm_encode_next asks for the next one, if none of them is being asked. */
void gm_encode_died(struct gm_orch *o);
void gm_encode_next(struct gm_orch *o);
/* Whether the turn must leave the ring to one that has to be alone there. */
bool gm_poison_yields(const struct gm_turn *t);
/* Whether the turn must not begin an attempt now; false notes whether it runs alone. */
bool gm_poison_waits(struct gm_turn *t);

/* ---- session.c: Redis
 * ---------------------------------------------------------------------------- */
void gm_sess_free(struct gm_sess *s);
typedef void gm_sess_done(void *ctx, struct gm_sess *sess, const struct gm_err *err);
/* Reads a session; lease: takes it first (ABORTED when another turn has it). turn (may be NULL):
 * when this turn has a record in Redis, that is given instead: nothing is leased, and of `sess`
 * only record and answer are set. */
void gm_sess_load(struct gm_orch *o, const struct gm_sess *of, const char *turn, bool lease,
                  gm_sess_done *done, void *ctx);
void gm_sess_record(struct gm_turn *t, gm_store_reply *done, void *ctx);
void gm_sess_journal(struct gm_turn *t);
void gm_sess_renew(struct gm_turn *t);                            /* the lease, for GM_LEASE_MS */
void gm_sess_unlease(struct gm_orch *o, const struct gm_sess *s); /* gives it back, if it is ours */
void gm_sess_save(struct gm_turn *t);
/* Reads the record of a turn, and its answer when it has ended; NOT_FOUND when there is none. */
void gm_sess_ended(struct gm_orch *o, const char *tenant, const char *turn, gm_sess_done *done,
                   void *ctx);
void gm_sess_drop_record(struct gm_turn *t);
/* Stores the session cut to its n_turns and n_ids. */
void gm_sess_truncate(struct gm_orch *o, const struct gm_sess *s, gm_store_reply *done, void *ctx);
void gm_sess_remove(struct gm_orch *o, const struct gm_sess *s, gm_store_reply *done, void *ctx);
/* Answers rows of seven: id, created, touched, bytes of ids, raw, title, turns; at most
 * GM_SESSIONS_LISTED. */
void gm_sess_list(struct gm_orch *o, const char *tenant, gm_store_reply *done, void *ctx);

/* ---- edge.c: the methods
 * -------------------------------------------------------------------------- */
extern const struct gm_method gm_orch_methods[];
bool gm_id_ok(const char *id);

/* ---- recover.c, replay.c, session_calls.c -----------------------------------------------------
 */
/* Reads the turns that were running when this orchestrator's last life ended, and goes on with
 * them. */
void gm_orch_recover(struct gm_orch *o);

/* Tells a client of a turn that has ended already, by its id or as the last of its session; takes
 * the stream. */
void gm_orch_replay(struct gm_orch *o, const Gm__ResumeRequest *in, struct gm_stream *stream);
/* The same from what Redis said of it: sess->record and sess->answer are taken. */
void gm_orch_tell(struct gm_orch *o, struct gm_stream *stream, struct gm_sess *sess);
/* Ends those whose client was not heard of for GM_ORPHAN_MS; paused_ms of late count for nobody. */
void gm_replay_tick(struct gm_orch *o, int64_t paused_ms);
void gm_replay_close(struct gm_orch *o); /* after the calls are closed */

/* Calls about stored sessions (session_calls.c). */
gm_rpc_method gm_call_sessions, gm_call_session, gm_call_undo, gm_call_remove;
gm_store_reply gm_sessions_listed;

#endif
