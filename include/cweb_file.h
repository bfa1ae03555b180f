/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_file.h
 * Answering with files. Apart from cweb.h, so that a module which doesn't need it may name its handlers `read`,
 * `link` or `stat`.
 */
#ifndef CWEB_FILE_H
#define CWEB_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cweb.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Reads length bytes of an open file into a malloc'd buffer with a NUL behind; NULL on error or if it shrank. */
static inline char *cweb_read_file(int fd, size_t length) {
    char *content = (char *)malloc(length + 1);
    size_t done = 0;
    while (content != NULL && done < length) {
        ssize_t got = read(fd, content + done, length - done);
        if (got > 0) {
            done += (size_t)got;
        } else if (got == 0 || errno != EINTR) {
            free(content);
            return NULL;
        }
    }
    if (content != NULL) {
        content[length] = '\0';
    }
    return content;
}

/**
 * Answers with a regular file, its type by its suffix; 404 when there is none, 500 when it can't be read.
 *
 * path is used as it is, relative to the server's data directory: check one made from the request with
 * cweb_path_is_safe() first.
 * @return 0; -1 when the file was not sent
 */
static inline int cweb_send_file(http_request_t *req, http_response_t *res, const char *path) {
    struct stat info;
    (void)req;
    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        if (fd >= 0) {
            close(fd);
        }
        cweb_respond(res, HTTP_404_NOT_FOUND, "text/plain", "Not found\n");
        return -1;
    }
    char *content = info.st_size > INT_MAX - 1 ? NULL : cweb_read_file(fd, (size_t)info.st_size);
    close(fd);
    if (content == NULL) {
        cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "The file can't be read\n");
        return -1;
    }
    cweb_set_body(res, content, (size_t)info.st_size);
    res->status = HTTP_200_OK;
    return cweb_header(res, "content-type", cweb_content_type(path));
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_FILE_H */
