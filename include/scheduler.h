/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file scheduler.h
 * Deferred work: one thread that runs functions in the order in which they were added, off the request path.
 *
 * `ctx->scheduler` belongs to the server and is shared by the modules of a domain: keep its works short. For long works
 * start a scheduler of the module's own in `onload` and shut it down in `unload`.
 */
#ifndef CWEB_SCHEDULER_H
#define CWEB_SCHEDULER_H

#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>

#ifndef __cplusplus
#include <stdatomic.h> /* modules rely on this header */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** A function to run with the pointer it was added with. */
typedef void (*work_t)(void *);

/** How scheduler_add() behaves. */
typedef enum {
    ASYNC, /**< One of two names for the only behaviour: later, in order, without waiting. */
    SYNC   /**< The other name. A waiting caller would wait for ever if it held a lock that the work takes. */
} worker_state_t;

/* One queued work. */
struct work {
    work_t work;
    void *data;
    struct work *next;
    void *ticket; /* the return value of hooks->admit */
};

/* The server's hooks on its scheduler; each pointer may be NULL. Called without the scheduler's mutex held. */
struct cweb_scheduler_hooks {
    void *user;
    /* Called on the adding thread: the server records the module of the work. */
    void *(*admit)(void *user, work_t work, void *data);
    /* Called on the scheduler's thread, instead of work(data): must run the work, and release the ticket. */
    void (*run)(void *user, work_t work, void *data, void *ticket);
    /* Called when the work was dropped without running: releases the ticket. */
    void (*drop)(void *user, void *ticket);
};

/** A scheduler. Change it through the functions only; the fields may be read with `mutex` held. */
struct scheduler {
    struct work *head;
    struct work *tail;
    size_t size;
    size_t capacity;
    pthread_mutex_t mutex;
    pthread_cond_t work_available;
    int running;   /**< Nonzero until the thread must end. */
    int accepting; /**< Nonzero while works may be added. */
    int draining;  /**< Nonzero: waiting works are run before the thread ends. */
    pthread_t thread;
    int busy; /* number of running works */
    const struct cweb_scheduler_hooks *hooks;
};

/** Capacity for a scheduler_init() with 0. */
#define CWEB_SCHEDULER_CAPACITY_DEFAULT ((size_t)65536)

/* Unlinks the oldest work; the caller holds the mutex. */
static inline struct work *cweb_scheduler_pop(struct scheduler *scheduler) {
    struct work *item = scheduler->head;
    if (item != NULL) {
        scheduler->head = item->next;
        scheduler->size--;
        if (scheduler->head == NULL) {
            scheduler->tail = NULL;
        }
    }
    return item;
}

static inline void cweb_scheduler_run(struct scheduler *scheduler, work_t work, void *data, void *ticket) {
    const struct cweb_scheduler_hooks *hooks = scheduler->hooks;
    if (hooks != NULL && hooks->run != NULL) {
        hooks->run(hooks->user, work, data, ticket);
    } else {
        work(data);
    }
}

static inline void *cweb_scheduler_admit(struct scheduler *scheduler, work_t work, void *data) {
    const struct cweb_scheduler_hooks *hooks = scheduler->hooks;
    return hooks != NULL && hooks->admit != NULL ? hooks->admit(hooks->user, work, data) : NULL;
}

/* Drops a chain of unlinked works. */
static inline void cweb_scheduler_drop(struct scheduler *scheduler, struct work *chain) {
    const struct cweb_scheduler_hooks *hooks = scheduler->hooks;
    while (chain != NULL) {
        struct work *item = chain;
        chain = item->next;
        if (hooks != NULL && hooks->drop != NULL) {
            hooks->drop(hooks->user, item->ticket);
        }
        free(item);
    }
}

/* The scheduler's thread. */
static inline void *cweb_scheduler_main(void *arg) {
    struct scheduler *scheduler = (struct scheduler *)arg;
    pthread_mutex_lock(&scheduler->mutex);
    for (;;) {
        while (scheduler->head == NULL && scheduler->running) {
            pthread_cond_wait(&scheduler->work_available, &scheduler->mutex);
        }
        struct work *item = cweb_scheduler_pop(scheduler);
        if (item == NULL) {
            break;
        }
        scheduler->busy = 1;
        pthread_mutex_unlock(&scheduler->mutex);
        cweb_scheduler_run(scheduler, item->work, item->data, item->ticket);
        pthread_mutex_lock(&scheduler->mutex);
        scheduler->busy = 0;
        free(item);
    }
    pthread_mutex_unlock(&scheduler->mutex);
    return NULL;
}

