/* edge.h - the tokenizer process: what main.c opens and edge.c serves.
 *
 * Owns:      struct gm_tokenizer_service.
 * Does not:  encode (spm.cc, turns.c).
 */
#ifndef GM_TOKENIZER_EDGE_H
#define GM_TOKENIZER_EDGE_H

#include "common/net.h"
#include "services/tokenizer/tokenizer.h"

struct gm_tokenizer_service {
    struct gm_service base;
    struct gm_tokenizer *tok;
    char vocab_path[GM_PATH_MAX];
    const char *failed; /* set: cannot serve, and why; said in HELLO */
};

/* The methods of the Tokenizer service; NULL-name terminated. */
extern const struct gm_method gm_tokenizer_methods[];

#endif
