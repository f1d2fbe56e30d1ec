/* spm_file.c - reads a sentencepiece .model file into plain arrays.
 *
 * Owns:      the file's bytes and the arrays that point into them.
 * Does not:  build a tokenizer (spm.cc) or accept a model whose rules are not Gemma's: those are
 *            refused with the rule's name, because they would give other ids without a sign of it.
 * Source:    sentencepiece_model.proto: the message ModelProto (field numbers below).
 */
#include "services/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };

/* One field of a message: a number, or bytes inside the file. */
struct field {
    uint32_t number;
    uint32_t wire;
    uint64_t value;
    const uint8_t *bytes;
    size_t len;
};

struct reader {
    const uint8_t *at;
    size_t left;
};

static bool read_varint(struct reader *r, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && r->left > 0; shift += 7) {
        uint8_t byte = *r->at++;
        r->left--;
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct reader *r, size_t bytes, uint64_t *out)
{
    if (r->left < bytes)
        return false;
    *out = 0;
    for (size_t i = 0; i < bytes; i++)
        *out |= (uint64_t)r->at[i] << (8 * i);
    r->at += bytes;
    r->left -= bytes;
    return true;
}

/* 1: a field was read; 0: the message is at its end; -1: it is damaged. */
static int next_field(struct reader *r, struct field *f)
{
    uint64_t tag = 0;
    if (r->left == 0)
        return 0;
    *f = (struct field){ 0 };
    if (!read_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > UINT32_MAX)
        return -1;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (uint32_t)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value) ? 1 : -1;
    case WIRE_FIXED64:
        return read_fixed(r, 8, &f->value) ? 1 : -1;
    case WIRE_FIXED32:
        return read_fixed(r, 4, &f->value) ? 1 : -1;
    case WIRE_BYTES:
        if (!read_varint(r, &f->value) || f->value > r->left)
            return -1;
        f->bytes = r->at;
        f->len = (size_t)f->value;
        r->at += f->len;
        r->left -= f->len;
        return 1;
    default:
        return -1;
    }
}

static enum gm_status damaged(const char *path, struct gm_err *err)
{
    return gm_fail(err, GM_INVALID, "%s is no sentencepiece model, or it is damaged", path);
}

/* ---- pieces ---------------------------------------------------------------------------------- */

static enum gm_status read_piece(struct gm_spm_file *f, const struct field *message, uint32_t i,
                                 const char *path, struct gm_err *err)
{
    struct reader r = { message->bytes, message->len };
    struct field part;
    int more = 0;
    f->pieces[i] = "";
    f->lens[i] = 0;
    f->scores[i] = 0.0f;
    f->types[i] = GM_TYPE_NORMAL;
    while ((more = next_field(&r, &part)) > 0) {
        uint32_t bits = (uint32_t)part.value;
        if (part.number == PIECE_TEXT && part.wire == WIRE_BYTES && part.len <= UINT32_MAX) {
            f->pieces[i] = (const char *)part.bytes;
            f->lens[i] = (uint32_t)part.len;
        } else if (part.number == PIECE_SCORE && part.wire == WIRE_FIXED32) {
            memcpy(&f->scores[i], &bits, sizeof bits);
        } else if (part.number == PIECE_TYPE && part.wire == WIRE_VARINT) {
            f->types[i] = part.value <= INT32_MAX ? (int32_t)part.value : -1;
        }
    }
    return more == 0 ? GM_OK : damaged(path, err);
}

static enum gm_status make_arrays(struct gm_spm_file *f, size_t n, const char *path,
                                  struct gm_err *err)
{
    if (n == 0)
        return damaged(path, err);
    if (n > GM_VOCAB_IDS_MAX)
        return gm_fail(err, GM_INVALID, "%s has %zu pieces; at most %d are possible", path, n,
                       GM_VOCAB_IDS_MAX);
    f->pieces = calloc(n, sizeof *f->pieces);
    f->lens = calloc(n, sizeof *f->lens);
    f->scores = calloc(n, sizeof *f->scores);
    f->types = calloc(n, sizeof *f->types);
    if (f->pieces == NULL || f->lens == NULL || f->scores == NULL || f->types == NULL)
        return gm_fail(err, GM_EXHAUSTED, "no memory for the %zu pieces of %s", n, path);
    f->src = (struct gm_piece_source){ .n = (uint32_t)n,
                                       .pieces = f->pieces,
                                       .lens = f->lens,
                                       .scores = f->scores,
                                       .types = f->types,
                                       .bos = -1,
                                       .eos = -1,
                                       .unk = -1,
                                       .pad = -1 };
    return GM_OK;
}

