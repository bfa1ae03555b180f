/* Answers with the body, compressed by zlib and expanded again, and the versions of the libraries that it is linked with. */
#include <cweb.h>
#include <zlib.h>
#include <png.h>

#pragma cweb link("z", "png") /* by their names */
#pragma cweb cflags("-O3", "-DGREETING=\"two words\"", "-Wshadow")

static int there_and_back(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    unsigned char packed[4096];
    char text[4096];
    uLongf packed_length = sizeof packed, length = sizeof text - 1;
    if (compress(packed, &packed_length, (const unsigned char *)req->body, (uLong)req->content_length) != Z_OK ||
        uncompress((unsigned char *)text, &length, packed, packed_length) != Z_OK) {
        return cweb_respond(res, 500, "text/plain", "zlib\n");
    }
    text[length] = '\0';
    return cweb_respond(res, 200, "text/plain", "%s|%s|%d|%s", text, GREETING,
                        (int)png_access_version_number() / 10000, packed_length < length ? "smaller" : "larger");
}

export module_t config = {
    .name = "compress",
    .author = "test",
    .routes = {{"/compress", "POST", there_and_back, NONE}},
    .size = 1,
};
