/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* One connection to the database of modules: opening, permissions, closing. */
#define _GNU_SOURCE
/* Modules may attach databases by URI. */
#define CWEB_DB_OPEN_FLAGS SQLITE_OPEN_URI
#include "database.h"

#include <stdio.h>
#include <stdlib.h>

/* The schema of the tables jobs and job_events; modules need not name it. */
#define JOBS_SCHEMA "cweb_jobs"
/* How long a statement waits for another connection's transaction, in milliseconds: as long as the transactions of
   eight clients may take. */
#define BUSY_TIMEOUT_MS 10000

/* ---- A connection ---- */

static int is_server_table(const char *table) {
    return table != NULL && (sqlite3_stricmp(table, "jobs") == 0 || sqlite3_stricmp(table, "job_events") == 0);
}

/* Settings of one connection that change the meaning of statements. foreign_keys is copied to other connections
   instead. */
static int is_setting(const char *pragma) {
    static const char *const settings[] = {"recursive_triggers", "case_sensitive_like", "query_only", "temp_store",
                                           "legacy_alter_table", "trusted_schema", "ignore_check_constraints"};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (sqlite3_stricmp(pragma, settings[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

/* For sqlite3_set_authorizer: modules may read the server's tables, but not write, change, drop or shadow them. Also
 * records operations that create state of the connection. */
static int authorize(void *arg, int action, const char *first, const char *second, const char *database,
                     const char *trigger) {
    struct lease *lease = arg;
    int denied = 0;
    (void)trigger;
    if (database != NULL && sqlite3_stricmp(database, JOBS_SCHEMA) == 0 && action != SQLITE_READ) {
        return SQLITE_DENY;
    }
    switch (action) {
    case SQLITE_CREATE_TEMP_TABLE:
    case SQLITE_CREATE_TEMP_VIEW:
        lease->is_touched = 1;
        denied = is_server_table(first);
        break;
    case SQLITE_INSERT:
    case SQLITE_UPDATE:
    case SQLITE_DELETE:
    case SQLITE_CREATE_TABLE:
    case SQLITE_CREATE_VIEW:
    case SQLITE_CREATE_VTABLE:
    case SQLITE_DROP_TABLE:
        denied = is_server_table(first);
        break;
    case SQLITE_CREATE_TEMP_TRIGGER:
        lease->is_touched = 1;
        denied = is_server_table(second);
        break;
    case SQLITE_ALTER_TABLE:
    case SQLITE_CREATE_INDEX:
    case SQLITE_CREATE_TRIGGER:
    case SQLITE_DROP_INDEX:
    case SQLITE_DROP_TRIGGER:
        denied = is_server_table(second);
        break;
    case SQLITE_ATTACH:
        lease->is_touched = 1;
        break;
    case SQLITE_DETACH:
        denied = first == NULL || sqlite3_stricmp(first, JOBS_SCHEMA) == 0;
        break;
    case SQLITE_PRAGMA:
        denied = first != NULL && sqlite3_stricmp(first, "writable_schema") == 0;
        lease->is_touched |= first != NULL && second != NULL && is_setting(first);
        break;
    default:
        break;
    }
    return denied ? SQLITE_DENY : SQLITE_OK;
}

/* Attaches the tables of jobs beside the modules' own. */
static int attach_jobs(sqlite3 *db, const struct cwebn_services *services) {
    return sqlite3_exec(db, "ATTACH DATABASE ':memory:' AS " JOBS_SCHEMA, NULL, NULL, NULL) == SQLITE_OK &&
           cwebn_tables_create(db, JOBS_SCHEMA, services) == SQLITE_OK;
}

int cwebn_lease_connect(struct lease *lease, char *error, size_t error_size) {
    struct databases *all = lease->all;
    int failed = sqldb_init(&lease->database, all->path) != 0;
    sqlite3 *db = lease->database.db;
    cwebn_database_functions(&lease->database);
    if (failed) {
        if (all->path != NULL) {
            snprintf(error, error_size, "the database %s can't be opened (missing rights, or not a database)", all->path);
        }
        return -1;
    }
    sqlite3_busy_timeout(db, BUSY_TIMEOUT_MS);
    if (all->services->rows != NULL && !attach_jobs(db, all->services)) {
        snprintf(error, error_size, "the tables of jobs can't be read by modules: %s", sqlite3_errmsg(db));
    }
    sqlite3_set_authorizer(db, authorize, lease);
    sqlite3_trace_v2(db, SQLITE_TRACE_STMT | SQLITE_TRACE_PROFILE, cwebn_on_trace, NULL);
    return 0;
}

static void close_in_guard(void *arg) {
    sqlite3 *db = arg;
    for (sqlite3_stmt *left; (left = sqlite3_next_stmt(db, NULL)) != NULL;) {
        sqlite3_finalize(left);
    }
    sqlite3_close_v2(db);
}

void cwebn_lease_close(struct lease *lease) {
    struct cwebn_fault fault;
    pthread_mutex_lock(&lease->all->lock);
    lease->all->connections--;
    pthread_mutex_unlock(&lease->all->lock);
    if (lease->database.db != NULL) {
        /* Destructors of the module's functions and bound values run here. */
        (void)cwebn_guard_call(close_in_guard, lease->database.db, &fault);
    }
    free(lease);
}

struct lease *cwebn_lease_new(struct cwebn_module *module) {
    char error[512];
    struct lease *lease = calloc(1, sizeof *lease);
    if (lease == NULL) {
        return NULL;
    }
    lease->all = module->all;
    lease->module = module;
    lease->users = 1;
    lease->public = module->public;
    lease->public.database = &lease->database;
    if (cwebn_lease_connect(lease, error, sizeof error) != 0) {
        free(lease);
        return NULL;
    }
    /* Modules run PRAGMA foreign_keys = ON once, in onload, and expect it to apply to all their statements. */
    pthread_mutex_lock(&module->lock);
    int keys = module->foreign_keys;
    if (module->first == NULL) {
        module->first = lease;
        keys = 0;
    }
    pthread_mutex_unlock(&module->lock);
    if (keys) {
        (void)sqlite3_db_config(lease->database.db, SQLITE_DBCONFIG_ENABLE_FKEY, 1, NULL);
    }
    return lease;
}
