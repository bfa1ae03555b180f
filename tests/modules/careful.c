/* A neighbour that uses the database as it should. */
#include <unistd.h>

#include <cweb.h>

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)

static int append(void *out, int columns, char **values, char **names) {
    (void)columns, (void)names;
    strncat(out, values[0] == NULL ? "NULL" : values[0], 100);
    strncat(out, ";", 2);
    return 0;
}

/* Runs the SQL of the body; answers with the code and the first column. */
HANDLER(sql) {
    char rows[4096] = "";
    int rc = ctx->database->exec(ctx->database, req->body, append, rows);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s", rc, rows);
    return 0;
}

HANDLER(begun) {
    (void)req;
    strcpy(res->body, container_get(ctx->cache, "begun") == NULL ? "no" : "yes");
    return 0;
}

HANDLER(written) {
    (void)req;
    container_set(ctx->cache, "written", ctx);
    strcpy(res->body, "ok");
    return 0;
}

/* What the database says of this call's statement must be of this call. */
HANDLER(own) {
    struct sqldb *db = ctx->database;
    char insert[128], expected[32], found[64] = "";
    int wanted = atoi((const char *)http_kv_get(req->params, "id"));
    db->exec(db, "CREATE TABLE IF NOT EXISTS mine(id INTEGER PRIMARY KEY)", NULL, NULL);
    snprintf(insert, sizeof insert, "INSERT OR REPLACE INTO mine VALUES(%d), (%d)", wanted + 1, wanted);
    int rc = db->exec(db, insert, NULL, NULL);
    usleep(3000);
    snprintf(expected, sizeof expected, "%d;", wanted);
    int row = db->last_insert_rowid(db), changed = db->changes(db);
    db->exec(db, "SELECT last_insert_rowid()", append, found);
    int right = rc == SQLITE_OK && row == wanted && changed == 2 && strcmp(found, expected) == 0;
    snprintf(res->body, HTTP_RESPONSE_SIZE, right ? "ok" : "%d %d %d %s", rc, row, changed, found);
    return 0;
}

/* Has its connection for a while. */
HANDLER(slow) {
    char rows[64] = "";
    (void)req;
    int rc = ctx->database->exec(ctx->database, "SELECT 1", append, rows);
    usleep(100 * 1000);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %s", rc, rows);
    return 0;
}

export module_t config = {.name = "careful",
                          .author = "test",
                          .routes = {{"/sql", "POST", sql, NONE},
                                     {"/begun", "GET", begun, NONE},
                                     {"/written", "GET", written, NONE},
                                     {"/own", "GET", own, NONE},
                                     {"/slow", "GET", slow, NONE}},
                          .size = 5};
