/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Files that SQLite reads by their names although this process may not open them: they were opened before it was
 * confined. SQLite asks for each under its path; it gets a duplicate of the open descriptor.
 */
#define _GNU_SOURCE
#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

/* A database in WAL mode: itself, its log, its index. */
#define KEPT_MAX 3
/* SQLite does not use 0 to 2 for files. */
#define FIRST_FD 3

typedef int (*open_fn)(const char *, int, int);

static struct {
    char path[PATH_MAX];
    int fd;
} kept[KEPT_MAX];
static int kept_count;
static open_fn system_open;

static int open_kept(const char *path, int flags, int mode) {
    for (int i = 0; i < kept_count; i++) {
        if (strcmp(path, kept[i].path) != 0) {
            continue;
        }
        if ((flags & O_ACCMODE) != O_RDONLY) {
            errno = EACCES; /* SQLite then asks to read only */
            return -1;
        }
        return fcntl(kept[i].fd, F_DUPFD_CLOEXEC, FIRST_FD);
    }
    return system_open(path, flags, mode);
}

int cwebn_keep_file(const char *path) {
    sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
    if (vfs == NULL || vfs->iVersion < 3 || kept_count == KEPT_MAX || strlen(path) >= PATH_MAX) {
        errno = EINVAL;
        return -1;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return -1;
    }
    strcpy(kept[kept_count].path, path);
    kept[kept_count].fd = fd;
    kept_count++;
    if (system_open == NULL) {
        system_open = (open_fn)vfs->xGetSystemCall(vfs, "open");
        if (system_open == NULL || vfs->xSetSystemCall(vfs, "open", (sqlite3_syscall_ptr)open_kept) != SQLITE_OK) {
            errno = ENOSYS;
            return -1;
        }
    }
    return 0;
}
