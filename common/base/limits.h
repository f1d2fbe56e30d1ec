/* limits.h - the readers behind gm_memory_available_bytes and gm_cpus_usable, with their roots as
 * parameters, so that tests can show them any machine. Users include sys.h instead.
 *
 * Owns:      where the kernel's files are found below a root.
 * Does not:  cache: limits may change while we run.
 */
#ifndef GM_BASE_LIMITS_H
#define GM_BASE_LIMITS_H

#include <stdint.h>

#include "common/base/err.h"

/* `proc` stands for /proc and `cgroup` for /sys/fs/cgroup. Errors as in sys.h. */
enum gm_status gm_limits_memory_bytes(const char *proc, const char *cgroup, uint64_t *bytes,
                                      struct gm_err *err);

/* n_affinity cut to the smallest quota / period of the cgroups above us, rounded up; >= 1. */
uint32_t gm_limits_cpus(const char *proc, const char *cgroup, uint32_t n_affinity);

#endif
