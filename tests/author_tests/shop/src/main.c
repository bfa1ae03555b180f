/* A module that uses what modules have: database, cache, jobs, WebSockets, rooms, streams, settings. */
#include <cweb.h>
#include <cweb_setting.h>
#include <cweb_stream.h>
#include <cweb_websocket.h>
#include <cweb_file.h>

#include "price.h"

static int loads;

static void load(struct cweb_context *ctx) {
    loads++;
    ctx->database->exec(ctx->database, "CREATE TABLE IF NOT EXISTS items (name TEXT, price INTEGER)", NULL, NULL);
}

static int add(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    const char *name = http_kv_get(req->data, "name");
    int price = price_of(http_kv_get(req->data, "price"));
    if (name == NULL || price < 0) {
        return cweb_respond(res, HTTP_400_BAD_REQUEST, "text/plain", "name and price are needed\n");
    }
    sqlite3_stmt *statement = NULL;
    ctx->database->prepare(ctx->database, "INSERT INTO items VALUES (?, ?)", -1, &statement, NULL);
    ctx->database->bind_text(statement, 1, name, -1, NULL);
    ctx->database->bind_int(statement, 2, price);
    ctx->database->step(statement);
    ctx->database->finalize(statement);
    cweb_uuid_t uuid;
    if (jobs_create("shop-mail", "{\"to\": \"you\"}", &uuid) == 0) {
        cweb_header(res, "X-Job", uuid_c_str(&uuid));
    }
    cweb_ws_publish("news", name, strlen(name), CWEB_WS_TEXT);
    const char *currency = cweb_setting(ctx, "CURRENCY");
    return cweb_respond(res, 201, "text/plain", "%s: %d %s\n", name, price, currency);
}

static void count_later(void *data) {
    struct cweb_context *ctx = data;
    static int counted = 7;
    container_set(ctx->cache, "counted", &counted);
}

static int later(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)req;
    scheduler_add(ctx->scheduler, count_later, ctx, ASYNC);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d\n", loads);
}

static int upload(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char bytes[4096];
    long long sum = 0;
    ssize_t count;
    if (cweb_begin(res, 200) != 0) {
        return -1;
    }
    while ((count = cweb_read(req, bytes, sizeof bytes)) > 0) {
        sum += count;
        cweb_printf(res, "%zd\n", count > 0 ? (ssize_t)1 : count);
    }
    cweb_printf(res, "sum %lld\n", sum);
    return 0;
}

static int file(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_send_file(req, res, http_kv_get(req->params, "path"));
}

static int mail(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    job->emit_event(job, "sent", payload->json);
    return strstr(payload->json, "nobody") != NULL ? 1 : 0;
}

static void open_news(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    cweb_ws_join(ws, "news");
}

static void message(struct cweb_context *ctx, websocket_t *ws, const char *text, size_t length) {
    (void)ctx;
    if (strcmp(text, "bye") == 0) {
        ws->close(ws);
        return;
    }
    ws->send(ws, text, length);
}

static void closed(struct cweb_context *ctx, websocket_t *ws) {
    (void)ws;
    static int one = 1;
    container_set(ctx->cache, "closed", &one);
}

export module_t config = {
    .name = "shop",
    .author = "t",
    .routes = {{"/items", "POST", add, NONE},
               {"/later", "GET", later, NONE},
               {"/upload", "POST", upload, CWEB_STREAM},
               {"/file", "GET", file, NONE}},
    .size = 4,
    .websockets = {{"/news", open_news, message, closed}},
    .ws_size = 1,
    .jobs = {{.name = "shop-mail", .run = mail}},
    .job_size = 1,
    .onload = load,
};
