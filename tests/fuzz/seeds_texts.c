/* seeds_texts.c - seeds that are texts: conversations for the template, command lines.
 *
 * Owns:      which texts there are.
 * Does not:  write them (make_seeds.c).
 */
#include <string.h>

#include "common/base/text.h"
#include "tests/fuzz/make_seeds.h"

enum { SEED_BYTES_MAX = 1 << 16 };

/* ---- template -------------------------------------------------------------------------------- */

static void conversation(const char *name, int how, const char *tools, const char *messages)
{
    struct gm_buf out = GM_BUF(SEED_BYTES_MAX);
    const size_t n = strlen(tools);
    const uint8_t head[3] = { (uint8_t)how, (uint8_t)n, (uint8_t)(n >> 8) };
    (void)gm_buf_append(&out, (const char *)head, sizeof head, NULL);
    (void)gm_buf_append(&out, tools, n, NULL);
    (void)gm_buf_append(&out, messages, strlen(messages), NULL);
    seed_write("template", name, out.data, out.len);
    gm_buf_free(&out);
}

static void conversations(void)
{
    static const char tools[] =
        "[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"description\":\"looks\","
        "\"parameters\":{\"type\":\"object\",\"properties\":{\"at\":{\"type\":\"string\","
        "\"enum\":[\"a\",\"b\"]},\"n\":{\"type\":\"integer\"}},\"required\":[\"at\"]}}}]";
    conversation("plain", 0, "", "[{\"role\":\"user\",\"content\":\"the user\"}]");
    conversation("system", 0, "",
                 "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"developer\",\"content\":"
                 "\"d\"},{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{"
                 "\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":\"c\"}]");
    conversation("tools", 0, tools,
                 "[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":null,"
                 "\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":"
                 "\"look\",\"arguments\":\"{\\\"at\\\":\\\"a\\\"}\"}}]},{\"role\":\"tool\","
                 "\"tool_call_id\":\"c1\",\"content\":\"seen\"}]");
    conversation("continued", 1, "", "[{\"role\":\"tool\",\"content\":\"r\"}]");
    conversation("raw", 2, "", "the\xc3\xa9\n\n\n   <bos> <start_of_turn>user");
}

/* ---- options --------------------------------------------------------------------------------- */

/* Words with a zero byte between them, behind the byte that says what they are. */
static void words(const char *name, char how, const char *const *list, size_t n)
{
    struct gm_buf out = GM_BUF(SEED_BYTES_MAX);
    (void)gm_buf_append(&out, &how, 1, NULL);
    for (size_t i = 0; i < n; i++)
        (void)gm_buf_append(&out, list[i], strlen(list[i]) + 1, NULL);
    seed_write("options", name, out.data, out.len);
    gm_buf_free(&out);
}

#define WORDS(name, how, ...)                                                                      \
    words(name, how, (const char *const[]){ __VA_ARGS__ },                                         \
          sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))

static void options(void)
{
    WORDS("up", 0, "--shards=3", "--model", "m.gguf", "--adapter", "none", "--kv", "q8", "--http",
          "127.0.0.1:8080", "--context=2048", "--session-ttl", "7d", "--insecure");
    WORDS("cut", 0, "--layers", "0:6,6:12,12:18", "--speculate=off", "--", "--text");
    WORDS("sample", 0, "--temperature", "0.7", "--top-k=40", "--top-p", "0.9", "--min-p=0.05",
          "--stop", "a", "--stop=b", "--seed", "18446744073709551615", "--logprobs=-1",
          "--max-tokens", "5", "--ignore-eos");
    WORDS("short", 0, "-fn5", "-i", "x", "-iy", "--no-flag", "--real=1e3", "--wait=250ms", "-",
          "--bytes=0");
    WORDS("wrong", 0, "--shard", "3", "--kv=f3", "--number=1e5", "--wait", "5x");
    WORDS("variable", 1, "17", "--help");
    WORDS("state", 2,
          "{\"private\":false,\"ready\":true,\"pid\":5,\"start\":6,\"options\":{\"model\":\"m\","
          "\"threads\":\"2\"},\"processes\":[{\"role\":\"shard\",\"index\":0,\"pid\":7,"
          "\"start\":8,\"started_ms\":9,\"begin\":0,\"end\":18,\"restarts\":0,"
          "\"failed\":false}]}");
}

void seeds_of_texts(void)
{
    options();
    conversations();
}
