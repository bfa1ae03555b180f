/* @NAME@: answers with a greeting. */
#include <cweb.h>

static int greet(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    const char *greeting = cweb_setting(ctx, "GREETING");
    const char *who = http_kv_get(req->params, "who");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s, %s!\n", greeting != NULL ? greeting : "Hello",
                        who != NULL ? who : "world");
}

export module_t config = {
    .name = "@NAME@",
    .author = "",
    .routes = {{"/@NAME@", "GET", greet, NONE}},
    .size = 1,
};
