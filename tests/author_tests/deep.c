/* A module that crashes three functions deep, one of them a callback of libc. */
#include <cweb.h>

static int *volatile nowhere;

__attribute__((noinline)) static int innermost(int add) {
    return *nowhere + add; /* line 7 */
}

static int compare(const void *a, const void *b) {
    int sum = innermost(*(const int *)a - *(const int *)b); /* line 11 */
    return sum + 1;
}

__attribute__((noinline)) static int sorted(int *numbers, size_t count) {
    qsort(numbers, count, sizeof *numbers, compare); /* line 16 */
    return numbers[0] + 1;
}

static int deep(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    int numbers[] = {3, 2, 1};
    int first = sorted(numbers, 3); /* line 23 */
    return cweb_respond(res, 200, "text/plain", "%d", first);
}

static int fine(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond(res, 200, "text/plain", "fine");
}

__attribute__((noinline)) static void gives_up(int why) {
    if (why == 0) {
        abort(); /* line 34 */
    }
}

static int up(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)res;
    gives_up(req->method); /* line 40 */
    return 0;
}

export module_t config = {
    .name = "deep",
    .author = "t",
    .routes = {{"/deep", "GET", deep, NONE}, {"/fine", "GET", fine, NONE}, {"/up", "GET", up, NONE}},
    .size = 3};
