/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The context that module functions are given: one cache, scheduler, database, signer and symbol table for all modules
 * of an address space, built from the SDK's own inline functions.
 */
#define _GNU_SOURCE
/* The database of jobs is attached by a URI, which says that it is read-only. */
#define CWEB_DB_OPEN_FLAGS SQLITE_OPEN_URI
#include "native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cweb.h>

/* The public context comes first, so that a pointer to it is a pointer to this. */
struct context {
    struct cweb_context public;
    struct container cache;
    struct scheduler scheduler;
    struct cweb_scheduler_hooks hooks;
    struct sqldb database;
    struct crypto crypto;
    struct symbols symbols;
    struct cwebn_services services;
};

/* ---- Database ---- */

/* The schema that has the tables jobs and job_events; modules need not name it. */
#define JOBS_SCHEMA "cweb_jobs"

struct exec_call {
    int (*cb)(void *, int, char **, char **);
    void *arg;
    int faulted;
    struct cwebn_fault fault;
};

struct row_call {
    const struct exec_call *exec;
    int columns;
    char **values;
    char **names;
    int result;
};

static void run_row(void *arg) {
    struct row_call *row = arg;
    row->result = row->exec->cb(row->exec->arg, row->columns, row->values, row->names);
}

static int on_row(void *arg, int columns, char **values, char **names) {
    struct exec_call *exec = arg;
    struct row_call row = {exec, columns, values, names, 0};
    if (!cwebn_guard_active()) {
        run_row(&row);
    } else if (cwebn_guard_call(run_row, &row, &exec->fault)) {
        exec->faulted = 1;
        return 1;
    }
    return row.result;
}

/* A fault in the module's row callback must not jump over SQLite, which would keep its mutex for ever: it is caught
 * below SQLite, which then ends the statement, and thrown on from here. */
static int guarded_exec(struct sqldb *db, const char *sql, int (*cb)(void *, int, char **, char **), void *arg) {
    struct exec_call exec = {.cb = cb, .arg = arg, .faulted = 0};
    int result = cweb_db_exec(db, sql, cb == NULL ? NULL : on_row, &exec);
    if (exec.faulted) {
        cwebn_guard_rethrow(&exec.fault);
    }
    return result;
}

static int is_server_table(const char *table) {
    return table != NULL && (sqlite3_stricmp(table, "jobs") == 0 || sqlite3_stricmp(table, "job_events") == 0);
}

/* Modules may read the server's tables, not write, change, drop or shadow them: sqlite3_set_authorizer. */
static int authorize(void *unused, int action, const char *first, const char *second, const char *database,
                     const char *trigger) {
    int denied = 0;
    (void)unused, (void)trigger;
    if (database != NULL && sqlite3_stricmp(database, JOBS_SCHEMA) == 0 && action != SQLITE_READ) {
        return SQLITE_DENY;
    }
    switch (action) {
    case SQLITE_INSERT:
    case SQLITE_UPDATE:
    case SQLITE_DELETE:
    case SQLITE_CREATE_TABLE:
    case SQLITE_CREATE_TEMP_TABLE:
    case SQLITE_CREATE_VIEW:
    case SQLITE_CREATE_TEMP_VIEW:
    case SQLITE_CREATE_VTABLE:
    case SQLITE_DROP_TABLE:
        denied = is_server_table(first);
        break;
    case SQLITE_ALTER_TABLE:
    case SQLITE_CREATE_INDEX:
    case SQLITE_CREATE_TRIGGER:
    case SQLITE_CREATE_TEMP_TRIGGER:
    case SQLITE_DROP_INDEX:
    case SQLITE_DROP_TRIGGER:
        denied = is_server_table(second);
        break;
    case SQLITE_DETACH:
        denied = first == NULL || sqlite3_stricmp(first, JOBS_SCHEMA) == 0;
        break;
    case SQLITE_PRAGMA:
        denied = first != NULL && sqlite3_stricmp(first, "writable_schema") == 0;
        break;
    default:
        break;
    }
    return denied ? SQLITE_DENY : SQLITE_OK;
}

