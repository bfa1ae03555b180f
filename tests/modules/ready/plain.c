/* A module that is built without the server: cc -shared -fPIC -I include. TEXT is its answer. */
#include <cweb.h>
#include <unistd.h>

#ifndef TEXT
#define TEXT "one"
#endif

static int plain(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    const char *set = cweb_setting(ctx, "TEXT");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s", set != NULL ? set : TEXT);
}

static int crash(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    abort();
}

static int leave(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    _exit(3);
}

static int leave_in_order(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    exit(3);
}

#ifdef ABSURD
__attribute__((visibility("default"))) const unsigned long long cweb_module_limits[4] = ABSURD;
#endif

#ifdef TWO_ARGUMENTS
static int wrong(http_request_t *req, http_response_t *res) {
    (void)req;
    res->status = 200;
    return 0;
}
#define HANDLER (entry_t)(void *)wrong
#else
#define HANDLER plain
#endif

export module_t config = {
    .name = "plain",
    .author = "tests",
    .routes = {{"/plain", "GET", HANDLER, NONE}, {"/plain/crash", "GET", crash, NONE}, {"/plain/exit", "GET", leave, NONE},
               {"/plain/leave", "GET", leave_in_order, NONE}},
    .size = 4,
};
