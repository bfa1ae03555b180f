/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The statements and transactions that each thread has begun in the database, and their end at the end of the call. */
#define _GNU_SOURCE
#include "database.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Limits on the recorded unfinished statements and open transactions of one thread. */
#define STARTED_MAX 64
#define HELD_MAX 8
/* Limit on the modules whose connections one thread that a module has started may use. */
#define OWN_MAX 4

struct started {
    sqlite3 *db;
    sqlite3_stmt *statement;
};

/* The open statements and transactions of a thread. Allocated when the thread first runs a statement. */
struct thread {
    struct started started[STARTED_MAX];
    sqlite3 *held[HELD_MAX];
    struct lease *own[OWN_MAX];
    int started_count, held_count, own_count;
};

#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))
THREAD_LOCAL struct cwebn_call *current;
THREAD_LOCAL struct thread *thread_state;

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static void tidy(struct thread *thread, int started, int held, struct cwebn_module *module);

/* ---- Statements and transactions of a thread ---- */

static void thread_ends(void *arg) {
    struct thread *thread = arg;
    tidy(thread, 0, 0, thread->own_count > 0 ? thread->own[0]->module : NULL);
    while (thread->own_count > 0) {
        struct lease *lease = thread->own[--thread->own_count];
        struct cwebn_module *module = lease->module;
        cwebn_lease_release(lease, 0);
        cwebn_module_release(module);
    }
    thread_state = NULL;
    free(thread);
}

static void make_key(void) {
    (void)pthread_key_create(&thread_key, thread_ends);
}

static struct thread *this_thread(void) {
    if (thread_state == NULL) {
        (void)pthread_once(&thread_once, make_key);
        thread_state = calloc(1, sizeof *thread_state);
        if (thread_state != NULL && pthread_setspecific(thread_key, thread_state) != 0) {
            free(thread_state);
            thread_state = NULL;
        }
    }
    return thread_state;
}

static int held_at(const struct thread *thread, const sqlite3 *db) {
    int at = thread->held_count - 1;
    while (at >= 0 && thread->held[at] != db) {
        at--;
    }
    return at;
}

/* Records that a transaction has begun or ended on this thread. The caller must hold the mutex of `db`. */
static void note_transaction(struct thread *thread, sqlite3 *db) {
    int at = held_at(thread, db), is_open = !sqlite3_get_autocommit(db);
    if (is_open && at < 0 && thread->held_count < HELD_MAX) {
        sqlite3_mutex_enter(sqlite3_db_mutex(db));
        thread->held[thread->held_count++] = db;
    } else if (!is_open && at >= 0) {
        thread->held_count--;
        memmove(&thread->held[at], &thread->held[at + 1], (size_t)(thread->held_count - at) * sizeof thread->held[0]);
        sqlite3_mutex_leave(sqlite3_db_mutex(db));
    }
}

int cwebn_on_trace(unsigned kind, void *unused, void *subject, void *more) {
    sqlite3_stmt *statement = subject;
    sqlite3 *db = sqlite3_db_handle(statement);
    struct thread *thread = this_thread();
    (void)unused, (void)more;
    if (thread == NULL) {
        return 0;
    }
    int at = thread->started_count - 1;
    while (at >= 0 && thread->started[at].statement != statement) {
        at--;
    }
    if (kind == SQLITE_TRACE_STMT) {
        /* SQLite reports a trigger under the name of its statement. */
        if (at < 0 && thread->started_count < STARTED_MAX) {
            thread->started[thread->started_count++] = (struct started){db, statement};
        }
        return 0;
    }
    if (at >= 0) {
        thread->started_count--;
        memmove(&thread->started[at], &thread->started[at + 1],
                (size_t)(thread->started_count - at) * sizeof thread->started[0]);
    }
    note_transaction(thread, db);
    return 0;
}

/* ---- The end of a call ---- */

static void warn(struct cwebn_module *module, enum left kind, const char *text) {
    if (module == NULL || module->all->services->warn == NULL) {
        return;
    }
    unsigned times = __atomic_add_fetch(&module->warned[kind], 1, __ATOMIC_RELAXED);
    if ((times & (times - 1)) == 0) { /* the first, the second, the fourth time, and so on */
        char counted[512];
        snprintf(counted, sizeof counted, "%s (%u times so far)", text, times);
        module->all->services->warn(module->all->services->user, module->name, counted);
    }
}

/* Resets a statement that the thread has begun, if it still exists and is not finished. */
static void reset_left(const struct started *left, struct cwebn_module *module) {
    sqlite3_stmt *at = NULL;
    do {
        at = sqlite3_next_stmt(left->db, at);
    } while (at != NULL && at != left->statement);
    if (at == NULL || !sqlite3_stmt_busy(at)) {
        return;
    }
    char text[400];
    snprintf(text, sizeof text,
             "a statement was not finished at the end of the call and is reset: step it until SQLITE_DONE, or call reset or "
             "finalize: %.160s",
             sqlite3_sql(at));
    sqlite3_reset(at);
    warn(module, LEFT_STATEMENT, text);
}

