/* WebSockets and hooks without a context. */
#include <cweb.h>
#include <pthread.h>
#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct websocket *members[16];
static int *state;

static void on_open(struct websocket *ws) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 16; i++) {
        if (members[i] == NULL) {
            members[i] = ws;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    ws->send(ws, "welcome", 7);
}

static void on_message(struct websocket *ws, const char *message, size_t length) {
    if (strcmp(message, "bye") == 0) {
        ws->close(ws);
        return;
    }
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 16; i++) {
        if (members[i] != NULL) {
            members[i]->send(members[i], message, length);
        }
    }
    pthread_mutex_unlock(&lock);
}

static void on_close(struct websocket *ws) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 16; i++) {
        members[i] = members[i] == ws ? NULL : members[i];
    }
    pthread_mutex_unlock(&lock);
}

static int page(struct http_request *req, struct http_response *res) {
    (void)req;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "loads %d unloads %d", state[0], state[1]);
    return 0;
}

static void load(void) {
    state = cache->get("legacy_chat");
    if (state == NULL) {
        state = calloc(2, sizeof *state);
        cache->set("legacy_chat", state);
    }
    state[0]++;
}

static void unload(void) {
    state[1]++;
}

export module_t config = {
    .name = "legacy_chat",
    .author = "test",
    .routes = {{"/chat", "GET", page, FEATURE_FLAG_NONE}},
    .size = 1,
    .websockets = {{"/chat/ws", on_open, on_message, on_close}, {"/chat/silent", NULL, NULL, NULL}},
    .ws_size = 2,
    .onload = load,
    .unload = unload,
};
