/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Declarations for keep.c and threads.c, whose functions replace those of libc for modules. */
#ifndef CWEBN_KEEP_H
#define CWEBN_KEEP_H

#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

/* The function of libc that a definition of the server hides. */
void *cwebn_hidden(const char *name);

#define HIDDEN(name)                                                                                                    \
    static __typeof__(&name) real;                                                                                      \
    if (__atomic_load_n(&real, __ATOMIC_RELAXED) == NULL) {                                                             \
        __atomic_store_n(&real, (__typeof__(&name))cwebn_hidden(#name), __ATOMIC_RELAXED);                                    \
    }

/* The reasons why a function refuses a call; each has one sentence for the log. */
enum refusal { DESCRIPTORS, RANGE, HANDLERS, DIRECTORY, MASK, LOCALE, ALARMS, LIMITS, PRIORITY, STACK, DAEMON, THREADS, NO_STREAM };

/* Prints a sentence once per process, under the name of the first module. */
void cwebn_tell(enum refusal what, const char *sentence);

/* Whether this thread runs a module's code, or was started by a module. */
int cwebn_in_module(void);

/* Marks this thread as one that the module `number` has started. */
void cwebn_module_thread(uint64_t number);

#endif
