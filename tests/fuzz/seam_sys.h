/* seam_sys.h - a clock, random numbers and waiting that an input decides about.
 *
 * Owns:      the wrapped gm_now_us, gm_now_ms, gm_wall_ms, gm_sleep_ms, gm_random_u64,
 *            gm_random_id, gm_stop_signals, gm_stopping and poll of a target (linked with
 *            --wrap=NAME).
 * Does not:  wait: time goes on where the target says so, and where somebody would have waited.
 */
#ifndef GM_TESTS_FUZZ_SEAM_SYS_H
#define GM_TESTS_FUZZ_SEAM_SYS_H

#include <stdbool.h>
#include <stdint.h>

void seam_sys_reset(void); /* the clock and the random numbers begin again; nobody stops */
void seam_sys_advance(int64_t ms);
void seam_sys_stop(void); /* gm_stopping is true until the next reset */

/* Called where somebody would wait; ms -1: for ever. NULL: time goes on by ms. */
typedef void seam_sys_wait(int ms);
void seam_sys_on_wait(seam_sys_wait *fn);

#endif
