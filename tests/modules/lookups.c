// Look-ups in stores, maps, queues and UUIDs of the module's own: their results are known to no compiler, so none may warn.
#include <cweb.h>
#include <map.h>
#include <queue.h>

static int lookups(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    int at = 0;
    struct map *map = map_create(2);
    map_insert(map, "a", "one");
    at += sprintf(res->body + at, "%s ", (char *)map_get(map, "a"));
    map_destroy(map);

    http_kv_store_t *store = http_kv_create(2);
    http_kv_insert(store, "Key", strdup("two"));
    at += sprintf(res->body + at, "%s ", http_kv_get(store, "key"));
    http_kv_destroy(store, 1);

    struct container container;
    container_init(&container, 2);
    container_set(&container, "b", "three");
    at += sprintf(res->body + at, "%s ", (char *)container_get(&container, "b"));
    container_shutdown(&container);

    void *item;
    struct queue *queue = queue_create(2);
    queue_enqueue(queue, "four");
    queue_dequeue(queue, &item);
    at += sprintf(res->body + at, "%s ", (char *)item);
    queue_destroy(queue);

    cweb_uuid_t uuid;
    at += sprintf(res->body + at, "%d", uuid_from_string(&uuid, "short"));
    (void)ctx, (void)req;
    return 0;
}

export module_t config = {"lookups", "tests", {{"/lookups", "GET", lookups, NONE}}, 1};
