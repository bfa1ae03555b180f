/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Preloaded: fsync(2) and fdatasync(2) fail with EIO as long as the file named by CWEB_TEST_FAIL_SYNC exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int synced(const char *name, int fd) {
    const char *file = getenv("CWEB_TEST_FAIL_SYNC");
    if (file != NULL && access(file, F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) {
    return synced("fsync", fd);
}

int fdatasync(int fd) {
    return synced("fdatasync", fd);
}
