/* shapes.h - the models of tests/golden/shapes: their files, and the engine run over them.
 *
 * Owns:      the list of shapes, joining a header and its data to a GGUF file, the reference's
 *            ids and logits, chains of slices that share one sequence.
 * Does not:  judge anything (test_shapes.c does). A file that is missing or damaged fails the test.
 * Use:       the working folder is the root of the repository.
 */
#ifndef GM_TESTS_SHAPES_H
#define GM_TESTS_SHAPES_H

#include "common/model/model.h"

enum { SHAPES = 10, SHAPE_LAYERS_MAX = 26, SHAPE_PATH_MAX = 160, SHAPE_CONTEXT = 256 };

/* Key names of a file. The third is the first with Q, K and V of a layer as one tensor. */
enum shape_dialect { SHAPE_LLAMA, SHAPE_OLLAMA, SHAPE_FUSED, SHAPE_DIALECTS };

extern const char *const shape_names[SHAPES];
extern const char *const shape_dialect_names[SHAPE_DIALECTS];

/* What the reference computes; shape_want_free gives it back. */
struct shape_want {
    int32_t n, vocab, dim;
    int32_t *ids;  /* [n] */
    float *logits; /* [n][vocab] */
};
void shape_want_read(struct shape_want *want, int shape);
void shape_want_free(struct shape_want *want);

/* Whether the shape has a file of this dialect; if so it is written to `path`, in a folder that
 * shape_folder_open made. */
bool shape_file(int shape, enum shape_dialect dialect, char path[SHAPE_PATH_MAX]);
int shape_folder_open(void); /* both 0 on success: a suite's first and last step */
int shape_folder_close(void);

struct shape_setting {
    const char *path; /* of the model file */
    const struct gm_kernels *kernels;
    enum gm_kv_type kv;
    int32_t slices;  /* layers are cut evenly; more than there are: one layer each */
    int32_t chunk;   /* positions of one step */
    int32_t threads; /* of each slice */
};

/* logits[n][vocab] of one sequence computed from its start. */
void shape_run(const struct shape_setting *s, const struct shape_want *want, float *logits);

/* The config that the file gives. */
void shape_config(const char *path, struct gm_config *cfg);

#endif
