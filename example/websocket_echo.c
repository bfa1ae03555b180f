/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sends every WebSocket message back. In a browser's console:
 *
 *     ws = new WebSocket("ws://127.0.0.1:8080/echo"); ws.onmessage = e => console.log(e.data)
 *     ws.send("hello")
 */
#include <cweb.h>

static void echo(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    ws->send(ws, message, length);
}

export module_t config = {
    .name = "websocket_echo",
    .author = "cweb",
    .websockets = {{.path = "/echo", .on_message = echo, .flags = CWEB_INLINE}},
    .ws_size = 1,
};
