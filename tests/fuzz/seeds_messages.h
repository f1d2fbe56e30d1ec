/* seeds_messages.h - steps of the services' targets, written.
 *
 * Owns:      the writer of one seed.
 * Does not:  know a service.
 */
#ifndef GM_TESTS_FUZZ_SEEDS_MESSAGES_H
#define GM_TESTS_FUZZ_SEEDS_MESSAGES_H

#include "common/net.h"
#include "tests/fuzz/make_seeds.h"
#include "tests/fuzz/serve.h"

struct seed {
    struct gm_buf out;
};
#define SEED_NEW                                                                                   \
    {                                                                                              \
        GM_BUF(1 << 20)                                                                            \
    }

void seed_step(struct seed *s, int code, const void *bytes, size_t n);
void seed_message(struct seed *s, int code, const ProtobufCMessage *m);
void seed_u16(struct seed *s, int code, unsigned n); /* SERVE_ADVANCE */
/* An envelope and its body, as SERVE_RAW takes them. */
void seed_raw(struct seed *s, const Gm__Envelope *env, const void *body, size_t n);
void seed_save(struct seed *s, const char *target, const char *name);

void seeds_of_orchestrator(void); /* seeds_orchestrator.c */
void seeds_of_net(void);          /* seeds_net.c: envelope, client */

#endif
