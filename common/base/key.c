/* key.c - an API key: see key.h.
 *
 * Owns:      as key.h.
 * Does not:  as key.h.
 */
#include "common/base/key.h"

#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/base/text.h"

static const char prefix[] = "gm-";
enum { PREFIX_CHARS = sizeof prefix - 1, NUMBER_MAX = 24 };

static const char hex_digits[] = "0123456789abcdef";

static bool is_hex(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!text[i] || !strchr(hex_digits, text[i]))
            return false;
    return true;
}

/* ---- the secret file ---------------------------------------------------------------------------
 */
static enum gm_status read_secret(const char *path, uint8_t secret[GM_KEY_SECRET_BYTES],
                                  struct gm_err *err)
{
    struct stat st;
    struct gm_buf bytes = GM_BUF(GM_KEY_SECRET_BYTES + 1);
    if (stat(path, &st) == 0 && (st.st_mode & 077) != 0)
        return gm_fail(err, GM_DENIED, "others may read %.200s; chmod 600 it, and make new keys",
                       path);
    enum gm_status rc = gm_file_read(path, &bytes, err);
    if (rc == GM_EXHAUSTED || (rc == GM_OK && bytes.len != GM_KEY_SECRET_BYTES))
        rc = gm_fail(err, GM_DATA_LOSS,
                     "%.200s does not hold %d bytes; remove it, and make new keys", path,
                     GM_KEY_SECRET_BYTES);
    if (rc == GM_OK)
        memcpy(secret, bytes.data, GM_KEY_SECRET_BYTES);
    if (bytes.data)
        sodium_memzero(bytes.data, bytes.len);
    gm_buf_free(&bytes);
    return rc;
}

/* Puts a fresh secret under the name, unless another has done so in the meantime. */
static enum gm_status make_secret(const char *path, struct gm_err *err)
{
    uint8_t fresh[GM_KEY_SECRET_BYTES];
    struct gm_newfile f;
    enum gm_status rc = gm_newfile_open(&f, path, 0600, sizeof fresh, err);
    if (rc != GM_OK)
        return rc;
    gm_random_bytes(fresh, sizeof fresh);
    rc = gm_newfile_write(&f, 0, fresh, sizeof fresh, err);
    if (rc == GM_OK)
        rc = gm_newfile_commit(&f, false, err);
    gm_newfile_drop(&f);
    sodium_memzero(fresh, sizeof fresh);
    return rc == GM_EXISTS ? GM_OK : rc;
}

enum gm_status gm_key_secret_open(const char *home, uint8_t secret[GM_KEY_SECRET_BYTES],
                                  struct gm_err *err)
{
    char path[GM_PATH_MAX];
    enum gm_status rc = gm_path_join(path, sizeof path, home, GM_KEY_SECRET_FILE, err);
    if (rc == GM_OK && !gm_path_exists(path))
        rc = make_secret(path, err);
    return rc == GM_OK ? read_secret(path, secret, err) : rc;
}

/* ---- the form and the hash ---------------------------------------------------------------------
 */
bool gm_key_split(const char *token, size_t n, char id[GM_KEY_ID_DIGITS + 1])
{
    const char *at = token + PREFIX_CHARS;
    if (n != GM_KEY_TOKEN_CHARS || memcmp(token, prefix, PREFIX_CHARS) != 0 ||
        !is_hex(at, GM_KEY_ID_DIGITS) || at[GM_KEY_ID_DIGITS] != '-' ||
        !is_hex(at + GM_KEY_ID_DIGITS + 1, GM_KEY_SECRET_DIGITS))
        return false;
    memcpy(id, at, GM_KEY_ID_DIGITS);
    id[GM_KEY_ID_DIGITS] = 0;
    return true;
}

enum gm_status gm_key_hash(const char *token, const uint8_t secret[GM_KEY_SECRET_BYTES],
                           uint8_t hash[GM_KEY_HASH_BYTES], struct gm_err *err)
{
    if (sodium_init() < 0 ||
        crypto_generichash(hash, GM_KEY_HASH_BYTES, (const unsigned char *)token,
                           GM_KEY_TOKEN_CHARS, secret, GM_KEY_SECRET_BYTES) != 0)
        return gm_fail(err, GM_INTERNAL, "libsodium cannot start; reinstall it");
    return GM_OK;
}

