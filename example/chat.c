/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A chat with rooms: everybody in a room sees what everybody there writes. Open it in two browser windows:
 *
 *     http://127.0.0.1:8080/chat                the room "lobby"
 *     http://127.0.0.1:8080/chat?room=kitchen
 *
 * A script writes to a room with curl:
 *
 *     curl -d "coffee is ready" http://127.0.0.1:8080/chat/kitchen
 */
#include <cweb.h>

static const char page[] =
    "<!doctype html><meta charset=utf-8><title>Chat</title>\n"
    "<style>body{font:16px system-ui;max-width:40em;margin:2em auto;padding:0 1em}"
    "#log{white-space:pre-wrap;border:1px solid #ccc;height:50vh;overflow:auto;padding:.5em}"
    "input{width:100%;box-sizing:border-box;font:inherit;padding:.5em;margin-top:.5em}"
    "nav a{margin-right:1em}</style>\n"
    "<h1>Chat: <span id=room></span></h1>\n"
    "<nav><a href='?room=lobby'>lobby</a><a href='?room=kitchen'>kitchen</a><a href='?room=library'>library</a></nav>\n"
    "<div id=log></div>\n"
    "<form id=form><input id=text autofocus autocomplete=off placeholder='Write and press Enter'></form>\n"
    "<script>\n"
    "const name = new URLSearchParams(location.search).get('room') || 'lobby';\n"
    "const url = location.origin.replace(/^http/, 'ws') + '/chat/' + encodeURIComponent(name) + '/ws';\n"
    "let ws;\n"
    "const show = text => { log.append(text + '\\n'); log.scrollTop = log.scrollHeight; };\n"
    "room.textContent = name;\n"
    "function connect() {\n"
    "  ws = new WebSocket(url);\n"
    "  ws.onopen = () => show('* connected');\n"
    "  ws.onmessage = event => show(event.data);\n"
    "  ws.onclose = () => { show('* disconnected'); setTimeout(connect, 1000); };\n"
    "}\n"
    "connect();\n"
    "form.onsubmit = event => { event.preventDefault(); if (text.value) ws.send(text.value); text.value = ''; };\n"
    "</script>\n";

static int home(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond_data(res, HTTP_200_OK, "text/html; charset=utf-8", page, sizeof page - 1);
}

/* Rooms belong to all modules of a domain: a prefix keeps them apart from those of others. */
static int room_of(http_request_t *req, char *name, size_t size) {
    const char *room = cweb_param(req, "room");
    int length = room == NULL ? -1 : snprintf(name, size, "chat/%s", room);
    return length > 0 && (size_t)length < size ? 0 : -1;
}

static void enter(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    char name[CWEB_ROOM_BYTES_MAX + 1];
    char *room = room_of(cweb_ws_request(ws), name, sizeof name) == 0 ? strdup(name) : NULL;
    if (room == NULL || cweb_ws_join(ws, room) != 0) {
        free(room);
        ws->close(ws);
        return;
    }
    cweb_ws_set_data(ws, room); /* leave() frees it */
}

static void say(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    const char *room = cweb_ws_data(ws);
    if (room == NULL) {
        /* A new process of the domain does not know the name. The page connects again, and sends it. */
        ws->close(ws);
        return;
    }
    cweb_ws_publish(room, message, length, CWEB_WS_TEXT);
}

static void leave(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    free(cweb_ws_data(ws));
}

static int announce(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char room[CWEB_ROOM_BYTES_MAX + 1];
    if (room_of(req, room, sizeof room) != 0) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, "text/plain", "the name of the room is too long\n");
    }
    cweb_ws_publish(room, req->body, (size_t)req->content_length, CWEB_WS_TEXT);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "said\n");
}

export module_t config = {
    .name = "chat",
    .author = "cweb",
    .routes = {{"/chat", "GET", home, NONE}, {"/chat/:room", "POST", announce, NONE}},
    .size = 2,
    .websockets = {{.path = "/chat/:room/ws", .on_open = enter, .on_message = say, .on_close = leave}},
    .ws_size = 1,
};
