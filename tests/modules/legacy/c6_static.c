/* A file, read into the body. */
#include <cweb.h>
#include <stdio.h>
#include <string.h>

static int serve(struct http_request *req, struct http_response *res) {
    (void)req;
    FILE *file = fopen("static/page.html", "r");
    if (file == NULL) {
        snprintf(res->body, HTTP_RESPONSE_SIZE, "no such file");
        res->status = HTTP_404_NOT_FOUND;
        return 0;
    }
    size_t length = fread(res->body, 1, HTTP_RESPONSE_SIZE - 1, file);
    res->body[length] = '\0';
    fclose(file);
    map_insert(res->headers, "Content-Type", "text/html");
    res->content_length = (int)length;
    res->status = HTTP_200_OK;
    return 0;
}

export module_t config = {
    .name = "legacy_static",
    .author = "test",
    .routes = {{"/page", "GET", serve, NONE}},
    .size = 1,
};
