/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts its visitors. The count outlives hot swaps, because it lies in the cache and not in the module.
 *
 *     curl http://127.0.0.1:8080/counter
 *     curl -X DELETE http://127.0.0.1:8080/counter
 */
#include <cweb.h>

#include <stdatomic.h>

#define HITS "counter.hits"

/* Static data ends with this version of the module; data in the cache comes from malloc(3) and stays. */
static atomic_long *hits;

static void load(struct cweb_context *ctx) {
    hits = container_get(ctx->cache, HITS);
    if (hits == NULL) {
        hits = calloc(1, sizeof *hits);
        container_set(ctx->cache, HITS, hits);
    }
}

static int show(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    return cweb_respond(res, HTTP_200_OK, "text/plain", "Visits: %ld\n", atomic_fetch_add(hits, 1) + 1);
}

static int reset(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req;
    atomic_store(hits, 0);
    return cweb_respond(res, HTTP_200_OK, "text/plain", "Visits: 0\n");
}

export module_t config = {
    .name = "counter",
    .author = "cweb",
    .routes = {
        {"/counter", "GET", show, NONE},
        {"/counter", "DELETE", reset, NONE},
    },
    .size = 2,
    .onload = load,
};
