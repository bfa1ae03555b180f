/* Routes and a job whose limits module.toml lowers. */
#include <cweb.h>
#include <cweb_stream.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int running, most;

static int size(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d", req->content_length);
}

static int pieces(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char piece[512];
    ssize_t count, all = 0;
    while ((count = cweb_read(req, piece, sizeof piece)) > 0) {
        all += count;
    }
    return cweb_respond(res, count < 0 ? 413 : 200, "text/plain", "%zd", all);
}

static int slow(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    sleep(60);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "slow");
}

static int most_of_all(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d", most);
}

static int together(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    int now = atomic_fetch_add(&running, 1) + 1;
    for (int seen = most; now > seen && !atomic_compare_exchange_weak(&most, &seen, now);) {
    }
    for (int i = 0; i < 20 && running < 2; i++) {
        usleep(5000);
    }
    atomic_fetch_sub(&running, 1);
    return 0;
}

export module_t config = {
    .name = "limited",
    .author = "tests",
    .routes = {{"/size", "POST", size, NONE},
               {"/large", "POST", size, CWEB_BODY_MIB(1)},
               {"/pieces", "POST", pieces, CWEB_STREAM},
               {"/slow", "GET", slow, NONE},
               {"/slower", "GET", slow, CWEB_TIMEOUT_S(60)},
               {"/most", "GET", most_of_all, NONE}},
    .size = 6,
    .jobs = {{.name = "together", .run = together}},
    .job_size = 1,
};
