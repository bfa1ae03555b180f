/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_stream.h
 * Bodies in pieces, in memory that does not grow with them; cancellation and deadlines; answers that outlive the handler.
 *
 *     #include <cweb.h>
 *     #include <cweb_stream.h>
 *
 *     static int count(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
 *         char piece[65536];
 *         long long bytes = 0;
 *         ssize_t got;
 *         while ((got = cweb_read(req, piece, sizeof piece)) > 0) {
 *             bytes += got;
 *         }
 *         return got < 0 ? cweb_respond(res, HTTP_400_BAD_REQUEST, NULL, "broken off\n")
 *                        : cweb_respond(res, HTTP_200_OK, NULL, "%lld bytes\n", bytes);
 *     }
 *
 * with the route {"/count", "POST", count, CWEB_STREAM}. See docs/streams.md.
 *
 * The functions that take a request or a response may be called from the handler and from threads that it waits for, until
 * the handler returns. A function that fails sets errno.
 */
#ifndef CWEB_STREAM_H
#define CWEB_STREAM_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cweb.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Why a call is canceled: see cweb_canceled(). */
enum {
    CWEB_CLIENT_GONE = 1, /**< The client has closed its connection, or its sending direction. */
    CWEB_DEADLINE = 2,    /**< The deadline has passed: see cweb_remaining_ms(). */
    CWEB_DRAINING = 3     /**< The server is stopping, or is replacing the process of the module. */
};

/** Return value of cweb_stream_write() when there is no room now. */
#define CWEB_AGAIN 1

/**
 * A detached answer: a handle, valid until cweb_stream_close(). A closed handle is invalid, and using it is an
 * error.
 */
typedef struct cweb_stream cweb_stream_t;

/** The server's part of this header; modules call the functions below. */
struct cweb_stream_host {
    ssize_t (*read)(const http_request_t *req, void *buf, size_t n);
    int (*read_view)(const http_request_t *req, const void **bytes, size_t *length);
    long long (*body_length)(const http_request_t *req);
    int (*canceled)(const http_request_t *req);
    long long (*remaining_ms)(const http_request_t *req);
    int (*has_begun)(const http_response_t *res);
    int (*begin)(const http_response_t *res, int status);
    int (*write)(const http_response_t *res, const void *bytes, size_t n);
    void *(*detach)(const http_request_t *req, const http_response_t *res);
    int (*stream_write)(const void *stream, const void *bytes, size_t n);
    int (*stream_close)(const void *stream);
    int (*stream_canceled)(const void *stream);
    int (*stream_on)(const void *module, const void *stream, void (*room)(void *), void (*gone)(void *), void *arg);
    size_t (*broadcast)(const void *const *streams, size_t count, const void *bytes, size_t n, int *results);
    int (*next_part)(const http_request_t *req, cweb_part_t *part);
    ssize_t (*part_read)(const http_request_t *req, void *buf, size_t n);
    int (*trailer)(const http_response_t *res, const char *name, const char *value);
};

/* ---- The body of a request, in a handler whose route has CWEB_STREAM ---- */

/**
 * Copies the next bytes of the body, and waits until there are some.
 * @return how many, at most n; 0 at the end of the body; -1 with errno:
 *   ECONNRESET  the client is gone,
 *   ETIMEDOUT   the deadline has passed, or the client sends too slowly,
 *   EMSGSIZE    the body is larger than the route's CWEB_BODY_MIB() allows,
 *   EPROTO      the framing of the body is broken,
 *   ECANCELED   the server stops,
 *   EINVAL      the route does not have CWEB_STREAM: the body is in req->body
 */
static inline ssize_t cweb_read(http_request_t *req, void *buf, size_t n) {
    return cweb_binding.host->stream->read(req, buf, n);
}

/**
 * Lends the next bytes of the body without a copy. The bytes are valid until the next call of this function or cweb_read().
 * @return 1; 0 at the end of the body (*bytes is NULL then); -1 as cweb_read()
 */
static inline int cweb_read_view(http_request_t *req, const void **bytes, size_t *length) {
    return cweb_binding.host->stream->read_view(req, bytes, length);
}

/** Bytes of the whole body, if the client has announced the length, else -1. */
static inline long long cweb_body_length(const http_request_t *req) {
    return cweb_binding.host->stream->body_length(req);
}

/* ---- A form in pieces, in a handler whose route has CWEB_STREAM ---- */

