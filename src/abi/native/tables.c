/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The tables jobs and job_events: virtual tables whose rows the server reads, a page at a time. The module's connection
 * has neither a file with jobs nor a lock on one, so no module can block the server. A descriptor that can read a
 * database can also lock it, and a transaction that reads one keeps its log from being truncated.
 */
#define _GNU_SOURCE
#include "native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 18
/* Longest value, in bytes, that the server looks up. SQLite compares longer values with all rows. */
#define TEXT_BYTES_MAX 4096

/* idxNum: the column that must be equal, plus one; then flags. */
#define PLAN_COLUMN 0xff
#define PLAN_LOWER 0x100
#define PLAN_LOWER_INCLUDED 0x200
#define PLAN_UPPER 0x400
#define PLAN_UPPER_INCLUDED 0x800
#define PLAN_DESCENDING 0x1000

/* A column that the server can look up, and approximately how many rows share one value. */
struct indexed {
    int column;
    int is_text;
    double rows;
};

struct table_kind {
    const char *name;
    const char *declaration;
    int columns;
    struct indexed indexed[4];
    int indexed_count;
};

/* The columns are those of the database, in its order; the server relies on that (src/jobs/store/tables.rs). */
static const struct table_kind kinds[] = {
    {"jobs",
     "CREATE TABLE x(id INTEGER, uuid TEXT, module_name TEXT, job_name TEXT, state TEXT, module_hash TEXT,"
     " created_at INTEGER, updated_at INTEGER, payload_json TEXT, result_json TEXT, error_text TEXT, attempt INTEGER,"
     " max_attempts INTEGER, backoff_ms INTEGER, timeout_ms INTEGER, run_at INTEGER, priority INTEGER, unique_key TEXT)",
     18,
     {{0, 0, 1}, {1, 1, 1}, {4, 1, 10000}, {2, 1, 20000}},
     4},
    {"job_events",
     "CREATE TABLE x(id INTEGER, job_id INTEGER, ts INTEGER, type TEXT, data_json TEXT, final INTEGER)",
     6,
     {{0, 0, 1}, {1, 0, 20}},
     2},
};
#define KINDS 2
#define ROWS_IN_ALL 1000000.0

struct table {
    sqlite3_vtab base;
    const struct cwebn_services *services;
    int kind;
};

/* One value of the current row, in the page. */
struct value {
    char type; /* 'n', 'i', 't'; 'u': not sent */
    sqlite3_int64 number;
    const char *text;
    size_t length;
};

struct cursor {
    sqlite3_vtab_cursor base;
    struct cwebn_rows wanted;
    char text[TEXT_BYTES_MAX + 1];
    char *page;
    const char *at, *end;
    int more;
    int is_over;
    struct value values[COLUMNS_MAX];
};

static int fail(sqlite3_vtab *table, const char *what) {
    sqlite3_free(table->zErrMsg);
    table->zErrMsg = sqlite3_mprintf("%s", what);
    return SQLITE_ERROR;
}

static int table_connect(sqlite3 *db, void *services, int count, const char *const *words, sqlite3_vtab **out,
                         char **error) {
    (void)error;
    for (int kind = 0; kind < KINDS; kind++) {
        if (count < 3 || strcmp(words[2], kinds[kind].name) != 0) {
            continue;
        }
        int result = sqlite3_declare_vtab(db, kinds[kind].declaration);
        struct table *table = result == SQLITE_OK ? sqlite3_malloc(sizeof *table) : NULL;
        if (table == NULL) {
            return result == SQLITE_OK ? SQLITE_NOMEM : result;
        }
        memset(table, 0, sizeof *table);
        table->services = services;
        table->kind = kind;
        *out = &table->base;
        return SQLITE_OK;
    }
    return SQLITE_ERROR;
}

static int table_disconnect(sqlite3_vtab *table) {
    sqlite3_free(table);
    return SQLITE_OK;
}

static int is_binary(sqlite3_index_info *info, int constraint) {
    const char *collation = sqlite3_vtab_collation(info, constraint);
    return collation == NULL || sqlite3_stricmp(collation, "BINARY") == 0;
}

