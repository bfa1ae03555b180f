/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * News for all listeners: each listener has an answer that stays open and needs no thread, and each post goes to all of them.
 *
 *     curl -N http://127.0.0.1:8080/news                        in as many terminals as you like
 *     curl -d "coffee is ready" http://127.0.0.1:8080/news      prints the number of listeners
 */
#include <cweb.h>
#include <cweb_stream.h>

#define LISTENERS_MAX 1000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cweb_stream_t *listeners[LISTENERS_MAX];
static size_t listener_count;

/* Takes a listener from the list. The caller holds the lock. */
static void end(size_t at) {
    cweb_stream_close(listeners[at]);
    listeners[at] = listeners[--listener_count];
}

/* The client of a stream has left. The server calls this on a thread of its own. */
static void gone(void *stream) {
    pthread_mutex_lock(&lock);
    for (size_t at = 0; at < listener_count; at++) {
        if (listeners[at] == stream) {
            end(at);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

static int join(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    pthread_mutex_lock(&lock);
    cweb_stream_t *stream = NULL;
    if (listener_count < LISTENERS_MAX) {
        cweb_sse_headers(res);
        stream = cweb_detach(req, res);
    }
    if (stream != NULL) {
        listeners[listener_count++] = stream;
        cweb_stream_on(stream, NULL, gone, stream);
        cweb_stream_sse(stream, NULL, NULL, "welcome");
    }
    pthread_mutex_unlock(&lock);
    if (stream == NULL) {
        return cweb_respond(res, HTTP_503_SERVICE_UNAVAILABLE, "text/plain", "Too many listen already\n");
    }
    return 0;
}

static int publish(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    size_t length = 0;
    char *event = cweb_sse_text(NULL, NULL, req->body, &length);
    if (event == NULL) {
        return cweb_respond(res, HTTP_503_SERVICE_UNAVAILABLE, "text/plain", "no memory for the message\n");
    }
    pthread_mutex_lock(&lock);
    /* A listener that is too slow for this message misses it; no listener delays another. */
    size_t told = cweb_stream_broadcast(listeners, listener_count, event, length, NULL), all = listener_count;
    pthread_mutex_unlock(&lock);
    free(event);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "told %zu of %zu\n", told, all);
}

/* A browser's EventSource comes back by itself, to the next version. */
static void end_all(struct cweb_context *ctx) {
    (void)ctx;
    pthread_mutex_lock(&lock);
    while (listener_count > 0) {
        end(listener_count - 1);
    }
    pthread_mutex_unlock(&lock);
}

export module_t config = {
    .name = "news",
    .author = "cweb",
    .routes = {
        {"/news", "GET", join, NONE},
        {"/news", "POST", publish, NONE},
    },
    .size = 2,
    .unload = end_all,
};
