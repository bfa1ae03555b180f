/* What a handler asks of its request: memory, deferred functions, form parts, cookies, redirects. tests/request_api.rs */
#include <cweb.h>
#include <cweb_stream.h>
#include <defer.h>
#include <sys/resource.h>

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define SAY(...) snprintf(res->body, HTTP_RESPONSE_SIZE, __VA_ARGS__)
/* Adds to the answer. */
#define ADD(...)                                                                                                        \
    do {                                                                                                                \
        size_t used = strlen(res->body);                                                                                \
        snprintf(res->body + used, HTTP_RESPONSE_SIZE - used, __VA_ARGS__);                                             \
    } while (0)
#define CHECK(condition)                                                                                                \
    do {                                                                                                                \
        if (!(condition)) {                                                                                             \
            ADD("line %d: %s\n", __LINE__, #condition);                                                                 \
        }                                                                                                               \
    } while (0)

H(memory) {
    (void)ctx;
    size_t sizes[] = {0, 1, 15, 16, 17, 4096, 65536, 100000, 3 << 20, 1};
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            unsigned char *block = cweb_alloc(req, sizes[i]);
            CHECK(block != NULL && (uintptr_t)block % 16 == 0);
            for (size_t k = 0; block != NULL && k < sizes[i]; k++) {
                if (block[k] != 0) {
                    CHECK(!"zeroed");
                    break;
                }
            }
            memset(block, 0xa5, sizes[i]);
        }
    }
    char *text = cweb_strdup(req, "text");
    char *formatted = cweb_sprintf(req, "%s-%d-%0100000d", text, 7, 3);
    CHECK(strcmp(text, "text") == 0 && strlen(formatted) == 5 + 2 + 100000 && strncmp(formatted, "text-7-000", 10) == 0);
    return 0;
}

/* A body and header values in the request's memory, set, replaced and used again. */
H(answer) {
    (void)ctx;
    free(res->body);
    res->body = cweb_sprintf(req, "first");
    cweb_respond(res, HTTP_200_OK, "text/plain", "second");
    cweb_give_back(res->body);
    res->body = cweb_alloc(req, 200000);
    memset(res->body, 'x', 200000);
    res->content_length = 200000;
    http_kv_insert(res->headers, "x-made", cweb_sprintf(req, "made-%d", 1));
    cweb_header(res, "x-made", "made-2");
    http_kv_insert(res->headers, cweb_strdup(req, "x-also"), cweb_strdup(req, "also"));
    http_kv_insert(req->data, "own", cweb_strdup(req, "value"));
    return 0;
}

/* An answer of a part of the request's memory, within it and to its end. */
H(inner) {
    (void)ctx;
    free(res->body);
    res->body = cweb_strdup(req, "----inner") + 4;
    return 0;
}

H(too_much) {
    (void)ctx;
    free(res->body);
    res->body = cweb_strdup(req, "short");
    res->content_length = 1 << 30;
    return 0;
}

H(limit) {
    (void)ctx;
    size_t blocks = 0;
    errno = 0;
    CHECK(cweb_alloc(req, SIZE_MAX) == NULL && errno == ENOMEM);
    CHECK(cweb_alloc(req, ((size_t)1 << 20) - 4096) != NULL);
    while (blocks < 1000 && cweb_alloc(req, 65536) != NULL) {
        blocks++;
    }
    CHECK(errno == ENOMEM);
    CHECK(blocks == 16); /* of 2 MiB; 4 KiB are left */
    CHECK(cweb_defer(req, free, NULL) == 0);
    errno = 0;
    while (cweb_alloc(req, 16) != NULL) {
    }
    CHECK(cweb_defer(req, free, NULL) == -1 && errno == ENOMEM);
    CHECK(cweb_strdup(req, "x") == NULL && cweb_sprintf(req, "x") == NULL && cweb_cookie(req, "sid") == NULL);
    return 0;
}

static void *other_thread(void *req) {
    errno = 0;
    void *memory = cweb_alloc(req, 1);
    return memory == NULL && errno == EINVAL ? NULL : "it got some";
}

static http_request_t *kept;
static char late[64] = "not run";

static void use_late(void *arg) {
    (void)arg;
    errno = 0;
    void *memory = cweb_alloc(kept, 1);
    snprintf(late, sizeof late, "%s %s", memory == NULL && errno == EINVAL ? "refused" : "given",
             cweb_form_part(kept, "x") == NULL && cweb_param(kept, "id") == NULL ? "nothing" : "something");
}

H(wrong) {
    http_request_t copy = *req;
    void *result = "not joined";
    pthread_t thread;
    errno = 0;
    CHECK(cweb_alloc(NULL, 1) == NULL && errno == EINVAL);
    CHECK(cweb_alloc(&copy, 1) == NULL);
    CHECK(cweb_alloc((http_request_t *)8, 1) == NULL);
    CHECK(cweb_strdup(req, NULL) == NULL);
    errno = 0;
    CHECK(cweb_defer(req, NULL, NULL) == -1 && errno == EINVAL);
    CHECK(cweb_defer(&copy, free, NULL) == -1);
    CHECK(cweb_form_part(NULL, "x") == NULL && cweb_form_part(req, NULL) == NULL);
    CHECK(cweb_form_next(req, "x", NULL) == NULL && cweb_form_error(&copy) != NULL);
    CHECK(cweb_param(NULL, "id") == NULL && cweb_param(req, NULL) == NULL && cweb_param(req, "id") == NULL);
    CHECK(cweb_param_at(req, 1) == NULL && cweb_param_at(req, SIZE_MAX) == NULL);
    CHECK(strcmp(cweb_param_at(req, 0), "/wrong") == 0);
    CHECK(cweb_target(NULL) == NULL && cweb_peer_address(&copy) == NULL);
    CHECK(cweb_cookie(req, NULL) == NULL && cweb_cookie(req, "") == NULL && cweb_cookie(NULL, "x") == NULL);
    pthread_create(&thread, NULL, other_thread, req);
    pthread_join(thread, &result);
    CHECK(result == NULL);
    kept = req;
    scheduler_add(ctx->scheduler, use_late, NULL, ASYNC);
    return 0;
}

