/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file wafer_unit.h
 * Compiled behind the source of an app; calls the app's server() with the arguments that server() takes. A compiler error
 * here means that the source defines no server(), or a server() with other arguments.
 */
#ifndef CWEB_WAFER_UNIT_H
#define CWEB_WAFER_UNIT_H

#include <wafer_types.h>

#ifndef SERVER_STRING
#define SERVER_STRING "Server: wafer.chttpd/0.1.0\r\n"
#endif

const char wafer__server_line[] = SERVER_STRING;

static void wafer__call_pointers(void (*entry)(Request *, Response *), Request *request, Response *response) {
    entry(request, response);
}

static void wafer__call_value(void (*entry)(Request), Request *request, Response *response) {
    (void)response;
    entry(*request);
}

static void wafer__call_socket(void (*entry)(int, const char *, const char *), Request *request, Response *response) {
    (void)response;
    entry(request->client, request->reqStr, request->method);
}

void wafer__run(Request *request, Response *response) {
    (void)wafer__call_pointers, (void)wafer__call_value, (void)wafer__call_socket;
    _Generic(&server,
        void (*)(Request *, Response *): wafer__call_pointers,
        void (*)(Request): wafer__call_value,
        void (*)(int, const char *, const char *): wafer__call_socket)(&server, request, response);
}

#endif /* CWEB_WAFER_UNIT_H */
