/* The last generation without a context, in the style of its time: nothing in it is worth a warning.
 * What it says of a struct cweb_context * here, and below in a string, is no code. */
#include <cweb.h>
#define SAYS "no struct cweb_context *"

static int clean(struct http_request *req, struct http_response *res) {
    int at = sprintf(res->body, "%s;", SAYS);
    struct http_kv_store *store = http_kv_create(2);
    http_kv_insert(store, "a", "first");
    http_kv_insert(store, "a", "second");
    at += sprintf(res->body + at, "%s;%zu;", http_kv_get(store, "a"), http_kv_size(store));
    http_kv_destroy(store, 0);
    for (size_t i = 0; i < req->params->size; i++) {
        at += sprintf(res->body + at, "%s=%s|", req->params->entries[i].key, req->params->entries[i].value);
    }
    http_kv_insert(res->headers, "X-Literal", "lit");
    return 0;
}

export module_t config = {.name = "clean", .author = "old", .routes = {{"/clean", "GET", clean, NONE}}, .size = 1};
