/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A chat: everybody sees what everybody writes. Open it in two browser windows:
 *
 *     http://127.0.0.1:8080/chat
 */
#include <cweb.h>

#define PEOPLE_MAX 4096

/* In the cache, because sockets outlive this version of the module. */
struct room {
    pthread_mutex_t lock;
    size_t count;
    websocket_t *people[PEOPLE_MAX];
};

static struct room *room;

static const char page[] =
    "<!doctype html><meta charset=utf-8><title>Chat</title>\n"
    "<style>body{font:16px system-ui;max-width:40em;margin:2em auto;padding:0 1em}"
    "#log{white-space:pre-wrap;border:1px solid #ccc;height:60vh;overflow:auto;padding:.5em}"
    "input{width:100%;box-sizing:border-box;font:inherit;padding:.5em;margin-top:.5em}</style>\n"
    "<h1>Chat</h1><div id=log></div>\n"
    "<form id=form><input id=text autofocus autocomplete=off placeholder='Write and press Enter'></form>\n"
    "<script>\n"
    "const ws = new WebSocket(location.href.replace(/^http/, 'ws') + '/ws');\n"
    "const show = text => { log.append(text + '\\n'); log.scrollTop = log.scrollHeight; };\n"
    "ws.onopen = () => show('* connected');\n"
    "ws.onmessage = event => show(event.data);\n"
    "ws.onclose = () => show('* disconnected');\n"
    "form.onsubmit = event => { event.preventDefault(); if (text.value) ws.send(text.value); text.value = ''; };\n"
    "</script>\n";

static void load(struct cweb_context *ctx) {
    room = container_get(ctx->cache, "chat.room");
    if (room == NULL) {
        room = calloc(1, sizeof *room);
        pthread_mutex_init(&room->lock, NULL);
        container_set(ctx->cache, "chat.room", room);
    }
}

static int home(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond_data(res, HTTP_200_OK, "text/html; charset=utf-8", page, sizeof page - 1);
}

static void join(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    pthread_mutex_lock(&room->lock);
    int full = room->count == PEOPLE_MAX;
    if (!full) {
        room->people[room->count++] = ws;
    }
    pthread_mutex_unlock(&room->lock);
    if (full) {
        ws->close(ws);
    }
}

static void say(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx, (void)ws;
    /* The lock also keeps the pointers valid: leave() waits for it before on_close returns. */
    pthread_mutex_lock(&room->lock);
    cweb_ws_broadcast(room->people, room->count, message, length);
    pthread_mutex_unlock(&room->lock);
}

static void leave(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    pthread_mutex_lock(&room->lock);
    for (size_t i = 0; i < room->count; i++) {
        if (room->people[i] == ws) {
            room->people[i] = room->people[--room->count];
            break;
        }
    }
    pthread_mutex_unlock(&room->lock);
}

export module_t config = {
    .name = "chat",
    .author = "cweb",
    .routes = {{"/chat", "GET", home, NONE}},
    .size = 1,
    .websockets = {{"/chat/ws", join, say, leave, NONE}},
    .ws_size = 1,
    .onload = load,
};
