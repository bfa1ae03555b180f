/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file waferapi.h
 * The functions of apps with a Response, from August 2014 on, and of slightly older apps that have a Request only.
 */
#ifndef CWEB_WAFERAPI_H
#define CWEB_WAFERAPI_H

#include <wafer_entl.h>
#include <wafer_types.h>

/* Bits of Response.apiFlags */
#define API_FLAGS_HEADER_SENT 1
#define API_FLAGS_DONT_SET_HEADER_BEFORE_SENDING 2
#define API_FLAGS_FORM_ONLY_ON_NULL 4

/* Text; for a Response, a head is written before the first text. */
#define resPrintf(to, ...) _Generic((to), Request: wafer__req_printf, default: wafer__res_printf)((to), __VA_ARGS__)
#define resPuts(to, text) _Generic((to), Request: wafer__req_puts, default: wafer__res_puts)((to), (text))

#define sendStatusOKHeadersTypeEncoding(to, type, encoding)                                                          \
    _Generic((to), Request: wafer__req_head, default: wafer__res_head)((to), (type), (encoding))
#define sendResourceNotFound(to) _Generic((to), Request: wafer__req_not_found, default: wafer__res_not_found)(to)

/* (request, response, path, function), or (request, path, function, whether a head is sent) */
#define routeRequest(request, a, b, c)                                                                               \
    _Generic((request), Request: wafer__req_route, default: wafer__res_route)((request), (a), (b), (c))

/* (request, response, message, input), or (request, message, input, whether only without q) */
#define resQuickForm(request, a, b, c)                                                                               \
    _Generic((request), Request: wafer__req_form, default: wafer__res_form)((request), (a), (b), (c))
#define QUICK_FORM_TEXT(request, response, message)                                                                  \
    resQuickForm(request, response, message, STAGPARAMQ(input, type="text"))
#define RES_QUICK_FORM_TEXT(request, message, only)                                                                  \
    resQuickForm(request, message, STAGPARAMQ(input, type="text"), only)

#endif /* CWEB_WAFERAPI_H */
