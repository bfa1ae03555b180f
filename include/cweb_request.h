/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_request.h
 * Functions for a handler's request beyond the fields of http_request_t: memory that ends with the request, functions
 * that run at its end, the parts of a form, the captures of its route, cookies, redirects, the client's address. cweb.h
 * includes this file.
 *
 * `req` is the pointer that the server passed to the handler. Each function works on the handler's own thread, until
 * the handler has returned and the deferred functions have run. In any other place a function that takes `req` fails
 * with errno EINVAL. All memory that these functions return belongs to the request: the module may write to it unless
 * it is const, and must never free it.
 */
#ifndef CWEB_REQUEST_H
#define CWEB_REQUEST_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cweb_host.h"
#ifndef CWEB_HTTP_H /* http.h of either dialect */
#include <http.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** A part of a form: of multipart/form-data a field or a file, of a urlencoded form a field. */
typedef struct cweb_part {
    const char *name;         /**< The field's name; "" if the part has no name. */
    const char *file_name;    /**< As the client states it, with any directories; NULL: no file. No path to write to. */
    const char *content_type; /**< The part's own content type; NULL: the part has none. */
    const char *bytes;        /**< The content; may contain NULs, and is not NUL-terminated. */
    size_t length;            /**< Bytes of the content. */
    void *reserved[3];        /* NULL */
} cweb_part_t;

struct websocket;

/* Services behind the functions below; cweb_host.requests. The table only grows at its end. */
struct cweb_requests {
    void *(*alloc)(const struct http_request *req, size_t size);
    int (*at_end)(const struct http_request *req, void (*function)(void *), void *argument);
    int (*owns)(const void *memory);
    const struct cweb_part *(*part)(const struct http_request *req, const char *name, size_t *at);
    const char *(*form_error)(const struct http_request *req);
    const char *(*param)(const struct http_request *req, const char *name, size_t number);
    const char *(*target)(const struct http_request *req);
    const char *(*peer_address)(const struct http_request *req, int direct);
    struct http_request *(*of_socket)(const struct websocket *ws);
    const char *(*client_name)(const struct http_request *req);
    void *reserved[6]; /* NULL; becomes further functions */
};

static inline const struct cweb_requests *cweb_requests(void) {
    const struct cweb_requests *table = cweb_binding.host == NULL ? NULL : cweb_binding.host->requests;
    if (table == NULL) {
        errno = EINVAL;
    }
    return table;
}

/* ---- Memory and clean-up ---- */

/**
 * Memory that ends with the request, also after a fault. The memory is zeroed and aligned for every type. The body of
 * the response or a value of its header fields may lie there: the server sends the bytes and does not free them.
 * @param size  in bytes; 0 gives a pointer to nothing
 * @return NULL with errno ENOMEM when the request has more than --request-memory-bytes-max, or memory runs out; NULL with
 * errno EINVAL outside of the handler
 */
static inline void *cweb_alloc(http_request_t *req, size_t size) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? NULL : table->alloc(req, size);
}

/** A copy of text in the request's memory. @return NULL as cweb_alloc(), and with errno EINVAL for NULL */
static inline char *cweb_strdup(http_request_t *req, const char *text) {
    if (text == NULL) {
        errno = EINVAL;
        return NULL;
    }
    size_t size = strlen(text) + 1;
    char *copy = (char *)cweb_alloc(req, size);
    return copy == NULL ? NULL : (char *)memcpy(copy, text, size);
}

/** Formatted text in the request's memory. @param format  as printf(3)  @return NULL as cweb_alloc() */
__attribute__((format(printf, 2, 3))) static inline char *cweb_sprintf(http_request_t *req, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : (char *)cweb_alloc(req, (size_t)length + 1);
    if (text != NULL) {
        va_start(args, format);
        vsnprintf(text, (size_t)length + 1, format, args);
        va_end(args);
    }
    return text;
}

/*
 * The name stands in parentheses: defer.h has a macro of the same name, which is about variables and takes one argument.
 */
/**
 * Runs function(argument) at the end of the request, after the answer was taken; the last deferred function runs first.
 * The functions also run after a fault of the handler. A fault in one fails the request with 500, and the others still
 * run.
 * @return 0; -1 with errno EINVAL (function is NULL, not in the handler) or ENOMEM (as cweb_alloc())
 */
