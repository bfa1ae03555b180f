/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The functions that apps call; see wafer_types.h for their declarations. Part of wafer_glue.c.
 */
#ifndef CWEB_WAFER_FUNCTIONS_H
#define CWEB_WAFER_FUNCTIONS_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cweb.h>

#include <wafer_types.h>

#define WAFER__UNDEFINED "VALUE_UNDEFINED"
#define WAFER__HEAD_SENT 1
#define WAFER__HEAD_UNWANTED 2
#define WAFER__FORM_ONLY 4
/* Limit, in bytes, on a line of a head that the functions below write. */
#define WAFER__LINE_MAX 1024
/* Limit on the lines of a head that readHeaders() reads. */
#define WAFER__LINES_MAX 1024
/* Limit on the log lines about missing files. */
#define WAFER__MISSES_MAX 10

/* ---- Writing ---- */

ssize_t wafer__send_all(int fd, const char *bytes, size_t length) {
    size_t sent = 0;
    while (sent < length) {
        ssize_t once = send(fd, bytes + sent, length - sent, MSG_NOSIGNAL);
        if (once < 0 && errno == EINTR) {
            continue;
        }
        if (once <= 0) {
            return -1;
        }
        sent += (size_t)once;
    }
    return (ssize_t)sent;
}

long wafer__puts(int fd, const char *text) {
    return text == NULL ? 0 : (long)wafer__send_all(fd, text, strlen(text));
}

ssize_t wafer__write_long_2(int fd, const char *text) {
    return wafer__puts(fd, text);
}

ssize_t wafer__write_long_3(int fd, const char *text, size_t length) {
    return wafer__send_all(fd, text, length);
}

static long wafer__vprintf(int fd, const char *format, va_list args) {
    char small[2048];
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(small, sizeof small, format, args);
    long sent = -1;
    if (length >= 0 && (size_t)length < sizeof small) {
        sent = (long)wafer__send_all(fd, small, (size_t)length);
    } else if (length >= 0) {
        char *large = (char *)malloc((size_t)length + 1);
        if (large != NULL) {
            vsnprintf(large, (size_t)length + 1, format, again);
            sent = (long)wafer__send_all(fd, large, (size_t)length);
        }
        free(large);
    }
    va_end(again);
    return sent;
}

long wafer__printf(int fd, const char *format, ...) {
    va_list args;
    va_start(args, format);
    long sent = wafer__vprintf(fd, format, args);
    va_end(args);
    return sent;
}

/* ---- Heads. A head is written only if the answer is still empty, so that no answer has two heads ---- */

static int wafer__has_written(int fd) {
    return lseek(fd, 0, SEEK_CUR) > 0;
}

void wafer__head(int fd, const char *version, const char *type, const char *encoding, int vary) {
    if (wafer__has_written(fd)) {
        return;
    }
    wafer__printf(fd, "%s 200 OK\r\n%sContent-Type: %s\r\n", version, wafer__server_line,
                  type == NULL ? "text/html" : type);
    if (encoding != NULL) {
        wafer__printf(fd, "Content-Encoding: %s\r\n", encoding);
    }
    wafer__puts(fd, vary ? "Vary: Accept-Encoding\r\n\r\n" : "\r\n");
}

void wafer__set_mime_type(const char *type) {
    snprintf(wafer__call.type, sizeof wafer__call.type, "%s", type == NULL ? "" : type);
}

static void wafer__page(int fd, const char *status, const char *title, const char *text) {
    if (!wafer__has_written(fd)) {
        wafer__printf(fd, "HTTP/1.0 %s\r\n%sContent-Type: text/html\r\n\r\n", status, wafer__server_line);
    }
    wafer__printf(fd, "<html><head><title>%s</title></head><body><p>%s</p></body></html>\r\n", title, text);
}

void wafer__not_found_page(int fd) {
    wafer__page(fd, "404 NOT FOUND", "Not Found", "There is nothing at this address.");
}

void wafer__unimplemented_page(int fd) {
    wafer__page(fd, "501 Method Not Implemented", "Not Implemented", "This method is not supported.");
}

/* ---- Targets and parameters ---- */

char *wafer__copy(const char *text) {
    return strdup(text == NULL ? "" : text);
}

char *wafer__path(const char *target) {
    return target == NULL ? wafer__copy("") : strndup(target, strcspn(target, "?"));
}

int wafer__routes(const char *target, const char *path) {
    size_t length = strcspn(target, "?");
    return strlen(path) == length && strncmp(target, path, length) == 0;
}

