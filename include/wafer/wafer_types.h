/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file wafer_types.h
 * The types of a single-file app for nope.c or WAFer, with the fields of all their versions. Apps include one of server.h,
 * nope.h, nopeutils.h, nopeapi.h, wafer.h or waferapi.h.
 */
#ifndef CWEB_WAFER_TYPES_H
#define CWEB_WAFER_TYPES_H

#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

/** A request. The request and everything in it are valid until server() returns. */
typedef struct struct_request {
    int client;             /**< The app writes the answer here, and reads the rest of the request's head, then its body. */
    const char *reqStr;     /**< The target with its query, as the client sent it, without the app's mount prefix */
    int reqStrLen;          /**< Bytes of reqStr */
    const char *method;     /**< "GET" … */
    int methodLen;          /**< Bytes of method */
    const char *ver;        /**< "HTTP/1.1" */
    int verLen;             /**< Bytes of ver */
    char **headers;         /**< The lines of the head as the client sent them, without their ends; NULL is the last */
    int headersLen;         /**< Lines in headers */
    char *contentData;      /**< The whole body with a NUL behind; NULL: the request has none */
    int contentDataLen;     /**< Bytes of contentData */
} Request;

/** An answer. */
typedef struct struct_response {
    int fd;        /**< The app writes the answer here: head, blank line, body */
    char **headers; /**< NULL */
    int flags;
    int apiFlags; /**< Bits API_FLAGS_…; the app may set some */
    int status;   /**< The status of the head that a function below has written */
} Response;

#pragma GCC visibility push(hidden)

/*
 * An app may define this function, which answers if server() has written nothing. Without the function, the server calls
 * the next app, and answers 404 if there is none.
 */
__attribute__((weak)) void cweb_wafer_not_found(Request *request, Response *response);

/* The functions behind the names in nopeutils.h, nopeapi.h and waferapi.h. */
void wafer__head(int fd, const char *version, const char *type, const char *encoding, int vary);
void wafer__set_mime_type(const char *type);
long wafer__puts(int fd, const char *text);
ssize_t wafer__send_all(int fd, const char *bytes, size_t length);
long wafer__printf(int fd, const char *format, ...) __attribute__((format(printf, 2, 3)));
void wafer__not_found_page(int fd);
void wafer__unimplemented_page(int fd);
char *wafer__path(const char *target);
char *wafer__param(const char *target, const char *name);
char *wafer__param_or_undefined(const char *target, const char *name);
int wafer__routes(const char *target, const char *path);
char *wafer__form(int fd, const char *target, const char *message, const char *input, int only_if_absent);
char *wafer__copy(const char *text);

/* Extra lines of the head of a file. */
enum {
    WAFER__FILE_PLAIN = 0,
    WAFER__FILE_LENGTH = 1, /* its length */
    WAFER__FILE_CACHED = 2  /* Cache-Control, Last-Modified, and 304 for a client that has the file already */
};
int wafer__file(int fd, const char *name, const char *display, const char *type, int extra);

long wafer__res_printf(Response *response, const char *format, ...) __attribute__((format(printf, 2, 3)));
long wafer__res_puts(Response *response, const char *text);
void wafer__res_head(Response *response, const char *type, const char *encoding);
void wafer__res_not_found(Response *response);
char *wafer__res_form(Request *request, Response *response, const char *message, const char *input);
char *wafer__res_param(const Request *request, const char *name);
char *wafer__res_path(const Request *request);
int wafer__res_route(Request *request, Response *response, const char *path, void (*function)(Request *, Response *));
void wafer__res_file(Response *response, const char *name, const char *display, const char *type);
void wafer__res_file_cached(Request *request, Response *response, const char *name, const char *display,
                            const char *type);

long wafer__req_printf(Request request, const char *format, ...) __attribute__((format(printf, 2, 3)));
long wafer__req_puts(Request request, const char *text);
void wafer__req_head(Request request, const char *type, const char *encoding);
void wafer__req_not_found(Request request);
char *wafer__req_form(Request request, const char *message, const char *input, int only_if_absent);
char *wafer__req_param(Request request, const char *name);
char *wafer__req_path(Request request);
int wafer__req_route(Request request, const char *path, void (*function)(Request), int sends_head);
void wafer__req_file(Request request, const char *name, const char *display, const char *type);

