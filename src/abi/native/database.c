/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The functions of struct sqldb, and the modules that use them.
 */
#define _GNU_SOURCE
#include "database.h"

#include <ctype.h>
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static struct databases *the_databases; /* a process has one */

struct databases *cwebn_databases(void) {
    return the_databases;
}

/* ---- The functions of struct sqldb ---- */

static const char *skip_blanks(const char *sql) {
    while (isspace((unsigned char)*sql)) {
        sql++;
    }
    return sql;
}

static const char *skip_word(const char *sql, const char *word) {
    size_t length = strlen(word);
    int found = strncasecmp(sql, word, length) == 0 && !isalnum((unsigned char)sql[length]) && sql[length] != '_';
    return found ? skip_blanks(sql + length) : NULL;
}

/* The text behind a BEGIN without a kind; NULL if there is none. Such a transaction that first reads fails at its first
 * write if another connection has written meanwhile, and waiting does not help. Such a BEGIN
 * is therefore executed as BEGIN IMMEDIATE. */
static const char *after_plain_begin(const char *sql) {
    const char *rest = skip_word(skip_blanks(sql), "BEGIN");
    const char *word = rest == NULL ? NULL : skip_word(rest, "TRANSACTION");
    rest = word == NULL ? rest : word;
    return rest != NULL && (*rest == '\0' || *rest == ';') ? rest : NULL;
}

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

/* A fault in the module's row callback must not jump over SQLite, which would keep its mutex for ever. The fault is
 * caught below SQLite, which then ends the statement, and is raised again here. */
static int call_exec(struct sqldb *database, const char *sql, int (*cb)(void *, int, char **, char **), void *arg) {
    struct exec_call exec = {.cb = cb, .arg = arg, .faulted = 0};
    sqlite3 *db = cwebn_connection_of(database);
    if (db == NULL || sql == NULL) {
        return SQLITE_MISUSE;
    }
    const char *rest = after_plain_begin(sql);
    char *text = rest == NULL ? NULL : sqlite3_mprintf("BEGIN IMMEDIATE%s", rest);
    int result = sqlite3_exec(db, text == NULL ? sql : text, cb == NULL ? NULL : on_row, &exec, NULL);
    sqlite3_free(text);
    if (exec.faulted) {
        cwebn_guard_rethrow(&exec.fault);
    }
    return result;
}

static int call_prepare(struct sqldb *database, const char *sql, int n, sqlite3_stmt **stmt, const char **tail) {
    if (stmt != NULL) {
        *stmt = NULL;
    }
    sqlite3 *db = cwebn_connection_of(database);
    if (db == NULL || sql == NULL || stmt == NULL) {
        return SQLITE_MISUSE;
    }
    const char *rest = n < 0 ? after_plain_begin(sql) : NULL;
    if (rest == NULL) {
        return sqlite3_prepare_v2(db, sql, n, stmt, tail);
    }
    if (tail != NULL) {
        *tail = *rest == ';' ? rest + 1 : rest;
    }
    return sqlite3_prepare_v2(db, "BEGIN IMMEDIATE", -1, stmt, NULL);
}

static int call_changes(struct sqldb *database) {
    sqlite3 *db = cwebn_connection_of(database);
    return db == NULL ? 0 : sqlite3_changes(db);
}

static int call_last_insert_rowid(struct sqldb *database) {
    sqlite3 *db = cwebn_connection_of(database);
    return db == NULL ? 0 : (int)sqlite3_last_insert_rowid(db);
}

void cwebn_database_functions(struct sqldb *database) {
    database->exec = call_exec;
    database->prepare = call_prepare;
    database->changes = call_changes;
    database->last_insert_rowid = call_last_insert_rowid;
}

/* ---- Modules ---- */

/* The first name for which `is_wanted` holds among the imports of the shared object with the address `code`; NULL:
 * none. `unknown` if the object's names can't be read. */
