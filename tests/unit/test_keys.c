/* test_keys.c - API keys: their form, hash, names, fields and secret file; what Redis answers.
 *
 * Owns:      the checks of common/base/key.h, and of common/net/keys.h on made-up replies.
 * Does not:  start Redis (tests/system/test_key.py uses the real one).
 */
// libs: -lsodium
#include <CUnit/Basic.h>
#include <CUnit/CUnit.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/fs.h"
#include "common/base/sys.h"
#include "common/net/keys.h"

enum { RACERS = 16 };

static const uint8_t secret[GM_KEY_SECRET_BYTES] = { 1, 2, 3 };

static struct gm_key sample(char token[GM_KEY_TOKEN_CHARS + 1])
{
    struct gm_key k = { .name = "alice",
                        .tenant = "team",
                        .scopes = GM_KEY_CHAT | GM_KEY_METRICS,
                        .rate_per_min = 60,
                        .tokens_per_day = 123456789012,
                        .created_ms = 1700000000123 };
    CU_ASSERT_EQUAL_FATAL(gm_key_make(&k, secret, token, NULL), GM_OK);
    return k;
}

/* ---- the form and the hash ------------------------------------------------------------------- */

static void test_form(void)
{
    char token[GM_KEY_TOKEN_CHARS + 1], other[GM_KEY_TOKEN_CHARS + 1], id[GM_KEY_ID_DIGITS + 1];
    const struct gm_key a = sample(token), b = sample(other);
    CU_ASSERT_EQUAL(strlen(token), 84);
    CU_ASSERT_EQUAL(strncmp(token, "gm-", 3), 0);
    CU_ASSERT_TRUE(gm_key_split(token, strlen(token), id));
    CU_ASSERT_STRING_EQUAL(id, a.id);
    CU_ASSERT_STRING_NOT_EQUAL(a.id, b.id);
    CU_ASSERT_STRING_NOT_EQUAL(token + 20, other + 20);

    CU_ASSERT_FALSE(gm_key_split(token, strlen(token) - 1, id));
    CU_ASSERT_FALSE(gm_key_split(token, strlen(token) + 1, id));
    CU_ASSERT_FALSE(gm_key_split("", 0, id));
    for (size_t i = 0; i < GM_KEY_TOKEN_CHARS; i++) {
        static const char bad[] = { 0, 'G', 'g' + 1, ' ', (char)0xff };
        for (size_t k = 0; k < sizeof bad; k++) {
            memcpy(other, token, sizeof other);
            other[i] = bad[k];
            CU_ASSERT_FALSE(gm_key_split(other, GM_KEY_TOKEN_CHARS, id));
        }
    }
}

static void test_hash(void)
{
    char token[GM_KEY_TOKEN_CHARS + 1];
    uint8_t hash[GM_KEY_HASH_BYTES], second[GM_KEY_SECRET_BYTES] = { 9 };
    const struct gm_key k = sample(token);
    CU_ASSERT_EQUAL(gm_key_hash(token, secret, hash, NULL), GM_OK);
    CU_ASSERT_TRUE(gm_key_same(hash, k.hash));
    CU_ASSERT_EQUAL(gm_key_hash(token, second, hash, NULL), GM_OK);
    CU_ASSERT_FALSE(gm_key_same(hash, k.hash)); /* the file counts */
    for (size_t i = 3; i < GM_KEY_TOKEN_CHARS; i++) {
        if (token[i] == '-')
            continue;
        token[i] ^= 1; /* 0-9 a-f go to other characters: every one of ID and secret counts */
        CU_ASSERT_EQUAL(gm_key_hash(token, secret, hash, NULL), GM_OK);
        CU_ASSERT_FALSE(gm_key_same(hash, k.hash));
        token[i] ^= 1;
    }
    for (size_t i = 0; i < GM_KEY_HASH_BYTES; i++) {
        memcpy(hash, k.hash, sizeof hash);
        hash[i] ^= 0x80;
        CU_ASSERT_FALSE(gm_key_same(hash, k.hash));
    }
}

/* ---- names and numbers ----------------------------------------------------------------------- */

