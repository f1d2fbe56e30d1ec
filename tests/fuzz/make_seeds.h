/* make_seeds.h - what the seed writers share.
 *
 * Owns:      putting one seed into the folder of its target.
 * Does not:  know any target.
 */
#ifndef GM_TESTS_FUZZ_MAKE_SEEDS_H
#define GM_TESTS_FUZZ_MAKE_SEEDS_H

#include <stddef.h>
#include <stdint.h>

/* Writes tests/fuzz/TARGET/NAME below the folder given on the command line; a failure ends the
 * program. */
void seed_write(const char *target, const char *name, const void *bytes, size_t n);

void seeds_of_files(void);    /* seeds_files.c: gguf, safetensors, vocab */
void seeds_of_texts(void);    /* seeds_texts.c: options, template */
void seeds_of_messages(void); /* seeds_messages.c: envelope and the edges */

#endif
