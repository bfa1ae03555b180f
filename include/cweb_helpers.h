/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_helpers.h
 * Short forms of a handler's most frequent operations. Include cweb.h. (Files: cweb_file.h.)
 */
#ifndef CWEB_HELPERS_H
#define CWEB_HELPERS_H

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cweb.h>
#include "cweb_request.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Limit, in bytes, on a line of cweb_log(); the rest is cut. */
#define CWEB_LOG_LINE_MAX 2048

/**
 * Sets a response header to a copy of value, replacing one set before. Set-Cookie and WWW-Authenticate are added to those
 * set before. The server leaves out a field whose name or value can't be sent, such as a value with CR or LF, and logs it.
 * After cweb_begin() the call has no effect.
 * @return 0, or -1 when the response has no room for the field
 */
static inline int cweb_header(http_response_t *res, const char *name, const char *value) {
    char *copy = value == NULL ? NULL : strdup(value);
    if (copy == NULL) {
        return -1;
    }
    http_kv_pair_t *pair = cweb_kv_find(res->headers, name);
    if (pair != NULL && !cweb_kv_may_repeat(name)) {
        cweb_give_back(pair->value);
        pair->value = copy;
        return 0;
    }
    if (http_kv_insert(res->headers, name, copy) != 0) {
        free(copy);
        return -1;
    }
    return 0;
}

/* Replaces the body by a malloc'd one. */
static inline void cweb_set_body(http_response_t *res, char *body, size_t length) {
    cweb_give_back(res->body);
    res->body = body;
    res->content_length = (int)length;
}

/**
 * Answers with length bytes, which are copied.
 * @param content_type  may be NULL
 * @return 0; -1 when memory runs out (the status is then 500)
 */
static inline int cweb_respond_data(http_response_t *res, cweb_status_t status, const char *content_type,
                                    const void *data, size_t length) {
    char *body = length > INT_MAX - 1 ? NULL : (char *)malloc(length + 1);
    if (body == NULL) {
        res->status = HTTP_500_INTERNAL_SERVER_ERROR;
        return -1;
    }
    if (length > 0) {
        memcpy(body, data, length);
    }
    body[length] = '\0';
    cweb_set_body(res, body, length);
    res->status = status;
    return content_type == NULL ? 0 : cweb_header(res, "content-type", content_type);
}

/**
 * Answers with formatted text of any length.
 * @param content_type  may be NULL
 * @param format        as printf(3)
 * @return 0; -1 when memory runs out (the status is then 500)
 */
__attribute__((format(printf, 4, 5))) static inline int cweb_respond(http_response_t *res, cweb_status_t status,
                                                                     const char *content_type, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *body = length < 0 ? NULL : (char *)malloc((size_t)length + 1);
    if (body == NULL) {
        res->status = HTTP_500_INTERNAL_SERVER_ERROR;
        return -1;
    }
    va_start(args, format);
    vsnprintf(body, (size_t)length + 1, format, args);
    va_end(args);
    cweb_set_body(res, body, (size_t)length);
    res->status = status;
    return content_type == NULL ? 0 : cweb_header(res, "content-type", content_type);
}

/**
 * Answers with a JSON value, which is released. NULL is answered 500 with an empty body: json_pack(3) gives NULL for text
 * that is not UTF-8, such as some a client sends, and for a NULL behind "s" ("s?" and "s*" allow NULL).
 * @return 0; -1 when it can't be encoded (the status is then 500)
 */
static inline int cweb_respond_json(http_response_t *res, cweb_status_t status, json_t *value) {
    char *text = value == NULL ? NULL : json_dumps(value, JSON_COMPACT);
    json_decref(value);
    if (text == NULL) {
        res->status = HTTP_500_INTERNAL_SERVER_ERROR;
        return -1;
    }
    cweb_set_body(res, text, strlen(text));
    res->status = status;
    return cweb_header(res, "content-type", "application/json");
}

/** 1 if path stays below the directory it is relative to: not absolute, no "..", no backslash; else 0. */
static inline int cweb_path_is_safe(const char *path) {
    if (path == NULL || path[0] == '/' || strchr(path, '\\') != NULL) {
        return 0;
    }
    for (const char *segment = path; segment != NULL;) {
        if (segment[0] == '.' && segment[1] == '.' && (segment[2] == '/' || segment[2] == '\0')) {
            return 0;
        }
        segment = strchr(segment, '/');
        segment = segment == NULL ? NULL : segment + 1;
    }
    return 1;
}

/** The content type for a file name's suffix. */
static inline const char *cweb_content_type(const char *path) {
    static const char *const types[][2] = {
        {".html", "text/html; charset=utf-8"}, {".htm", "text/html; charset=utf-8"},
        {".css", "text/css; charset=utf-8"},   {".js", "text/javascript; charset=utf-8"},
        {".mjs", "text/javascript; charset=utf-8"}, {".json", "application/json"},
        {".txt", "text/plain; charset=utf-8"}, {".md", "text/markdown; charset=utf-8"},
        {".xml", "application/xml"},           {".svg", "image/svg+xml"},
        {".png", "image/png"},                 {".jpg", "image/jpeg"},
        {".jpeg", "image/jpeg"},               {".gif", "image/gif"},
        {".webp", "image/webp"},               {".avif", "image/avif"},
        {".ico", "image/x-icon"},              {".woff2", "font/woff2"},
        {".wasm", "application/wasm"},         {".pdf", "application/pdf"},
        {".mp4", "video/mp4"},                 {".webm", "video/webm"},
    };
    const char *suffix = strrchr(path, '.');
    for (size_t i = 0; suffix != NULL && i < sizeof types / sizeof types[0]; i++) {
        if (strcasecmp(suffix, types[i][0]) == 0) {
            return types[i][1];
        }
    }
    return "application/octet-stream";
}

