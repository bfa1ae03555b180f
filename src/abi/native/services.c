/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The context that module functions receive: one cache, scheduler, database, signer and symbol table for all modules of
 * an address space. The parts are built from the SDK's own inline functions.
 */
#define _GNU_SOURCE
#include "native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cweb.h>

/* The public context must be the first field, so that a pointer to it is a pointer to the whole. */
struct context {
    struct cweb_context public;
    struct container cache;
    struct scheduler scheduler;
    struct cweb_scheduler_hooks hooks;
    struct sqldb *database;
    struct crypto crypto;
    struct symbols symbols;
    struct cwebn_services services;
};

/* ---- Crypto ---- */

static const struct context *context_of_crypto(const struct crypto *crypto) {
    return (const struct context *)(const void *)((const char *)crypto - offsetof(struct context, crypto));
}

static int sign_token(struct crypto *crypto, const char *token, char *out, unsigned int out_len) {
    if (crypto == NULL || crypto->status != CRYPTO_LOADED || token == NULL || out == NULL) {
        return -1;
    }
    const struct cweb_host *host = context_of_crypto(crypto)->services.host;
    return host == NULL || host->crypto_sign == NULL ? -1 : host->crypto_sign(token, out, out_len);
}

static int verify_token(struct crypto *crypto, const char *signed_token, const char *token, size_t token_len) {
    if (crypto == NULL || crypto->status != CRYPTO_LOADED || signed_token == NULL || token == NULL) {
        return -1;
    }
    const struct cweb_host *host = context_of_crypto(crypto)->services.host;
    return host == NULL || host->crypto_verify == NULL ? -1 : host->crypto_verify(signed_token, token, token_len);
}

/* ---- Symbols ---- */

static void *resolve_symbol(void *user_data, const char *module, const char *symbol) {
    const struct context *context = user_data;
    if (context == NULL || context->services.resolve == NULL || module == NULL || symbol == NULL) {
        return NULL;
    }
    return context->services.resolve(context->services.user, module, symbol);
}

/* ---- Scheduler ---- */

static void *admit_work(void *user, work_t work, void *data) {
    const struct context *context = user;
    if (cwebn_worker_refuses("scheduler_add()")) {
        return NULL; /* the process accepts no work */
    }
    return context->services.work_admit == NULL ? NULL : context->services.work_admit(context->services.user, work, data);
}

static void run_work(void *user, work_t work, void *data, void *ticket) {
    struct context *context = user;
    struct cwebn_fault fault;
    (void)cwebn_thread_init(); /* needed once on this thread; without it only a stack overflow is fatal */
    if (context->services.work_run != NULL) {
        context->services.work_run(context->services.user, work, data, ticket);
    } else if (cwebn_call_work(work, data, &fault) != 0) {
        cwebn_context_after_fault(&context->public);
    }
}

static void drop_work(void *user, void *ticket) {
    const struct context *context = user;
    if (context->services.work_drop != NULL) {
        context->services.work_drop(context->services.user, ticket);
    }
}

/* ---- The context ---- */

/* Initial capacity of the cache, in names; it grows. */
#define CACHE_NAMES 64

struct cweb_context *cwebn_context_create(const char *db_path, const struct cwebn_services *services, char *error,
                                          size_t error_size) {
    if (error_size > 0) {
        error[0] = '\0';
    }
    struct context *context = calloc(1, sizeof *context);
    if (context == NULL || container_init(&context->cache, CACHE_NAMES) != 0) {
        free(context);
        snprintf(error, error_size, "no memory for the services of modules");
        return NULL;
    }
    context->services = *services;
    if (scheduler_init(&context->scheduler, 0) != 0) {
        container_shutdown(&context->cache);
        free(context);
        snprintf(error, error_size, "the scheduler's thread can't be started");
        return NULL;
    }
    context->hooks = (struct cweb_scheduler_hooks){context, admit_work, run_work, drop_work};
    /* The thread reads this only once it has work, and no code can have added any yet. */
    context->scheduler.hooks = &context->hooks;
    (void)pthread_setname_np(context->scheduler.thread, "cweb-scheduler");
    context->database = cwebn_database_open(db_path, &context->services, error, error_size);
    if (context->database == NULL) {
        scheduler_shutdown(&context->scheduler);
        container_shutdown(&context->cache);
        free(context);
        return NULL;
    }
    context->crypto.ops = (struct crypto_ops){sign_token, verify_token};
    context->symbols = (struct symbols){context, resolve_symbol};

    context->public.cache = &context->cache;
    context->public.scheduler = &context->scheduler;
    context->public.database = context->database;
    context->public.crypto = &context->crypto;
    cwebn_context_set_crypto(&context->public, services->crypto_loaded);
    context->public.symbols = &context->symbols;
    /* Opaque, and not NULL: modules test whether there are jobs. */
    context->public.jobs = (struct job_system *)context;
    cwebn_legacy_set(&context->public);
    return &context->public;
}

int cwebn_context_pending(struct cweb_context *ctx) {
    return scheduler_pending_count(ctx->scheduler);
}

void cwebn_context_set_crypto(struct cweb_context *ctx, int loaded) {
    ctx->crypto->status = loaded ? CRYPTO_LOADED : CRYPTO_FAILURE;
    /* For modules that test whether these are set: there are no files, because the key stays with the server. */
    ctx->crypto->certificate = ctx->crypto->private_key = loaded ? "(the server's)" : NULL;
    cwebn_legacy_crypto(ctx);
}

void cwebn_context_after_fault(struct cweb_context *ctx) {
    cwebn_container_release(ctx->cache);
    cwebn_stdio_release();
}

void cwebn_context_destroy(struct cweb_context *ctx, int drain) {
    if (ctx == NULL) {
        return;
    }
    struct context *context = (struct context *)ctx;
    cwebn_legacy_set(NULL);
    scheduler_request_stop(&context->scheduler, drain);
    scheduler_shutdown(&context->scheduler);
    cwebn_database_close(context->database);
    container_shutdown(&context->cache);
    free(context);
}
