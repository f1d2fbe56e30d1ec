// uses: services/gateway/request.c services/gateway/params.c services/gateway/problem.c
// uses: services/gateway/scan.c services/gateway/read_options.c services/gateway/read_more.c
// uses: services/gateway/read_prompts.c services/gateway/read_messages.c
// libs: -ljansson
/* test_request_texts.c - prompts, messages and inputs: what is taken as what, what is refused.
 *
 * Owns:      the checks of read_prompts.c, read_messages.c and gm_request_messages.
 * Does not:  need a gateway, a tokenizer or a model.
 */
#include "tests/unit/request_check.h"

static void prompts(void)
{
    struct gm_request r;
    CU_ASSERT_TRUE(parse(&r, GM_API_COMPLETION,
                         "{\"prompt\": [[1, 2.0], [3]], \"echo\": true, \"logprobs\": 1, "
                         "\"max_tokens\": 0, \"temperature\": 0, \"seed\": 1234}"));
    CU_ASSERT_TRUE(r.batch && r.no_answer && r.echo);
    CU_ASSERT_EQUAL(r.n_prompts, 2);
    CU_ASSERT_EQUAL(r.prompts[0].n_ids, 2);
    CU_ASSERT_EQUAL(r.prompts[0].ids[1], 2);
    CU_ASSERT_EQUAL(r.prompts[1].ids[0], 3);
    CU_ASSERT_EQUAL(r.sampling.logprobs, 1);
    CU_ASSERT_EQUAL(r.sampling.max_tokens, 1);
    gm_request_free(&r);
    CU_ASSERT_TRUE(parse(&r, GM_API_COMPLETION, "{\"prompt\": [\"a\\u0000b\", \"\", [7]]}"));
    CU_ASSERT_EQUAL(r.prompts[0].text_len, 3);
    CU_ASSERT_EQUAL(r.prompts[1].text_len, 0);
    CU_ASSERT_PTR_NULL(r.prompts[2].text);
    gm_request_free(&r);
    CU_ASSERT_TRUE(parse(&r, GM_API_COMPLETION, "{\"prompt\": [1, 2]}"));
    CU_ASSERT_FALSE(r.batch);
    CU_ASSERT_EQUAL(r.n_prompts, 1);
    gm_request_free(&r);
    CU_ASSERT_TRUE(parse(&r, GM_API_DETOKENIZE, "{\"tokens\": []}"));
    CU_ASSERT_EQUAL(r.prompts[0].n_ids, 0);
    gm_request_free(&r);
    refused(GM_API_COMPLETION, "{\"prompt\": []}", 400, "prompt");
    refused(GM_API_COMPLETION, "{\"prompt\": [[]]}", 400, "prompt[0]");
    refused(GM_API_COMPLETION, "{\"prompt\": [1, \"a\"]}", 400, "prompt[1]");
    refused(GM_API_COMPLETION, "{\"prompt\": [\"a\", 1]}", 400, "prompt[1]");
    refused(GM_API_COMPLETION, "{\"prompt\": [[1], [2, -1]]}", 400, "prompt[1][1]");
    refused(GM_API_COMPLETION, "{\"prompt\": [[[1]]]}", 400, "prompt[0][0]");
    refused(GM_API_COMPLETION, "{\"prompt\": {\"a\": 1}}", 400, "prompt");
    refused(GM_API_COMPLETION, "{\"prompt\": \"a\", \"n\": 2, \"best_of\": 1}", 400, "best_of");
    refused(GM_API_COMPLETION, "{\"prompt\": \"a\", \"logprobs\": 129}", 400, "logprobs");
    refused(GM_API_COMPLETION, "{\"prompt\": \"a\", \"suffix\": \"b\"}", 400, "suffix");
    refused(GM_API_SCORE, "{\"text\": \"a\", \"ids\": [1]}", 400, "ids");
    refused(GM_API_SCORE, "{\"ids\": [[1], \"a\"]}", 400, "ids[1]");
    refused(GM_API_TOKENIZE, "{\"text\": \"a\", \"content\": \"b\"}", 400, "content");
    refused(GM_API_TOKENIZE, "{\"text\": [\"a\"]}", 400, "text");
    refused_many(GM_API_COMPLETION, repeated("{\"n\": 16, \"prompt\": [\"a\"", ",\"a\"", 16, "]}"),
                 400, "invalid_value");
}

/* ---- conversations --------------------------------------------------------------------------- */