/* The best column for an equality: its index in `indexed`, or -1; `constraint` receives the index of the constraint. */
static int best_equality(const struct table_kind *kind, sqlite3_index_info *info, int *constraint) {
    for (int candidate = 0; candidate < kind->indexed_count; candidate++) {
        const struct indexed *indexed = &kind->indexed[candidate];
        for (int i = 0; i < info->nConstraint; i++) {
            int column = info->aConstraint[i].iColumn < 0 ? 0 : info->aConstraint[i].iColumn;
            if (info->aConstraint[i].usable && info->aConstraint[i].op == SQLITE_INDEX_CONSTRAINT_EQ &&
                column == indexed->column && (!indexed->is_text || is_binary(info, i))) {
                *constraint = i;
                return candidate;
            }
        }
    }
    return -1;
}

/* Bounds of the id: at most one below and one above. SQLite checks all of them again. */
static int bounds(sqlite3_index_info *info, int plan, int *argument) {
    for (int i = 0; i < info->nConstraint; i++) {
        if (!info->aConstraint[i].usable || info->aConstraint[i].iColumn > 0) {
            continue;
        }
        int op = info->aConstraint[i].op, flags = 0;
        if (op == SQLITE_INDEX_CONSTRAINT_GT || op == SQLITE_INDEX_CONSTRAINT_GE) {
            flags = PLAN_LOWER | (op == SQLITE_INDEX_CONSTRAINT_GE ? PLAN_LOWER_INCLUDED : 0);
        }
        if (flags != 0 && (plan & PLAN_LOWER) == 0) {
            info->aConstraintUsage[i].argvIndex = ++*argument;
            plan |= flags;
        }
    }
    for (int i = 0; i < info->nConstraint; i++) {
        if (!info->aConstraint[i].usable || info->aConstraint[i].iColumn > 0) {
            continue;
        }
        int op = info->aConstraint[i].op, flags = 0;
        if (op == SQLITE_INDEX_CONSTRAINT_LT || op == SQLITE_INDEX_CONSTRAINT_LE) {
            flags = PLAN_UPPER | (op == SQLITE_INDEX_CONSTRAINT_LE ? PLAN_UPPER_INCLUDED : 0);
        }
        if (flags != 0 && (plan & PLAN_UPPER) == 0) {
            info->aConstraintUsage[i].argvIndex = ++*argument;
            plan |= flags;
        }
    }
    return plan;
}

static int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info) {
    const struct table_kind *kind = &kinds[((struct table *)base)->kind];
    int constraint = 0, argument = 0, plan = 0;
    double rows = ROWS_IN_ALL;
    int equality = best_equality(kind, info, &constraint);
    if (equality >= 0) {
        info->aConstraintUsage[constraint].argvIndex = ++argument;
        plan = kind->indexed[equality].column + 1;
        rows = kind->indexed[equality].rows;
    }
    plan = bounds(info, plan, &argument);
    if (plan & (PLAN_LOWER | PLAN_UPPER)) {
        rows = rows / 2;
    }
    if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn <= 0) {
        info->orderByConsumed = 1;
        plan |= info->aOrderBy[0].desc ? PLAN_DESCENDING : 0;
    }
    info->idxNum = plan;
    /* Columns that the query does not read, such as long payloads, are not sent. */
    info->idxStr = sqlite3_mprintf("%llu", info->colUsed);
    info->needToFreeIdxStr = 1;
    info->estimatedRows = (sqlite3_int64)rows + 1;
    info->estimatedCost = rows + 10;
    return info->idxStr == NULL ? SQLITE_NOMEM : SQLITE_OK;
}

static int cursor_open(sqlite3_vtab *table, sqlite3_vtab_cursor **out) {
    (void)table;
    struct cursor *cursor = sqlite3_malloc(sizeof *cursor);
    if (cursor == NULL) {
        return SQLITE_NOMEM;
    }
    memset(cursor, 0, sizeof *cursor);
    cursor->is_over = 1;
    *out = &cursor->base;
    return SQLITE_OK;
}