static int wafer__hex(char digit) {
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    digit = (char)(digit | 0x20);
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* Decodes the value at `from`, which ends before `end`. */
static char *wafer__decoded(const char *from, const char *end) {
    char *value = (char *)malloc((size_t)(end - from) + 1);
    char *to = value;
    if (value == NULL) {
        return NULL;
    }
    for (; from < end; from++) {
        int high = *from == '%' && end - from > 2 ? wafer__hex(from[1]) : -1;
        int low = high < 0 ? -1 : wafer__hex(from[2]);
        if (low >= 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from == '+' ? ' ' : *from;
        }
    }
    *to = '\0';
    return value;
}

char *wafer__param(const char *target, const char *name) {
    size_t length = strlen(name);
    const char *at = target == NULL ? NULL : strchr(target, '?');
    while (at != NULL) {
        at++;
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            const char *value = at + length + 1;
            return wafer__decoded(value, value + strcspn(value, "&"));
        }
        at = strchr(at, '&');
    }
    return NULL;
}

char *wafer__param_or_undefined(const char *target, const char *name) {
    char *value = wafer__param(target, name);
    return value != NULL ? value : wafer__copy(WAFER__UNDEFINED);
}

/* ---- Lines of the request's head ---- */

char *getHeader(char **headers, char *name) {
    size_t length = strlen(name);
    for (char **line = headers; line != NULL && *line != NULL; line++) {
        const char *found = strcasestr(*line, name);
        if (found != NULL && found[length] == ':') {
            found += length;
            return wafer__copy(found + strspn(found, " :"));
        }
    }
    return wafer__copy(WAFER__UNDEFINED);
}

void freeHeaders(char **headers) {
    for (char **line = headers; line != NULL && *line != NULL; line++) {
        free(*line);
    }
    free(headers);
}

/* Reads a line and replaces its line ending by one LF. Returns the length; 0 at the end. */
int wafer__get_line(int fd, char *line, int size) {
    int length = 0;
    char byte = '\0';
    while (length < size - 1 && byte != '\n' && recv(fd, &byte, 1, 0) > 0) {
        if (byte == '\r') {
            char next;
            if (recv(fd, &next, 1, MSG_PEEK) > 0 && next == '\n') {
                recv(fd, &next, 1, 0);
            }
            byte = '\n';
        }
        line[length++] = byte;
    }
    if (size > 0) {
        line[length] = '\0';
    }
    return length;
}

char **wafer__read_headers(int fd) {
    char **lines = (char **)calloc(WAFER__LINES_MAX + 1, sizeof(char *));
    char *line = (char *)malloc(WAFER__LINE_MAX * 16);
    for (int count = 0; lines != NULL && line != NULL && count < WAFER__LINES_MAX; count++) {
        if (wafer__get_line(fd, line, WAFER__LINE_MAX * 16) <= 0 || strcmp(line, "\n") == 0) {
            break;
        }
        lines[count] = strdup(line);
    }
    free(line);
    return lines;
}

/* ---- Forms ---- */

/* The path as the value of an attribute: browsers percent-encode the path, other clients might not. */
static void wafer__send_path(int fd, const char *target) {
    const char *end = target + strcspn(target, "?");
    wafer__puts(fd, wafer__mount);
    for (; target < end; target++) {
        const char *coded = *target == '"' ? "&quot;" : *target == '<' ? "&lt;" : *target == '>' ? "&gt;" : NULL;
        if (coded != NULL) {
            wafer__puts(fd, coded);
        } else {
            size_t plain = strcspn(target, "\"<>?");
            wafer__send_all(fd, target, plain);
            target += plain - 1;
        }
    }
}

static void wafer__send_form(int fd, const char *target, const char *message, const char *input) {
    wafer__puts(fd, "<form action = \"");
    wafer__send_path(fd, target);
    wafer__puts(fd, "\" >");
    wafer__puts(fd, message);
    wafer__puts(fd, input);
    wafer__puts(fd, "<input type = \"submit\"  /></form>");
}

char *wafer__form(int fd, const char *target, const char *message, const char *input, int only_if_absent) {
    char *value = wafer__param(target, "q");
    if (value == NULL || !only_if_absent) {
        wafer__send_form(fd, target, message, input);
    }
    return value != NULL ? value : wafer__copy(WAFER__UNDEFINED);
}

char *wafer__hscan(int fd, const char *target, const char *message, ...) {
    char text[2048];
    va_list args;
    va_start(args, message);
    vsnprintf(text, sizeof text, message, args);
    va_end(args);
    return wafer__form(fd, target, text, "<input type=\"text\" name=\"q\" />", 0);
}

/* ---- HTML of July 2014 ---- */

