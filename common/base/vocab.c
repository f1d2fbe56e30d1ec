/* vocab.c - the vocabulary file and the streaming detokeniser of vocab.h.
 *
 * Owns:      the layout of the file and every check of it.
 * Does not:  trust a file: after gm_vocab_open no lookup needs another check than the id's range.
 * Source:    FNV-1a by Fowler, Noll and Vo; UTF-8 replacement as Unicode 15, chapter 3.9.
 */
#include "common/base/vocab.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB_MAGIC "GMVOCAB"
#define FNV_START   0xcbf29ce484222325u
#define FNV_PRIME   0x100000001b3u

enum { BYTE_NAME_LEN = 6, VOCAB_MODE = 0644 };

static_assert(sizeof(struct gm_vocab_head) == 96, "the file's layout");
static_assert((int)GM_SPECIALS <= (int)GM_SPECIALS_MAX, "the file has room for the specials");

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

/* What the 256 byte tokens decode to. */
#define BYTES4(n)  (char)(n), (char)((n) + 1), (char)((n) + 2), (char)((n) + 3)
#define BYTES16(n) BYTES4(n), BYTES4((n) + 4), BYTES4((n) + 8), BYTES4((n) + 12)
#define BYTES64(n) BYTES16(n), BYTES16((n) + 16), BYTES16((n) + 32), BYTES16((n) + 48)
static const char byte_text[256] = { BYTES64(0), BYTES64(64), BYTES64(128), BYTES64(192) };

static const char *const special_text[GM_SPECIALS] = {
#define SPECIAL_TEXT(name, text) text,
    GM_SPECIAL_LIST(SPECIAL_TEXT)
#undef SPECIAL_TEXT
};

const char *gm_special_text(enum gm_special which)
{
    return (unsigned)which < GM_SPECIALS ? special_text[which] : "";
}

/* ---- names ----------------------------------------------------------------------------------- */

static bool name_is(const char *name, size_t len, const char *text)
{
    return len == strlen(text) && memcmp(name, text, len) == 0;
}

bool gm_control_name(const char *name, size_t len)
{
    static const char *const fixed[] = {
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "[multimodal]",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<end_of_image>",
        "<image_soft_token>",
    };
    static const char unused[] = "<unused";
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        if (name_is(name, len, fixed[i]))
            return true;
    }
    size_t at = sizeof unused - 1;
    if (len < at + 2 || memcmp(name, unused, at) != 0 || name[len - 1] != '>')
        return false;
    while (at < len - 1 && name[at] >= '0' && name[at] <= '9')
        at++;
    return at == len - 1;
}

