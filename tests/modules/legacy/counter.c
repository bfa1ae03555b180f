/* As the documentation of the generation with NONE shows a module: two arguments, globals, literals as header values. */
#include <cweb.h>
#include <stdio.h>
#include <stdlib.h>

static int *counter;

static int count(struct http_request *req, struct http_response *res) {
    (void)req;
    char kind[32];
    snprintf(kind, sizeof kind, "text/%s", "plain");
    map_insert(res->headers, "Content-Type", kind);
    map_insert(res->headers, "X-Kind", "literal");
    snprintf(res->body, HTTP_RESPONSE_SIZE, "count %d", ++*counter);
    memset(kind, 'x', sizeof kind - 1);
    res->status = HTTP_200_OK;
    return 0;
}

static void load(void) {
    counter = cache->get("legacy_counter");
    if (counter == NULL) {
        counter = calloc(1, sizeof *counter);
        cache->set("legacy_counter", counter);
    }
}

export module_t config = {
    .name = "legacy_counter",
    .author = "test",
    .routes = {{"/counter", "GET", count, NONE}},
    .size = 1,
    .onload = load,
};
