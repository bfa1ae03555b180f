/* A detached answer that everything in a module writes to, and the next version goes on with: for tests/stream_pieces.rs. */
#include <cweb.h>
#include <cweb_stream.h>

#ifndef VERSION
#define VERSION "first"
#endif

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define UNUSED (void)ctx, (void)req, (void)res

/* Where the handle is found: in what outlives a version. */
#define KEPT "heir.stream"

static const char *seen = "nothing";

static void gone(void *arg) {
    seen = arg;
}

static int say(struct cweb_context *ctx, const char *who) {
    char line[100];
    int n = snprintf(line, sizeof line, "%s of %s\n", who, VERSION);
    return cweb_stream_write(container_get(ctx->cache, KEPT), line, (size_t)n);
}

H(subscribe) {
    UNUSED;
    cweb_stream_t *stream = cweb_detach(req, res);
    container_set(ctx->cache, KEPT, stream);
    cweb_stream_on(stream, NULL, gone, (void *)(uintptr_t) "gone: " VERSION);
    return say(ctx, "handler");
}

static struct cweb_context *given;

static void work(void *data) {
    say(given, data);
}

H(later) {
    UNUSED;
    given = ctx;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", scheduler_add(ctx->scheduler, work, (void *)(uintptr_t) "scheduler", ASYNC));
}

static int job(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *run) {
    (void)payload, (void)run;
    return say(ctx, "job");
}

static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ws, (void)message, (void)length;
    say(ctx, "socket");
}

/* What another version than that of the subscription finds: "CANCELED WRITTEN". */
H(inherit) {
    UNUSED;
    cweb_stream_t *stream = container_get(ctx->cache, KEPT);
    cweb_stream_on(stream, NULL, gone, (void *)(uintptr_t) "gone: " VERSION);
    int canceled = cweb_stream_canceled(stream);
    return cweb_respond(res, HTTP_200_OK, NULL, "%d %d", canceled, say(ctx, "handler"));
}

/* Why the answer is over, once its client has left: "SEEN CANCELED ERRNO CLOSED CANCELED". */
H(end) {
    UNUSED;
    cweb_stream_t *stream = container_get(ctx->cache, KEPT);
    int canceled = cweb_stream_canceled(stream), written = say(ctx, "nobody"), error = errno;
    const char *name = written != -1 ? "?" : error == ECONNRESET ? "ECONNRESET" : strerror(error);
    int closed = cweb_stream_close(stream), after = cweb_stream_canceled(stream);
    return cweb_respond(res, HTTP_200_OK, NULL, "%s, %d %s %d %d", seen, canceled, name, closed, after);
}

H(get_seen) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%s", seen);
}

export module_t config = {
    .name = "heir",
    .author = "test",
    .routes = {
        {"/subscribe", "GET", subscribe, NONE},
        {"/later", "GET", later, NONE},
        {"/inherit", "GET", inherit, NONE},
        {"/seen", "GET", get_seen, NONE},
        {"/end", "GET", end, NONE},
    },
    .size = 5,
    .websockets = {{"/ws", NULL, on_message, NULL, 0}},
    .ws_size = 1,
    .jobs = {{.name = "tell", .run = job}},
    .job_size = 1,
};