/* The byte that "<0xNN>" names; -1 for another name. */
static int byte_of_name(const char *name, size_t len)
{
    static const char digits[] = "0123456789ABCDEF";
    if (len != BYTE_NAME_LEN || memcmp(name, "<0x", 3) != 0 || name[5] != '>')
        return -1;
    const char *high = memchr(digits, name[3], 16);
    const char *low = memchr(digits, name[4], 16);
    return high != NULL && low != NULL ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static uint64_t fnv(const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    uint64_t h = FNV_START;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * FNV_PRIME;
    return h;
}

static size_t kinds_at(uint64_t n)
{
    return sizeof(struct gm_vocab_head) + (size_t)(n + 1) * sizeof(uint32_t);
}

static size_t text_at(uint64_t n)
{
    return (kinds_at(n) + (size_t)n + 7) / 8 * 8;
}

static uint64_t image_hash(const void *image, size_t bytes)
{
    size_t from = offsetof(struct gm_vocab_head, specials);
    return fnv((const uint8_t *)image + from, bytes - from);
}

static void point_into(struct gm_vocab *v, const uint8_t *image)
{
    v->head = (const struct gm_vocab_head *)(const void *)image;
    v->offsets = (const uint32_t *)(const void *)(image + sizeof *v->head);
    v->kinds = image + kinds_at(v->head->n);
    v->text = (const char *)image + text_at(v->head->n);
}

/* ---- build ----------------------------------------------------------------------------------- */

static enum gm_status check_source(const struct gm_vocab_source *src, uint64_t *text_bytes,
                                   struct gm_err *err)
{
    if (src->n == 0 || src->n > GM_VOCAB_IDS_MAX)
        return gm_fail(err, GM_INVALID, "the vocabulary has %u pieces; 1 to %d are possible",
                       src->n, GM_VOCAB_IDS_MAX);
    uint64_t total = 0;
    for (uint32_t i = 0; i < src->n; i++) {
        if (src->lens[i] == 0 || src->lens[i] > GM_PIECE_BYTES_MAX)
            return gm_fail(err, GM_INVALID,
                           "piece %u of the vocabulary has %u bytes; 1 to %d are possible", i,
                           src->lens[i], GM_PIECE_BYTES_MAX);
        if (src->kinds[i] >= GM_PIECE_KINDS)
            return gm_fail(err, GM_INVALID, "piece %u has the unknown kind %u", i, src->kinds[i]);
        if (src->kinds[i] == GM_PIECE_BYTE && byte_of_name(src->pieces[i], src->lens[i]) < 0)
            return gm_fail(err, GM_INVALID,
                           "byte piece %u is named \"%.*s\"; it must be <0x00> to <0xFF>", i,
                           (int)src->lens[i], src->pieces[i]);
        total += src->lens[i];
    }
    if (text_at(src->n) + total > GM_VOCAB_FILE_BYTES_MAX)
        return gm_fail(err, GM_INVALID, "the vocabulary's pieces have %llu bytes; at most %zu fit",
                       (unsigned long long)total, GM_VOCAB_FILE_BYTES_MAX - text_at(src->n));
    *text_bytes = total;
    return GM_OK;
}

/* The newline must be text, every other special token control; the first of equal names counts. */
static void find_specials(const struct gm_vocab_source *src, int32_t ids[GM_SPECIALS_MAX])
{
    for (int s = 0; s < GM_SPECIALS_MAX; s++)
        ids[s] = -1;
    for (uint32_t i = 0; i < src->n; i++) {
        for (int s = 0; s < GM_SPECIALS; s++) {
            uint8_t kind = s == GM_SPECIAL_NEWLINE ? GM_PIECE_TEXT : GM_PIECE_CONTROL;
            if (ids[s] < 0 && src->kinds[i] == kind &&
                name_is(src->pieces[i], src->lens[i], special_text[s]))
                ids[s] = (int32_t)i;
        }
    }
}

enum gm_status gm_vocab_build(struct gm_vocab *v, const struct gm_vocab_source *src,
                              struct gm_err *err)
{
    *v = (struct gm_vocab){ 0 };
    uint64_t text_bytes = 0;
    enum gm_status rc = check_source(src, &text_bytes, err);
    if (rc != GM_OK)
        return rc;
    size_t bytes = text_at(src->n) + (size_t)text_bytes;
    uint8_t *image = calloc(1, bytes);
    if (image == NULL)
        return gm_fail(err, GM_EXHAUSTED, "no memory for a vocabulary of %zu bytes", bytes);
    struct gm_vocab_head *head = (struct gm_vocab_head *)(void *)image;
    memcpy(head->magic, VOCAB_MAGIC, sizeof head->magic);
    head->version = GM_VOCAB_VERSION;
    head->n = src->n;
    head->text_bytes = text_bytes;
    find_specials(src, head->specials);
    uint32_t *offsets = (uint32_t *)(void *)(image + sizeof *head);
    uint8_t *text = image + text_at(src->n);
    uint32_t at = 0;
    for (uint32_t i = 0; i < src->n; i++) {
        offsets[i] = at;
        memcpy(text + at, src->pieces[i], src->lens[i]);
        at += src->lens[i];
    }
    offsets[src->n] = at;
    memcpy(image + kinds_at(src->n), src->kinds, src->n);
    head->hash = image_hash(image, bytes);
    v->image = image;
    v->image_bytes = bytes;
    point_into(v, image);
    return GM_OK;
}

/* ---- file ------------------------------------------------------------------------------------ */

enum gm_status gm_vocab_write(const struct gm_vocab *v, const char *path, struct gm_err *err)
{
    assert(v->head != NULL);
    size_t bytes = text_at(v->head->n) + (size_t)v->head->text_bytes;
    return gm_file_write(path, v->head, bytes, VOCAB_MODE, err);
}

static enum gm_status check_head(const struct gm_vocab *v, const char *path, struct gm_err *err)
{
    struct gm_vocab_head head;
    if (v->image_bytes < sizeof head || memcmp(v->image, VOCAB_MAGIC, sizeof head.magic) != 0)
        return gm_fail(err, GM_INVALID, "%s is no vocabulary file; let the tokenizer write it",
                       path);
    memcpy(&head, v->image, sizeof head);
    if (head.version != GM_VOCAB_VERSION)
        return gm_fail(err, GM_UNSUPPORTED,
                       "%s has vocabulary version %u, this build reads %d; restart the tokenizer",
                       path, head.version, GM_VOCAB_VERSION);
    if (head.n == 0 || head.n > GM_VOCAB_IDS_MAX || head.text_bytes > GM_VOCAB_FILE_BYTES_MAX ||
        v->image_bytes != text_at(head.n) + head.text_bytes)
        return gm_fail(err, GM_DATA_LOSS,
                       "%s is cut or damaged (%zu bytes for %u pieces); restart the tokenizer",
                       path, v->image_bytes, head.n);
    for (int s = 0; s < GM_SPECIALS_MAX; s++) {
        if (head.specials[s] < -1 || head.specials[s] >= (int32_t)head.n)
            return gm_fail(err, GM_DATA_LOSS, "%s names special token %d of %u", path,
                           head.specials[s], head.n);
    }
    return GM_OK;
}

static enum gm_status check_pieces(const struct gm_vocab *v, const char *path, struct gm_err *err)
{
    uint32_t n = v->head->n;
    bool good = v->offsets[0] == 0 && v->offsets[n] == v->head->text_bytes;
    for (uint32_t i = 0; i < n && good; i++) {
        uint32_t from = v->offsets[i];
        uint32_t to = v->offsets[i + 1];
        good = from < to && to - from <= GM_PIECE_BYTES_MAX && to <= v->head->text_bytes &&
               v->kinds[i] < GM_PIECE_KINDS;
        if (good && v->kinds[i] == GM_PIECE_BYTE)
            good = byte_of_name(v->text + from, to - from) >= 0;
    }
    return good ? GM_OK
                : gm_fail(err, GM_DATA_LOSS, "%s has a damaged piece table; restart the tokenizer",
                          path);
}

enum gm_status gm_vocab_open(struct gm_vocab *v, const char *path, struct gm_err *err)
{
    *v = (struct gm_vocab){ 0 };
    struct gm_buf file = GM_BUF(GM_VOCAB_FILE_BYTES_MAX);
    enum gm_status rc = gm_file_read(path, &file, err);
    v->image = (uint8_t *)file.data; /* ours from here on */
    v->image_bytes = file.len;
    if (rc == GM_OK)
        rc = check_head(v, path, err);
    if (rc == GM_OK) {
        point_into(v, v->image);
        rc = check_pieces(v, path, err);
    }
    if (rc == GM_OK && image_hash(v->image, v->image_bytes) != v->head->hash)
        rc = gm_fail(err, GM_DATA_LOSS,
                     "%s was changed since it was written; restart the tokenizer", path);
    if (rc != GM_OK)
        gm_vocab_close(v);
    return rc;
}

void gm_vocab_close(struct gm_vocab *v)
{
    free(v->image);
    *v = (struct gm_vocab){ 0 };
}

/* ---- lookup ---------------------------------------------------------------------------------- */

uint32_t gm_vocab_n(const struct gm_vocab *v)
{
    return v->head != NULL ? v->head->n : 0;
}

uint64_t gm_vocab_hash(const struct gm_vocab *v)
{
    return v->head != NULL ? v->head->hash : 0;
}

int32_t gm_vocab_special(const struct gm_vocab *v, enum gm_special which)
{
    return v->head != NULL && (unsigned)which < GM_SPECIALS ? v->head->specials[which] : -1;
}

static bool id_known(const struct gm_vocab *v, int32_t id)
{
    return id >= 0 && (uint32_t)id < gm_vocab_n(v);
}

const char *gm_vocab_name(const struct gm_vocab *v, int32_t id, size_t *len)
{
    *len = 0;
    if (!id_known(v, id))
        return "";
    *len = v->offsets[id + 1] - v->offsets[id];
    return v->text + v->offsets[id];
}

const char *gm_vocab_piece(const struct gm_vocab *v, int32_t id, size_t *len)
{
    const char *name = gm_vocab_name(v, id, len);
    if (*len == 0 || v->kinds[id] == GM_PIECE_TEXT)
        return name;
    int byte = v->kinds[id] == GM_PIECE_BYTE ? byte_of_name(name, *len) : -1;
    *len = byte >= 0;
    return byte >= 0 ? &byte_text[byte] : "";
}

bool gm_vocab_is_control(const struct gm_vocab *v, int32_t id)
{
    return !id_known(v, id) || v->kinds[id] == GM_PIECE_CONTROL;
}

bool gm_vocab_is_end(const struct gm_vocab *v, int32_t id)
{
    return id >= 0 && (id == gm_vocab_special(v, GM_SPECIAL_EOS) ||
                       id == gm_vocab_special(v, GM_SPECIAL_END_OF_TURN));
}

/* ---- detokeniser ----------------------------------------------------------------------------- */

static size_t put_replacement(char *out)
{
    memcpy(out, replacement, sizeof replacement - 1);
    return sizeof replacement - 1;
}

/* A wrong beginning is found when the byte after it comes, so at most 3 bytes wait. */
static size_t take_byte(struct gm_detok *d, uint8_t byte, char *out)
{
    size_t wrote = 0;
    assert(d->n < sizeof d->held);
    d->held[d->n++] = byte;
    while (d->n > 0) {
        int len = gm_utf8_next(d->held, d->n, NULL);
        if (len == 0)
            break;
        size_t used = len > 0 ? (size_t)len : (size_t)-len;
        if (len > 0)
            memcpy(out + wrote, d->held, used);
        wrote += len > 0 ? used : put_replacement(out + wrote);
        d->n = (uint8_t)(d->n - used);
        memmove(d->held, d->held + used, d->n);
    }
    return wrote;
}

size_t gm_detok_push(struct gm_detok *d, const struct gm_vocab *v, int32_t id, char *out)
{
    size_t len = 0;
    size_t wrote = 0;
    const char *piece = gm_vocab_piece(v, id, &len);
    for (size_t i = 0; i < len; i++)
        wrote += take_byte(d, (uint8_t)piece[i], out + wrote);
    assert(wrote <= GM_DETOK_BYTES_MAX);
    return wrote;
}

size_t gm_detok_flush(struct gm_detok *d, char *out)
{
    size_t wrote = d->n > 0 ? put_replacement(out) : 0;
    d->n = 0;
    return wrote;
}

enum gm_status gm_vocab_decode(const struct gm_vocab *v, const int32_t *ids, size_t n,
                               struct gm_buf *out, struct gm_err *err)
{
    struct gm_detok d = { { 0 }, 0 };
    char text[GM_DETOK_BYTES_MAX];
    enum gm_status rc = GM_OK;
    for (size_t i = 0; i < n && rc == GM_OK; i++)
        rc = gm_buf_append(out, text, gm_detok_push(&d, v, ids[i], text), err);
    if (rc == GM_OK)
        rc = gm_buf_append(out, text, gm_detok_flush(&d, text), err);
    return rc;
}
