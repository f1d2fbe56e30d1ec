/* edge_lost.c - a shard whose model file or packs were cut or changed while they were in use.
 *
 * Owns:      what follows: the slice is closed and opened anew, running turns are told, and until
 *            the files are whole again the shard lives on and says what is wrong with them.
 * Does not:  notice it in a step (step.c asks common/base/mapguard.h), or decide what becomes of a
 *            turn: the orchestrator makes a new attempt when the shard is ready again, and ends it
 *            (DATA_LOSS) when that says that it failed.
 * Why:       packs are rebuilt from the model file, and a file that was only touched is as good as
 *            before: then clients see a pause. Other weights must not go on with an answer that
 *            these began, so they are refused as long as the pipeline lives.
 */
#include <string.h>
#include <sys/stat.h>

#include "services/shard/edge.h"

enum {
    REOPEN_MS = 1000, /* between two looks at the files */
    GRACE_MS = 3000,  /* how long turns wait for files to be whole again before they are told */
};

/* The tickets that the closed slice had. */
static struct gone {
    uint64_t id;
    void *home;
} gone[GM_TICKETS_MAX];

enum gm_status gm_shard_open(struct gm_shard_service *s, struct gm_err *err)
{
    enum gm_status rc = gm_slice_open(&s->shard.slice, &s->slice_opts, err);
    if (rc == GM_OK)
        rc = gm_shard_init(&s->shard, err);
    s->open = rc == GM_OK;
    return rc;
}

/* Everything of the slice goes; what the process was started with stays. */
static void close_slice(struct gm_shard_service *s)
{
    const struct gm_shard was = s->shard;
    gm_shard_close(&s->shard);
    gm_slice_close(&s->shard.slice);
    s->shard = (struct gm_shard){ .kernels = was.kernels,
                                  .is_first = was.is_first,
                                  .is_last = was.is_last,
                                  .speculate = was.speculate,
                                  .out = was.out,
                                  .progress = was.progress,
                                  .decoded = was.decoded,
                                  .drafted = was.drafted,
                                  .accepted = was.accepted,
                                  .busy_us = was.busy_us,
                                  .prompt_tokens = was.prompt_tokens,
                                  .prefix_tokens = was.prefix_tokens };
    s->open = false;
}

/* What tells whether the model file may be another one than at the last look. */
static struct gm_shard_look look_at(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return (struct gm_shard_look){ 0 };
    return (struct gm_shard_look){ .inode = (uint64_t)st.st_ino,
                                   .bytes = (uint64_t)st.st_size,
                                   .time_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 +
                                              st.st_mtim.tv_nsec };
}

static bool same_look(const struct gm_shard_look *a, const struct gm_shard_look *b)
{
    return a->inode == b->inode && a->bytes == b->bytes && a->time_ns == b->time_ns;
}

/* Opens the slice again if the files hold the weights that it had; else *err says what is wrong. */
static bool reopen(struct gm_shard_service *s, struct gm_err *err)
{
    const char *model = s->slice_opts.model_path;
    const struct gm_shard_look look = look_at(model);
    s->reopen_ms = gm_now_ms() + REOPEN_MS;
    if (s->other_weights && same_look(&look, &s->refused))
        return false; /* packing them again would say the same */
    s->other_weights = false;
    s->slice_opts.doubt = true;
    if (gm_shard_open(s, err) != GM_OK) {
        close_slice(s);
        return false;
    }
    struct gm_pack_hashes now;
    gm_slice_hashes(s->shard.slice, &now);
    if (strcmp(gm_slice_numerics(s->shard.slice), s->numerics) == 0 &&
        gm_pack_same(&now, &s->hashes))
        return true;
    s->other_weights = true;
    s->refused = look;
    close_slice(s);
    gm_fail(err, GM_DATA_LOSS,
            "%.200s holds other weights than when the pipeline was started: put the old file back, "
            "or run gemline down, then gemline up",
            model);
    return false;
}

/* One attempt. Whoever damages files may not be done yet: what is wrong is told after a while only,
 * and turns wait until then. */
static void try_again(struct gm_shard_service *s)
{
    struct gm_err err = GM_ERR_NONE;
    if (reopen(s, &err)) {
        s->lost = false;
        s->failed[0] = 0;
        gm_log(GM_LOG_WARN, "the model's files were opened again, with the same weights");
    } else {
        if (err.status != GM_OK && strcmp(s->seen, err.text) != 0)
            gm_log_err(GM_LOG_ERROR, "weights", &err);
        if (err.status != GM_OK)
            snprintf(s->seen, sizeof s->seen, "%s", err.text);
        if (s->other_weights) /* else the first sentence says it best */
            snprintf(s->why, sizeof s->why, "%s", s->seen);
        if (gm_now_ms() - s->lost_ms >= GRACE_MS)
            snprintf(s->failed, sizeof s->failed, "%s", s->why);
    }
    gm_service_hello(&s->base);
}

void gm_shard_lost(struct gm_shard_service *s)
{
    const struct gm_err why = s->shard.lost;
    const size_t n = s->shard.tickets.n;
    for (size_t i = 0; i < n; i++) {
        const struct gm_ticket *t = s->shard.tickets.entries[i].value;
        gone[i] = (struct gone){ t->id, t->home };
    }
    gm_log_err(GM_LOG_ERROR, "weights", &why);
    snprintf(s->why, sizeof s->why, "%s", why.text);
    s->seen[0] = 0;
    snprintf(s->numerics, sizeof s->numerics, "%s", gm_slice_numerics(s->shard.slice));
    gm_slice_hashes(s->shard.slice, &s->hashes);
    close_slice(s);
    s->lost = true;
    s->lost_ms = gm_now_ms();
    gm_service_hello(&s->base); /* first: a turn that is told must not come back at once */
    for (size_t i = 0; i < n; i++) {
        const struct gm_ticket t = { .id = gone[i].id, .home = gone[i].home };
        s->shard.out.fault(s->shard.out.ctx, &t, &why);
    }
    try_again(s);
}

void gm_shard_look(struct gm_shard_service *s)
{
    if (gm_now_ms() < s->reopen_ms)
        return;
    if (s->open) {
        s->reopen_ms = gm_now_ms() + REOPEN_MS;
        if (gm_mapguard_check(&s->shard.lost) != GM_OK)
            gm_shard_lost(s);
        return;
    }
    try_again(s);
}

int gm_shard_look_ms(const struct gm_shard_service *s)
{
    const int64_t left = s->reopen_ms - gm_now_ms();
    return left > 0 ? (int)left : 0;
}
