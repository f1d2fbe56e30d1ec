/* common.h - the umbrella of common/base: what every folder above the kernels may include.
 *
 * Owns:      nothing of its own; it names the headers of common/base.
 * Does not:  reach sockets, protobuf (common/net.h) or the model (common/model/model.h).
 */
#ifndef GM_COMMON_H
#define GM_COMMON_H

#include "common/base/err.h"
#include "common/base/arena.h"
#include "common/base/conf.h"
#include "common/base/fs.h"
#include "common/base/key.h"
#include "common/base/log.h"
#include "common/base/map.h"
#include "common/base/mapguard.h"
#include "common/base/sampling.h"
#include "common/base/sys.h"
#include "common/base/text.h"
#include "common/base/vocab.h"

#endif
