/* must.h - what every fuzzing target shares: the assertion, and how an input begins.
 *
 * Owns:      must(), the reading of a number from the front of an input.
 * Does not:  know any format.
 */
#ifndef GM_TESTS_FUZZ_MUST_H
#define GM_TESTS_FUZZ_MUST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

/* Called by libFuzzer with one input; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void must(bool holds)
{
    if (!holds)
        abort();
}

/* A failure has a status and a sentence; success has neither. */
static inline void must_be_told(enum gm_status rc, const struct gm_err *err)
{
    must(rc == err->status && (rc == GM_OK) == (err->text[0] == '\0'));
    must(strlen(err->text) < GM_ERR_TEXT_MAX);
}

/* Takes a little-endian 16-bit number from the front; 0 when there is none. */
static inline size_t take_u16(const uint8_t **data, size_t *size)
{
    if (*size < 2)
        return 0;
    const size_t n = (*data)[0] | (size_t)(*data)[1] << 8;
    *data += 2;
    *size -= 2;
    return n;
}

#endif
