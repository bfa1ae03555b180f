/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The pool of waiting connections of a module's generation. */
#define _GNU_SOURCE
#include "database.h"

/* Limit on the connections of a process, beyond one for each module. Calls share a connection when none is left. */
#define CONNECTIONS_MAX 96

/* Takes a free lease: the one that this thread used last, else any. The caller must hold the module's lock. */
static struct lease *take_free(struct cwebn_module *module, pthread_t self) {
    struct lease **chosen = &module->free;
    for (struct lease **at = &module->free; *at != NULL; at = &(*at)->next) {
        if (pthread_equal((*at)->thread, self)) {
            chosen = at;
            break;
        }
    }
    struct lease *lease = *chosen;
    if (lease != NULL) {
        *chosen = lease->next;
    }
    return lease;
}

struct lease *cwebn_lease_acquire(struct cwebn_module *module) {
    struct databases *all = module->all;
    if (all->base.database.db == NULL) {
        return &all->base; /* there is no database */
    }
    pthread_t self = pthread_self();
    pthread_mutex_lock(&module->lock);
    struct lease *lease = module->home != NULL ? module->home : take_free(module, self);
    int is_first = module->leases == 0;
    if (lease == NULL) {
        module->leases++;
    } else {
        lease->users++;
        lease->thread = self;
    }
    pthread_mutex_unlock(&module->lock);
    if (lease != NULL) {
        return lease;
    }
    pthread_mutex_lock(&all->lock);
    int is_allowed = is_first || all->connections < CONNECTIONS_MAX;
    all->connections += is_allowed;
    pthread_mutex_unlock(&all->lock);
    lease = is_allowed ? cwebn_lease_new(module) : NULL;
    if (lease != NULL) {
        lease->thread = self;
        return lease;
    }
    pthread_mutex_lock(&all->lock);
    all->connections -= is_allowed;
    pthread_mutex_unlock(&all->lock);
    pthread_mutex_lock(&module->lock);
    module->leases--;
    lease = module->first != NULL ? module->first : &all->base;
    if (lease->module != NULL && lease->users == 0 && lease != module->home) {
        lease = take_free(module, self); /* returned meanwhile: the first lease is free, so take_free() finds one */
    }
    if (lease->module != NULL) {
        lease->users++;
    }
    pthread_mutex_unlock(&module->lock);
    return lease;
}

static int count_row(void *arg, int columns, char **values, char **names) {
    (void)columns, (void)values, (void)names;
    *(int *)arg = 1;
    return 0;
}

/* Whether temporary tables or attached databases are left on the connection, which is not in use. */
static int has_leftovers(sqlite3 *db) {
    int found = 0;
    sqlite3_exec(db, "SELECT 1 FROM sqlite_temp_master LIMIT 1", count_row, &found, NULL);
    sqlite3_exec(db, "SELECT 1 FROM pragma_database_list WHERE seq > 2 LIMIT 1", count_row, &found, NULL);
    return found;
}

/* Examines a connection that is not in use. The caller must hold its mutex and the module's lock. */
static void look_at_state(struct lease *lease, int is_hook) {
    struct cwebn_module *module = lease->module;
    sqlite3 *db = lease->database.db;
    if (lease->is_touched) {
        lease->is_stateful = is_hook || has_leftovers(db);
        lease->is_touched = 0;
    }
    lease->is_kept = module->is_single || lease->is_stateful || sqlite3_next_stmt(db, NULL) != NULL;
    if (lease == module->first) {
        (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_FKEY, -1, &module->foreign_keys);
    }
}

/* Returns the lease to the pool. The caller must hold the module's lock. */
static void put_back(struct lease *lease) {
    struct cwebn_module *module = lease->module;
    if (lease == module->home && !lease->is_kept) {
        module->home = NULL;
    } else if (lease->is_kept && module->home == NULL) {
        module->home = lease;
    }
    if (lease != module->home) {
        lease->next = module->free;
        module->free = lease;
    }
}

void cwebn_lease_release(struct lease *lease, int is_hook) {
    struct cwebn_module *module = lease->module;
    if (module == NULL) {
        return;
    }
    sqlite3_mutex *mutex = sqlite3_db_mutex(lease->database.db);
    /* This thread must not wait here for another thread's transaction. */
    int is_quiet = sqlite3_mutex_try(mutex) == SQLITE_OK;
    pthread_mutex_lock(&module->lock);
    int is_last = --lease->users == 0;
    int is_closed = is_last && module->is_gone;
    if (is_closed) {
        module->home = lease == module->home ? NULL : module->home;
    } else if (is_last) {
        if (is_quiet) {
            look_at_state(lease, is_hook);
        }
        put_back(lease);
    }
    pthread_mutex_unlock(&module->lock);
    if (is_quiet) {
        sqlite3_mutex_leave(mutex);
    }
    if (is_closed) {
        cwebn_lease_close(lease);
    }
}
