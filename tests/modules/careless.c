/* Leaves transactions and statements open, in every kind of call. */
#include <pthread.h>
#include <unistd.h>

#include <cweb.h>

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)

static struct cweb_context *saved;

static void leave_transaction(struct cweb_context *ctx, const char *from) {
    char sql[128];
    snprintf(sql, sizeof sql, "BEGIN; INSERT INTO noted VALUES('%s')", from);
    if (ctx->database->exec(ctx->database, "BEGIN", NULL, NULL) == SQLITE_OK) {
        ctx->database->exec(ctx->database, strchr(sql, 'I'), NULL, NULL);
    }
}

static void load(struct cweb_context *ctx) {
    saved = ctx;
    ctx->database->exec(ctx->database, "CREATE TABLE IF NOT EXISTS noted(who TEXT)", NULL, NULL);
    leave_transaction(ctx, "onload");
}

HANDLER(transaction) {
    (void)req;
    leave_transaction(ctx, "handler");
    strcpy(res->body, "left");
    return 0;
}

/* Crashes where SQLite has its locks. */
static int crash(void *unused, int columns, char **values, char **names) {
    (void)unused, (void)columns, (void)values, (void)names;
    *(volatile int *)unused = 1;
    return 0;
}

HANDLER(crash_within) {
    (void)req, (void)res;
    leave_transaction(ctx, "crash");
    return ctx->database->exec(ctx->database, "SELECT 1", crash, NULL);
}

HANDLER(statement) {
    sqlite3_stmt *rows = NULL;
    (void)req;
    struct sqldb *db = ctx->database;
    db->exec(db, "CREATE TABLE IF NOT EXISTS read_only_half(a); INSERT INTO read_only_half VALUES(1), (2), (3)", NULL, NULL);
    int prepared = db->prepare(db, "SELECT a FROM read_only_half", -1, &rows, NULL);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", prepared, db->step(rows));
    return 0;
}

static void work(void *ctx) {
    leave_transaction(ctx, "work");
}

HANDLER(schedule) {
    (void)req;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", scheduler_add(ctx->scheduler, work, saved, SYNC));
    return 0;
}

static void *run(void *from) {
    leave_transaction(saved, from);
    return NULL;
}

HANDLER(thread) {
    pthread_t other;
    (void)req, (void)ctx;
    int rc = pthread_create(&other, NULL, run, "thread");
    rc = rc == 0 ? pthread_join(other, NULL) : rc;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", rc);
    return 0;
}

/* Waits with an open transaction for what another module does, and takes its own part back. */
HANDLER(roll_back) {
    struct sqldb *db = ctx->database;
    (void)req;
    int rc = db->exec(db, "BEGIN DEFERRED", NULL, NULL);
    container_set(ctx->cache, "begun", ctx);
    for (int i = 0; i < 10000 && container_get(ctx->cache, "written") == NULL; i++) {
        usleep(1000);
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", rc, db->exec(db, "ROLLBACK", NULL, NULL));
    return 0;
}

static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *text, size_t length) {
    leave_transaction(ctx, "message");
    ws->send(ws, text, length);
}

static int job(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)payload;
    leave_transaction(ctx, "job");
    return job->set_result(job, "{}");
}

export module_t config = {.name = "careless",
                          .author = "test",
                          .onload = load,
                          .routes = {{"/transaction", "GET", transaction, NONE},
                                     {"/crash", "GET", crash_within, NONE},
                                     {"/statement", "GET", statement, NONE},
                                     {"/schedule", "GET", schedule, NONE},
                                     {"/thread", "GET", thread, NONE},
                                     {"/roll-back", "GET", roll_back, NONE}},
                          .size = 6,
                          .websockets = {{"/careless/ws", NULL, on_message, NULL}},
                          .ws_size = 1,
                          .jobs = {{"careless", job, NULL}},
                          .job_size = 1};
