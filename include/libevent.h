/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file libevent.h
 * A small event loop over epoll(7), one for each module: callbacks when file descriptors become ready.
 *
 * event_dispatch() runs the loop on the thread that calls it, usually one that `onload` starts. Callbacks run on
 * that thread. Only there, or while the loop does not run, may an event be freed.
 */
#ifndef CWEB_LIBEVENT_H
#define CWEB_LIBEVENT_H

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifdef __cplusplus
extern "C" {
#endif

struct event;

/** Called when the descriptor of event is ready. */
typedef void (*event_callback_t)(struct event *event, void *arg);

struct event {
    int fd;
    short events; /**< What to wait for (EPOLLIN, EPOLLOUT); level-triggered unless EPOLLONESHOT is added. */
    event_callback_t callback;
    void *arg;
};

/* The module's loop: the epoll descriptor and an eventfd that wakes it. -1 until first used. */
struct cweb_event_loop {
    pthread_mutex_t lock;
    int epoll_fd;
    int wake_fd;
};

extern struct cweb_event_loop cweb_event_loop;
__attribute__((weak, visibility("hidden"))) struct cweb_event_loop cweb_event_loop = {PTHREAD_MUTEX_INITIALIZER, -1, -1};

/* Makes the loop's descriptors on first use; 0 or -1. */
static inline int cweb_event_loop_open(void) {
    struct cweb_event_loop *loop = &cweb_event_loop;
    pthread_mutex_lock(&loop->lock);
    if (loop->epoll_fd < 0) {
        struct epoll_event wake = {EPOLLIN, {NULL}};
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (epoll_fd >= 0 && wake_fd >= 0 && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &wake) == 0) {
            loop->epoll_fd = epoll_fd;
            loop->wake_fd = wake_fd;
        } else {
            if (epoll_fd >= 0) {
                close(epoll_fd);
            }
            if (wake_fd >= 0) {
                close(wake_fd);
            }
        }
    }
    int result = loop->epoll_fd < 0 ? -1 : 0;
    pthread_mutex_unlock(&loop->lock);
    return result;
}

/** Makes an event, not yet waited for. @return it, for event_free(); NULL when memory runs out or callback is NULL */
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

/** Starts waiting. @return 0, or -1 with errno set (the descriptor is closed, already added, or a plain file) */
static inline int event_add(struct event *event) {
    if (event == NULL || cweb_event_loop_open() != 0) {
        return -1;
    }
    struct epoll_event interest;
    interest.events = (uint32_t)(unsigned short)event->events;
    interest.data.ptr = event;
    return epoll_ctl(cweb_event_loop.epoll_fd, EPOLL_CTL_ADD, event->fd, &interest);
}

/** Stops waiting. @return 0, or -1 with errno set (it was not added) */
static inline int event_del(struct event *event) {
    struct epoll_event ignored = {0, {NULL}};
    if (event == NULL || cweb_event_loop_open() != 0) {
        return -1;
    }
    return epoll_ctl(cweb_event_loop.epoll_fd, EPOLL_CTL_DEL, event->fd, &ignored);
}

/** Stops waiting and frees the event; its descriptor stays open. NULL is allowed. */
static inline void event_free(struct event *event) {
    if (event != NULL) {
        (void)event_del(event);
        free(event);
    }
}

/** Runs the loop until event_dispatch_stop(). */
static inline void event_dispatch(void) {
    if (cweb_event_loop_open() != 0) {
        return;
    }
    for (;;) {
        struct epoll_event ready;
        /* One at a time: a callback may free any other event, which a larger batch might still name. */
        int count = epoll_wait(cweb_event_loop.epoll_fd, &ready, 1, -1);
        if (count < 0 && errno != EINTR) {
            return;
        }
        if (count <= 0) {
            continue;
        }
        if (ready.data.ptr == NULL) {
            uint64_t wakes;
            if (read(cweb_event_loop.wake_fd, &wakes, sizeof wakes) == (ssize_t)sizeof wakes) {
                return;
            }
            continue;
        }
        struct event *event = (struct event *)ready.data.ptr;
        event->callback(event, event->arg);
    }
}

/** Makes event_dispatch() return; from any thread. When no loop runs, the next one returns at once. */
static inline void event_dispatch_stop(void) {
    uint64_t one = 1;
    if (cweb_event_loop_open() == 0) {
        ssize_t written = write(cweb_event_loop.wake_fd, &one, sizeof one);
        (void)written; /* EAGAIN: a stop is already pending */
    }
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_LIBEVENT_H */
