/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/** @file wafer.h For apps of WAFer. */
#ifndef CWEB_WAFER_H
#define CWEB_WAFER_H

#include <wafer_base.h>

#ifndef SERVER_STRING
#define SERVER_STRING "Server: wafer.chttpd/0.1.0\r\n"
#endif

#endif /* CWEB_WAFER_H */