/* Ends the statements and transactions that the thread has begun since the call's beginning. */
static void tidy(struct thread *thread, int started, int held, struct cwebn_module *module) {
    struct started left[STARTED_MAX];
    int count = thread->started_count - started;
    if (count > 0) {
        memcpy(left, &thread->started[started], (size_t)count * sizeof left[0]);
        thread->started_count = started;
    }
    for (int at = 0; at < count; at++) {
        reset_left(&left[at], module);
    }
    while (thread->held_count > held) {
        sqlite3 *db = thread->held[thread->held_count - 1];
        int before = thread->held_count;
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL); /* cwebn_on_trace records the end */
        if (thread->held_count == before) {
            thread->held_count--;
            sqlite3_mutex_leave(sqlite3_db_mutex(db));
        }
        warn(module, LEFT_TRANSACTION,
             "a transaction was open at the end of the call and is rolled back: COMMIT or ROLLBACK in the call that began "
             "it; a transaction can't span calls");
    }
}

static void *try_mutex(void *mutex) {
    if (sqlite3_mutex_try(mutex) != SQLITE_OK) {
        return NULL;
    }
    sqlite3_mutex_leave(mutex);
    return mutex;
}

/* A fault within SQLite leaves the mutex locked by this thread, as often as the thread entered it. The only test is
 * that another thread can't lock it; leaving the mutex of another thread has no effect. */
static void free_mutex(sqlite3 *db) {
    sqlite3_mutex *mutex = sqlite3_db_mutex(db);
    for (int tries = 0; tries < 8; tries++) {
        pthread_t thread;
        void *was_free = NULL;
        if (pthread_create(&thread, NULL, try_mutex, mutex) != 0) {
            return;
        }
        pthread_join(thread, &was_free);
        if (was_free != NULL) {
            return;
        }
        sqlite3_mutex_leave(mutex);
    }
}

static void tidy_call(void *arg) {
    struct cwebn_call *call = arg;
    tidy(thread_state, call->started, call->held, call->module);
}

void cwebn_call_begin(struct cwebn_module *module, struct cwebn_call *call, int is_hook) {
    const struct thread *thread = thread_state;
    *call = (struct cwebn_call){.module = module,
                                .outer = current,
                                .started = thread == NULL ? 0 : thread->started_count,
                                .held = thread == NULL ? 0 : thread->held_count,
                                .is_hook = is_hook};
    current = call;
    if (module->is_direct && !cwebn_is_worker()) {
        call->lease = cwebn_lease_acquire(module);
    }
}

void cwebn_call_end(struct cwebn_call *call, int faulted) {
    const struct thread *thread = thread_state;
    struct cwebn_fault fault;
    if (thread != NULL && (thread->started_count > call->started || thread->held_count > call->held)) {
        if (!faulted) {
            tidy_call(call);
        } else if (cwebn_guard_call(tidy_call, call, &fault)) {
            warn(call->module, LEFT_TRANSACTION, "its database connection could not be tidied up after the fault");
        }
    }
    struct lease *lease = call->lease;
    if (lease != NULL) {
        if (faulted && lease->database.db != NULL) {
            free_mutex(lease->database.db);
        }
        cwebn_lease_release(lease, call->is_hook);
    }
    current = call->outer;
}

struct cweb_context *cwebn_call_context(struct cwebn_module *module) {
    const struct cwebn_call *call = current;
    if (call != NULL && call->module == module && module->is_direct && call->lease != NULL) {
        struct lease *lease = call->lease;
        if (lease->module != NULL) {
            return &lease->public;
        }
    }
    return &module->public;
}

/* The connection of a thread that the module started; the thread keeps it until its end. */
static sqlite3 *own_connection(struct databases *all, const struct sqldb *database) {
    struct thread *thread = this_thread();
    for (int at = 0; thread != NULL && at < thread->own_count; at++) {
        if (&thread->own[at]->module->database == database) {
            return thread->own[at]->database.db;
        }
    }
    struct cwebn_module *module = NULL;
    if (thread != NULL && thread->own_count < OWN_MAX) {
        pthread_mutex_lock(&all->lock);
        for (module = all->modules; module != NULL && &module->database != database; module = module->next) {
        }
        if (module != NULL) {
            __atomic_add_fetch(&module->references, 1, __ATOMIC_RELAXED);
        }
        pthread_mutex_unlock(&all->lock);
    }
    struct lease *lease = module == NULL ? NULL : cwebn_lease_acquire(module);
    if (lease == NULL || lease->module == NULL) {
        if (module != NULL) {
            cwebn_module_release(module);
        }
        return all->base.database.db;
    }
    thread->own[thread->own_count++] = lease;
    return lease->database.db;
}

sqlite3 *cwebn_connection_of(const struct sqldb *database) {
    struct databases *all = cwebn_databases();
    if (database == NULL || all == NULL || database->db == NULL || database->db != all->base.database.db) {
        return database == NULL ? NULL : database->db;
    }
    if (cwebn_worker_refuses("the database")) {
        return NULL; /* SQLite's connections must not be used across fork(2) */
    }
    if (thread_state != NULL && held_at(thread_state, database->db) >= 0) {
        return database->db; /* the module began a transaction there by sqlite3_* itself */
    }
    struct cwebn_call *call = current;
    if (call == NULL) {
        return own_connection(all, database);
    }
    if (call->lease == NULL) {
        call->lease = cwebn_lease_acquire(call->module);
    }
    return ((struct lease *)call->lease)->database.db;
}
