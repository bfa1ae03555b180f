/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The connections to the database of modules.
 *
 * Every call into a module has a connection to itself, from a pool that belongs to the module's generation. A call of a
 * module that uses only the functions of struct sqldb takes a connection at its first need. A module that calls
 * sqlite3_* itself reads ctx->database->db as a plain field, so each of its calls takes a connection at its beginning.
 * A connection with state of the module (prepared statements, temporary tables, functions) is shared by all its calls.
 *
 * SQLite's trace callback reports which thread began which statement and transaction, on any connection. A thread keeps
 * the mutex of a connection while its transaction is open there: where calls share a connection, the other calls wait.
 * Statements and transactions still open at the end of their call are reset and rolled back, with a warning.
 *
 * Lock order: a connection's mutex, then a module's lock, then the list's. No lock is held while module code runs, except
 * the mutex of a connection with an open transaction.
 */
#ifndef CWEB_DATABASE_H
#define CWEB_DATABASE_H

#include "native.h"

#include <pthread.h>

#include <cweb.h>

enum left { LEFT_TRANSACTION, LEFT_STATEMENT, LEFT_KINDS };

/* A context with a connection of its own. */
struct lease {
    struct cweb_context public;
    struct sqldb database;
    struct databases *all;
    struct cwebn_module *module; /* NULL: the base connection, which is never returned to a pool */
    struct lease *next;
    pthread_t thread; /* the last thread that used the lease */
    int users;
    int is_kept;     /* the connection has statements or other state of the module */
    int is_stateful; /* the connection has temporary tables, attached databases or settings */
    int is_touched;  /* the running call has created state that may stay */
};

struct cwebn_module {
    struct cweb_context public;
    struct sqldb database;
    struct databases *all;
    const void *base;
    struct cwebn_module *next;
    char name[CWEB_NAME_SIZE];
    int is_direct; /* the module calls sqlite3_* itself */
    int is_single; /* the module registers functions or hooks, which belong to one connection */
    pthread_mutex_t lock;
    int references;
    int is_gone;
    struct lease *free, *home, *first;
    int leases;
    int foreign_keys; /* as set on the first connection */
    unsigned warned[LEFT_KINDS];
};

/* The database of all modules. */
struct databases {
    struct lease base;
    char *path;
    const struct cwebn_services *services;
    pthread_mutex_t lock; /* protects the two fields below */
    struct cwebn_module *modules;
    int connections;
};

/* ---- connection.c ---- */

/* Opens the connection of `lease`; 0, or -1 with the reason. The functions are set in either case, and fail cleanly. */
int cwebn_lease_connect(struct lease *lease, char *error, size_t error_size);

/* A new lease of `module`, in use; NULL if it can't be opened. */
struct lease *cwebn_lease_new(struct cwebn_module *module);

/* Closes a lease that is not in use, and finalizes its statements. */
void cwebn_lease_close(struct lease *lease);

/* ---- pool.c ---- */

/* A lease for a call; the base lease when there is no other. */
struct lease *cwebn_lease_acquire(struct cwebn_module *module);

/* Returns a lease. If an `is_hook` call has created state there, all calls of the module share the lease from then
   on. */
void cwebn_lease_release(struct lease *lease, int is_hook);

/* ---- calls.c ---- */

/* For sqlite3_trace_v2: a statement begins, or has ended. */
int cwebn_on_trace(unsigned kind, void *unused, void *subject, void *more);

/* The connection that this thread uses for `database`. */
sqlite3 *cwebn_connection_of(const struct sqldb *database);

/* ---- database.c ---- */

/* Sets the functions that choose a connection. */
void cwebn_database_functions(struct sqldb *database);

/* The database of the process; NULL before it is opened. */
struct databases *cwebn_databases(void);

#endif /* CWEB_DATABASE_H */
