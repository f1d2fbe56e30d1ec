// uses: services/tokenizer/ids.c services/tokenizer/spm_file.c services/tokenizer/toolcall.c
// uses: services/tokenizer/tooltext.c services/tokenizer/turns.c
// uses: services/tokenizer/turns_json.c services/tokenizer/spm.cc
// libs: -lsentencepiece -ljansson
/* fuzz_template.c - libFuzzer target: any bytes as the messages and tools of a turn.
 *
 * Owns:      what must hold of every conversation: ids of the vocabulary, or a sentence.
 * Does not:  know which ids are right (tests/unit/test_turns.c).
 * Input:     the first byte: bit 0 continued, bit 1 a text without template; two bytes: length of
 *            the tools, which come next (0: none); the rest are the messages. Seeds in
 *            tests/fuzz/template.
 */
#include "tests/fuzz/must.h"
#include "tests/unit/tokenizer_small.h"

static struct gm_tokenizer *tok;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gm_ids ids = { NULL, 0, 0 };
    struct gm_err err = GM_ERR_NONE;
    if (tok == NULL)
        tok = small_open();
    must(tok != NULL);
    if (size < 1)
        return 0;
    const uint8_t how = data[0];
    data++;
    size--;
    size_t tools = take_u16(&data, &size);
    tools = tools < size ? tools : size;
    /* copies of exactly the bytes, so that a read behind them is seen */
    char *tools_text = malloc(tools + 1), *text = malloc(size - tools + 1);
    must(tools_text != NULL && text != NULL);
    memcpy(tools_text, data, tools);
    memcpy(text, data + tools, size - tools);
    tools_text = realloc(tools_text, tools > 0 ? tools : 1);
    text = realloc(text, size > tools ? size - tools : 1);
    const struct gm_turns_json in = { text, size - tools, tools > 0 ? tools_text : NULL, tools,
                                      (how & 1) != 0 };
    const enum gm_status rc =
        (how & 2) != 0 ? gm_turns_raw(tok, text, size - tools, (how & 1) != 0, &ids, &err)
                       : gm_turns_from_json(tok, &in, &ids, &err);
    must_be_told(rc, &err);
    must(rc == GM_OK || ids.n == 0);
    for (size_t i = 0; i < ids.n; i++)
        must(ids.v[i] >= 0 && (uint32_t)ids.v[i] < gm_vocab_n(gm_tokenizer_vocab(tok)));
    struct gm_buf out = GM_BUF(1 << 24);
    must(gm_vocab_decode(gm_tokenizer_vocab(tok), ids.v, ids.n, &out, &err) == GM_OK);
    must(gm_utf8_bad(out.data != NULL ? out.data : "", out.len) == out.len);
    gm_buf_free(&out);
    gm_ids_free(&ids);
    free(tools_text);
    free(text);
    return 0;
}
