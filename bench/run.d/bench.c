/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The handlers that bench/run measures. */
#include <cweb.h>
#include <openssl/sha.h>

static int answer(http_response_t *res, const char *text, size_t length) {
    memcpy(res->body, text, length + 1);
    res->content_length = length;
    return 0;
}

static int plaintext(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return answer(res, "Hello, World!", 13);
}

/* Reads the body, which came whole, and answers its SHA-256. */
static int sha256(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    char text[2 * SHA256_DIGEST_LENGTH + 1];
    SHA256((const unsigned char *)(req->body ? req->body : ""), (size_t)req->content_length, digest);
    for (size_t at = 0; at < sizeof digest; at++) {
        snprintf(text + 2 * at, 3, "%02x", digest[at]);
    }
    return answer(res, text, 2 * sizeof digest);
}

export module_t config = {
    .name = "bench",
    .author = "cweb",
    .routes = {{"/inline", "GET", plaintext, CWEB_INLINE},
               {"/ordinary", "GET", plaintext, NONE},
               {"/inline", "POST", plaintext, CWEB_INLINE},
               {"/ordinary", "POST", plaintext, NONE},
               {"/sha256", "POST", sha256, CWEB_BODY_MIB(2)}},
    .size = 5,
};
