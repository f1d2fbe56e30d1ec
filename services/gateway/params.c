/* params.c - the table of parameters.
 *
 * Owns:      every name of OpenAI's chat completions, completions and responses (openai-python
 *            3.57), of our own calls, and our extensions; what becomes of each.
 * Does not:  read values (read_*.c) or check several together (gm_read_check).
 */
#include "services/gateway/params.h"

#include <stdio.h>
#include <string.h>

#include "services/gateway/read.h"

enum {
    C = GM_API_CHAT,
    T = GM_API_COMPLETION,
    R = GM_API_RESPONSE,
    S = GM_API_SCORE,
    K = GM_API_TOKENIZE,
    D = GM_API_DETOKENIZE,
    ANSWERS = C | T | R,

    TEXT = GM_JSON_TEXT,
    NUMBER = GM_JSON_NUMBER,
    INTEGER = GM_JSON_INTEGER,
    BOOL = GM_JSON_BOOL,
    ARRAY = GM_JSON_ARRAY,
    OBJECT = GM_JSON_OBJECT,
    ANY = GM_JSON_ANY,
};

/* Honoured (ours: an extension; required), accepted (any value, or those listed), refused. */
#define HONOURED(name, apis, types, read, doc)                                                     \
    {                                                                                              \
        name, apis, GM_PARAM_HONOURED, types, NULL, doc, read, false, false                        \
    }
#define REQUIRED(name, apis, types, read, doc)                                                     \
    {                                                                                              \
        name, apis, GM_PARAM_HONOURED, types, NULL, doc, read, false, true                         \
    }
#define EXTENSION(name, apis, types, read, doc)                                                    \
    {                                                                                              \
        name, apis, GM_PARAM_HONOURED, types, NULL, doc, read, true, false                         \
    }
#define ACCEPTED(name, apis, types, only, doc)                                                     \
    {                                                                                              \
        name, apis, GM_PARAM_ACCEPTED, types, only, doc, NULL, false, false                        \
    }
#define REFUSED(name, apis, doc)                                                                   \
    {                                                                                              \
        name, apis, GM_PARAM_REFUSED, ANY, NULL, doc, NULL, false, false                           \
    }

#define DOC_TOOLS  "tools are not served yet"
#define DOC_FORMAT "answers are free text; formats are not served yet"
#define DOC_TEXT   "this model reads and writes text only"
#define DOC_THINK  "this model does not reason apart from its answer"
#define DOC_CACHE  "the prefix cache works by itself and has no options"
#define DOC_ANSWER "an answer comes with the request that asks for it"

