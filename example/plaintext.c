/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The shortest answer there is, for measuring the server.
 *
 *     curl http://127.0.0.1:8080/plaintext
 */
#include <cweb.h>

static int plaintext(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    static const char text[] = "Hello, World!";
    (void)ctx, (void)req;
    memcpy(res->body, text, sizeof text); /* the response's own buffer: no allocation */
    res->content_length = sizeof text - 1;
    return 0;
}

export module_t config = {
    .name = "plaintext",
    .author = "cweb",
    .routes = {{"/plaintext", "GET", plaintext, CWEB_INLINE}},
    .size = 1,
};
