/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The handlers that bench/run measures. */
#include <cweb.h>
#include <openssl/sha.h>
#include <time.h>

static int answer(http_response_t *res, const char *text, size_t length) {
    memcpy(res->body, text, length + 1);
    res->content_length = length;
    return 0;
}

static int plaintext(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return answer(res, "Hello, World!", 13);
}

static int json(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    volatile int id = 42;
    res->content_length = snprintf(res->body, HTTP_RESPONSE_SIZE, "{\"message\":\"%s\",\"id\":%d}", "Hello, World!", id);
    return cweb_header(res, "content-type", "application/json");
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

/* Answers the sum of the third column. */
static int csv(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    unsigned long long sum = 0;
    const char *at = req->body, *end = req->body + req->content_length;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        line_end = line_end != NULL ? line_end : end;
        for (int column = 0; column < 2 && at != NULL; column++) {
            at = memchr(at, ',', (size_t)(line_end - at));
            at = at != NULL ? at + 1 : NULL;
        }
        unsigned long long value = 0;
        for (; at != NULL && at < line_end && *at >= '0' && *at <= '9'; at++) {
            value = value * 10 + (unsigned long long)(*at - '0');
        }
        sum += value;
        at = line_end + 1;
    }
    res->content_length = snprintf(res->body, HTTP_RESPONSE_SIZE, "%llu", sum);
    return 0;
}

static long long thread_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

/* Computes for 50 ms. */
static int slow(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    for (long long end = thread_ns() + 50000000; thread_ns() < end;) {
    }
    return answer(res, "done", 4);
}

export module_t config = {
    .name = "bench",
    .author = "cweb",
    .routes = {{"/inline", "GET", plaintext, CWEB_INLINE},
               {"/ordinary", "GET", plaintext, NONE},
               {"/inline", "POST", plaintext, CWEB_INLINE | CWEB_BODY_MIB(64)},
               {"/ordinary", "POST", plaintext, CWEB_BODY_MIB(64)},
               {"/inline/json", "GET", json, CWEB_INLINE},
               {"/ordinary/json", "GET", json, NONE},
               {"/slow", "GET", slow, NONE},
               {"/sha256", "POST", sha256, CWEB_BODY_MIB(2)},
               {"/csv", "POST", csv, CWEB_BODY_MIB(2)}},
    .size = 9,
};
