/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* http.h, http_parse.h and the helpers of cweb.h: every function, field and enumerator. */
#include <cweb_file.h>

HANDLER(stores) {
    http_kv_store_t *store = http_kv_create(2);
    CHECK(store != NULL && store->size == 0 && store->capacity == 2 && store->entries != NULL);
    CHECK(http_kv_create(0) == NULL);
    char *second = strdup("second");
    CHECK(http_kv_insert(store, "X-Name", strdup("first")) == 0);
    CHECK(http_kv_insert(store, "x-nAME", second) == 0);
    CHECK(strcmp(http_kv_get(store, "X-NAME"), "first") == 0);
    free(second); /* a value that was not taken stays the caller's */
    CHECK(http_kv_size(store) == 1 && store->size == 1);
    CHECK(strcmp(store->entries[0].key, "x-name") == 0 && strcmp(store->entries[0].value, "first") == 0);
    CHECK(http_kv_insert(store, NULL, NULL) == -1);
    CHECK(http_kv_insert(NULL, "k", NULL) == -1);
    CHECK(http_kv_insert(store, "other", strdup("2")) == 0);
    char *third = strdup("third");
    CHECK(http_kv_insert(store, "third", third) == -1);
    CHECK(http_kv_insert(store, "OTHER", third) == 0); /* full, but the key is known */
    CHECK(http_kv_insert(store, "other", NULL) == -1 && strcmp(http_kv_get(store, "other"), "2") == 0);
    CHECK(http_kv_get(store, "third") == NULL && http_kv_get(store, NULL) == NULL && http_kv_get(NULL, "k") == NULL);
    CHECK(http_kv_size(NULL) == 0);
    http_kv_destroy(store, 1);
    store = http_kv_create(1);
    CHECK(http_kv_insert(store, "k", third) == 0);
    CHECK(http_kv_insert(store, "more", NULL) == -1 && store->size == 1);
    http_kv_destroy(store, 0);
    CHECK(strcmp(third, "third") == 0);
    free(third);
    http_kv_destroy(NULL, 1);
    PASS();
}

HANDLER(names) {
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"};
    static const int codes[] = {0, 101, 200, 302, 400, 401, 403, 404, 405, 409, 413, 414, 426, 500, 501};
    CHECK(HTTP_ERR == -1 && HTTP_GET == 0 && HTTP_POST == 1 && HTTP_PUT == 2 && HTTP_DELETE == 3 && HTTP_OPTIONS == 4);
    CHECK(HTTP_HEAD == 5 && HTTP_PATCH == 6 && HTTP_VERSION_1_0 == 0 && HTTP_VERSION_1_1 == 1 && NONE == 0);
    CHECK(HTTP_000_UNKNOWN == 0 && HTTP_101_SWITCHING_PROTOCOLS == 1 && HTTP_200_OK == 2 && HTTP_302_FOUND == 3);
    CHECK(HTTP_400_BAD_REQUEST == 4 && HTTP_401_UNAUTHORIZED == 5 && HTTP_403_FORBIDDEN == 6 && HTTP_404_NOT_FOUND == 7);
    CHECK(HTTP_405_METHOD_NOT_ALLOWED == 8 && HTTP_409_CONFLICT == 9 && HTTP_413_PAYLOAD_TOO_LARGE == 10);
    CHECK(HTTP_414_URI_TOO_LONG == 11 && HTTP_426_UPGRADE_REQUIRED == 12 && HTTP_500_INTERNAL_SERVER_ERROR == 13);
    CHECK(HTTP_501_NOT_IMPLEMENTED == 14);
    for (int i = HTTP_GET; i <= HTTP_PATCH; i++) {
        CHECK(strcmp(http_methods[i], methods[i]) == 0);
    }
    for (int i = HTTP_000_UNKNOWN; i <= HTTP_501_NOT_IMPLEMENTED; i++) {
        CHECK(atoi(http_errors[i]) == codes[i]);
    }
    CHECK(HTTP_RESPONSE_SIZE == 8 * 1024 && DEFAULT_MAX_BODY_BYTES == 1024 * 1024);
    CHECK(MAX_ROUTES >= 10 && MAX_WEBSOCKETS >= 10 && MAX_JOBS >= 10);
    CHECK(sizeof(((module_t *)0)->name) == 128 && sizeof(((module_t *)0)->author) == 128);
    PASS();
}

