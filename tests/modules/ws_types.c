/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What type a message leaves with: {1, 2, 3} is UTF-8 as well, {255} is not. */
#include <cweb.h>

static const char bytes[] = {1, 2, 3};
static websocket_t *kept[2];
static int kept_count;

static void on_open(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    if (kept_count < 2) {
        kept[kept_count++] = ws;
    }
    ws->send(ws, bytes, sizeof bytes);
}

static void *later(void *arg) {
    websocket_t *ws = (websocket_t *)arg;
    ws->send(ws, bytes, sizeof bytes);
    return NULL;
}

/* The first byte of a message says what to do. */
static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    pthread_t thread;
    switch (length > 0 ? message[0] : 0) {
    case 't':
        cweb_ws_send_text(ws, bytes, sizeof bytes);
        break;
    case 'b':
        cweb_ws_send_binary(ws, bytes, sizeof bytes);
        break;
    case 'x':
        cweb_ws_send_text(ws, "\377", 1);
        break;
    case 'T':
        cweb_ws_broadcast_text(kept, 2, bytes, sizeof bytes);
        break;
    case 'B':
        cweb_ws_broadcast_binary(kept, 2, bytes, sizeof bytes);
        break;
    case 'A':
        cweb_ws_broadcast(kept, 2, bytes, sizeof bytes);
        break;
    case 'l':
        pthread_create(&thread, NULL, later, ws);
        pthread_join(thread, NULL);
        break;
    default:
        ws->send(ws, message, length);
    }
}

/* A handler of HTTP sends to every socket by the type it received last. */
static int tell(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    (void)req;
    for (int i = 0; i < kept_count; i++) {
        kept[i]->send(kept[i], bytes, sizeof bytes);
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d", kept_count);
}

export module_t config = {
    .name = "ws_types",
    .routes = {{"/tell", "GET", tell, NONE}},
    .size = 1,
    .websockets = {{"/ws", on_open, on_message, NULL, NONE}},
    .ws_size = 1,
};
