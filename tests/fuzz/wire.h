/* wire.h - changes to protobuf messages that leave them messages.
 *
 * Owns:      a mutator of the wire format: fields deleted, doubled, swapped, their values changed,
 *            lengths put right; the random numbers of the mutators.
 * Does not:  know any message.
 */
#ifndef GM_TESTS_FUZZ_WIRE_H
#define GM_TESTS_FUZZ_WIRE_H

#include <stddef.h>
#include <stdint.h>

void mutate_seed(uint32_t seed);
uint32_t mutate_below(uint32_t n); /* n > 0 */

/* Changes data[0 .. size) in place; max: room there. Returns the new size. Bytes that are no
 * message are changed as bytes. */
size_t wire_mutate(uint8_t *data, size_t size, size_t max);

/* libFuzzer's own changes. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

#endif