static int cursor_close(sqlite3_vtab_cursor *base) {
    struct cursor *cursor = (struct cursor *)base;
    free(cursor->page);
    sqlite3_free(cursor);
    return SQLITE_OK;
}

/* Fetches the next page. */
static int fetch(struct cursor *cursor) {
    const struct table *table = (const struct table *)cursor->base.pVtab;
    size_t length = 0;
    free(cursor->page);
    cursor->page = table->services->rows(table->services->user, &cursor->wanted, &length);
    if (cursor->page == NULL || length == 0) {
        return fail(cursor->base.pVtab, "the server can't read the tables of jobs now");
    }
    cursor->more = cursor->page[0] == 'm';
    cursor->at = cursor->page + 1;
    cursor->end = cursor->page + length;
    return SQLITE_OK;
}

/* Reads a decimal number that ends with `stop`. 0, or -1. */
static int read_number(struct cursor *cursor, char stop, sqlite3_int64 *out) {
    const char *end = memchr(cursor->at, stop, (size_t)(cursor->end - cursor->at));
    char digits[24];
    if (end == NULL || end - cursor->at >= (ptrdiff_t)sizeof digits) {
        return -1;
    }
    memcpy(digits, cursor->at, (size_t)(end - cursor->at));
    digits[end - cursor->at] = '\0';
    *out = strtoll(digits, NULL, 10);
    cursor->at = end + 1;
    return 0;
}

/* Reads a value: n, u, i followed by a number and a semicolon, or t, the number of bytes, a colon and the bytes. */
static int read_value(struct cursor *cursor, struct value *value) {
    if (cursor->at == cursor->end) {
        return -1;
    }
    value->type = *cursor->at++;
    if (value->type == 'n' || value->type == 'u') {
        return 0;
    }
    if (value->type == 'i') {
        return read_number(cursor, ';', &value->number);
    }
    if (value->type != 't' || read_number(cursor, ':', &value->number) != 0 || value->number < 0 ||
        value->number > cursor->end - cursor->at) {
        return -1;
    }
    value->text = cursor->at;
    value->length = (size_t)value->number;
    cursor->at += value->length;
    return 0;
}

static int cursor_next(sqlite3_vtab_cursor *base) {
    struct cursor *cursor = (struct cursor *)base;
    const struct table_kind *kind = &kinds[cursor->wanted.table];
    if (cursor->at == cursor->end && cursor->more) {
        int result = fetch(cursor);
        if (result != SQLITE_OK) {
            return result;
        }
    }
    if (cursor->at == cursor->end) {
        cursor->is_over = 1;
        return SQLITE_OK;
    }
    for (int column = 0; column < kind->columns; column++) {
        if (read_value(cursor, &cursor->values[column]) != 0) {
            return fail(base->pVtab, "the server's rows can't be understood");
        }
    }
    /* The next page begins behind this row. */
    if (cursor->wanted.descending) {
        cursor->wanted.before = cursor->values[0].number;
    } else {
        cursor->wanted.after = cursor->values[0].number;
    }
    return SQLITE_OK;
}

/* Takes the value of an equality, if the server can look it up. 0 if no row can match. */
static int take_equal(struct cursor *cursor, int column, sqlite3_value *value) {
    const struct table_kind *kind = &kinds[cursor->wanted.table];
    int is_text = 0, type = sqlite3_value_type(value);
    for (int i = 0; i < kind->indexed_count; i++) {
        is_text = kind->indexed[i].column == column ? kind->indexed[i].is_text : is_text;
    }
    if (type == SQLITE_NULL) {
        return 0;
    }
    if (is_text && type == SQLITE_TEXT) {
        const char *text = (const char *)sqlite3_value_text(value);
        int length = sqlite3_value_bytes(value);
        if (text != NULL && length <= TEXT_BYTES_MAX && memchr(text, '\0', (size_t)length) == NULL) {
            memcpy(cursor->text, text, (size_t)length);
            cursor->text[length] = '\0';
            cursor->wanted.column = column;
            cursor->wanted.text = cursor->text;
        }
    } else if (!is_text && type == SQLITE_INTEGER) {
        cursor->wanted.column = column;
        cursor->wanted.number = sqlite3_value_int64(value);
    }
    /* SQLite compares any other value, with all rows. */
    return 1;
}

