/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Sends the output of modules to the server's log: the C library's stdout and stderr become the server's own streams,
 * fopencookie(3). The streams are unbuffered, so that the sink runs on the printing thread and can tell which module
 * runs there.
 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>

static void (*capture_sink)(void *user, const char *bytes, size_t length);
static void *capture_user;
static FILE *original_out;
static FILE *original_err;

static ssize_t on_write(void *cookie, const char *bytes, size_t length) {
    (void)cookie;
    capture_sink(capture_user, bytes, length);
    return (ssize_t)length;
}

static FILE *open_stream(void) {
    cookie_io_functions_t functions = {.read = NULL, .write = on_write, .seek = NULL, .close = NULL};
    FILE *stream = fopencookie(NULL, "w", functions);
    if (stream != NULL) {
        setvbuf(stream, NULL, _IONBF, 0);
    }
    return stream;
}

int cwebn_stdio_capture(void (*sink)(void *user, const char *bytes, size_t length), void *user) {
    if (sink == NULL) {
        errno = EINVAL;
        return -1;
    }
    FILE *out = open_stream();
    FILE *err = open_stream();
    if (out == NULL || err == NULL) {
        int error = errno;
        if (out != NULL) {
            fclose(out);
        }
        if (err != NULL) {
            fclose(err);
        }
        errno = error;
        return -1;
    }
    capture_sink = sink;
    capture_user = user;
    fflush(stdout);
    fflush(stderr);
    original_out = stdout;
    original_err = stderr;
    stdout = out;
    stderr = err;
    return 0;
}

void cwebn_stdio_restore(void) {
    if (original_out != NULL) {
        stdout = original_out;
        stderr = original_err;
    }
}

#ifdef __GLIBC__
/* The C library's stream lock, unchanged since 2.0; no function returns its owner. */
struct stream_lock {
    int lock;
    int count;
    void *owner;
};

static void release(FILE *stream) {
    const volatile struct stream_lock *lock = (const volatile struct stream_lock *)stream->_lock;
    while (lock != NULL && lock->owner == (void *)pthread_self()) {
        funlockfile(stream);
    }
}

void cwebn_stdio_release(void) {
    release(stdout);
    release(stderr);
}
#else
void cwebn_stdio_release(void) {
}
#endif
