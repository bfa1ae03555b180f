/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/** @file nopeapi.h The former name of waferapi.h. */
#ifndef CWEB_NOPEAPI_H
#define CWEB_NOPEAPI_H

#include <nope.h>
#include <waferapi.h>

#endif /* CWEB_NOPEAPI_H */
