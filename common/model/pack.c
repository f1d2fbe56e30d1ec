/* pack.c - the pack folder: finding, checking, making and mapping packs of a slice.
 *
 * Owns:      everything behind pack.h; the format of a pack file.
 * Does not:  lay weights out (kernels/cpu/quant_pack.inc).
 *
 * Folder: $GEMLINE_PACK, or gemline/packs under the cache home; in it one folder per model file and
 * layout ("name-vnni16-1-<hash of the folder it lies in>"), so a replaced model replaces its packs.
 * File: struct header, padded to HEADER_BYTES; then the matrices, each at a multiple of 64.
 */
#include "common/model/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/mapguard.h"
#include "common/model/gguf_inner.h"

enum {
    HEADER_BYTES = 4096,
    LINE = 64,
    ID_MAX = 32,
    NAME_MAX_BYTES = 64,
    SLICE_ROWS = 1 << 14, /* outputs between two reports of progress */
    TABLE = -1,           /* number of the file with the embedding and head */
};

#define TABLE_NAME "table.pack"
static const char magic[8] = "GMPACK1";

struct entry {
    int32_t type, rows, cols, zero;
    uint64_t at, bytes;
};

/* What a pack file says of itself. `check` covers all before it. */
struct header {
    char magic[8];
    char layout[ID_MAX];
    uint64_t model_bytes, model_inode, header_hash, identity;
    int64_t model_time_ns;
    uint64_t bytes;        /* of the whole file */
    uint64_t payload_hash; /* of what follows the header, when it was packed */
    int32_t number;        /* layer or TABLE */
    int32_t n;
    struct entry entry[GM_MAPS];
    uint64_t check;
};
static_assert(sizeof(struct header) <= HEADER_BYTES, "the header has a page");

struct gm_pack {
    struct gm_map *map; /* [n] */
    int32_t n;
    uint64_t bytes, written, identity;
    struct gm_pack_hashes hashes;
};

/* The running opening. */
struct opening {
    struct gm_pack *pack;
    const struct gm_pack_opts *opts;
    const struct gm_gguf *gguf;
    char dir[GM_PATH_MAX];
    struct header like; /* what every header of this model file has */
    uint64_t done, total;
    bool warned;
};

/* The matrices of one file. */
struct part {
    int32_t number;
    struct gm_mat *mat[GM_MAPS];
    int n;
};

