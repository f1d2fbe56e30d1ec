/* script.c - an input as a row of steps: see script.h.
 *
 * Owns:      libFuzzer's custom mutator and crossing of two inputs.
 * Does not:  run anything.
 */
#include "tests/fuzz/script.h"

#include "tests/fuzz/must.h"
#include "tests/fuzz/wire.h"

enum { STEPS_MAX = 64, HEAD = 3, STEP_BYTES_MAX = 4096 };

bool script_take(const uint8_t **data, size_t *size, struct step *out)
{
    if (*size < HEAD)
        return false;
    const size_t len = (*data)[1] | (size_t)(*data)[2] << 8, left = *size - HEAD;
    *out = (struct step){ (*data)[0], *data + HEAD, len < left ? len : left };
    *data += HEAD + out->size;
    *size -= HEAD + out->size;
    return true;
}

/* Steps whose bytes lie in memory of their own. */
struct script {
    struct step steps[STEPS_MAX];
    size_t n;
};

static void script_add(struct script *s, size_t at, const struct step *from)
{
    if (s->n == STEPS_MAX)
        return;
    uint8_t *copy = malloc(from->size + 1);
    must(copy != NULL);
    memcpy(copy, from->data, from->size);
    memmove(&s->steps[at + 1], &s->steps[at], (s->n - at) * sizeof s->steps[0]);
    s->steps[at] = (struct step){ from->code, copy, from->size };
    s->n++;
}

static void script_drop(struct script *s, size_t at)
{
    free((void *)(uintptr_t)s->steps[at].data);
    s->n--;
    memmove(&s->steps[at], &s->steps[at + 1], (s->n - at) * sizeof s->steps[0]);
}

static void script_read(struct script *s, const uint8_t *data, size_t size)
{
    struct step step;
    s->n = 0;
    while (script_take(&data, &size, &step))
        script_add(s, s->n < STEPS_MAX ? s->n : 0, &step);
}

/* Writes what fits and frees the steps. */
static size_t script_write(struct script *s, uint8_t *out, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) {
        const struct step *step = &s->steps[i];
        if (n + HEAD + step->size > max)
            continue;
        out[n] = step->code;
        out[n + 1] = (uint8_t)step->size;
        out[n + 2] = (uint8_t)(step->size >> 8);
        memcpy(out + n + HEAD, step->data, step->size);
        n += HEAD + step->size;
    }
    while (s->n > 0)
        script_drop(s, s->n - 1);
    return n;
}

static uint8_t code_any(void)
{
    return script_codes[mutate_below((uint32_t)script_codes_n)];
}

static void change_one(struct script *s)
{
    struct step *step = &s->steps[mutate_below((uint32_t)s->n)];
    uint8_t *bytes = malloc(STEP_BYTES_MAX);
    must(bytes != NULL);
    const size_t had = step->size < STEP_BYTES_MAX ? step->size : STEP_BYTES_MAX;
    memcpy(bytes, step->data, had);
    free((void *)(uintptr_t)step->data);
    step->data = bytes;
    step->size = wire_mutate(bytes, had, STEP_BYTES_MAX);
}

static void change(struct script *s)
{
    const uint32_t what = mutate_below(12);
    const struct step fresh = { code_any(), (const uint8_t *)"", 0 };
    if (s->n == 0 || what == 0) {
        script_add(s, mutate_below((uint32_t)s->n + 1), &fresh);
        return;
    }
    const size_t at = mutate_below((uint32_t)s->n), to = mutate_below((uint32_t)s->n);
    const struct step swap = s->steps[at];
    switch (what) {
    case 1:
        if (s->n > 1)
            script_drop(s, at);
        break;
    case 2:
        script_add(s, to, &swap);
        break;
    case 3:
        s->steps[at] = s->steps[to];
        s->steps[to] = swap;
        break;
    case 4:
        s->steps[at].code = code_any();
        break;
    default:
        change_one(s);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    struct script s;
    mutate_seed(seed);
    script_read(&s, data, size);
    for (uint32_t n = 1 + mutate_below(3); n > 0; n--)
        change(&s);
    return script_write(&s, data, max);
}

/* The beginning of one, some steps of the other, the rest of the first. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size,
                                 uint8_t *out, size_t max, unsigned seed)
{
    struct script s, other;
    mutate_seed(seed);
    script_read(&s, a, a_size);
    script_read(&other, b, b_size);
    size_t at = mutate_below((uint32_t)s.n + 1);
    const size_t from = mutate_below((uint32_t)other.n + 1);
    for (size_t i = from, n = 1 + mutate_below(4); i < other.n && i < from + n; i++)
        if (s.n < STEPS_MAX)
            script_add(&s, at++, &other.steps[i]);
    while (other.n > 0)
        script_drop(&other, other.n - 1);
    return script_write(&s, out, max);
}
