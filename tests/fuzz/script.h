/* script.h - an input as a row of steps: how the targets of the services read theirs.
 *
 * Owns:      the form of an input, and the mutator that keeps it.
 * Does not:  know what a step does (serve.h).
 * Form:      each step is a code, a 16-bit little-endian length and so many bytes; the last one may
 *            be cut.
 */
#ifndef GM_TESTS_FUZZ_SCRIPT_H
#define GM_TESTS_FUZZ_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct step {
    uint8_t code;
    const uint8_t *data; /* inside the input */
    size_t size;
};

/* Takes the first step off the input; false at its end. */
bool script_take(const uint8_t **data, size_t *size, struct step *out);

/* The codes that the target's steps have: what the mutator chooses from. */
extern const uint8_t script_codes[];
extern const size_t script_codes_n;

#endif
