/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One of many modules: bench/run compiles this once, and writes a number in the place of NN. */
#include <cweb.h>

static int plaintext(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    static const char text[] = "Hello, World!";
    (void)ctx, (void)req;
    memcpy(res->body, text, sizeof text);
    res->content_length = sizeof text - 1;
    return 0;
}

export module_t config = {
    .name = "bench_NN",
    .author = "cweb",
    .routes = {{"/mNN/inline", "GET", plaintext, CWEB_INLINE}, {"/mNN/ordinary", "GET", plaintext, NONE}},
    .size = 2,
};
