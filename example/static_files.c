/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Serves the files below static/ in the server's data directory.
 *
 *     curl http://127.0.0.1:8080/static/index.html
 */
#include <cweb_file.h>

static int serve(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    /* The path comes as the client sent it: decode first, then check, then open. */
    char *path = cweb_path_decode(req->path + 1);
    int safe = path != NULL && cweb_path_is_safe(path);
    int result = safe ? cweb_send_file(req, res, path)
                      : cweb_respond(res, HTTP_403_FORBIDDEN, "text/plain", "Forbidden\n");
    free(path);
    return result;
}

static int home(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_send_file(req, res, "static/index.html");
}

export module_t config = {
    .name = "static_files",
    .author = "cweb",
    .routes = {
        {"/static/?", "GET", home, NONE},
        {"/static/.+", "GET", serve, NONE},
    },
    .size = 2,
};
