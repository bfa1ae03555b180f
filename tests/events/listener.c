/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Waits for a pipe as modules do that have the server run the loop: event_new and event_add, nothing else. */
#include <cweb.h>
#include <fcntl.h>
#include <libevent.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "1"
#endif

static int ends[2];
static struct event *event;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char seen[4096];
static int calls, reads = 1;

static void on_readable(struct event *ready, void *arg) {
    char bytes[64];
    pthread_mutex_lock(&lock);
    calls++;
    int wanted = reads;
    pthread_mutex_unlock(&lock);
    for (ssize_t got; wanted && (got = read(ready->fd, bytes, sizeof bytes - 1)) > 0;) {
        bytes[got] = '\0';
        /* Text that was written before may come with it. */
        if (strstr(bytes, "crash") != NULL) {
            *(volatile int *)NULL = 1;
        }
        if (strstr(bytes, "exit") != NULL) {
            exit(3);
        }
        if (strcmp(bytes, "stop") == 0) {
            event_del(ready); /* in its own callback */
        }
        pthread_mutex_lock(&lock);
        strcat(seen, bytes);
        pthread_mutex_unlock(&lock);
    }
    printf("called with %s\n", (const char *)arg);
}

static void load(struct cweb_context *ctx) {
    if (pipe(ends) != 0) {
        abort();
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    event = event_new(ends[0], 0, on_readable, "version " VERSION);
    event_add(event);
    /* The pipe stays open, and others can write to it, when this version is gone. */
    container_set(ctx->cache, "pipe of " VERSION, (void *)(intptr_t)ends[1]);
}

#ifdef UNLOAD
#define HOOK leave
static void leave(struct cweb_context *ctx) {
    (void)ctx;
    event_free(event);
    close(ends[0]);
}
#else
#define HOOK NULL
#endif

/* POST /to/N: the body into the pipe of version N. */
static int to(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    char name[64];
    snprintf(name, sizeof name, "pipe of %s", strrchr(req->path, '/') + 1);
    int end = (int)(intptr_t)container_get(ctx->cache, name);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%zd", end == 0 ? -2 : write(end, req->body, (size_t)req->content_length));
    return 0;
}

static int state(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    pthread_mutex_lock(&lock);
    if (http_kv_get(req->params, "reads") != NULL) {
        reads = atoi(http_kv_get(req->params, "reads"));
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s", calls, seen);
    pthread_mutex_unlock(&lock);
    return 0;
}

/* From another thread than the callback's: afterwards it does not run. */
static int del(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    int first = event_del(event), second = event_del(event);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", first, second);
    return 0;
}

static int add(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    int first = event_add(event), second = event_add(event);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", first, second);
    return 0;
}

export module_t config = {
    .name = "listener",
    .author = "test",
    .routes = {{"/to/[0-9]", "POST", to, NONE}, {"/state", "GET", state, NONE}, {"/del", "GET", del, NONE}, {"/add", "GET", add, NONE}},
    .size = 4,
    .onload = load,
    .unload = HOOK,
};
