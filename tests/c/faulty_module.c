/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A module whose handlers fail in every way; native_test.c loads it. */
#include <cweb.h>

#include <assert.h>
#include <unistd.h>

#define HANDLER(name) static int name(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define UNUSED (void)ctx, (void)req, (void)res

static volatile int zero;

HANDLER(call_exit) { UNUSED; exit(3); }
HANDLER(call__exit) { UNUSED; _exit(4); }
HANDLER(call__Exit) { UNUSED; _Exit(5); }
HANDLER(call_quick_exit) { UNUSED; quick_exit(6); }
HANDLER(call_abort) { UNUSED; abort(); }
HANDLER(fail_assert) { UNUSED; assert(zero != 0); return 0; }
HANDLER(read_null) { UNUSED; return *(volatile int *)(intptr_t)zero; }
HANDLER(divide) { UNUSED; return 7 / zero; } /* 1 / x would compile to comparisons */
HANDLER(print_bad) { UNUSED; return printf("%s\n", (const char *)(intptr_t)(zero + 1)); }
HANDLER(hold_cache) { UNUSED; pthread_mutex_lock(&ctx->cache->mutex); abort(); }

static int dig(int depth) {
    volatile char frame[512];
    frame[0] = (char)depth;
    return depth < zero ? 0 : dig(depth + 1) + frame[0];
}
HANDLER(overflow) { UNUSED; return dig(0); }

static int bad_row(void *arg, int columns, char **values, char **names) {
    (void)arg, (void)columns, (void)values, (void)names;
    abort();
}
HANDLER(fault_in_row) { UNUSED; return ctx->database->exec(ctx->database, "SELECT 1", bad_row, NULL); }

HANDLER(good) {
    UNUSED;
    printf("hello from %s", "good");
    return cweb_respond(res, HTTP_200_OK, "text/plain", "fine");
}

export module_t config = {
    .name = "faulty",
    .author = "test",
    .routes = {
        {"good", "GET", good, CWEB_INLINE},      {"exit", "GET", call_exit, NONE},
        {"_exit", "GET", call__exit, NONE},      {"_Exit", "GET", call__Exit, NONE},
        {"quick_exit", "GET", call_quick_exit, NONE}, {"abort", "GET", call_abort, NONE},
        {"assert", "GET", fail_assert, NONE},    {"null", "GET", read_null, NONE},
        {"divide", "GET", divide, NONE},         {"print", "GET", print_bad, NONE},
        {"hold", "GET", hold_cache, NONE},       {"overflow", "GET", overflow, NONE},
        {"row", "GET", fault_in_row, NONE},
    },
    .size = 13,
};
