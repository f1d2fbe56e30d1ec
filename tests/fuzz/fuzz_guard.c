// uses: services/gateway/guard.c
// libs: -lsodium
/* fuzz_guard.c - libFuzzer target: any headers of a request, and any API key and its record.
 *
 * Owns:      what must hold: a page of another site never gets through, a token has the form of a
 *            key or none, a record makes a key that its own fields say again.
 * Does not:  know which are right (tests/unit/test_guard.c, test_keys.c).
 * Input:     the first byte: bit 0 local, bit 1 an allowed origin; bit 2 a key instead: then words
 *            with a zero byte between them: Host, Origin, Sec-Fetch-Site; or a token, or an ID and
 *            the fields of a record. Seeds in tests/fuzz/guard.
 */
#include "common/base/key.h"
#include "services/gateway/guard.h"
#include "tests/fuzz/must.h"

enum { WORDS_MAX = 10 };

/* Words of the text; an empty one counts as absent. */
static void split(char *text, size_t size, const char *words[WORDS_MAX])
{
    size_t at = 0;
    for (int i = 0; i < WORDS_MAX; i++) {
        words[i] = at < size && text[at] != '\0' ? text + at : NULL;
        at += at < size ? strlen(text + at) + 1 : 0;
    }
}

static void check_guard(bool local, bool allowed, const char *const words[WORDS_MAX])
{
    const struct gm_guard g = { "127.0.0.1:8080", local,
                                allowed ? "https://a.example,https://b.example:8443" : "" };
    const struct gm_guarded r = { words[0], words[1], words[2] };
    bool listed = false;
    const char *why = gm_guard_check(&g, &r, &listed);
    must(why == NULL || why[0] != '\0');
    must(!listed || (allowed && r.origin != NULL));
    must(!local || why != NULL || r.host != NULL);
    if (r.origin != NULL && strcmp(r.origin, "https://evil.example") == 0)
        must(why != NULL || (r.host != NULL && !local));
}

static void check_record(const char *const words[WORDS_MAX])
{
    struct gm_key key, again;
    struct gm_key_fields fields;
    const char *values[GM_KEY_FIELDS];
    struct gm_err err = GM_ERR_NONE;
    char id[GM_KEY_ID_DIGITS + 1];
    uint32_t rate;
    uint64_t tokens;
    const char *text = words[0] != NULL ? words[0] : "";
    if (gm_key_split(text, strlen(text), id))
        must(strlen(text) == GM_KEY_TOKEN_CHARS && strlen(id) == GM_KEY_ID_DIGITS);
    (void)gm_key_check_name(text, NULL);
    must(gm_key_parse_rate(text, &rate, NULL) != GM_OK || (rate > 0 && rate <= GM_KEY_RATE_MAX));
    must(gm_key_parse_tokens(text, &tokens, NULL) != GM_OK || tokens <= GM_KEY_TOKENS_MAX);
    (void)gm_key_scope_of(text);
    if (gm_key_from_fields(&key, text, words + 1, &err) != GM_OK) {
        must(err.text[0] != '\0');
        return;
    }
    must(key.scopes != 0 && strlen(key.name) > 0 && strlen(key.tenant) > 0);
    gm_key_to_fields(&key, &fields);
    for (size_t i = 0; i < GM_KEY_FIELDS; i++)
        values[i] = fields.text[i];
    must(gm_key_from_fields(&again, key.id, values, &err) == GM_OK);
    must(strcmp(again.name, key.name) == 0 && again.scopes == key.scopes &&
         again.rate_per_min == key.rate_per_min && again.tokens_per_day == key.tokens_per_day &&
         again.revoked_ms == key.revoked_ms && gm_key_same(again.hash, key.hash));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *words[WORDS_MAX];
    if (size < 1)
        return 0;
    char *text = malloc(size);
    must(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    split(text, size, words);
    if (data[0] & 4)
        check_record(words);
    else
        check_guard((data[0] & 1) != 0, (data[0] & 2) != 0, words);
    free(text);
    return 0;
}