static void wafer__send_tag(int fd, const char *tag, const char *names, va_list args) {
    wafer__printf(fd, "<%s", tag);
    while (names != NULL && *names != '\0') {
        int length = (int)strcspn(names, ",");
        wafer__printf(fd, " %.*s=\"%s\" ", length, names, va_arg(args, const char *));
        names += length + (names[length] == ',');
    }
}

void wafer__open_tag(int fd, const char *tag, const char *names, ...) {
    va_list args;
    va_start(args, names);
    wafer__send_tag(fd, tag, names, args);
    va_end(args);
    wafer__puts(fd, ">");
}

void wafer__empty_tag(int fd, const char *tag, const char *names, ...) {
    va_list args;
    va_start(args, names);
    wafer__send_tag(fd, tag, names, args);
    va_end(args);
    wafer__puts(fd, "/>");
}

void wafer__element(int fd, const char *tag, const char *text, const char *names, ...) {
    va_list args;
    va_start(args, names);
    wafer__send_tag(fd, tag, names, args);
    va_end(args);
    wafer__printf(fd, ">%s</%s>", text, tag);
}

/* ---- Files ---- */

static void wafer__missing(int fd, const char *name, int error) {
    static int logged;
    if (logged < WAFER__MISSES_MAX) {
        logged++;
        cweb_log(CWEB_LOG_WARN,
                 "serveFile: %s: %s; names are relative to the data directory, where apps in a process of their own may "
                 "read static/ only (others: --allow-read DIR, or --isolation none)",
                 name == NULL ? "(no name)" : name, strerror(error));
    }
    wafer__not_found_page(fd);
}

/* Reads a date in any of the three forms of HTTP (RFC 9110 §5.6.7); -1 if the text is no date. */
static time_t wafer__date(const char *text) {
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"};
    for (size_t i = 0; text != NULL && i < sizeof forms / sizeof forms[0]; i++) {
        struct tm date;
        memset(&date, 0, sizeof date);
        const char *end = strptime(text + strspn(text, " "), forms[i], &date);
        if (end != NULL && *end == '\0') {
            return timegm(&date);
        }
    }
    return -1;
}

/* A name that can stand between quotes in a header field. */
static void wafer__send_quoted(int fd, const char *name) {
    for (; *name != '\0'; name++) {
        char byte = (unsigned char)*name < ' ' || *name == '"' || *name == '\\' ? '_' : *name;
        wafer__send_all(fd, &byte, 1);
    }
}

/* Whether the client's conditions say that it already has the file. */
static int wafer__is_known(const struct stat *found, int extra) {
    time_t known = wafer__date(http_kv_get(wafer__call.request->headers, "if-modified-since"));
    return (extra & WAFER__FILE_CACHED) != 0 && known != -1 && found->st_mtime <= known;
}

static void wafer__file_head(int fd, const struct stat *found, const char *display, const char *type, int extra) {
    char modified[64];
    struct tm date;
    strftime(modified, sizeof modified, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&found->st_mtime, &date));
    int has_it = wafer__is_known(found, extra);
    wafer__printf(fd, "HTTP/1.0 %s\r\n%s", has_it ? "304 Not Modified" : "200 OK", wafer__server_line);
    if (extra & WAFER__FILE_CACHED) {
        wafer__puts(fd, "Cache-Control: private\r\n");
    }
    if (!has_it) {
        wafer__printf(fd, "Content-Type: %s\r\n", type);
    }
    if (extra & WAFER__FILE_LENGTH) {
        wafer__printf(fd, "Content-Length: %lld\r\n", (long long)found->st_size);
    }
    if (extra & WAFER__FILE_CACHED) {
        wafer__printf(fd, "Last-Modified: %s\r\n", modified);
    }
    if (display != NULL) {
        wafer__puts(fd, "Content-Disposition: attachment; filename=\"");
        wafer__send_quoted(fd, display);
        wafer__puts(fd, "\"\r\n");
    }
    wafer__puts(fd, "\r\n");
}

/* Answers with a file. type NULL: by the name's suffix. 0, or -1 when the file does not exist and the answer is 404. */
int wafer__file(int fd, const char *name, const char *display, const char *type, int extra) {
    struct stat found;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int file = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 || fstat(file, &found) != 0 || !S_ISREG(found.st_mode)) {
        int error = file < 0 ? errno : EISDIR;
        if (file >= 0) {
            close(file);
        }
        wafer__missing(fd, name, error);
        return -1;
    }
    int had_head = wafer__has_written(fd);
    if (!had_head) {
        wafer__file_head(fd, &found, display, type == NULL ? cweb_content_type(name) : type, extra);
    }
    char bytes[16 * 1024];
    ssize_t got = 0;
    if (had_head || !wafer__is_known(&found, extra)) {
        while ((got = read(file, bytes, sizeof bytes)) > 0 && wafer__send_all(fd, bytes, (size_t)got) > 0) {
        }
    }
    close(file);
    return got < 0 ? -1 : 0;
}

