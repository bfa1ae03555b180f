/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The server's services in ctx, every one; positional initialisers all the way, as older modules have them. */
#include <stdatomic.h>
#include <unistd.h>

static struct cweb_context *given;

static void load(struct cweb_context *ctx) {
    given = ctx;
}

static void unload(struct cweb_context *ctx) {
    printf("unload with %s context\n", ctx == given ? "the same" : "another");
}

/* ---- cache ---- */

HANDLER(cache_set) {
    char key[32];
    CHECK(ctx == given && container_get(ctx->cache, "absent") == NULL);
    CHECK(container_set(ctx->cache, "shared", strdup("set by services")) == MAP_OK);
    for (int i = 0; i < 500; i++) { /* it grows */
        snprintf(key, sizeof key, "many %d", i);
        CHECK(container_set(ctx->cache, key, ctx) == MAP_OK);
    }
    for (int i = 0; i < 500; i++) {
        snprintf(key, sizeof key, "many %d", i);
        CHECK(container_get(ctx->cache, key) == ctx && container_remove(ctx->cache, key) == MAP_OK);
    }
    CHECK(container_remove(ctx->cache, "many 0") == MAP_KEY_NOT_FOUND);
    PASS();
}

/* ---- scheduler ---- */

static atomic_int order;
static pthread_t scheduler_thread;

static void digit(void *data) {
    atomic_store(&order, atomic_load(&order) * 10 + (int)(intptr_t)data);
    scheduler_thread = pthread_self();
}

static void digit_within(void *data) {
    digit(data);
    scheduler_add(given->scheduler, digit, (void *)9, SYNC); /* later, as on any other thread */
    digit((void *)6);
}

static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;

static void wait_for_lock(void *data) {
    (void)data;
    pthread_mutex_lock(&held);
    pthread_mutex_unlock(&held);
}

HANDLER(schedule) {
    atomic_store(&order, 0);
    CHECK(pthread_mutex_lock(&held) == 0);
    CHECK(scheduler_add(ctx->scheduler, wait_for_lock, NULL, SYNC) == 0); /* which this handler holds */
    for (intptr_t i = 1; i <= 4; i++) {
        CHECK(scheduler_add(ctx->scheduler, digit, (void *)i, i % 2 ? SYNC : ASYNC) == 0);
    }
    CHECK(scheduler_add(ctx->scheduler, digit_within, (void *)5, SYNC) == 0 && atomic_load(&order) == 0);
    pthread_mutex_unlock(&held);
    for (int i = 0; atomic_load(&order) < 1234569 && i < 20000; i++) {
        usleep(1000);
    }
    CHECK(atomic_load(&order) == 1234569 && !pthread_equal(scheduler_thread, pthread_self()));
    CHECK(scheduler_add(ctx->scheduler, NULL, NULL, ASYNC) == -1 && scheduler_pending_count(ctx->scheduler) >= 0);
    PASS();
}

static void print_late(void *data) {
    usleep(300 * 1000);
    printf("late work of %s\n", (const char *)data);
}

/* Work that outlives its request, and perhaps its generation: code and data must stay until it has run. */
HANDLER(schedule_late) {
    CHECK(scheduler_add(ctx->scheduler, print_late, "services", ASYNC) == 0);
    PASS();
}

static void crash(void *data) {
    *(volatile int *)data = 1;
}

HANDLER(schedule_crash) {
    CHECK(scheduler_add(ctx->scheduler, crash, NULL, ASYNC) == 0);
    PASS();
}

/* ---- database ---- */

static int add_column(void *arg, int count, char **values, char **names) {
    if (count != 2 || strcmp(names[0], "id") != 0 || strcmp(names[1], "text") != 0) {
        return 1;
    }
    *(int *)arg += atoi(values[0]);
    return 0;
}

