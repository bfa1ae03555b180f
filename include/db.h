/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file db.h
 * The SQLite database: one file for the modules of a domain (with --module-database shared, one for all domains),
 * usable from several threads.
 *
 * `ctx->database` is the server's. Each call of a module has a connection to itself; a transaction or statement that is open
 * when the call returns is rolled back or reset. A thread that the module starts has a connection of its own. The
 * function pointers keep SQLite's result codes (SQLITE_OK, SQLITE_ROW, …); the sqlite3 API may be used on `db` directly
 * as well. The tables `jobs` and `job_events` are read-only there.
 */
#ifndef CWEB_DB_H
#define CWEB_DB_H

#include <stddef.h>

#include <sqlite3.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqldb {
    sqlite3 *db; /**< NULL when the file could not be opened; every function below then fails cleanly. */
    /** Runs SQL text; cb(arg, columns, values, names) once a row. sqlite3_exec(). */
    int (*exec)(struct sqldb *, const char *sql, int (*cb)(void *, int, char **, char **), void *arg);
    /** Compiles one statement of n bytes (-1: to the NUL). sqlite3_prepare_v2(). */
    int (*prepare)(struct sqldb *, const char *sql, int n, sqlite3_stmt **stmt, const char **tail);
    int (*step)(sqlite3_stmt *);
    int (*finalize)(sqlite3_stmt *);
    /** Parameters count from 1; destructor may be SQLITE_TRANSIENT or SQLITE_STATIC. */
    int (*bind_text)(sqlite3_stmt *, int index, const char *text, int n, void (*destructor)(void *));
    int (*bind_int)(sqlite3_stmt *, int index, int value);
    /** Columns count from 0; the text is valid until the next step, reset or finalize; NULL for SQL NULL. */
    const char *(*column_text)(sqlite3_stmt *, int column);
    int (*column_int)(sqlite3_stmt *, int column);
    int (*column_count)(sqlite3_stmt *);
    int (*reset)(sqlite3_stmt *);
    /** Number of rows changed by, and rowid of, the last INSERT of this call. */
    int (*changes)(struct sqldb *);
    int (*last_insert_rowid)(struct sqldb *);
    /** Frees memory that SQLite allocated. sqlite3_free(). */
    void (*free)(void *);
};

/** How long a statement waits for another connection's write. */
#define CWEB_DB_BUSY_TIMEOUT_MS 5000

static inline int cweb_db_exec(struct sqldb *db, const char *sql, int (*cb)(void *, int, char **, char **), void *arg) {
    return db == NULL || db->db == NULL || sql == NULL ? SQLITE_MISUSE : sqlite3_exec(db->db, sql, cb, arg, NULL);
}

static inline int cweb_db_prepare(struct sqldb *db, const char *sql, int n, sqlite3_stmt **stmt, const char **tail) {
    if (stmt != NULL) {
        *stmt = NULL;
    }
    if (db == NULL || db->db == NULL || sql == NULL || stmt == NULL) {
        return SQLITE_MISUSE;
    }
    return sqlite3_prepare_v2(db->db, sql, n, stmt, tail);
}

static inline int cweb_db_step(sqlite3_stmt *stmt) {
    return stmt == NULL ? SQLITE_MISUSE : sqlite3_step(stmt);
}

static inline int cweb_db_finalize(sqlite3_stmt *stmt) {
    return sqlite3_finalize(stmt);
}

static inline int cweb_db_bind_text(sqlite3_stmt *stmt, int index, const char *text, int n, void (*destructor)(void *)) {
    return stmt == NULL ? SQLITE_MISUSE : sqlite3_bind_text(stmt, index, text, n, destructor);
}

static inline int cweb_db_bind_int(sqlite3_stmt *stmt, int index, int value) {
    return stmt == NULL ? SQLITE_MISUSE : sqlite3_bind_int(stmt, index, value);
}

static inline const char *cweb_db_column_text(sqlite3_stmt *stmt, int column) {
    return stmt == NULL ? NULL : (const char *)sqlite3_column_text(stmt, column);
}

static inline int cweb_db_column_int(sqlite3_stmt *stmt, int column) {
    return stmt == NULL ? 0 : sqlite3_column_int(stmt, column);
}

static inline int cweb_db_column_count(sqlite3_stmt *stmt) {
    return sqlite3_column_count(stmt);
}

static inline int cweb_db_reset(sqlite3_stmt *stmt) {
    return stmt == NULL ? SQLITE_MISUSE : sqlite3_reset(stmt);
}

static inline int cweb_db_changes(struct sqldb *db) {
    return db == NULL || db->db == NULL ? 0 : sqlite3_changes(db->db);
}

static inline int cweb_db_last_insert_rowid(struct sqldb *db) {
    return db == NULL || db->db == NULL ? 0 : (int)sqlite3_last_insert_rowid(db->db);
}

static inline void cweb_db_free(void *memory) {
    sqlite3_free(memory);
}

/** Additional flags of sqlite3_open_v2(). */
#ifndef CWEB_DB_OPEN_FLAGS
#define CWEB_DB_OPEN_FLAGS 0
#endif

/**
 * Opens or creates a database of the module's own, in WAL mode. ":memory:" is a database in memory.
 * @return 0; -1 when the database can't be opened: the functions are set in either case and fail cleanly
 */
static inline int sqldb_init(struct sqldb *db, const char *filename) {
    if (db == NULL) {
        return -1;
    }
    db->db = NULL;
    db->exec = cweb_db_exec;
    db->prepare = cweb_db_prepare;
    db->step = cweb_db_step;
    db->finalize = cweb_db_finalize;
    db->bind_text = cweb_db_bind_text;
    db->bind_int = cweb_db_bind_int;
    db->column_text = cweb_db_column_text;
    db->column_int = cweb_db_column_int;
    db->column_count = cweb_db_column_count;
    db->reset = cweb_db_reset;
    db->changes = cweb_db_changes;
    db->last_insert_rowid = cweb_db_last_insert_rowid;
    db->free = cweb_db_free;
    if (filename == NULL) {
        return -1;
    }
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX | CWEB_DB_OPEN_FLAGS;
    if (sqlite3_open_v2(filename, &db->db, flags, NULL) != SQLITE_OK) {
        sqlite3_close(db->db);
        db->db = NULL;
        return -1;
    }
    sqlite3_busy_timeout(db->db, CWEB_DB_BUSY_TIMEOUT_MS);
    /* The first access to the file: a file that is no database fails here. WAL is refused in memory, which is
     * harmless. */
    if (sqlite3_exec(db->db, "PRAGMA journal_mode=WAL; PRAGMA schema_version", NULL, NULL, NULL) != SQLITE_OK) {
        sqlite3_close(db->db);
        db->db = NULL;
        return -1;
    }
    return 0;
}

/** Closes the database; unfinalized statements keep it open until they are finalized. */
static inline void sqldb_shutdown(struct sqldb *db) {
    if (db != NULL && db->db != NULL) {
        sqlite3_close_v2(db->db);
        db->db = NULL;
    }
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_DB_H */
