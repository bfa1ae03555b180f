/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Threads that modules start: each has its module's number, and they are counted. See keep.c for how a function replaces libc's. */
#define _GNU_SOURCE
#include "keep.h"
#include "native.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t thread_count;
static size_t threads_max = SIZE_MAX;

/* The key's value is not NULL on counted threads; its destructor runs however a thread ends. */
static pthread_key_t counted;
static int counted_error;
static pthread_once_t counted_made = PTHREAD_ONCE_INIT;

static void uncount(void *unused) {
    (void)unused;
    (void)__atomic_fetch_sub(&thread_count, 1, __ATOMIC_RELAXED);
}

static void make_counted(void) {
    counted_error = pthread_key_create(&counted, uncount);
}

void cwebn_threads_limit(size_t most) {
    __atomic_store_n(&threads_max, most, __ATOMIC_RELAXED);
}

/* Counts one more thread, unless the limit is reached. */
static int count_thread(void) {
    if (pthread_once(&counted_made, make_counted) != 0 || counted_error != 0) {
        return 0;
    }
    if (__atomic_fetch_add(&thread_count, 1, __ATOMIC_RELAXED) < __atomic_load_n(&threads_max, __ATOMIC_RELAXED)) {
        return 1;
    }
    uncount(NULL);
    cwebn_tell(THREADS, "the modules of this domain have as many threads as they may have (--module-threads-max): pthread_create() "
                  "fails with EAGAIN, thrd_create() with thrd_error");
    return 0;
}

struct beginning {
    void *(*function)(void *);
    int (*c11_function)(void *);
    void *argument;
    uint64_t number;
};

/* See nice(2). */
#define NICE 5

/* Takes over the structure that the thread's creator has prepared; `is_kept`: whether a destructor reports the thread's end. */
static struct beginning taken(void *given, int *is_kept) {
    struct beginning beginning = *(struct beginning *)given;
    free(given);
    cwebn_module_thread(beginning.number);
    /* A module's thread gets a lower priority than the threads that serve, like those of the executor pool. */
    (void)syscall(SYS_setpriority, PRIO_PROCESS, 0, NICE);
    *is_kept = pthread_setspecific(counted, &counted) == 0;
    return beginning;
}

static void *begin(void *given) {
    int is_kept;
    struct beginning beginning = taken(given, &is_kept);
    void *result = beginning.function(beginning.argument);
    if (!is_kept) {
        uncount(NULL);
    }
    return result;
}

static int begin_c11(void *given) {
    int is_kept;
    struct beginning beginning = taken(given, &is_kept);
    int result = beginning.c11_function(beginning.argument);
    if (!is_kept) {
        uncount(NULL);
    }
    return result;
}

/* Counts a new thread, and copies `given` for its start; NULL: the thread can't be started. */
static struct beginning *prepare(struct beginning given) {
    struct beginning *beginning = malloc(sizeof *beginning);
    if (beginning == NULL || !count_thread()) {
        free(beginning);
        return NULL;
    }
    *beginning = given;
    return beginning;
}

static void give_up(struct beginning *beginning) {
    uncount(NULL);
    free(beginning);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
    HIDDEN(pthread_create);
    if (!cwebn_in_module()) {
        return real(thread, attributes, function, argument);
    }
    struct beginning *beginning = prepare((struct beginning){function, NULL, argument, cwebn_module_number()});
    if (beginning == NULL) {
        return EAGAIN;
    }
    int error = real(thread, attributes, begin, beginning);
    if (error != 0) {
        give_up(beginning);
    }
    return error;
}

/* As in threads.h; the SDK has a different header of that name. */
int thrd_create(pthread_t *thread, int (*function)(void *), void *argument);
enum { THRD_SUCCESS = 0, THRD_ERROR = 2 };

/* libc's version calls libc's own pthread_create, not the one above. */
EXPORT int thrd_create(pthread_t *thread, int (*function)(void *), void *argument) {
    HIDDEN(thrd_create);
    if (!cwebn_in_module()) {
        return real(thread, function, argument);
    }
    struct beginning *beginning = prepare((struct beginning){NULL, function, argument, cwebn_module_number()});
    if (beginning == NULL) {
        return THRD_ERROR;
    }
    int error = real(thread, begin_c11, beginning);
    if (error != THRD_SUCCESS) {
        give_up(beginning);
    }
    return error;
}
