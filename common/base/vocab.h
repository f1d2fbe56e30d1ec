/* vocab.h - the vocabulary at the edge: token ids to text without a call to the tokenizer.
 *
 * Owns:      the vocabulary file (written once by the tokenizer, read into memory by the others: a
 * file that is cut or changed later changes no text), the ids of the special tokens, and the
 * streaming detokeniser. Does not:  turn text into ids (services/tokenizer) or know a chat
 * template. File:      little-endian: struct gm_vocab_head, uint32_t offsets[n + 1], uint8_t
 * kinds[n], zeros up to a multiple of 8, then the pieces' bytes. No pointers; checked in full at
 * open.
 */
#ifndef GM_BASE_VOCAB_H
#define GM_BASE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"

enum {
    GM_VOCAB_IDS_MAX = 1 << 20,                        /* most ids of a vocabulary */
    GM_PIECE_BYTES_MAX = 512,                          /* longest piece */
    GM_DETOK_BYTES_MAX = 3 * (GM_PIECE_BYTES_MAX + 1), /* most text one id can give */
    GM_VOCAB_VERSION = 1,
};
#define GM_VOCAB_FILE_BYTES_MAX ((size_t)64 << 20)

/* What an id decodes to. */
enum gm_piece_kind {
    GM_PIECE_TEXT = 0,    /* its bytes, blanks as blanks */
    GM_PIECE_BYTE = 1,    /* the one byte that its name <0xNN> says */
    GM_PIECE_CONTROL = 2, /* nothing; the stored bytes are its name */
    GM_PIECE_KINDS
};

/* Special tokens, found by the text of the piece and never by number. */
#define GM_SPECIAL_LIST(X)                                                                         \
    X(BOS, "<bos>")                                                                                \
    X(EOS, "<eos>")                                                                                \
    X(UNK, "<unk>")                                                                                \
    X(PAD, "<pad>")                                                                                \
    X(START_OF_TURN, "<start_of_turn>")                                                            \
    X(END_OF_TURN, "<end_of_turn>")                                                                \
    X(NEWLINE, "\n")                                                                               \
    X(START_OF_IMAGE, "<start_of_image>")                                                          \
    X(END_OF_IMAGE, "<end_of_image>")                                                              \
    X(IMAGE_SOFT, "<image_soft_token>")

enum gm_special {
#define GM_SPECIAL_ENUM(name, text) GM_SPECIAL_##name,
    GM_SPECIAL_LIST(GM_SPECIAL_ENUM)
#undef GM_SPECIAL_ENUM
        GM_SPECIALS,
    GM_SPECIALS_MAX = 16 /* room in the file */
};

/* Start of the file. */
struct gm_vocab_head {
    char magic[8]; /* "GMVOCAB" and a 0 byte */
    uint32_t version;
    uint32_t n;                        /* ids */
    uint64_t text_bytes;               /* bytes of all pieces */
    uint64_t hash;                     /* FNV-1a (64 bit) of everything after this field */
    int32_t specials[GM_SPECIALS_MAX]; /* ids, -1: the vocabulary has none */
};

/* An open vocabulary. Read the fields through the functions only. */
struct gm_vocab {
    uint8_t *image; /* owned */
    size_t image_bytes;
    const struct gm_vocab_head *head;
    const uint32_t *offsets;
    const uint8_t *kinds;
    const char *text;
};

/* What gm_vocab_build takes: n pieces; kinds[i] is an enum gm_piece_kind. */
struct gm_vocab_source {
    uint32_t n;
    const char *const *pieces; /* bytes: text with real blanks; names of BYTE and CONTROL pieces */
    const uint32_t *lens;
    const uint8_t *kinds;
};

/* Makes the image in memory. GM_INVALID: too many ids or bytes, an empty or over-long piece, a
 * BYTE piece not named <0xNN>; GM_EXHAUSTED: out of memory. On failure *v is closed.           */
enum gm_status gm_vocab_build(struct gm_vocab *v, const struct gm_vocab_source *src,
                              struct gm_err *err);

/* Writes an open vocabulary in one step (temporary file, then rename), mode 0644. */
enum gm_status gm_vocab_write(const struct gm_vocab *v, const char *path, struct gm_err *err);

/* Reads a file and checks all of it: sizes, offsets, kinds, ids, hash. GM_INVALID: not such a file;
 * GM_UNSUPPORTED: another version; GM_DATA_LOSS: cut or changed; else as gm_file_read. On failure
 * *v is closed.                                                                                */
enum gm_status gm_vocab_open(struct gm_vocab *v, const char *path, struct gm_err *err);

/* Idempotent; accepts a zeroed vocabulary. */
void gm_vocab_close(struct gm_vocab *v);

/* Ids of the vocabulary; valid ids are 0 .. n-1. */
uint32_t gm_vocab_n(const struct gm_vocab *v);

/* Names the vocabulary's content: equal numbers mean equal pieces, kinds and special ids. */
uint64_t gm_vocab_hash(const struct gm_vocab *v);

/* Id of a special token, -1 when the vocabulary has none. */
int32_t gm_vocab_special(const struct gm_vocab *v, enum gm_special which);

/* The piece text of a special token, for sentences. */
const char *gm_special_text(enum gm_special which);

/* Bytes that the id adds to a text (not always whole characters); *len 0 for a control token and
 * for an id that is none. Never NULL; valid while v is open; not 0-terminated.                  */
const char *gm_vocab_piece(const struct gm_vocab *v, int32_t id, size_t *len);

/* The stored piece, names of control and byte tokens included ("<end_of_turn>", "<0x0A>"). */
const char *gm_vocab_name(const struct gm_vocab *v, int32_t id, size_t *len);

/* True for control tokens and for an id that is none. */
bool gm_vocab_is_control(const struct gm_vocab *v, int32_t id);

/* True for the tokens that end an answer: <eos> and <end_of_turn>. */
bool gm_vocab_is_end(const struct gm_vocab *v, int32_t id);

/* True for a name that is a control token in every Gemma vocabulary, whatever type a file gives:
 * <pad> <eos> <bos> <unk> <mask> [multimodal] <unusedN>, the turn and the image markers.        */
bool gm_control_name(const char *name, size_t len);

/* ---- text out of ids, a token at a time ------------------------------------------------------ */

/* Bytes of a character that is not complete yet. Zero-initialise for each text. */
struct gm_detok {
    uint8_t held[4];
    uint8_t n;
};

/* Takes one id and writes the whole characters now known to out (GM_DETOK_BYTES_MAX bytes);
 * returns how many bytes. Each longest wrong beginning of a character (Unicode 15, 3.9, "maximal
 * subpart") becomes one U+FFFD. What all pushes and the flush write is what gm_vocab_decode gives.
 */
size_t gm_detok_push(struct gm_detok *d, const struct gm_vocab *v, int32_t id, char *out);

/* Ends the text: an incomplete character becomes one U+FFFD. Returns 0 or 3 bytes in out. */
size_t gm_detok_flush(struct gm_detok *d, char *out);

/* Appends the text of n ids to *out. Errors as gm_buf_append. */
enum gm_status gm_vocab_decode(const struct gm_vocab *v, const int32_t *ids, size_t n,
                               struct gm_buf *out, struct gm_err *err);

#endif
