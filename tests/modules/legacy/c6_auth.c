/* Signatures; Set-Cookie from a buffer on the stack, which is freed memory of the stack when the answer is sent; defer. */
#include <cweb.h>
#include <crypto.h>
#include <stdio.h>
#include <string.h>

extern struct crypto *crypto;

static int login(struct http_request *req, struct http_response *res) {
    (void)req;
    char cookie[128], signature[1024];
    char *freed = strdup("soon gone");
    defer { memset(cookie, 'x', sizeof cookie - 1); }
    snprintf(cookie, sizeof cookie, "session=%d; Path=/", 42);
    map_insert(res->headers, "Set-Cookie", cookie);
    map_insert(res->headers, "X-Freed", freed);
    memset(freed, 'x', 4);
    free(freed);
    map_insert(res->headers, "x-freed", "the first one counts");
    map_insert(res->headers, "X-Gone", "gone");
    map_remove(res->headers, "X-Gone");
    int length = crypto->ops->sign_token("token", signature, sizeof signature);
    int verified = length > 0 ? crypto->ops->verify_token(signature, "token", 5) : -1;
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%d %d %d %d", crypto->status == CRYPTO_LOADED, length > 0, verified,
             crypto_module.ops != NULL);
    res->status = HTTP_200_OK;
    return 0;
}

static int secret(struct http_request *req, struct http_response *res) {
    const char *cookie = map_get(req->headers, "Cookie");
    res->status = cookie && strstr(cookie, "session=42") ? HTTP_200_OK : HTTP_401_UNAUTHORIZED;
    return 0;
}

export module_t config = {
    .name = "legacy_auth",
    .author = "test",
    .routes = {{"/login", "POST", login, NONE}, {"/secret", "GET", secret, NONE}},
    .size = 2,
};
