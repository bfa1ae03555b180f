/* A module with faults that only show when it runs. */
#include <cweb.h>

static int copy(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char *text = malloc(8);
    strcpy(text, http_kv_get(req->params, "who")); /* line 7: too long a name */
    int result = cweb_respond(res, 200, "text/plain", "%s", text);
    free(text);
    return result;
}

static int shift(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    int by = atoi(http_kv_get(req->params, "by"));
    return cweb_respond(res, 200, "text/plain", "%d", 1 << by); /* line 16 */
}

static int leak(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    char *text = malloc(123); /* line 21 */
    snprintf(text, 123, "lost");
    return cweb_respond(res, 200, "text/plain", "%s", text);
}

static int limit(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    exit(3);
}

export module_t config = {
    .name = "live",
    .author = "t",
    .routes = {{"/copy", "GET", copy, NONE}, {"/shift", "GET", shift, NONE}, {"/leak", "GET", leak, NONE},
               {"/exit", "GET", limit, NONE}},
    .size = 4,
};
