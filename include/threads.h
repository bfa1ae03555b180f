/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file threads.h
 * The system's threads.h, and the function with which the linker replaces thrd_exit(3). On a thread of the server, the
 * call ends the running handler, as pthread_exit(3) does.
 */
#ifndef CWEB_THREADS_H
#define CWEB_THREADS_H

#include_next <threads.h>

#include "cweb_host.h"

#ifdef __cplusplus
extern "C" {
#endif

__attribute__((weak, noreturn)) void __real_thrd_exit(int value);
void __wrap_thrd_exit(int value);

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_thrd_exit(int value) {
    if (cweb_in_call()) {
        cweb_exit_handler(value, "thrd_exit");
    }
    __real_thrd_exit(value);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_THREADS_H */