static void expect_messages(enum gm_api api, const char *body, const char *history,
                            const char *want)
{
    struct gm_request r;
    struct gm_buf out = GM_BUF(TEXT_MAX);
    CU_ASSERT_TRUE(parse(&r, api, body));
    CU_ASSERT_EQUAL(gm_request_messages(&r, history, strlen(history), &out, NULL), GM_OK);
    if (strcmp(gm_buf_text(&out), want) != 0)
        fprintf(stderr, "\n%s\ngave\n%s\nnot\n%s\n", body, gm_buf_text(&out), want);
    CU_ASSERT_STRING_EQUAL(gm_buf_text(&out), want);
    gm_buf_free(&out);
    gm_request_free(&r);
}

#define CALLING(arguments)                                                                         \
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":"             \
    "\"function\",\"function\":{\"name\":\"f\",\"arguments\":" arguments "}}]}"

static void messages(void)
{
    const char *tools = "[{\"role\":\"user\",\"content\":\"a\"}," CALLING(
        "\"{ \\\"x\\\" : 1.00, \\\"y\\\":1e2 }\"") ",{\"role\":\"tool\",\"content\":\"r\","
                                                   "\"tool_call_id\":\"c\"}]";
    char body[1024];
    snprintf(body, sizeof body, "{\"messages\": %s}", tools);
    expect_messages(GM_API_CHAT, body, "", tools);
    expect_messages(GM_API_CHAT,
                    TURNS("{\"content\": [{\"type\": \"text\", \"text\": \"a\\u0000\", "
                          "\"prompt_cache_breakpoint\": {}}], \"role\": \"user\", \"name\": \"n\", "
                          "\"refusal\": null, \"annotations\": [], \"audio\": null}"),
                    "",
                    "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\u0000\"}],"
                    "\"name\":\"n\"}]");
    static const char *const wrong[][2] = {
        { "", "messages" },
        { "5", "messages[0]" },
        { "{}", "messages[0].role" },
        { "{\"role\": \"bot\", \"content\": \"a\"}", "messages[0].role" },
        { "{\"role\": \"function\", \"content\": \"a\", \"name\": \"f\"}", "messages[0].role" },
        { "{\"role\": \"user\"}", "messages[0].content" },
        { "{\"role\": \"user\", \"content\": null}", "messages[0].content" },
        { "{\"role\": \"user\", \"content\": 5}", "messages[0].content" },
        { "{\"role\": \"user\", \"content\": []}", "messages[0].content" },
        { "{\"role\": \"assistant\", \"content\": null}", "messages[0].content" },
        { "{\"role\": \"user\", \"content\": [\"a\"]}", "messages[0].content[0]" },
        { "{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}", "messages[0].content[0]" },
        { "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, {\"type\": "
          "\"image_url\", \"image_url\": {\"url\": \"http://x/\"}}]}",
          "messages[0].content[1]" },
        { "{\"role\": \"user\", \"content\": [{\"type\": \"input_audio\"}]}",
          "messages[0].content[0]" },
        { "{\"role\": \"user\", \"content\": [{\"type\": \"input_text\", \"text\": \"a\"}]}",
          "messages[0].content[0]" },
        { "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\", \"b\": 1}]}",
          "messages[0].content[0].b" },
        { "{\"role\": \"user\", \"content\": \"a\", \"b\": 1}", "messages[0].b" },
        { "{\"role\": \"user\", \"content\": \"a\", \"name\": 1}", "messages[0].name" },
        { "{\"role\": \"user\", \"content\": \"a\", \"tool_call_id\": \"c\"}",
          "messages[0].tool_call_id" },
        { "{\"role\": \"user\", \"content\": \"a\", \"tool_calls\": []}",
          "messages[0].tool_calls" },
        { "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": []}",
          "messages[0].tool_calls" },
        { "{\"role\": \"assistant\", \"content\": \"a\", \"refusal\": \"no\"}",
          "messages[0].refusal" },
        { "{\"role\": \"assistant\", \"content\": \"a\", \"audio\": {\"id\": \"a\"}}",
          "messages[0].audio" },
        { CALLING("{\"x\": 1}"), "messages[0].tool_calls[0].function" },
        { "{\"role\": \"assistant\", \"tool_calls\": [{\"id\": \"c\", \"type\": \"custom\"}]}",
          "messages[0].tool_calls[0]" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(body, sizeof body, "{\"messages\": [%s]}", wrong[i][0]);
        refused(GM_API_CHAT, body, 400, wrong[i][1]);
    }
    refused_many(GM_API_CHAT,
                 repeated("{\"messages\": [{\"role\": \"user\", \"content\": [1", ",1",
                          GM_REQUEST_PARTS_MAX, "]}]}"),
                 400, "invalid_value");
}

