/* A module with a fault of each kind that the tools find. */
#include <cweb_test.h>
#include <pthread.h>

static int shared;

static int copy(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    char *text = malloc(8);
    strcpy(text, http_kv_get(req->params, "who")); /* line 10: too long a name */
    int result = cweb_respond(res, 200, "text/plain", "%s", text);
    free(text);
    return result;
}

static int leak(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    char *text = malloc(123); /* line 18: lost */
    snprintf(text, 123, "lost");
    return cweb_respond(res, 200, "text/plain", "%s", text);
}

static int shift(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    int by = atoi(http_kv_get(req->params, "by"));
    return cweb_respond(res, 200, "text/plain", "%d", 1 << by); /* line 26 */
}

static int unset(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    char *text = malloc(64);
    if (text[7] == 'x') { /* line 32: nobody has set it */
        text[0] = 'y';
    }
    free(text);
    return cweb_respond(res, 200, "text/plain", "done");
}

static pthread_barrier_t both;

static int race(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    pthread_barrier_wait(&both);
    shared++; /* line 44 */
    return cweb_respond(res, 200, "text/plain", "done");
}

static int count(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    shared++;
    return cweb_respond(res, 200, "text/plain", "%d", shared);
}

export module_t config = {
    .name = "faulty",
    .author = "t",
    .routes = {{"/copy", "GET", copy, NONE}, {"/leak", "GET", leak, NONE}, {"/shift", "GET", shift, NONE},
               {"/unset", "GET", unset, NONE}, {"/race", "GET", race, NONE}, {"/count", "GET", count, NONE}},
    .size = 6,
};

static int status(const char *target) {
    return cweb_test_request("GET", target, NULL, NULL)->status;
}

static void *ask(void *target) {
    status(target);
    return NULL;
}

CWEB_TEST(fine) {
    CWEB_ASSERT_EQ(status("/copy?who=you"), 200);
    CWEB_ASSERT_EQ(status("/shift?by=3"), 200);
    shared = 5;
    CWEB_ASSERT_STR(cweb_test_request("GET", "/count", NULL, NULL)->body, "6");
    shared++;
    CWEB_ASSERT_STR(cweb_test_request("GET", "/count", NULL, NULL)->body, "8");
}
CWEB_TEST(overflows) { CWEB_ASSERT_EQ(status("/copy?who=somebody-long"), 200); }
CWEB_TEST(leaks) { CWEB_ASSERT_EQ(status("/leak"), 200); }
CWEB_TEST(shifts) { CWEB_ASSERT_EQ(status("/shift?by=40"), 200); }
CWEB_TEST(reads_unset) { CWEB_ASSERT_EQ(status("/unset"), 200); }
CWEB_TEST(races) {
    pthread_t threads[2];
    pthread_barrier_init(&both, NULL, 2);
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, ask, (void *)"/race");
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}