H(was_late) {
    (void)ctx, (void)req;
    SAY("%s", late);
    return 0;
}

static void tell(void *what) {
    cweb_log(CWEB_LOG_INFO, "deferred %s", (const char *)what);
}

static void tell_and_free(void *what) {
    tell(what);
    free(what);
}

static void crash(void *what) {
    (void)what;
    *(volatile int *)8 = 1;
}

/* The two meanings of the name side by side. */
H(deferred) {
    (void)ctx;
    char *freed cweb_defer(cweb_free_pointer) = strdup("at the end of the scope");
    cweb_defer(req, tell_and_free, strdup("last"));
    cweb_defer(req, tell, cweb_sprintf(req, "second %s", "to last"));
    cweb_defer(req, tell, "first");
    SAY("answered");
    return 0;
}

static void from_deferred(void *req) {
    char *text = cweb_sprintf(req, "made there %d", cweb_defer(req, tell, "by a deferred function"));
    tell(text);
}

H(nested) {
    (void)ctx, (void)res;
    cweb_defer(req, from_deferred, req);
    return 0;
}

H(deferred_crash) {
    (void)ctx;
    cweb_defer(req, tell, "after the crash");
    cweb_defer(req, crash, NULL);
    SAY("this is not sent");
    return 0;
}

H(crash_deferred) {
    (void)ctx, (void)res;
    cweb_defer(req, tell, "though the handler crashed");
    cweb_alloc(req, 1 << 20);
    crash(NULL);
    return 0;
}

H(exit_deferred) {
    (void)ctx, (void)res;
    cweb_defer(req, tell, "though the handler exited");
    exit(3);
}

H(peak) {
    (void)ctx, (void)req;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    SAY("%ld", usage.ru_maxrss);
    return 0;
}

H(eat) {
    (void)ctx, (void)res;
    char *memory = cweb_alloc(req, (size_t)1500 * 1024);
    memset(memory, 1, (size_t)1500 * 1024);
    if (http_kv_get(req->params, "crash") != NULL) {
        abort();
    }
    return 0;
}

/* An answer in pieces from the request's memory; ?crash before its end. */
H(flow) {
    (void)ctx;
    char *memory = cweb_alloc(req, (size_t)1500 * 1024);
    memset(memory, 'm', (size_t)1500 * 1024);
    cweb_defer(req, tell, http_kv_get(req->params, "crash") != NULL ? "behind a broken flow" : "behind a flow");
    cweb_header(res, "content-length", "4");
    cweb_begin(res, HTTP_200_OK);
    cweb_write(res, memory, 2);
    if (http_kv_get(req->params, "crash") != NULL) {
        abort();
    }
    return cweb_write(res, memory, 2);
}

static uint64_t sum(const char *bytes, size_t length) {
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < length; i++) {
        sum = (sum ^ (unsigned char)bytes[i]) * 1099511628211u;
    }
    return sum;
}

H(form) {
    (void)ctx;
    size_t at = 0;
    size_t count = 0;
    const char *only = http_kv_get(req->params, "only");
    for (const cweb_part_t *part; (part = cweb_form_next(req, only, &at)) != NULL; count++) {
        if (count < 40) {
            ADD("%s|%s|%s|%zu|%llx\n", part->name, part->file_name == NULL ? "-" : part->file_name,
                part->content_type == NULL ? "-" : part->content_type, part->length,
                (unsigned long long)sum(part->bytes, part->length));
        }
    }
    const char *error = cweb_form_error(req);
    ADD("%zu %s\n", count, error == NULL ? "whole" : error);
    return 0;
}

/* A file of the form as the answer, straight from the request. */
H(file) {
    (void)ctx;
    const cweb_part_t *part = cweb_form_part(req, "file");
    if (part == NULL) {
        res->status = HTTP_404_NOT_FOUND;
        return 0;
    }
    free(res->body);
    res->body = (char *)(uintptr_t)part->bytes;
    res->content_length = (int)part->length;
    return 0;
}

export module_t config = {
    .name = "request_api",
    .author = "test",
    .routes = {{"/memory", "GET", memory, NONE},
               {"/memory/inline", "GET", memory, CWEB_INLINE},
               {"/answer", "GET", answer, NONE},
               {"/inner", "GET", inner, NONE},
               {"/too_much", "GET", too_much, NONE},
               {"/limit", "GET", limit, NONE},
               {"/wrong", "GET", wrong, NONE},
               {"/was_late", "GET", was_late, NONE},
               {"/deferred", "GET", deferred, NONE},
               {"/nested", "GET", nested, NONE},
               {"/deferred_crash", "GET", deferred_crash, NONE},
               {"/crash_deferred", "GET", crash_deferred, NONE},
               {"/exit_deferred", "GET", exit_deferred, NONE},
               {"/peak", "GET", peak, NONE},
               {"/eat", "GET", eat, NONE},
               {"/flow", "GET", flow, CWEB_STREAM},
               {"/form", "POST", form, NONE},
               {"/file", "POST", file, NONE}},
    .size = 18,
};
