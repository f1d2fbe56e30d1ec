/* seam_file.h - files that lie in memory: what stands between the readers of files and the disk.
 *
 * Owns:      the wrapped gm_map_open, gm_map_close and gm_file_read of a target (linked with
 *            --wrap=NAME), a small table path -> bytes.
 * Does not:  write files, or know formats. A path that is not in the table is not found.
 * Why:       a mapped file ends somewhere in a page, and a read behind it goes unseen. Here every
 *            file is a block of exactly its bytes, and no system call is made.
 */
#ifndef GM_TESTS_FUZZ_SEAM_FILE_H
#define GM_TESTS_FUZZ_SEAM_FILE_H

#include <stddef.h>
#include <stdint.h>

/* The path holds these bytes and `zeros` zero bytes behind them until seam_file_clear. Copied. */
void seam_file_put(const char *path, const uint8_t *bytes, size_t n, size_t zeros);
void seam_file_clear(void);

#endif
