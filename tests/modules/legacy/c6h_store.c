/* The last generation without a context: stores by their later name, beside the older one, and all of a request's fields. */
#include <cweb.h>
#include <stdio.h>
#include <string.h>

static int fields(struct http_request *req, struct http_response *res) {
    struct http_kv_store *params = req->params;
    struct map *same = params;
    http_kv_insert(res->headers, "X-Literal", "literal");
    map_insert(res->headers, "X-Other", "other");
    int length = snprintf(res->body, HTTP_RESPONSE_SIZE, "%s v%d s%d k%d c%d |", req->path, req->version, req->status,
                          req->keep_alive, req->close);
    for (size_t i = 0; i < params->size; i++) {
        length += snprintf(res->body + length, HTTP_RESPONSE_SIZE - length, " %s=%s", params->entries[i].key,
                           (char *)same->entries[i].value);
    }
    struct http_kv_store *own = http_kv_create(1);
    char value[] = "kept";
    int first = http_kv_insert(own, "Key", value), again = http_kv_insert(own, "Key", "other");
    int full = http_kv_insert(own, "key", value);
    int same_pointer = http_kv_get(own, "Key") == value, other_case = http_kv_get(own, "KEY") != NULL;
    int removed = map_remove(own, "Key"), twice = map_remove(own, "Key");
    snprintf(res->body + length, HTTP_RESPONSE_SIZE - length, " | %d %d %d %d %d %d %d %d", first, again, full,
             same_pointer, other_case, removed, twice, map_create(0) == NULL);
    http_kv_destroy(own);
    return 0;
}

export module_t config = {
    .name = "legacy_store",
    .author = "test",
    .routes = {{"/store/.*", "GET", fields, NONE}},
    .size = 1,
};