static json_t *pairs(const http_kv_store_t *store) {
    json_t *object = json_object();
    for (size_t i = 0; i < store->size; i++) {
        json_object_set_new(object, store->entries[i].key, json_string(store->entries[i].value));
    }
    return object;
}

/* Tells every field of the request. */
HANDLER(request) {
    CHECK(req->body != NULL && req->body[req->content_length] == '\0');
    CHECK(req->params != NULL && req->headers != NULL && req->data != NULL);
    CHECK(pthread_equal(req->tid, pthread_self()));
    CHECK(res->status == HTTP_200_OK && res->content_length == 0 && res->body[0] == '\0' && res->headers->size == 0);
    CHECK(ctx->cache && ctx->scheduler && ctx->database && ctx->crypto && ctx->symbols && ctx->jobs);
    json_t *object = json_pack("{s:s, s:s, s:s, s:b, s:s%, s:i, s:b, s:b, s:b, s:b}",
        "method", http_methods[req->method], "version", req->version == HTTP_VERSION_1_1 ? "1.1" : "1.0",
        "path", req->path, "status", req->status == HTTP_200_OK,
        "body", req->body, (size_t)req->content_length, "length", req->content_length,
        "keep_alive", req->keep_alive != 0, "close", req->close != 0,
        "websocket", req->websocket != 0, "chunked", req->transfer_encoding_chunked != 0);
    CHECK(object != NULL);
    json_object_set_new(object, "params", pairs(req->params));
    json_object_set_new(object, "headers", pairs(req->headers));
    json_object_set_new(object, "data", pairs(req->data));
    return cweb_respond_json(res, HTTP_200_OK, object);
}

/* /status?is=N: the number as it is, be it an enumerator or a status code. */
HANDLER(status) {
    (void)ctx;
    res->status = (http_error_t)atoi(http_kv_get(req->params, "is"));
    strcpy(res->body, "body");
    return 12345; /* ignored */
}

HANDLER(body) {
    const char *how = http_kv_get(req->params, "how");
    (void)ctx;
    if (strcmp(how, "empty") == 0) {
        return 0;
    }
    if (strcmp(how, "null") == 0) {
        free(res->body);
        res->body = NULL;
        return 0;
    }
    if (strcmp(how, "full") == 0) { /* all of the first buffer */
        memset(res->body, 'f', HTTP_RESPONSE_SIZE - 1);
        return 0;
    }
    if (strcmp(how, "grown") == 0) {
        res->body = realloc(res->body, 100001);
        memset(res->body, 'g', 100000);
        res->body[100000] = '\0';
        return 0;
    }
    if (strcmp(how, "shrunk") == 0) {
        res->body = realloc(res->body, 4);
        strcpy(res->body, "shr");
        return 0;
    }
    if (strcmp(how, "other") == 0) {
        free(res->body);
        res->body = strdup("another string");
        return 0;
    }
    if (strcmp(how, "part") == 0) { /* content_length wins over strlen */
        strcpy(res->body, "partly sent");
        res->content_length = 6;
        return 0;
    }
    if (strcmp(how, "negative") == 0) {
        strcpy(res->body, "by strlen");
        res->content_length = -5;
        return 0;
    }
    if (strcmp(how, "behind") == 0) { /* more than is sent, without an end */
        memset(res->body, 'S', 200);
        res->content_length = 5;
        return 0;
    }
    if (strcmp(how, "cut") == 0) { /* a string that is made shorter */
        memset(res->body, 'S', 200);
        res->body[5] = '\0';
        return 0;
    }
    if (strcmp(how, "endless") == 0) { /* counts on the zeros of an empty body */
        memcpy(res->body, "0123456789", 10);
        return 0;
    }
    if (strcmp(how, "brim") == 0) {
        memset(res->body, 'b', HTTP_RESPONSE_SIZE);
        return 0;
    }
    if (strcmp(how, "shared") == 0) { /* as "taken", but the request has it still */
        free(res->body);
        res->body = req->body;
        res->content_length = req->content_length;
        return 0;
    }
    if (strcmp(how, "freed") == 0) {
        free(req->body);
        req->body = NULL;
        strcpy(res->body, "freed");
        return 0;
    }
    if (strcmp(how, "written") == 0) {
        int empty = req->body[0] == '\0';
        req->body[0] = 'w';
        strcpy(res->body, empty ? "was empty" : "was not empty");
        return 0;
    }
    if (strcmp(how, "taken") == 0) { /* the request's body becomes the response's */
        free(res->body);
        res->body = req->body;
        res->content_length = req->content_length;
        req->body = NULL;
        return 0;
    }
    memcpy(res->body, "a\0b\xff", 4);
    res->content_length = 4;
    return 0;
}

