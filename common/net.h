/* net.h - the umbrella of common/net: what a process may know of sockets, protobuf and Redis.
 *
 * Only main.c and edge.c of a service, the orchestrator and the command line include it.
 * Owns:      nothing of its own.
 * Does not:  know the model or the kernels.
 */
#ifndef GM_NET_H
#define GM_NET_H

#include "common/common.h"
#include "common/net/book.h"
#include "common/net/bus.h"
#include "common/net/client.h"
#include "common/net/follow.h"
#include "common/net/keys.h"
#include "common/net/rpc.h"
#include "common/net/service.h"
#include "common/net/store.h"

#include "envelope.pb-c.h"
#include "ring.pb-c.h"
#include "service.pb-c.h"

#endif
