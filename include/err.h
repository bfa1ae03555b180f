/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file err.h
 * The system's err.h, and the functions with which the linker replaces err(3) and its relatives. These functions print
 * the message to stderr and end the running handler, as exit(3) does.
 */
#ifndef CWEB_ERR_H
#define CWEB_ERR_H

#include_next <err.h>

#include "cweb_errors.h"

#ifdef __cplusplus
extern "C" {
#endif

void __wrap_err(int code, const char *format, ...);
void __wrap_errx(int code, const char *format, ...);
void __wrap_verr(int code, const char *format, va_list args);
void __wrap_verrx(int code, const char *format, va_list args);

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_verr(int code, const char *format, va_list args) {
    cweb_print_error(NULL, errno, format, args);
    cweb_exit_handler(code, "err");
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_verrx(int code, const char *format, va_list args) {
    cweb_print_error(NULL, 0, format, args);
    cweb_exit_handler(code, "errx");
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_err(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    __wrap_verr(code, format, args);
}

__attribute__((weak, visibility("hidden"), noreturn)) void __wrap_errx(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    __wrap_verrx(code, format, args);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_ERR_H */
