/* @NAME@: counts the lines of an upload of any size while it comes. curl -T FILE http://127.0.0.1:8080/@NAME@ */
#include <cweb.h>
#include <cweb_stream.h>

static int count(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char piece[64 * 1024];
    long long lines = 0, bytes = 0;
    ssize_t got;
    while ((got = cweb_read(req, piece, sizeof piece)) > 0) {
        bytes += got;
        for (ssize_t i = 0; i < got; i++) {
            lines += piece[i] == '\n';
        }
    }
    if (got < 0) {
        return -1; /* the client has left, or its body is broken */
    }
    if (cweb_begin(res, 200) != 0) {
        return -1;
    }
    return cweb_printf(res, "%lld lines, %lld bytes\n", lines, bytes);
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "PUT", count, CWEB_STREAM}},
    .size = 1,
};