static inline int(cweb_defer)(http_request_t *req, void (*function)(void *), void *argument) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? -1 : table->at_end(req, function, argument);
}

/* Frees the memory that a response holds, unless it belongs to the request. */
static inline void cweb_give_back(void *memory) {
    const struct cweb_host *host = cweb_binding.host;
    if (memory != NULL && (host == NULL || host->requests == NULL || !host->requests->owns(memory))) {
        free(memory);
    }
}

/* ---- Forms ---- */

/**
 * Walks the parts of a form in their order, with this name or all of them.
 *
 *     size_t at = 0;
 *     for (const cweb_part_t *file; (file = cweb_form_next(req, "file", &at)) != NULL;) { save(file->bytes, file->length); }
 *
 * @param name  NULL: every part
 * @param at    0 at first; moved on by each call
 * @return NULL when there is no further part; see cweb_form_error()
 */
static inline const cweb_part_t *cweb_form_next(http_request_t *req, const char *name, size_t *at) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL || at == NULL ? NULL : table->part(req, name, at);
}

/** The first part of a form with this name; NULL when there is none. */
static inline const cweb_part_t *cweb_form_part(http_request_t *req, const char *name) {
    size_t at = 0;
    return name == NULL ? NULL : cweb_form_next(req, name, &at);
}

/**
 * Why the form was not read to its end: it is truncated, a part has an invalid head or a NUL in a name, there are more
 * than 4,096 parts, or the request has no form. The parts before the fault are available.
 * @return a sentence for people; NULL when the whole form was read
 */
static inline const char *cweb_form_error(http_request_t *req) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? "there is no request" : table->form_error(req);
}

/* ---- The route and the target ---- */

/**
 * The text that matched the segment `:name` of the route's path, percent-decoded: for "/user/:id" and the request
 * "/user/a%20b", cweb_param(req, "id") is "a b". `%00` is kept undecoded.
 * @return NULL when the path has no such segment
 */
static inline const char *cweb_param(http_request_t *req, const char *name) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL || name == NULL ? NULL : table->param(req, name, 0);
}

/**
 * The text that matched group number `number` of the route's path, percent-decoded. Groups are the segments `:name` and
 * the parts in parentheses, counted together from 1 by their beginnings; 0 is the whole path.
 * @return NULL when there is no such group, or the group did not match
 */
static inline const char *cweb_param_at(http_request_t *req, size_t number) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? NULL : table->param(req, NULL, number);
}

/** The target of the request as the client sent it, with its query string and not decoded. */
static inline const char *cweb_target(http_request_t *req) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? NULL : table->target(req);
}

/* ---- The client ---- */

/**
 * The client's IP address as text: "192.0.2.7", "2001:db8::1". For a request through proxies that the operator names
 * with --trusted-proxy, the function returns the address that those proxies report in Forwarded or X-Forwarded-For.
 * @return NULL when the address is not known: a Unix socket, or a trusted proxy that reports none
 */
static inline const char *cweb_peer_address(http_request_t *req) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? NULL : table->peer_address(req, 0);
}

/** The IP address of the connection's peer, a proxy's if there is one; NULL for a Unix socket. */
static inline const char *cweb_connection_address(http_request_t *req) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL ? NULL : table->peer_address(req, 1);
}

/**
 * The name in the certificate with which the client has proved who it is: the common name of the subject. Without a
 * common name, the first DNS name, e-mail address or URI of the alternative names. UTF-8 without control characters. The
 * server asks for certificates with --tls-client-ca. A proxy in front of the server is the client here.
 * @return NULL: the client has shown no certificate, or its certificate has no such name
 */
static inline const char *cweb_client_name(http_request_t *req) {
    const struct cweb_requests *table = cweb_requests();
    return table == NULL || table->client_name == NULL ? NULL : table->client_name(req);
}

/* ---- Cookies, status, redirects ---- */

/**
 * The value of a cookie (RFC 6265 section 5.4), without quotation marks around it; not decoded. The first of several wins.
 * @return NULL when there is none; NULL as cweb_alloc() when memory is short
 */
