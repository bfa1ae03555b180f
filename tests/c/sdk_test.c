/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Exercises the header-only part of the SDK. Runs with the address and undefined-behaviour sanitizers. */
#define _GNU_SOURCE
#include <cweb.h>
#include <cweb_file.h>

#include <defer.h>
#include <libevent.h>
#include <list.h>
#include <pool.h>
#include <queue.h>
#include <unistd.h>

#include "check.h"

static void test_map(void) {
    struct map *map = map_create(1);
    char key[32];
    static int values[1000];
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        CHECK(map_insert(map, key, &values[i]) == MAP_OK);
    }
    CHECK(map_size(map) == 1000);
    for (int i = 0; i < 1000; i += 2) {
        snprintf(key, sizeof key, "key%d", i);
        CHECK(map_remove(map, key) == MAP_OK);
        CHECK(map_remove(map, key) == MAP_KEY_NOT_FOUND);
    }
    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof key, "key%d", i);
        CHECK(map_get(map, key) == (i % 2 ? (void *)&values[i] : NULL));
    }
    CHECK(map_insert(map, "key1", &values[0]) == MAP_OK);
    CHECK(map_get(map, "key1") == &values[0]);
    CHECK(map_size(map) == 500);
    CHECK(map_insert(map, NULL, NULL) == MAP_ERR && map_insert(NULL, "a", NULL) == MAP_ERR);
    CHECK(map_get(NULL, "a") == NULL && map_size(NULL) == 0 && map_create(0) == NULL);
    /* Walked as modules do, removing on the way; what was removed leaves a mark until the table is made anew. */
    size_t seen = 0;
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].state == MAP_ENTRY_OCCUPIED) {
            char *again = strdup(map->entries[i].key);
            CHECK(map_get(map, again) == map->entries[i].value && map_remove(map, again) == MAP_OK);
            CHECK(map->entries[i].state == MAP_ENTRY_TOMBSTONE && map->entries[i].key == NULL);
            free(again);
            seen++;
        }
    }
    CHECK(seen == 500 && map_size(map) == 0 && map->tombstones > 0);
    /* Removed places are used again: the table does not grow by what comes and goes. */
    size_t capacity = map->capacity;
    for (int i = 0; i < 100000; i++) {
        snprintf(key, sizeof key, "more%d", i);
        CHECK(map_insert(map, key, &values[0]) == MAP_OK && map_remove(map, key) == MAP_OK);
    }
    CHECK(map->capacity == capacity && map->size == 0 && map_get(map, "more99999") == NULL);
    map_destroy(map);
    map_destroy(NULL);
}

static void test_list(void) {
    int a = 1, b = 2, c = 3, sum = 0;
    struct list *list = list_create();
    list_add(list, &a);
    list_add(list, &b);
    list_add(list, &c);
    CHECK(list->size == 3 && list->head->data == &c);
    LIST_FOREACH(list, node) {
        sum = sum * 10 + *(int *)node->data;
    }
    CHECK(sum == 321);
    CHECK(list_remove(list, &b) == 1 && list_remove(list, &b) == 0 && list_remove(NULL, &b) == 0);
    LIST_FOREACH_SAFE(list, node, next) {
        list_remove(list, node->data);
    }
    CHECK(list->size == 0 && list->head == NULL);
    list_destroy(list);
}

static void *dequeue_one(void *queue) {
    void *item = NULL;
    return queue_dequeue(queue, &item) == QUEUE_OK ? item : NULL;
}

static void test_queue(void) {
    static char items[100];
    void *item = NULL;
    pthread_t thread;
    struct queue *bounded = queue_create(2);
    CHECK(queue_try_dequeue(bounded, &item) == QUEUE_EMPTY);
    CHECK(queue_enqueue(bounded, &items[0]) == QUEUE_OK && queue_enqueue(bounded, &items[1]) == QUEUE_OK);
    CHECK(queue_try_enqueue(bounded, &items[2]) == QUEUE_FULL && queue_size(bounded) == 2);
    CHECK(queue_dequeue(bounded, &item) == QUEUE_OK && item == &items[0]);
    queue_destroy(bounded);

    CHECK(queue_create(0) == NULL);
    struct queue *queue = queue_create(1000);
    pthread_create(&thread, NULL, dequeue_one, queue);
    CHECK(queue_enqueue(queue, &items[5]) == QUEUE_OK);
    pthread_join(thread, &item);
    CHECK(item == &items[5]);
    for (int i = 0; i < 100; i++) {
        CHECK(queue_try_enqueue(queue, &items[i]) == QUEUE_OK);
    }
    for (int i = 0; i < 100; i++) {
        CHECK(queue_try_dequeue(queue, &item) == QUEUE_OK && item == &items[i]);
    }
    pthread_create(&thread, NULL, dequeue_one, queue);
    cweb_queue_stop(queue);
    pthread_join(thread, &item);
    CHECK(item == NULL && queue_enqueue(queue, items) == QUEUE_ERROR);
    queue_destroy(queue);
}

