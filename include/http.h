/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file http.h
 * Requests, responses and WebSockets as a handler sees them. The parsers are in http_parse.h, included at the end.
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

#include "cweb_config.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HTTP_VERSION "HTTP/1.1"

/** Size of the buffer that http_response_t.body starts with. */
#define HTTP_RESPONSE_SIZE (8 * 1024)

/* ---- Key-value stores ---- */

typedef struct http_kv_pair {
    char *key;   /**< Lower case; owned by the store. */
    char *value; /**< From malloc(3). */
} http_kv_pair_t;

/**
 * A small ordered map with case-insensitive keys and a fixed capacity: headers, parameters, form fields. Each key
 * occurs once, except set-cookie and www-authenticate (see http_kv_insert()). Repeated values of a request are stored
 * beside the entries, see cweb_kv_next().
 */
typedef struct http_kv_store {
    http_kv_pair_t *entries;
    size_t size;
    size_t capacity;
    size_t server; /* 0; in a store of the server: 1, and one more for each of the first pairs that the server owns */
    http_kv_pair_t *repeated; /* further values of keys that a request repeats, in order; a separate array */
    size_t repeated_size;
} http_kv_store_t;

/** Creates an empty store with this capacity; NULL for 0 or when memory runs out. */
static inline http_kv_store_t *http_kv_create(size_t capacity) {
    if (capacity == 0 || capacity > SIZE_MAX / sizeof(http_kv_pair_t)) {
        return NULL;
    }
    http_kv_store_t *store = (http_kv_store_t *)calloc(1, sizeof *store);
    if (store == NULL) {
        return NULL;
    }
    store->entries = (http_kv_pair_t *)calloc(capacity, sizeof *store->entries);
    if (store->entries == NULL) {
        free(store);
        return NULL;
    }
    store->capacity = capacity;
    return store;
}

/**
 * Frees the store and its keys, and its values if free_values is nonzero. NULL is allowed. The server owns a store of a
 * request or a response: the store is emptied, and freed after the handler.
 */
static inline void http_kv_destroy(http_kv_store_t *store, int free_values) {
    if (store == NULL) {
        return;
    }
    for (size_t i = store->server > 0 ? store->server - 1 : 0; i < store->size; i++) {
        free(store->entries[i].key);
        if (free_values) {
            free(store->entries[i].value);
        }
    }
    if (store->server > 0) {
        store->size = 0;
        store->server = 1;
        store->repeated_size = 0;
        return;
    }
    for (size_t i = 0; i < store->repeated_size; i++) {
        free(store->repeated[i].key);
        if (free_values) {
            free(store->repeated[i].value);
        }
    }
    free(store->repeated);
    free(store->entries);
    free(store);
}

/* The pair with this key, or NULL. */
static inline http_kv_pair_t *cweb_kv_find(const http_kv_store_t *store, const char *key) {
    if (store == NULL || key == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < store->size; i++) {
        if (strcasecmp(store->entries[i].key, key) == 0) {
            return &store->entries[i];
        }
    }
    return NULL;
}

/* Whether a response may have several fields of this name whose values can't be joined by commas (RFC 9110 section 5.3). */
static inline int cweb_kv_may_repeat(const char *key) {
    return strcasecmp(key, "set-cookie") == 0 || strcasecmp(key, "www-authenticate") == 0;
}

/**
 * Adds a pair. The key is copied in lower case; the store takes over value, which comes from malloc(3).
 *
 * A key that is already there keeps its first value, also in a full store: the call returns 0 and the new value stays
 * the caller's. Set-Cookie and WWW-Authenticate are added each time: a response has as many of them as were inserted.
 * @return 0, or -1 when the store is full, an argument is NULL or memory runs out (value stays the caller's)
 */
static inline int http_kv_insert(http_kv_store_t *store, const char *key, char *value) {
    if (store == NULL || key == NULL || value == NULL) {
        return -1;
    }
    if (cweb_kv_find(store, key) != NULL && !cweb_kv_may_repeat(key)) {
        return 0;
    }
    if (store->size >= store->capacity) {
        return -1;
    }
    char *copy = strdup(key);
    if (copy == NULL) {
        return -1;
    }
    for (char *c = copy; *c != '\0'; c++) {
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + ('a' - 'A')) : *c;
    }
    store->entries[store->size].key = copy;
    store->entries[store->size].value = value;
    store->size++;
    return 0;
}

