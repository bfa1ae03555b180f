/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/** @file nope.h For apps of nope.c, from 2014-07-29 on. */
#ifndef CWEB_NOPE_H
#define CWEB_NOPE_H

#include <wafer_base.h>

#ifndef SERVER_STRING
#define SERVER_STRING "Server: nope.chttpd/0.1.0\r\n"
#endif

#endif /* CWEB_NOPE_H */
