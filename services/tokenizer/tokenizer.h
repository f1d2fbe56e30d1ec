/* tokenizer.h - what the tokenizer service can do: text and conversations in, token ids out.
 *
 * Owns:      the tokenizer (sentencepiece behind a C interface), the chat template, the tool
 * prompt. Does not:  keep sessions, know sockets or messages, or turn ids into text
 * (common/base/vocab.h). Threads:   an open tokenizer is read-only: any thread may encode with it.
 * Files:     spm.cc (the only C++), spm_file.c (.model files), ids.c, tooltext.c (tools as text),
 *            turns.c (the template), turns_json.c (OpenAI messages into plain structs).
 */
#ifndef GM_TOKENIZER_H
#define GM_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "common/base/err.h"
#include "common/base/text.h"
#include "common/base/vocab.h"

enum {
    GM_ENCODE_BYTES_MAX = 16 << 20,   /* one text given to gm_tokenizer_encode */
    GM_IDS_MAX = 32 << 20,            /* ids of one answer of the tokenizer */
    GM_SPM_FILE_BYTES_MAX = 64 << 20, /* a .model file */
    GM_MESSAGES_MAX = 8192,           /* messages of one request */
    GM_MESSAGE_PARTS_MAX = 1024,      /* content parts of one message */
    GM_MESSAGES_BYTES_MAX = 48 << 20, /* JSON text of the messages */
    GM_TOOLS_MAX = 128,               /* tools offered in one request */
    GM_TOOLS_BYTES_MAX = 1 << 20,     /* JSON text of the tools */
    GM_TOOL_NAME_BYTES_MAX = 128,     /* name of a tool */
    GM_TOOL_CALLS_MAX = 64,           /* calls in one assistant message */
    GM_CALL_ARGUMENTS_MAX = 1 << 20,  /* JSON text of one call's arguments */
    GM_TOOL_TEXT_BYTES_MAX = 8 << 20, /* tool prompt, or one call's line */
};

/* ---- ids ------------------------------------------------------------------------------------- */

/* A growing array of token ids; zero-initialise. */
struct gm_ids {
    int32_t *v; /* owned; NULL while empty */
    size_t n;
    size_t cap;
};

/* Appends n ids. GM_EXHAUSTED past GM_IDS_MAX or out of memory; nothing changes then. */
enum gm_status gm_ids_append(struct gm_ids *ids, const int32_t *v, size_t n, struct gm_err *err);
void gm_ids_free(struct gm_ids *ids); /* idempotent */

/* ---- tokenizer ------------------------------------------------------------------------------- */

struct gm_tokenizer;

/* Types of pieces, as GGUF and sentencepiece number them. */
enum gm_piece_type {
    GM_TYPE_NORMAL = 1,
    GM_TYPE_UNKNOWN = 2,
    GM_TYPE_CONTROL = 3,
    GM_TYPE_USER_DEFINED = 4,
    GM_TYPE_UNUSED = 5,
    GM_TYPE_BYTE = 6,
};

/* A vocabulary as plain arrays, such as a GGUF file holds. The caller keeps the arrays; they may go
 * after the open. Blanks in user-defined pieces may be blanks or U+2581.                        */
struct gm_piece_source {
    uint32_t n;
    const char *const *pieces;  /* n pointers to bytes, not 0-terminated */
    const uint32_t *lens;       /* n lengths in bytes */
    const float *scores;        /* n */
    const int32_t *types;       /* n, enum gm_piece_type */
    int32_t bos, eos, unk, pad; /* ids, -1: not given (then the piece's text finds it) */
};

/* Opens a sentencepiece BPE tokenizer with byte fallback, identity normaliser, no dummy prefix,
 * blanks kept and escaped. Pieces with a control token's name (gm_control_name) are control tokens
 * whatever their type, those named [PADn] are unused: typed text never becomes one of either.
 * GM_INVALID: what is wrong with which piece; GM_EXHAUSTED: out of memory. Caller closes *out. */
enum gm_status gm_tokenizer_open_pieces(const struct gm_piece_source *src,
                                        struct gm_tokenizer **out, struct gm_err *err);

/* The same from a sentencepiece .model file. GM_UNSUPPORTED: a unigram model, no byte fallback or
 * another normaliser; GM_INVALID: no such file; else as gm_file_read.                          */
enum gm_status gm_tokenizer_open_file(const char *path, struct gm_tokenizer **out,
                                      struct gm_err *err);

void gm_tokenizer_close(struct gm_tokenizer **tok); /* idempotent; sets the pointer to NULL */

/* The vocabulary, for decoding, special ids and gm_vocab_write; lives as long as the tokenizer. */
const struct gm_vocab *gm_tokenizer_vocab(const struct gm_tokenizer *tok);

