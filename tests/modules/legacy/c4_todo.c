/* The database and the scheduler as global variables. */
#include <cweb.h>
#include <stdio.h>
#include <string.h>

static int works;

static void work(void *data) {
    __atomic_fetch_add(&works, *(int *)data, __ATOMIC_SEQ_CST);
}

static int append(void *arg, int columns, char **values, char **names) {
    (void)columns, (void)names;
    strncat(arg, values[0], HTTP_RESPONSE_SIZE - strlen(arg) - 2);
    strcat(arg, ";");
    return 0;
}

static int list(struct http_request *req, struct http_response *res) {
    (void)req;
    database->exec("SELECT text FROM legacy_todo ORDER BY id", append, res->body);
    res->status = HTTP_200_OK;
    return 0;
}

static int add(struct http_request *req, struct http_response *res) {
    static int one = 1;
    sqlite3_stmt *stmt = NULL;
    const char *text = map_get(req->data, "text");
    if (text == NULL) {
        res->status = HTTP_400_BAD_REQUEST;
        return 0;
    }
    database->exec("CREATE TABLE IF NOT EXISTS legacy_todo (id INTEGER PRIMARY KEY, text TEXT)", NULL, NULL);
    if (database->prepare(database->db, "INSERT INTO legacy_todo (text) VALUES (?)", -1, &stmt, NULL) != SQLITE_OK) {
        res->status = HTTP_500_INTERNAL_SERVER_ERROR;
        return 0;
    }
    database->bind_text(stmt, 1, text, -1, SQLITE_TRANSIENT);
    int done = database->step(stmt);
    database->finalize(stmt);
    int added = scheduler->add(work, &one, ASYNC);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d %d %d", done == SQLITE_DONE, database->changes(database->db),
             database->last_insert_rowid(database->db), added);
    return 0;
}

static int worked(struct http_request *req, struct http_response *res) {
    (void)req;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", __atomic_load_n(&works, __ATOMIC_SEQ_CST));
    return 0;
}

export module_t config = {
    .name = "legacy_todo",
    .author = "test",
    .routes = {{"/todo", "GET", list, FEATURE_FLAG_NONE},
               {"/todo", "POST", add, FEATURE_FLAG_NONE},
               {"/todo/worked", "GET", worked, FEATURE_FLAG_NONE}},
    .size = 3,
};