#define U(t) "{\"role\":\"user\",\"content\":\"" t "\"}"
#define A(t) "{\"role\":\"assistant\",\"content\":\"" t "\"}"

static void responses(void)
{
    expect_messages(GM_API_RESPONSE, "{\"input\": \"a\"}", "", "[" U("a") "]");
    expect_messages(GM_API_RESPONSE, "{\"input\": \"a\"}", "[]", "[" U("a") "]");
    expect_messages(
        GM_API_RESPONSE, "{\"input\": \"b\", \"instructions\": \"s\\u0000\"}",
        " [ " U("a") ", " A("x") "]\n",
        "[{\"role\":\"system\",\"content\":\"s\\u0000\"}," U("a") ", " A("x") "," U("b") "]");
    expect_messages(
        GM_API_RESPONSE,
        "{\"input\": [{\"role\": \"developer\", \"content\": \"d\"}, {\"type\": \"message\", "
        "\"role\": \"user\", \"content\": [{\"type\": \"input_text\", \"text\": \"a\"}]}, "
        "{\"id\": \"msg_1\", \"type\": \"message\", \"status\": \"completed\", \"role\": "
        "\"assistant\", \"content\": [{\"type\": \"output_text\", \"text\": \"x\", "
        "\"annotations\": [], \"logprobs\": []}]}, " U("b") "]}",
        "",
        "[{\"role\":\"developer\",\"content\":\"d\"},{\"role\":\"user\",\"content\":[{\"type\":"
        "\"text\",\"text\":\"a\"}]},{\"role\":\"assistant\",\"content\":[{\"type\":\"text\","
        "\"text\":\"x\"}]}," U("b") "]");
    static const char *const wrong[][2] = {
        { "\"input\": []", "input" },
        { "\"input\": [\"a\"]", "input[0]" },
        { "\"input\": [{\"type\": \"item_reference\", \"id\": \"a\"}]", "input[0].type" },
        { "\"input\": [{\"type\": \"function_call_output\", \"call_id\": \"a\"}]",
          "input[0].type" },
        { "\"input\": [{\"role\": \"tool\", \"content\": \"a\"}]", "input[0].role" },
        { "\"input\": [{\"role\": \"user\", \"content\": [{\"type\": \"input_image\"}]}]",
          "input[0].content[0]" },
        { "\"input\": [{\"role\": \"user\", \"content\": [{\"type\": \"input_text\", \"text\": "
          "\"a\", \"b\": 1}]}]",
          "input[0].content[0].b" },
        { "\"input\": [{\"role\": \"user\", \"content\": \"a\", \"name\": \"n\"}]",
          "input[0].name" },
        { "\"input\": \"a\", \"include\": [\"reasoning.encrypted_content\"]", "include[0]" },
        { "\"input\": \"a\", \"previous_response_id\": \"a b\"", "previous_response_id" },
        { "\"input\": \"a\", \"stream\": true, \"stream_options\": {\"include_usage\": true}",
          "stream_options" },
        { "\"input\": \"a\", \"messages\": []", "messages" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        char body[512];
        snprintf(body, sizeof body, "{%s}", wrong[i][0]);
        refused(GM_API_RESPONSE, body, 400, wrong[i][1]);
    }
    struct gm_request r;
    struct gm_buf out = GM_BUF(TEXT_MAX);
    CU_ASSERT_TRUE(parse(&r, GM_API_RESPONSE, "{\"input\": \"a\", \"top_logprobs\": 0}"));
    CU_ASSERT_TRUE(r.store && r.sampling.logprobs == -1);
    CU_ASSERT_EQUAL(gm_request_messages(&r, "{}", 2, &out, NULL), GM_INVALID);
    gm_buf_free(&out);
    gm_request_free(&r);
}

int main(void)
{
    gm_request_limits_default(&limits);
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("request", NULL, NULL);
    CU_add_test(s, "prompts", prompts);
    CU_add_test(s, "messages", messages);
    CU_add_test(s, "responses", responses);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failed == 0 ? 0 : 1;
}
