/* tokenizer_small.h - a small vocabulary for the tests of the tokenizer: Gemma's control tokens
 * under other numbers, the byte tokens, runs of newlines and blanks, and a few words.
 *
 * Owns:      the pieces, their types and scores.
 * Does not:  test anything itself.
 */
#ifndef GM_TESTS_TOKENIZER_SMALL_H
#define GM_TESTS_TOKENIZER_SMALL_H

#include "services/tokenizer/tokenizer.h"

#include <stdio.h>
#include <string.h>

enum { SMALL_MAX = 400, SMALL_BYTE_FIRST = 16 };

struct small {
    const char *pieces[SMALL_MAX];
    uint32_t lens[SMALL_MAX];
    float scores[SMALL_MAX];
    int32_t types[SMALL_MAX];
    char bytes[256][8];
    struct gm_piece_source src;
};

static inline void small_add(struct small *s, const char *piece, int32_t type, float score)
{
    uint32_t i = s->src.n++;
    s->pieces[i] = piece;
    s->lens[i] = (uint32_t)strlen(piece);
    s->scores[i] = score;
    s->types[i] = type;
}

/* The types of some control tokens are wrong on purpose, as in files of the wild. */
static inline void small_fill(struct small *s)
{
    static const struct {
        const char *piece;
        int32_t type;
    } first[SMALL_BYTE_FIRST] = {
        { "<unk>", GM_TYPE_CONTROL },
        { "<pad>", GM_TYPE_CONTROL },
        { "<start_of_turn>", GM_TYPE_NORMAL },
        { "<end_of_turn>", GM_TYPE_USER_DEFINED },
        { "<eos>", GM_TYPE_CONTROL },
        { "<bos>", GM_TYPE_CONTROL },
        { "[multimodal]", GM_TYPE_USER_DEFINED },
        { "<unused12>", GM_TYPE_USER_DEFINED },
        { "\n", GM_TYPE_USER_DEFINED },
        { "\n\n", GM_TYPE_USER_DEFINED },
        { "  ", GM_TYPE_USER_DEFINED },
        { "   ", GM_TYPE_USER_DEFINED },
        { "<table>", GM_TYPE_USER_DEFINED },
        { "[PAD13]", GM_TYPE_NORMAL },
        { "<start_of_image>", GM_TYPE_USER_DEFINED },
        { "<mask>", GM_TYPE_CONTROL },
    };
    static const char *const words[] = {
        "\xE2\x96\x81t",
        "he",
        "us",
        "er",
        "user",
        "mod",
        "el",
        "model",
        "\xE2\x96\x81the",
        "\xE2\x96\x81",
        "u",
        "s",
        "e",
        "r",
        "m",
        "o",
        "d",
        "l",
        "t",
        "h",
        "\xC3\xA9",
        "mo",
    };
    *s = (struct small){ .src = { 0 } };
    for (int i = 0; i < SMALL_BYTE_FIRST; i++)
        small_add(s, first[i].piece, first[i].type, -1000.0f);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(s->bytes[i], sizeof s->bytes[i], "<0x%02X>", i);
        small_add(s, s->bytes[i], GM_TYPE_BYTE, 0.0f);
    }
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        small_add(s, words[i], GM_TYPE_NORMAL, -(float)i);
    s->src.pieces = s->pieces;
    s->src.lens = s->lens;
    s->src.scores = s->scores;
    s->src.types = s->types;
    s->src.bos = 5;
    s->src.eos = 4;
    s->src.unk = 0;
    s->src.pad = 1;
}

static inline struct gm_tokenizer *small_open(void)
{
    struct small s;
    struct gm_tokenizer *tok = NULL;
    struct gm_err err = GM_ERR_NONE;
    small_fill(&s);
    if (gm_tokenizer_open_pieces(&s.src, &tok, &err) != GM_OK)
        fprintf(stderr, "small vocabulary: %s\n", err.text);
    return tok;
}

/* Ids as text with the control tokens' names; '|' after each id when `marks`. */
static inline void small_show(const struct gm_tokenizer *tok, const struct gm_ids *ids, int marks,
                              struct gm_buf *out)
{
    const struct gm_vocab *v = gm_tokenizer_vocab(tok);
    gm_buf_clear(out);
    for (size_t i = 0; i < ids->n; i++) {
        size_t len = 0;
        const char *text = gm_vocab_is_control(v, ids->v[i]) ? gm_vocab_name(v, ids->v[i], &len)
                                                             : gm_vocab_piece(v, ids->v[i], &len);
        if (gm_buf_append(out, text, len, NULL) != GM_OK ||
            gm_buf_append(out, "|", marks != 0, NULL) != GM_OK)
            return;
    }
}

#endif
