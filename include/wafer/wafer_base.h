/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file wafer_base.h
 * The common part of nope.h and wafer.h: the system's headers, numbers and small macros.
 */
#ifndef CWEB_WAFER_BASE_H
#define CWEB_WAFER_BASE_H

#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <wafer_types.h>

#ifndef bool
typedef int bool;
#endif
#ifndef true
#define true 1
#define false 0
#endif

#define UNDEFINED "VALUE_UNDEFINED"
#define ToHex(digit) ((digit) >= 'A' ? ((digit) & ~0x20) - 'A' + 10 : (digit) - '0')

#define MAX_BUFFER_SIZE 8192
#define MAX_HEADERS 1024
#define MAX_REQUEST_SIZE 8192
#define MAX_NO_FDS 1024
#define MAX_FD_SIZE 1024
#define MAX_EVENTS 64
#define MAX_DPRINTF_SIZE 64
#define MAX_METHOD_SIZE 64
#define MAX_VER_SIZE 64
#define STATUS_HTTP_OK 200
#define STATUS_HTTP_NOT_FOUND 404
#define STATE_PRE_REQUEST 0
#define STATE_METHOD 1
#define STATE_REQUEST 2
#define STATE_VERSION 3
#define STATE_HEADER 4
#define STATE_CONTENT_DATA 5
#define STATE_COMPLETE_READING 6
#ifndef DEFAULT_PORT
#define DEFAULT_PORT 4242
#endif
#define DEFAULT_N_CHILDREN 0
#define LISTENQ 1024
#define MAXLINE 1024
#define RIO_BUFSIZE 1024
#define NOPE_ONE_K 1024
#define WAFER_ONE_K 1024
#define POLL_TIMEOUT 100

#define KNRM "\x1B[0m"
#define KRED "\x1B[31m"
#define KGRN "\x1B[32m"
#define KYEL "\x1B[33m"
#define KBLU "\x1B[34m"
#define KMAG "\x1B[35m"
#define KCYN "\x1B[36m"
#define KWHT "\x1B[37m"
#define RESET "\033[0m"

#define SIZE_OF_CHAR sizeof(char)
#define NOPE_STR(x) #x
#define WAFER_STR(x) #x
#define NEW(type, variable) { type *variable = (type *)malloc(sizeof(type)); (void)variable; }
#define LOG_ERROR_ON(statement, value, message)                                                                      \
    do {                                                                                                             \
        if ((statement) == (value)) {                                                                                \
            fprintf(stderr, "%s\n", (message));                                                                       \
        }                                                                                                            \
    } while (0)
#define LOG_ERROR_ON_NULL(statement, message) LOG_ERROR_ON(statement, NULL, message)

#if defined(NOPE_DEBUG) || defined(WAFER_DEBUG)
#define dbgprintf(...) ((long)printf(__VA_ARGS__))
#else
#define dbgprintf(...) ((long)0)
#endif

/* The server ignores the port that an app sets. */
__attribute__((weak, visibility("hidden"))) int default_port;

#endif /* CWEB_WAFER_BASE_H */
