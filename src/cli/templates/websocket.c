/* @NAME@: a WebSocket on /@NAME@/ws that answers each message with its length and itself. */
#include <cweb.h>

static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    char head[32];
    int head_length = snprintf(head, sizeof head, "%zu bytes", length);
    ws->send(ws, head, (size_t)head_length);
    ws->send(ws, message, length);
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .websockets = {{"/@NAME@/ws", NULL, on_message, NULL}},
    .ws_size = 1,
};
