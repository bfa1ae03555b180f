/* What the pages of tests/browser.rs talk to. */
#include <cweb.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char report[64 * 1024];

static int put_report(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    pthread_mutex_lock(&lock);
    snprintf(report, sizeof report, "%s", req->body);
    pthread_mutex_unlock(&lock);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "noted");
}

static int get_report(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    pthread_mutex_lock(&lock);
    int result = cweb_respond(res, HTTP_200_OK, "application/json", "%s", report);
    pthread_mutex_unlock(&lock);
    return result;
}

static int echo(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_respond(res, HTTP_200_OK, "application/json", "%s", req->body);
}

static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx;
    ws->send(ws, message, length);
}

export module_t config = {
    .name = "stage",
    .author = "test",
    .routes = {
        {"/report", "POST", put_report, NONE},
        {"/report", "GET", get_report, NONE},
        {"/echo", "POST", echo, NONE},
    },
    .size = 3,
    .websockets = {{.path = "/ws", .on_message = on_message}},
    .ws_size = 1,
};
