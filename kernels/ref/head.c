/* head.c - reference kernels over a row of logits: log-sum-exp and the K largest.
 *
 * Owns:      logsumexp, top_k.
 * Does not:  apply penalties, bans or temperature other than inv_t (services/shard, sampler).
 * Cost:      both are a few passes over the row, whatever its order.
 */
#include "kernels/fmath.h"
#include "kernels/ref/ref.h"

double gm_ref_logsumexp(const float *x, size_t n, float inv_t)
{
    const double scale = (double)inv_t;
    const float minus_inf = -__builtin_inff();
    double largest = -GM_FM_INF;
    for (size_t i = 0; i < n; i++) {
        double t = (double)x[i] * scale;
        if (t > largest && x[i] != minus_inf)
            largest = t;
    }
    if (largest == GM_FM_INF)
        largest = 0.0; /* the sum below is infinite or NaN by itself */
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        if (x[i] != minus_inf)
            sum += gm_exp((double)x[i] * scale - largest);
    return sum == 0.0 ? -GM_FM_INF : largest + gm_log(sum);
}

/* An unsigned number that rises with the float; both zeros are equal; NaN is 0, below all. The sign
 * is turned into a mask because a branch on it would be guessed wrong every other time. */
static inline uint32_t rank_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u << 1) > 0xff000000u)
        return 0;
    u = (u << 1) == 0 ? 0 : u;
    return u ^ ((0u - (u >> 31)) | 0x80000000u);
}

/* The rank of the k-th largest element, 1 <= k <= number of elements whose rank is not 0; found
 * digit by digit (11, 11 and 10 bits) with histograms. *above counts the ranks that are larger. */
static uint32_t kth_rank(const float *x, int32_t n, int32_t k, int32_t *above)
{
    static const struct digit {
        uint32_t shift, bits;
    } digits[] = { { 21, 11 }, { 10, 11 }, { 0, 10 } };
    uint32_t found = 0, mask = 0;
    *above = 0;
    for (size_t d = 0; d < sizeof digits / sizeof digits[0]; d++) {
        int32_t counts[1 << 11] = { 0 };
        const uint32_t size = 1u << digits[d].bits;
        for (int32_t i = 0; i < n; i++) {
            uint32_t rank = rank_of(x[i]);
            if ((rank & mask) == found)
                counts[rank >> digits[d].shift & (size - 1)]++;
        }
        uint32_t value = size - 1;
        while (value > 0 && *above + counts[value] < k)
            *above += counts[value--];
        found |= value << digits[d].shift;
        mask |= (size - 1) << digits[d].shift;
    }
    return found;
}

/* Moves the element at `at` down in the min-heap of `n` keys. */
static void sift_down(uint64_t *heap, int32_t at, int32_t n)
{
    const uint64_t key = heap[at];
    for (int32_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= key)
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/* Heap sort, falling. */
static void sort_falling(uint64_t *keys, int32_t n)
{
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift_down(keys, i, n);
    for (int32_t i = n - 1; i > 0; i--) {
        uint64_t smallest = keys[0];
        keys[0] = keys[i];
        keys[i] = smallest;
        sift_down(keys, 0, i);
    }
}

int32_t gm_ref_top_k(int32_t *ids, float *values, const float *x, int32_t n, int32_t k)
{
    int32_t numbers = 0;
    for (int32_t i = 0; i < n; i++)
        numbers += x[i] == x[i];
    k = k > GM_TOPK_MAX ? GM_TOPK_MAX : k;
    k = k > numbers ? numbers : k;
    if (k <= 0)
        return 0;
    int32_t above;
    const uint32_t limit = kth_rank(x, n, k, &above);
    int32_t equal = k - above;  /* how many of rank `limit` are taken, lowest index first */
    uint64_t keys[GM_TOPK_MAX]; /* rank, then the complement of the index: falling is our order */
    int32_t count = 0;
    for (int32_t i = 0; i < n && count < k; i++) {
        uint32_t rank = rank_of(x[i]);
        if (rank < limit || (rank == limit && equal-- <= 0))
            continue;
        keys[count++] = (uint64_t)rank << 32 | (uint32_t)~i;
    }
    sort_falling(keys, count);
    for (int32_t j = 0; j < count; j++) {
        ids[j] = (int32_t) ~(uint32_t)keys[j];
        values[j] = x[ids[j]];
    }
    return count;
}
