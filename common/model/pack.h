/* pack.h - weights packed for the kernels, kept in files that every process maps.
 *
 * Owns:      the pack folder: one file per layer and one for the table (embedding and head), their
 *            headers, the check that a file belongs to this model file, the packing of what is
 *            missing, the mappings.
 * Does not:  know a layout (kernels/cpu) or read GGUF (gguf.c). Whoever can map a pack does not
 *            touch the tensors in the model file again.
 *
 * A file is written under a lock beside its final name, synced and renamed: a killed packer leaves
 * nothing that could be taken for a pack. Bits of results do not depend on packs.
 */
#ifndef GM_MODEL_PACK_H
#define GM_MODEL_PACK_H

#include "common/model/weights.h"
#include "kernels/pool.h"

struct gm_pack;

struct gm_pack_opts {
    const char *model_path;
    const struct gm_kernels *kernels;
    struct gm_pool *pool;
    /* Called now and then while something is packed; may be NULL. */
    void (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *ctx;
    bool doubt; /* something was changed under its users: hash the weights of packs again */
};

/* Packs what is missing and turns the matrices of *w to the packs. A pack that cannot be had (full
 * disk, folder not writable) is a warning in the log: its matrices stay as they lie in the model
 * file. *out may be NULL (the kernel set packs nothing, or nothing could be packed); it must
 * outlive the use of *w. Waits for another process that packs the same file. */
void gm_pack_open(struct gm_pack **out, struct gm_weights *w, const struct gm_gguf *g,
                  const struct gm_pack_opts *opts);
void gm_pack_close(struct gm_pack **pack); /* idempotent */

/* Bytes mapped; and how many of them were packed by this call of gm_pack_open. */
uint64_t gm_pack_bytes(const struct gm_pack *pack);
uint64_t gm_pack_written(const struct gm_pack *pack);

/* The identity of the weights (gm_gguf_identity) as the packs of this slice remember it, so that
 * the model file need not be read for it; 0 where there is none. */
uint64_t gm_pack_identity(const struct gm_pack *pack);

/* The hash of the packed weights of each layer, and of the table at [GM_LAYERS_MAX]; 0: not packed,
 * or not of this slice. */
struct gm_pack_hashes {
    uint64_t part[GM_LAYERS_MAX + 1];
};
void gm_pack_hashes(const struct gm_pack *pack, struct gm_pack_hashes *out);
/* False: some weights that both have are not the same. */
bool gm_pack_same(const struct gm_pack_hashes *a, const struct gm_pack_hashes *b);

/* Packs the whole model at `model_path` (what a first start does before any shard), with `threads`
 * threads. *written: bytes that were packed, 0 if all was there. Only a model file that cannot be
 * opened, or is cut meanwhile, is an error. */
enum gm_status gm_pack_model(const char *model_path, const struct gm_kernels *kernels, int threads,
                             void (*progress)(void *ctx, uint64_t done, uint64_t total), void *ctx,
                             uint64_t *written, struct gm_err *err);

/* Where the packs of a model file are, into out[GM_PATH_MAX]; and whether some are there (a look at
 * the folder only, to decide whether a first start needs a word about packing). */
enum gm_status gm_pack_folder(const char *model_path, const struct gm_kernels *kernels, char *out,
                              struct gm_err *err);
/* Removes the packs that an earlier version of this program made of the same model for the same
 * kind of kernels: folders beside `folder` that differ in a smaller layout number alone. Called
 * after something was packed. */
void gm_pack_drop_older(const char *folder);
bool gm_pack_present(const char *model_path, const struct gm_kernels *kernels);

#endif
