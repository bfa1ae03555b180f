/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Handshakes that the module decides about, what on_open knows of them, and rooms. tests/rooms.rs */
#include <cweb.h>
#include <cweb_stream.h>

#ifndef VERSION
#define VERSION "one"
#endif
#define OR(text) ((text) == NULL ? "-" : (text))

struct guest {
    char room[64];
    char name[64];
};

static websocket_t *watched;

static void say(websocket_t *ws, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cweb_ws_send_text(ws, text, (size_t)length);
}

static int admit(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *origin = http_kv_get(req->headers, "origin");
    const char *how = OR(http_kv_get(req->params, "how"));
    if (origin != NULL && strcmp(origin, "https://good.example") != 0) {
        return cweb_respond(res, HTTP_403_FORBIDDEN, "text/plain", "not from %s\n", origin);
    }
    if (strcmp(how, "crash") == 0) {
        abort();
    }
    if (strcmp(how, "pieces") == 0) {
        int begun = cweb_begin(res, 200), begin_errno = errno;
        cweb_stream_t *stream = cweb_detach(req, res);
        int is_refused = begun == -1 && begin_errno == EPERM && stream == NULL && errno == EPERM;
        return cweb_respond(res, HTTP_403_FORBIDDEN, NULL, "%s", is_refused ? "no pieces" : "pieces");
    }
    if (strcmp(how, "moved") == 0) {
        return cweb_redirect(res, 307, "/elsewhere");
    }
    if (strcmp(how, "101") == 0) {
        res->status = HTTP_101_SWITCHING_PROTOCOLS;
    }
    if (strcmp(how, "forged") == 0) {
        cweb_header(res, "sec-websocket-protocol", "never.offered");
        cweb_header(res, "sec-websocket-extensions", "permessage-deflate");
        cweb_header(res, "sec-websocket-accept", "AAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        cweb_header(res, "x-bad", "a\r\nInjected: 1");
        cweb_header(res, "connection", "close");
        cweb_header(res, "content-length", "7");
    }
    if (cweb_ws_choose(req, res, "chat.v2") != 0) {
        cweb_ws_choose(req, res, "chat.v1");
    }
    cweb_set_cookie(res, "seen", cweb_param(req, "room"), NULL);
    return 0;
}

static void told(void *text) {
    cweb_log(CWEB_LOG_INFO, "deferred by on_open: %s", (char *)text);
}

static void on_open(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    http_request_t *req = cweb_ws_request(ws);
    websocket_t other = *ws;
    struct guest *guest = calloc(1, sizeof *guest);
    if (req == NULL || cweb_ws_request(NULL) != NULL || cweb_ws_request(&other) != NULL || cweb_ws_data(ws) != NULL) {
        say(ws, "wrong");
        return;
    }
    const char *name = OR(http_kv_get(req->params, "name"));
    snprintf(guest->room, sizeof guest->room, "%s", OR(cweb_param(req, "room")));
    snprintf(guest->name, sizeof guest->name, "%s", name);
    cweb_ws_set_data(ws, guest);
    cweb_defer(req, told, cweb_sprintf(req, "%s", name));
    /* A client that has read the next line is in the room. */
    cweb_ws_join(ws, guest->room);
    say(ws, "open room=%s name=%s agent=%s cookie=%s peer=%s offers=%d%d 1=%s type=%d", guest->room, name,
        OR(http_kv_get(req->headers, "user-agent")), OR(cweb_cookie(req, "sid")), OR(cweb_peer_address(req)),
        cweb_ws_offers(req, "chat.v1"), cweb_ws_offers(req, "CHAT.v1"), OR(cweb_param_at(req, 1)), cweb_ws_message_type(ws));
    if (strcmp(name, "crash") == 0) {
        cweb_alloc(req, 100000);
        abort();
    }
}

static void try_what_is_wrong(websocket_t *ws) {
    char longest[257];
    memset(longest, 'r', 256);
    longest[256] = 0;
    errno = 0;
    int refused = cweb_ws_join(ws, NULL) + cweb_ws_join(ws, "") + cweb_ws_join(NULL, "x") + cweb_ws_join(ws, longest) +
                  cweb_ws_leave(ws, NULL) + cweb_ws_leave(ws, longest) + cweb_ws_publish(NULL, "x", 1, CWEB_WS_TEXT) +
                  cweb_ws_publish("", "x", 1, CWEB_WS_TEXT) + cweb_ws_publish("x", NULL, 1, CWEB_WS_TEXT) +
                  cweb_ws_publish("x", "x", 1, 0) + cweb_ws_publish("x", "x", 1, 3) + cweb_ws_publish(longest, "x", 1, CWEB_WS_TEXT);
    int invalid = errno == EINVAL;
    longest[255] = 0;
    int fine = cweb_ws_join(ws, longest) + cweb_ws_leave(ws, longest) + cweb_ws_leave(ws, "never joined") +
               cweb_ws_publish("nobody there", NULL, 0, CWEB_WS_TEXT);
    int request = cweb_ws_request(ws) == NULL;
    say(ws, "%d %d %d %d %d %d", refused, invalid, fine, request, cweb_ws_message_type(NULL), cweb_ws_data(NULL) == NULL);
}

static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    char word[16] = "", room[256] = "";
    int used = 0;
    struct guest *guest = cweb_ws_data(ws);
    sscanf(message, "%15s %255s %n", word, room, &used);
    if (strcmp(word, "join") == 0) {
        int result = cweb_ws_join(ws, room);
        say(ws, "joined %d", result);
    } else if (strcmp(word, "leave") == 0) {
        int result = cweb_ws_leave(ws, room);
        say(ws, "left %d", result);
    } else if (strcmp(word, "tell") == 0) {
        cweb_ws_publish(room, message + used, length - (size_t)used, CWEB_WS_TEXT);
    } else if (strcmp(word, "bytes") == 0) {
        cweb_ws_publish(room, "\1\2\3", 3, CWEB_WS_BINARY);
        cweb_ws_publish(room, "\377", 1, CWEB_WS_TEXT);
    } else if (strcmp(word, "large") == 0) {
        size_t size = 300000;
        char *block = malloc(size);
        memset(block, 'L', size);
        cweb_ws_publish(room, block, size, CWEB_WS_TEXT);
        free(block);
    } else if (strcmp(word, "order") == 0) {
        cweb_ws_publish(room, "1", 1, CWEB_WS_TEXT);
        say(ws, "2");
        cweb_ws_publish(room, "3", 1, CWEB_WS_TEXT);
        cweb_ws_publish("elsewhere", "x", 1, CWEB_WS_TEXT);
        cweb_ws_publish(room, "4", 1, CWEB_WS_TEXT);
        cweb_ws_leave(ws, room);
        cweb_ws_publish(room, "5", 1, CWEB_WS_TEXT);
        cweb_ws_join(ws, room);
        cweb_ws_publish(room, "6", 1, CWEB_WS_TEXT);
        cweb_ws_publish(room, "7", 1, CWEB_WS_TEXT);
        ws->close(ws);
        cweb_ws_publish(room, "8", 1, CWEB_WS_TEXT);
    } else if (strcmp(word, "many") == 0) {
        int count = 0;
        for (int i = 0; i < 1000 && cweb_ws_join(ws, (snprintf(room, sizeof room, "room %d", i), room)) == 0; i++) {
            count++;
        }
        say(ws, "many %d %d", count, errno == ENOSPC);
    } else if (strcmp(word, "wrong") == 0) {
        try_what_is_wrong(ws);
    } else if (strcmp(word, "watch") == 0) {
        watched = ws;
        say(ws, "watching, %d", cweb_ws_buffered(NULL) == 0);
    } else if (strcmp(word, "who") == 0) {
        /* A socket that has outlived its process has no pointer. */
        say(ws, "%s %s in %s", VERSION, guest == NULL ? "nobody" : guest->name, guest == NULL ? "none" : guest->room);
    } else if (strcmp(word, "close") == 0) {
        ws->close(ws);
        errno = 0;
        int result = cweb_ws_join(ws, "late");
        int is_closed = errno == EPIPE;
        cweb_log(CWEB_LOG_INFO, "after the end: %d %d", result, is_closed);
    } else {
        say(ws, "type %d", cweb_ws_message_type(ws));
    }
}

