/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/http.h
 * Requests, responses and WebSockets for modules whose functions take no context. The layout is that of ../http.h.
 */
#ifndef CWEB_HTTP_H
#define CWEB_HTTP_H

#include <ctype.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cweb_host.h"
#include "map.h"

#define HTTP_VERSION "HTTP/1.1"

/** Size of the buffer that http_response.body starts with. */
#define HTTP_RESPONSE_SIZE (8 * 1024)

typedef enum http_version {
    HTTP_VERSION_1_0,
    HTTP_VERSION_1_1
} http_version_t;

typedef enum http_method {
    HTTP_ERR = -1,
    HTTP_GET,
    HTTP_POST,
    HTTP_PUT,
    HTTP_DELETE,
    HTTP_OPTIONS,
    HTTP_HEAD,
    HTTP_PATCH
} http_method_t;

#define CWEB_METHOD_COUNT 7

/** Status of a response: one of these values, or a plain number from 200 to 599, `(http_error_t)418`. */
typedef enum http_error {
    HTTP_000_UNKNOWN,
    HTTP_101_SWITCHING_PROTOCOLS,
    HTTP_200_OK,
    HTTP_302_FOUND,
    HTTP_400_BAD_REQUEST,
    HTTP_401_UNAUTHORIZED,
    HTTP_403_FORBIDDEN,
    HTTP_404_NOT_FOUND,
    HTTP_405_METHOD_NOT_ALLOWED,
    HTTP_409_CONFLICT,
    HTTP_413_PAYLOAD_TOO_LARGE,
    HTTP_414_URI_TOO_LONG,
    HTTP_426_UPGRADE_REQUIRED,
    HTTP_500_INTERNAL_SERVER_ERROR,
    HTTP_501_NOT_IMPLEMENTED
} http_error_t;

#define CWEB_ERROR_COUNT 15

/** Method names by http_method_t (not for HTTP_ERR), and status lines by http_error_t. */
extern const char *http_methods[];
extern const char *http_errors[];

__attribute__((weak, visibility("hidden"))) const char *http_methods[CWEB_METHOD_COUNT] = {
    "GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH",
};
__attribute__((weak, visibility("hidden"))) const char *http_errors[CWEB_ERROR_COUNT] = {
    "000 Unknown",
    "101 Switching Protocols",
    "200 OK",
    "302 Found",
    "400 Bad Request",
    "401 Unauthorized",
    "403 Forbidden",
    "404 Not Found",
    "405 Method Not Allowed",
    "409 Conflict",
    "413 Payload Too Large",
    "414 URI Too Long",
    "426 Upgrade Required",
    "500 Internal Server Error",
    "501 Not Implemented",
};

/** A request. The request and everything in it are valid until the handler returns. */
typedef struct http_request {
    http_method_t method;
    http_version_t version;
    http_error_t status;
    char *path; /**< Without the query string; not percent-decoded. */
    char *body; /**< Never NULL; a NUL follows its content_length bytes. */
    int content_length;
    char keep_alive;
    char close;
    pthread_t tid;
    union {
        struct map *params; /**< Query parameters, percent-decoded; never NULL. */
        struct map *query_params;
    };
    struct map *headers; /**< Keys in lower case; look-ups ignore case; never NULL. */
    struct map *data;    /**< Form fields, decoded; never NULL. */
    int websocket;
    int transfer_encoding_chunked;
    void *server;      /* the server's */
    void *reserved[3]; /* zero */
} http_request_t;

/** A response, filled in by the handler. */
typedef struct http_response {
    http_error_t status; /**< Starts as HTTP_200_OK. */
    struct map *headers;
    /** Starts as an empty string in a malloc'd buffer of HTTP_RESPONSE_SIZE bytes; may be another malloc'd pointer. */
    char *body;
    int content_length; /**< Bytes to send; 0: strlen(body). */
    void *server;       /* the server's */
    void *reserved[3];  /* zero */
} http_response_t;

/** An open WebSocket: valid from on_open until on_close has returned. */
typedef struct websocket {
    char *session;
    int client_fd; /**< A number of the connection; no descriptor to read or write. */
    /** Sends one message, from any thread. @return 0, or -1 once the socket is closed */
    int (*send)(struct websocket *ws, const char *message, size_t length);
    /** Closes the socket, after earlier messages are sent. @return 0, or -1 if the socket was closed already */
    int (*close)(struct websocket *ws);
    void *server;       /* the server's */
    uint64_t server_id; /* the server's */
    void *reserved[2];  /* zero */
} websocket_t;

#endif /* CWEB_HTTP_H */