static const char *imports(const void *code, int (*is_wanted)(const char *name), const char *unknown) {
    Dl_info info;
    struct link_map *map = NULL;
    if (dladdr1(code, &info, (void **)&map, RTLD_DL_LINKMAP) == 0 || map == NULL || map->l_ld == NULL) {
        return unknown;
    }
    uintptr_t table = 0;
    size_t bytes = 0;
    for (const ElfW(Dyn) *at = map->l_ld; at->d_tag != DT_NULL; at++) {
        table = at->d_tag == DT_STRTAB ? at->d_un.d_ptr : table;
        bytes = at->d_tag == DT_STRSZ ? at->d_un.d_val : bytes;
    }
    /* glibc has relocated the address, unless the section is read-only. */
    const char *text = (const char *)(table < map->l_addr ? table + map->l_addr : table);
    for (const char *name = text; table != 0 && name < text + bytes; name += strlen(name) + 1) {
        if (is_wanted(name)) {
            return name;
        }
    }
    return NULL;
}

static int begins_with_one_of(const char *name, const char *const *beginnings, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (strncmp(name, beginnings[i], strlen(beginnings[i])) == 0) {
            return 1;
        }
    }
    return 0;
}

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* A function of SQLite that takes a connection. */
static int takes_connection(const char *name) {
    static const char *const others[] = {
        "sqlite3_mprintf", "sqlite3_vmprintf",  "sqlite3_snprintf",      "sqlite3_vsnprintf", "sqlite3_free",     "sqlite3_malloc",
        "sqlite3_realloc", "sqlite3_column_",   "sqlite3_bind_",         "sqlite3_step",      "sqlite3_finalize", "sqlite3_reset",
        "sqlite3_value_",  "sqlite3_result_",   "sqlite3_clear_bindings", "sqlite3_stmt_",    "sqlite3_sql",      "sqlite3_data_count",
        "sqlite3_libversion", "sqlite3_sourceid", "sqlite3_threadsafe",  "sqlite3_str",       "sqlite3_errstr",   "sqlite3_sleep",
        "sqlite3_randomness", "sqlite3_msize",  "sqlite3_expanded_sql",  "sqlite3_user_data"};
    return strncmp(name, "sqlite3_", 8) == 0 && !begins_with_one_of(name, others, COUNT(others));
}

/* A function of SQLite whose effect belongs to one connection. */
static int sets_connection(const char *name) {
    static const char *const setters[] = {
        "sqlite3_create_",        "sqlite3_set_",       "sqlite3_update_hook",      "sqlite3_commit_",      "sqlite3_rollback_",
        "sqlite3_preupdate_hook", "sqlite3_wal_",       "sqlite3_progress_",        "sqlite3_collation_needed", "sqlite3_trace",
        "sqlite3_load_",          "sqlite3_busy_",      "sqlite3_limit",            "sqlite3_db_config",    "sqlite3_overload_",
        "sqlite3_profile",        "sqlite3_unlock_notify", "sqlite3_enable_load_"};
    return begins_with_one_of(name, setters, COUNT(setters));
}

