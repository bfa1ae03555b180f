/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the functions of the headers return, as modules count on it. A handler answers "ok", or the check that failed. */
#include <list.h>
#include <map.h>
#include <pool.h>
#include <queue.h>
#include <unistd.h>

HANDLER(maps) {
    int one = 1, two = 2;
    CHECK(map_create(0) == NULL);
    struct map *map = map_create(1);
    CHECK(map != NULL && map_size(map) == 0 && map_get(map, "a") == NULL);
    CHECK(map_insert(map, "a", &one) == MAP_OK && map_insert(map, "b", &one) == MAP_OK);
    CHECK(map_insert(map, "a", &two) == MAP_OK && map_get(map, "a") == &two && map_size(map) == 2);
    CHECK(map_remove(map, "a") == MAP_OK && map_remove(map, "a") == MAP_KEY_NOT_FOUND && map_size(map) == 1);
    CHECK(map_insert(NULL, "a", &one) == MAP_ERR && map_insert(map, NULL, &one) == MAP_ERR);
    CHECK(map_remove(NULL, "a") == MAP_ERR && map_remove(map, NULL) == MAP_ERR);
    for (int i = 0; i < 1000; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        CHECK(map_insert(map, key, &one) == MAP_OK);
    }
    CHECK(map_size(map) == 1001);
    map_destroy(map);
    PASS();
}

/* As modules list what a map holds. */
HANDLER(walk) {
    struct map *map = map_create(32);
    size_t seen = 0, gone = 0;
    CHECK(map != NULL && map->capacity >= 32 && map->tombstones == 0);
    map_insert(map, "kept", "1");
    map_insert(map, "removed", "2");
    map_insert(map, "also kept", "3");
    map_remove(map, "removed");
    for (size_t i = 0; i < map->capacity; i++) {
        struct map_entry *entry = &map->entries[i];
        if (entry->state == MAP_ENTRY_OCCUPIED) {
            CHECK(strstr(entry->key, "kept") != NULL && map_get(map, entry->key) == entry->value);
            seen++;
        } else {
            CHECK(entry->state == MAP_ENTRY_EMPTY || entry->state == MAP_ENTRY_TOMBSTONE);
            gone += entry->state == MAP_ENTRY_TOMBSTONE;
        }
    }
    CHECK(seen == 2 && map->size == 2 && gone == map->tombstones);
    map_destroy(map);
    PASS();
}

HANDLER(containers) {
    struct container own;
    CHECK(container_init(&own, 8) == 0 && own.data != NULL && own.data->capacity >= 8);
    CHECK(container_set(&own, "k", "v") == MAP_OK && strcmp(container_get(&own, "k"), "v") == 0);
    CHECK(container_set(&own, "k", NULL) == MAP_ERR && container_set(&own, NULL, "v") == MAP_ERR);
    CHECK(container_set(NULL, "k", "v") == MAP_ERR && strcmp(container_get(&own, "k"), "v") == 0);
    CHECK(container_get(&own, "none") == NULL && container_remove(&own, "none") == MAP_KEY_NOT_FOUND);
    CHECK(container_remove(&own, "k") == MAP_OK && container_get(&own, "k") == NULL);
    container_shutdown(&own);
    /* The shared one can be walked with its mutex held. */
    CHECK(container_set(ctx->cache, "walked", "here") == MAP_OK);
    int found = 0;
    pthread_mutex_lock(&ctx->cache->mutex);
    for (size_t i = 0; i < ctx->cache->data->capacity; i++) {
        struct map_entry *entry = &ctx->cache->data->entries[i];
        found += entry->state == MAP_ENTRY_OCCUPIED && strcmp(entry->key, "walked") == 0;
    }
    pthread_mutex_unlock(&ctx->cache->mutex);
    CHECK(found == 1 && container_remove(ctx->cache, "walked") == MAP_OK);
    PASS();
}

static char visited[8];

static void visit(void *data) {
    strcat(visited, data);
}