/* ---- Functions of a Response: they write a head before the first text ---- */

static void wafer__automatic(Response *response) {
    if (!(response->apiFlags & (WAFER__HEAD_SENT | WAFER__HEAD_UNWANTED))) {
        wafer__res_head(response, "text/html", NULL);
    }
}

long wafer__res_printf(Response *response, const char *format, ...) {
    wafer__automatic(response);
    va_list args;
    va_start(args, format);
    long sent = wafer__vprintf(response->fd, format, args);
    va_end(args);
    return sent;
}

long wafer__res_puts(Response *response, const char *text) {
    wafer__automatic(response);
    return wafer__puts(response->fd, text);
}

void wafer__res_head(Response *response, const char *type, const char *encoding) {
    response->apiFlags |= WAFER__HEAD_SENT;
    response->status = 200;
    wafer__head(response->fd, "HTTP/1.0", type, encoding, 1);
}

void wafer__res_not_found(Response *response) {
    response->apiFlags |= WAFER__HEAD_SENT;
    response->status = 404;
    wafer__not_found_page(response->fd);
}

char *wafer__res_form(Request *request, Response *response, const char *message, const char *input) {
    char *value = wafer__param(request->reqStr, "q");
    if (value == NULL || !(response->apiFlags & WAFER__FORM_ONLY)) {
        wafer__automatic(response);
        wafer__send_form(response->fd, request->reqStr, message, input);
    }
    return value;
}

char *wafer__res_param(const Request *request, const char *name) {
    return wafer__param(request->reqStr, name);
}

char *wafer__res_path(const Request *request) {
    return wafer__path(request->reqStr);
}

int wafer__res_route(Request *request, Response *response, const char *path, void (*function)(Request *, Response *)) {
    if (!wafer__routes(request->reqStr, path)) {
        return 0;
    }
    if (function != NULL) {
        function(request, response);
    }
    return 1;
}

static void wafer__res_serve(Response *response, const char *name, const char *display, const char *type, int extra) {
    response->apiFlags |= WAFER__HEAD_SENT;
    response->status = wafer__file(response->fd, name, display, type, extra) == 0 ? 200 : 404;
}

void wafer__res_file(Response *response, const char *name, const char *display, const char *type) {
    wafer__res_serve(response, name, display, type, WAFER__FILE_LENGTH);
}

void wafer__res_file_cached(Request *request, Response *response, const char *name, const char *display,
                            const char *type) {
    (void)request; /* may be NULL */
    wafer__res_serve(response, name, display, type, WAFER__FILE_LENGTH | WAFER__FILE_CACHED);
}

/* ---- The same functions for a Request by value: they write no head ---- */

long wafer__req_printf(Request request, const char *format, ...) {
    va_list args;
    va_start(args, format);
    long sent = wafer__vprintf(request.client, format, args);
    va_end(args);
    return sent;
}

long wafer__req_puts(Request request, const char *text) {
    return wafer__puts(request.client, text);
}

void wafer__req_head(Request request, const char *type, const char *encoding) {
    wafer__head(request.client, "HTTP/1.0", type, encoding, 1);
}

void wafer__req_not_found(Request request) {
    wafer__not_found_page(request.client);
}

char *wafer__req_form(Request request, const char *message, const char *input, int only_if_absent) {
    char *value = wafer__param(request.reqStr, "q");
    if (value == NULL || !only_if_absent) {
        wafer__send_form(request.client, request.reqStr, message, input);
    }
    return value;
}

char *wafer__req_param(Request request, const char *name) {
    return wafer__param(request.reqStr, name);
}

char *wafer__req_path(Request request) {
    return wafer__path(request.reqStr);
}

int wafer__req_route(Request request, const char *path, void (*function)(Request), int sends_head) {
    if (!wafer__routes(request.reqStr, path)) {
        return 0;
    }
    if (sends_head) {
        wafer__head(request.client, "HTTP/1.1", "text/html", NULL, 1);
    }
    if (function != NULL) {
        function(request);
    }
    return 1;
}

int wafer__route_fd(Request request, const char *path, void (*function)(int, const char *, const char *),
                    int sends_head) {
    if (!wafer__req_route(request, path, NULL, sends_head)) {
        return 0;
    }
    if (function != NULL) {
        function(request.client, request.reqStr, request.method);
    }
    return 1;
}

void wafer__req_file(Request request, const char *name, const char *display, const char *type) {
    wafer__file(request.client, name, display, type, WAFER__FILE_LENGTH);
}

#endif /* CWEB_WAFER_FUNCTIONS_H */
