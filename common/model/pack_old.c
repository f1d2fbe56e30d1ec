/* pack_old.c - packs of layouts that this program has left behind.
 *
 * Owns:      which folders are older layouts of the same model and kind, and their removal.
 * Does not:  make packs (pack.c), or touch layouts that are newer or of another kind: another
 *            program or another processor may use them.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/model/pack.h"

/* What a folder's name is made of: "MODEL-KIND-" "NUMBER" "-HASH". */
struct cut {
    const char *name;
    size_t head; /* bytes before the number */
    long number;
    const char *tail;
};

/* Finds the number before the last dash of the name. */
static bool cut_name(struct cut *c, const char *name)
{
    char *end = NULL;
    c->name = name;
    c->tail = strrchr(name, '-');
    if (!c->tail || c->tail == name)
        return false;
    size_t at = (size_t)(c->tail - name);
    while (at > 0 && name[at - 1] >= '0' && name[at - 1] <= '9')
        at--;
    c->head = at;
    errno = 0;
    c->number = strtol(name + at, &end, 10);
    return at > 0 && name[at - 1] == '-' && end == c->tail && errno == 0;
}

/* The same model, folder and kind, with a smaller number. */
static bool is_older(const struct cut *own, const char *name)
{
    struct cut c;
    return cut_name(&c, name) && c.head == own->head && strncmp(name, own->name, own->head) == 0 &&
           strcmp(c.tail, own->tail) == 0 && c.number < own->number;
}

static bool is_ours(const char *name)
{
    const size_t n = strlen(name);
    return strcmp(name, ".lock") == 0 || strcmp(name, "unfinished.tmp") == 0 ||
           (n > 5 && strcmp(name + n - 5, ".pack") == 0);
}

/* Removes what a packer wrote, then the folder if nothing else is in it. A process that has mapped
 * a file keeps it until it ends. */
static void remove_folder(int parent, const char *name)
{
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        if (fd >= 0)
            (void)close(fd);
        return;
    }
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (is_ours(e->d_name))
            (void)unlinkat(fd, e->d_name, 0);
    (void)closedir(dir);
    if (unlinkat(parent, name, AT_REMOVEDIR) == 0)
        gm_info("removed packs of an older layout: %s", name);
}

void gm_pack_drop_older(const char *folder)
{
    struct cut own;
    const char *slash = strrchr(folder, '/');
    if (!slash || !cut_name(&own, slash + 1))
        return;
    char *home = strndup(folder, slash == folder ? 1 : (size_t)(slash - folder));
    DIR *dir = home ? opendir(home) : NULL;
    free(home);
    if (!dir)
        return;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;)
        if (is_older(&own, e->d_name))
            remove_folder(dirfd(dir), e->d_name);
    (void)closedir(dir);
}