HANDLER(lists) {
    static char a[] = "a", b[] = "b", c[] = "c", same[] = "a";
    struct list *list = list_create();
    visited[0] = '\0';
    list_add(list, a);
    list_add(list, b);
    list_add(list, c);
    CHECK(list->size == 3 && list->head->data == c && list->head->next->data == b);
    list_iterate(list, visit);
    CHECK(strcmp(visited, "cba") == 0);
    CHECK(list_remove(list, same) == 0 && list_remove(NULL, a) == 0); /* pointers are compared */
    CHECK(list_remove(list, b) == 1 && list_remove(list, b) == 0 && list->size == 2);
    list_add(list, a);
    CHECK(list_remove(list, a) == 1 && list->size == 2 && list->head->data == c); /* the first match */
    LIST_FOREACH_SAFE(list, node, tmp) {
        CHECK(list_remove(list, node->data) == 1);
    }
    CHECK(list->size == 0 && list->head == NULL && list_remove(list, a) == 0);
    list_destroy(list);
    PASS();
}

static void *put_two(void *queue) {
    queue_enqueue(queue, "2");
    queue_enqueue(queue, "3");
    return NULL;
}

HANDLER(queues) {
    void *item = NULL;
    pthread_t producer;
    CHECK(queue_create(0) == NULL);
    struct queue *queue = queue_create(1);
    CHECK(queue_try_dequeue(queue, &item) == QUEUE_EMPTY && queue_size(queue) == 0);
    CHECK(queue_try_enqueue(queue, "1") == QUEUE_OK && queue_try_enqueue(queue, "x") == QUEUE_FULL);
    CHECK(queue_size(queue) == 1 && queue_enqueue(NULL, "x") == QUEUE_ERROR && queue_dequeue(queue, NULL) == QUEUE_ERROR);
    CHECK(pthread_create(&producer, NULL, put_two, queue) == 0); /* waits while it is full */
    for (char expected = '1'; expected <= '3'; expected++) {
        CHECK(queue_dequeue(queue, &item) == QUEUE_OK && *(char *)item == expected);
    }
    pthread_join(producer, NULL);
    queue_destroy(queue);
    PASS();
}

static atomic_int gate, ran;

static void wait_for_gate(void *unused) {
    (void)unused;
    while (!atomic_load(&gate)) {
        usleep(1000);
    }
    atomic_fetch_add(&ran, 1);
}

HANDLER(pools) {
    atomic_store(&gate, 0);
    atomic_store(&ran, 0);
    CHECK(thread_pool_init(0) == NULL && thread_pool_is_full(NULL) == 0 && thread_pool_pending_count(NULL) == 0);
    struct thread_pool *pool = thread_pool_init(2);
    CHECK(pool->max_threads == 2 && thread_pool_is_full(pool) == 0 && pool->active_threads == 0);
    thread_pool_add_task(pool, wait_for_gate, NULL);
    CHECK(thread_pool_is_full(pool) == 0);
    thread_pool_add_task(pool, wait_for_gate, NULL);
    int active = 0, flagged = 0;
    for (int i = 0; active < 2 && i < 25000; i++) {
        pthread_mutex_lock(&pool->lock);
        active = pool->active_threads;
        flagged = pool->active_flags[0] + pool->active_flags[1];
        pthread_mutex_unlock(&pool->lock);
        usleep(1000);
    }
    CHECK(active == 2 && flagged == 2 && thread_pool_is_full(pool) == 1);
    thread_pool_add_task(pool, wait_for_gate, NULL);
    pthread_mutex_lock(&pool->lock);
    int waiting = pool->queue_length == 1 && pool->task_queue == pool->task_tail && pool->task_queue->function == wait_for_gate;
    pthread_mutex_unlock(&pool->lock);
    CHECK(waiting);
    thread_pool_cancel_all(pool);
    atomic_store(&gate, 1);
    thread_pool_add_task(pool, wait_for_gate, NULL);
    thread_pool_request_stop(pool);
    thread_pool_add_task(pool, wait_for_gate, NULL); /* refused */
    thread_pool_destroy(pool);
    CHECK(atomic_load(&ran) == 3);
    PASS();
}