static void test_names(void)
{
    char longest[GM_KEY_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest - 1);
    longest[GM_KEY_NAME_MAX + 1] = 0;
    CU_ASSERT_EQUAL(gm_key_check_name(longest, NULL), GM_INVALID);
    longest[GM_KEY_NAME_MAX] = 0;
    CU_ASSERT_EQUAL(gm_key_check_name(longest, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_key_check_name("A.b_c-9", NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_key_check_name("", NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_key_check_name("a b", NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_key_check_name("a}", NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_key_check_name("0123456789abcdef", NULL), GM_INVALID);
    CU_ASSERT_EQUAL(gm_key_check_name("0123456789abcdeg", NULL), GM_OK);
}

static enum gm_status tenant_of(const char *name, const char *tenant, char out[65])
{
    struct gm_key k = { .id = "" };
    snprintf(k.name, sizeof k.name, "%s", name);
    const enum gm_status rc = gm_key_set_tenant(&k, tenant, NULL);
    memcpy(out, k.tenant, sizeof k.tenant);
    return rc;
}

static void test_tenants(void)
{
    char t[65];
    CU_ASSERT_EQUAL(tenant_of("alice", NULL, t), GM_OK);
    CU_ASSERT_STRING_EQUAL(t, "alice");
    CU_ASSERT_EQUAL(tenant_of("alice", "team", t), GM_OK);
    CU_ASSERT_STRING_EQUAL(t, "team");
    CU_ASSERT_EQUAL(tenant_of("local", NULL, t), GM_INVALID);
    CU_ASSERT_EQUAL(tenant_of("alice", "local", t), GM_OK);
    CU_ASSERT_EQUAL(tenant_of("web-x", NULL, t), GM_INVALID);
    CU_ASSERT_EQUAL(tenant_of("alice", "web-0123456789abcdef0123456789abcdef", t), GM_INVALID);
    CU_ASSERT_EQUAL(tenant_of("alice", "web", t), GM_OK);
    CU_ASSERT_EQUAL(tenant_of("alice", "a/b", t), GM_INVALID);
    CU_ASSERT_EQUAL(tenant_of("alice", "", t), GM_INVALID);
}

static void test_numbers(void)
{
    uint32_t rate = 7;
    uint64_t tokens = 7;
    CU_ASSERT_EQUAL(gm_key_parse_rate("60", &rate, NULL), GM_OK);
    CU_ASSERT_EQUAL(rate, 60);
    CU_ASSERT_EQUAL(gm_key_parse_rate("90/min", &rate, NULL), GM_OK);
    CU_ASSERT_EQUAL(rate, 90);
    CU_ASSERT_EQUAL(gm_key_parse_tokens("5000000000/day", &tokens, NULL), GM_OK);
    CU_ASSERT_EQUAL(tokens, 5000000000);
    static const char *const wrong[] = {
        "",     "0",      "-1",      "60/day", "60/",
        "/min", "6 /min", "60/min ", "1e3",    "99999999999999999999999999"
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CU_ASSERT_NOT_EQUAL(gm_key_parse_rate(wrong[i], &rate, NULL), GM_OK);
    CU_ASSERT_NOT_EQUAL(gm_key_parse_tokens("5/min", &tokens, NULL), GM_OK);
    CU_ASSERT_EQUAL(rate, 90);
    CU_ASSERT_EQUAL(gm_key_scope_of("chat"), GM_KEY_CHAT);
    CU_ASSERT_EQUAL(gm_key_scope_of("root"), 0);
}

/* ---- records --------------------------------------------------------------------------------- */

static bool equal(const struct gm_key *a, const struct gm_key *b)
{
    return strcmp(a->id, b->id) == 0 && strcmp(a->name, b->name) == 0 &&
           strcmp(a->tenant, b->tenant) == 0 && gm_key_same(a->hash, b->hash) &&
           a->scopes == b->scopes && a->rate_per_min == b->rate_per_min &&
           a->tokens_per_day == b->tokens_per_day && a->created_ms == b->created_ms &&
           a->revoked_ms == b->revoked_ms;
}

static void test_fields(void)
{
    char token[GM_KEY_TOKEN_CHARS + 1];
    struct gm_key k = sample(token), back = { .id = "" };
    struct gm_key_fields f;
    const char *values[GM_KEY_FIELDS];
    gm_key_to_fields(&k, &f);
    for (size_t i = 0; i < GM_KEY_FIELDS; i++) {
        CU_ASSERT_PTR_NULL(strstr(f.text[i], token + 20)); /* the secret is in no field */
        values[i] = f.text[i];
    }
    CU_ASSERT_EQUAL(gm_key_from_fields(&back, k.id, values, NULL), GM_OK);
    CU_ASSERT_TRUE(equal(&k, &back));
    for (size_t i = 0; i < GM_KEY_FIELDS; i++) {
        static const char *const wrong[] = { NULL, "", "?", "chat,root", "web-a b" };
        for (size_t w = 0; w < sizeof wrong / sizeof wrong[0]; w++) {
            values[i] = wrong[w];
            CU_ASSERT_EQUAL(gm_key_from_fields(&back, k.id, values, NULL), GM_DATA_LOSS);
        }
        values[i] = f.text[i];
    }
    CU_ASSERT_EQUAL(gm_key_from_fields(&back, "short", values, NULL), GM_DATA_LOSS);
    CU_ASSERT_TRUE(equal(&k, &back));
    values[0] = ""; /* a revoked key has no hash */
    values[7] = "5";
    CU_ASSERT_EQUAL(gm_key_from_fields(&back, k.id, values, NULL), GM_OK);
    CU_ASSERT_EQUAL(back.revoked_ms, 5);
}

/* ---- the secret file ------------------------------------------------------------------------- */

static void test_secret_file(void)
{
    char dir[] = "/tmp/gm-keys-XXXXXX", path[64];
    uint8_t a[GM_KEY_SECRET_BYTES], b[GM_KEY_SECRET_BYTES];
    struct stat st;
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/%s", dir, GM_KEY_SECRET_FILE);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, a, NULL), GM_OK);
    CU_ASSERT_EQUAL(stat(path, &st), 0);
    CU_ASSERT_EQUAL(st.st_mode & 07777, 0600);
    CU_ASSERT_EQUAL(st.st_size, GM_KEY_SECRET_BYTES);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_OK);
    CU_ASSERT_EQUAL(memcmp(a, b, sizeof a), 0);
    CU_ASSERT_EQUAL(chmod(path, 0640), 0);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_DENIED);
    CU_ASSERT_EQUAL(gm_file_write(path, "short", 5, 0600, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_DATA_LOSS);
    CU_ASSERT_EQUAL(gm_file_write(path, a, 0, 0600, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_DATA_LOSS);
    char large[GM_KEY_SECRET_BYTES * 2] = { 0 };
    CU_ASSERT_EQUAL(gm_file_write(path, large, sizeof large, 0600, NULL), GM_OK);
    CU_ASSERT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_DATA_LOSS);
    (void)unlink(path);
    (void)rmdir(dir);
    CU_ASSERT_NOT_EQUAL(gm_key_secret_open(dir, b, NULL), GM_OK);
}

/* All who come at once read the same bytes, and nothing else is left in the folder. */
static void test_secret_race(void)
{
    char dir[] = "/tmp/gm-keys-XXXXXX", path[64];
    int start[2], told[2];
    uint8_t first[GM_KEY_SECRET_BYTES], next[GM_KEY_SECRET_BYTES];
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(dir));
    CU_ASSERT_FATAL(pipe(start) == 0 && pipe(told) == 0);
    for (int i = 0; i < RACERS; i++)
        if (fork() == 0) {
            uint8_t mine[GM_KEY_SECRET_BYTES];
            char go;
            close(start[1]);
            const bool ok = read(start[0], &go, 1) == 0 &&
                            gm_key_secret_open(dir, mine, NULL) == GM_OK &&
                            write(told[1], mine, sizeof mine) == (ssize_t)sizeof mine;
            _exit(ok ? 0 : 1);
        }
    close(start[0]);
    close(start[1]);
    for (int i = 0; i < RACERS; i++) {
        int how = -1;
        CU_ASSERT_TRUE(wait(&how) > 0 && how == 0);
    }
    close(told[1]);
    CU_ASSERT_EQUAL(read(told[0], first, sizeof first), (ssize_t)sizeof first);
    for (int i = 1; i < RACERS; i++) {
        CU_ASSERT_EQUAL(read(told[0], next, sizeof next), (ssize_t)sizeof next);
        CU_ASSERT_EQUAL(memcmp(first, next, sizeof first), 0);
    }
    close(told[0]);
    snprintf(path, sizeof path, "%s/%s", dir, GM_KEY_SECRET_FILE);
    CU_ASSERT_EQUAL(unlink(path), 0);
    CU_ASSERT_EQUAL(rmdir(dir), 0); /* no temporary file was left */
}

/* ---- replies --------------------------------------------------------------------------------- */

static redisReply text_reply(char *text)
{
    return (redisReply){ .type = REDIS_REPLY_STRING, .str = text, .len = strlen(text) };
}

static void test_replies(void)
{
    struct gm_err err = GM_ERR_NONE;
    char token[GM_KEY_TOKEN_CHARS + 1], id[GM_KEY_ID_DIGITS + 1];
    const struct gm_key k = sample(token);
    struct gm_key back;
    struct gm_key_fields f;
    gm_key_to_fields(&k, &f);
    redisReply items[GM_KEY_FIELDS], *list[GM_KEY_FIELDS], nil = { .type = REDIS_REPLY_NIL };
    redisReply all = { .type = REDIS_REPLY_ARRAY, .elements = GM_KEY_FIELDS, .element = list };
    for (size_t i = 0; i < GM_KEY_FIELDS; i++) {
        items[i] = text_reply(f.text[i]);
        list[i] = &items[i];
    }
    CU_ASSERT_EQUAL(gm_keys_read_get(&all, k.id, &back, &err), GM_OK);
    CU_ASSERT_TRUE(equal(&k, &back));
    list[3] = &nil;
    CU_ASSERT_EQUAL(gm_keys_read_get(&all, k.id, &back, &err), GM_DATA_LOSS);
    for (size_t i = 0; i < GM_KEY_FIELDS; i++)
        list[i] = &nil;
    CU_ASSERT_EQUAL(gm_keys_read_get(&all, k.id, &back, &err), GM_NOT_FOUND);
    CU_ASSERT_EQUAL(gm_keys_read_get(&nil, k.id, &back, &err), GM_DATA_LOSS);

    char ok[] = "ok", exists[] = "exists", full[] = "full", none[] = "none", who[17];
    redisReply said = text_reply(ok);
    CU_ASSERT_EQUAL(gm_keys_read_add(&said, &err), GM_OK);
    said = text_reply(exists);
    CU_ASSERT_EQUAL(gm_keys_read_add(&said, &err), GM_EXISTS);
    said = text_reply(full);
    CU_ASSERT_EQUAL(gm_keys_read_add(&said, &err), GM_EXHAUSTED);
    CU_ASSERT_EQUAL(gm_keys_read_add(&nil, &err), GM_DATA_LOSS);
    memcpy(who, k.id, sizeof who);
    items[0] = text_reply(ok);
    items[1] = text_reply(who);
    list[0] = &items[0];
    list[1] = &items[1];
    all.elements = 2;
    CU_ASSERT_EQUAL(gm_keys_read_revoke(&all, id, &err), GM_OK);
    CU_ASSERT_STRING_EQUAL(id, k.id);
    items[0] = text_reply(none);
    all.elements = 1;
    CU_ASSERT_EQUAL(gm_keys_read_revoke(&all, id, &err), GM_NOT_FOUND);
    all.elements = 0;
    CU_ASSERT_EQUAL(gm_keys_read_revoke(&all, id, &err), GM_DATA_LOSS);
}

int main(void)
{
    CU_TestInfo tests[] = { { "form", test_form },
                            { "hash", test_hash },
                            { "names", test_names },
                            { "tenants", test_tenants },
                            { "numbers", test_numbers },
                            { "fields", test_fields },
                            { "secret file", test_secret_file },
                            { "secret race", test_secret_race },
                            { "replies", test_replies },
                            CU_TEST_INFO_NULL };
    CU_SuiteInfo suites[] = { { "keys", NULL, NULL, NULL, NULL, tests }, CU_SUITE_INFO_NULL };
    if (CU_initialize_registry() != CUE_SUCCESS || CU_register_suites(suites) != CUE_SUCCESS)
        return 2;
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    const unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures ? 1 : 0;
}
