/* lines.h - input in lines, and arrays of token ids, for tokenize and score.
 *
 * Owns:      struct gm_ids_list.
 * Does not:  read files (main.c).
 */
#ifndef GM_CLI_LINES_H
#define GM_CLI_LINES_H

#include "services/cli/cli.h"

struct gm_ids_list {
    int32_t *ids; /* owned: free() */
    size_t n;
};

/* The next line of `in` from *at on that is not blank; false at the end. */
bool gm_line_next(const struct gm_buf *in, size_t *at, const char **line, size_t *n);

/* The ids that the tokenizer gives for n bytes. */
enum gm_status gm_ids_of_text(struct gm_conn *c, const char *text, size_t n, bool bos,
                              struct gm_ids_list *ids, struct gm_err *err);

/* A JSON array of ids below `vocab`. GM_INVALID says which entry is none. */
enum gm_status gm_ids_of_json(const char *line, size_t n, uint32_t vocab, struct gm_ids_list *ids,
                              struct gm_err *err);

#endif
