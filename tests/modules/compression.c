/* Answers that are worth compressing, and bodies that are compressed; see tests/compression.rs. */
#include <cweb.h>

typedef struct cweb_context ctx_t;

static const char *param(http_request_t *req, const char *name) {
    return http_kv_get(req->params, name);
}

/* `bytes` bytes of text, with the fields that the query asks for. */
static int answer(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    static const char line[] = "The quick brown fox jumps over the lazy dog.\n";
    size_t bytes = param(req, "bytes") != NULL ? strtoul(param(req, "bytes"), NULL, 10) : 10000;
    char *body = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        body[i] = line[i % (sizeof line - 1)];
    }
    body[bytes] = '\0';
    cweb_set_body(res, body, bytes);
    static const char *const names[] = {"content-type", "content-encoding", "cache-control", "content-range",
                                        "etag",         "vary",             "digest"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (param(req, names[i]) != NULL) {
            cweb_header(res, names[i], param(req, names[i]));
        }
    }
    if (param(req, "status") != NULL) {
        res->status = (http_error_t)atoi(param(req, "status"));
    }
    return 0;
}

/* Within the buffer that the response comes with. */
static int own_buffer(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    memset(res->body, 'a', 5000);
    return cweb_header(res, "content-type", "text/plain");
}

static int echo(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_respond_data(res, HTTP_200_OK, "application/octet-stream", req->body, (size_t)req->content_length);
}

static int form(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    const char *name = http_kv_get(req->data, "name");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%s", name != NULL ? name : "nobody");
}

export module_t config = {
    .name = "compression",
    .author = "tests",
    .routes = {{"/answer", "GET", answer, NONE},
               {"/never", "GET", answer, CWEB_NO_COMPRESS},
               {"/inline", "GET", answer, CWEB_INLINE},
               {"/own-buffer", "GET", own_buffer, NONE},
               {"/as-it-is", "POST", echo, NONE},
               {"/decoded", "POST", echo, CWEB_DECODE},
               {"/large", "POST", echo, CWEB_DECODE | CWEB_BODY_MIB(4)},
               {"/form", "POST", form, CWEB_DECODE}},
    .size = 8,
};