HANDLER(database) {
    struct sqldb *db = ctx->database;
    sqlite3_stmt *stmt = NULL;
    const char *tail = NULL;
    int sum = 0;
    CHECK(db->db != NULL);
    CHECK(db->exec(db, "DROP TABLE IF EXISTS api; CREATE TABLE api (id INTEGER PRIMARY KEY, text TEXT)", NULL, NULL) == SQLITE_OK);
    static const char two[] = "INSERT INTO api (id, text) VALUES (?, ?); SELECT 1";
    CHECK(db->prepare(db, two, -1, &stmt, &tail) == SQLITE_OK && stmt != NULL && strcmp(tail, " SELECT 1") == 0);
    CHECK(db->bind_int(stmt, 1, 7) == SQLITE_OK && db->bind_text(stmt, 2, "sev\0en", 6, SQLITE_STATIC) == SQLITE_OK);
    CHECK(db->step(stmt) == SQLITE_DONE && db->reset(stmt) == SQLITE_OK);
    CHECK(db->bind_int(stmt, 1, 35) == SQLITE_OK && db->bind_text(stmt, 2, "no", -1, SQLITE_TRANSIENT) == SQLITE_OK);
    CHECK(db->step(stmt) == SQLITE_DONE && db->finalize(stmt) == SQLITE_OK);
    CHECK(db->changes(db) == 1 && db->last_insert_rowid(db) == 35);
    CHECK(db->prepare(db, "INSERT INTO api VALUES (36, ?)", -1, &stmt, NULL) == SQLITE_OK);
    CHECK(db->bind_text(stmt, 1, strdup("owned"), -1, free) == SQLITE_OK && db->step(stmt) == SQLITE_DONE);
    CHECK(db->finalize(stmt) == SQLITE_OK);
    CHECK(db->prepare(db, "SELECT id, text, NULL FROM api ORDER BY id", -1, &stmt, NULL) == SQLITE_OK);
    CHECK(db->column_count(stmt) == 3 && db->step(stmt) == SQLITE_ROW && db->column_int(stmt, 0) == 7);
    CHECK(strcmp(db->column_text(stmt, 1), "sev") == 0 && db->column_text(stmt, 2) == NULL);
    CHECK(db->step(stmt) == SQLITE_ROW && strcmp(db->column_text(stmt, 1), "no") == 0);
    CHECK(db->step(stmt) == SQLITE_ROW && strcmp(db->column_text(stmt, 1), "owned") == 0);
    CHECK(db->step(stmt) == SQLITE_DONE && db->finalize(stmt) == SQLITE_OK);
    CHECK(db->exec(db, "SELECT id, text FROM api", add_column, &sum) == SQLITE_OK && sum == 78);
    CHECK(db->exec(db, "SELECT id FROM api", add_column, &sum) == SQLITE_ABORT);
    CHECK(db->exec(db, "INSERT INTO api VALUES (7, 'again')", NULL, NULL) == SQLITE_CONSTRAINT);
    CHECK(db->exec(db, "not SQL", NULL, NULL) == SQLITE_ERROR && db->prepare(db, "not SQL", -1, &stmt, NULL) == SQLITE_ERROR);
    CHECK(stmt == NULL && db->finalize(NULL) == SQLITE_OK);
    char *text = sqlite3_mprintf("%d", 1);
    CHECK(text != NULL);
    db->free(text);
    db->free(NULL);
    PASS();
}

/* Called by many clients at once. */
HANDLER(database_add) {
    struct sqldb *db = ctx->database;
    CHECK(db->exec(db, "INSERT INTO counted DEFAULT VALUES", NULL, NULL) == SQLITE_OK);
    PASS();
}

static int first_number(void *arg, int count, char **values, char **names) {
    (void)names;
    *(int *)arg = count > 0 && values[0] != NULL ? atoi(values[0]) : -1;
    return 0;
}

HANDLER(database_count) {
    int count = -1;
    (void)req;
    ctx->database->exec(ctx->database, "CREATE TABLE IF NOT EXISTS counted (id INTEGER PRIMARY KEY)", NULL, NULL);
    CHECK(ctx->database->exec(ctx->database, "SELECT count(*) FROM counted", first_number, &count) == SQLITE_OK);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", count);
    return 0;
}

static int crash_on_row(void *arg, int count, char **values, char **names) {
    (void)count, (void)values, (void)names;
    *(volatile int *)arg = 1;
    return 0;
}

HANDLER(database_crash) {
    (void)req, (void)res;
    return ctx->database->exec(ctx->database, "SELECT 1", crash_on_row, NULL);
}

/* Tables that hold the server's jobs are not a module's to write. */
HANDLER(database_denied) {
    struct sqldb *db = ctx->database;
    CHECK(db->exec(db, "CREATE TABLE jobs (x)", NULL, NULL) != SQLITE_OK);
    CHECK(db->exec(db, "CREATE TABLE JOB_EVENTS (x)", NULL, NULL) != SQLITE_OK);
    CHECK(db->exec(db, "CREATE TEMP VIEW jobs AS SELECT 1", NULL, NULL) != SQLITE_OK);
    CHECK(db->exec(db, "CREATE TABLE other (x); DROP TABLE other", NULL, NULL) == SQLITE_OK);
    PASS();
}

/* ---- crypto ---- */

HANDLER(crypto_without) {
    char token[1024] = "";
    CHECK(ctx->crypto->status == CRYPTO_FAILURE);
    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, "token", token, sizeof token) == -1);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, "x", "token", 5) == -1);
    PASS();
}