/* clang-format off */
const struct gm_param gm_params[] = {
    HONOURED("model", ANSWERS | S | K | D, TEXT, gm_read_model,
             "The running model's name, as GET /v1/models gives it; absent: the running model."),

    /* what is asked */
    REQUIRED("messages", C, ARRAY, gm_read_messages,
             "The conversation: role (system, developer, user, assistant, tool) and content (a "
             "text, or parts of type text). With a session: the new turns alone."),
    REQUIRED("prompt", T, TEXT | ARRAY, gm_read_prompt,
             "A text, an array of texts, an array of token ids, or an array of such arrays."),
    REQUIRED("input", R, TEXT | ARRAY, gm_read_input,
             "A user's text, or an array of messages with parts input_text and output_text."),
    HONOURED("instructions", R, TEXT, gm_read_instructions,
             "A system message put first; not inherited from previous_response_id."),
    HONOURED("previous_response_id", R, TEXT, gm_read_previous,
             "The stored response that this one continues."),
    HONOURED("store", R, BOOL, gm_read_store,
             "Default true. false keeps nothing: the response cannot be read or continued."),
    EXTENSION("session", C, TEXT, gm_read_session,
              "A named conversation kept by the server: 1 to 64 of A-Z a-z 0-9 . _ -. It goes on "
              "with exactly the tokens it has."),

    /* how it is answered */
    HONOURED("temperature", ANSWERS, NUMBER, gm_read_temperature,
             "0 (greedy), or 0.000001 to 100. Default: the model's, 1."),
    HONOURED("top_p", ANSWERS, NUMBER, gm_read_top_p,
             "Above 0 and at most 1 (1 is off). Default: the model's, 0.95."),
    EXTENSION("top_k", ANSWERS, INTEGER, gm_read_top_k,
              "0 or -1 (off) to 1024. Default: the model's, 64."),
    EXTENSION("sampling", ANSWERS, TEXT, gm_read_sampling,
              "\"gemline\" (default) or \"deepmind\": one of DeepMind's methods with JAX's noise. "
              "There temperature, top_k and top_p are not combined and have no defaults: none of "
              "them is greedy."),
    EXTENSION("min_p", ANSWERS, NUMBER, gm_read_min_p,
              "0 (off) to 1, relative to the most probable token. Default 0."),
    HONOURED("presence_penalty", C | T, NUMBER, gm_read_presence, "-100 to 100. Default 0."),
    HONOURED("frequency_penalty", C | T, NUMBER, gm_read_frequency, "-100 to 100. Default 0."),
    EXTENSION("presence_penalty", R, NUMBER, gm_read_presence, "-100 to 100. Default 0."),
    EXTENSION("frequency_penalty", R, NUMBER, gm_read_frequency, "-100 to 100. Default 0."),
    EXTENSION("repetition_penalty", ANSWERS, NUMBER, gm_read_repeat,
              "Above 0 and at most 100 (1 is off), over prompt and answer. Default 1."),
    EXTENSION("repeat_penalty", ANSWERS, NUMBER, gm_read_repeat,
              "llama.cpp's name of repetition_penalty."),
    HONOURED("logit_bias", C | T, OBJECT, gm_read_bias,
             "Token ids as texts, and what is added to their logits: -10000 to 10000; at most 1024 "
             "entries."),
    HONOURED("seed", C | T, INTEGER, gm_read_seed,
             "The same request with the same seed has the same answer. -1 counts as absent: drawn "
             "at random. Other negative seeds are taken modulo 2^64."),
    EXTENSION("seed", R, INTEGER, gm_read_seed, "As in chat completions."),
    HONOURED("stop", C | T, TEXT | ARRAY, gm_read_stop,
             "A text or at most 16 of them, 1 to 256 bytes each; the answer ends before it."),
    EXTENSION("stop", R, TEXT | ARRAY, gm_read_stop, "As in chat completions."),
    HONOURED("max_completion_tokens", C, INTEGER, gm_read_max_tokens,
             "At least 1. Default: 1024, or what the context leaves."),
    HONOURED("max_tokens", C, INTEGER, gm_read_max_tokens, "Older name of max_completion_tokens."),
    HONOURED("max_tokens", T, INTEGER, gm_read_max_tokens,
             "0 (nothing is generated: for echo) or more. Default: 1024, or what the context "
             "leaves."),
    HONOURED("max_output_tokens", R, INTEGER, gm_read_max_tokens,
             "At least 1. Default: 1024, or what the context leaves."),
    EXTENSION("ignore_eos", ANSWERS, BOOL, gm_read_ignore_eos,
              "true: end tokens do not end the answer. Default false."),
    HONOURED("n", C | T, INTEGER, gm_read_n,
             "1 to 16 answers of each prompt; the first is the one that n = 1 gives."),

    /* what the answer shows */
    HONOURED("logprobs", C, BOOL, gm_read_chat_logprobs,
             "true: each token's log-probability (temperature 1, before penalties and cuts)."),
    HONOURED("logprobs", T, INTEGER, gm_read_completion_logprobs,
             "0 to 128: each token's log-probability, and those of so many best tokens."),
    HONOURED("top_logprobs", C, INTEGER, gm_read_top_logprobs,
             "0 to 20 best tokens at each position; needs logprobs."),
    HONOURED("top_logprobs", R, INTEGER, gm_read_top_logprobs,
             "0 to 20 best tokens at each position; more than 0 shows log-probabilities."),
    HONOURED("include", R, ARRAY, gm_read_include,
             "\"message.output_text.logprobs\" shows log-probabilities; nothing else is there."),
    HONOURED("echo", T, BOOL, gm_read_echo,
             "true: the prompt stands before the answer, with log-probabilities when asked."),
    HONOURED("stream", ANSWERS, BOOL, gm_read_stream, "true: server-sent events."),
    HONOURED("stream_options", C | T, OBJECT, gm_read_stream_options,
             "Needs stream. include_usage: a last chunk with the usage. include_obfuscation: false "
             "only."),
    HONOURED("metadata", R, OBJECT, gm_read_metadata,
             "At most 16 texts of 512 characters under keys of 64; shown in the response."),

    /* taken without effect */
    { "metadata", C, GM_PARAM_ACCEPTED, OBJECT, NULL,
      "At most 16 texts of 512 characters under keys of 64.", gm_read_metadata, false, false },
    ACCEPTED("store", C, BOOL, NULL, "Chat completions are not kept."),
    ACCEPTED("user", ANSWERS, TEXT, NULL, "Nothing depends on the end user's name."),
    ACCEPTED("safety_identifier", C | R, TEXT, NULL, "Nothing depends on it."),
    ACCEPTED("prompt_cache_key", C | R, TEXT, NULL, "The prefix cache needs no hint."),
    ACCEPTED("prompt_cache_retention", C | R, TEXT, "\"in_memory\"", DOC_CACHE "."),
    ACCEPTED("service_tier", C | R, TEXT, "\"auto\"|\"default\"", "There is one tier."),
    ACCEPTED("modalities", C, ARRAY, "[\"text\"]", "Answers are text."),
    ACCEPTED("parallel_tool_calls", C | R, BOOL, NULL, "Without effect while no tools are given."),
    ACCEPTED("verbosity", C, TEXT, "\"medium\"", "The default; others are not served."),
    ACCEPTED("best_of", T, INTEGER, "1", "The default; the best of several is not chosen here."),
    ACCEPTED("suffix", T, TEXT, "\"\"", "The default; text cannot be inserted before another."),
    ACCEPTED("stream_options", R, OBJECT, "{}|{\"include_obfuscation\":false}",
             "Events are not padded; the last one always has the usage."),
    ACCEPTED("background", R, BOOL, "false", "The default: " DOC_ANSWER "."),
    ACCEPTED("truncation", R, TEXT, "\"disabled\"",
             "The default: too long an input is 400, nothing is dropped from it."),
    ACCEPTED("text", R, OBJECT,
             "{}|{\"format\":{\"type\":\"text\"}}|{\"verbosity\":\"medium\"}"
             "|{\"format\":{\"type\":\"text\"},\"verbosity\":\"medium\"}",
             "The default: free text."),

    /* refused by name */
    REFUSED("tools", C | R | K, DOC_TOOLS),
    REFUSED("tool_choice", C | R, DOC_TOOLS),
    REFUSED("functions", C, DOC_TOOLS),
    REFUSED("function_call", C, DOC_TOOLS),
    REFUSED("max_tool_calls", R, DOC_TOOLS),
    REFUSED("web_search_options", C, DOC_TOOLS),
    REFUSED("response_format", C | T, DOC_FORMAT),
    REFUSED("audio", C, DOC_TEXT),
    REFUSED("image", R, DOC_TEXT),
    REFUSED("prediction", C, "the server guesses ahead by itself; leave it out"),
    REFUSED("reasoning_effort", C, DOC_THINK),
    REFUSED("reasoning", R, DOC_THINK),
    REFUSED("moderation", C | R, "there is no moderation model"),
    REFUSED("prompt_cache_options", C | R, DOC_CACHE),
    REFUSED("background_options", R, DOC_ANSWER),
    REFUSED("context_management", R, "conversations are not shortened by the server"),
    REFUSED("conversation", R, "use previous_response_id, or a session of chat completions"),
    REFUSED("prompt", R, "prompt templates are not kept here; give instructions and input"),
    REFUSED("access_programs", R, "there are no access programs"),
    REFUSED("session", T | R, "only chat completions have sessions; responses have "
                              "previous_response_id"),

    /* our own calls */
    EXTENSION("text", S, TEXT | ARRAY, gm_read_texts,
              "The text to score, or an array of texts; <bos> is put before each."),
    EXTENSION("ids", S, ARRAY, gm_read_ids,
              "Instead of text: token ids, or an array of such arrays; nothing is added."),
    EXTENSION("top", S, INTEGER, gm_read_top,
              "0 to 1024 best tokens at each position. Default 0."),
    EXTENSION("every", S, INTEGER, gm_read_every,
              "Only each N-th position; the others are null. Default 1."),
    EXTENSION("text", K, TEXT, gm_read_text, "The text to encode."),
    EXTENSION("content", K, TEXT, gm_read_text, "llama.cpp's name of text."),
    EXTENSION("prompt", K, TEXT, gm_read_text, "vLLM's name of text."),
    EXTENSION("messages", K, ARRAY, gm_read_messages,
              "Instead of text: a conversation, encoded as chat completions encode it."),
    EXTENSION("add_special", K, BOOL, gm_read_add_special,
              "true: <bos> before the text. Default false; conversations always have it."),
    EXTENSION("add_special_tokens", K, BOOL, gm_read_add_special, "vLLM's name of add_special."),
    EXTENSION("with_pieces", K, BOOL, gm_read_pieces, "true: each token's text too."),
    EXTENSION("return_token_strs", K, BOOL, gm_read_pieces, "vLLM's name of with_pieces."),
    { "parse_special", K, GM_PARAM_ACCEPTED, BOOL, "false",
      "The default: typed text never becomes a control token.", NULL, true, false },
    { "add_generation_prompt", K, GM_PARAM_ACCEPTED, BOOL, "true",
      "The default: the model's turn is opened.", NULL, true, false },
    EXTENSION("tokens", D, ARRAY, gm_read_tokens, "The token ids to decode."),
    EXTENSION("ids", D, ARRAY, gm_read_tokens, "Another name of tokens."),
};
/* clang-format on */
const size_t gm_params_n = sizeof gm_params / sizeof gm_params[0];

