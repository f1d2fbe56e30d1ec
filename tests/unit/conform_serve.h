/* conform_serve.h - the Conform service of tests/conformance, for the C and the Python client.
 *
 * Owns:      its methods and its descriptor set.
 * Does not:  check clients: their tests read tests/conformance/table.json.
 */
#ifndef GM_TESTS_CONFORM_SERVE_H
#define GM_TESTS_CONFORM_SERVE_H

#include "common/net.h"
#include "conform.pb-c.h"

struct conform {
    struct gm_bus *bus;
    struct gm_rpc *rpc;
};

bool conform_open(struct conform *c, const char *endpoint);
void conform_close(struct conform *c);
/* One turn of its loop, at most wait_ms. */
void conform_turn(struct conform *c, int wait_ms);

#endif
