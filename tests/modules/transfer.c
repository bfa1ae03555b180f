/* Moves money between two accounts in several ways; every result is checked, every failure rolled back. */
#include <unistd.h>

#include <cweb.h>

static sqlite3 *kept;
static sqlite3_stmt *kept_take, *kept_give;

static int fetch(void *out, int columns, char **values, char **names) {
    (void)columns, (void)names;
    *(long long *)out = atoll(values[0]);
    return 0;
}

static void load(struct cweb_context *ctx) {
    ctx->database->exec(ctx->database,
                        "CREATE TABLE IF NOT EXISTS account(id INTEGER PRIMARY KEY, cents INTEGER);"
                        "INSERT OR REPLACE INTO account VALUES(1, 1000000), (2, 0)",
                        NULL, NULL);
}

typedef int run_t(void *db, const char *sql, long long *out);

static int by_functions(void *db, const char *sql, long long *out) {
    struct sqldb *database = db;
    return database->exec(database, sql, out == NULL ? NULL : fetch, out);
}

static int by_sqlite(void *db, const char *sql, long long *out) {
    return sqlite3_exec(db, sql, out == NULL ? NULL : fetch, out, NULL);
}

static int transfer(run_t *run, void *db, const char *begin, http_response_t *res) {
    char sql[128];
    long long has = -1;
    int rc = run(db, begin, NULL);
    if (rc != SQLITE_OK) {
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "begin %d\n", rc);
    }
    rc = run(db, "SELECT cents FROM account WHERE id = 1", &has);
    usleep(2000);
    snprintf(sql, sizeof sql, "UPDATE account SET cents = %lld WHERE id = 1", has - 1);
    rc = rc == SQLITE_OK ? run(db, sql, NULL) : rc;
    rc = rc == SQLITE_OK ? run(db, "UPDATE account SET cents = cents + 1 WHERE id = 2", NULL) : rc;
    rc = rc == SQLITE_OK ? run(db, "COMMIT", NULL) : rc;
    if (rc != SQLITE_OK) {
        run(db, "ROLLBACK", NULL);
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "step %d\n", rc);
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "moved\n");
}

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)

HANDLER(immediate) {
    (void)req;
    return transfer(by_functions, ctx->database, "BEGIN IMMEDIATE", res);
}

HANDLER(plain) {
    (void)req;
    return transfer(by_functions, ctx->database, "begin transaction", res);
}

HANDLER(direct) {
    (void)req;
    return transfer(by_sqlite, ctx->database->db, "BEGIN IMMEDIATE", res);
}

HANDLER(static_connection) {
    (void)req, (void)ctx;
    return transfer(by_sqlite, kept, "BEGIN", res);
}

/* With statements that are prepared once and kept. */
HANDLER(static_statements) {
    (void)req, (void)ctx;
    int rc = sqlite3_exec(ctx->database->db, "BEGIN", NULL, NULL, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(kept_take) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR;
        sqlite3_reset(kept_take);
        usleep(2000);
    }
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(kept_give) == SQLITE_DONE ? SQLITE_OK : SQLITE_ERROR;
        sqlite3_reset(kept_give);
    }
    rc = rc == SQLITE_OK ? sqlite3_exec(ctx->database->db, "COMMIT", NULL, NULL, NULL) : rc;
    return cweb_respond(res, rc == SQLITE_OK ? HTTP_200_OK : HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "%d\n", rc);
}

static void load_direct(struct cweb_context *ctx) {
    load(ctx);
    kept = ctx->database->db;
#ifdef STATEMENTS
    sqlite3_prepare_v2(kept, "UPDATE account SET cents = cents - 1 WHERE id = 1", -1, &kept_take, NULL);
    sqlite3_prepare_v2(kept, "UPDATE account SET cents = cents + 1 WHERE id = 2", -1, &kept_give, NULL);
#endif
}

HANDLER(sum) {
    long long one = -1, two = -1;
    (void)req;
    ctx->database->exec(ctx->database, "SELECT cents FROM account WHERE id = 1", fetch, &one);
    ctx->database->exec(ctx->database, "SELECT cents FROM account WHERE id = 2", fetch, &two);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%lld + %lld = %lld", one, two, one + two);
}

export module_t config = {.name = "transfer",
                          .author = "test",
                          .onload = load_direct,
                          .routes = {{"/immediate", "POST", immediate, NONE},
                                     {"/plain", "POST", plain, NONE},
                                     {"/direct", "POST", direct, NONE},
                                     {"/static", "POST", static_connection, NONE},
                                     {"/statements", "POST", static_statements, NONE},
                                     {"/sum", "GET", sum, NONE}},
                          .size = 6};
