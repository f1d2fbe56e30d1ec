/* sys.h - what the machine and the kernel tell us: clocks, randomness, signals, processes, limits.
 *
 * Owns:      the stop flag and its signal handlers.
 * Does not:  start or end processes, touch files of ours (fs.h), or log.
 */
#ifndef GM_BASE_SYS_H
#define GM_BASE_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

enum {
    GM_ID_DIGITS = 32,              /* hex digits of an ordinary random id (128 bits) */
    GM_ID_BYTES = GM_ID_DIGITS + 1, /* with the ending 0 */
    GM_ID_DIGITS_MAX = 128,
    GM_CPUS_MAX = 4096, /* largest count gm_cpus_usable() gives */
};

/* ---- clocks -------------------------------------------------------------------------------- */
int64_t gm_now_us(void);      /* CLOCK_MONOTONIC, microseconds; comparable between processes here */
int64_t gm_now_ms(void);      /* the same in milliseconds */
int64_t gm_wall_ms(void);     /* milliseconds since 1970, UTC; may jump */
void gm_sleep_ms(int64_t ms); /* returns early when a signal arrives; <= 0 returns at once */

/* ---- randomness (getrandom) ------------------------------------------------------------------ */
/* n random bytes. Never fails: without a kernel source the process cannot be safe and ends. */
void gm_random_bytes(void *out, size_t n);
uint64_t gm_random_u64(void);
/* `digits` (0 .. GM_ID_DIGITS_MAX) lower-case hex digits and a 0 byte: out has digits + 1 bytes. */
void gm_random_id(char *out, size_t digits);

/* ---- stop signals ---------------------------------------------------------------------------- */
/* SIGTERM and SIGINT set the flag (no SA_RESTART: waits return EINTR); SIGPIPE and SIGXFSZ are
 * ignored: the write fails.
 * Call once before threads start. GM_INTERNAL when sigaction refuses.                          */
enum gm_status gm_stop_signals(struct gm_err *err);
bool gm_stopping(void);
void gm_stop_ask(void);   /* sets the flag from inside; safe in a signal handler */
void gm_stop_clear(void); /* takes the flag back: a prompt uses Ctrl-C to end one answer only */
int gm_stop_signal(void); /* the signal that set the flag; 0: none did */

/* ---- processes ------------------------------------------------------------------------------- */
/* Folder of the running executable, without a trailing '/', into out[cap]. GM_RANGE: cap is too
 * small; GM_INTERNAL: /proc cannot be read.                                                    */
enum gm_status gm_self_dir(char *out, size_t cap, struct gm_err *err);

/* Start time of a process in clock ticks since boot (proc(5), stat field 22). With the pid it
 * names a process for as long as the machine is up. GM_NOT_FOUND: no such process.             */
enum gm_status gm_pid_start(int64_t pid, uint64_t *ticks, struct gm_err *err);

/* True when pid runs, is no zombie and started at `ticks`. */
bool gm_pid_alive(int64_t pid, uint64_t ticks);

/* Resident bytes of a process (pid 0: this one). GM_NOT_FOUND: no such process. */
enum gm_status gm_pid_rss_bytes(int64_t pid, uint64_t *bytes, struct gm_err *err);

/* ---- what we may use ------------------------------------------------------------------------- */
/* Bytes we can still take: MemAvailable, or what the cgroup (v1 or v2, any level above us) leaves
 * of its limit when that is less; page cache counts as free. GM_INTERNAL: /proc/meminfo is odd. */
enum gm_status gm_memory_available_bytes(uint64_t *bytes, struct gm_err *err);

/* CPUs in our affinity mask, cut to the cgroup's quota rounded up; at least 1. */
uint32_t gm_cpus_usable(void);

#endif