/* Sends a message as `type` (CWEB_WS_TEXT, CWEB_WS_BINARY; 0: the type that send() of each socket would choose).
 * Returns how many sockets accepted the message. */
static inline int cweb_ws_send_as(websocket_t **sockets, size_t count, int type, const char *message, size_t length) {
    if (cweb_binding.host != NULL && cweb_binding.host->ws_send != NULL) {
        return cweb_binding.host->ws_send(sockets, count, type, message, length);
    }
    int accepted = 0;
    for (size_t i = 0; i < count; i++) {
        accepted += sockets[i]->send(sockets[i], message, length) == 0;
    }
    return accepted;
}

/**
 * Sends one message as text, whatever type was received before. Bytes that are not UTF-8 are sent as binary.
 * @return 0, or -1 once the socket is closed
 */
static inline int cweb_ws_send_text(websocket_t *ws, const char *message, size_t length) {
    return cweb_ws_send_as(&ws, 1, CWEB_WS_TEXT, message, length) == 1 ? 0 : -1;
}

/** Sends one message as binary, whatever type was received before. @return 0, or -1 once the socket is closed */
static inline int cweb_ws_send_binary(websocket_t *ws, const void *message, size_t length) {
    return cweb_ws_send_as(&ws, 1, CWEB_WS_BINARY, (const char *)message, length) == 1 ? 0 : -1;
}

/** Sends one message to many sockets as text; the server encodes it once. @return how many sockets accepted it */
static inline int cweb_ws_broadcast_text(websocket_t **sockets, size_t count, const char *message, size_t length) {
    return cweb_ws_send_as(sockets, count, CWEB_WS_TEXT, message, length);
}

/** Sends one message to many sockets as binary; the server encodes it once. @return how many sockets accepted it */
static inline int cweb_ws_broadcast_binary(websocket_t **sockets, size_t count, const void *message, size_t length) {
    return cweb_ws_send_as(sockets, count, CWEB_WS_BINARY, (const char *)message, length);
}

/**
 * Sends one message to many sockets, with the type that send() of each would choose; the server encodes it once for
 * each type.
 * @return how many sockets accepted the message
 */
static inline int cweb_ws_broadcast(websocket_t **sockets, size_t count, const char *message, size_t length) {
    if (cweb_binding.host != NULL && cweb_binding.host->ws_broadcast != NULL) {
        return cweb_binding.host->ws_broadcast(sockets, count, message, length);
    }
    int accepted = 0;
    for (size_t i = 0; i < count; i++) {
        accepted += sockets[i]->send(sockets[i], message, length) == 0;
    }
    return accepted;
}

/** 1 once the job has been canceled, else 0. */
static inline int cweb_job_canceled(job_ctx_t *job) {
    return job->is_canceled != NULL && job->is_canceled(job);
}

/** Emits the event "progress" with {"done","total","percent"}. @return as emit_event */
static inline int cweb_job_progress(job_ctx_t *job, long long done, long long total) {
    char data[128];
    double percent = total > 0 ? 100.0 * (double)done / (double)total : 0.0;
    snprintf(data, sizeof data, "{\"done\":%lld,\"total\":%lld,\"percent\":%.1f}", done, total, percent);
    return job->emit_event(job, "progress", data);
}

/** Writes a line to the server's log, tagged with the module. level: CWEB_LOG_ERROR … CWEB_LOG_DEBUG */
__attribute__((format(printf, 2, 3))) static inline void cweb_log(int level, const char *format, ...) {
    char line[CWEB_LOG_LINE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (cweb_binding.host != NULL && cweb_binding.host->log != NULL) {
        cweb_binding.host->log(cweb_binding.module, level, line);
    } else {
        fprintf(stderr, "%s\n", line);
    }
}

/*
 * tmpfile(3) creates its file in /tmp even if TMPDIR is set, and a module in a process of its own can't write there.
 * This function creates the file in TMPDIR, the domain's scratch directory. NULL with errno when that fails.
 */
static inline FILE *cweb_tmpfile(void) {
    const char *dir = getenv("TMPDIR");
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/tmpfile-XXXXXX", dir != NULL && dir[0] != '\0' ? dir : "/tmp");
    if (length < 0 || (size_t)length >= sizeof path) {
        return NULL;
    }
    int fd = mkstemp(path);
    if (fd < 0) {
        return NULL;
    }
    remove(path);
    /* fdopen(3) fails only for lack of memory, and then leaks the descriptor. close(2) would need unistd.h, whose names
     * every module would then have. */
    return fdopen(fd, "w+b");
}

#ifdef __cplusplus
}
#else
/* In C++ the name is std::tmpfile too. */
#define tmpfile() cweb_tmpfile()
#endif

#endif /* CWEB_HELPERS_H */
