/* Answers with files; see tests/files.rs. */
#include <cweb.h>
#include <cweb_file.h>

#include <sys/socket.h>

typedef struct cweb_context ctx_t;

static const char *param(http_request_t *req, const char *name) {
    const char *value = http_kv_get(req->params, name);
    return value != NULL ? value : "";
}

static int below(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_send_file_from(req, res, "static", param(req, "name"), 0);
}

static int as_it_is(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_send_file(req, res, param(req, "path"));
}

static int error_page(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    cweb_send_file_from(req, res, "static", "page.html", CWEB_FILE_PLAIN);
    res->status = (http_error_t)404;
    return 0;
}

static int instead(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    cweb_send_file(req, res, "static/page.html");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "not the file");
}

static int own_fields(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    cweb_header(res, "ETag", "\"mine\"");
    cweb_header(res, "Content-Type", "text/x-mine");
    cweb_header(res, "Vary", "Cookie");
    cweb_send_file(req, res, "static/text.txt");
    return cweb_header(res, "Cache-Control", "max-age=60");
}

static int faults(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    cweb_send_file(req, res, "static/page.html");
    abort();
}

static int wrong_response(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    http_response_t other = *res;
    int result = cweb_binding.host->send_file(cweb_binding.module, &other, NULL);
    int null = cweb_binding.host->send_file(cweb_binding.module, res, NULL);
    (void)req;
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d %d %s", result, null, strerror(errno));
}

static int upload(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    FILE *file = tmpfile();
    ssize_t count = cweb_read_to_file(req, fileno(file), strtoul(param(req, "max"), NULL, 10));
    int error = errno;
    char back[64] = "";
    rewind(file);
    size_t got = fread(back, 1, sizeof back - 1, file);
    back[got] = '\0';
    fclose(file);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%zd %s [%s]", count, count < 0 ? strerror(error) : "ok", back);
}

static int upload_stream(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    FILE *file = tmpfile();
    ssize_t count = cweb_read_to_file(req, fileno(file), strtoul(param(req, "max"), NULL, 10));
    int error = errno;
    unsigned long sum = 0;
    rewind(file);
    for (int c = fgetc(file); count >= 0 && c != EOF; c = fgetc(file)) {
        sum = sum * 31 + (unsigned long)c;
    }
    fclose(file);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%zd %s %lu", count, count < 0 ? strerror(error) : "ok", sum);
}

/* Writes into the sockets by which descriptors get to the server. */
static int breaks(ctx_t *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    int broken = 0;
    for (int fd = 3; fd < 200; fd++) {
        int type = 0;
        socklen_t length = sizeof type;
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET) {
            broken += send(fd, "lies", 4, MSG_NOSIGNAL) == 4;
        }
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d", broken);
}

export module_t config = {
    .name = "files",
    .author = "tests",
    .routes = {{"/below", "GET", below, NONE},
               {"/as-it-is", "GET", as_it_is, NONE},
               {"/inline", "GET", below, CWEB_INLINE},
               {"/error", "GET", error_page, NONE},
               {"/instead", "GET", instead, NONE},
               {"/own", "GET", own_fields, NONE},
               {"/faults", "GET", faults, NONE},
               {"/wrong", "GET", wrong_response, NONE},
               {"/breaks", "GET", breaks, NONE},
               {"/below", "PUT", below, NONE},
               {"/upload", "POST", upload, NONE},
               {"/upload-stream", "POST", upload_stream, CWEB_STREAM}},
    .size = 12,
    .mounts = {{"/assets", "static/www"}},
    .mount_size = 1,
};
