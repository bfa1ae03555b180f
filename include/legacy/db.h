/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/db.h
 * The shared SQLite database of modules whose functions take no context: `database`.
 */
#ifndef CWEB_DB_H
#define CWEB_DB_H

#include <sqlite3.h>

/** Each function returns the result of SQLite's function of that name. */
struct sqldb {
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

#endif /* CWEB_DB_H */
