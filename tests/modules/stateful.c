/* Makes state of its connection once, in onload, and uses it in every call. */
#include <cweb.h>

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)

static int append(void *out, int columns, char **values, char **names) {
    (void)columns, (void)names;
    strncat(out, values[0] == NULL ? "NULL" : values[0], 100);
    return 0;
}

#ifdef FUNCTION
static void twice(sqlite3_context *result, int count, sqlite3_value **values) {
    (void)count;
    sqlite3_result_int(result, 2 * sqlite3_value_int(values[0]));
}

static void destroy(void *name) {
    printf("the function %s is gone\n", (const char *)name);
}
#endif

static void load(struct cweb_context *ctx) {
    struct sqldb *db = ctx->database;
#ifdef FUNCTION
    sqlite3_create_function_v2(db->db, "twice", 1, SQLITE_UTF8, (void *)"twice", twice, NULL, NULL, destroy);
#endif
#ifdef TEMPORARY
    db->exec(db, "CREATE TEMP TABLE seen(n); INSERT INTO seen VALUES(21)", NULL, NULL);
#endif
    db->exec(db,
             "PRAGMA foreign_keys = ON; CREATE TABLE IF NOT EXISTS parent(id INTEGER PRIMARY KEY);"
             "CREATE TABLE IF NOT EXISTS child(parent REFERENCES parent(id))",
             NULL, NULL);
}

HANDLER(state) {
    struct sqldb *db = ctx->database;
    char out[64] = "";
    (void)req;
    int rc = SQLITE_OK;
#ifdef FUNCTION
    rc = sqlite3_exec(db->db, "SELECT twice(21)", append, out, NULL);
#endif
#ifdef TEMPORARY
    rc = db->exec(db, "SELECT 2 * n FROM seen", append, out);
#endif
    int orphan = db->exec(db, "INSERT INTO child VALUES(7)", NULL, NULL);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s %d", rc, out, orphan);
    return 0;
}

/* A temporary table of one call only: others' of the same name are no trouble. */
HANDLER(scratch) {
    struct sqldb *db = ctx->database;
    char out[64] = "";
    (void)req;
    int rc = db->exec(db, "CREATE TEMP TABLE scratch(n); INSERT INTO scratch VALUES(1), (2)", NULL, NULL);
    db->exec(db, "SELECT count(*) FROM scratch", append, out);
    int dropped = db->exec(db, "DROP TABLE scratch", NULL, NULL);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s %d", rc, out, dropped);
    return 0;
}

export module_t config = {.name = "stateful",
                          .author = "test",
                          .onload = load,
                          .routes = {{"/state", "GET", state, NONE}, {"/scratch", "GET", scratch, NONE}},
                          .size = 2};