HANDLER(schedulers) {
    struct scheduler own;
    atomic_store(&gate, 0);
    atomic_store(&ran, 0);
    CHECK(scheduler_init(&own, 2) == 0 && own.running && own.accepting && own.capacity == 2);
    CHECK(scheduler_add(&own, wait_for_gate, NULL, ASYNC) == 0);
    for (int i = 0; own.size > 0 && i < 25000; i++) {
        usleep(1000);
    }
    CHECK(scheduler_add(&own, wait_for_gate, NULL, ASYNC) == 0 && scheduler_add(&own, wait_for_gate, NULL, SYNC) == 0);
    CHECK(scheduler_add(&own, wait_for_gate, NULL, ASYNC) == -1); /* full */
    CHECK(own.head->work == wait_for_gate && own.head->next == own.tail && own.size == 2);
    scheduler_request_stop(&own, 1);
    CHECK(!own.accepting && own.draining && scheduler_add(&own, wait_for_gate, NULL, ASYNC) == -1);
    atomic_store(&gate, 1);
    scheduler_shutdown(&own);
    CHECK(atomic_load(&ran) == 3);
    atomic_store(&gate, 0);
    CHECK(scheduler_init(&own, 9) == 0 && scheduler_add(&own, wait_for_gate, NULL, ASYNC) == 0);
    for (int i = 0; own.size > 0 && i < 25000; i++) {
        usleep(1000);
    }
    CHECK(scheduler_add(&own, wait_for_gate, NULL, ASYNC) == 0 && scheduler_pending_count(&own) == 2);
    scheduler_request_stop(&own, 0); /* what waits is dropped */
    atomic_store(&gate, 1);
    scheduler_shutdown(&own);
    CHECK(atomic_load(&ran) == 4);
    PASS();
}

HANDLER(stores) {
    char *second = strdup("second"), *third = strdup("third");
    CHECK(http_kv_create(0) == NULL);
    http_kv_store_t *store = http_kv_create(1);
    CHECK(store->capacity == 1 && store->size == 0 && http_kv_size(store) == 0);
    CHECK(http_kv_insert(store, "Key", strdup("first")) == 0 && http_kv_insert(store, "KEY", second) == 0);
    CHECK(strcmp(http_kv_get(store, "kEY"), "first") == 0 && strcmp(store->entries[0].key, "key") == 0);
    CHECK(http_kv_insert(store, "more", third) == -1 && http_kv_insert(store, NULL, third) == -1);
    CHECK(http_kv_get(store, "more") == NULL && http_kv_size(store) == 1);
    http_kv_destroy(store, 1);
    free(second);
    free(third);
    PASS();
}

HANDLER(parse) {
    http_request_t got;
    static const char head[] = "POST /a/b?x=1&y=%20z&x=2 HTTP/1.1\r\nHost: here\r\nX-Name: Value\r\nContent-Length: 5\r\n\r\n";
    CHECK(http_parse(head, sizeof head - 1, &got) == 0);
    CHECK(got.method == HTTP_POST && got.version == HTTP_VERSION_1_1 && strcmp(got.path, "/a/b") == 0);
    CHECK(strcmp(http_kv_get(got.params, "x"), "1") == 0 && strcmp(http_kv_get(got.params, "y"), " z") == 0);
    CHECK(strcmp(http_kv_get(got.headers, "x-name"), "Value") == 0 && got.content_length == 5);
    CHECK(got.keep_alive && !got.close);
    cweb_request_free(&got);
    static const char closing[] = "GET / HTTP/1.0\r\nHost: h\r\nConnection: close\r\n\r\n";
    CHECK(http_parse(closing, sizeof closing - 1, &got) == 0);
    CHECK(got.version == HTTP_VERSION_1_0 && got.close && !got.keep_alive && got.content_length == 0);
    cweb_request_free(&got);
    static const char *const wrong[] = {"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nX: y\r\n\r\n"};
    for (int i = 0; i < 2; i++) {
        CHECK(http_parse(wrong[i], strlen(wrong[i]), &got) == -1 && got.status == HTTP_400_BAD_REQUEST);
        cweb_request_free(&got);
    }
    PASS();
}

