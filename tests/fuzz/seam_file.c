/* seam_file.c - files that lie in memory: see seam_file.h.
 *
 * Owns:      the table and the blocks that stand for mappings.
 * Does not:  touch the disk.
 */
#include "tests/fuzz/seam_file.h"

#include "common/base/fs.h"
#include "tests/fuzz/must.h"

enum { FILES_MAX = 4, MAP_ALIGN = 4096 };

static struct file {
    const char *path;
    uint8_t *bytes;
    size_t n;
} files[FILES_MAX];
static int n_files;

void seam_file_put(const char *path, const uint8_t *bytes, size_t n, size_t zeros)
{
    must(n_files < FILES_MAX);
    struct file *f = &files[n_files++];
    *f = (struct file){ path, calloc(1, n + zeros + 1), n + zeros };
    must(f->bytes != NULL);
    if (n > 0)
        memcpy(f->bytes, bytes, n);
}

void seam_file_clear(void)
{
    while (n_files > 0)
        free(files[--n_files].bytes);
}

static const struct file *find(const char *path)
{
    for (int i = 0; i < n_files; i++)
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    return NULL;
}

enum gm_status __wrap_gm_map_open(struct gm_map *map, const char *path, size_t bytes_max,
                                  struct gm_err *err);
void __wrap_gm_map_close(struct gm_map *map);
enum gm_status __wrap_gm_file_read(const char *path, struct gm_buf *out, struct gm_err *err);

enum gm_status __wrap_gm_map_open(struct gm_map *map, const char *path, size_t bytes_max,
                                  struct gm_err *err)
{
    const struct file *f = find(path);
    void *block = NULL;
    *map = (struct gm_map){ NULL, 0 };
    if (f == NULL)
        return gm_fail(err, GM_NOT_FOUND, "%s is not there", path);
    if (bytes_max != 0 && f->n > bytes_max)
        return gm_fail(err, GM_EXHAUSTED, "%s has %zu bytes", path, f->n);
    if (f->n == 0)
        return GM_OK;
    must(posix_memalign(&block, MAP_ALIGN, f->n) == 0);
    memcpy(block, f->bytes, f->n);
    *map = (struct gm_map){ block, f->n };
    return GM_OK;
}

void __wrap_gm_map_close(struct gm_map *map)
{
    free((void *)(uintptr_t)map->ptr);
    *map = (struct gm_map){ NULL, 0 };
}

enum gm_status __wrap_gm_file_read(const char *path, struct gm_buf *out, struct gm_err *err)
{
    const struct file *f = find(path);
    if (f == NULL)
        return gm_fail(err, GM_NOT_FOUND, "%s is not there", path);
    return gm_buf_append(out, (const char *)f->bytes, f->n, err);
}