/* ---- settings -------------------------------------------------------------------------------- */

/* A setting that decides about ids: its field, what the format assumes, what Gemma needs. */
struct setting {
    uint32_t message;
    uint32_t field;
    uint64_t assumed;
    uint64_t needed;
    const char *name;
};

static const struct setting settings[] = {
    { MODEL_TRAINER, 3, 1, 2, "model_type (2 is BPE)" },
    { MODEL_TRAINER, 24, 0, 0, "treat_whitespace_as_suffix" },
    { MODEL_TRAINER, 35, 0, 1, "byte_fallback" },
    { MODEL_NORMALIZER, 3, 1, 0, "add_dummy_prefix" },
    { MODEL_NORMALIZER, 4, 1, 0, "remove_extra_whitespaces" },
    { MODEL_NORMALIZER, 5, 1, 1, "escape_whitespaces" },
};
enum { SETTINGS = sizeof settings / sizeof *settings, NORMALIZER_CHARSMAP = 2 };

static enum gm_status read_settings(const struct field *message, uint64_t found[SETTINGS],
                                    const char *path, struct gm_err *err)
{
    struct reader r = { message->bytes, message->len };
    struct field part;
    int more = 0;
    while ((more = next_field(&r, &part)) > 0) {
        if (message->number == MODEL_NORMALIZER && part.number == NORMALIZER_CHARSMAP &&
            part.len > 0)
            return gm_fail(err, GM_UNSUPPORTED,
                           "%s normalises text by a table; Gemma's tokenizers have none", path);
        for (size_t i = 0; i < SETTINGS; i++) {
            if (settings[i].message == message->number && settings[i].field == part.number &&
                part.wire == WIRE_VARINT)
                found[i] = part.value;
        }
    }
    return more == 0 ? GM_OK : damaged(path, err);
}

static enum gm_status check_settings(const uint64_t found[SETTINGS], const char *path,
                                     struct gm_err *err)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        if (found[i] != settings[i].needed)
            return gm_fail(err, GM_UNSUPPORTED, "%s sets %s to %llu; a Gemma tokenizer has %llu",
                           path, settings[i].name, (unsigned long long)found[i],
                           (unsigned long long)settings[i].needed);
    }
    return GM_OK;
}

/* ---- file ------------------------------------------------------------------------------------ */

static enum gm_status count_pieces(struct reader r, size_t *n, const char *path, struct gm_err *err)
{
    struct field part;
    int more = 0;
    while ((more = next_field(&r, &part)) > 0)
        *n += part.number == MODEL_PIECES && part.wire == WIRE_BYTES;
    return more == 0 ? GM_OK : damaged(path, err);
}

static enum gm_status read_model(struct gm_spm_file *f, const char *path, struct gm_err *err)
{
    struct reader r = { (const uint8_t *)f->bytes.data, f->bytes.len };
    struct field part;
    uint64_t found[SETTINGS];
    size_t n = 0;
    for (size_t i = 0; i < SETTINGS; i++)
        found[i] = settings[i].assumed;
    enum gm_status rc = count_pieces(r, &n, path, err);
    if (rc == GM_OK)
        rc = make_arrays(f, n, path, err);
    uint32_t i = 0;
    while (rc == GM_OK && next_field(&r, &part) > 0) {
        if (part.wire != WIRE_BYTES)
            continue;
        if (part.number == MODEL_PIECES)
            rc = read_piece(f, &part, i++, path, err);
        else if (part.number == MODEL_TRAINER || part.number == MODEL_NORMALIZER)
            rc = read_settings(&part, found, path, err);
    }
    return rc == GM_OK ? check_settings(found, path, err) : rc;
}

enum gm_status gm_spm_file_open(struct gm_spm_file *f, const char *path, struct gm_err *err)
{
    *f = (struct gm_spm_file){ .bytes = GM_BUF(GM_SPM_FILE_BYTES_MAX) };
    enum gm_status rc = gm_file_read(path, &f->bytes, err);
    if (rc == GM_OK)
        rc = read_model(f, path, err);
    if (rc != GM_OK)
        gm_spm_file_close(f);
    return rc;
}

void gm_spm_file_close(struct gm_spm_file *f)
{
    gm_buf_free(&f->bytes);
    free(f->pieces);
    free(f->lens);
    free(f->scores);
    free(f->types);
    *f = (struct gm_spm_file){ 0 };
}
