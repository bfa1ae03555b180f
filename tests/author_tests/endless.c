/* A module whose tests never end. */
#include <cweb_test.h>
#include <unistd.h>

static int hello(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond(res, HTTP_200_OK, "text/plain", "hello");
}

export module_t config = {
    .name = "endless",
    .author = "t",
    .routes = {{"/hello", "GET", hello, NONE}},
    .size = 1,
};

CWEB_TEST(loops) {
    for (volatile int i = 0;; i++) {
    }
}
CWEB_TEST(sleeps) { pause(); }
