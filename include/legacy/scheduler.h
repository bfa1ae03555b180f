/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/scheduler.h
 * Work for later, in modules whose functions take no context: `scheduler->add(function, data, ASYNC)`.
 */
#ifndef CWEB_SCHEDULER_H
#define CWEB_SCHEDULER_H

#include <pthread.h>
#include <stdatomic.h>

typedef void (*work_t)(void *);

/** Both values mean the same: the work runs later, in order, and the caller does not wait. */
typedef enum worker_state {
    ASYNC,
    SYNC
} worker_state_t;

struct scheduler {
    /** Queues work(data) for the server's scheduler thread. @return 0 or -1 */
    int (*add)(work_t work, void *data, worker_state_t state);
};

#endif /* CWEB_SCHEDULER_H */