/* Appends the ids of text (len bytes of UTF-8, not 0-terminated) to *ids: never a control token, no
 * BOS. GM_INVALID: not UTF-8 (the sentence says where); GM_EXHAUSTED: over GM_ENCODE_BYTES_MAX or
 * out of memory. *ids keeps what it held on failure.                                           */
enum gm_status gm_tokenizer_encode(const struct gm_tokenizer *tok, const char *text, size_t len,
                                   struct gm_ids *ids, struct gm_err *err);

/* What a .model file holds. */
struct gm_spm_file {
    struct gm_buf bytes; /* the file; the pieces point into it */
    const char **pieces;
    uint32_t *lens;
    float *scores;
    int32_t *types;
    struct gm_piece_source src; /* the arrays above as a source */
};

/* Reads and checks a .model file; errors as gm_tokenizer_open_file. On failure *f is closed. */
enum gm_status gm_spm_file_open(struct gm_spm_file *f, const char *path, struct gm_err *err);
void gm_spm_file_close(struct gm_spm_file *f); /* idempotent; accepts a zeroed one */

/* ---- tools as text --------------------------------------------------------------------------- */

/* The prompt that offers the tools: protocol text, the tools' blocks, "Now, answer the following:"
 * and an empty line. `json` is OpenAI's `tools` array; an empty array (or NULL) appends nothing.
 * GM_INVALID: which tool is wrong and how; GM_EXHAUSTED: over a limit or out of memory.        */
enum gm_status gm_tooltext_prompt(const char *json, size_t len, struct gm_buf *out,
                                  struct gm_err *err);

/* Only the blocks, joined by one newline: what a search for tools answers with. Errors as above. */
enum gm_status gm_tooltext_blocks(const char *json, size_t len, struct gm_buf *out,
                                  struct gm_err *err);

/* One call as the model writes it: {"tool_name": "NAME", "PARAM": value}. `arguments` is JSON text
 * (an object; empty text means none) and stays as written, but for the white space between its
 * parts. GM_INVALID: not an object, not JSON, holds tool_name itself.                          */
enum gm_status gm_tooltext_call(const char *name, const char *arguments, size_t arguments_len,
                                struct gm_buf *out, struct gm_err *err);

/* ---- conversations --------------------------------------------------------------------------- */

enum gm_role {
    GM_ROLE_SYSTEM,
    GM_ROLE_DEVELOPER, /* the same as system */
    GM_ROLE_USER,
    GM_ROLE_ASSISTANT,
    GM_ROLE_TOOL,
    GM_ROLES
};

struct gm_tool_call {
    const char *id; /* NULL: none */
    const char *name;
    const char *arguments; /* JSON text */
    size_t arguments_len;
};

struct gm_message {
    enum gm_role role;
    const char *text; /* UTF-8; content parts are joined already; may hold any byte but be UTF-8 */
    size_t text_len;
    const struct gm_tool_call *calls; /* assistant only */
    size_t n_calls;
    const char *tool_call_id; /* tool only; NULL: the next call without a result */
};

struct gm_turns {
    const struct gm_message *messages;
    size_t n;
    const char *tools; /* OpenAI's `tools` array as JSON text; NULL: none */
    size_t tools_len;
    bool continued; /* the ids go behind a stored session that ends in <end_of_turn> and a newline:
                     * no <bos>, no tool prompt, and a tool result may come first */
};

/* Appends the prompt's ids to *ids, up to and with the opening of the answer: a new model turn, or
 * the text of a last assistant message, which is then continued. GM_INVALID: what is wrong with
 * which message; GM_PRECONDITION: the vocabulary lacks a token of the template; else as encode.
 * *ids keeps what it held on failure.                                                          */
enum gm_status gm_turns_encode(const struct gm_tokenizer *tok, const struct gm_turns *turns,
                               struct gm_ids *ids, struct gm_err *err);

/* The same from JSON text: `messages` is OpenAI's array of messages, `tools` its array of tools
 * (NULL: none). Content is a string, null, or an array of text parts. GM_UNSUPPORTED: a part that
 * is no text.                                                                                  */
struct gm_turns_json {
    const char *messages;
    size_t messages_len;
    const char *tools;
    size_t tools_len;
    bool continued;
};
enum gm_status gm_turns_from_json(const struct gm_tokenizer *tok, const struct gm_turns_json *in,
                                  struct gm_ids *ids, struct gm_err *err);

/* Text without a template: <bos> (unless continued) and the text. Errors as gm_turns_encode. */
enum gm_status gm_turns_raw(const struct gm_tokenizer *tok, const char *text, size_t len,
                            bool continued, struct gm_ids *ids, struct gm_err *err);

/* Appends what closes an answer in the session's record: <end_of_turn> and a newline. */
enum gm_status gm_turns_close(const struct gm_tokenizer *tok, struct gm_ids *ids,
                              struct gm_err *err);

#ifdef __cplusplus
}
#endif

#endif
