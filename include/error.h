/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file error.h
 * The system's error.h, and the functions with which the linker replaces error(3) and error_at_line(3). These functions
 * print the message to stderr and end the running handler, as exit(3) does.
 */
#ifndef CWEB_ERROR_H
#define CWEB_ERROR_H

#include_next <error.h>

#include "cweb_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Both return when the code is 0. */
void __wrap_error(int code, int error, const char *format, ...);
void __wrap_error_at_line(int code, int error, const char *file, unsigned int line, const char *format, ...);

__attribute__((weak, visibility("hidden"))) void __wrap_error(int code, int error, const char *format, ...) {
    va_list args;
    va_start(args, format);
    cweb_print_error(NULL, error, format, args);
    va_end(args);
    if (code != 0) {
        cweb_exit_handler(code, "error");
    }
}

__attribute__((weak, visibility("hidden"))) void __wrap_error_at_line(int code, int error, const char *file,
                                                                      unsigned int line, const char *format, ...) {
    char place[256];
    va_list args;
    snprintf(place, sizeof place, "%s:%u: ", file != NULL ? file : "", line);
    va_start(args, format);
    cweb_print_error(place, error, format, args);
    va_end(args);
    if (code != 0) {
        cweb_exit_handler(code, "error_at_line");
    }
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_ERROR_H */