/**
 * Starts a scheduler and its thread.
 * @param capacity  most works waiting at once; 0: CWEB_SCHEDULER_CAPACITY_DEFAULT
 * @return 0, or -1 when the thread can't be started
 */
static inline int scheduler_init(struct scheduler *scheduler, size_t capacity) {
    if (scheduler == NULL) {
        return -1;
    }
    scheduler->head = scheduler->tail = NULL;
    scheduler->size = 0;
    scheduler->capacity = capacity == 0 ? CWEB_SCHEDULER_CAPACITY_DEFAULT : capacity;
    scheduler->running = scheduler->accepting = 1;
    scheduler->draining = scheduler->busy = 0;
    scheduler->hooks = NULL;
    pthread_mutex_init(&scheduler->mutex, NULL);
    pthread_cond_init(&scheduler->work_available, NULL);
    if (pthread_create(&scheduler->thread, NULL, cweb_scheduler_main, scheduler) != 0) {
        pthread_cond_destroy(&scheduler->work_available);
        pthread_mutex_destroy(&scheduler->mutex);
        scheduler->running = scheduler->accepting = 0;
        return -1;
    }
    return 0;
}

/**
 * Makes the scheduler's thread run work(data) later, after all works that were added before. Returns at once, also on
 * that thread.
 * @param state  ASYNC or SYNC: both mean the same, see worker_state_t
 * @return 0; -1 when an argument is NULL, the scheduler is full or stopping, or memory runs out
 */
static inline int scheduler_add(struct scheduler *scheduler, work_t work, void *data, worker_state_t state) {
    (void)state;
    if (scheduler == NULL || work == NULL) {
        return -1;
    }
    struct work *item = (struct work *)calloc(1, sizeof *item);
    if (item == NULL) {
        return -1;
    }
    item->work = work;
    item->data = data;
    item->ticket = cweb_scheduler_admit(scheduler, work, data);
    pthread_mutex_lock(&scheduler->mutex);
    if (!scheduler->accepting || scheduler->size >= scheduler->capacity) {
        pthread_mutex_unlock(&scheduler->mutex);
        cweb_scheduler_drop(scheduler, item);
        return -1;
    }
    if (scheduler->tail != NULL) {
        scheduler->tail->next = item;
    } else {
        scheduler->head = item;
    }
    scheduler->tail = item;
    scheduler->size++;
    pthread_cond_signal(&scheduler->work_available);
    pthread_mutex_unlock(&scheduler->mutex);
    return 0;
}

/** Number of waiting and running works; 0 for NULL. */
static inline int scheduler_pending_count(struct scheduler *scheduler) {
    if (scheduler == NULL) {
        return 0;
    }
    pthread_mutex_lock(&scheduler->mutex);
    int count = (int)scheduler->size + scheduler->busy;
    pthread_mutex_unlock(&scheduler->mutex);
    return count;
}

/** Drops the waiting works; the running work finishes. */
static inline void scheduler_cancel(struct scheduler *scheduler) {
    if (scheduler == NULL) {
        return;
    }
    pthread_mutex_lock(&scheduler->mutex);
    struct work *chain = scheduler->head;
    scheduler->head = scheduler->tail = NULL;
    scheduler->size = 0;
    pthread_mutex_unlock(&scheduler->mutex);
    cweb_scheduler_drop(scheduler, chain);
}

/**
 * Accepts no more work and lets the thread end.
 * @param drain  nonzero: after running the waiting works; 0: the waiting works are dropped
 */
static inline void scheduler_request_stop(struct scheduler *scheduler, int drain) {
    if (scheduler == NULL) {
        return;
    }
    pthread_mutex_lock(&scheduler->mutex);
    scheduler->running = scheduler->accepting = 0;
    scheduler->draining = drain != 0;
    pthread_cond_broadcast(&scheduler->work_available);
    pthread_mutex_unlock(&scheduler->mutex);
    if (!drain) {
        scheduler_cancel(scheduler);
    }
}

/** Runs the waiting works, ends the thread and frees everything. Must not be called on the scheduler's own thread. */
static inline void scheduler_shutdown(struct scheduler *scheduler) {
    if (scheduler == NULL) {
        return;
    }
    scheduler_request_stop(scheduler, 1);
    pthread_join(scheduler->thread, NULL);
    pthread_cond_destroy(&scheduler->work_available);
    pthread_mutex_destroy(&scheduler->mutex);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_SCHEDULER_H */