HANDLER(headers) {
    (void)ctx, (void)req;
    http_kv_insert(res->headers, "Content-Type", strdup("text/x-test"));
    http_kv_insert(res->headers, "Set-Cookie", strdup("a=b"));
    http_kv_insert(res->headers, "Location", strdup("/there"));
    http_kv_insert(res->headers, "Location", strdup("/twice")); /* keeps the first */
    /* Framing is the server's. */
    http_kv_insert(res->headers, "Content-Length", strdup("9999"));
    http_kv_insert(res->headers, "Transfer-Encoding", strdup("chunked"));
    http_kv_insert(res->headers, "Connection", strdup("close"));
    http_kv_insert(res->headers, "Date", strdup("mine"));
    http_kv_insert(res->headers, "X-Empty", strdup(""));
    strcpy(res->body, "ok");
    return 0;
}

/* As many headers as fit, and one more. */
HANDLER(many) {
    (void)ctx, (void)req;
    int count = 0;
    for (;; count++) {
        char name[32];
        snprintf(name, sizeof name, "X-Many-%d", count);
        char *value = strdup("v");
        if (http_kv_insert(res->headers, name, value) != 0) {
            free(value);
            break;
        }
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", count);
    return 0;
}

HANDLER(parsers) {
    static const char text[] = "PUT /a%20b?k=v%2F&k=2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-One: 1\r\n"
                               "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 6\r\n\r\nd=%2B";
    http_request_t parsed;
    CHECK(http_parse(text, sizeof text - 1, &parsed) == 0); /* a byte of the body is missing */
    CHECK(parsed.content_length == 6 && parsed.body == NULL && http_parse_data(&parsed) == -1);
    parsed.body = strdup("d=%2B.");
    CHECK(http_parse_data(&parsed) == 0 && strcmp(http_kv_get(parsed.data, "d"), "+.") == 0);
    cweb_request_free(&parsed);
    static const char whole[] = "PUT /a%20b?k=v%2F&k=2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-One: 1\r\n"
                                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 5\r\n\r\nd=%21next";
    CHECK(http_parse(whole, sizeof whole - 1, &parsed) == 0);
    CHECK(parsed.method == HTTP_PUT && parsed.version == HTTP_VERSION_1_1 && strcmp(parsed.path, "/a%20b") == 0);
    CHECK(strcmp(http_kv_get(parsed.params, "k"), "v/") == 0 && strcmp(http_kv_get(parsed.headers, "x-one"), "1") == 0);
    CHECK(parsed.close && !parsed.keep_alive && parsed.content_length == 5 && strcmp(parsed.body, "d=%21") == 0);
    CHECK(http_parse_data(&parsed) == 0 && strcmp(http_kv_get(parsed.data, "d"), "!") == 0);
    CHECK(http_is_websocket_upgrade(&parsed) == 0);
    cweb_request_free(&parsed);
    static const char upgrade[] = "GET /w HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    CHECK(http_parse(upgrade, sizeof upgrade - 1, &parsed) == 0);
    CHECK(http_is_websocket_upgrade(&parsed) == 1 && parsed.websocket);
    cweb_request_free(&parsed);
    CHECK(http_parse("BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 28, &parsed) == -1 && parsed.status == HTTP_400_BAD_REQUEST);
    cweb_request_free(&parsed);
    char *out = NULL;
    size_t length = 0;
    static const char chunks[] = "3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    CHECK(http_decode_chunked_body(chunks, sizeof chunks - 1, &out, &length) == 0);
    CHECK(length == 5 && strcmp(out, "abcde") == 0);
    free(out);
    CHECK(http_decode_chunked_body("3\r\nab", 5, &out, &length) == 1 && out == NULL);
    CHECK(http_decode_chunked_body("zz\r\n", 4, &out, &length) == -1 && out == NULL);
    char *path = cweb_path_decode("/a%20b+c%zz");
    CHECK(strcmp(path, "/a b+c%zz") == 0);
    free(path);
    CHECK(cweb_path_decode("/a%00b") == NULL);
    PASS();
}

/* Every value of the parameter, form field and header "tag". */
HANDLER(repeated) {
    http_kv_store_t *stores[] = {req->params, req->data, req->headers};
    (void)ctx;
    for (int i = 0; i < 3; i++) {
        const char *first = http_kv_get(stores[i], "tag");
        size_t at = 0, size = http_kv_size(stores[i]);
        strcat(res->body, first != NULL ? first : "none");
        for (const char *tag; (tag = cweb_kv_next(stores[i], "Tag", &at)) != NULL;) {
            strcat(strcat(res->body, ","), tag);
        }
        strcat(res->body, " ");
        http_kv_insert(stores[i], "tag", NULL);
        CHECK(http_kv_size(stores[i]) == size && cweb_kv_next(stores[i], "tag", &at) == NULL);
    }
    return cweb_kv_next(NULL, "tag", NULL) == NULL ? 0 : -1;
}

/* Two of what may be there twice, in both ways, and two of what may not. */
HANDLER(cookies) {
    (void)ctx, (void)req;
    CHECK(http_kv_insert(res->headers, "Set-Cookie", strdup("a=1; Expires=Thu, 01 Jan 2032 00:00:00 GMT")) == 0);
    CHECK(http_kv_insert(res->headers, "set-cookie", strdup("b=2")) == 0);
    CHECK(cweb_header(res, "Set-Cookie", "c=3") == 0);
    CHECK(http_kv_insert(res->headers, "WWW-Authenticate", strdup("Basic realm=\"x\"")) == 0);
    CHECK(http_kv_insert(res->headers, "WWW-Authenticate", strdup("Bearer")) == 0);
    CHECK(cweb_header(res, "X-Once", "first") == 0 && cweb_header(res, "X-Once", "second") == 0);
    CHECK(http_kv_size(res->headers) == 6 && strncmp(http_kv_get(res->headers, "Set-Cookie"), "a=1", 3) == 0);
    PASS();
}

HANDLER(helpers) {
    CHECK(cweb_path_is_safe("a/b.txt") && cweb_path_is_safe("..a") && cweb_path_is_safe(""));
    CHECK(!cweb_path_is_safe("/etc") && !cweb_path_is_safe("a/../b") && !cweb_path_is_safe("a/..") && !cweb_path_is_safe(NULL));
    CHECK(!cweb_path_is_safe("a\\b"));
    CHECK(strcmp(cweb_content_type("x.HTML"), "text/html; charset=utf-8") == 0);
    CHECK(strcmp(cweb_content_type("x"), "application/octet-stream") == 0);
    CHECK(cweb_respond_data(res, HTTP_200_OK, NULL, "x\0y", 3) == 0 && res->content_length == 3);
    CHECK(cweb_header(res, "X-Set", "one") == 0 && cweb_header(res, "x-set", "two") == 0 && cweb_header(res, "x", NULL) == -1);
    CHECK(strcmp(http_kv_get(res->headers, "X-Set"), "two") == 0);
    cweb_log(CWEB_LOG_ERROR, "level %d", CWEB_LOG_ERROR);
    cweb_log(CWEB_LOG_WARN, "level %d", CWEB_LOG_WARN);
    cweb_log(CWEB_LOG_INFO, "level %d", CWEB_LOG_INFO);
    (void)ctx, (void)req;
    return cweb_respond(res, (http_error_t)203, "text/x-helper", "%s", "ok");
}

HANDLER(file) {
    (void)ctx;
    return cweb_send_file(req, res, "static/page.html");
}

HANDLER(no_file) {
    (void)ctx;
    return cweb_send_file(req, res, "static");
}

/* Another store of headers than the one that was there. */
HANDLER(store) {
    const char *how = http_kv_get(req->params, "how");
    (void)ctx;
    strcpy(res->body, how);
    http_kv_insert(res->headers, "X-First", strdup("1"));
    if (strcmp(how, "replaced") == 0) {
        http_kv_store_t *mine = http_kv_create(2);
        http_kv_insert(mine, "X-Own", strdup("2"));
        res->headers = mine;
    } else if (strcmp(how, "destroyed") == 0) {
        http_kv_destroy(res->headers, 1);
        res->headers = http_kv_create(1);
        http_kv_insert(res->headers, "X-Own", strdup("2"));
    } else if (strcmp(how, "emptied") == 0) { /* a store of the server's can be used on */
        http_kv_destroy(res->headers, 1);
        http_kv_insert(res->headers, "X-Own", strdup("2"));
    } else if (strcmp(how, "none") == 0) {
        http_kv_destroy(res->headers, 1);
        res->headers = NULL;
    } else if (strcmp(how, "echo") == 0) {
        res->headers = req->params;
    } else { /* the request's */
        http_kv_insert(req->params, "more", strdup("value"));
        http_kv_destroy(req->params, 1);
        http_kv_destroy(req->headers, 1);
        http_kv_insert(req->params, "X-Own", strdup("2"));
        http_kv_insert(res->headers, "X-Own", strdup(http_kv_get(req->params, "x-own")));
    }
    return 0;
}

export module_t config = {
    .name = "api-http",
    .author = "test",
    .routes = {
        {.path = "/stores", .method = "GET", .handler = stores, .flags = NONE},
        {"/names", "GET", names, CWEB_INLINE},
        {"/request(/.*)?", "GET", request, NONE},
        {"/request(/.*)?", "POST", request, NONE},
        {"/request(/.*)?", "PUT", request, NONE},
        {"/request(/.*)?", "DELETE", request, NONE},
        {"/request(/.*)?", "OPTIONS", request, NONE},
        {"/request(/.*)?", "PATCH", request, NONE},
        {"/inline", "POST", request, CWEB_INLINE},
        {"/status", "GET", status, NONE},
        {"/body", "GET", body, NONE},
        {"/body", "POST", body, NONE},
        {"/headers", "GET", headers, NONE},
        {"/many", "GET", many, NONE},
        {"/parsers", "GET", parsers, NONE},
        {"/helpers", "GET", helpers, NONE},
        {"/file", "GET", file, NONE},
        {"/no-file", "GET", no_file, NONE},
        {"/store", "GET", store, NONE},
        {"/repeated", "POST", repeated, NONE},
        {"/cookies", "GET", cookies, NONE},
    },
    .size = 21,
};