/** The value of key, in any case; NULL when there is none. The store keeps the value. */
CWEB_OUT_OF_LINE char *http_kv_get(const http_kv_store_t *store, const char *key) {
    http_kv_pair_t *pair = cweb_kv_find(store, key);
    return pair == NULL ? NULL : pair->value;
}

/**
 * Walks all values of a key, in order: http_kv_get() returns only the first value of a repeated parameter, form field
 * or header.
 *
 *     size_t at = 0;
 *     for (const char *tag; (tag = cweb_kv_next(req->params, "tag", &at)) != NULL;) { use(tag); }
 *
 * @param at  0 at first; advanced by each call
 * @return the next value, owned by the store; NULL when there is no further value or an argument is NULL
 */
static inline char *cweb_kv_next(const http_kv_store_t *store, const char *key, size_t *at) {
    if (store == NULL || key == NULL || at == NULL) {
        return NULL;
    }
    while (*at < store->size + store->repeated_size) {
        size_t i = (*at)++;
        http_kv_pair_t *pair = i < store->size ? &store->entries[i] : &store->repeated[i - store->size];
        if (strcasecmp(pair->key, key) == 0) {
            return pair->value;
        }
    }
    return NULL;
}

/** Number of pairs in the store, each key of a request once; 0 for NULL. */
static inline size_t http_kv_size(const http_kv_store_t *store) {
    return store == NULL ? 0 : store->size;
}

/* ---- Names and numbers ---- */

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

/**
 * The other final statuses of RFC 9110 section 15 and of IANA's registry, as plain numbers: a status of a response, not an index
 * of http_errors. HTTP_413_CONTENT_TOO_LARGE is the name that RFC 9110 gives HTTP_413_PAYLOAD_TOO_LARGE.
 */
#define HTTP_201_CREATED                         201
#define HTTP_202_ACCEPTED                        202
#define HTTP_203_NON_AUTHORITATIVE_INFORMATION   203
#define HTTP_204_NO_CONTENT                      204
#define HTTP_205_RESET_CONTENT                   205
#define HTTP_206_PARTIAL_CONTENT                 206
#define HTTP_207_MULTI_STATUS                    207
#define HTTP_208_ALREADY_REPORTED                208
#define HTTP_226_IM_USED                         226
#define HTTP_300_MULTIPLE_CHOICES                300
#define HTTP_301_MOVED_PERMANENTLY               301
#define HTTP_303_SEE_OTHER                       303
#define HTTP_304_NOT_MODIFIED                    304
#define HTTP_305_USE_PROXY                       305
#define HTTP_307_TEMPORARY_REDIRECT              307
#define HTTP_308_PERMANENT_REDIRECT              308
#define HTTP_402_PAYMENT_REQUIRED                402
#define HTTP_406_NOT_ACCEPTABLE                  406
#define HTTP_407_PROXY_AUTHENTICATION_REQUIRED   407
#define HTTP_408_REQUEST_TIMEOUT                 408
#define HTTP_410_GONE                            410
#define HTTP_411_LENGTH_REQUIRED                 411
#define HTTP_412_PRECONDITION_FAILED             412
#define HTTP_415_UNSUPPORTED_MEDIA_TYPE          415
#define HTTP_416_RANGE_NOT_SATISFIABLE           416
#define HTTP_417_EXPECTATION_FAILED              417
#define HTTP_421_MISDIRECTED_REQUEST             421
#define HTTP_422_UNPROCESSABLE_CONTENT           422
#define HTTP_423_LOCKED                          423
#define HTTP_424_FAILED_DEPENDENCY               424
#define HTTP_425_TOO_EARLY                       425
#define HTTP_428_PRECONDITION_REQUIRED           428
#define HTTP_429_TOO_MANY_REQUESTS               429
#define HTTP_431_REQUEST_HEADER_FIELDS_TOO_LARGE 431
#define HTTP_451_UNAVAILABLE_FOR_LEGAL_REASONS   451
#define HTTP_502_BAD_GATEWAY                     502
#define HTTP_503_SERVICE_UNAVAILABLE             503
#define HTTP_504_GATEWAY_TIMEOUT                 504
#define HTTP_505_HTTP_VERSION_NOT_SUPPORTED      505
#define HTTP_506_VARIANT_ALSO_NEGOTIATES         506
#define HTTP_507_INSUFFICIENT_STORAGE            507
#define HTTP_508_LOOP_DETECTED                   508
#define HTTP_511_NETWORK_AUTHENTICATION_REQUIRED 511
#define HTTP_413_CONTENT_TOO_LARGE HTTP_413_PAYLOAD_TOO_LARGE