const struct gm_param *gm_param_find(enum gm_api api, const char *name)
{
    for (size_t i = 0; i < gm_params_n; i++)
        if ((gm_params[i].apis & api) != 0 && strcmp(gm_params[i].name, name) == 0)
            return &gm_params[i];
    return NULL;
}

const char *gm_param_near(enum gm_api api, const char *name)
{
    enum { NAME_MAX = 64, NEAR_MAX = 2 };
    const char *best = NULL;
    size_t least = NEAR_MAX + 1;
    if (strlen(name) > NAME_MAX)
        return NULL;
    for (size_t i = 0; i < gm_params_n; i++) {
        const struct gm_param *row = &gm_params[i];
        if ((row->apis & api) == 0 || row->use == GM_PARAM_REFUSED)
            continue;
        size_t far = gm_text_distance(name, row->name, NEAR_MAX);
        if (far < least && far < strlen(row->name)) {
            least = far;
            best = row->name;
        }
    }
    return best;
}

const char *gm_param_types(unsigned types, char *out, size_t cap)
{
    static const char *const words[] = { "a text",        "a number", "a whole number",
                                         "true or false", "an array", "an object" };
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if ((types & (1u << i)) == 0)
            continue;
        int n = snprintf(out + used, cap - used, "%s%s", used > 0 ? " or " : "", words[i]);
        if (n < 0 || (size_t)n >= cap - used)
            break;
        used += (size_t)n;
    }
    return out;
}
