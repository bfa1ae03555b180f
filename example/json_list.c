/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A list of things to do, as JSON. It lives as long as the server.
 *
 *     curl http://127.0.0.1:8080/items
 *     curl -d '{"text":"buy milk"}' http://127.0.0.1:8080/items
 *     curl -X DELETE http://127.0.0.1:8080/items/1
 */
#include <cweb.h>

#define ITEMS_MAX 1000

struct items {
    pthread_mutex_t lock; /* handlers run on several threads */
    json_int_t last_id;
    json_t *array; /* of {"id", "text"} */
};

static struct items *items;

static void load(struct cweb_context *ctx) {
    items = container_get(ctx->cache, "json_list.items");
    if (items != NULL) {
        return; /* an earlier version has left the list */
    }
    items = calloc(1, sizeof *items);
    pthread_mutex_init(&items->lock, NULL);
    items->array = json_array();
    container_set(ctx->cache, "json_list.items", items);
}

static int list(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    pthread_mutex_lock(&items->lock);
    int result = cweb_respond_json(res, HTTP_200_OK, json_deep_copy(items->array));
    pthread_mutex_unlock(&items->lock);
    return result;
}

static int add(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    json_t *item = NULL;
    json_t *input = json_loadb(req->body, (size_t)req->content_length, 0, NULL);
    json_t *text = json_object_get(input, "text");
    pthread_mutex_lock(&items->lock);
    if (json_is_string(text) && json_array_size(items->array) < ITEMS_MAX) {
        item = json_pack("{s:I, s:O}", "id", ++items->last_id, "text", text);
        json_array_append(items->array, item);
    }
    pthread_mutex_unlock(&items->lock);
    json_decref(input);
    if (item == NULL) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, "text/plain", "Wanted {\"text\": \"...\"}, at most %d times\n",
                            ITEMS_MAX);
    }
    return cweb_respond_json(res, (http_error_t)201, item);
}

static int delete_item(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    json_int_t id = strtoll(req->path + strlen("/items/"), NULL, 10);
    int found = 0;
    pthread_mutex_lock(&items->lock);
    for (size_t i = 0; i < json_array_size(items->array) && !found; i++) {
        if (json_integer_value(json_object_get(json_array_get(items->array, i), "id")) == id) {
            json_array_remove(items->array, i);
            found = 1;
        }
    }
    pthread_mutex_unlock(&items->lock);
    return found ? cweb_respond(res, HTTP_200_OK, "text/plain", "Deleted\n")
                 : cweb_respond(res, HTTP_404_NOT_FOUND, "text/plain", "No such item\n");
}

export module_t config = {
    .name = "json_list",
    .author = "cweb",
    .routes = {
        {"/items", "GET", list, NONE},
        {"/items", "POST", add, NONE},
        {"/items/[0-9]+", "DELETE", delete_item, NONE},
    },
    .size = 3,
    .onload = load,
};
