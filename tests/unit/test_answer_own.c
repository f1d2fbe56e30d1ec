// uses: services/gateway/answer.c services/gateway/answer_put.c services/gateway/answer_response.c
// uses: services/gateway/answer_own.c
// libs: -ljansson
/* test_answer_own.c - responses with their events, models, and Gemline's own objects, read back.
 *
 * Owns:      the checks of services/gateway/answer_response.c and answer_own.c.
 * Does not:  hold the shapes against the official client's types.
 */
#include "services/gateway/answer.h"

#include <CUnit/CUnit.h>
#include <math.h>

#include "tests/unit/answer_read.h"

/* ---- responses ------------------------------------------------------------------------------- */

static struct gm_response response(enum gm_response_state state)
{
    return (struct gm_response){
        .id = "resp_1",
        .item_id = "msg_1",
        .model = "gemma3-270m",
        .created = 17,
        .completed = 19,
        .state = state,
        .has_item = true,
        .text = "hi\n",
        .text_len = 3,
        .logprobs = true,
        .tokens = tokens + 1,
        .n_tokens = 2,
        .vocab = &vocab,
        .temperature = 0.7F,
        .top_p = 1,
        .instructions = "be\0good",
        .instructions_len = 7,
        .store = true,
        .top_logprobs = 5,
        .metadata = "{\"a\":\"b\"}",
        .usage = &usage,
        .max_output_tokens = 9,
    };
}

static void test_response(void)
{
    struct gm_response r = response(GM_RESPONSE_COMPLETED);
    json_t *j = read_back(gm_answer_response(&out, &r, &err));
    is_text(j, "object", "response");
    is_text(j, "status", "completed");
    is_number(j, "completed_at", 19);
    is_null(j, "error");
    is_null(j, "incomplete_details");
    is_null(j, "previous_response_id");
    CU_ASSERT_EQUAL(json_string_length(at(j, "instructions")), 7);
    is_text(j, "output/0/content/0/text", "hi\n");
    is_text(j, "output/0/content/0/type", "output_text");
    is_text(j, "output/0/status", "completed");
    has_n(j, "output/0/content/0/annotations", 0);
    has_n(j, "output/0/content/0/logprobs", 2);
    is_number(j, "usage/input_tokens_details/cached_tokens", 4);
    is_number(j, "usage/output_tokens_details/reasoning_tokens", 0);
    is_number(j, "usage/total_tokens", 16);
    is_text(j, "metadata/a", "b");
    is_text(j, "text/format/type", "text");
    is_text(j, "tool_choice", "auto");
    has_n(j, "tools", 0);
    is_number(j, "max_output_tokens", 9);
    CU_ASSERT(json_is_true(at(j, "store")) && json_is_false(at(j, "parallel_tool_calls")));
    json_decref(j);
    r = response(GM_RESPONSE_INCOMPLETE);
    r.metadata = "} no object";
    r.max_output_tokens = 0;
    r.usage = NULL;
    r.previous = "resp_0";
    j = read_back(gm_answer_response(&out, &r, &err));
    is_text(j, "incomplete_details/reason", "max_output_tokens");
    is_text(j, "output/0/status", "incomplete");
    is_text(j, "previous_response_id", "resp_0");
    has_n(j, "metadata", 0);
    is_null(j, "max_output_tokens");
    is_null(j, "usage");
    is_null(j, "completed_at");
    json_decref(j);
    r = response(GM_RESPONSE_FAILED);
    r.error_message = "a \"shard\" went away";
    r.has_item = false;
    j = read_back(gm_answer_response(&out, &r, &err));
    is_text(j, "error/code", "server_error");
    is_text(j, "error/message", "a \"shard\" went away");
    has_n(j, "output", 0);
    json_decref(j);
}

static void test_response_events(void)
{
    static const char *const ends[] = { [GM_RESPONSE_COMPLETED] = "response.completed",
                                        [GM_RESPONSE_INCOMPLETE] = "response.incomplete",
                                        [GM_RESPONSE_FAILED] = "response.failed" };
    const struct gm_choice c = { 0, "h\xC3\xA9", 3, NULL, true, tokens + 1, 1, NULL };
    struct gm_response r = response(GM_RESPONSE_RUNNING);
    for (int k = GM_EVENT_CREATED; k <= GM_EVENT_ENDED; k++) {
        const enum gm_response_event kind = (enum gm_response_event)k;
        if (kind == GM_EVENT_TEXT_DONE)
            r.state = GM_RESPONSE_COMPLETED;
        json_t *j = read_back(gm_answer_response_event(&out, &r, kind, &c, (uint32_t)k, &err));
        is_text(j, "type", gm_response_event_name(&r, kind));
        is_number(j, "sequence_number", k);
        if (kind == GM_EVENT_CREATED || kind == GM_EVENT_IN_PROGRESS) {
            is_text(j, "response/status", "in_progress");
            has_n(j, "response/output", 0);
        } else if (kind == GM_EVENT_ENDED) {
            has_n(j, "response/output", 1);
        } else {
            is_number(j, "output_index", 0);
        }
        if (kind == GM_EVENT_ITEM_ADDED || kind == GM_EVENT_ITEM_DONE)
            has_n(j, "item/content", kind == GM_EVENT_ITEM_DONE);
        if (kind == GM_EVENT_PART_ADDED || kind == GM_EVENT_PART_DONE)
            is_text(j, "part/text", kind == GM_EVENT_PART_DONE ? "hi\n" : "");
        if (kind == GM_EVENT_TEXT_DELTA)
            is_text(j, "delta", "h\xC3\xA9");
        if (kind == GM_EVENT_TEXT_DELTA || kind == GM_EVENT_TEXT_DONE)
            has_n(j, "logprobs", kind == GM_EVENT_TEXT_DELTA ? 1 : 2);
        json_decref(j);
    }
    for (int s = GM_RESPONSE_COMPLETED; s <= GM_RESPONSE_FAILED; s++) {
        r.state = (enum gm_response_state)s;
        CU_ASSERT_STRING_EQUAL(gm_response_event_name(&r, GM_EVENT_ENDED), ends[s]);
    }
}