static void count_up(void *counter) {
    __atomic_add_fetch((int *)counter, 1, __ATOMIC_RELAXED);
}

static void test_pool(void) {
    int counter = 0;
    struct thread_pool *pool = thread_pool_init(3);
    for (int i = 0; i < 200; i++) {
        thread_pool_add_task(pool, count_up, &counter);
    }
    thread_pool_add_task(pool, NULL, NULL);
    thread_pool_request_stop(pool);
    thread_pool_add_task(pool, count_up, &counter);
    thread_pool_destroy(pool);
    CHECK(counter == 200);
    CHECK(thread_pool_init(0) == NULL && thread_pool_is_full(NULL) == 0);
}

static void test_container(void) {
    struct container cache;
    int value;
    CHECK(container_init(&cache, 0) == -1 && container_init(NULL, 1) == -1 && container_init(&cache, 1) == 0);
    CHECK(container_get(&cache, "x") == NULL);
    CHECK(container_set(&cache, "x", &value) == MAP_OK && container_get(&cache, "x") == &value);
    /* Who locked the mutex itself may still call. */
    pthread_mutex_lock(&cache.mutex);
    CHECK(container_get(&cache, "x") == &value);
    CHECK(pthread_mutex_unlock(&cache.mutex) == 0);
    CHECK(container_remove(&cache, "x") == MAP_OK && container_remove(&cache, "x") == MAP_KEY_NOT_FOUND);
    CHECK(container_set(&cache, NULL, &value) == MAP_ERR && container_set(&cache, "y", NULL) == MAP_ERR);
    container_shutdown(&cache);
}

struct order {
    struct scheduler *scheduler;
    char text[64];
};

static void append_a(void *data) {
    strcat(((struct order *)data)->text, "a");
}

static void append_b_and_nest(void *data) {
    struct order *order = data;
    strcat(order->text, "b");
    CHECK(scheduler_add(order->scheduler, append_a, order, SYNC) == 0); /* later, also from here */
    strcat(order->text, "c");
}

static void test_scheduler(void) {
    struct scheduler scheduler;
    struct order order = {&scheduler, ""};
    CHECK(scheduler_init(&scheduler, 0) == 0);
    CHECK(scheduler_add(&scheduler, append_a, &order, ASYNC) == 0);
    CHECK(scheduler_add(&scheduler, append_b_and_nest, &order, SYNC) == 0);
    while (scheduler_pending_count(&scheduler) > 0) {
        usleep(1000);
    }
    CHECK(strcmp(order.text, "abca") == 0);
    CHECK(scheduler_add(&scheduler, append_a, &order, ASYNC) == 0);
    scheduler_request_stop(&scheduler, 1);
    CHECK(scheduler_add(&scheduler, append_a, &order, ASYNC) == -1);
    CHECK(scheduler_add(&scheduler, append_a, &order, SYNC) == -1);
    scheduler_shutdown(&scheduler);
    CHECK(strcmp(order.text, "abcaa") == 0);
}

static void test_kv(void) {
    http_kv_store_t *store = http_kv_create(2);
    char *second = strdup("2");
    CHECK(http_kv_insert(store, "Content-Type", strdup("1")) == 0);
    CHECK(http_kv_insert(store, "CONTENT-TYPE", second) == 0); /* not taken */
    free(second);
    CHECK(strcmp(http_kv_get(store, "content-type"), "1") == 0);
    CHECK(strcmp(store->entries[0].key, "content-type") == 0);
    CHECK(http_kv_insert(store, "b", strdup("3")) == 0 && http_kv_size(store) == 2);
    CHECK(http_kv_insert(store, "c", NULL) == -1 && http_kv_insert(NULL, "c", NULL) == -1);
    CHECK(http_kv_get(store, "zzz") == NULL && http_kv_get(NULL, "a") == NULL);
    http_kv_destroy(store, 1);
    CHECK(http_kv_create(0) == NULL);
}

