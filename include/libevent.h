/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file libevent.h
 * Callbacks when file descriptors become ready.
 *
 * The server runs the loop: a module only needs event_new() and event_add(). A module's callbacks run one at a time, on
 * a thread that the server has for this version of the module. A fault in a callback ends only that callback. The
 * callbacks end when `unload` has returned or, without `unload`, when the module's last request or job has ended.
 *
 *     static void on_input(struct event *event, void *arg) {
 *         char bytes[512];
 *         while (read(event->fd, bytes, sizeof bytes) > 0) { … }
 *     }
 *     …
 *     struct event *event = event_new(fd, 0, on_input, NULL);
 *     event_add(event);
 */
#ifndef CWEB_LIBEVENT_H
#define CWEB_LIBEVENT_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "cweb_host.h"

#ifdef __cplusplus
extern "C" {
#endif

struct event;

/** Called when the descriptor of event has become ready. The callback may delete or free the event. */
typedef void (*event_callback_t)(struct event *event, void *arg);

struct event {
    int fd;
    short events; /**< Conditions to wait for besides input, for example EPOLLOUT; 0: input only. */
    event_callback_t callback;
    void *arg;
};

/* The server calls this for a ready event, in a guarded call of the module. */
static inline void cweb_event_run(void *ready) {
    struct event *event = (struct event *)ready;
    event->callback(event, event->arg);
}

/** Makes an event, not yet waited for. @return the event, for event_free(); NULL when memory runs out or callback is NULL */
static inline struct event *event_new(int fd, short events, event_callback_t callback, void *arg) {
    struct event *event = callback == NULL ? NULL : (struct event *)calloc(1, sizeof *event);
    if (event != NULL) {
        event->fd = fd;
        event->events = events;
        event->callback = callback;
        event->arg = arg;
    }
    return event;
}

/**
 * Starts waiting. The callback is called if input is available now, and each time more arrives. Events are
 * edge-triggered, so the callback should read until EAGAIN.
 * @return 0, or -1 with errno set: EEXIST when the descriptor has an event already, EPERM when it is a plain file,
 * EBADF when it is closed, ENOSYS outside the server
 */
static inline int event_add(struct event *event) {
    if (event == NULL || cweb_binding.host == NULL || cweb_binding.host->event_add == NULL) {
        errno = event == NULL ? EINVAL : ENOSYS;
        return -1;
    }
    return cweb_binding.host->event_add(cweb_binding.module, event->fd, (unsigned short)event->events, cweb_event_run,
                                        event);
}

/**
 * Stops waiting. After the return the callback is neither running nor called again, unless the callback itself is the
 * caller.
 * @return 0, or -1 with errno set: ENOENT when the event was not added
 */
static inline int event_del(struct event *event) {
    if (event == NULL || cweb_binding.host == NULL || cweb_binding.host->event_del == NULL) {
        errno = event == NULL ? EINVAL : ENOSYS;
        return -1;
    }
    return cweb_binding.host->event_del(cweb_binding.module, event);
}

/** Stops waiting and frees the event; its descriptor stays open. NULL is allowed. */
static inline void event_free(struct event *event) {
    if (event != NULL) {
        (void)event_del(event);
        free(event);
    }
}

/* The threads that wait in event_dispatch(), and how many of them must return. */
struct cweb_event_wait {
    pthread_mutex_t lock;
    pthread_cond_t stopped;
    int stop;
};

extern struct cweb_event_wait cweb_event_wait;
__attribute__((weak, visibility("hidden"))) struct cweb_event_wait cweb_event_wait = {PTHREAD_MUTEX_INITIALIZER,
                                                                                      PTHREAD_COND_INITIALIZER, 0};

/**
 * Waits for event_dispatch_stop(). Callbacks do not need this function; it exists for modules with a thread of their
 * own for the loop. event_dispatch() must not be called in `onload`, which has to return.
 */
static inline void event_dispatch(void) {
    pthread_mutex_lock(&cweb_event_wait.lock);
    while (!cweb_event_wait.stop) {
        pthread_cond_wait(&cweb_event_wait.stopped, &cweb_event_wait.lock);
    }
    cweb_event_wait.stop = 0;
    pthread_mutex_unlock(&cweb_event_wait.lock);
}

/** Makes one waiting event_dispatch() return, or the next one if none waits; from any thread. Callbacks continue. */
static inline void event_dispatch_stop(void) {
    pthread_mutex_lock(&cweb_event_wait.lock);
    cweb_event_wait.stop = 1;
    pthread_cond_signal(&cweb_event_wait.stopped);
    pthread_mutex_unlock(&cweb_event_wait.lock);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_LIBEVENT_H */
