/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The SDK's containers and libraries, used by a module on its own: every function. */
#include <math.h>
#include <stdint.h>

#include <openssl/sha.h>
#include <unistd.h>

#include <defer.h>
#include <libevent.h>
#include <list.h>
#include <map.h>
#include <pool.h>
#include <queue.h>

HANDLER(maps) {
    enum { KEYS = 1000 };
    static int values[KEYS];
    struct map *map = map_create(1);
    CHECK(map_create(0) == NULL && map != NULL && map_size(map) == 0);
    for (int i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "key %d", i);
        CHECK(map_insert(map, key, &values[i]) == MAP_OK);
    }
    CHECK(map_insert(map, "key 7", &values[8]) == MAP_OK && map_get(map, "key 7") == &values[8]);
    CHECK(map_size(map) == KEYS);
    for (int i = 0; i < KEYS; i += 2) {
        char key[16];
        snprintf(key, sizeof key, "key %d", i);
        CHECK(map_remove(map, key) == MAP_OK && map_get(map, key) == NULL);
    }
    for (int i = 1; i < KEYS; i += 2) {
        char key[16];
        snprintf(key, sizeof key, "key %d", i);
        CHECK(map_get(map, key) == (i == 7 ? &values[8] : &values[i]));
    }
    CHECK(map_remove(map, "none") == MAP_KEY_NOT_FOUND && map_insert(map, NULL, NULL) == MAP_ERR && MAP_FULL != MAP_OK);
    map_destroy(map);
    PASS();
}

static int visited;

static void visit(void *data) {
    visited = visited * 10 + *(int *)data;
}

HANDLER(lists) {
    static int numbers[] = {1, 2, 3};
    struct list *list = list_create();
    CHECK(list != NULL && list->size == 0 && list->head == NULL);
    for (int i = 0; i < 3; i++) {
        list_add(list, &numbers[i]);
    }
    visited = 0;
    list_iterate(list, visit);
    CHECK(visited == 321 && list->size == 3 && list->head->data == &numbers[2]);
    int sum = 0;
    LIST_FOREACH(list, node) {
        sum += *(int *)node->data;
    }
    CHECK(sum == 6 && list_remove(list, &sum) == 0);
    LIST_FOREACH_SAFE(list, node, next) {
        if (*(int *)node->data != 2) {
            list_remove(list, node->data);
        }
    }
    visited = 0;
    list_iterate(list, visit);
    CHECK(visited == 2 && list->size == 1);
    list_destroy(list);
    PASS();
}

static void *produce(void *arg) {
    for (intptr_t i = 1; i <= 1000; i++) {
        queue_enqueue(arg, (void *)i);
    }
    return NULL;
}

HANDLER(queues) {
    struct queue *queue = queue_create(2);
    void *item = NULL;
    pthread_t producer;
    CHECK(queue_create(0) == NULL && queue != NULL && queue_size(queue) == 0 && queue_try_dequeue(queue, &item) == QUEUE_EMPTY);
    CHECK(queue_try_enqueue(queue, "a") == QUEUE_OK && queue_enqueue(queue, "b") == QUEUE_OK);
    CHECK(queue_try_enqueue(queue, "c") == QUEUE_FULL && queue_size(queue) == 2);
    CHECK(queue_dequeue(queue, &item) == QUEUE_OK && strcmp(item, "a") == 0);
    CHECK(queue_try_dequeue(queue, &item) == QUEUE_OK && strcmp(item, "b") == 0);
    CHECK(pthread_create(&producer, NULL, produce, queue) == 0);
    for (intptr_t i = 1; i <= 1000; i++) {
        CHECK(queue_dequeue(queue, &item) == QUEUE_OK && (intptr_t)item == i);
    }
    pthread_join(producer, NULL);
    cweb_queue_stop(queue);
    CHECK(queue_enqueue(queue, "d") == QUEUE_ERROR && queue_dequeue(queue, &item) == QUEUE_EMPTY);
    queue_destroy(queue);
    PASS();
}

static atomic_int ran;
static atomic_int gate;

static void count(void *data) {
    atomic_fetch_add(&ran, *(int *)data);
}

static void wait_for_gate(void *data) {
    (void)data;
    while (!atomic_load(&gate)) {
        usleep(1000);
    }
}

