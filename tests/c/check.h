/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* A test program's own few lines: CHECK(condition) counts and reports, straight to descriptor 2 because a test may
 * capture stderr; finish() is main's return value. */
#ifndef CWEB_TEST_CHECK_H
#define CWEB_TEST_CHECK_H

#include <stdio.h>

static int checks_done;
static int checks_failed;

#define CHECK(condition)                                                            \
    do {                                                                            \
        checks_done++;                                                              \
        if (!(condition)) {                                                         \
            checks_failed++;                                                        \
            dprintf(2, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                           \
    } while (0)

static inline int finish(void) {
    dprintf(2, "%d checks, %d failed\n", checks_done, checks_failed);
    return checks_failed == 0 ? 0 : 1;
}

#endif
