/* seam_store.h - Redis as an input plays it: what stands below the orchestrator in a target.
 *
 * Owns:      the functions of common/net/store.h, commands that wait for their answer.
 * Does not:  run commands: an answer is what the input says.
 */
#ifndef GM_TESTS_FUZZ_SEAM_STORE_H
#define GM_TESTS_FUZZ_SEAM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Answers the oldest command that waits. The bytes: 0 nil; 1 and eight bytes, a number; 2, a 16-bit
 * length and a text; 3, a count and so many answers; 4 a status. What is cut counts as nil. */
void seam_store_answer(const uint8_t *data, size_t size);
/* The oldest command fails. */
void seam_store_fail(void);
/* Redis goes away or comes back. */
void seam_store_set_up(bool up);

#endif
