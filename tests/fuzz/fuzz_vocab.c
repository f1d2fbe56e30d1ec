// uses: tests/fuzz/seam_file.c services/tokenizer/ids.c services/tokenizer/spm_file.c
// uses: services/tokenizer/spm.cc
// libs: -Wl,--wrap=gm_map_open,--wrap=gm_map_close,--wrap=gm_file_read -lsentencepiece
/* fuzz_vocab.c - libFuzzer target: any bytes as a vocabulary: the file that processes map, and a
 * sentencepiece model.
 *
 * Owns:      what must hold of every vocabulary: refused with a sentence, or every id has its bytes
 *            and a text of its ids is UTF-8.
 * Does not:  know which vocabularies are right (tests/unit/test_vocab.c, test_tokenizer.c), or read
 *            the one of a model file (fuzz_gguf.c).
 * Input:     the first byte: 0 the mapped file as it is, 1 the mapped file with its hash put right,
 *            else a .model file. Seeds in tests/fuzz/vocab.
 */
#include "common/base/vocab.h"
#include "services/tokenizer/tokenizer.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_file.h"

enum { HASH_AT = offsetof(struct gm_vocab_head, hash), IDS_SHOWN = 512, TEXT_MAX = 1 << 22 };

static const char path[] = "vocab";

static void check_text(const struct gm_vocab *v)
{
    int32_t ids[IDS_SHOWN];
    size_t n = 0, len;
    struct gm_buf text = GM_BUF(TEXT_MAX);
    const uint32_t all = gm_vocab_n(v);
    for (uint32_t i = 0; i < all && n < IDS_SHOWN; i++)
        ids[n++] = (int32_t)(all - 1 - i);
    for (size_t i = 0; i < n; i++) {
        const char *piece = gm_vocab_piece(v, ids[i], &len);
        const char *name = gm_vocab_name(v, ids[i], &len);
        must(piece != NULL && name != NULL && len > 0 && len <= GM_PIECE_BYTES_MAX);
    }
    (void)gm_vocab_piece(v, -1, &len);
    must(len == 0 && gm_vocab_is_control(v, (int32_t)all));
    for (int s = 0; s < GM_SPECIALS; s++)
        must(gm_vocab_special(v, (enum gm_special)s) < (int32_t)all);
    must(gm_vocab_decode(v, ids, n, &text, NULL) == GM_OK);
    must(gm_utf8_bad(gm_buf_text(&text), text.len) == text.len);
    gm_buf_free(&text);
}

/* FNV-1a (64 bit) of what follows the field. */
static void put_hash(uint8_t *file, size_t n)
{
    uint64_t h = 14695981039346656037u;
    if (n < HASH_AT + sizeof h)
        return;
    for (size_t i = HASH_AT + sizeof h; i < n; i++)
        h = (h ^ file[i]) * 1099511628211u;
    memcpy(file + HASH_AT, &h, sizeof h);
}

static void mapped(void)
{
    struct gm_vocab v;
    struct gm_err err = GM_ERR_NONE;
    const enum gm_status rc = gm_vocab_open(&v, path, &err);
    must_be_told(rc, &err);
    if (rc == GM_OK)
        check_text(&v);
    gm_vocab_close(&v);
}

static void sentencepiece(void)
{
    static const char text[] = "the user  model\n\n\xc3\xa9<bos>";
    struct gm_tokenizer *tok = NULL;
    struct gm_ids ids = { NULL, 0, 0 };
    struct gm_err err = GM_ERR_NONE;
    const enum gm_status rc = gm_tokenizer_open_file(path, &tok, &err);
    must_be_told(rc, &err);
    must((rc == GM_OK) == (tok != NULL));
    if (tok != NULL) {
        check_text(gm_tokenizer_vocab(tok));
        if (gm_tokenizer_encode(tok, text, sizeof text - 1, &ids, &err) == GM_OK)
            for (size_t i = 0; i < ids.n; i++)
                must(ids.v[i] >= 0 && (uint32_t)ids.v[i] < gm_vocab_n(gm_tokenizer_vocab(tok)));
    }
    gm_ids_free(&ids);
    gm_tokenizer_close(&tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const uint8_t how = data[0];
    uint8_t *file = malloc(size);
    must(file != NULL);
    memcpy(file, data + 1, size - 1);
    if (how == 1)
        put_hash(file, size - 1);
    seam_file_put(path, file, size - 1, 0);
    if (how <= 1)
        mapped();
    else
        sentencepiece();
    seam_file_clear();
    free(file);
    return 0;
}
