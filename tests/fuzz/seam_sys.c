/* seam_sys.c - a clock, random numbers and waiting that an input decides about: see seam_sys.h.
 *
 * Owns:      the time of a target.
 * Does not:  ask the system.
 */
#include "tests/fuzz/seam_sys.h"

#include <poll.h>
#include <stdio.h>

#include "common/base/err.h"
#include "common/base/sys.h"

enum { START_MS = 1000000 };
#define WALL_MS ((int64_t)1700000000000)

static int64_t now_us = (int64_t)START_MS * 1000;
static uint64_t random_next = 1;
static bool stopped;
static seam_sys_wait *waited;

void seam_sys_reset(void)
{
    now_us = (int64_t)START_MS * 1000;
    random_next = 1;
    stopped = false;
}

void seam_sys_advance(int64_t ms)
{
    now_us += ms * 1000;
}

void seam_sys_stop(void)
{
    stopped = true;
}

void seam_sys_on_wait(seam_sys_wait *fn)
{
    waited = fn;
}

int64_t __wrap_gm_now_us(void);
int64_t __wrap_gm_now_ms(void);
int64_t __wrap_gm_wall_ms(void);
void __wrap_gm_sleep_ms(int64_t ms);
uint64_t __wrap_gm_random_u64(void);
void __wrap_gm_random_id(char *out, size_t digits);
enum gm_status __wrap_gm_stop_signals(struct gm_err *err);
bool __wrap_gm_stopping(void);
int __wrap_poll(struct pollfd *fds, nfds_t n, int ms);

int64_t __wrap_gm_now_us(void)
{
    return now_us;
}

int64_t __wrap_gm_now_ms(void)
{
    return now_us / 1000;
}

int64_t __wrap_gm_wall_ms(void)
{
    return WALL_MS + now_us / 1000;
}

void __wrap_gm_sleep_ms(int64_t ms)
{
    if (ms > 0)
        seam_sys_advance(ms);
}

/* Small numbers, so that an input can name a ticket or a call that was drawn; odd ones, because a
 * ticket is what was drawn with its last bit set, and no two may be the same. */
uint64_t __wrap_gm_random_u64(void)
{
    random_next += 2;
    return random_next;
}

void __wrap_gm_random_id(char *out, size_t digits)
{
    (void)snprintf(out, digits + 1, "%0*llx", (int)digits,
                   (unsigned long long)__wrap_gm_random_u64());
}

enum gm_status __wrap_gm_stop_signals(struct gm_err *err)
{
    (void)err;
    return GM_OK;
}

bool __wrap_gm_stopping(void)
{
    return stopped;
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int ms)
{
    for (nfds_t i = 0; i < n; i++)
        fds[i].revents = 0;
    if (waited != NULL)
        waited(ms);
    else if (ms > 0)
        seam_sys_advance(ms);
    return 0;
}
