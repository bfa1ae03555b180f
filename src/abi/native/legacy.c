/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The services for modules without a context: tables of functions that take none. The types are those of
 * include/legacy/cweb.h under other names, because that header and the present one can't be included together.
 */
#include "native.h"

#include <cweb.h>

struct legacy_cache {
    int (*set)(const char *name, void *value);
    void *(*get)(const char *name);
};

struct legacy_scheduler {
    int (*add)(work_t work, void *data, worker_state_t state);
};

struct legacy_database {
    sqlite3 *db;
    int (*exec)(const char *sql, int (*callback)(void *, int, char **, char **), void *arg);
    int (*prepare)(sqlite3 *db, const char *sql, int length, sqlite3_stmt **stmt, const char **tail);
    int (*step)(sqlite3_stmt *stmt);
    int (*finalize)(sqlite3_stmt *stmt);
    int (*bind_text)(sqlite3_stmt *stmt, int index, const char *text, int length, void (*destructor)(void *));
    int (*bind_int)(sqlite3_stmt *stmt, int index, int value);
    const char *(*column_text)(sqlite3_stmt *stmt, int column);
    int (*column_int)(sqlite3_stmt *stmt, int column);
    int (*column_count)(sqlite3_stmt *stmt);
    int (*reset)(sqlite3_stmt *stmt);
    int (*changes)(sqlite3 *db);
    int (*last_insert_rowid)(sqlite3 *db);
    void (*free)(void *memory);
};

struct legacy_crypto_ops {
    int (*sign_token)(const char *token, char *out, unsigned int out_len);
    int (*verify_token)(const char *signed_token, const char *token, size_t token_len);
};

struct legacy_crypto {
    void *ctx;
    const char *certificate;
    const char *private_key;
    crypto_status_t status;
    struct legacy_crypto_ops *ops;
};

struct legacy_symbols {
    void *(*resolv)(const char *module, const char *symbol);
};

struct cwebn_legacy {
    struct legacy_cache *cache;
    struct legacy_scheduler *scheduler;
    struct legacy_database *database;
    struct legacy_crypto *crypto;
    struct legacy_symbols *symbols;
};

/* The context of this process. Written before modules are loaded and after they are gone, so it needs no lock. */
static struct cweb_context *context;

/* An existing name keeps its first pointer. The mutex is held so that only one of two threads sets the name; the
 * container's own functions detect that this thread holds the mutex. */
static int cache_set(const char *name, void *value) {
    if (context == NULL || name == NULL || value == NULL) {
        return -1;
    }
    int entered = cweb_container_enter(context->cache);
    if (entered < 0) {
        return -1;
    }
    int result = container_get(context->cache, name) != NULL || container_set(context->cache, name, value) == MAP_OK;
    cweb_container_leave(context->cache, entered);
    return result ? 0 : -1;
}

static void *cache_get(const char *name) {
    return context == NULL || name == NULL ? NULL : container_get(context->cache, name);
}

static int scheduler_add_work(work_t work, void *data, worker_state_t state) {
    return context == NULL || work == NULL ? -1 : scheduler_add(context->scheduler, work, data, state);
}

static int database_exec(const char *sql, int (*callback)(void *, int, char **, char **), void *arg) {
    return context == NULL ? SQLITE_MISUSE : context->database->exec(context->database, sql, callback, arg);
}

/* Whether `db` is the shared database; its functions have more information than SQLite's. */
static int is_shared(const sqlite3 *db) {
    return context != NULL && (db == NULL || db == context->database->db);
}

static int database_prepare(sqlite3 *db, const char *sql, int length, sqlite3_stmt **stmt, const char **tail) {
    if (is_shared(db)) {
        return context->database->prepare(context->database, sql, length, stmt, tail);
    }
    return db == NULL ? SQLITE_MISUSE : sqlite3_prepare_v2(db, sql, length, stmt, tail);
}

static int database_changes(sqlite3 *db) {
    if (is_shared(db)) {
        return context->database->changes(context->database);
    }
    return db == NULL ? 0 : sqlite3_changes(db);
}

static int database_last_insert_rowid(sqlite3 *db) {
    if (is_shared(db)) {
        return context->database->last_insert_rowid(context->database);
    }
    return db == NULL ? 0 : (int)sqlite3_last_insert_rowid(db);
}

static int crypto_sign(const char *token, char *out, unsigned int out_len) {
    return context == NULL ? -1 : context->crypto->ops.sign_token(context->crypto, token, out, out_len);
}

static int crypto_verify(const char *signed_token, const char *token, size_t token_len) {
    return context == NULL ? -1 : context->crypto->ops.verify_token(context->crypto, signed_token, token, token_len);
}

static void *symbols_resolv(const char *module, const char *symbol) {
    return context == NULL ? NULL : context->symbols->resolv(context->symbols->user_data, module, symbol);
}

static struct legacy_cache cache_table = {cache_set, cache_get};
static struct legacy_scheduler scheduler_table = {scheduler_add_work};
static struct legacy_database database_table;
static struct legacy_crypto_ops crypto_ops_table = {crypto_sign, crypto_verify};
static struct legacy_crypto crypto_table = {NULL, NULL, NULL, CRYPTO_FAILURE, &crypto_ops_table};
static struct legacy_symbols symbols_table = {symbols_resolv};
static const struct cwebn_legacy tables = {&cache_table, &scheduler_table, &database_table, &crypto_table, &symbols_table};

void cwebn_legacy_set(struct cweb_context *ctx) {
    context = ctx;
    if (ctx == NULL) {
        return;
    }
    const struct sqldb *shared = ctx->database;
    database_table = (struct legacy_database){
        .db = shared->db,
        .exec = database_exec,
        .prepare = database_prepare,
        .step = shared->step,
        .finalize = shared->finalize,
        .bind_text = shared->bind_text,
        .bind_int = shared->bind_int,
        .column_text = shared->column_text,
        .column_int = shared->column_int,
        .column_count = shared->column_count,
        .reset = shared->reset,
        .changes = database_changes,
        .last_insert_rowid = database_last_insert_rowid,
        .free = shared->free,
    };
    cwebn_legacy_crypto(ctx);
}

void cwebn_legacy_crypto(const struct cweb_context *ctx) {
    crypto_table.certificate = ctx->crypto->certificate;
    crypto_table.private_key = ctx->crypto->private_key;
    crypto_table.status = ctx->crypto->status;
}

const struct cwebn_legacy *cwebn_legacy_services(void) {
    return &tables;
}
