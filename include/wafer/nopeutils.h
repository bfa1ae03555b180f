/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file nopeutils.h
 * The functions of nope.c's apps until August 2014, in all spellings. `fd` is the request's descriptor.
 */
#ifndef CWEB_NOPEUTILS_H
#define CWEB_NOPEUTILS_H

#include <nope.h>
#include <wafer_entl.h>

#define NOPE_MAX(a, b) ((a) > (b) ? (a) : (b))
#define NOPE_MIN(a, b) ((a) < (b) ? (a) : (b))

#define MVHP_OPEN(lang, charset, title, head)                                                                        \
    "<!DOCTYPE html >\r\n<html " WAFER__TEXT(lang=lang) ">\r\n<head ><meta " WAFER__TEXT(charset=charset) "  />\r\n"  \
    "<title >" title "</title>\r\n" head "\r\n</head>\r\n<body >\r\n"
#define MVHPEN8(title, head)                                                                                         \
    "<!DOCTYPE html >\r\n<html lang=\"en\">\r\n<head ><meta charset=\"utf-8\"  />\r\n"                                 \
    "<title >" title "</title>\r\n" head "\r\n</head>\r\n<body >\r\n"
#define HP_CLOSE "\r\n</body>\r\n</html>"

/* ---- Writing ---- */

#define nprintf wafer__printf
#define FDPRINTF wafer__printf
#define docwrite(fd, text) ((void)wafer__puts((fd), (text)))
#define FDPRINT(fd, literal) send((fd), (literal), sizeof(literal) - 1, 0)
#define NPRINT(fd, literal) send((fd), (literal), sizeof(literal) - 1, 0)
#define write_long_string(...) writeLongString(__VA_ARGS__)

/* ---- The head of the request and of the answer ---- */

#define getLine wafer__get_line
#define get_line wafer__get_line
#define readHeaders(fd) wafer__read_headers(fd)
#define read_headers(fd) wafer__read_headers(fd)
#define read_and_discard_headers(fd) freeHeaders(wafer__read_headers(fd))
#define writeStandardHeaders(fd) wafer__head((fd), "HTTP/1.1", "text/html", NULL, 1)
#define write_standard_headers(fd) writeStandardHeaders(fd)
#define print_standard_headers(fd) writeStandardHeaders(fd)
#define headers(fd) (read_and_discard_headers(fd), writeStandardHeaders(fd))

static inline char **sendAndReceiveHeaders(int fd) {
    char **lines = wafer__read_headers(fd);
    writeStandardHeaders(fd);
    return lines;
}

#define MIME_TEXT_HTML "text/html"
#define ENCODING_GZIP "gzip"
#define sendHeadersTypeEncoding(request, type, encoding)                                                             \
    wafer__head((request).client, "HTTP/1.0", (type), (encoding), 1)
#define SEND_TEXT_HTML_HEADER(request) sendHeadersTypeEncoding(request, MIME_TEXT_HTML, NULL)

static inline void sendHeadersFromString(Request request, const char *head) {
    wafer__puts(request.client, head);
    wafer__puts(request.client, "\r\n");
}

/* ---- Whole answers ---- */

#define serve_file(...) serveFile(__VA_ARGS__)
#define serveDownloadableFile(fd, file, display, type)                                                               \
    ((void)wafer__file((fd), (file), (display), (type), WAFER__FILE_PLAIN))
#define notFound(fd) wafer__not_found_page(fd)
#define not_found(fd) wafer__not_found_page(fd)
#define unimplemented(fd) wafer__unimplemented_page(fd)

/* ---- Routes: whether the request has this path; if so, the function is called ---- */

#define route(request, path) wafer__req_route((request), (path), NULL, 0)
#define routeh(request, path) wafer__req_route((request), (path), NULL, 1)
#define routef(request, path, function) wafer__route_fd((request), (path), (function), 0)
#define routefh(request, path, function) wafer__route_fd((request), (path), (function), 1)
#define nope_route(request, path, function, sends_head)                                                              \
    wafer__req_route((request), (path), (function), (sends_head))
#define ROUTE_INLINE(request, path) wafer__req_route((request), (path), NULL, 0)
#define ROUTE_FUNCTION(request, path, function) wafer__req_route((request), (path), (function), 0)
#define ROUTE_INLINE_HEADERS(request, path) wafer__req_route((request), (path), NULL, 1)
#define ROUTE_FUNCTION_HEADERS(request, path, function) wafer__req_route((request), (path), (function), 1)

/* ---- Forms: the parameter q, after a form that asks for it ---- */

#define _hscan(fd, target, message, input) wafer__form((fd), (target), (message), (input), 0)
#define _hscanIfEmpty(fd, target, message, input) wafer__form((fd), (target), (message), (input), 1)
#define HSCANIT(fd, target, message) _hscan(fd, target, message, STAGPARAMQ(input, type="text"))
#define HSCANITIE(fd, target, message) _hscanIfEmpty(fd, target, message, STAGPARAMQ(input, type="text"))
#define HSCAN(fd, target, message, tag, attributes, text)                                                            \
    _hscan(fd, target, message, QTAGAPARAMQ(tag, attributes, text))
#define hscan(...) wafer__hscan(__VA_ARGS__)

/* ---- HTML of July 2014: attribute names in one string, then their values ---- */

#define hto wafer__open_tag
#define hts wafer__empty_tag
#define htoc wafer__element
#define htc(fd, tag) ((void)wafer__printf((fd), "</%s>", (tag)))
#define mvhpOpen(fd, lang, charset, title, head)                                                                     \
    ((void)wafer__printf((fd),                                                                                       \
                         "<!DOCTYPE html >\r\n<html lang=\"%s\">\r\n<head ><meta charset=\"%s\"  />\r\n"               \
                         "<title >%s</title>\r\n%s\r\n</head>\r\n<body >\r\n",                                         \
                         (lang), (charset), (title), (head)))
#define mvhpen8(fd, title, head) mvhpOpen((fd), "en", "utf-8", (title), (head))
#define hClose(fd) ((void)wafer__puts((fd), HP_CLOSE))

/* ---- Texts ---- */

#define dupstr(text) wafer__copy(text)
#define stringEqualsLitLen(text, literal, size) (strncmp((text), (literal), (size_t)(size) - 1) == 0)
#define STREQLIT(text, literal) stringEqualsLitLen((text), (literal), sizeof(literal))

#endif /* CWEB_NOPEUTILS_H */
