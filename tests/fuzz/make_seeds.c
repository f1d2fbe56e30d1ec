// uses: tests/fuzz/seeds_files.c tests/fuzz/seeds_messages.c tests/fuzz/seeds_orchestrator.c
// uses: tests/fuzz/seeds_net.c tests/fuzz/seeds_texts.c tests/unit/support_gguf.c
/* make_seeds.c - writes the seed corpora of the fuzzing targets: `make fuzz-seeds`.
 *
 * Owns:      the folder and the files in it.
 * Does not:  fuzz. Seeds of the targets path and request are written by hand.
 */
#include "tests/fuzz/make_seeds.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/base/fs.h"

static const char *root = ".";

void seed_write(const char *target, const char *name, const void *bytes, size_t n)
{
    char dir[GM_PATH_MAX], path[GM_PATH_MAX];
    struct gm_err err = GM_ERR_NONE;
    if (gm_path_join(dir, sizeof dir, root, target, &err) != GM_OK ||
        gm_dir_make(dir, 0755, &err) != GM_OK ||
        gm_path_join(path, sizeof path, dir, name, &err) != GM_OK ||
        gm_file_write(path, bytes, n, 0644, &err) != GM_OK) {
        (void)fprintf(stderr, "make_seeds: %s\n", err.text);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        (void)fprintf(stderr, "usage: make_seeds FOLDER\n");
        return 2;
    }
    root = argv[1];
    seeds_of_files();
    seeds_of_texts();
    seeds_of_messages();
    return 0;
}
