// uses: tests/unit/model_small.c
/* test_pack.c - the pack folder: packs are made, used again, refused when they do not fit.
 *
 * Owns:      a small model in a temporary folder, damaged packs, a packer that is killed.
 * Does not:  test layouts (kernels_packed.c).
 */
#include "common/model/model.h"
#include "tests/unit/model_small.h"

#include <CUnit/Basic.h>
#include <fcntl.h>
#include <ftw.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/log.h"

enum { TEXT = 600, FILES = SMALL_LAYERS + 1 };

static struct small_model model;
static char root[TEXT], path[TEXT], packs[TEXT];
static float want[SMALL_VOCAB];

static const struct gm_kernels *kernels(void)
{
    return gm_kernels_select(NULL, NULL);
}

/* Logits of one token. */
static void forward(float *logits)
{
    const struct gm_slice_opts o = { .model_path = path,
                                     .spec = { 0, SMALL_LAYERS, true, true },
                                     .kernels = kernels(),
                                     .threads = 2,
                                     .kv_tokens = 128,
                                     .context = 64,
                                     .rows_max = 8 };
    struct gm_slice *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    float hidden[SMALL_DIM];
    double lse[2];
    const int32_t id = 7;
    int32_t bad;
    CU_ASSERT_EQUAL_FATAL(gm_slice_open(&s, &o, &err), GM_OK);
    struct gm_kv *kv = gm_slice_kv(s);
    struct gm_kv_seq *seq = gm_kv_seq_new(kv);
    CU_ASSERT_EQUAL(gm_kv_reserve(kv, seq, 1, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_kv_extend(kv, seq, &id, 1, NULL), GM_OK);
    struct gm_span span = { seq, 0, 1, 0 };
    struct gm_batch batch = { &span, 1, 1, hidden, NULL, NULL };
    CU_ASSERT_EQUAL(gm_slice_embed(s, &id, 1, hidden, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_slice_blocks(s, &batch, &bad, NULL), GM_OK);
    struct gm_head_row row = {
        .hidden = hidden, .logits = logits, .inv_t = 1.0f, .lse_raw = lse, .lse_t = lse
    };
    gm_slice_head(s, &row, 1);
    gm_slice_close(&s);
}

/* Logits must be those of the model file's own layout, whatever became of the packs. */
static void check_same(void)
{
    float got[SMALL_VOCAB];
    forward(got);
    CU_ASSERT_EQUAL(memcmp(got, want, sizeof got), 0);
}

/* Fills `want` where nothing can be packed. */
static void unpacked(void)
{
    setenv("GEMLINE_PACK", "/proc/none", 1);
    forward(want);
    setenv("GEMLINE_PACK", packs, 1);
    for (int i = 0; i < SMALL_VOCAB; i++)
        CU_ASSERT_TRUE(isfinite(want[i]));
}

static uint64_t pack(void)
{
    uint64_t written = 0;
    struct gm_err err = GM_ERR_NONE;
    CU_ASSERT_EQUAL(gm_pack_model(path, kernels(), 2, NULL, NULL, &written, &err), GM_OK);
    return written;
}

/* The path of a file in the pack folder. */
static void pack_path(char out[GM_PATH_MAX], const char *name)
{
    CU_ASSERT_EQUAL_FATAL(gm_pack_folder(path, kernels(), out, NULL), GM_OK);
    CU_ASSERT_EQUAL_FATAL(gm_path_join(out, GM_PATH_MAX, out, name, NULL), GM_OK);
}

static int drop(const char *name, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(name);
}

static void remove_packs(void)
{
    (void)nftw(packs, drop, 8, FTW_DEPTH | FTW_PHYS);
}

static void made_once(void)
{
    remove_packs();
    CU_ASSERT_FALSE(gm_pack_present(path, kernels()));
    const uint64_t first = pack();
    CU_ASSERT_TRUE(first > (uint64_t)FILES * 4096);
    CU_ASSERT_TRUE(gm_pack_present(path, kernels()));
    CU_ASSERT_EQUAL(pack(), 0);
    check_same();
}

static void flip(const char *name, off_t at)
{
    char file[GM_PATH_MAX];
    uint8_t byte = 0;
    pack_path(file, name);
    const int fd = open(file, O_RDWR);
    CU_ASSERT_TRUE_FATAL(fd >= 0);
    CU_ASSERT_EQUAL(pread(fd, &byte, 1, at), 1);
    byte ^= 0x40;
    CU_ASSERT_EQUAL(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

/* A header that says anything else than it should, a cut file, an empty one: packed again. */
static void damaged(void)
{
    char file[GM_PATH_MAX];
    struct stat st;
    pack();
    for (off_t at = 0; at < 300; at += 7) {
        flip("layer-001.pack", at);
        CU_ASSERT_TRUE(pack() > 0);
        CU_ASSERT_EQUAL(pack(), 0);
    }
    pack_path(file, "table.pack");
    CU_ASSERT_EQUAL(stat(file, &st), 0);
    const off_t cuts[] = { 0, 1, 4095, 4096, st.st_size - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        CU_ASSERT_EQUAL(truncate(file, cuts[i]), 0);
        CU_ASSERT_TRUE(pack() > 0);
    }
    check_same();
}

/* Another model under the same name: its packs are made anew. */
static void replaced_model(void)
{
    struct small_model other;
    float theirs[SMALL_VOCAB];
    pack();
    small_make(&other, false, 99);
    CU_ASSERT_EQUAL(small_write_gguf(&other, path), 1);
    small_free(&other);
    forward(theirs);
    CU_ASSERT_NOT_EQUAL(memcmp(theirs, want, sizeof want), 0);
    CU_ASSERT_EQUAL(small_write_gguf(&model, path), 1);
    check_same();
}

/* A folder that cannot be written: the same answers from the file's own layout. */
static void no_folder(void)
{
    remove_packs();
    const int fd = open(packs, O_WRONLY | O_CREAT, 0600); /* a file where the folder should be */
    CU_ASSERT_TRUE(fd >= 0);
    close(fd);
    CU_ASSERT_EQUAL(pack(), 0);
    check_same();
    CU_ASSERT_EQUAL(unlink(packs), 0);
}

static void die(void *ctx, uint64_t done, uint64_t total)
{
    (void)total;
    if (done >= *(const uint64_t *)ctx)
        (void)kill(getpid(), SIGKILL);
}

/* A packer killed anywhere leaves whole packs only; the next one goes on. */
static void killed(void)
{
    remove_packs();
    const uint64_t all = pack();
    uint64_t kept = 0;
    for (uint64_t at = 1; at < all; at += all / 9) {
        int status = 0;
        remove_packs();
        const pid_t child = fork();
        if (child == 0) {
            uint64_t written;
            (void)gm_pack_model(path, kernels(), 1, die, &at, &written, NULL);
            _exit(0);
        }
        CU_ASSERT_EQUAL(waitpid(child, &status, 0), child);
        CU_ASSERT_TRUE(WIFSIGNALED(status) || at > all / 2);
        const uint64_t rest = pack();
        CU_ASSERT_TRUE(rest > 0 || !WIFSIGNALED(status));
        kept += all - rest;
        check_same();
    }
    CU_ASSERT_TRUE(kept > 0);
}

static void put_folder(const char *name, const char *file)
{
    char at[2 * TEXT];
    struct gm_err err = GM_ERR_NONE;
    snprintf(at, sizeof at, "%s/old/%s", root, name);
    CU_ASSERT_EQUAL_FATAL(gm_dir_make(at, 0755, &err), GM_OK);
    snprintf(at, sizeof at, "%s/old/%s/%s", root, name, file);
    const int fd = open(at, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    CU_ASSERT_FATAL(fd >= 0);
    close(fd);
}

static bool there(const char *name)
{
    char at[2 * TEXT];
    snprintf(at, sizeof at, "%s/old/%s", root, name);
    return gm_path_exists(at);
}

/* Only an older layout of the same model, folder and kind goes, and only with what a packer wrote
 * in it. */
static void older_layouts(void)
{
    static const char *const stay[] = { "a.gguf-vnni16-3-00000001", "a.gguf-vnni16-4-00000001",
                                        "a.gguf-avx2x8-2-00000001", "a.gguf-vnni16-2-00000002",
                                        "b.gguf-vnni16-2-00000001", "a.gguf-vnni16--00000001",
                                        "a.gguf-vnni16-2x-00000001" };
    enum { STAY = sizeof stay / sizeof stay[0] };
    char own[2 * TEXT];
    for (int i = 0; i < STAY; i++)
        put_folder(stay[i], "layer-000.pack");
    put_folder("a.gguf-vnni16-1-00000001", "layer-000.pack");
    put_folder("a.gguf-vnni16-1-00000001", ".lock");
    put_folder("a.gguf-vnni16-2-00000001", "somebody's letter");
    put_folder("a.gguf-vnni16-2-00000001", "table.pack");
    snprintf(own, sizeof own, "%s/old/%s", root, stay[0]);
    gm_pack_drop_older(own);
    for (int i = 0; i < STAY; i++)
        CU_ASSERT_TRUE(there(stay[i]));
    CU_ASSERT_FALSE(there("a.gguf-vnni16-1-00000001"));
    CU_ASSERT_TRUE(there("a.gguf-vnni16-2-00000001/somebody's letter"));
    CU_ASSERT_FALSE(there("a.gguf-vnni16-2-00000001/table.pack"));
}

static int setup(void)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.400s/gm-pack-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root))
        return 1;
    snprintf(path, sizeof path, "%.500s/small.gguf", root);
    snprintf(packs, sizeof packs, "%.500s/packs", root);
    gm_log_set_level(GM_LOG_ERROR);
    small_make(&model, false, 5);
    if (!small_write_gguf(&model, path))
        return 1;
    return 0;
}

static int cleanup(void)
{
    small_free(&model);
    return nftw(root, drop, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 1;
    CU_pSuite s = CU_add_suite("pack", setup, cleanup);
    CU_add_test(s, "without packs", unpacked);
    if (kernels()->pack_bytes) {
        CU_add_test(s, "made once, used again", made_once);
        CU_add_test(s, "damaged packs", damaged);
        CU_add_test(s, "replaced model", replaced_model);
        CU_add_test(s, "packer killed", killed);
    }
    CU_add_test(s, "older layouts", older_layouts);
    CU_add_test(s, "folder cannot be made", no_folder);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    const unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed ? 1 : 0;
}