bool gm_key_same(const uint8_t a[GM_KEY_HASH_BYTES], const uint8_t b[GM_KEY_HASH_BYTES])
{
    return sodium_memcmp(a, b, GM_KEY_HASH_BYTES) == 0;
}

enum gm_status gm_key_make(struct gm_key *key, const uint8_t secret[GM_KEY_SECRET_BYTES],
                           char token[GM_KEY_TOKEN_CHARS + 1], struct gm_err *err)
{
    char digits[GM_KEY_SECRET_DIGITS + 1];
    gm_random_id(key->id, GM_KEY_ID_DIGITS);
    gm_random_id(digits, GM_KEY_SECRET_DIGITS);
    snprintf(token, GM_KEY_TOKEN_CHARS + 1, "%s%s-%s", prefix, key->id, digits);
    sodium_memzero(digits, sizeof digits);
    return gm_key_hash(token, secret, key->hash, err);
}

/* ---- names, tenants, scopes, numbers -----------------------------------------------------------
 */
static bool is_name(const char *text)
{
    const size_t n = strlen(text);
    return n >= 1 && n <= GM_KEY_NAME_MAX &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

enum gm_status gm_key_check_name(const char *name, struct gm_err *err)
{
    if (!is_name(name))
        return gm_fail(err, GM_INVALID, "a key's name is 1 to %d of A-Z a-z 0-9 . _ -",
                       GM_KEY_NAME_MAX);
    if (strlen(name) == GM_KEY_ID_DIGITS && is_hex(name, GM_KEY_ID_DIGITS))
        return gm_fail(err, GM_INVALID,
                       "a name of %d hex digits would be taken for a key's id; "
                       "choose another",
                       GM_KEY_ID_DIGITS);
    return GM_OK;
}

enum gm_status gm_key_set_tenant(struct gm_key *key, const char *tenant, struct gm_err *err)
{
    const char *text = tenant ? tenant : key->name;
    if (!is_name(text))
        return gm_fail(err, GM_INVALID, "a tenant is 1 to %d of A-Z a-z 0-9 . _ -",
                       GM_KEY_NAME_MAX);
    if (strncmp(text, GM_KEY_TENANT_WEB, strlen(GM_KEY_TENANT_WEB)) == 0)
        return gm_fail(err, GM_INVALID,
                       "tenants that begin with %s are visitors of the web page; %s",
                       GM_KEY_TENANT_WEB, tenant ? "choose another" : "give --tenant");
    if (!tenant && strcmp(text, GM_KEY_TENANT_LOCAL) == 0)
        return gm_fail(err, GM_INVALID,
                       "the tenant %s is the command line's; give --tenant (also --tenant %s, if "
                       "the key shall see its conversations)",
                       text, text);
    memcpy(key->tenant, text, strlen(text) + 1);
    return GM_OK;
}

static const struct {
    const char *name;
    uint32_t bit;
} scopes_known[] = { { "chat", GM_KEY_CHAT }, { "metrics", GM_KEY_METRICS } };
enum { SCOPES = sizeof scopes_known / sizeof scopes_known[0] };

uint32_t gm_key_scope_of(const char *name)
{
    for (size_t i = 0; i < SCOPES; i++)
        if (strcmp(name, scopes_known[i].name) == 0)
            return scopes_known[i].bit;
    return 0;
}

void gm_key_scopes_text(uint32_t scopes, char out[GM_KEY_SCOPES_TEXT_N])
{
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < SCOPES; i++)
        if (scopes & scopes_known[i].bit)
            n += (size_t)snprintf(out + n, GM_KEY_SCOPES_TEXT_N - n, "%s%s", n ? "," : "",
                                  scopes_known[i].name);
}

static enum gm_status parse_per(const char *text, const char *per, uint64_t max, uint64_t *out,
                                struct gm_err *err)
{
    char digits[NUMBER_MAX];
    const char *slash = strchr(text, '/');
    const size_t n = slash ? (size_t)(slash - text) : strlen(text);
    if (n >= sizeof digits || (slash && strcmp(slash, per) != 0))
        return gm_fail(err, GM_INVALID, "\"%.40s\" is not a number, as in 60 or 60%s", text, per);
    snprintf(digits, sizeof digits, "%.*s", (int)n, text);
    return gm_parse_u64(digits, 1, max, out, err);
}

enum gm_status gm_key_parse_rate(const char *text, uint32_t *out, struct gm_err *err)
{
    uint64_t n = 0;
    if (parse_per(text, "/min", GM_KEY_RATE_MAX, &n, err) != GM_OK)
        return gm_err_prefix(err, "--rate");
    *out = (uint32_t)n;
    return GM_OK;
}