static uint64_t lines(uint64_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

static uint64_t mat_bytes(const struct opening *o, const struct gm_mat *m)
{
    return o->opts->kernels->pack_bytes(m->type, m->rows, m->cols);
}

static uint64_t check_of(const struct header *h)
{
    return XXH3_64bits(h, offsetof(struct header, check));
}

/* One warning is enough: the reason is the same for every file. */
static void warn(struct opening *o, const char *what, const char *why)
{
    if (!o->warned)
        gm_warn("weights stay as they lie in the model file (slower): %s: %s", what, why);
    o->warned = true;
}

/* ---- where -----------------------------------------------------------------------------------
 */

enum gm_status gm_pack_folder(const char *model_path, const struct gm_kernels *kernels, char *out,
                              struct gm_err *err)
{
    char home[GM_PATH_MAX], real[GM_PATH_MAX], name[GM_PATH_MAX];
    const char *own = getenv("GEMLINE_PACK");
    enum gm_status st = GM_OK;
    if (!kernels->pack_id)
        return gm_fail(err, GM_UNSUPPORTED, "kernel set %s packs nothing", kernels->id);
    if (own && own[0] == '/') {
        snprintf(home, sizeof home, "%s", own);
    } else {
        st = gm_cache_home(home, sizeof home, err);
        if (st == GM_OK)
            st = gm_path_join(home, sizeof home, home, "gemline/packs", err);
    }
    if (st != GM_OK)
        return st;
    if (!realpath(model_path, real))
        return gm_fail(err, GM_NOT_FOUND, "%s: %s", model_path, strerror(errno));
    char *slash = strrchr(real, '/');
    const uint64_t folder = XXH3_64bits(real, (size_t)(slash - real));
    if (snprintf(name, sizeof name, "%.200s-%s-%08" PRIx64, slash + 1, kernels->pack_id,
                 folder & UINT32_MAX) >= (int)sizeof name)
        return gm_fail(err, GM_RANGE, "the model's name is too long for a pack folder");
    return gm_path_join(out, GM_PATH_MAX, home, name, err);
}

bool gm_pack_present(const char *model_path, const struct gm_kernels *kernels)
{
    char path[GM_PATH_MAX];
    return gm_pack_folder(model_path, kernels, path, NULL) == GM_OK &&
           gm_path_join(path, sizeof path, path, TABLE_NAME, NULL) == GM_OK && gm_path_exists(path);
}

static enum gm_status describe_model(struct opening *o, struct gm_err *err)
{
    struct stat st;
    if (stat(o->opts->model_path, &st) != 0)
        return gm_fail(err, GM_NOT_FOUND, "%s: %s", o->opts->model_path, strerror(errno));
    struct header *h = &o->like;
    memcpy(h->magic, magic, sizeof magic);
    snprintf(h->layout, sizeof h->layout, "%s", o->opts->kernels->pack_id);
    h->model_bytes = (uint64_t)st.st_size;
    h->model_inode = (uint64_t)st.st_ino;
    h->model_time_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    h->header_hash = XXH3_64bits(o->gguf->map.ptr, o->gguf->data_at);
    return GM_OK;
}

static bool file_name(const struct opening *o, const struct part *p, char out[GM_PATH_MAX])
{
    char name[NAME_MAX_BYTES] = TABLE_NAME;
    if (p->number != TABLE)
        snprintf(name, sizeof name, "layer-%03d.pack", p->number);
    return gm_path_join(out, GM_PATH_MAX, o->dir, name, NULL) == GM_OK;
}

/* ---- using a file ----------------------------------------------------------------------------
 */

/* The header that the file of a part must have, without identity and payload hash. */
static void expect(const struct opening *o, const struct part *p, struct header *h)
{
    *h = o->like;
    h->number = p->number;
    h->n = p->n;
    uint64_t at = HEADER_BYTES;
    for (int i = 0; i < p->n; i++) {
        const struct gm_mat *m = p->mat[i];
        const uint64_t bytes = mat_bytes(o, m);
        h->entry[i] = (struct entry){ (int32_t)m->type, m->rows, m->cols, 0, at, bytes };
        at += lines(bytes);
    }
    h->bytes = at;
}

static bool header_fits(const struct header *want, const struct header *got)
{
    struct header h = *got;
    h.identity = want->identity;
    h.payload_hash = want->payload_hash;
    h.check = want->check;
    return got->check == check_of(got) && memcmp(&h, want, sizeof h) == 0;
}

static uint64_t payload_hash(const void *file, uint64_t bytes)
{
    return XXH3_64bits((const uint8_t *)file + HEADER_BYTES, bytes - HEADER_BYTES);
}

/* Maps the file if it belongs to the part, and turns the part's matrices to it. */
static bool use_file(struct opening *o, const struct part *p)
{
    char path[GM_PATH_MAX];
    struct header want;
    struct gm_map map = { NULL, 0 };
    if (!file_name(o, p, path) || gm_map_open(&map, path, 0, NULL) != GM_OK)
        return false;
    expect(o, p, &want);
    const struct header *got = map.ptr;
    if (map.len != want.bytes || !header_fits(&want, got) ||
        (o->opts->doubt && got->payload_hash != payload_hash(got, want.bytes))) {
        gm_map_close(&map);
        return false;
    }
    for (int i = 0; i < p->n; i++) {
        p->mat[i]->data = (const uint8_t *)map.ptr + want.entry[i].at;
        p->mat[i]->packed = true;
    }
    o->pack->identity = got->identity;
    o->pack->hashes.part[p->number == TABLE ? GM_LAYERS_MAX : p->number] = got->payload_hash;
    o->pack->bytes += map.len;
    o->pack->map[o->pack->n++] = map;
    return true;
}

/* ---- making one ------------------------------------------------------------------------------
 */

struct job {
    const struct gm_kernels *k;
    uint8_t *dst;
    const struct gm_mat *mat;
    int32_t first;
};

static void run_pack(void *ctx, int32_t begin, int32_t end, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    j->k->pack(j->dst, j->mat, j->first + begin, j->first + end);
}

static void fill(struct opening *o, const struct part *p, const struct header *h, uint8_t *file)
{
    for (int i = 0; i < p->n; i++) {
        const struct gm_mat *m = p->mat[i];
        for (int32_t first = 0; first < m->rows; first += SLICE_ROWS) {
            const int32_t n = m->rows - first < SLICE_ROWS ? m->rows - first : SLICE_ROWS;
            struct job j = { o->opts->kernels, file + h->entry[i].at, m, first };
            gm_pool_run(o->opts->pool, n, GM_PACK_ROWS, run_pack, &j);
            o->done += h->entry[i].bytes / (uint64_t)m->rows * (uint64_t)n;
            if (o->opts->progress)
                o->opts->progress(o->opts->ctx, o->done, o->total);
        }
    }
}

/* Maps the file behind fd, guarded: a disk that is full after all must not end the process. */
static uint8_t *map_new(const char *path, int fd, uint64_t bytes)
{
    uint8_t *file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    const int guard = file == MAP_FAILED ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (guard >= 0 &&
        gm_mapguard_add(path, guard, file, bytes, PROT_READ | PROT_WRITE, NULL) == GM_OK)
        return file;
    if (file != MAP_FAILED)
        (void)munmap(file, bytes);
    return NULL;
}

/* Writes the file behind fd whole and to the disk; 0 or an errno. */
static int write_file(struct opening *o, const struct part *p, const char *path, int fd)
{
    struct header h;
    expect(o, p, &h);
    int rc = posix_fallocate(fd, 0, (off_t)h.bytes);
    if (rc != 0)
        return rc;
    uint8_t *file = map_new(path, fd, h.bytes);
    if (!file)
        return ENOMEM;
    fill(o, p, &h, file);
    h.identity = gm_gguf_identity(o->gguf);
    h.payload_hash = payload_hash(file, h.bytes);
    h.check = check_of(&h);
    memcpy(file, &h, sizeof h);
    rc = msync(file, h.bytes, MS_SYNC) == 0 ? 0 : errno;
    if (rc == 0)
        rc = fsync(fd) == 0 ? 0 : errno;
    if (rc == 0 && gm_mapguard_check(NULL) != GM_OK) /* what was packed, or into what */
        rc = EIO;
    gm_mapguard_remove(file);
    (void)munmap(file, h.bytes);
    if (rc == 0)
        o->pack->written += h.bytes;
    return rc;
}

/* Makes the file under a temporary name that only the holder of the lock uses. */
static int make_file(struct opening *o, const struct part *p)
{
    char path[GM_PATH_MAX], temp[GM_PATH_MAX];
    if (!file_name(o, p, path) ||
        gm_path_join(temp, sizeof temp, o->dir, "unfinished.tmp", NULL) != GM_OK)
        return ENAMETOOLONG;
    int fd = open(temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return errno;
    int rc = write_file(o, p, temp, fd);
    (void)close(fd);
    if (rc == 0 && rename(temp, path) != 0)
        rc = errno;
    if (rc != 0)
        (void)unlink(temp);
    const int dir = rc == 0 ? open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (dir >= 0) {
        (void)fsync(dir);
        (void)close(dir);
    }
    return rc;
}

/* Waits for whoever packs, looks again, and packs. */
static void make_part(struct opening *o, const struct part *p)
{
    char lock[GM_PATH_MAX];
    if (gm_path_join(lock, sizeof lock, o->dir, ".lock", NULL) != GM_OK) {
        warn(o, o->dir, "the path is too long");
        return;
    }
    const int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    int rc = fd < 0 ? errno : 0;
    while (rc == 0 && flock(fd, LOCK_EX) != 0)
        rc = errno == EINTR ? 0 : errno;
    if (rc == 0 && !use_file(o, p)) {
        rc = make_file(o, p);
        if (rc == 0 && !use_file(o, p))
            rc = EIO;
    }
    if (rc != 0)
        warn(o, o->dir, strerror(rc));
    if (fd >= 0)
        (void)close(fd); /* ends the lock */
}

/* ---- a slice ---------------------------------------------------------------------------------
 */

static void part_add(const struct opening *o, struct part *p, struct gm_mat *m)
{
    if (m->data && mat_bytes(o, m) > 0)
        p->mat[p->n++] = m;
}

/* Layer files, then the table; the head is in the table's file also where it is a matrix of its
 * own, and then the embedding, of which a token needs one row, stays in the model file. */
static int parts_of(const struct opening *o, struct gm_weights *w, struct part *part)
{
    int n = 0;
    for (int32_t i = 0; i < w->end - w->begin; i++) {
        struct part *p = &part[n];
        *p = (struct part){ .number = w->begin + i };
        for (int m = 0; m < GM_MAPS; m++)
            part_add(o, p, &w->layer[i].map[m]);
        n += p->n > 0;
    }
    struct part *p = &part[n];
    *p = (struct part){ .number = TABLE };
    const bool tied = !gm_gguf_tensor(o->gguf, "output.weight");
    part_add(o, p, tied ? &w->embed : &w->head);
    return n + (p->n > 0);
}

static void open_parts(struct opening *o, struct gm_weights *w, struct part *part, int n)
{
    bool missing[GM_LAYERS_MAX + 1] = { false };
    struct gm_err err = GM_ERR_NONE;
    int n_missing = 0;
    for (int i = 0; i < n; i++) {
        missing[i] = !use_file(o, &part[i]);
        n_missing += missing[i];
        for (int m = 0; missing[i] && m < part[i].n; m++)
            o->total += mat_bytes(o, part[i].mat[m]);
    }
    if (n_missing > 0 && gm_dir_make(o->dir, 0755, &err) != GM_OK) {
        warn(o, "packs", err.text);
        n_missing = 0;
    }
    for (int i = 0; i < n && n_missing > 0 && !o->warned; i++)
        if (missing[i])
            make_part(o, &part[i]);
    if (w->head.data && w->head.rows == w->embed.rows && w->head.data != w->embed.data &&
        w->embed.packed && !w->head.packed)
        w->head = w->embed; /* tied */
    if (o->pack->written > 0) {
        gm_pack_drop_older(o->dir);
        gm_info("packed mib=%.1f folder=%s", (double)o->pack->written / (double)(1 << 20), o->dir);
    }
}

void gm_pack_open(struct gm_pack **out, struct gm_weights *w, const struct gm_gguf *g,
                  const struct gm_pack_opts *opts)
{
    *out = NULL;
    if (!opts->kernels->pack_bytes)
        return;
    struct opening *o = calloc(1, sizeof *o);
    struct part *part = calloc(GM_LAYERS_MAX + 1, sizeof *part);
    struct gm_pack *pack = calloc(1, sizeof *pack);
    struct gm_err err = GM_ERR_NONE;
    if (pack)
        pack->map = calloc(GM_LAYERS_MAX + 1, sizeof *pack->map);
    if (!o || !part || !pack || !pack->map) {
        gm_pack_close(&pack);
    } else {
        o->pack = pack;
        o->opts = opts;
        o->gguf = g;
        if (gm_pack_folder(opts->model_path, opts->kernels, o->dir, &err) != GM_OK ||
            describe_model(o, &err) != GM_OK)
            warn(o, "packs", err.text);
        else
            open_parts(o, w, part, parts_of(o, w, part));
    }
    free(o);
    free(part);
    *out = pack;
}

void gm_pack_close(struct gm_pack **pack)
{
    struct gm_pack *p = *pack;
    if (!p)
        return;
    for (int32_t i = 0; i < p->n; i++)
        gm_map_close(&p->map[i]);
    free(p->map);
    free(p);
    *pack = NULL;
}

uint64_t gm_pack_bytes(const struct gm_pack *pack)
{
    return pack ? pack->bytes : 0;
}

uint64_t gm_pack_written(const struct gm_pack *pack)
{
    return pack ? pack->written : 0;
}

uint64_t gm_pack_identity(const struct gm_pack *pack)
{
    return pack ? pack->identity : 0;
}

void gm_pack_hashes(const struct gm_pack *pack, struct gm_pack_hashes *out)
{
    *out = pack ? pack->hashes : (struct gm_pack_hashes){ { 0 } };
}

bool gm_pack_same(const struct gm_pack_hashes *a, const struct gm_pack_hashes *b)
{
    bool same = true;
    for (int i = 0; i <= GM_LAYERS_MAX; i++)
        same &= a->part[i] == b->part[i] || a->part[i] == 0 || b->part[i] == 0;
    return same;
}

enum gm_status gm_pack_model(const char *model_path, const struct gm_kernels *kernels, int threads,
                             void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                             uint64_t *written, struct gm_err *err)
{
    struct gm_gguf *g = NULL;
    struct gm_config cfg;
    struct gm_weights w = { 0 };
    *written = 0;
    enum gm_status st = gm_gguf_open(&g, model_path, err);
    if (st == GM_OK)
        st = gm_gguf_config(g, &cfg, err);
    if (st == GM_OK)
        st = gm_weights_bind(&w, g, &(struct gm_slice_spec){ 0, cfg.layers, true, true }, err);
    struct gm_pool *pool = st == GM_OK ? gm_pool_new(threads) : NULL;
    if (st == GM_OK && !pool)
        st = gm_fail(err, GM_EXHAUSTED, "%d threads cannot be had: ask for fewer", threads);
    if (st == GM_OK) {
        struct gm_pack *pack;
        const struct gm_pack_opts opts = { model_path, kernels, pool, progress, ctx, false };
        gm_pack_open(&pack, &w, g, &opts);
        *written = gm_pack_written(pack);
        st = gm_mapguard_check(err);
        gm_pack_close(&pack);
    }
    gm_pool_free(&pool);
    gm_weights_close(&w);
    gm_gguf_close(&g);
    return st;
}
