/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_file.h
 * Functions that answer with files. cweb.h does not include this header, so that a module without it may name its handlers
 * `read`, `link` or `stat`.
 */
#ifndef CWEB_FILE_H
#define CWEB_FILE_H

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cweb.h>
#include <cweb_stream.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Flags of cweb_send_file_from(). */
enum {
    /** Send the whole file and ignore the request's conditions and ranges: for an error page. */
    CWEB_FILE_PLAIN = 1
};

/* Reads length bytes of an open file into a malloc'd buffer with a NUL behind; NULL on error or if the file shrank. */
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

/* Answers with the content of a file as a body, if no server is present to send the file itself. */
static inline int cweb_send_content(http_response_t *res, const char *path) {
    struct stat info;
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

/**
 * Answers with a regular file of any size, which the server sends without reading it into memory.
 *
 * The server honours the request's conditions (If-None-Match, If-Modified-Since, …) and its Range, so the status can become
 * 206, 304, 412 or 416. If path.br, path.zst or path.gz lies beside the file and is not older, clients that accept that
 * coding get it instead. The server sets Content-Type (by the suffix), ETag, Last-Modified, Accept-Ranges and Vary, unless
 * the handler has set them before; conditions then use the handler's ETag. Call the function on the handler's own thread. A
 * body that the handler sets afterwards is sent instead of the file; a status that it sets afterwards is sent with the file.
 *
 * In a handler with CWEB_KILLABLE, the function fails with ENOTSUP (500); cweb_send_file() then sends the content as a body.
 *
 * @param root   the directory that path can't leave, by ".." or by links; NULL: path is used unchanged. A relative root is
 *               relative to the server's data directory
 * @param path   the path of the file, for example from the request
 * @param flags  0 or CWEB_FILE_PLAIN
 * @return 0; -1 with errno when the file was not sent: it does not exist or can't be read (the answer is 404), it is a
 *         directory, a FIFO or a device (404), or the process has too few descriptors or too little memory (500)
 */
static inline int cweb_send_file_from(http_request_t *req, http_response_t *res, const char *root, const char *path,
                                      int flags) {
    (void)req;
    if (path == NULL) {
        errno = EINVAL;
        cweb_respond(res, HTTP_404_NOT_FOUND, "text/plain", "Not found\n");
        return -1;
    }
    if (cweb_binding.host == NULL || cweb_binding.host->send_file == NULL) {
        if (root != NULL) {
            errno = ENOSYS;
            cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "There is no server to send the file\n");
            return -1;
        }
        return cweb_send_content(res, path);
    }
    struct cweb_file file;
    memset(&file, 0, sizeof file);
    file.size = (uint32_t)sizeof file;
    file.flags = flags;
    file.root = root;
    file.path = path;
    file.content_type = http_kv_get(res->headers, "content-type");
    file.etag = http_kv_get(res->headers, "etag");
    if (cweb_binding.host->send_file(cweb_binding.module, res, &file) == 0) {
        return 0;
    }
    int error = errno;
    if (error == EOPNOTSUPP && root == NULL) {
        return cweb_send_content(res, path); /* A response that the module created itself: its body gets the content. */
    }
    int is_ours = error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO || error == EINVAL ||
                  error == EOPNOTSUPP || error == ENOSYS;
    cweb_respond(res, is_ours ? HTTP_500_INTERNAL_SERVER_ERROR : HTTP_404_NOT_FOUND, "text/plain",
                 is_ours ? "The file can't be sent\n" : "Not found\n");
    errno = error;
    return -1;
}

/**
 * Answers with a regular file as cweb_send_file_from() does. path is used unchanged, relative to the server's data
 * directory: check a path from the request with cweb_path_is_safe() first, or use a root.
 * @return 0; -1 with errno when the file was not sent
 */
static inline int cweb_send_file(http_request_t *req, http_response_t *res, const char *path) {
    return cweb_send_file_from(req, res, NULL, path, 0);
}

/* Writes all bytes; -1 with errno. */
static inline int cweb_write_all(int fd, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t count = write(fd, bytes, length);
        if (count > 0) {
            bytes += count;
            length -= (size_t)count;
        } else if (count == 0 || errno != EINTR) {
            errno = count == 0 ? EIO : errno;
            return -1;
        }
    }
    return 0;
}

/**
 * Writes the body of the request to a file that is open for writing, at its current position. On a route with CWEB_STREAM,
 * the body may have any size, and is written while it arrives.
 * @param max  limit on the bytes of the body; 0: the limit of the route
 * @return the number of written bytes; -1 with errno: EMSGSIZE when the body is larger than max, or the errno of write(2) or
 *         cweb_read(). A part of the body may then have been written
 */
static inline ssize_t cweb_read_to_file(http_request_t *req, int fd, size_t max) {
    char piece[16 * 1024];
    size_t total = 0;
    ssize_t got = -1;
    errno = EINVAL;
    while (cweb_binding.host != NULL && cweb_binding.host->stream != NULL &&
           (got = cweb_read(req, piece, sizeof piece)) > 0) {
        if (max > 0 && (size_t)got > max - total) {
            errno = EMSGSIZE;
            return -1;
        }
        if (cweb_write_all(fd, piece, (size_t)got) != 0) {
            return -1;
        }
        total += (size_t)got;
    }
    if (got == 0) {
        return (ssize_t)total;
    }
    if (total > 0 || errno != EINVAL) {
        return -1;
    }
    /* A route without CWEB_STREAM: the body has already arrived. */
    size_t length = req->content_length > 0 ? (size_t)req->content_length : 0;
    if (max > 0 && length > max) {
        errno = EMSGSIZE;
        return -1;
    }
    return cweb_write_all(fd, req->body, length) == 0 ? (ssize_t)length : -1;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_FILE_H */