/** The status that a module sets: in C the enum accepts a plain number; in C++ the type is a plain number. */
#ifdef __cplusplus
typedef int cweb_status_t;
#else
typedef http_error_t cweb_status_t;
#endif

#define CWEB_ERROR_COUNT 15

/** Method names by http_method_t (not for HTTP_ERR), and status lines by http_error_t up to HTTP_501. */
extern const char *http_methods[];
extern const char *http_errors[];

/* Weak and hidden: any number of files of a module may include this header, and no two modules share the tables. */
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

/* ---- The arguments of a handler ---- */

/** A request. The request and everything in it are valid until the handler returns; copy data that is needed longer. */
typedef struct http_request {
    http_method_t method;
    http_version_t version;
    http_error_t status;       /**< HTTP_200_OK in a handler. */
    char *path;                /**< Without the query string; not percent-decoded. */
    char *body;                /**< Never NULL; a NUL follows its content_length bytes. */
    int content_length;        /**< Bytes in body. */
    char keep_alive;           /**< Nonzero: the connection stays open afterwards. */
    char close;                /**< Nonzero: the client asked to close the connection. */
    pthread_t tid;             /**< The thread the handler runs on. */
    http_kv_store_t *params;   /**< Query parameters, percent-decoded; never NULL. */
    http_kv_store_t *headers;  /**< Keys in lower case; never NULL. */
    http_kv_store_t *data;     /**< Form fields (urlencoded or multipart), decoded; never NULL. */
    int websocket;             /**< Nonzero: the request asks for an upgrade to WebSocket. */
    int transfer_encoding_chunked;
    void *server;      /* the server's */
    void *reserved[3]; /* the server's */
} http_request_t;

/** A response, filled in by the handler. See cweb_respond() and cweb_header() in cweb.h for the short way. */
typedef struct http_response {
    cweb_status_t status;     /**< Starts as HTTP_200_OK. */
    http_kv_store_t *headers; /**< Values from malloc(3), freed by the server. */
    /**
     * Initially an empty string in a malloc'd buffer of HTTP_RESPONSE_SIZE bytes. Write into it, or free(3) it and
     * set another malloc'd pointer of any size. The server frees the pointer that it finds here.
     */
    char *body;
    int content_length; /**< Bytes to send; 0: strlen(body). */
    void *server;       /* the server's */
    void *reserved[3];  /* zero */
} http_response_t;

/** An open WebSocket: valid from on_open until on_close has returned. */
typedef struct websocket {
    /**
     * "ID|SINCE" from the query parameters `id` and `since_event_id` ("0" when absent); NULL without `id`. A module
     * may free(3) it and set a malloc'd string of its own.
     */
    char *session;
    int client_fd; /**< A small number, unique among open connections; no descriptor to read or write. */
    /**
     * Sends one message, from any thread. Its type is that of the message that the calling thread's on_message is
     * handling. In any other place its type is that of the last message received on this socket, or text before the
     * first one. Bytes that are not UTF-8 are always sent as binary. cweb_ws_send_text() and cweb_ws_send_binary() name
     * the type.
     * @return 0, or -1 once the socket is closed
     */
    int (*send)(struct websocket *ws, const char *message, size_t length);
    /**
     * Closes the socket, after earlier messages are sent. From any thread. @return 0, or -1 if the socket was closed
     * already
     */
    int (*close)(struct websocket *ws);
    void *server;       /* the server's */
    uint64_t server_id; /* the server's */
    void *reserved[2];  /* zero; the first is the module's: cweb_ws_set_data() */
} websocket_t;

#ifdef __cplusplus
}
#endif

#include "http_parse.h"

#endif /* CWEB_HTTP_H */