/* A function that takes pointers to code which the C library may call after a module has ended. */
static int takes_code(const char *name) {
    static const char *const takers[] = {"pthread_create", "thrd_create", "timer_create", "pthread_key_create", "tss_create",
                                         "sigaction", "signal", "bsd_signal", "sysv_signal", "sigset", "on_exit", "mq_notify",
                                         "getaddrinfo_a", "aio_read", "aio_write", "lio_listio", "putenv", "setvbuf", "setbuf",
                                         "fopencookie", "json_set_alloc_funcs", "CRYPTO_set_mem_functions",
                                         "CRYPTO_get_ex_new_index"};
    for (size_t i = 0; i < COUNT(takers); i++) {
        if (strcmp(name, takers[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

const char *cwebn_leaves_pointers(const void *code) {
    return imports(code, takes_code, NULL);
}

static const void *base_of(const void *code) {
    Dl_info info;
    return dladdr(code, &info) == 0 ? NULL : info.dli_fbase;
}

struct cwebn_module *cwebn_module_open(struct cweb_context *ctx, const char *name, const void *code) {
    struct databases *all = the_databases;
    struct cwebn_module *module = all == NULL ? NULL : calloc(1, sizeof *module);
    if (module == NULL) {
        return NULL;
    }
    module->all = all;
    module->base = base_of(code);
    module->references = 1;
    snprintf(module->name, sizeof module->name, "%s", name);
    (void)pthread_mutex_init(&module->lock, NULL);
    module->database = all->base.database;
    module->public = *ctx;
    module->public.database = &module->database;
    module->is_direct = imports(code, takes_connection, "") != NULL;
    module->is_single = module->is_direct && imports(code, sets_connection, NULL) != NULL;
    pthread_mutex_lock(&all->lock);
    module->next = all->modules;
    all->modules = module;
    pthread_mutex_unlock(&all->lock);
    return module;
}

void cwebn_module_release(struct cwebn_module *module) {
    if (__atomic_sub_fetch(&module->references, 1, __ATOMIC_ACQ_REL) == 0) {
        (void)pthread_mutex_destroy(&module->lock);
        free(module);
    }
}

/* Closes leases that are not in use. */
static void close_leases(struct lease *left) {
    while (left != NULL) {
        struct lease *next = left->next;
        cwebn_lease_close(left);
        left = next;
    }
}

void cwebn_module_retire(struct cwebn_module *module) {
    if (module->is_direct) {
        return; /* the module may have kept the address of each */
    }
    pthread_mutex_lock(&module->lock);
    struct lease *left = module->free;
    for (const struct lease *at = left; at != NULL; at = at->next) {
        module->leases--;
        module->first = at == module->first ? NULL : module->first;
    }
    module->free = NULL;
    pthread_mutex_unlock(&module->lock);
    close_leases(left);
}

void cwebn_module_close(struct cwebn_module *module) {
    struct databases *all = module->all;
    pthread_mutex_lock(&all->lock);
    for (struct cwebn_module **at = &all->modules; *at != NULL; at = &(*at)->next) {
        if (*at == module) {
            *at = module->next;
            break;
        }
    }
    pthread_mutex_unlock(&all->lock);
    pthread_mutex_lock(&module->lock);
    module->is_gone = 1;
    struct lease *left = module->free;
    module->free = NULL;
    if (module->home != NULL && module->home->users == 0) {
        module->home->next = left;
        left = module->home;
        module->home = NULL;
    }
    pthread_mutex_unlock(&module->lock);
    close_leases(left);
    cwebn_module_release(module);
}

struct cwebn_module *cwebn_module_of(const void *code) {
    struct databases *all = the_databases;
    const void *base = base_of(code);
    struct cwebn_module *module = NULL;
    if (all == NULL || base == NULL) {
        return NULL;
    }
    pthread_mutex_lock(&all->lock);
    for (module = all->modules; module != NULL && module->base != base; module = module->next) {
    }
    if (module != NULL) {
        __atomic_add_fetch(&module->references, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&all->lock);
    return module;
}

/* ---- The database of the process ---- */

struct sqldb *cwebn_database_open(const char *path, const struct cwebn_services *services, char *error,
                                  size_t error_size) {
    struct databases *all = calloc(1, sizeof *all);
    if (all != NULL) {
        all->path = path == NULL ? NULL : strdup(path);
    }
    if (all == NULL || (path != NULL && all->path == NULL)) {
        snprintf(error, error_size, "no memory for the services of modules");
        free(all);
        return NULL;
    }
    all->services = services;
    all->base.all = all;
    (void)pthread_mutex_init(&all->lock, NULL);
    (void)cwebn_lease_connect(&all->base, error, error_size);
    the_databases = all;
    return &all->base.database;
}

void cwebn_database_close(struct sqldb *database) {
    struct databases *all = (struct databases *)(void *)((char *)database - offsetof(struct databases, base.database));
    the_databases = NULL;
    sqldb_shutdown(&all->base.database);
    (void)pthread_mutex_destroy(&all->lock);
    free(all->path);
    free(all);
}
