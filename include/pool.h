/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file pool.h
 * A pool of threads that run tasks in the order they were added, several at once.
 *
 * Start a pool in `onload` and destroy it in `unload`: a thread must not outlive its module.
 */
#ifndef CWEB_POOL_H
#define CWEB_POOL_H

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef __cplusplus
#include <stdatomic.h> /* modules rely on this header, and on those above */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* One queued task. */
struct task {
    void (*function)(void *);
    void *arg;
    struct task *next;
};

/** A pool. Change it through the functions only; the fields may be read with `lock` held. */
struct thread_pool {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t *threads;
    pthread_t *active_thread_ids; /**< By thread: its id while it runs a task. */
    int *active_flags;            /**< By thread: 1 while it runs a task. */
    struct task *task_queue;
    struct task *task_tail;
    int max_threads;
    int queue_length;   /**< Number of waiting tasks. */
    int stop;
    int active_threads; /**< Number of running tasks. */
    int numbered;       /* threads that have taken their number */
};

/** Limit on the threads of one pool. */
#define CWEB_POOL_THREADS_MAX 256

/* The main function of each thread of the pool. */
static inline void *cweb_pool_main(void *arg) {
    struct thread_pool *pool = (struct thread_pool *)arg;
    pthread_mutex_lock(&pool->lock);
    int number = pool->numbered++;
    for (;;) {
        while (pool->task_queue == NULL && !pool->stop) {
            pthread_cond_wait(&pool->cond, &pool->lock);
        }
        struct task *task = pool->task_queue;
        if (task == NULL) {
            break;
        }
        pool->task_queue = task->next;
        if (pool->task_queue == NULL) {
            pool->task_tail = NULL;
        }
        pool->queue_length--;
        pool->active_threads++;
        pool->active_flags[number] = 1;
        pool->active_thread_ids[number] = pthread_self();
        pthread_mutex_unlock(&pool->lock);
        task->function(task->arg);
        free(task);
        pthread_mutex_lock(&pool->lock);
        pool->active_flags[number] = 0;
        pool->active_threads--;
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/** Accepts no more tasks; the threads end when the queued ones have run. */
static inline void thread_pool_request_stop(struct thread_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->cond);
    pthread_mutex_unlock(&pool->lock);
}

static inline void cweb_pool_free(struct thread_pool *pool) {
    free(pool->threads);
    free(pool->active_thread_ids);
    free(pool->active_flags);
    free(pool);
}

/**
 * Runs the queued tasks, ends the threads and frees the pool. Must not be called from one of its tasks. NULL is
 * allowed.
 */
static inline void thread_pool_destroy(struct thread_pool *pool) {
    if (pool == NULL) {
        return;
    }
    thread_pool_request_stop(pool);
    for (int i = 0; i < pool->max_threads; i++) {
        pthread_join(pool->threads[i], NULL);
    }
    pthread_cond_destroy(&pool->cond);
    pthread_mutex_destroy(&pool->lock);
    cweb_pool_free(pool);
}

/**
 * Starts a pool.
 * @param num_threads  1 to CWEB_POOL_THREADS_MAX
 * @return the pool, for thread_pool_destroy(); NULL when the number is out of range or a thread can't be started
 */
static inline struct thread_pool *thread_pool_init(int num_threads) {
    if (num_threads < 1 || num_threads > CWEB_POOL_THREADS_MAX) {
        return NULL;
    }
    struct thread_pool *pool = (struct thread_pool *)calloc(1, sizeof *pool);
    if (pool == NULL) {
        return NULL;
    }
    pool->threads = (pthread_t *)calloc((size_t)num_threads, sizeof *pool->threads);
    pool->active_thread_ids = (pthread_t *)calloc((size_t)num_threads, sizeof *pool->active_thread_ids);
    pool->active_flags = (int *)calloc((size_t)num_threads, sizeof *pool->active_flags);
    if (pool->threads == NULL || pool->active_thread_ids == NULL || pool->active_flags == NULL) {
        cweb_pool_free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->cond, NULL);
    while (pool->max_threads < num_threads) {
        if (pthread_create(&pool->threads[pool->max_threads], NULL, cweb_pool_main, pool) != 0) {
            thread_pool_destroy(pool);
            return NULL;
        }
        pool->max_threads++;
    }
    return pool;
}

/** Queues function(arg). Nothing is queued when an argument is NULL, the pool is stopping or memory runs out. */
static inline void thread_pool_add_task(struct thread_pool *pool, void (*function)(void *), void *arg) {
    struct task *task = pool == NULL || function == NULL ? NULL : (struct task *)calloc(1, sizeof *task);
    if (task == NULL) {
        return;
    }
    task->function = function;
    task->arg = arg;
    pthread_mutex_lock(&pool->lock);
    int stopping = pool->stop;
    if (!stopping) {
        if (pool->task_tail != NULL) {
            pool->task_tail->next = task;
        } else {
            pool->task_queue = task;
        }
        pool->task_tail = task;
        pool->queue_length++;
        pthread_cond_signal(&pool->cond);
    }
    pthread_mutex_unlock(&pool->lock);
    if (stopping) {
        free(task);
    }
}

/** Number of waiting and running tasks; 0 for NULL. */
static inline int thread_pool_pending_count(struct thread_pool *pool) {
    if (pool == NULL) {
        return 0;
    }
    pthread_mutex_lock(&pool->lock);
    int count = pool->queue_length + pool->active_threads;
    pthread_mutex_unlock(&pool->lock);
    return count;
}

/** Drops the waiting tasks; running tasks finish. The arguments of dropped tasks are not freed. */
static inline void thread_pool_cancel_all(struct thread_pool *pool) {
    if (pool == NULL) {
        return;
    }
    pthread_mutex_lock(&pool->lock);
    struct task *chain = pool->task_queue;
    pool->task_queue = pool->task_tail = NULL;
    pool->queue_length = 0;
    pthread_mutex_unlock(&pool->lock);
    while (chain != NULL) {
        struct task *task = chain;
        chain = task->next;
        free(task);
    }
}

/**
 * 1 when no thread is idle, so that a further task would wait; else 0, also for NULL. A queued task occupies a
 * thread.
 */
static inline int thread_pool_is_full(struct thread_pool *pool) {
    if (pool == NULL) {
        return 0;
    }
    pthread_mutex_lock(&pool->lock);
    int full = pool->queue_length + pool->active_threads >= pool->max_threads;
    pthread_mutex_unlock(&pool->lock);
    return full;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_POOL_H */
