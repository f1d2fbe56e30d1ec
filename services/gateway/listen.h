/* listen.h - where the gateway listens: an address in words, a socket, the next free port.
 *
 * Owns:      the form ADDR:PORT and the listening socket.
 * Does not:  accept (http.c).
 */
#ifndef GM_GATEWAY_LISTEN_H
#define GM_GATEWAY_LISTEN_H

#include <stdbool.h>

#include "common/base/err.h"

enum { GM_ADDRESS_MAX = 80, GM_PORTS_TRIED = 100 };

/* A listening socket for "127.0.0.1:8080" or "[::1]:8080". port_free: where the port is taken, the
 * next of GM_PORTS_TRIED that is not. at: what it became, in the same form. GM_INVALID: no such
 * form; GM_EXISTS: taken; GM_DENIED: the system refuses; the caller closes *fd. */
enum gm_status gm_listen(const char *address, bool port_free, int *fd, char at[GM_ADDRESS_MAX],
                         struct gm_err *err);
/* True when only this machine can reach the address (a valid one). */
bool gm_address_local(const char *address);

#endif
