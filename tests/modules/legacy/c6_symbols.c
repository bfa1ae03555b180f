/* A function of another module's, looked up for each use; what is exported for others. */
#include <cweb.h>

int twice(int number) {
    return 2 * number;
}

static int call(struct http_request *req, struct http_response *res) {
    (void)req;
    int (*function)(int) = symbols->resolv("legacy_symbols", "twice");
    void *missing = symbols->resolv("legacy_symbols", "thrice");
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", function ? function(21) : -1, missing == NULL);
    return 0;
}

static int fault(struct http_request *req, struct http_response *res) {
    (void)res;
    *(volatile int *)(size_t)req->websocket = 1;
    return 0;
}

export module_t config = {
    .name = "legacy_symbols",
    .author = "test",
    .routes = {{"/symbols", "GET", call, NONE}, {"/fault", "GET", fault, NONE}},
    .size = 2,
};