enum gm_status gm_key_parse_tokens(const char *text, uint64_t *out, struct gm_err *err)
{
    if (parse_per(text, "/day", GM_KEY_TOKENS_MAX, out, err) != GM_OK)
        return gm_err_prefix(err, "--tokens");
    return GM_OK;
}

/* ---- fields ------------------------------------------------------------------------------------
 */
enum field { F_HASH, F_NAME, F_TENANT, F_SCOPES, F_RATE, F_TOKENS, F_CREATED, F_REVOKED };
static const char *const field_names[GM_KEY_FIELDS] = { "hash", "name",   "tenant",  "scopes",
                                                        "rate", "tokens", "created", "revoked" };

const char *gm_key_field_name(size_t i)
{
    return field_names[i];
}

void gm_key_to_fields(const struct gm_key *key, struct gm_key_fields *f)
{
    enum { N = sizeof f->text[0] };
    sodium_bin2hex(f->text[F_HASH], N, key->hash, GM_KEY_HASH_BYTES);
    snprintf(f->text[F_NAME], N, "%s", key->name);
    snprintf(f->text[F_TENANT], N, "%s", key->tenant);
    gm_key_scopes_text(key->scopes, f->text[F_SCOPES]);
    snprintf(f->text[F_RATE], N, "%u", key->rate_per_min);
    snprintf(f->text[F_TOKENS], N, "%llu", (unsigned long long)key->tokens_per_day);
    snprintf(f->text[F_CREATED], N, "%lld", (long long)key->created_ms);
    snprintf(f->text[F_REVOKED], N, "%lld", (long long)key->revoked_ms);
}

static bool read_hash(uint8_t hash[GM_KEY_HASH_BYTES], const char *text)
{
    size_t n = 0;
    return is_hex(text, strlen(text)) &&
           sodium_hex2bin(hash, GM_KEY_HASH_BYTES, text, strlen(text), NULL, &n, NULL) == 0 &&
           n == GM_KEY_HASH_BYTES;
}

/* 0: a scope in the list is none. */
static uint32_t read_scopes(const char *text)
{
    uint32_t all = 0;
    while (*text) {
        char one[GM_KEY_SCOPES_TEXT_N];
        const size_t n = strcspn(text, ",");
        snprintf(one, sizeof one, "%.*s", (int)(n < sizeof one ? n : 0), text);
        const uint32_t bit = gm_key_scope_of(one);
        if (!bit)
            return 0;
        all |= bit;
        text += n + (text[n] == ',');
    }
    return all;
}

enum gm_status gm_key_from_fields(struct gm_key *key, const char *id,
                                  const char *const values[GM_KEY_FIELDS], struct gm_err *err)
{
    struct gm_key k = { .id = "" };
    uint64_t rate = 0;
    bool good = strlen(id) == GM_KEY_ID_DIGITS && is_hex(id, GM_KEY_ID_DIGITS);
    for (size_t i = 0; good && i < GM_KEY_FIELDS; i++)
        good = values[i] != NULL;
    good = good && gm_parse_i64(values[F_REVOKED], 0, INT64_MAX, &k.revoked_ms, NULL) == GM_OK &&
           gm_parse_i64(values[F_CREATED], 0, INT64_MAX, &k.created_ms, NULL) == GM_OK &&
           gm_parse_u64(values[F_RATE], 0, GM_KEY_RATE_MAX, &rate, NULL) == GM_OK &&
           gm_parse_u64(values[F_TOKENS], 0, GM_KEY_TOKENS_MAX, &k.tokens_per_day, NULL) == GM_OK &&
           is_name(values[F_NAME]) && gm_key_set_tenant(&k, values[F_TENANT], NULL) == GM_OK &&
           (k.revoked_ms || read_hash(k.hash, values[F_HASH]));
    k.scopes = good ? read_scopes(values[F_SCOPES]) : 0;
    if (!k.scopes)
        return gm_fail(err, GM_DATA_LOSS, "the record of key %.16s is damaged; revoke it", id);
    k.rate_per_min = (uint32_t)rate;
    memcpy(k.id, id, sizeof k.id);
    memcpy(k.name, values[F_NAME], strlen(values[F_NAME]) + 1);
    *key = k;
    return GM_OK;
}