HANDLER(pools) {
    static int one = 1;
    atomic_store(&ran, 0);
    atomic_store(&gate, 0);
    struct thread_pool *pool = thread_pool_init(2);
    CHECK(pool != NULL && thread_pool_init(0) == NULL && !thread_pool_is_full(pool));
    CHECK(!thread_pool_is_full(NULL));
    thread_pool_add_task(pool, wait_for_gate, NULL);
    thread_pool_add_task(pool, wait_for_gate, NULL);
    thread_pool_add_task(pool, NULL, NULL); /* nothing */
    CHECK(thread_pool_is_full(pool));
    for (int i = 0; i < 10; i++) {
        thread_pool_add_task(pool, count, &one);
    }
    CHECK(thread_pool_pending_count(pool) == 12);
    /* The gates may not have been fetched yet, and what waits is dropped: then they are dropped too. */
    thread_pool_cancel_all(pool);
    atomic_store(&gate, 1);
    while (thread_pool_pending_count(pool) > 0) {
        usleep(1000);
    }
    CHECK(atomic_load(&ran) == 0);
    for (int i = 0; i < 100; i++) {
        thread_pool_add_task(pool, count, &one);
    }
    thread_pool_request_stop(pool);
    thread_pool_add_task(pool, count, &one); /* too late */
    thread_pool_destroy(pool);
    CHECK(atomic_load(&ran) == 100);
    PASS();
}

static int pipe_ends[2];

static void on_readable(struct event *event, void *arg) {
    char byte;
    if (read(event->fd, &byte, 1) == 1) {
        *(char *)arg = byte;
    }
    event_del(event);
    event_dispatch_stop();
}

static void *dispatch(void *arg) {
    event_dispatch();
    return arg;
}

HANDLER(events) {
    char got = 0;
    pthread_t loop;
    CHECK(pipe(pipe_ends) == 0);
    struct event *event = event_new(pipe_ends[0], EPOLLIN, on_readable, &got);
    CHECK(event != NULL && event_new(0, EPOLLIN, NULL, NULL) == NULL);
    CHECK(event_add(event) == 0 && event_add(event) == -1 && errno == EEXIST);
    CHECK(pthread_create(&loop, NULL, dispatch, NULL) == 0);
    CHECK(write(pipe_ends[1], "!", 1) == 1);
    pthread_join(loop, NULL);
    CHECK(got == '!' && event_del(event) == -1 && errno == ENOENT);
    event_free(event);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    PASS();
}

static char trace[16];

static int traced(int early) {
    char *copy cweb_defer(cweb_free_pointer) = strdup("freed at the end");
    defer { strcat(trace, "1"); }
    defer { strcat(trace, "2"); }
    if (early || copy == NULL) {
        return 1;
    }
    defer { strcat(trace, "3"); }
    return 0;
}

HANDLER(deferred) {
    trace[0] = '\0';
    CHECK(traced(1) == 1 && strcmp(trace, "21") == 0);
    CHECK(traced(0) == 0 && strcmp(trace, "21321") == 0);
    PASS();
}

HANDLER(uuids) {
    static const char text[] = "01890a5d-ac96-774b-bcce-b302099a8057";
    cweb_uuid_t a, b;
    CHECK(sizeof a.str == 37 && uuid_from_string(&a, text) == 0 && uuid_is_valid(&a) && strcmp(a.str, text) == 0);
    CHECK(uuid_from_string(&b, text) == 0 && uuid_equal(&a, &b) && strcmp(uuid_c_str(&a), text) == 0);
    char other[64];
    snprintf(other, sizeof other, "%.35s", text); /* a digit short */
    CHECK(uuid_from_string(&b, other) == -1 && !uuid_is_valid(&b) && !uuid_equal(&a, &b));
    snprintf(other, sizeof other, "%s9", text);
    CHECK(uuid_from_string(&b, other) == -1 && uuid_from_string(NULL, text) == -1);
    uuid_clear(&a);
    CHECK(a.str[0] == '\0' && !uuid_is_valid(&a));
    PASS();
}

HANDLER(libraries) {
    regex_t regex;
    regmatch_t match[2];
    CHECK(regcomp(&regex, "id=([0-9]+)", REG_EXTENDED) == 0);
    CHECK(regexec(&regex, "a id=42", 2, match, 0) == 0 && match[1].rm_so == 5 && match[1].rm_eo == 7);
    regfree(&regex);
    json_error_t error;
    json_t *json = json_loads("{\"list\": [1, 2.5, \"\\u00e9\"]}", 0, &error);
    CHECK(json != NULL && json_array_size(json_object_get(json, "list")) == 3);
    char *text = json_dumps(json, JSON_COMPACT);
    CHECK(strcmp(text, "{\"list\":[1,2.5,\"\xc3\xa9\"]}") == 0);
    free(text);
    json_decref(json);
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)"abc", 3, digest);
    CHECK(digest[0] == 0xba && digest[1] == 0x78 && digest[31] == 0xad);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    CHECK(md != NULL && EVP_DigestInit_ex(md, EVP_sha512(), NULL) == 1);
    EVP_MD_CTX_free(md);
    SSL_CTX *tls = SSL_CTX_new(TLS_client_method());
    CHECK(tls != NULL);
    SSL_CTX_free(tls);
    volatile double two = 2.0;
    CHECK(fabs(sqrt(two) * sqrt(two) - 2.0) < 1e-12 && fabs(sin(two) * sin(two) + cos(two) * cos(two) - 1.0) < 1e-12);
    CHECK(sqlite3_libversion_number() > 3000000);
    PASS();
}

