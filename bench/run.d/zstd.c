/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Answers the length of the body after compression with level 3. A module of its own: a machine may lack libzstd. */
#include <cweb.h>
#include <zstd.h>
#pragma cweb link("zstd")

static int zstd(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    size_t room = ZSTD_compressBound((size_t)req->content_length);
    char *compressed = malloc(room);
    if (compressed == NULL) {
        return -1;
    }
    size_t length = ZSTD_compress(compressed, room, req->body, (size_t)req->content_length, 3);
    free(compressed);
    if (ZSTD_isError(length)) {
        return -1;
    }
    res->content_length = snprintf(res->body, HTTP_RESPONSE_SIZE, "%zu", length);
    return 0;
}

export module_t config = {
    .name = "bench_zstd",
    .author = "cweb",
    .routes = {{"/zstd", "POST", zstd, CWEB_BODY_MIB(2)}},
    .size = 1,
};
