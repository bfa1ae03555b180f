/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What other modules find through ctx->symbols, and what it finds of theirs in the cache. */
#ifndef TEXT
#define TEXT "first"
#endif

export int twice(int number);
export int twice(int number) {
    return 2 * number;
}

export const char text[] = TEXT;

HANDLER(cached) {
    (void)req;
    const char *shared = container_get(ctx->cache, "shared");
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%s", shared == NULL ? "nothing" : shared);
    return 0;
}

export module_t config = {.name = "neighbour", .author = "test", .routes = {{"/cached", "GET", cached}}, .size = 1};