int wafer__get_line(int fd, char *line, int size);
char **wafer__read_headers(int fd);
int wafer__route_fd(Request request, const char *path, void (*function)(int, const char *, const char *),
                    int sends_head);

void wafer__open_tag(int fd, const char *tag, const char *names, ...);
void wafer__empty_tag(int fd, const char *tag, const char *names, ...);
void wafer__element(int fd, const char *tag, const char *text, const char *names, ...);
char *wafer__hscan(int fd, const char *target, const char *message, ...) __attribute__((format(printf, 3, 4)));

/* Defined by the text that the server appends to the app's source; see wafer_unit.h. */
extern const char wafer__server_line[];
extern const char wafer__name[];
extern const char wafer__mount[];
void wafer__run(Request *request, Response *response);

/* Apps declare these two functions themselves. */
char *getHeader(char **headers, char *name);
void freeHeaders(char **headers);

#pragma GCC visibility pop

/* The number of a macro's arguments, and the name made of two words. */
#define WAFER__COUNT(...) WAFER__COUNT_(__VA_ARGS__, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#define WAFER__COUNT_(a, b, c, d, e, f, g, h, n, ...) n
#define WAFER__JOIN(a, b) WAFER__JOIN_(a, b)
#define WAFER__JOIN_(a, b) a##b

/* ---- Macros that choose a function by their first argument or by the number of arguments ---- */

#define getQueryParam(of, name)                                                                                      \
    _Generic((of), Request *: wafer__res_param, const Request *: wafer__res_param, Request: wafer__req_param,          \
        default: wafer__param_or_undefined)((of), (name))
#define getQueryPath(of)                                                                                             \
    _Generic((of), Request *: wafer__res_path, const Request *: wafer__res_path, Request: wafer__req_path,             \
        default: wafer__path)(of)

/* (fd, literal) or (fd, literal, flags) */
#define STATIC_SEND(...) WAFER__JOIN(wafer__static_send_, WAFER__COUNT(__VA_ARGS__))(__VA_ARGS__)
#define wafer__static_send_2(fd, literal) send((fd), (literal), sizeof(literal) - 1, 0)
#define wafer__static_send_3(fd, literal, flags) send((fd), (literal), sizeof(literal) - 1, (flags))

/* (fd, text) or (fd, text, length). In an app's own declaration the macro expands to a declaration of the function. */
#define writeLongString(...) WAFER__JOIN(wafer__write_long_, WAFER__COUNT(__VA_ARGS__))(__VA_ARGS__)
#pragma GCC visibility push(hidden)
ssize_t wafer__write_long_2(int fd, const char *text);
ssize_t wafer__write_long_3(int fd, const char *text, size_t length);
#pragma GCC visibility pop

/* (fd, file, type), (response or request, file, display, type), (request, response, file, display, type) */
#define serveFile(...) WAFER__JOIN(wafer__serve_file_, WAFER__COUNT(__VA_ARGS__))(__VA_ARGS__)
#define wafer__serve_file_2(fd, file) wafer__file((fd), (file), NULL, NULL, WAFER__FILE_PLAIN)
#define wafer__serve_file_3(fd, file, type) wafer__file((fd), (file), NULL, (type), WAFER__FILE_PLAIN)
#define wafer__serve_file_4(to, file, display, type)                                                                 \
    _Generic((to), Response *: wafer__res_file, Request: wafer__req_file)((to), (file), (display), (type))
#define wafer__serve_file_5(request, response, file, display, type)                                                  \
    wafer__res_file_cached((request), (response), (file), (display), (type))

/** Sets the Content-Type of this answer, at any time before server() returns. WAFer has no such function. */
#define setMimeType(response, type) ((void)(response), wafer__set_mime_type(type))

#endif /* CWEB_WAFER_TYPES_H */