static void test_uuid(void) {
    cweb_uuid_t a, b;
    CHECK(uuid_from_string(&a, "0190F1A2-7b3c-7def-8123-456789abcdef") == 0 && uuid_is_valid(&a));
    CHECK(uuid_from_string(&b, "0190f1a2-7b3c-7def-8123-456789ABCDEF") == 0 && uuid_equal(&a, &b));
    CHECK(uuid_from_string(&b, "0190f1a2") == -1 && !uuid_is_valid(&b) && !uuid_equal(&a, &b));
    CHECK(uuid_from_string(&b, "0190f1a2-7b3c-7def-8123-456789abcdefx") == -1);
    uuid_clear(&a);
    CHECK(strcmp(uuid_c_str(&a), "") == 0 && strcmp(uuid_c_str(NULL), "") == 0);
}

static void test_parse(void) {
    http_request_t req;
    const char *get = "GET /a%20b?x=1%2B1&y=a+b&x=2&z HTTP/1.1\r\nHost: h\r\nX-A:  v \r\n"
                      "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    CHECK(http_parse(get, strlen(get), &req) == 0);
    CHECK(req.method == HTTP_GET && strcmp(req.path, "/a%20b") == 0 && req.content_length == 0);
    CHECK(strcmp(http_kv_get(req.params, "x"), "1+1") == 0 && strcmp(http_kv_get(req.params, "y"), "a b") == 0);
    CHECK(strcmp(http_kv_get(req.params, "z"), "") == 0 && strcmp(http_kv_get(req.headers, "x-a"), "v") == 0);
    CHECK(req.websocket == 1 && req.keep_alive && !req.close);
    cweb_request_free(&req);

    const char *form = "POST /f HTTP/1.0\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                       "Content-Length: 9\r\n\r\na=%41&b=%";
    CHECK(http_parse(form, strlen(form), &req) == 0 && http_parse_data(&req) == 0);
    CHECK(strcmp(http_kv_get(req.data, "a"), "A") == 0 && strcmp(http_kv_get(req.data, "b"), "%") == 0);
    cweb_request_free(&req);

    const char *parts = "--xx\r\nContent-Disposition: form-data; name=\"code\"; filename=\"a.c\"\r\n"
                        "Content-Type: text/plain\r\n\r\nint x;\r\n--xx\r\nContent-Disposition: form-data; name=b\r\n\r\n\r\n--xx--\r\n";
    char whole[1024];
    snprintf(whole, sizeof whole, "POST /m HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=\"xx\"\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(parts), parts);
    CHECK(http_parse(whole, strlen(whole), &req) == 0 && http_parse_data(&req) == 0);
    CHECK(http_kv_get(req.data, "code") != NULL && strcmp(http_kv_get(req.data, "code"), "int x;") == 0);
    CHECK(http_kv_get(req.data, "b") != NULL && strcmp(http_kv_get(req.data, "b"), "") == 0);
    cweb_request_free(&req);

    const char *wrong[] = {"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nX: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n",
                           "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1x\r\n\r\n"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK(http_parse(wrong[i], strlen(wrong[i]), &req) == -1 && req.status == HTTP_400_BAD_REQUEST);
        cweb_request_free(&req);
    }
    const char *head = "POST /?t=1&T=2 HTTP/1.1\r\nHost: h\r\nX: a\r\nx: b\r\nContent-Length: 700\r\n\r\npart";
    CHECK(http_parse(head, strlen(head), &req) == 0 && req.content_length == 700 && req.body == NULL);
    size_t at = 0;
    CHECK(strcmp(cweb_kv_next(req.params, "t", &at), "1") == 0 && strcmp(cweb_kv_next(req.params, "t", &at), "2") == 0);
    CHECK(cweb_kv_next(req.params, "t", &at) == NULL && http_kv_size(req.params) == 1);
    at = 0;
    CHECK(strcmp(cweb_kv_next(req.headers, "x", &at), "a") == 0 && strcmp(cweb_kv_next(req.headers, "x", &at), "b") == 0);
    CHECK(http_parse_data(&req) == -1);
    cweb_request_free(&req);

    /* Every truncation and every single changed byte is survived, read from a buffer of exactly its size. */
    size_t length = strlen(whole);
    for (size_t cut = 0; cut <= length; cut++) {
        for (int change = 0; change < 2; change++) {
            size_t size = change ? length : cut;
            char *copy = malloc(size + !size);
            memcpy(copy, whole, size);
            if (change && cut < length) {
                copy[cut] = (char)(copy[cut] ^ 0x15);
            }
            (void)http_parse(copy, size, &req);
            (void)http_parse_data(&req);
            cweb_request_free(&req);
            free(copy);
        }
    }
}

static void test_chunked(void) {
    char *out;
    size_t length;
    CHECK(http_decode_chunked_body("3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: t\r\n\r\n", 40, &out, &length) == 0);
    CHECK(out != NULL && length == 13 && strcmp(out, "abc0123456789") == 0);
    free(out);
    CHECK(http_decode_chunked_body("3\r\nab", 5, &out, &length) == 1 && out == NULL);
    CHECK(http_decode_chunked_body("3\r\nabcde", 8, &out, &length) == -1);
    CHECK(http_decode_chunked_body("zz\r\n", 4, &out, &length) == -1);
    CHECK(http_decode_chunked_body("ffffffffffffffffffff\r\n", 22, &out, &length) != 0);
    CHECK(http_decode_chunked_body("", 0, &out, &length) == 1);
    CHECK(http_decode_chunked_body(NULL, 0, &out, &length) == -1);
}

static void on_readable(struct event *event, void *arg) {
    (void)event, (void)arg;
}

static void *stop_dispatch(void *unused) {
    event_dispatch_stop();
    return unused;
}

/* The loop is the server's; what a program without one can see. */
static void test_event(void) {
    pthread_t stopper;
    struct event *event = event_new(0, 0, on_readable, NULL);
    CHECK(event != NULL && event_new(0, 0, NULL, NULL) == NULL && event_add(NULL) == -1 && event_del(NULL) == -1);
    event_free(event);
    event_free(NULL);
    pthread_create(&stopper, NULL, stop_dispatch, NULL);
    event_dispatch();
    pthread_join(stopper, NULL);
}

#ifdef defer
static void run_deferred(char *text) {
    defer {
        strcat(text, "2");
    }
    defer {
        strcat(text, "1");
    }
    strcat(text, "0");
}
#endif

static void test_defer(void) {
    char *freed cweb_defer(cweb_free_pointer) = strdup("x");
    CHECK(freed != NULL);
#ifdef defer
    char text[8] = "";
    run_deferred(text);
    CHECK(strcmp(text, "012") == 0);
#endif
}

static int count_row(void *arg, int columns, char **values, char **names) {
    (void)columns, (void)values, (void)names;
    ++*(int *)arg;
    return 0;
}

static void test_database(void) {
    struct sqldb db;
    sqlite3_stmt *stmt = NULL;
    int rows = 0;
    CHECK(sqldb_init(&db, ":memory:") == 0);
    CHECK(db.exec(&db, "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)", NULL, NULL) == SQLITE_OK);
    CHECK(db.prepare(&db, "INSERT INTO t(name) VALUES(?)", -1, &stmt, NULL) == SQLITE_OK);
    CHECK(db.bind_text(stmt, 1, "alice", -1, SQLITE_TRANSIENT) == SQLITE_OK);
    CHECK(db.step(stmt) == SQLITE_DONE && db.reset(stmt) == SQLITE_OK && db.finalize(stmt) == SQLITE_OK);
    CHECK(db.changes(&db) == 1 && db.last_insert_rowid(&db) == 1);
    CHECK(db.prepare(&db, "SELECT id, name FROM t WHERE id = ?", -1, &stmt, NULL) == SQLITE_OK);
    CHECK(db.bind_int(stmt, 1, 1) == SQLITE_OK && db.step(stmt) == SQLITE_ROW);
    CHECK(db.column_count(stmt) == 2 && db.column_int(stmt, 0) == 1 && strcmp(db.column_text(stmt, 1), "alice") == 0);
    db.finalize(stmt);
    CHECK(db.exec(&db, "SELECT * FROM t", count_row, &rows) == SQLITE_OK && rows == 1);
    CHECK(db.exec(&db, "nonsense", NULL, NULL) == SQLITE_ERROR);
    sqldb_shutdown(&db);
    CHECK(sqldb_init(&db, "/nonexistent/dir/x.db") == -1);
    CHECK(db.exec(&db, "SELECT 1", NULL, NULL) == SQLITE_MISUSE);
    CHECK(db.prepare(&db, "SELECT 1", -1, &stmt, NULL) == SQLITE_MISUSE && stmt == NULL);
    CHECK(db.step(stmt) == SQLITE_MISUSE && db.column_text(stmt, 0) == NULL && db.column_int(stmt, 0) == 0);
    CHECK(db.column_count(stmt) == 0 && db.finalize(stmt) == SQLITE_OK && db.changes(&db) == 0);
    sqldb_shutdown(&db);
}

/* In the directory of the test lie server.crt and server.key. */
static void test_crypto(void) {
    struct crypto crypto;
    char signed_token[1024];
    CHECK(crypto_init(&crypto, "missing.crt", "missing.key") == -1 && crypto.status == CRYPTO_FAILURE);
    CHECK(crypto.ops.sign_token(&crypto, "a", signed_token, sizeof signed_token) == -1);
    crypto_shutdown(&crypto);
    if (access("server.key", R_OK) != 0) {
        return;
    }
    CHECK(crypto_init(&crypto, NULL, NULL) == 0 && crypto.status == CRYPTO_LOADED);
    CHECK(crypto.ops.sign_token(&crypto, "token", signed_token, 8) == -1);
    CHECK(crypto.ops.sign_token(&crypto, "token", signed_token, sizeof signed_token) > 0);
    CHECK(crypto.ops.verify_token(&crypto, signed_token, "token", 5) == 0);
    CHECK(crypto.ops.verify_token(&crypto, signed_token, "taken", 5) == -1);
    CHECK(crypto.ops.verify_token(&crypto, "no base64!", "token", 5) == -1);
    crypto_shutdown(&crypto);
}

static void test_helpers(void) {
    http_response_t res;
    http_request_t req;
    memset(&res, 0, sizeof res);
    memset(&req, 0, sizeof req);
    res.headers = http_kv_create(8);
    res.body = calloc(1, HTTP_RESPONSE_SIZE);
    CHECK(cweb_respond(&res, HTTP_200_OK, "text/plain", "%s %d", "n", 7) == 0);
    CHECK(strcmp(res.body, "n 7") == 0 && res.content_length == 3);
    CHECK(cweb_respond_data(&res, HTTP_404_NOT_FOUND, "a/b", "x\0y", 3) == 0 && res.content_length == 3);
    CHECK(strcmp(http_kv_get(res.headers, "Content-Type"), "a/b") == 0 && http_kv_size(res.headers) == 1);
    CHECK(cweb_respond_json(&res, HTTP_200_OK, json_pack("{s:i}", "a", 1)) == 0 && strcmp(res.body, "{\"a\":1}") == 0);
    CHECK(cweb_send_file(&req, &res, "/nonexistent") == -1 && res.status == HTTP_404_NOT_FOUND);
    CHECK(cweb_send_file(&req, &res, "/") == -1 && res.status == HTTP_404_NOT_FOUND);
    CHECK(cweb_send_file(&req, &res, "/bin/sh") == 0 && res.content_length > 1000);
    CHECK(memcmp(res.body, "\177ELF", 4) == 0);
    CHECK(cweb_path_is_safe("a/b..c/.d") && cweb_path_is_safe("static/x"));
    CHECK(!cweb_path_is_safe("..") && !cweb_path_is_safe("a/../b") && !cweb_path_is_safe("/a") && !cweb_path_is_safe("a/.."));
    char *path = cweb_path_decode("a%2e%2e%2Fb+c%");
    CHECK(path != NULL && strcmp(path, "a../b+c%") == 0);
    free(path);
    CHECK(cweb_path_decode("a%00b") == NULL);
    CHECK(strcmp(cweb_content_type("x.HTML"), "text/html; charset=utf-8") == 0);
    CHECK(strcmp(http_methods[HTTP_PATCH], "PATCH") == 0 && strcmp(http_errors[HTTP_501_NOT_IMPLEMENTED], "501 Not Implemented") == 0);
    CHECK(jobs_create("x", NULL, NULL) == -1); /* not bound */
    http_kv_destroy(res.headers, 1);
    free(res.body);
}

int main(void) {
    test_map();
    test_list();
    test_queue();
    test_pool();
    test_container();
    test_scheduler();
    test_kv();
    test_uuid();
    test_parse();
    test_chunked();
    test_event();
    test_defer();
    test_database();
    test_crypto();
    test_helpers();
    return finish();
}
