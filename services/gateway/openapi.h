/* openapi.h - the interface described from the tables that serve it: openapi.json and docs/api.md.
 *
 * Owns:      the two texts; both are made of gm_routes (path.h) and gm_params (params.h) alone, so
 *            that what is described is what is read.
 * Does not:  describe answers field by field: they are OpenAI's (answer.h).
 */
#ifndef GM_GATEWAY_OPENAPI_H
#define GM_GATEWAY_OPENAPI_H

#include "common/base/err.h"
#include "common/base/text.h"

enum { GM_OPENAPI_BYTES_MAX = 1 << 20 };

/* Appends the OpenAPI 3.1 document. Errors as gm_buf_append. */
enum gm_status gm_openapi_json(struct gm_buf *out, struct gm_err *err);
/* Appends docs/api.md. */
enum gm_status gm_openapi_markdown(struct gm_buf *out, struct gm_err *err);

#endif
