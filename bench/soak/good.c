/* A module that behaves; NAME is its name. For scripts/soak. */
#include <cweb.h>

#define HANDLER(f) static int f(cweb_context_t *ctx, http_request_t *req, http_response_t *res)

HANDLER(hello) {
    (void)ctx;
    (void)req;
    strcpy(res->body, "hello");
    return 0;
}

HANDLER(length) {
    (void)ctx;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", req->content_length);
    return 0;
}

static int counted(void *out, int columns, char **values, char **names) {
    (void)columns;
    (void)names;
    snprintf(out, 32, "%s", values[0]);
    return 0;
}

HANDLER(count) {
    char rows[32] = "none";
    struct sqldb *db = ctx->database;
    (void)req;
    if (db->exec(db, "CREATE TABLE IF NOT EXISTS t (x)", NULL, NULL) == SQLITE_OK) {
        db->exec(db, "SELECT count(*) + 1 FROM t", counted, rows);
    }
    strcpy(res->body, rows);
    return 0;
}

static int work(cweb_context_t *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    (void)payload;
    return job->set_result(job, "{}");
}

export module_t config = {
    .name = NAME,
    .author = "soak",
    .routes = {{"/" NAME "/hello", "GET", hello, NONE},
               {"/" NAME "/length", "POST", length, NONE},
               {"/" NAME "/count", "GET", count, NONE}},
    .size = 3,
    .jobs = {{.name = NAME "-job", .run = work}},
    .job_size = 1,
};
