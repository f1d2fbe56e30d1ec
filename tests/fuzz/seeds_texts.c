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

void seeds_of_texts(void)
{
    conversations();
}
