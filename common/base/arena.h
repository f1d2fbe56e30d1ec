/* arena.h - one bump arena: small things of one request, freed by one reset.
 *
 * Owns:      one address range reserved at open; pages are touched only when used.
 * Does not:  free single objects, grow past its ceiling, or lock (one thread owns an arena).
 * Sanitizer: under ASan everything not handed out is poisoned, with a gap after each object.
 */
#ifndef GM_BASE_ARENA_H
#define GM_BASE_ARENA_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum { GM_ARENA_ALIGN = 16 };                    /* of every pointer handed out */
#define GM_ARENA_BYTES_MAX  ((size_t)1 << 40)    /* largest ceiling that open accepts */
#define GM_ARENA_KEEP_BYTES ((size_t)256 * 1024) /* pages above this go back at reset */

struct gm_arena {
    uint8_t *base;     /* NULL when closed */
    size_t bytes_max;  /* the ceiling, as asked for */
    size_t bytes_used; /* handed out since the last reset, with alignment */
    size_t bytes_top;  /* most ever used between two resets; for metrics */
};

/* Reserves bytes_max (1 .. GM_ARENA_BYTES_MAX) of address space. GM_INVALID for a size out of
 * range, GM_EXHAUSTED when the system refuses. On failure *a is closed.                        */
enum gm_status gm_arena_open(struct gm_arena *a, size_t bytes_max, struct gm_err *err);

/* Gives the range back. Accepts a zeroed or closed arena. */
void gm_arena_close(struct gm_arena *a);

/* Forgets every object; the memory above GM_ARENA_KEEP_BYTES returns to the system. */
void gm_arena_reset(struct gm_arena *a);

/* `bytes` bytes (0 counts as 1), 16-byte aligned, contents undefined, valid until reset or close.
 * NULL when the ceiling would be passed or the arena is closed.                                */
void *gm_arena_take(struct gm_arena *a, size_t bytes);

/* n objects of `bytes` bytes, zeroed. NULL on overflow or at the ceiling. */
void *gm_arena_take_zero(struct gm_arena *a, size_t n, size_t bytes);

/* Copy of n bytes with a 0 byte after them. NULL at the ceiling. `text` may be NULL if n is 0. */
char *gm_arena_text(struct gm_arena *a, const char *text, size_t n);

/* The same arena in the shape of an allocator callback (protobuf-c's ProtobufCAllocator: alloc,
 * free, allocator_data = the arena). Freeing does nothing; reset does it.                      */
void *gm_arena_alloc_call(void *arena, size_t bytes);
void gm_arena_free_call(void *arena, void *object);

#endif
