/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The module whose calls are counted. Its functions do as little work as possible. */
#include <cweb.h>

static int plaintext(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    static const char text[] = "Hello, World!";
    (void)ctx, (void)req;
    memcpy(res->body, text, sizeof text);
    res->content_length = sizeof text - 1;
    return 0;
}

static void echo(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    ws->send(ws, message, length);
}

export module_t config = {
    .name = "guard",
    .author = "cweb",
    .routes = {{"/plaintext", "GET", plaintext, CWEB_INLINE}, {"/form", "POST", plaintext, CWEB_INLINE}},
    .size = 2,
    .websockets = {{.path = "/echo", .on_message = echo, .flags = CWEB_INLINE}},
    .ws_size = 1,
};
