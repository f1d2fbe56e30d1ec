/* home.c - the folders of a pipeline: GEMLINE_HOME, a short one for sockets, private ones inside.
 *
 * Owns:      where things lie, their modes, and their removal.
 * Does not:  lock, or know processes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xxhash.h>

#include "services/cli/cli.h"

enum { SOCKET_NAME_MAX = 28 }; /* "/orchestrator-0.sock" and what Redis adds while it starts */

static const char *const temp_prefix = "private-";
static const char *const http_name = "gateway-0.http"; /* the gateway writes it */

enum gm_status gm_home_path(char out[GM_PATH_MAX], const struct gm_home *home, const char *name,
                            struct gm_err *err)
{
    return gm_path_join(out, GM_PATH_MAX, home->dir, name, err);
}

/* A folder of ours alone: mode 0700, owned by us, no link. */
static enum gm_status own_folder(const char *path, struct gm_err *err)
{
    struct stat st;
    if (gm_dir_make(path, 0700, err) != GM_OK)
        return err->status;
    if (lstat(path, &st) != 0 || (!S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode)))
        return gm_fail(err, GM_INVALID, "%.200s is no folder; remove it", path);
    if (stat(path, &st) != 0 || st.st_uid != geteuid())
        return gm_fail(err, GM_DENIED, "%.200s is another user's; set GEMLINE_HOME", path);
    if ((st.st_mode & 0777) != 0700 && chmod(path, 0700) != 0)
        return gm_fail(err, GM_DENIED, "cannot make %.200s private: %s", path, strerror(errno));
    return GM_OK;
}

static enum gm_status choose_run(struct gm_home *home, struct gm_err *err)
{
    struct sockaddr_un un;
    if (strlen(home->dir) + SOCKET_NAME_MAX < sizeof un.sun_path) {
        snprintf(home->run, sizeof home->run, "%s", home->dir);
        return GM_OK;
    }
    snprintf(home->run, sizeof home->run, "/tmp/gemline-%u-%016llx", (unsigned)geteuid(),
             (unsigned long long)XXH64(home->dir, strlen(home->dir), 0));
    struct stat st;
    if (lstat(home->run, &st) == 0 && S_ISLNK(st.st_mode))
        return gm_fail(err, GM_DENIED, "%s is a link; remove it", home->run);
    return own_folder(home->run, err);
}

enum gm_status gm_home_open(struct gm_home *home, const char *dir, struct gm_err *err)
{
    const char *env = getenv("GEMLINE_HOME");
    char path[GM_PATH_MAX];
    if (!dir && env && env[0])
        dir = env;
    if (!dir) {
        if (gm_state_home(path, sizeof path, err) != GM_OK ||
            gm_path_join(path, sizeof path, path, "gemline", err) != GM_OK)
            return err->status;
        dir = path;
    }
    if (own_folder(dir, err) != GM_OK)
        return err->status;
    char *real = realpath(dir, NULL);
    if (!real || strlen(real) >= sizeof home->dir - 64) {
        free(real);
        return gm_fail(err, GM_RANGE, "the path of the home %.100s is too long", dir);
    }
    snprintf(home->dir, sizeof home->dir, "%s", real);
    free(real);
    return choose_run(home, err);
}

enum gm_status gm_home_open_temp(struct gm_home *home, const struct gm_home *parent,
                                 struct gm_err *err)
{
    char path[GM_PATH_MAX], name[32];
    snprintf(name, sizeof name, "%sXXXXXX", temp_prefix);
    if (gm_home_path(path, parent, name, err) != GM_OK)
        return err->status;
    if (!mkdtemp(path))
        return gm_fail(err, GM_UNKNOWN, "cannot make a folder in %.200s: %s", parent->dir,
                       strerror(errno));
    return gm_home_open(home, path, err);
}

static bool is_socket_name(const char *name)
{
    const size_t n = strlen(name);
    return n > 5 && (strcmp(name + n - 5, ".sock") == 0 || strcmp(name + n - 5, ".lane") == 0);
}

enum gm_status gm_home_http(const struct gm_home *home, char out[GM_CLI_HTTP_MAX],
                            struct gm_err *err)
{
    char path[GM_PATH_MAX];
    struct gm_buf text = GM_BUF(GM_CLI_HTTP_MAX - 1);
    enum gm_status rc = gm_path_join(path, sizeof path, home->run, http_name, err);
    if (rc == GM_OK)
        rc = gm_file_read(path, &text, err);
    snprintf(out, GM_CLI_HTTP_MAX, "%s", gm_buf_text(&text));
    out[strcspn(out, "\n")] = 0;
    gm_buf_free(&text);
    return rc;
}

void gm_home_sweep(const struct gm_home *home)
{
    DIR *d = opendir(home->run);
    if (!d)
        return;
    const bool apart = strcmp(home->run, home->dir) != 0;
    for (struct dirent *e; (e = readdir(d));)
        if (is_socket_name(e->d_name) || strcmp(e->d_name, "vocab.gmv") == 0 ||
            strcmp(e->d_name, http_name) == 0)
            unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    gm_home_net_sweep(home);
    if (apart)
        rmdir(home->run);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    (void)remove(path);
    return 0;
}

void gm_home_remove(const struct gm_home *home)
{
    gm_home_sweep(home);
    (void)nftw(home->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void gm_home_each_temp(const struct gm_home *home,
                       void (*fn)(const struct gm_home *temp, void *ctx), void *ctx)
{
    DIR *d = opendir(home->dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        struct gm_home temp;
        char path[GM_PATH_MAX];
        if (strncmp(e->d_name, temp_prefix, strlen(temp_prefix)) == 0 &&
            gm_home_path(path, home, e->d_name, NULL) == GM_OK &&
            gm_home_open(&temp, path, NULL) == GM_OK)
            fn(&temp, ctx);
    }
    closedir(d);
}
