/* wire.c - changes to protobuf messages that leave them messages: see wire.h.
 *
 * Owns:      taking the wire format apart and putting it together again.
 * Does not:  know any message.
 * Source:    the protobuf encoding: tag = number << 3 | wire type; types 0, 1, 2 and 5.
 */
#include "tests/fuzz/wire.h"

#include "tests/fuzz/must.h"

enum { FIELDS_MAX = 64, DEPTH_MAX = 4, NUMBER_MAX = 24, VARINT_MAX = 10, PART_MAX = 1 << 16 };
enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct field {
    size_t at, value, end; /* offsets: the tag, what follows tag and length, the next field */
    unsigned wire;
};

static uint64_t state = 1;

void mutate_seed(uint32_t seed)
{
    state = seed * 0x9E3779B97F4A7C15u + 1;
}

uint32_t mutate_below(uint32_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 16) % n);
}

static bool varint_at(const uint8_t *data, size_t size, size_t *at, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && *at < size; shift += 7) {
        const uint8_t byte = data[(*at)++];
        *out |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

static size_t varint_put(uint8_t *out, uint64_t x)
{
    size_t n = 0;
    for (; x >= 0x80; x >>= 7)
        out[n++] = (uint8_t)(x | 0x80);
    out[n++] = (uint8_t)x;
    return n;
}

/* The fields of a message; 0: it is none, or has too many. */
static size_t fields_of(const uint8_t *data, size_t size, struct field f[FIELDS_MAX])
{
    size_t n = 0, at = 0;
    while (at < size) {
        uint64_t tag = 0, len = 0;
        if (n == FIELDS_MAX)
            return 0;
        f[n].at = at;
        if (!varint_at(data, size, &at, &tag) || tag < 8)
            return 0;
        f[n].wire = (unsigned)(tag & 7);
        f[n].value = at;
        if (f[n].wire == WIRE_VARINT) {
            if (!varint_at(data, size, &at, &len))
                return 0;
        } else if (f[n].wire == WIRE_BYTES) {
            if (!varint_at(data, size, &at, &len) || len > size - at)
                return 0;
            f[n].value = at;
            at += (size_t)len;
        } else if (f[n].wire == WIRE_FIXED64 || f[n].wire == WIRE_FIXED32) {
            at += f[n].wire == WIRE_FIXED64 ? 8 : 4;
        } else {
            return 0;
        }
        if (at > size)
            return 0;
        f[n++].end = at;
    }
    return n;
}

/* data[from .. to) becomes the n bytes; the size stays what it is where they have no room. */
static size_t splice(uint8_t *data, size_t size, size_t max, size_t from, size_t to,
                     const uint8_t *bytes, size_t n)
{
    const size_t whole = size - (to - from) + n;
    if (whole > max)
        return size;
    memmove(data + from + n, data + to, size - to);
    if (n > 0)
        memcpy(data + from, bytes, n);
    return whole;
}

static uint64_t number(void)
{
    static const uint64_t odd[] = { 0,          1,          2,           7,
                                    8,          255,        256,         1023,
                                    4096,       65535,      65536,       0x7FFFFFFF,
                                    0x80000000, 0xFFFFFFFF, 0x100000000, (uint64_t)1 << 40,
                                    INT64_MAX,  UINT64_MAX };
    const uint32_t which = mutate_below(sizeof odd / sizeof *odd + 6);
    return which < sizeof odd / sizeof *odd ? odd[which] : mutate_below(64);
}

/* Floats that hurt, and their neighbours. */
static void fixed_put(uint8_t *out, size_t n)
{
    static const float odd[] = { 0.0f, -0.0f, 1.0f, -1.0f, 1e38f, 1e-38f, -1e30f, 0.5f };
    const uint32_t which = mutate_below(12);
    uint64_t bits = number();
    const float real = odd[which % 8];
    const double wide = (double)real;
    if (which == 8)
        bits = n == 8 ? 0x7FF0000000000000u : 0x7F800000u; /* infinity */
    else if (which == 9)
        bits = n == 8 ? 0x7FF8000000000000u : 0x7FC00000u; /* no number */
    memcpy(out, &bits, n);
    if (which < 8)
        memcpy(out, n == 8 ? (const void *)&wide : (const void *)&real, n);
}

static size_t mutate(uint8_t *data, size_t size, size_t max, int depth);

/* What a field of bytes holds is a message, a row of numbers or a text. */
static size_t change_bytes(uint8_t *data, size_t size, size_t max, const struct field *f, int depth)
{
    uint8_t *part = malloc(PART_MAX), head[VARINT_MAX];
    size_t n = f->end - f->value, tag_end = f->at;
    uint64_t tag;
    if (part == NULL || n > PART_MAX / 2) {
        free(part);
        return size;
    }
    memcpy(part, data + f->value, n);
    const size_t room = max - size < PART_MAX / 2 ? n + (max - size) : PART_MAX;
    if (depth < DEPTH_MAX)
        n = mutate(part, n, room, depth + 1);
    else if (room > 0)
        n = LLVMFuzzerMutate(part, n, room);
    (void)varint_at(data, size, &tag_end, &tag);
    const size_t head_n = varint_put(head, n);
    const size_t old_head = f->value - tag_end, grown = size - (f->end - f->value) - old_head;
    if (grown + n + head_n <= max) {
        size = splice(data, size, max, f->value, f->end, part, n);
        size = splice(data, size, max, tag_end, f->value, head, head_n);
    }
    free(part);
    return size;
}

static size_t change_value(uint8_t *data, size_t size, size_t max, const struct field *f, int depth)
{
    uint8_t bytes[VARINT_MAX];
    if (f->wire == WIRE_BYTES)
        return change_bytes(data, size, max, f, depth);
    if (f->wire == WIRE_VARINT)
        return splice(data, size, max, f->value, f->end, bytes, varint_put(bytes, number()));
    if (mutate_below(3) == 0)
        data[f->value + mutate_below((uint32_t)(f->end - f->value))] ^=
            (uint8_t)(1u << mutate_below(8));
    else
        fixed_put(data + f->value, f->end - f->value);
    return size;
}

static size_t add_field(uint8_t *data, size_t size, size_t max)
{
    static const unsigned wires[] = { WIRE_VARINT, WIRE_FIXED64, WIRE_BYTES, WIRE_FIXED32 };
    uint8_t bytes[3 * VARINT_MAX];
    const unsigned wire = wires[mutate_below(4)];
    size_t n = varint_put(bytes, (uint64_t)(1 + mutate_below(NUMBER_MAX)) << 3 | wire);
    if (wire == WIRE_VARINT) {
        n += varint_put(bytes + n, number());
    } else if (wire == WIRE_BYTES) {
        const uint8_t len = (uint8_t)mutate_below(VARINT_MAX);
        bytes[n++] = len;
        for (uint8_t i = 0; i < len; i++)
            bytes[n++] = (uint8_t)mutate_below(256);
    } else {
        fixed_put(bytes + n, wire == WIRE_FIXED64 ? 8 : 4);
        n += wire == WIRE_FIXED64 ? 8 : 4;
    }
    return splice(data, size, max, size, size, bytes, n);
}

static size_t mutate(uint8_t *data, size_t size, size_t max, int depth)
{
    struct field f[FIELDS_MAX];
    const size_t n = fields_of(data, size, f);
    const uint32_t what = mutate_below(16);
    if (n == 0 || what == 0)
        return what < 4 && size == 0 ? add_field(data, size, max)
               : max > 0             ? LLVMFuzzerMutate(data, size, max)
                                     : 0;
    const struct field *one = &f[mutate_below((uint32_t)n)];
    if (what == 1)
        return splice(data, size, max, one->at, one->end, NULL, 0);
    if (what == 2 || what == 3) {
        const struct field *to = &f[mutate_below((uint32_t)n)];
        uint8_t *copy = malloc(one->end - one->at);
        must(copy != NULL);
        memcpy(copy, data + one->at, one->end - one->at);
        size =
            splice(data, size, max, to->at, what == 2 ? to->at : to->end, copy, one->end - one->at);
        free(copy);
        return size;
    }
    if (what == 4)
        return add_field(data, size, max);
    return change_value(data, size, max, one, depth);
}

size_t wire_mutate(uint8_t *data, size_t size, size_t max)
{
    return mutate(data, size, max, 0);
}
