/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Functions that fail in the process of one call (CWEB_KILLABLE). That process shares no thread, no connection and no
 * changing memory with the process from which it was forked.
 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <stdio.h>

#include <cweb.h>

static int is_worker; /* set before there is a second thread */

int cwebn_is_worker(void) {
    return __atomic_load_n(&is_worker, __ATOMIC_RELAXED);
}

int cwebn_worker_refuses(const char *what) {
    if (!cwebn_is_worker()) {
        return 0;
    }
    /* Reported once: the process lives for one call. */
    static int told;
    if (__atomic_exchange_n(&told, 1, __ATOMIC_RELAXED) == 0) {
        fprintf(stderr, "%s does not work in a handler of a route with CWEB_KILLABLE, which runs in a process of its own: it fails "
                        "with ENOTSUP; use it in a route without that flag\n", what);
    }
    errno = ENOTSUP;
    return 1;
}

void cwebn_worker_enter(struct cweb_context *ctx) {
    /* Takes each lock once: a lock that a thread held at the fork is detected here, and not by a later call. */
    (void)container_get(ctx->cache, "");
    pthread_mutex_lock(&ctx->scheduler->mutex);
    ctx->scheduler->accepting = 0;
    pthread_mutex_unlock(&ctx->scheduler->mutex);
    __atomic_store_n(&is_worker, 1, __ATOMIC_RELAXED);
}