/**
 * Goes to the next part of a multipart/form-data body, and skips the unread rest of the part before it. Any number of parts
 * of any size need the same memory.
 *
 *     cweb_part_t part;
 *     int got;
 *     while ((got = cweb_next_part(req, &part)) > 0) {
 *         char piece[65536];
 *         ssize_t n;
 *         while ((n = cweb_part_read(req, piece, sizeof piece)) > 0) { save(part.file_name, piece, (size_t)n); }
 *     }
 *
 * @param part  gets name, file_name and content_type, valid until the next call; bytes and length stay NULL and 0: see
 *              cweb_part_read(). The client chooses the names: never use one as a path to write to
 * @return 1; 0 when there is no further part; -1 with errno as cweb_read(), and
 *   EPROTO  the form is truncated, or the head of a part is malformed, larger than 8 KiB, or has a NUL in a name,
 *   EINVAL  the request has no multipart/form-data (answer 415), or the route does not have CWEB_STREAM: see cweb_form_next();
 *           for a malformed form cweb_form_error() has a sentence
 * The bytes after the last part stay unread. A handler that uses these functions must not use cweb_read() or cweb_read_view().
 */
static inline int cweb_next_part(http_request_t *req, cweb_part_t *part) {
    return cweb_binding.host->stream->next_part(req, part);
}

/**
 * Copies the next bytes of the present part of cweb_next_part(), and waits until there are some.
 * @return how many, at most n; 0 at the end of the part; -1 with errno as cweb_next_part()
 */
static inline ssize_t cweb_part_read(http_request_t *req, void *buf, size_t n) {
    return cweb_binding.host->stream->part_read(req, buf, n);
}

/* ---- The answer in pieces: in every handler without CWEB_INLINE and CWEB_HANDSHAKE ---- */

/**
 * Begins the answer with this status (as http_response_t.status) and the header fields of res, which can't be changed
 * afterwards. If they have a Content-Length, the handler can't write more, and the connection ends if the handler writes less.
 * Without a Content-Length, the answer is sent in chunks; for a client of HTTP/1.0, the closed connection marks its end.
 * Such an answer is compressed like others (docs/files.md), unless the route has CWEB_NO_COMPRESS. res->body is not sent. If
 * the handler faults afterwards, the connection ends so that the client notices the fault. "Connection: close" ends the connection.
 * @return 0; -1 with errno: EALREADY (the answer has begun), ECONNRESET (the client is gone), EBUSY (too many answers are streamed),
 *   E2BIG (the header fields are too large), EINVAL (the Content-Length among them is no number), EPERM (the route has
 *   CWEB_INLINE or CWEB_HANDSHAKE)
 */
static inline int cweb_begin(http_response_t *res, int status) {
    return cweb_binding.host->stream->begin(res, status);
}

/**
 * Sends n bytes of an answer that has begun, and waits while the client takes none. Several threads may write at the same
 * time: the bytes of each call stay together.
 * @return 0; -1 with errno: ECONNRESET (the client is gone), ETIMEDOUT (the deadline has passed), EMSGSIZE (more than the
 *   Content-Length), EINVAL (cweb_begin() has not been called), EPIPE (the answer is detached)
 */
static inline int cweb_write(http_response_t *res, const void *bytes, size_t n) {
    return cweb_binding.host->stream->write(res, bytes, n);
}

/**
 * Adds a trailer field, which follows the last bytes of an answer that has begun, such as a digest of them. Only an answer in
 * chunks has trailer fields: with a Content-Length, and for a client of HTTP/1.0, they are left out. Clients may ignore them.
 * @return 0; -1 with errno: EINVAL (RFC 9110 section 6.5.1 forbids the field in a trailer, or cweb_begin() has not been
 *   called), E2BIG (all trailer fields together have more than 4 KiB), EPIPE (the answer is detached)
 */
static inline int cweb_trailer(http_response_t *res, const char *name, const char *value) {
    return cweb_binding.host->stream->trailer(res, name, value);
}

/**
 * Sends nothing: cweb_write() sends its bytes at once, so this function only reports errors. @return as
 * cweb_write()
 */
static inline int cweb_flush(http_response_t *res) {
    return cweb_binding.host->stream->write(res, "", 0);
}

/* Formats into memory that the caller must free; NULL when memory runs out. */
__attribute__((format(printf, 1, 0))) static inline char *cweb_stream_text(const char *format, va_list list, size_t *n) {
    va_list again;
    va_copy(again, list);
    int length = vsnprintf(NULL, 0, format, list);
    char *text = length < 0 ? NULL : (char *)malloc((size_t)length + 1);
    if (text != NULL) {
        vsnprintf(text, (size_t)length + 1, format, again);
        *n = (size_t)length;
    }
    va_end(again);
    return text;
}

