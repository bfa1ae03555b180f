/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file queue.h
 * A queue of pointers between threads, first in first out, with a bound.
 */
#ifndef CWEB_QUEUE_H
#define CWEB_QUEUE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "cweb_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Result of the functions below. */
typedef enum queue_status {
    QUEUE_OK,    /**< Done. */
    QUEUE_FULL,  /**< The queue is at its limit, and the call does not wait. */
    QUEUE_EMPTY, /**< The queue is empty, and the call does not wait (or the queue was stopped). */
    QUEUE_ERROR  /**< An argument is NULL, memory ran out, or the queue was stopped. */
} queue_status_t;

struct queue {
    void **buffer;       /**< A ring. */
    size_t head;         /**< Index of the oldest item. */
    size_t tail;         /**< Index for the next item. */
    size_t max_size;     /**< Limit on the items. */
    size_t current_size; /**< Items held. */
    pthread_mutex_t lock;
    pthread_cond_t not_full;
    pthread_cond_t not_empty;
    size_t slots; /**< Size of the ring. */
    int stopped;
};

#define CWEB_QUEUE_SLOTS_MIN ((size_t)16)

/**
 * Makes an empty queue.
 * @param max_size  most items held at once, at least 1
 * @return the queue, for queue_destroy(); NULL for 0 or when memory runs out
 */
static inline struct queue *queue_create(size_t max_size) {
    struct queue *queue = max_size == 0 ? NULL : (struct queue *)calloc(1, sizeof *queue);
    if (queue == NULL) {
        return NULL;
    }
    queue->max_size = max_size;
    queue->slots = max_size < CWEB_QUEUE_SLOTS_MIN ? max_size : CWEB_QUEUE_SLOTS_MIN;
    queue->buffer = (void **)calloc(queue->slots, sizeof *queue->buffer);
    if (queue->buffer == NULL) {
        free(queue);
        return NULL;
    }
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->not_full, NULL);
    pthread_cond_init(&queue->not_empty, NULL);
    return queue;
}

/**
 * Frees the queue, not its items. No thread may use the queue or wait on it any more: call cweb_queue_stop() and
 * join first.
 */
static inline void queue_destroy(struct queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_cond_destroy(&queue->not_empty);
    pthread_cond_destroy(&queue->not_full);
    pthread_mutex_destroy(&queue->lock);
    free(queue->buffer);
    free(queue);
}

/* Doubles the ring; the caller holds the lock. */
static inline int cweb_queue_grow(struct queue *queue) {
    if (queue->slots > SIZE_MAX / 2 / sizeof(void *)) {
        return -1;
    }
    void **buffer = (void **)malloc(queue->slots * 2 * sizeof *buffer);
    if (buffer == NULL) {
        return -1;
    }
    for (size_t i = 0; i < queue->current_size; i++) {
        buffer[i] = queue->buffer[(queue->head + i) % queue->slots];
    }
    free(queue->buffer);
    queue->buffer = buffer;
    queue->slots *= 2;
    queue->head = 0;
    queue->tail = queue->current_size;
    return 0;
}

static inline queue_status_t cweb_queue_put(struct queue *queue, void *item, int wait) {
    if (queue == NULL) {
        return QUEUE_ERROR;
    }
    queue_status_t status = QUEUE_OK;
    pthread_mutex_lock(&queue->lock);
    while (wait && !queue->stopped && queue->current_size >= queue->max_size) {
        pthread_cond_wait(&queue->not_full, &queue->lock);
    }
    if (queue->stopped) {
        status = QUEUE_ERROR;
    } else if (queue->current_size >= queue->max_size) {
        status = QUEUE_FULL;
    } else if (queue->current_size == queue->slots && cweb_queue_grow(queue) != 0) {
        status = QUEUE_ERROR;
    } else {
        queue->buffer[queue->tail] = item;
        queue->tail = (queue->tail + 1) % queue->slots;
        queue->current_size++;
        pthread_cond_signal(&queue->not_empty);
    }
    pthread_mutex_unlock(&queue->lock);
    return status;
}

CWEB_OUT_OF_LINE queue_status_t cweb_queue_take(struct queue *queue, void **item, int wait) {
    if (queue == NULL || item == NULL) {
        return QUEUE_ERROR;
    }
    queue_status_t status = QUEUE_EMPTY;
    pthread_mutex_lock(&queue->lock);
    while (wait && !queue->stopped && queue->current_size == 0) {
        pthread_cond_wait(&queue->not_empty, &queue->lock);
    }
    if (queue->current_size > 0) {
        *item = queue->buffer[queue->head];
        queue->head = (queue->head + 1) % queue->slots;
        queue->current_size--;
        pthread_cond_signal(&queue->not_full);
        status = QUEUE_OK;
    }
    pthread_mutex_unlock(&queue->lock);
    return status;
}

/** Appends item; waits while the queue is at its bound. QUEUE_OK, or QUEUE_ERROR (stopped, no memory, NULL queue). */
static inline queue_status_t queue_enqueue(struct queue *queue, void *item) {
    return cweb_queue_put(queue, item, 1);
}

/** Appends item, or returns QUEUE_FULL at once. */
static inline queue_status_t queue_try_enqueue(struct queue *queue, void *item) {
    return cweb_queue_put(queue, item, 0);
}

/** Takes the oldest item; waits for an item. QUEUE_EMPTY only when the queue is stopped and empty. */
static inline queue_status_t queue_dequeue(struct queue *queue, void **item) {
    return cweb_queue_take(queue, item, 1);
}

/** Takes the oldest item, or returns QUEUE_EMPTY at once. */
static inline queue_status_t queue_try_dequeue(struct queue *queue, void **item) {
    return cweb_queue_take(queue, item, 0);
}

/** Number of waiting items; 0 for NULL. */
static inline size_t queue_size(struct queue *queue) {
    if (queue == NULL) {
        return 0;
    }
    pthread_mutex_lock(&queue->lock);
    size_t size = queue->current_size;
    pthread_mutex_unlock(&queue->lock);
    return size;
}

/** Refuses further items and wakes all waiting threads; queued items can still be taken. */
static inline void cweb_queue_stop(struct queue *queue) {
    if (queue == NULL) {
        return;
    }
    pthread_mutex_lock(&queue->lock);
    queue->stopped = 1;
    pthread_cond_broadcast(&queue->not_full);
    pthread_cond_broadcast(&queue->not_empty);
    pthread_mutex_unlock(&queue->lock);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_QUEUE_H */
