/* The routes of a project: a second source in C, one in C++, a header, assets, a library. */
#include <cweb.h>
#include <cweb_asset.h>
#include <parts.h>

static int numbers(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond(res, 200, "text/plain", "%d %d %lu", scaled(7), counted("a bb a"), checksum("abc"));
}

static int asset(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *name = http_kv_get(req->params, "name");
    const void *bytes;
    size_t length;
    if (cweb_asset(name, &bytes, &length) != 0) {
        return cweb_respond(res, 404, "text/plain", "none");
    }
    return cweb_respond_data(res, 200, "application/octet-stream", bytes, length);
}

export module_t config = {
    .name = "project",
    .author = "test",
    .routes = {{"/project/numbers", "GET", numbers, NONE}, {"/project/asset", "GET", asset, NONE}},
    .size = 2,
};