/* ---- models and Gemline's own ---------------------------------------------------------------- */

static void test_models(void)
{
    const struct gm_model_info m = { "gemma3-270m", 17, "google", 32768, 262144, NULL };
    json_t *j = read_back(gm_answer_model(&out, &m, &err));
    is_text(j, "object", "model");
    is_number(j, "max_model_len", 32768);
    is_number(j, "meta/n_vocab", 262144);
    json_decref(j);
    j = read_back(gm_answer_models(&out, &m, 1, &err));
    is_text(j, "object", "list");
    is_text(j, "data/0/id", "gemma3-270m");
    json_decref(j);
}

static void test_score(void)
{
    const struct gm_score_row rows[] = {
        { true, true, -1.5, 2, best },
        { true, true, -INFINITY, 1, best + 3 },
        { false, false, 0, 0, NULL },
        { true, false, 0, 0, NULL },
    };
    const struct gm_score texts[] = { { rows, 2 }, { rows, 4 }, { rows + 3, 1 } };
    json_t *j = read_back(gm_answer_score(&out, "m", texts, 3, &err));
    has_n(j, "data", 3);
    has_n(j, "data/0/logprobs", 1);
    has_n(j, "data/0/top_ids", 2);
    is_number(j, "data/0/top_ids/0/1", 'A');
    is_number(j, "data/0/perplexity", exp(1.5));
    is_number(j, "data/1/index", 1);
    is_null(j, "data/1/logprobs/1");
    is_null(j, "data/1/logprobs/2");
    is_null(j, "data/1/top_logprobs/1/0");
    is_null(j, "data/1/top_ids/2");
    is_null(j, "data/1/perplexity");
    has_n(j, "data/2/logprobs", 0);
    is_null(j, "data/2/perplexity");
    is_number(j, "usage/total_tokens", 7);
    json_decref(j);
}

static void test_ids(void)
{
    const int32_t ids[] = { BOS, THE, NO_BYTES };
    json_t *j = read_back(gm_answer_tokens(&out, ids, 3, 32768, &vocab, &err));
    has_n(j, "tokens", 3);
    is_number(j, "count", 3);
    is_number(j, "max_model_len", 32768);
    is_text(j, "token_strs/0", "<bos>");
    is_text(j, "token_strs/2", "\xEF\xBF\xBD");
    json_decref(j);
    j = read_back(gm_answer_tokens(&out, NULL, 0, 1, NULL, &err));
    has_n(j, "tokens", 0);
    CU_ASSERT_PTR_NULL(at(j, "token_strs"));
    json_decref(j);
    j = read_back(gm_answer_text(&out, "\xff", 1, &err));
    is_text(j, "text", "\xEF\xBF\xBD");
    json_decref(j);
}

static void test_sessions(void)
{
    static const char sent[] = "[{\"role\":\"user\",\"content\":\"x\"}]", broken[] = "[{]\"}";
    const struct gm_turn_info turns[] = {
        { "t1", sent, sizeof sent - 1, "yes", 3, "stop", 4, 2, 10 },
        { "t2", broken, sizeof broken - 1, "", 0, NULL, 4, 0, 0 },
    };
    struct gm_session_info s = { "s1", 6, 1700000000123, 1700000001123, true, false, "A title",
                                 7,    2, turns };
    json_t *j = read_back(gm_answer_session(&out, &s, &err));
    is_text(j, "id", "s1");
    is_text(j, "title", "A title");
    is_number(j, "created_at", 1700000000);
    has_n(j, "turns", 2);
    is_text(j, "turns/0/messages/0/content", "x");
    is_text(j, "turns/0/answer/content", "yes");
    is_text(j, "turns/0/finish_reason", "stop");
    is_text(j, "turns/1/messages/0/content", broken);
    is_null(j, "turns/1/finish_reason");
    CU_ASSERT(json_is_true(at(j, "busy")));
    json_decref(j);
    s.raw = true;
    j = read_back(gm_answer_session(&out, &s, &err));
    is_text(j, "turns/0/messages/0/content", sent);
    json_decref(j);
    s.n_turns = 0;
    s.turns = NULL;
    j = read_back(gm_answer_session(&out, &s, &err));
    has_n(j, "turns", 0);
    json_decref(j);
    s.n_turns = 5;
    j = read_back(gm_answer_sessions(&out, &s, 1, &err));
    is_number(j, "data/0/turn_count", 5);
    CU_ASSERT_PTR_NULL(at(j, "data/0/turns"));
    json_decref(j);
    j = read_back(gm_answer_deleted(&out, "resp_1", "response", &err));
    CU_ASSERT(json_is_true(at(j, "deleted")));
    json_decref(j);
}

int main(void)
{
    static const struct answer_test tests[] = {
        { "responses", test_response },
        { "events of a response", test_response_events },
        { "models", test_models },
        { "score", test_score },
        { "ids", test_ids },
        { "sessions", test_sessions },
    };
    return answer_run("answer_own", tests, sizeof tests / sizeof *tests);
}