/* Puts the server's database of jobs beside the modules' own. Read-only, also so that a module's BEGIN IMMEDIATE, which
 * locks every attached database it could write to, does not keep the server from writing. */
static void attach_jobs(struct sqldb *database, const char *jobs_uri, const struct cwebn_services *services, char *error,
                        size_t error_size) {
    sqlite3_stmt *attach = NULL;
    if (services->rows != NULL) {
        jobs_uri = ":memory:";
    }
    int ok = sqlite3_prepare_v2(database->db, "ATTACH DATABASE ?1 AS " JOBS_SCHEMA, -1, &attach, NULL) == SQLITE_OK &&
             sqlite3_bind_text(attach, 1, jobs_uri, -1, SQLITE_STATIC) == SQLITE_OK &&
             sqlite3_step(attach) == SQLITE_DONE;
    sqlite3_finalize(attach);
    if (ok && services->rows != NULL) {
        ok = cwebn_tables_create(database->db, JOBS_SCHEMA, services) == SQLITE_OK;
    }
    if (!ok) {
        snprintf(error, error_size, "the database of jobs can't be read by modules: %s", sqlite3_errmsg(database->db));
    }
}

/* Opens the shared database. Failure leaves functions that fail cleanly, and the reason. */
static void open_database(struct sqldb *database, const char *path, const char *jobs_uri,
                          const struct cwebn_services *services, char *error, size_t error_size) {
    int failed = sqldb_init(database, path) != 0;
    database->exec = guarded_exec;
    if (failed) {
        if (path != NULL) {
            snprintf(error, error_size, "the database %s can't be opened (missing rights, or not a database)", path);
        }
        return;
    }
    if (jobs_uri != NULL || services->rows != NULL) {
        attach_jobs(database, jobs_uri, services, error, error_size);
    }
    sqlite3_set_authorizer(database->db, authorize, NULL);
}

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
    return context->services.work_admit == NULL ? NULL : context->services.work_admit(context->services.user, work, data);
}

static void run_work(void *user, work_t work, void *data, void *ticket) {
    struct context *context = user;
    struct cwebn_fault fault;
    (void)cwebn_thread_init(); /* the first time on this thread; without it only stack overflow is fatal */
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

/* ---- The whole ---- */

/* Names that the cache has room for at first; it grows. */
#define CACHE_NAMES 64

struct cweb_context *cwebn_context_create(const char *db_path, const char *jobs_uri,
                                          const struct cwebn_services *services, char *error, size_t error_size) {
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
    /* The thread reads this only once it has work, and nobody can have added any. */
    context->scheduler.hooks = &context->hooks;
    (void)pthread_setname_np(context->scheduler.thread, "cweb-scheduler");
    open_database(&context->database, db_path, jobs_uri, &context->services, error, error_size);
    context->crypto.ops = (struct crypto_ops){sign_token, verify_token};
    context->symbols = (struct symbols){context, resolve_symbol};

    context->public.cache = &context->cache;
    context->public.scheduler = &context->scheduler;
    context->public.database = &context->database;
    context->public.crypto = &context->crypto;
    cwebn_context_set_crypto(&context->public, services->crypto_loaded);
    context->public.symbols = &context->symbols;
    /* Opaque, and not NULL: modules ask whether there are jobs. */
    context->public.jobs = (struct job_system *)context;
    cwebn_legacy_set(&context->public);
    return &context->public;
}

int cwebn_context_pending(struct cweb_context *ctx) {
    return scheduler_pending_count(ctx->scheduler);
}

void cwebn_context_set_crypto(struct cweb_context *ctx, int loaded) {
    ctx->crypto->status = loaded ? CRYPTO_LOADED : CRYPTO_FAILURE;
    /* For modules that ask whether they are set: no files, the key stays with the server. */
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
    sqldb_shutdown(&context->database);
    container_shutdown(&context->cache);
    free(context);
}