HANDLER(crypto_with) {
    char token[1024] = "";
    CHECK(ctx->crypto->status == CRYPTO_LOADED && ctx->crypto->certificate != NULL && ctx->crypto->private_key != NULL);
    int length = ctx->crypto->ops.sign_token(ctx->crypto, "token", token, sizeof token);
    CHECK(length > 0 && strlen(token) == (size_t)length);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, token, "token", 5) == 0);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, token, "tokex", 5) == -1);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, "no base64!", "token", 5) == -1);
    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, "token", token, 8) == -1);
    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, NULL, token, sizeof token) == -1);
    /* The key is for tokens alone: the certificate's verifies none, and signs none. */
    struct crypto own;
    CHECK(crypto_init(&own, "static/pair.crt", "static/pair.key") == 0);
    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, "token", token, sizeof token) > 0);
    CHECK(own.ops.verify_token(&own, token, "token", 5) == -1);
    CHECK(own.ops.sign_token(&own, "token", token, sizeof token) > 0);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, token, "token", 5) == -1);
    crypto_shutdown(&own);
    PASS();
}

/* ---- symbols and jobs ---- */

HANDLER(symbols) {
    struct symbols *symbols = ctx->symbols;
    (void)req;
    CHECK(symbols->resolv(symbols->user_data, "neighbour", "absent") == NULL);
    CHECK(symbols->resolv(symbols->user_data, "nobody", "twice") == NULL);
    CHECK(symbols->resolv(symbols->user_data, NULL, "twice") == NULL);
    int (*twice)(int) = (int (*)(int))symbols->resolv(symbols->user_data, "neighbour", "twice");
    const char *text = symbols->resolv(symbols->user_data, "neighbour", "text");
    if (twice == NULL || text == NULL) {
        strcpy(res->body, "no neighbour");
        return 0;
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s", twice(21), text);
    return 0;
}

static int work(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    if (strlen(payload->json) != payload->json_len || job->emit_event(job, "step", "{}") != 0) {
        return job->set_error(job, job->job_uuid);
    }
    return job->set_result(job, payload->json);
}

static void cancel(struct cweb_context *ctx, const char *job_uuid) {
    (void)ctx, (void)job_uuid;
}

HANDLER(jobs) {
    cweb_uuid_t uuid;
    memset(&uuid, 'x', sizeof uuid);
    CHECK(jobs_create("absent", "{}", &uuid) == -1 && uuid.str[0] == '\0');
    CHECK(jobs_create(NULL, "{}", NULL) == -1);
    PASS();
}

/* ---- sockets ---- */

static websocket_t *kept;

static void opened(struct cweb_context *ctx, websocket_t *ws) {
    char text[128];
    (void)ctx;
    kept = ws;
    snprintf(text, sizeof text, "%s %d", ws->session == NULL ? "none" : ws->session, ws->client_fd);
    ws->send(ws, text, strlen(text));
    free(ws->session);
    ws->session = strdup("my own");
}

static void message(struct cweb_context *ctx, websocket_t *ws, const char *text, size_t length) {
    (void)ctx, (void)length;
    if (strcmp(text, "bye") == 0) {
        ws->close(ws);
        return;
    }
    char answer[256];
    snprintf(answer, sizeof answer, "%s: %s", ws->session, text);
    ws->send(ws, answer, strlen(answer));
}

static void closed(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    printf("closed %s, send says %d\n", ws->session, ws->send(ws, "x", 1));
    kept = NULL;
}

static void close_at_once(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    ws->close(ws);
}

/* Sends on the socket that is open, from a handler of another request. */
HANDLER(push) {
    const char *text = http_kv_get(req->params, "text");
    CHECK(kept != NULL && text != NULL);
    CHECK(kept->send(kept, text, strlen(text)) == 0);
    CHECK(kept->send(kept, "\xff\xfe", 2) == 0); /* no UTF-8: binary */
    CHECK(cweb_ws_broadcast(&kept, 1, "to all", 6) == 1);
    PASS();
}

export module_t config = {
    "api-services",
    "test",
    {
        {"/cache", "GET", cache_set, NONE},
        {"/schedule", "GET", schedule, NONE},
        {"/schedule/late", "GET", schedule_late, NONE},
        {"/schedule/crash", "GET", schedule_crash, NONE},
        {"/database", "GET", database, NONE},
        {"/database/add", "GET", database_add, NONE},
        {"/database/count", "GET", database_count, NONE},
        {"/database/crash", "GET", database_crash, NONE},
        {"/database/denied", "GET", database_denied, NONE},
        {"/crypto/without", "GET", crypto_without, NONE},
        {"/crypto/with", "GET", crypto_with, NONE},
        {"/symbols", "GET", symbols, NONE},
        {"/jobs-create", "GET", jobs, NONE},
        {"/push", "GET", push, NONE},
    },
    14,
    {{"/ws", opened, message, closed}, {"/ws/close", close_at_once, NULL, NULL}},
    2,
    {{"api-work", work, cancel}},
    1,
    load,
    unload,
};
