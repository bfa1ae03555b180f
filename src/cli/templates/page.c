/* @NAME@: a page that is deployed with the module, assets/index.html. */
#include <cweb.h>
#include <cweb_asset.h>

static int page(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    const void *bytes;
    size_t length;
    if (cweb_asset("index.html", &bytes, &length) != 0) {
        return cweb_respond(res, HTTP_404_NOT_FOUND, "text/plain", "no page\n");
    }
    return cweb_respond_data(res, HTTP_200_OK, "text/html; charset=utf-8", bytes, length);
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "GET", page, NONE}},
    .size = 1,
};
