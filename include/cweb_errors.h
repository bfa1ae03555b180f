/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_errors.h
 * Code shared by err.h and error.h of this directory. Authors don't need this file.
 */
#ifndef CWEB_ERRORS_H
#define CWEB_ERRORS_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cweb_host.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Prints one whole line to stderr at once: the place (may be NULL), the message, the text of error (0: none). */
static inline void cweb_print_error(const char *place, int error, const char *format, va_list args) {
    char message[1024];
    message[0] = '\0';
    if (format != NULL) {
        vsnprintf(message, sizeof message, format, args);
    }
    const char *reason = error != 0 ? strerror(error) : "";
    fprintf(stderr, "%s%s%s%s\n", place != NULL ? place : "", message, error != 0 && message[0] != '\0' ? ": " : "", reason);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_ERRORS_H */