HANDLER(own_cache) {
    struct container own;
    CHECK(container_init(&own, 4) == 0 && own.data != NULL && container_get(&own, "k") == NULL);
    CHECK(container_set(&own, "k", "v") == MAP_OK && strcmp(container_get(&own, "k"), "v") == 0);
    CHECK(pthread_mutex_lock(&own.mutex) == 0 && container_get(&own, "k") != NULL && pthread_mutex_unlock(&own.mutex) == 0);
    CHECK(container_remove(&own, "k") == MAP_OK && container_remove(&own, "k") == MAP_KEY_NOT_FOUND);
    container_shutdown(&own);
    PASS();
}

HANDLER(own_scheduler) {
    static int one = 1;
    struct scheduler own;
    atomic_store(&ran, 0);
    atomic_store(&gate, 0);
    CHECK(scheduler_init(&own, 4) == 0 && scheduler_pending_count(&own) == 0);
    CHECK(scheduler_add(&own, wait_for_gate, NULL, ASYNC) == 0 && scheduler_add(&own, count, &one, ASYNC) == 0);
    CHECK(scheduler_pending_count(&own) == 2 && scheduler_add(&own, NULL, NULL, ASYNC) == -1);
    while (own.size > 1) {
        usleep(1000); /* until the first one runs: it is not cancelled then */
    }
    scheduler_cancel(&own);
    atomic_store(&gate, 1);
    CHECK(scheduler_add(&own, count, &one, SYNC) == 0);
    CHECK(scheduler_add(&own, count, &one, ASYNC) == 0);
    scheduler_request_stop(&own, 1);
    CHECK(scheduler_add(&own, count, &one, ASYNC) == -1);
    scheduler_shutdown(&own);
    CHECK(atomic_load(&ran) == 2);
    PASS();
}

HANDLER(own_database) {
    struct sqldb own;
    CHECK(sqldb_init(&own, ":memory:") == 0 && own.db != NULL);
    CHECK(own.exec(&own, "CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)", NULL, NULL) == SQLITE_OK);
    CHECK(own.changes(&own) == 2);
    sqldb_shutdown(&own);
    CHECK(own.exec(&own, "SELECT 1", NULL, NULL) != SQLITE_OK);
    CHECK(sqldb_init(&own, "no/such/directory/x.db") == -1 && own.exec(&own, "SELECT 1", NULL, NULL) != SQLITE_OK);
    sqldb_shutdown(&own);
    PASS();
}

/* The pair lies where modules may read. */
HANDLER(own_crypto) {
    struct crypto own;
    char token[1024];
    CHECK(crypto_init(&own, "missing.crt", "missing.key") == -1 && own.status == CRYPTO_FAILURE && own.ctx == NULL);
    CHECK(own.ops.sign_token(&own, "t", token, sizeof token) == -1 && own.ops.verify_token(&own, "t", "t", 1) == -1);
    crypto_shutdown(&own);
    CHECK(crypto_init(&own, "static/pair.crt", "static/pair.key") == 0 && own.status == CRYPTO_LOADED && own.ctx != NULL);
    CHECK(strcmp(own.certificate, "static/pair.crt") == 0 && strcmp(own.private_key, "static/pair.key") == 0);
    int length = own.ops.sign_token(&own, "token", token, sizeof token);
    CHECK(length > 0 && (size_t)length == strlen(token));
    CHECK(own.ops.verify_token(&own, token, "token", 5) == 0 && own.ops.verify_token(&own, token, "tokex", 5) == -1);
    CHECK(own.ops.sign_token(&own, "token", token, 8) == -1);
    crypto_shutdown(&own);
    CHECK(own.status == CRYPTO_FAILURE && own.ops.sign_token(&own, "t", token, sizeof token) == -1);
    PASS();
}

export module_t config = {
    .name = "api-data",
    .author = "test",
    .routes = {
        {"/maps", "GET", maps, NONE},
        {"/lists", "GET", lists, NONE},
        {"/queues", "GET", queues, NONE},
        {"/pools", "GET", pools, NONE},
        {"/events", "GET", events, NONE},
        {"/deferred", "GET", deferred, NONE},
        {"/uuids", "GET", uuids, NONE},
        {"/libraries", "GET", libraries, NONE},
        {"/own-cache", "GET", own_cache, NONE},
        {"/own-scheduler", "GET", own_scheduler, NONE},
        {"/own-database", "GET", own_database, NONE},
        {"/own-crypto", "GET", own_crypto, NONE},
    },
    .size = 12,
};
