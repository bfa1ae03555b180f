/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/** @file server.h For apps of nope.c of July 2014: all declarations, and the oldest name of server(). */
#ifndef CWEB_NOPE_SERVER_H
#define CWEB_NOPE_SERVER_H

#include <nope.h>
#include <nopeutils.h>

#define server_main server

#endif /* CWEB_NOPE_SERVER_H */
