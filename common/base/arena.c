/* arena.c - the bump arena: one reserved address range and an offset.
 *
 * Owns:      reservation, poisoning, the return of pages at reset.
 * Does not:  know what its users store.
 * Memory:    mmap without reserve, so a large ceiling costs nothing until it is used.
 */
#include "common/base/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { GAP_BYTES = GM_ARENA_ALIGN }; /* poisoned bytes after each object */
#else
#define ASAN_POISON_MEMORY_REGION(at, n)   ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
enum { GAP_BYTES = 0 };
#endif

/* bytes_max rounded up to whole pages: what is really mapped. */
static size_t arena_mapped_bytes(size_t bytes_max)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes_max + page - 1) / page * page;
}

enum gm_status gm_arena_open(struct gm_arena *a, size_t bytes_max, struct gm_err *err)
{
    *a = (struct gm_arena){ 0 };
    if (bytes_max == 0 || bytes_max > GM_ARENA_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "an arena holds 1 to %zu bytes, not %zu",
                       GM_ARENA_BYTES_MAX, bytes_max);
    size_t bytes = arena_mapped_bytes(bytes_max);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return gm_fail(err, GM_EXHAUSTED,
                       "the system refuses an arena of %zu bytes (%s): raise the memory limit",
                       bytes_max, strerror(errno));
    a->base = base;
    a->bytes_max = bytes_max;
    ASAN_POISON_MEMORY_REGION(a->base, bytes);
    return GM_OK;
}

void gm_arena_close(struct gm_arena *a)
{
    if (a->base != NULL) {
        size_t bytes = arena_mapped_bytes(a->bytes_max);
        ASAN_UNPOISON_MEMORY_REGION(a->base, bytes);
        (void)munmap(a->base, bytes);
    }
    *a = (struct gm_arena){ 0 };
}

void gm_arena_reset(struct gm_arena *a)
{
    if (a->base == NULL)
        return;
    if (a->bytes_used > GM_ARENA_KEEP_BYTES)
        (void)madvise(a->base + GM_ARENA_KEEP_BYTES,
                      arena_mapped_bytes(a->bytes_used) - GM_ARENA_KEEP_BYTES, MADV_DONTNEED);
    a->bytes_used = 0;
    ASAN_POISON_MEMORY_REGION(a->base, arena_mapped_bytes(a->bytes_max));
}

void *gm_arena_take(struct gm_arena *a, size_t bytes)
{
    if (a->base == NULL)
        return NULL;
    if (bytes == 0)
        bytes = 1;
    size_t room = a->bytes_max - a->bytes_used;
    if (bytes > room)
        return NULL;
    uint8_t *object = a->base + a->bytes_used;
    size_t step = (bytes + GAP_BYTES + GM_ARENA_ALIGN - 1) / GM_ARENA_ALIGN * GM_ARENA_ALIGN;
    a->bytes_used = step < room ? a->bytes_used + step : a->bytes_max;
    if (a->bytes_used > a->bytes_top)
        a->bytes_top = a->bytes_used;
    ASAN_UNPOISON_MEMORY_REGION(object, bytes);
    return object;
}

void *gm_arena_take_zero(struct gm_arena *a, size_t n, size_t bytes)
{
    size_t all = 0;
    if (__builtin_mul_overflow(n, bytes, &all))
        return NULL;
    void *object = gm_arena_take(a, all);
    return object == NULL ? NULL : memset(object, 0, all);
}

char *gm_arena_text(struct gm_arena *a, const char *text, size_t n)
{
    if (n == SIZE_MAX)
        return NULL;
    char *copy = gm_arena_take(a, n + 1);
    if (copy == NULL)
        return NULL;
    if (n > 0)
        memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

void *gm_arena_alloc_call(void *arena, size_t bytes)
{
    return gm_arena_take(arena, bytes);
}

void gm_arena_free_call(void *arena, void *object)
{
    (void)arena;
    (void)object;
}
