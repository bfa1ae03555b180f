/* Captures, the target, cookies, redirects, statuses, the client's address. tests/request_api/rest.rs */
#include <cweb.h>

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define OR(text) ((text) == NULL ? "-" : (text))

/* Behind what snprintf(3) has written, or wanted to write. */
static char *behind(char *at, int written, char *end) {
    return written > end - at ? end : at + written;
}

H(show) {
    (void)ctx;
    char *at = res->body;
    char *end = res->body + HTTP_RESPONSE_SIZE;
    at = behind(at, snprintf(at, (size_t)(end - at), "id=%s name=%s", OR(cweb_param(req, "id")), OR(cweb_param(req, "name"))), end);
    for (size_t i = 0; i < 5; i++) {
        at = behind(at, snprintf(at, (size_t)(end - at), " %zu=%s", i, OR(cweb_param_at(req, i))), end);
    }
    snprintf(at, (size_t)(end - at), " target=%s", OR(cweb_target(req)));
    return 0;
}

H(cookie) {
    (void)ctx;
    const char *name = http_kv_get(req->params, "name");
    const char *value = cweb_cookie(req, name);
    snprintf(res->body, HTTP_RESPONSE_SIZE, value == NULL ? "none" : "[%s]", value);
    return 0;
}

/* Sets the cookies that are sound, and says which of the others were refused. */
H(set) {
    (void)ctx;
    cweb_cookie_options_t all = {.path = "/", .domain = "example.org", .max_age_s = 60, .secure = 1, .http_only = 1, .same_site = CWEB_SAME_SITE_STRICT};
    cweb_cookie_options_t gone = {.max_age_s = -1};
    cweb_cookie_options_t lax = {.same_site = CWEB_SAME_SITE_LAX};
    cweb_cookie_options_t host = {.path = "/", .secure = 1, .same_site = CWEB_SAME_SITE_NONE};
    int failed = cweb_set_cookie(res, "sid", "a=b:c", &all) | cweb_set_cookie(res, "old", "", &gone) |
                 cweb_set_cookie(res, "sid", "again", NULL) | cweb_set_cookie(res, "lax", "1", &lax) |
                 cweb_set_cookie(res, "__Host-id", "1", &host);
    cweb_cookie_options_t bad_path = {.path = "/\r\nX: y"}, bad_domain = {.domain = "a;b"}, none = {.same_site = CWEB_SAME_SITE_NONE},
                          other = {.same_site = (cweb_same_site_t)9}, no_slash = {.path = "x"};
    char *huge = cweb_alloc(req, 5000);
    memset(huge, 'x', 4999);
    errno = 0;
    int refused = cweb_set_cookie(res, "a\r\nX", "1", NULL) + cweb_set_cookie(res, "a", "1\r\nX-Evil: 1", NULL) +
                  cweb_set_cookie(res, "a", "1; Path=/", NULL) + cweb_set_cookie(res, "a b", "1", NULL) +
                  cweb_set_cookie(res, "", "1", NULL) + cweb_set_cookie(res, NULL, "1", NULL) +
                  cweb_set_cookie(res, "a", NULL, NULL) + cweb_set_cookie(NULL, "a", "1", NULL) +
                  cweb_set_cookie(res, "a", "\xc3\xa9", NULL) + cweb_set_cookie(res, "a", huge, NULL) +
                  cweb_set_cookie(res, "a", "1", &bad_path) + cweb_set_cookie(res, "a", "1", &bad_domain) +
                  cweb_set_cookie(res, "a", "1", &none) + cweb_set_cookie(res, "a", "1", &other) +
                  cweb_set_cookie(res, "a", "1", &no_slash) + cweb_set_cookie(res, "__Host-a", "1", NULL) +
                  cweb_set_cookie(res, "__secure-a", "1", NULL);
    int invalid = errno == EINVAL;
    int room = 0;
    while (http_kv_get(req->params, "fill") != NULL && cweb_set_cookie(res, "fill", "1", NULL) == 0) {
        room++;
    }
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d %d %d %d", failed, refused, invalid, room, errno == ENOMEM);
    return 0;
}

H(redirect) {
    (void)ctx;
    const char *to = http_kv_get(req->params, "to");
    const char *status = http_kv_get(req->params, "status");
    if (http_kv_get(req->params, "twice") != NULL) {
        http_kv_insert(res->headers, "location", cweb_strdup(req, "/first"));
    }
    errno = 0;
    int result = cweb_redirect(res, status == NULL ? 302 : atoi(status), to);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d", result, errno == EINVAL);
    return 0;
}

H(status) {
    (void)ctx;
    int result = cweb_status(res, atoi(OR(http_kv_get(req->params, "code"))));
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d", result);
    return 0;
}

H(peer) {
    (void)ctx;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%s %s", OR(cweb_peer_address(req)), OR(cweb_connection_address(req)));
    return 0;
}

export module_t config = {
    .name = "more",
    .author = "test",
    .routes = {{"/user/:id", "GET", show, NONE},
               {"/user/:id", "POST", show, CWEB_INLINE},
               {"/user/:id/posts/:name", "GET", show, NONE},
               {"/([a-z]+)-([0-9]+)(x)?/:name", "GET", show, NONE},
               {"/user/me", "GET", show, NONE},
               {"/v1/users:batch", "GET", show, NONE},
               {"/cookie", "GET", cookie, NONE},
               {"/set", "GET", set, NONE},
               {"/redirect", "GET", redirect, NONE},
               {"/status", "GET", status, NONE},
               {"/peer", "GET", peer, NONE}},
    .size = 11,
};