/* Takes an excluded bound. 0 if no row can lie within it. */
static int take_bound(int64_t *bound, sqlite3_value *value, int64_t included) {
    int type = sqlite3_value_type(value);
    if (type == SQLITE_INTEGER) {
        sqlite3_int64 at = sqlite3_value_int64(value);
        *bound = included != 0 && (included < 0 ? at > INT64_MIN : at < INT64_MAX) ? at + included : at;
    }
    return type != SQLITE_NULL;
}

static int cursor_filter(sqlite3_vtab_cursor *base, int plan, const char *columns, int count, sqlite3_value **values) {
    struct cursor *cursor = (struct cursor *)base;
    int argument = 0, possible = 1;
    cursor->wanted = (struct cwebn_rows){.table = ((struct table *)base->pVtab)->kind, .column = -1};
    cursor->wanted.after = INT64_MIN;
    cursor->wanted.before = INT64_MAX;
    cursor->wanted.columns = columns == NULL ? UINT64_MAX : strtoull(columns, NULL, 10);
    cursor->wanted.descending = (plan & PLAN_DESCENDING) != 0;
    if ((plan & PLAN_COLUMN) != 0 && argument < count) {
        possible &= take_equal(cursor, (plan & PLAN_COLUMN) - 1, values[argument++]);
    }
    if ((plan & PLAN_LOWER) != 0 && argument < count) {
        possible &= take_bound(&cursor->wanted.after, values[argument++], plan & PLAN_LOWER_INCLUDED ? -1 : 0);
    }
    if ((plan & PLAN_UPPER) != 0 && argument < count) {
        possible &= take_bound(&cursor->wanted.before, values[argument++], plan & PLAN_UPPER_INCLUDED ? 1 : 0);
    }
    cursor->at = cursor->end = NULL;
    cursor->is_over = !possible;
    cursor->more = 1;
    return possible ? cursor_next(base) : SQLITE_OK;
}

static int cursor_eof(sqlite3_vtab_cursor *base) {
    return ((struct cursor *)base)->is_over;
}

static int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *result, int column) {
    const struct value *value = &((struct cursor *)base)->values[column];
    switch (value->type) {
    case 'i':
        sqlite3_result_int64(result, value->number);
        break;
    case 't':
        sqlite3_result_text64(result, value->text, value->length, SQLITE_TRANSIENT, SQLITE_UTF8);
        break;
    case 'u':
        sqlite3_result_error(result, "a column that was not asked for", -1);
        return SQLITE_ERROR;
    default:
        sqlite3_result_null(result);
        break;
    }
    return SQLITE_OK;
}

static int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *out) {
    *out = ((struct cursor *)base)->values[0].number;
    return SQLITE_OK;
}

/* No xUpdate: the tables can't be written. */
static const sqlite3_module tables = {
    .iVersion = 1,
    .xCreate = table_connect,
    .xConnect = table_connect,
    .xBestIndex = table_best_index,
    .xDisconnect = table_disconnect,
    .xDestroy = table_disconnect,
    .xOpen = cursor_open,
    .xClose = cursor_close,
    .xFilter = cursor_filter,
    .xNext = cursor_next,
    .xEof = cursor_eof,
    .xColumn = cursor_column,
    .xRowid = cursor_rowid,
};

int cwebn_tables_create(sqlite3 *db, const char *schema, const struct cwebn_services *services) {
    int result = sqlite3_create_module(db, "cweb_rows", &tables, (void *)(uintptr_t)services);
    for (int kind = 0; kind < KINDS && result == SQLITE_OK; kind++) {
        char *sql =
            sqlite3_mprintf("CREATE VIRTUAL TABLE \"%w\".\"%w\" USING cweb_rows", schema, kinds[kind].name);
        result = sql == NULL ? SQLITE_NOMEM : sqlite3_exec(db, sql, NULL, NULL, NULL);
        sqlite3_free(sql);
    }
    return result;
}
