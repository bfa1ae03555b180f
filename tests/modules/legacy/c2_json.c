/* The first generation with a config: FEATURE_FLAG_NONE, and a fifth field in each route. */
#include <cweb.h>
#include <jansson.h>
#include <string.h>

static int json(struct http_request *req, struct http_response *res) {
    json_t *object = json_object();
    json_object_set_new(object, "path", json_string(req->path));
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    map_insert(res->headers, "Content-Type", "application/json");
    strncpy(res->body, text, HTTP_RESPONSE_SIZE - 1);
    free(text);
    res->status = HTTP_200_OK;
    return 0;
}

export module_t config = {
    "legacy_json",
    "test",
    {
        {"/json", "GET", json, FEATURE_FLAG_NONE, 0},
        {"/json/[a-z]+", "GET", json, FEATURE_FLAG_NONE, 0},
    },
    2,
};
