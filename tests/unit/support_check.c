/* support_check.c - the numeric harness declared in support_check.h.
 *
 * Owns:      guarded mappings, the random stream, the comparison and its messages.
 * Does not:  know kernels or CUnit.
 */
#include "tests/unit/support_check.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FILL = 0xff };

void gm_check_init(struct gm_check *c)
{
    memset(c, 0, sizeof *c);
    const char *seed = getenv("GM_SEED");
    c->seed = seed && seed[0] ? strtoull(seed, NULL, 0) : 1;
    c->set = "ref";
    printf("GM_SEED=%" PRIu64 "\n", c->seed);
}

int gm_check_begin(struct gm_check *c, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(c->name, sizeof c->name, format, args);
    va_end(args);
    if (c->only && !strstr(c->name, c->only))
        return 0;
    c->state = c->seed * 0x9e3779b97f4a7c15u + 0x632be59bd9b4e019u;
    for (const char *p = c->name; *p; p++)
        c->state = (c->state ^ (uint8_t)*p) * 0x100000001b3u;
    c->cases++;
    return 1;
}

int gm_check_true(struct gm_check *c, int ok, const char *what)
{
    if (!ok && c->failures++ < GM_CHECK_SHOWN_MAX)
        printf("\n  %s %s: %s (GM_SEED=%" PRIu64 ")", c->set, c->name, what, c->seed);
    return ok;
}

static int untouched(const uint8_t *from, const uint8_t *to)
{
    while (from < to && *from == FILL)
        from++;
    return from == to;
}

void gm_check_end(struct gm_check *c)
{
    for (int i = 0; i < c->bufs_used; i++) {
        struct gm_check_buf *b = &c->bufs[i];
        gm_check_true(c, untouched(b->map, b->data), "wrote in front of a buffer");
        gm_check_true(c, untouched(b->data + b->data_bytes, b->map + b->map_bytes),
                      "wrote behind a buffer");
        munmap(b->map, b->map_bytes + (size_t)sysconf(_SC_PAGESIZE));
    }
    c->bufs_used = 0;
}

static void give_up(const char *why)
{
    printf("\n  harness: %s\n", why);
    exit(2);
}

void *gm_check_bytes(struct gm_check *c, size_t bytes, size_t slack)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (c->bufs_used == GM_CHECK_BUFS_MAX)
        give_up("too many buffers in one case; raise GM_CHECK_BUFS_MAX");
    struct gm_check_buf *b = &c->bufs[c->bufs_used++];
    b->map_bytes = (bytes + slack + page - 1) / page * page + page;
    b->map =
        mmap(NULL, b->map_bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->map == MAP_FAILED || mprotect(b->map + b->map_bytes, page, PROT_NONE) != 0)
        give_up("no memory for a guarded buffer; free some and run again");
    memset(b->map, FILL, b->map_bytes);
    b->data = b->map + b->map_bytes - slack - bytes;
    b->data_bytes = bytes;
    return b->data;
}

float *gm_check_floats(struct gm_check *c, size_t count)
{
    return gm_check_bytes(c, count * sizeof(float), 0);
}

/* splitmix64. */
uint64_t gm_check_u64(struct gm_check *c)
{
    uint64_t z = c->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t gm_check_below(struct gm_check *c, uint32_t limit)
{
    return (uint32_t)((gm_check_u64(c) >> 32) * limit >> 32);
}

double gm_check_unit(struct gm_check *c)
{
    return (double)(gm_check_u64(c) >> 11) * 0x1p-53;
}

/* Sum of twelve uniform numbers: near enough to a normal one, and no libm. */
double gm_check_normal(struct gm_check *c)
{
    double sum = -6.0;
    for (int i = 0; i < 6; i++) {
        uint64_t u = gm_check_u64(c);
        sum += (double)(uint32_t)u * 0x1p-32 + (double)(u >> 32) * 0x1p-32;
    }
    return sum;
}

void gm_check_fill_normal(struct gm_check *c, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)gm_check_normal(c) * scale;
}

void gm_check_fill(struct gm_check *c, float *x, size_t n, float huge)
{
    static const float odd[] = { 0.0f, -0.0f, 1e-30f, -1e-30f, 1e-40f, -1e-45f, 1.0f, -1.0f };
    for (size_t i = 0; i < n; i++) {
        uint32_t kind = gm_check_below(c, 40);
        float v = (float)gm_check_normal(c);
        if (kind < 8)
            v = odd[kind];
        else if (kind == 8)
            v = huge * (float)(2.0 * gm_check_unit(c) - 1.0);
        else if (kind < 12 && i > 0)
            v = x[i - 1];
        x[i] = v;
    }
}

static void compare(struct gm_check *c, size_t i, float want, float got, double bound)
{
    int ok = isnan(want)   ? isnan(got)
             : isinf(want) ? got == want
                           : !isnan(got) && fabs((double)got - (double)want) <= bound;
    if (ok || c->failures++ >= GM_CHECK_SHOWN_MAX)
        return;
    printf("\n  %s %s [%zu]: want %.9g, got %.9g, off by %.3g, allowed %.3g (GM_SEED=%" PRIu64 ")",
           c->set, c->name, i, (double)want, (double)got, (double)got - (double)want, bound,
           c->seed);
}

void gm_check_within(struct gm_check *c, const float *want, const float *got, size_t n,
                     const double *bounds)
{
    for (size_t i = 0; i < n; i++)
        compare(c, i, want[i], got[i], bounds[i]);
}

void gm_check_near(struct gm_check *c, const float *want, const float *got, size_t n,
                   double relative, double absolute)
{
    for (size_t i = 0; i < n; i++)
        compare(c, i, want[i], got[i], relative * fabs((double)want[i]) + absolute);
}

void gm_check_same(struct gm_check *c, const void *a, const void *b, size_t bytes, const char *what)
{
    const uint8_t *p = a, *q = b;
    if (bytes == 0 || memcmp(p, q, bytes) == 0)
        return;
    size_t i = 0;
    while (p[i] == q[i])
        i++;
    if (c->failures++ >= GM_CHECK_SHOWN_MAX)
        return;
    float x = 0.0f, y = 0.0f;
    size_t at = i / sizeof x * sizeof x;
    if (at + sizeof x <= bytes) {
        memcpy(&x, p + at, sizeof x);
        memcpy(&y, q + at, sizeof y);
    }
    printf("\n  %s %s: bits differ at byte %zu (as floats [%zu]: %.9g, %.9g): %s (GM_SEED=%" PRIu64
           ")",
           c->set, c->name, i, at / sizeof x, (double)x, (double)y, what, c->seed);
}
