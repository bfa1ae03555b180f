/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/container.h
 * The cross-module cache of modules whose functions take no context: `cache`, or by its older name `container`.
 */
#ifndef CWEB_CONTAINER_H
#define CWEB_CONTAINER_H

#include "map.h"

struct container {
    /** Stores a pointer under a name; a name that is already there keeps its first pointer. @return 0, or -1 for a NULL argument */
    int (*set)(const char *name, void *value);
    /** The pointer of that name, or NULL. */
    void *(*get)(const char *name);
};

#endif /* CWEB_CONTAINER_H */