CWEB_OUT_OF_LINE const char *cweb_cookie(http_request_t *req, const char *name) {
    size_t at = 0;
    size_t wanted = name == NULL ? 0 : strlen(name);
    const char *field = NULL;
    while (req != NULL && wanted > 0 && (field = cweb_kv_next(req->headers, "cookie", &at)) != NULL) {
        while (*field != '\0') {
            field += strspn(field, "; \t");
            size_t size = strcspn(field, ";");
            const char *end = field + size;
            if (size > wanted && memcmp(field, name, wanted) == 0 && field[wanted] == '=') {
                const char *value = field + wanted + 1;
                while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
                    end--;
                }
                if (end - value >= 2 && value[0] == '"' && end[-1] == '"') {
                    value++;
                    end--;
                }
                char *copy = (char *)cweb_alloc(req, (size_t)(end - value) + 1);
                return copy == NULL ? NULL : (const char *)memcpy(copy, value, (size_t)(end - value));
            }
            field = end;
        }
    }
    return NULL;
}

/** The requests with which a browser sends a cookie. */
typedef enum cweb_same_site {
    CWEB_SAME_SITE_UNSET, /**< The browser decides. */
    CWEB_SAME_SITE_LAX,
    CWEB_SAME_SITE_STRICT,
    CWEB_SAME_SITE_NONE /**< Needs secure. */
} cweb_same_site_t;

/** Attributes of a cookie; a field that is 0 or NULL is left out. */
typedef struct cweb_cookie_options {
    const char *path;
    const char *domain;
    long max_age_s; /**< 0: until the browser is closed. Negative: the cookie is deleted. */
    int secure;     /**< Nonzero: over HTTPS only. */
    int http_only;  /**< Nonzero: not for scripts. */
    cweb_same_site_t same_site;
} cweb_cookie_options_t;

/* Whether each byte of text is visible ASCII and not one of `not_these`; control characters and blanks are refused. */
static inline int cweb_is_clean(const char *text, const char *not_these) {
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text <= ' ' || (unsigned char)*text >= 0x7f || strchr(not_these, *text) != NULL) {
            return 0;
        }
    }
    return 1;
}

/* Limit, in bytes, on name and value of a cookie together: browsers drop a larger cookie. */
#define CWEB_COOKIE_BYTES_MAX 4096

/* Whether a browser would accept the cookie. */
static inline int cweb_cookie_is_sound(const char *name, const char *value, const cweb_cookie_options_t *options) {
    static const cweb_cookie_options_t none = {NULL, NULL, 0, 0, 0, CWEB_SAME_SITE_UNSET};
    options = options == NULL ? &none : options;
    if (name == NULL || value == NULL || *name == '\0' || strlen(name) + strlen(value) > CWEB_COOKIE_BYTES_MAX ||
        !cweb_is_clean(name, "()<>@,;:\\\"/[]?={}") || !cweb_is_clean(value, "\",;\\")) {
        return 0;
    }
    if ((options->path != NULL && (options->path[0] != '/' || !cweb_is_clean(options->path, ";"))) ||
        (options->domain != NULL && (options->domain[0] == '\0' || !cweb_is_clean(options->domain, ";,=")))) {
        return 0;
    }
    if ((unsigned)options->same_site > CWEB_SAME_SITE_NONE ||
        (options->same_site == CWEB_SAME_SITE_NONE && !options->secure)) {
        return 0;
    }
    /* RFC 6265bis section 4.1.3 */
    if (strncasecmp(name, "__secure-", 9) == 0 && !options->secure) {
        return 0;
    }
    return strncasecmp(name, "__host-", 7) != 0 ||
           (options->secure && options->domain == NULL && options->path != NULL && strcmp(options->path, "/") == 0);
}

