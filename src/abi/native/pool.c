/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The connections of a module's generation that wait for calls.
 */
#define _GNU_SOURCE
#include "database.h"

/* Connections of a process, beyond one for each module. Calls share one where there is none left. */
#define CONNECTIONS_MAX 96

/* One of those that nobody has: the one this thread had, else any. Under the module's lock. */
static struct seat *take_free(struct cwebn_module *module, pthread_t self) {
    struct seat **chosen = &module->free;
    for (struct seat **at = &module->free; *at != NULL; at = &(*at)->next) {
        if (pthread_equal((*at)->thread, self)) {
            chosen = at;
            break;
        }
    }
    struct seat *seat = *chosen;
    if (seat != NULL) {
        *chosen = seat->next;
    }
    return seat;
}

struct seat *cwebn_seat_acquire(struct cwebn_module *module) {
    struct databases *all = module->all;
    if (all->base.database.db == NULL) {
        return &all->base; /* there is no database */
    }
    pthread_t self = pthread_self();
    pthread_mutex_lock(&module->lock);
    struct seat *seat = module->home != NULL ? module->home : take_free(module, self);
    int is_first = module->seats == 0;
    if (seat == NULL) {
        module->seats++;
    } else {
        seat->users++;
        seat->thread = self;
    }
    pthread_mutex_unlock(&module->lock);
    if (seat != NULL) {
        return seat;
    }
    pthread_mutex_lock(&all->lock);
    int is_allowed = is_first || all->connections < CONNECTIONS_MAX;
    all->connections += is_allowed;
    pthread_mutex_unlock(&all->lock);
    seat = is_allowed ? cwebn_seat_new(module) : NULL;
    if (seat != NULL) {
        seat->thread = self;
        return seat;
    }
    pthread_mutex_lock(&all->lock);
    all->connections -= is_allowed;
    pthread_mutex_unlock(&all->lock);
    pthread_mutex_lock(&module->lock);
    module->seats--;
    seat = module->first != NULL ? module->first : &all->base;
    if (seat->module != NULL && seat->users == 0 && seat != module->home) {
        seat = take_free(module, self); /* given back meanwhile: the first is free, so one is */
    }
    if (seat->module != NULL) {
        seat->users++;
    }
    pthread_mutex_unlock(&module->lock);
    return seat;
}

static int count_row(void *arg, int columns, char **values, char **names) {
    (void)columns, (void)values, (void)names;
    *(int *)arg = 1;
    return 0;
}

/* Whether temporary tables or attached databases are left on the connection, which nobody uses. */
static int has_leftovers(sqlite3 *db) {
    int found = 0;
    sqlite3_exec(db, "SELECT 1 FROM sqlite_temp_master LIMIT 1", count_row, &found, NULL);
    sqlite3_exec(db, "SELECT 1 FROM pragma_database_list WHERE seq > 2 LIMIT 1", count_row, &found, NULL);
    return found;
}

/* Looks at a connection that nobody uses, within its mutex and the module's lock. */
static void look_at_state(struct seat *seat, int is_hook) {
    struct cwebn_module *module = seat->module;
    sqlite3 *db = seat->database.db;
    if (seat->is_touched) {
        seat->is_stateful = is_hook || has_leftovers(db);
        seat->is_touched = 0;
    }
    seat->is_kept = module->is_single || seat->is_stateful || sqlite3_next_stmt(db, NULL) != NULL;
    if (seat == module->first) {
        (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_FKEY, -1, &module->foreign_keys);
    }
}

/* Where it waits for the next call, under the module's lock. */
static void put_back(struct seat *seat) {
    struct cwebn_module *module = seat->module;
    if (seat == module->home && !seat->is_kept) {
        module->home = NULL;
    } else if (seat->is_kept && module->home == NULL) {
        module->home = seat;
    }
    if (seat != module->home) {
        seat->next = module->free;
        module->free = seat;
    }
}

void cwebn_seat_release(struct seat *seat, int is_hook) {
    struct cwebn_module *module = seat->module;
    if (module == NULL) {
        return;
    }
    sqlite3_mutex *mutex = sqlite3_db_mutex(seat->database.db);
    /* Nobody waits here for another thread's transaction. */
    int is_quiet = sqlite3_mutex_try(mutex) == SQLITE_OK;
    pthread_mutex_lock(&module->lock);
    int is_last = --seat->users == 0;
    int is_closed = is_last && module->is_gone;
    if (is_closed) {
        module->home = seat == module->home ? NULL : module->home;
    } else if (is_last) {
        if (is_quiet) {
            look_at_state(seat, is_hook);
        }
        put_back(seat);
    }
    pthread_mutex_unlock(&module->lock);
    if (is_quiet) {
        sqlite3_mutex_leave(mutex);
    }
    if (is_closed) {
        cwebn_seat_close(seat);
    }
}
