// uses: tests/fuzz/seam_file.c
// libs: -Wl,--wrap=gm_map_open,--wrap=gm_map_close,--wrap=gm_file_read
/* fuzz_safetensors.c - libFuzzer target: any bytes as a file of tensors, and as an adapter.
 *
 * Owns:      what must hold of every file: refused with a sentence, or its tensors tile the data.
 * Does not:  know which files are right (tests/unit/test_lora.c).
 * Input:     two bytes: blocks of 32 zero bytes behind the file; two bytes: length of
 *            adapter_config.json, which comes next (0: the file alone); the rest is the file.
 *            Seeds in tests/fuzz/safetensors.
 */
#include "common/model/lora.h"
#include "common/model/safetensors.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/seam_file.h"

enum { BLOCK = 32, BLOCKS_MAX = 4096 };

static const char config_path[] = "dir/adapter_config.json";
static const char tensors_path[] = "dir/adapter_model.safetensors";

static void read_file(void)
{
    struct gm_safetensors *s = NULL;
    struct gm_err err = GM_ERR_NONE;
    const enum gm_status rc = gm_safetensors_open(&s, tensors_path, &err);
    const uint8_t *at = NULL;
    must_be_told(rc, &err);
    must((rc == GM_OK) == (s != NULL));
    for (size_t i = 0; s != NULL && i < gm_safetensors_count(s); i++) {
        const struct gm_st_tensor *t = gm_safetensors_at(s, i);
        size_t elems = 1;
        must(t != NULL && t->n_dims <= GM_ST_DIMS_MAX && (at == NULL || t->data == at));
        for (uint32_t d = 0; d < t->n_dims; d++)
            elems *= (size_t)t->dims[d];
        must(t->bytes == elems * t->elem_bytes);
        uint8_t *copy = malloc(t->bytes + 1);
        must(copy != NULL);
        memcpy(copy, t->data, t->bytes);
        free(copy);
        at = t->data + t->bytes;
    }
    if (s != NULL)
        (void)gm_safetensors_hash(s, 1);
    gm_safetensors_close(&s);
}

static void read_adapter(void)
{
    static const struct gm_config c = { .name = "small",
                                        .arch = GM_ARCH_GEMMA3,
                                        .layers = 2,
                                        .d_model = 8,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 4,
                                        .d_ff = 8,
                                        .vocab = 16 };
    struct gm_lora *lora = NULL;
    struct gm_err err = GM_ERR_NONE;
    enum gm_status rc = gm_lora_open(&lora, "dir", &c, 0, c.layers, &err);
    must_be_told(rc, &err);
    must((rc == GM_OK) == (lora != NULL));
    if (lora != NULL)
        must(gm_lora_pack(lora, &gm_ref, NULL) == GM_OK);
    gm_lora_close(&lora);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const size_t blocks = take_u16(&data, &size) % (BLOCKS_MAX + 1);
    size_t config = take_u16(&data, &size);
    config = config < size ? config : size;
    seam_file_put(config_path, data, config, 0);
    seam_file_put(tensors_path, data + config, size - config, blocks * BLOCK);
    read_file();
    if (config > 0)
        read_adapter();
    seam_file_clear();
    return 0;
}
