/* stop.c - stop strings in the bytes of an answer, across the borders of tokens.
 *
 * Owns:      one Knuth-Morris-Pratt automaton for each stop string and the count of bytes seen.
 * Does not:  know tokens: seq.c turns "safe up to byte N" into tokens released, held or cut.
 * Memory:    plain data inside the sequence; the strings are borrowed from its parameters.
 * Invariant: state[i] is the longest proper prefix of string i that ends the text, so a stop
 *            string that will end later begins at or after total - max(state).
 * Threads:   the sampler's loop thread only.
 */
#include <assert.h>
#include <string.h>

#include "services/sampler/sampler.h"

static_assert(GM_STOP_BYTES_MAX <= 256, "a border's length must fit a byte");

/* fail[j]: length of the longest proper prefix of bytes[0..j] that is also its suffix. */
static void fill_borders(uint8_t *fail, const struct gm_stop *s)
{
    uint32_t k = 0;
    fail[0] = 0;
    for (uint32_t j = 1; j < s->len; j++) {
        while (k > 0 && s->bytes[j] != s->bytes[k])
            k = fail[k - 1];
        if (s->bytes[j] == s->bytes[k])
            k++;
        fail[j] = (uint8_t)k;
    }
}

void gm_matcher_init(struct gm_matcher *m, const struct gm_stop *stops, uint32_t n)
{
    assert(n <= GM_STOPS_MAX);
    memset(m, 0, sizeof *m);
    m->n = n;
    m->stops = stops;
    for (uint32_t i = 0; i < n; i++) {
        assert(stops[i].len >= 1 && stops[i].len <= GM_STOP_BYTES_MAX);
        fill_borders(m->fail[i], &stops[i]);
    }
}

void gm_matcher_forget(struct gm_matcher *m)
{
    memset(m->state, 0, sizeof m->state);
}

/* One byte into every automaton; the length of the longest string that ends with it, or 0. */
static uint32_t advance(struct gm_matcher *m, char byte)
{
    uint32_t ended = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct gm_stop *s = &m->stops[i];
        uint32_t k = m->state[i];
        while (k > 0 && s->bytes[k] != byte)
            k = m->fail[i][k - 1];
        if (s->bytes[k] == byte)
            k++;
        if (k == s->len) {
            ended = k > ended ? k : ended;
            k = m->fail[i][k - 1];
        }
        m->state[i] = (uint16_t)k;
    }
    return ended;
}

bool gm_matcher_feed(struct gm_matcher *m, const char *bytes, size_t len, uint64_t *safe)
{
    for (size_t b = 0; b < len; b++) {
        m->total++;
        const uint32_t ended = advance(m, bytes[b]);
        if (ended > 0) {
            *safe = m->total - ended;
            return true;
        }
    }
    uint32_t longest = 0;
    for (uint32_t i = 0; i < m->n; i++)
        longest = m->state[i] > longest ? m->state[i] : longest;
    *safe = m->total - longest;
    return false;
}
