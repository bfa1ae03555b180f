/* Prints what it is asked to, and tells of its settings. */
#include <cweb.h>

#include <stdatomic.h>

static atomic_int changes;

static int say(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *text = http_kv_get(req->params, "text");
    printf("said %s\n", text != NULL ? text : "nothing");
    cweb_log(CWEB_LOG_WARN, "warned of %s", text != NULL ? text : "nothing");
    return cweb_respond(res, 200, "text/plain", "done");
}

static int flood(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    int lines = atoi(http_kv_get(req->params, "lines"));
    for (int i = 0; i < lines; i++) {
        printf("%04d %03000d\n", i, 0);
    }
    return cweb_respond(res, 200, "text/plain", "done");
}

static int crash(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    volatile int *nowhere = NULL;
    return *nowhere;
}

static int setting(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)req;
    const char *value = cweb_setting(ctx, "COLOR");
    return cweb_respond(res, 200, "text/plain", "%s %d", value != NULL ? value : "none", atomic_load(&changes));
}

static void on_setting(struct cweb_context *ctx, const char *key) {
    const char *value = cweb_setting(ctx, key);
    atomic_fetch_add(&changes, 1);
    printf("changed %s: %zu\n", key, value != NULL ? strlen(value) : 0);
    if (value != NULL && strcmp(value, "crash") == 0) {
        crash(ctx, NULL, NULL);
    }
}

static void onload(struct cweb_context *ctx) {
    printf("loaded with %s\n", cweb_setting(ctx, "COLOR"));
}

export module_t config = {
    .name = "talker",
    .author = "test",
    .routes = {{"/say", "GET", say, NONE},
               {"/flood", "GET", flood, NONE},
               {"/crash", "GET", crash, NONE},
               {"/setting", "GET", setting, NONE}},
    .size = 4,
    .onload = onload,
    .on_setting = on_setting,
};
