/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Written as modules for the existing C project are: positional initialisers, old names, own includes. Only compiled. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cweb.h>
#include <list.h>
#include <map.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <pool.h>
#include <queue.h>

static atomic_int hits;

static void later(void *data) {
    free(data);
}

/* A name that unistd.h would take. */
static int stat(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    char *id = http_kv_get(req->params, "id");
    char line[HTTP_RESPONSE_SIZE];
    atomic_fetch_add(&hits, 1);
    container_set(ctx->cache, "hits", &hits);
    scheduler_add(ctx->scheduler, later, strdup("x"), ASYNC);
    snprintf(line, sizeof(line), "%s %s", http_methods[req->method], id ? id : "");
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%s", http_errors[res->status]);
    http_kv_insert(res->headers, "Location", strdup("/"));
    int (*other)(int) = ctx->symbols->resolv(ctx->symbols->user_data, "math", "twice");
    char token[512];
    if (ctx->crypto->status == CRYPTO_LOADED && ctx->crypto->ops.sign_token(ctx->crypto, line, token, sizeof(token)) < 0) {
        res->status = HTTP_501_NOT_IMPLEMENTED;
    }
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((unsigned char *)line, strlen(line), digest);
    ctx->database->exec(ctx->database, "CREATE TABLE IF NOT EXISTS t (id INTEGER)", NULL, NULL);
    cweb_uuid_t uuid;
    if (jobs_create("work", "{}", &uuid) != 0 || other == NULL) {
        res->status = HTTP_302_FOUND;
    }
    return 0;
}

static void opened(struct cweb_context *ctx, websocket_t *ws) {
    (void)ctx;
    ws->send(ws, ws->session ? ws->session : "none", 4);
}

static int work(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    job->emit_event(job, "step", payload->json);
    return job->set_result(job, "{}");
}

static void load() {
    struct list *list = list_create();
    list_add(list, &hits);
    LIST_FOREACH(list, node) {
        printf("%p\n", node->data);
    }
    list_destroy(list);
}

export module_t config = {
    .name = "legacy",
    .author = "test",
    .routes = {{"/stat", "GET", stat, NONE}, {"/user/[0-9]+", "POST", stat, NONE}},
    .size = 2,
    .websockets = {{"/ws", opened, NULL, NULL}},
    .ws_size = 1,
    .jobs = {{"work", work, NULL}},
    .job_size = 1,
    .onload = load,
};