static void on_close(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    struct guest *guest = cweb_ws_data(ws);
    if (guest != NULL) {
        cweb_log(CWEB_LOG_INFO, "%s has left %s", guest->name, guest->room);
    }
    free(guest);
}

/* Into a room from a handler. */
static int announce(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    int result = cweb_ws_publish(cweb_param(req, "room"), req->body, (size_t)req->content_length, CWEB_WS_TEXT);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", result);
    return 0;
}

/* Sends so many MiB to the socket that is watched. */
static int fill(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    static char block[1 << 16];
    for (int i = 16 * atoi(req->body); i > 0; i--) {
        cweb_ws_send_binary(watched, block, sizeof block);
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "sent");
    return 0;
}

static int buffered(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%zu", cweb_ws_buffered(watched));
    return 0;
}

export module_t config = {
    .name = "rooms",
    .author = "test",
    .routes = {{"/chat/:room", "GET", admit, CWEB_HANDSHAKE}, {"/announce/:room", "POST", announce, NONE},
               {"/fill", "POST", fill, NONE}, {"/buffered", "GET", buffered, NONE}},
    .size = 4,
    .websockets = {{"/chat/:room", on_open, on_message, on_close},
                   {"/free/([a-z]+)-[0-9]+", on_open, on_message, on_close, CWEB_INLINE},
                   {"/v1.0", on_open, on_message, on_close}},
    .ws_size = 3,
};
