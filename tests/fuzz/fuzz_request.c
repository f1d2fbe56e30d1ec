// uses: services/gateway/request.c services/gateway/params.c services/gateway/problem.c
// uses: services/gateway/scan.c services/gateway/path.c services/gateway/read_messages.c
// uses: services/gateway/read_more.c services/gateway/read_options.c
// uses: services/gateway/read_prompts.c
// libs: -ljansson
/* fuzz_request.c - libFuzzer target: any bytes as a request's body.
 *
 * Owns:      what must hold of every body: a request within its limits, or a problem with a status,
 *            a sentence and no other bytes than UTF-8.
 * Does not:  know which bodies are right (tests/unit/test_request.c).
 * Input:     the first byte chooses the call, the second whether the vocabulary is known; the rest
 *            is the body. Built and run by tools/fuzz.sh; seeds in tests/fuzz/request.
 */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "services/gateway/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void check_prompts(const struct gm_request *r, int32_t vocab)
{
    for (size_t i = 0; i < r->n_prompts; i++) {
        const struct gm_prompt *p = &r->prompts[i];
        must((p->text != NULL) != (p->ids != NULL));
        must(p->text == NULL || p->text[p->text_len] == '\0');
        must(p->text == NULL || gm_utf8_bad(p->text, p->text_len) == p->text_len);
        must(p->ids == NULL || p->n_ids > 0 || r->api == GM_API_DETOKENIZE);
        for (size_t k = 0; k < p->n_ids; k++)
            must(p->ids[k] >= 0 && (vocab == 0 || p->ids[k] < vocab));
    }
}

/* The messages, alone and behind a history, are what a JSON parser takes as an array. */
static void check_messages(const struct gm_request *r)
{
    static const char history[] = "[{\"role\":\"user\",\"content\":\"h\"}]";
    struct gm_buf out = GM_BUF(8 * (size_t)GM_REQUEST_BYTES_MAX);
    size_t system = r->instructions != NULL;
    for (size_t old = 0; old < 2; old++) {
        gm_buf_clear(&out);
        must(gm_request_messages(r, history, old * (sizeof history - 1), &out, NULL) == GM_OK);
        json_t *all = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        must(json_is_array(all) && json_array_size(all) == system + old + r->n_messages);
        json_decref(all);
    }
    gm_buf_free(&out);
}

static void check_request(const struct gm_request *r, const struct gm_request_limits *limits)
{
    struct gm_err err = GM_ERR_NONE;
    must(gm_sampling_check(&r->sampling, &err) == GM_OK);
    must(r->n >= 1 && r->n <= limits->n && r->every >= 1 && r->top >= 0);
    must(r->n_prompts * (size_t)r->n <= GM_REQUEST_CHOICES_MAX);
    must(r->session[0] == '\0' || gm_request_id_ok(r->session, strlen(r->session)));
    must(r->previous[0] == '\0' || gm_request_id_ok(r->previous, strlen(r->previous)));
    must((r->n_prompts > 0) != (r->messages != NULL));
    must(r->stream || !r->include_usage);
    check_prompts(r, limits->vocab);
    if (r->messages != NULL)
        check_messages(r);
}

static void check_problem(const struct gm_problem *why)
{
    must(why->http == 400 || why->http == 404 || why->http == 413);
    must(why->text[0] != '\0' && why->type[0] != '\0' && why->code[0] != '\0');
    must(gm_utf8_bad(why->text, strlen(why->text)) == strlen(why->text));
    must(gm_utf8_bad(why->param, strlen(why->param)) == strlen(why->param));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gm_request_limits limits;
    struct gm_request r;
    struct gm_problem why;
    if (size < 2)
        return 0;
    gm_request_limits_default(&limits);
    limits.vocab = (data[1] & 1) != 0 ? 1000 : 0;
    enum gm_api api = (enum gm_api)(1 << (data[0] % 6));
    /* a copy of exactly the body, so that a read behind it is seen */
    char *body = malloc(size - 2 > 0 ? size - 2 : 1);
    if (body == NULL)
        return 0;
    memcpy(body, data + 2, size - 2);
    if (gm_request_parse(&r, api, body, size - 2, &limits, &why)) {
        must(why.http == 0 && r.api == api);
        check_request(&r, &limits);
    } else {
        check_problem(&why);
    }
    gm_request_free(&r);
    free(body);
    return 0;
}
