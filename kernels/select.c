/* select.c - which kernel set this machine runs.
 *
 * Owns:      the list of sets, what each needs of the CPU, the GM_KERNELS variable.
 * Does not:  hold kernels (kernels/ref, kernels/cpu) or decide how many threads use them.
 */
#include "kernels/kernels.h"

#include "kernels/cpu/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { WHY_MAX = 200, SET_NAME_SHOWN = 32 };

static const struct gm_kernels *ref_table(void)
{
    return &gm_ref;
}

static int always(void)
{
    return 1;
}

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows this name. */
static int has_f16c(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static int has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static int has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

/* Slowest first; the last one the CPU has is the default. */
static const struct {
    const char *name;
    const char *needs;
    int (*usable)(void);
    const struct gm_kernels *(*table)(void);
} sets[] = {
    { "ref", "nothing", always, ref_table },
#if defined(__x86_64__)
    { "avx2", "avx2, fma and f16c", has_avx2, gm_avx2_table },
    { "avx512", "avx512f, avx512bw, avx512vl, avx512dq and avx512_vnni", has_avx512,
      gm_avx512_table },
    { "avx512bf16", "what avx512 needs and avx512_bf16", has_avx512bf16, gm_avx512bf16_table },
#endif
};
enum { SETS = sizeof sets / sizeof sets[0] };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *available[SETS + 1];
static int best;

static void look_at_cpu(void)
{
    int n = 0;
    for (int i = 0; i < SETS; i++) {
        if (sets[i].usable()) {
            available[n++] = sets[i].name;
            best = i;
        }
    }
}

const char *const *gm_kernels_available(void)
{
    pthread_once(&once, look_at_cpu);
    return available;
}

const struct gm_kernels *gm_kernels_select(const char *name_or_null, const char **why)
{
    static _Thread_local char text[WHY_MAX];
    pthread_once(&once, look_at_cpu);
    const char *name = name_or_null ? name_or_null : getenv("GM_KERNELS");
    if (!name || !name[0]) {
        return sets[best].table();
    }
    for (int i = 0; i < SETS; i++) {
        if (strcmp(name, sets[i].name) != 0) {
            continue;
        }
        if (sets[i].usable()) {
            return sets[i].table();
        }
        snprintf(text, sizeof text, "kernel set %s needs %s, which this CPU lacks: use %s",
                 sets[i].name, sets[i].needs, sets[best].name);
        if (why) {
            *why = text;
        }
        return NULL;
    }
    snprintf(text, sizeof text, "unknown kernel set \"%.*s\": use ref, avx2, avx512 or avx512bf16",
             SET_NAME_SHOWN, name);
    if (why) {
        *why = text;
    }
    return NULL;
}

void gm_kernels_print(const struct gm_kernels *k, struct _IO_FILE *out)
{
#define ENTRY(e)                                                                                   \
    {                                                                                              \
#e, k->e != gm_ref.e                                                                       \
    }
    const struct {
        const char *entry;
        int own;
    } rows[] = {
        ENTRY(act_bytes), ENTRY(prepare),      ENTRY(linear),      ENTRY(embed),
        ENTRY(rms_norm),  ENTRY(rms_norm_add), ENTRY(rope_angles), ENTRY(rope),
        ENTRY(kv_store),  ENTRY(attend),       ENTRY(attend_part), ENTRY(attend_join),
        ENTRY(gelu_mul),  ENTRY(axpy),         ENTRY(softcap),     ENTRY(logsumexp),
        ENTRY(top_k),     ENTRY(all_finite),
    };
#undef ENTRY
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fprintf(out, "%-14s %s\n", rows[i].entry, rows[i].own ? k->id : gm_ref.id);
    }
}
