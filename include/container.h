/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file container.h
 * The cross-module cache: named pointers shared by the modules of a domain, which outlive hot swaps. Every function
 * locks the container.
 *
 * The modules must agree on the data behind a pointer and synchronise their accesses to it. The data must not lie in a
 * module's own static data or code, which are unmapped when the module is replaced. Memory from malloc(3) stays valid.
 */
#ifndef CWEB_CONTAINER_H
#define CWEB_CONTAINER_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>

#include "map.h"

#ifdef __cplusplus
extern "C" {
#endif

struct container {
    struct map *data;
    /** Error-checking, so that the server can release the mutex after a fault of the thread that held it. */
    pthread_mutex_t mutex;
};

/**
 * Prepares an empty container.
 * @param initial_capacity  initial capacity in names, at least 1; the container grows
 * @return 0; -1 when container is NULL, initial_capacity is 0 or memory runs out
 */
static inline int container_init(struct container *container, size_t initial_capacity) {
    pthread_mutexattr_t attr;
    if (container == NULL || pthread_mutexattr_init(&attr) != 0) {
        return -1;
    }
    container->data = NULL;
    int failed = pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK) != 0 ||
                 pthread_mutex_init(&container->mutex, &attr) != 0;
    pthread_mutexattr_destroy(&attr);
    if (failed) {
        return -1;
    }
    container->data = map_create(initial_capacity);
    if (container->data == NULL) {
        pthread_mutex_destroy(&container->mutex);
        return -1;
    }
    return 0;
}

/** Frees the memory of container_init(); the caller keeps the values. No thread may use the container any more. */
static inline void container_shutdown(struct container *container) {
    if (container == NULL || container->data == NULL) {
        return;
    }
    map_destroy(container->data);
    container->data = NULL;
    pthread_mutex_destroy(&container->mutex);
}

/*
 * Locks the container. Returns 0 when this call has locked `mutex`; 1 when the calling thread already held it; -1 on
 * error.
 */
static inline int cweb_container_enter(struct container *container) {
    if (container == NULL || container->data == NULL) {
        return -1;
    }
    int error = pthread_mutex_lock(&container->mutex);
    return error == 0 ? 0 : error == EDEADLK ? 1 : -1;
}

static inline void cweb_container_leave(struct container *container, int entered) {
    if (entered == 0) {
        pthread_mutex_unlock(&container->mutex);
    }
}

/**
 * Sets name to value, replacing an earlier value.
 * @return MAP_OK, or MAP_ERR when an argument is NULL or memory runs out
 */
static inline map_error_t container_set(struct container *container, const char *name, void *value) {
    int entered = value == NULL ? -1 : cweb_container_enter(container);
    if (entered < 0) {
        return MAP_ERR;
    }
    map_error_t result = map_insert(container->data, name, value);
    cweb_container_leave(container, entered);
    return result;
}

/** The value of name, or NULL when there is none. */
CWEB_OUT_OF_LINE void *container_get(struct container *container, const char *name) {
    int entered = cweb_container_enter(container);
    if (entered < 0) {
        return NULL;
    }
    void *value = map_get(container->data, name);
    cweb_container_leave(container, entered);
    return value;
}

/**
 * Removes name. Its value is not freed.
 * @return MAP_OK, MAP_KEY_NOT_FOUND, or MAP_ERR
 */
static inline map_error_t container_remove(struct container *container, const char *name) {
    int entered = cweb_container_enter(container);
    if (entered < 0) {
        return MAP_ERR;
    }
    map_error_t result = map_remove(container->data, name);
    cweb_container_leave(container, entered);
    return result;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_CONTAINER_H */