HANDLER(parse_data) {
    http_request_t got;
    static const char head[] = "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n";
    CHECK(http_parse(head, sizeof head - 1, &got) == 0);
    got.body = strdup("a=1&b=%41&c=2");
    CHECK(http_parse_data(&got) == 0 && strcmp(http_kv_get(got.data, "a"), "1") == 0);
    CHECK(strcmp(http_kv_get(got.data, "b"), "A") == 0 && http_kv_size(got.data) == 2); /* no more than content_length */
    cweb_request_free(&got);
    PASS();
}

HANDLER(upgrade) {
    http_request_t got;
    static const char *const heads[] = {"Upgrade: websocket\r\nConnection: Upgrade", "upgrade: WebSocket\r\nConnection: keep-alive, Upgrade",
                                        "Upgrade: websocket\r\nConnection: keep-alive", "Connection: Upgrade", "Upgrade: h2c\r\nConnection: Upgrade"};
    for (int i = 0; i < 5; i++) {
        char text[256];
        snprintf(text, sizeof text, "GET /ws HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", heads[i]);
        CHECK(http_parse(text, strlen(text), &got) == 0);
        CHECK(http_is_websocket_upgrade(&got) == (i < 2));
        cweb_request_free(&got);
    }
    PASS();
}

HANDLER(chunks) {
    char *out = NULL;
    size_t length = 0;
    CHECK(http_decode_chunked_body("3\r\nabc\r\n0\r\n\r\n", 13, &out, &length) == 0 && length == 3 && strcmp(out, "abc") == 0);
    free(out);
    CHECK(http_decode_chunked_body("3\r\nabc\r\n0\r\n", 11, &out, &length) == 1);
    CHECK(http_decode_chunked_body("x\r\nabc\r\n", 8, &out, &length) == -1);
    PASS();
}

HANDLER(uuids) {
    struct cweb_uuid uuid, same;
    CHECK(sizeof uuid.str == UUID_STR_LEN && uuid_from_string(&uuid, "0190f1a2-7b3c-7def-8123-456789abcdef") == 0);
    CHECK(uuid_is_valid(&uuid) && uuid_from_string(&same, uuid_c_str(&uuid)) == 0 && uuid_equal(&uuid, &same));
    CHECK(uuid_from_string(&same, "no uuid") == -1 && !uuid_is_valid(&same));
    uuid_clear(&uuid);
    CHECK(!uuid_is_valid(&uuid));
    PASS();
}

static int own_create(void *user_data, const char *job_name, const char *payload_json, cweb_uuid_t *job_uuid_out) {
    (void)user_data, (void)job_name, (void)payload_json, (void)job_uuid_out;
    return -1;
}

static int work(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    return 0;
}

HANDLER(bind) {
    struct job_payload none = {"{}", 2};
    cweb_uuid_t uuid;
    jobs_create_fn_t create = own_create;
    jobs_bind(create, NULL); /* the server's stays */
    CHECK(none.json_len == 2 && jobs_create("interface-work", "{}", &uuid) == 0 && uuid_is_valid(&uuid));
    PASS();
}

/* Positional all the way, with the private fields as some have them. */
export struct module config = {
    "interface",
    "test",
    {
        {"/maps", "GET", maps, NONE, {0}, 0},
        {"/walk", "GET", walk, NONE},
        {"/containers", "GET", containers, NONE},
        {"/lists", "GET", lists, NONE},
        {"/queues", "GET", queues, NONE},
        {"/pools", "GET", pools, NONE},
        {"/schedulers", "GET", schedulers, NONE},
        {"/stores", "GET", stores, NONE},
        {"/parse", "GET", parse, NONE},
        {"/parse-data", "GET", parse_data, NONE},
        {"/upgrade", "GET", upgrade, NONE},
        {"/chunks", "GET", chunks, NONE},
        {"/uuids", "GET", uuids, NONE},
        {"/bind", "GET", bind, NONE},
    },
    14,
    {},
    0,
    {{"interface-work", work, NULL}},
    1,
    NULL,
    NULL,
};
