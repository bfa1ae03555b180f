/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Stands before each module of this folder. A handler answers "ok", or the line and text of the check that failed. */
#include <cweb.h>

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)

#define CHECK(condition)                                                                                    \
    do {                                                                                                    \
        if (!(condition)) {                                                                                 \
            snprintf(res->body, HTTP_RESPONSE_SIZE, "line %d: %s", __LINE__, #condition);                   \
            return -1;                                                                                      \
        }                                                                                                   \
    } while (0)

#define PASS()                                                                                              \
    do {                                                                                                    \
        (void)ctx, (void)req;                                                                               \
        strcpy(res->body, "ok");                                                                            \
        return 0;                                                                                           \
    } while (0)