/**
 * Sets a cookie. Each call adds a Set-Cookie field to the response.
 *
 *     cweb_cookie_options_t options = {.path = "/", .max_age_s = 3600, .http_only = 1, .same_site = CWEB_SAME_SITE_LAX};
 *     cweb_set_cookie(res, "sid", id, &options);
 *
 * @param value    visible ASCII without `"`, `,`, `;` and `\`: encode anything else
 * @param options  NULL: no attributes
 * @return 0; -1 with errno EINVAL for a cookie that no browser would accept: it has a forbidden character (such as CR or LF)
 * or more than 4096 bytes, or lacks the attributes that SameSite=None or a __Secure- or __Host- name requires; -1 with ENOMEM
 * when the response has no room
 */
CWEB_OUT_OF_LINE int cweb_set_cookie(http_response_t *res, const char *name, const char *value,
                                     const cweb_cookie_options_t *options) {
    static const char *const same_site[] = {"", "; SameSite=Lax", "; SameSite=Strict", "; SameSite=None"};
    if (res == NULL || !cweb_cookie_is_sound(name, value, options)) {
        errno = EINVAL;
        return -1;
    }
    size_t size = strlen(name) + strlen(value) + 160;
    size += options != NULL && options->path != NULL ? strlen(options->path) : 0;
    size += options != NULL && options->domain != NULL ? strlen(options->domain) : 0;
    char *field = (char *)malloc(size);
    if (field == NULL) {
        errno = ENOMEM;
        return -1;
    }
    int used = snprintf(field, size, "%s=%s", name, value);
    if (options != NULL) {
        if (options->path != NULL) {
            used += snprintf(field + used, size - (size_t)used, "; Path=%s", options->path);
        }
        if (options->domain != NULL) {
            used += snprintf(field + used, size - (size_t)used, "; Domain=%s", options->domain);
        }
        if (options->max_age_s != 0) {
            long age_s = options->max_age_s < 0 ? 0 : options->max_age_s;
            used += snprintf(field + used, size - (size_t)used, "; Max-Age=%ld", age_s);
        }
        snprintf(field + used, size - (size_t)used, "%s%s%s", options->secure ? "; Secure" : "",
                 options->http_only ? "; HttpOnly" : "", same_site[options->same_site]);
    }
    if (http_kv_insert(res->headers, "set-cookie", field) != 0) {
        free(field);
        errno = ENOMEM;
        return -1;
    }
    return 0;
}

/** Sets the status by its number; the server adds the standard phrase. @return 0; -1 with EINVAL unless 200 to 599 */
static inline int cweb_status(http_response_t *res, int status) {
    if (res == NULL || status < 200 || status > 599) {
        errno = EINVAL;
        return -1;
    }
    res->status = (http_error_t)status;
    return 0;
}

/**
 * Answers with a redirect. Blanks, quotation marks, angle brackets and non-ASCII bytes of location are percent-encoded.
 * @param status    301, 302, 303, 307 or 308
 * @param location  a URI or a path; a path that begins with two slashes names another host
 * @return 0; -1 with errno EINVAL (another status, location is NULL, empty, or has a control character such as CR or LF) or
 * ENOMEM; the response is then unchanged
 */
CWEB_OUT_OF_LINE int cweb_redirect(http_response_t *res, int status, const char *location) {
    int known = status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
    if (res == NULL || !known || location == NULL || *location == '\0') {
        errno = EINVAL;
        return -1;
    }
    char *encoded = (char *)malloc(3 * strlen(location) + 1);
    char *out = encoded;
    for (; encoded != NULL && *location != '\0'; location++) {
        unsigned char byte = (unsigned char)*location;
        if (byte < ' ' || byte == 0x7f) {
            free(encoded);
            errno = EINVAL;
            return -1;
        }
        if (byte > 0x7f || strchr(" \"<>\\^`{|}", byte) != NULL) {
            out += snprintf(out, 4, "%%%02X", byte);
        } else {
            *out++ = (char)byte;
        }
    }
    if (encoded == NULL) {
        errno = ENOMEM;
        return -1;
    }
    *out = '\0';
    http_kv_pair_t *pair = cweb_kv_find(res->headers, "location");
    if (pair != NULL) {
        cweb_give_back(pair->value);
        pair->value = encoded;
    } else if (http_kv_insert(res->headers, "location", encoded) != 0) {
        free(encoded);
        errno = ENOMEM;
        return -1;
    }
    return cweb_status(res, status);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_REQUEST_H */