/** cweb_write() of formatted text. @return as cweb_write(); ENOMEM */
__attribute__((format(printf, 2, 3))) static inline int cweb_printf(http_response_t *res, const char *format, ...) {
    size_t n = 0;
    va_list list;
    va_start(list, format);
    char *text = cweb_stream_text(format, list, &n);
    va_end(list);
    if (text == NULL) {
        errno = ENOMEM;
        return -1;
    }
    int result = cweb_write(res, text, n);
    free(text);
    return result;
}

/**
 * One server-sent event (HTML standard, 9.2) as text from malloc(3). Lines of data become lines of the event; line breaks
 * in event and id end them.
 * @param event  NULL: none; @param id  NULL: none; @param data  NULL: ""
 */
static inline char *cweb_sse_text(const char *event, const char *id, const char *data, size_t *length) {
    const char *rest = data != NULL ? data : "";
    size_t lines = 1;
    *length = 0;
    for (const char *c = rest; *c != '\0'; c++) {
        lines += *c == '\n' || *c == '\r';
    }
    size_t event_n = event != NULL ? strcspn(event, "\r\n") : 0;
    size_t id_n = id != NULL ? strcspn(id, "\r\n") : 0;
    char *text = (char *)malloc(event_n + id_n + strlen(rest) + lines * 7 + 32);
    if (text == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    char *at = text;
    if (event != NULL) {
        at += sprintf(at, "event: %.*s\n", (int)event_n, event);
    }
    if (id != NULL) {
        at += sprintf(at, "id: %.*s\n", (int)id_n, id);
    }
    for (;;) {
        size_t n = strcspn(rest, "\r\n");
        memcpy(at, "data: ", 6);
        memcpy(at + 6, rest, n);
        at[6 + n] = '\n';
        at += n + 7;
        rest += n;
        if (*rest == '\0') {
            break;
        }
        rest += rest[0] == '\r' && rest[1] == '\n' ? 2 : 1;
    }
    *at++ = '\n';
    *length = (size_t)(at - text);
    return text;
}

/* The header fields of an answer with server-sent events. */
static inline void cweb_sse_headers(http_response_t *res) {
    cweb_header(res, "content-type", "text/event-stream");
    cweb_header(res, "cache-control", "no-cache");
}

/** Sends one server-sent event; the first one begins the answer. event and id may be NULL. @return as cweb_write() */
static inline int cweb_sse(http_response_t *res, const char *event, const char *id, const char *data) {
    if (!cweb_binding.host->stream->has_begun(res)) {
        cweb_sse_headers(res);
        if (cweb_begin(res, HTTP_200_OK) != 0) {
            return -1;
        }
    }
    size_t n = 0;
    char *text = cweb_sse_text(event, id, data, &n);
    int result = text == NULL ? -1 : cweb_write(res, text, n);
    free(text);
    return result;
}

/* ---- Cancellation and deadlines: in every handler ---- */

/**
 * Why further work for this request is useless: CWEB_CLIENT_GONE, CWEB_DEADLINE, CWEB_DRAINING; 0: continue. The call
 * costs about as much as reading a variable, so call it often. The handler may still answer as a whole (cweb_respond()).
 * After CWEB_DEADLINE, cweb_write() fails: to send the results so far, stop while cweb_remaining_ms() is above zero.
 */
static inline int cweb_canceled(const http_request_t *req) {
    return cweb_binding.host->stream->canceled(req);
}

/**
 * Milliseconds that are left, 0 when the time is over; -1: there is no limit. The limit is the lowest one of the
 * client's (X-Request-Timeout-Ms, or Request-Timeout in seconds) and the route's CWEB_TIMEOUT_S(). On a route without
 * that flag and without CWEB_STREAM, the server's --handler-timeout-ms replaces the route's limit.
 */
static inline long long cweb_remaining_ms(const http_request_t *req) {
    return cweb_binding.host->stream->remaining_ms(req);
}

/* ---- The same for jobs and WebSockets ---- */

/** The reason that cweb_job_cancel_reason() gives for a job that was canceled by name, beside CWEB_DEADLINE. */
#define CWEB_CANCELED 4

/** Milliseconds that the run of a job has left (timeout_ms), 0 when its time is over; -1: the run has no limit. */
static inline long long cweb_job_remaining_ms(job_ctx_t *job) {
    return job == NULL || job->remaining_ms == NULL ? -1 : job->remaining_ms(job);
}

/** Why a job must end: CWEB_DEADLINE, CWEB_CANCELED; 0: continue. Cheap enough for an inner loop. */
static inline int cweb_job_cancel_reason(job_ctx_t *job) {
    if (job == NULL) {
        return 0;
    }
    int over = job->is_canceled != NULL && job->is_canceled(job);
    return cweb_job_remaining_ms(job) == 0 ? CWEB_DEADLINE : over ? CWEB_CANCELED : 0;
}

/**
 * Why further work in a callback of a WebSocket is useless: CWEB_CLIENT_GONE, when nothing can be sent any more; 0:
 * continue. A callback may run for --handler-timeout-ms; each message that it sends starts that time again (isolated
 * modules).
 */
static inline int cweb_ws_canceled(websocket_t *ws) {
    const struct cweb_sockets *table = cweb_sockets();
    return table == NULL || table->canceled == NULL || ws == NULL ? 0 : table->canceled(ws);
}

/* ---- Answers that outlive the handler ---- */

/**
 * Detaches the answer, which then continues after the handler has returned: any thread of the module may write to the
 * returned stream. Begins the answer with res->status if the handler has not begun it.
 * In a handler of a CWEB_STREAM route, this function replaces cweb_begin(). The answer to HEAD ends when the handler has
 * returned, and the stream then sees its client as gone.
 * @return the stream; NULL with errno: as cweb_begin(), EALREADY (the answer is detached), EINVAL (see above); EBUSY only if
 *   there are --stream-answers-max streams
 */
static inline cweb_stream_t *cweb_detach(http_request_t *req, http_response_t *res) {
    return (cweb_stream_t *)cweb_binding.host->stream->detach(req, res);
}

/**
 * Sends all of the n bytes or none, without waiting. Any thread may call the function.
 * @return 0; CWEB_AGAIN: too many earlier bytes are still unsent, and the callback for room will be called;
 *   -1 with errno: ECONNRESET (the client is gone), EMSGSIZE (more than can ever be sent in one call, 64 KiB, or than the
 *   Content-Length), EBADF (the stream is closed)
 */
static inline int cweb_stream_write(cweb_stream_t *stream, const void *bytes, size_t n) {
    return cweb_binding.host->stream->stream_write(stream, bytes, n);
}

/** Sends one server-sent event. @return as cweb_stream_write() */
static inline int cweb_stream_sse(cweb_stream_t *stream, const char *event, const char *id, const char *data) {
    size_t n = 0;
    char *text = cweb_sse_text(event, id, data, &n);
    int result = text == NULL ? -1 : cweb_stream_write(stream, text, n);
    free(text);
    return result;
}

/**
 * Sends the same bytes to many streams.
 * @param results  NULL, or an array of count elements for the return value of cweb_stream_write() for each stream
 * @return the number of streams that have accepted the bytes
 */
static inline size_t cweb_stream_broadcast(cweb_stream_t *const *streams, size_t count, const void *bytes, size_t n,
                                           int *results) {
    return cweb_binding.host->stream->broadcast((const void *const *)streams, count, bytes, n, results);
}

/**
 * Calls room(arg) when there is room after CWEB_AGAIN, and gone(arg), once, when the client is gone; also if that happened
 * before this call. Each may be NULL; if both are NULL, the callbacks are removed. One thread of the process runs all such
 * callbacks, one after the other: they must not wait. A callback that has begun may still run when cweb_stream_close()
 * returns in another thread, so free arg in the callback or with care. The callbacks end with this version of the module,
 * before its unload; the next version must set its own.
 * @return 0; -1 with errno EBADF: the stream is closed
 */
static inline int cweb_stream_on(cweb_stream_t *stream, void (*room)(void *), void (*gone)(void *), void *arg) {
    return cweb_binding.host->stream->stream_on(cweb_binding.module, stream, room, gone, arg);
}

/** As cweb_canceled(), for a detached stream; -1 with errno EBADF: the stream is closed. */
static inline int cweb_stream_canceled(cweb_stream_t *stream) {
    return cweb_binding.host->stream->stream_canceled(stream);
}

/**
 * Ends the answer after the written bytes, and invalidates the handle. Must be called once for each stream, also when
 * its client is gone.
 * @return 0; -1 with errno EBADF: the stream was closed before
 */
static inline int cweb_stream_close(cweb_stream_t *stream) {
    return cweb_binding.host->stream->stream_close(stream);
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_STREAM_H */
