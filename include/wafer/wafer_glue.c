/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Makes a module of an app for nope.c or WAFer. This file is compiled separately from the app, so that the names of cweb.h
 * do not clash with those of the app.
 *
 * The app gets a descriptor of a file in memory: send, write, dprintf, fdopen, gzdopen and close work on it. This code
 * keeps a duplicate of the descriptor and parses the written bytes afterwards. The server makes one call at a time, so
 * the state of the call is static. If a call did not return, the next call frees its memory.
 */
#undef _FORTIFY_SOURCE
#define CWEB_WITHOUT_OPENSSL 1

#include <cweb.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <wafer_types.h>

/* Limit, in bytes, on an answer. A write beyond the limit fails, and the answer is 500. */
#define WAFER_ANSWER_BYTES_MAX (32L * 1024 * 1024)
/* Bytes by which the file is larger than the limit, so that a write beyond the limit is detected even if libc makes it. */
#define WAFER_ANSWER_SLACK (1024L * 1024)

/* Flags of a route, and a status. src/abi/manifest.rs and src/abi/types.rs must have the same values. */
#define WAFER_FALLBACK 2
#define WAFER_SERIAL 4
#define WAFER_FINAL 8
#define WAFER_DECLINED (-404)

static struct {
    const http_request_t *request;
    int kept;      /* the server's descriptor of the answer; -1: there is no call */
    int given;     /* the app's descriptor of the answer */
    ino_t inode;   /* of the file behind both descriptors */
    int too_large; /* a write did not fit */
    char *head;    /* the request's head, with a NUL at the end of each line */
    char **lines;
    const char *unread[2]; /* the bytes that the app can still read: the rest of the head, then the body */
    size_t unread_bytes[2];
    char type[128]; /* set by setMimeType() */
} wafer__call = {.kept = -1, .given = -1};

/* ---- The descriptor ---- */

static int wafer__is_ours(int fd) {
    struct stat found;
    return fd >= 0 && fstat(fd, &found) == 0 && found.st_ino == wafer__call.inode && S_ISREG(found.st_mode);
}

static int wafer__is_client(int fd) {
    return wafer__call.kept >= 0 && (fd == wafer__call.given || wafer__is_ours(fd));
}

static int wafer__open(void) {
    int kept = memfd_create("answer", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct stat made;
    if (kept < 0 || fstat(kept, &made) != 0) {
        return -1;
    }
    /* The file gets its largest size at once: only pages that are written take memory. */
    if (ftruncate(kept, WAFER_ANSWER_BYTES_MAX + WAFER_ANSWER_SLACK) != 0 ||
        fcntl(kept, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) != 0) {
        close(kept);
        return -1;
    }
    wafer__call.inode = made.st_ino;
    wafer__call.kept = kept;
    wafer__call.given = fcntl(kept, F_DUPFD_CLOEXEC, 3);
    return wafer__call.given < 0 ? -1 : 0;
}

/* Frees the memory and the descriptors of the call. The app may have closed its descriptor, and the number may now belong
 * to another file. */
static void wafer__clear(void) {
    if (wafer__is_ours(wafer__call.given)) {
        close(wafer__call.given);
    }
    if (wafer__is_ours(wafer__call.kept)) {
        close(wafer__call.kept);
    }
    free(wafer__call.head);
    free(wafer__call.lines);
    memset(&wafer__call, 0, sizeof wafer__call);
    wafer__call.kept = wafer__call.given = -1;
}

static ssize_t wafer__write(int fd, const void *bytes, size_t size) {
    ssize_t written = syscall(SYS_write, fd, bytes, size);
    if (written < 0 && (errno == EPERM || errno == ENOSPC || errno == EFBIG)) {
        wafer__call.too_large = 1;
    }
    return written;
}

static ssize_t wafer__feed(void *buffer, size_t size, int keeps) {
    size_t given = 0;
    for (int part = 0; part < 2; part++) {
        size_t count = wafer__call.unread_bytes[part];
        count = count < size - given ? count : size - given;
        if (count > 0) {
            memcpy((char *)buffer + given, wafer__call.unread[part], count);
        }
        if (!keeps) {
            wafer__call.unread[part] += count;
            wafer__call.unread_bytes[part] -= count;
        }
        given += count;
    }
    return (ssize_t)given;
}

/*
 * The app's calls of these four functions come here, because its shared object is linked with -Bsymbolic. On sockets of
 * the app's own the functions work as usual; for the app's client they work on the file.
 */
#pragma GCC visibility push(hidden)
ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    return wafer__is_client(fd) ? wafer__write(fd, bytes, size) : sendto(fd, bytes, size, flags, NULL, 0);
}

ssize_t write(int fd, const void *bytes, size_t size) {
    return wafer__is_client(fd) ? wafer__write(fd, bytes, size) : syscall(SYS_write, fd, bytes, size);
}

ssize_t recv(int fd, void *buffer, size_t size, int flags) {
    return wafer__is_client(fd) ? wafer__feed(buffer, size, flags & MSG_PEEK)
                                : recvfrom(fd, buffer, size, flags, NULL, NULL);
}

ssize_t read(int fd, void *buffer, size_t size) {
    return wafer__is_client(fd) ? wafer__feed(buffer, size, 0) : syscall(SYS_read, fd, buffer, size);
}
#pragma GCC visibility pop

/* ---- The request ---- */

static size_t wafer__mount_bytes(const char *target) {
    size_t length = strlen(wafer__mount);
    int below = strncmp(target, wafer__mount, length) == 0 && (target[length] == '\0' || strchr("/?#", target[length]));
    return below ? length : 0;
}

/* The target below the mount prefix. Scheme and host of an absolute target (RFC 9112 §3.2.2) are removed. */
static char *wafer__target(char *target) {
    char *host = target[0] == '/' ? NULL : strstr(target, "://");
    if (host != NULL) {
        char *path = strpbrk(host + 3, "/?");
        target = path == NULL ? target + strlen(target) : path;
    }
    size_t prefix = wafer__mount_bytes(target);
    target += prefix;
    if (target[0] != '/' && (prefix > 0 || host != NULL)) {
        /* The bytes before the target are the prefix, or scheme and host, so there is room for the slash. */
        target--;
        target[0] = '/';
    }
    return target;
}

/* Ends the line at `at` by a NUL. Returns the start of the next line; NULL: the line is empty, or the last one. */
static char *wafer__cut(char *at) {
    char *end = at == NULL ? NULL : strchr(at, '\n');
    if (end == NULL) {
        return NULL;
    }
    int is_empty = end == at || (end == at + 1 && at[0] == '\r');
    *(end > at && end[-1] == '\r' ? end - 1 : end) = '\0';
    return is_empty ? NULL : end + 1;
}

static int wafer__has_body(const http_request_t *req) {
    return req->content_length > 0 || req->transfer_encoding_chunked != 0 ||
           http_kv_get(req->headers, "content-length") != NULL;
}

/* Fills `request` from the bytes of the head, to which the server's reserved fields of http_request_t point. */
static int wafer__read_request(http_request_t *req, Request *request) {
    const char *raw = (const char *)req->reserved[0];
    size_t length = (size_t)(uintptr_t)req->reserved[1];
    size_t count = 1;
    for (size_t i = 0; i < length; i++) {
        count += raw[i] == '\n';
    }
    wafer__call.head = (char *)malloc(length + 1);
    wafer__call.lines = (char **)calloc(count + 1, sizeof(char *));
    if (raw == NULL || wafer__call.head == NULL || wafer__call.lines == NULL) {
        return -1;
    }
    char *head = wafer__call.head;
    memcpy(head, raw, length);
    head[length] = '\0';
    head += strspn(head, "\r\n");
    char *line = wafer__cut(head);
    size_t consumed = line == NULL ? length : (size_t)(line - wafer__call.head);
    wafer__call.unread[0] = raw + consumed;
    wafer__call.unread_bytes[0] = length - consumed;
    wafer__call.unread[1] = req->body;
    wafer__call.unread_bytes[1] = (size_t)req->content_length;
    int lines = 0;
    for (char *next; line != NULL && (next = wafer__cut(line)) != NULL; line = next) {
        wafer__call.lines[lines++] = line;
    }
    char *target = strchr(head, ' ');
    char *version = target == NULL ? NULL : strchr(target + 1, ' ');
    if (version == NULL) {
        return -1;
    }
    *target++ = '\0';
    *version++ = '\0';
    request->method = head;
    request->methodLen = (int)strlen(head);
    request->ver = version;
    request->verLen = (int)strlen(version);
    request->headers = wafer__call.lines;
    request->headersLen = lines;
    if (wafer__has_body(req)) {
        request->contentData = req->body;
        request->contentDataLen = req->content_length;
    }
    request->reqStr = wafer__target(target);
    request->reqStrLen = (int)strlen(request->reqStr);
    return 0;
}

/* ---- The answer ---- */

static void wafer__add_header(http_response_t *res, const char *name, size_t name_length, const char *value,
                              size_t value_length) {
    http_kv_store_t *store = res->headers;
    char *key = strndup(name, name_length);
    char *text = strndup(value, value_length);
    if (key == NULL || text == NULL || store->size >= store->capacity) {
        free(key);
        free(text);
        return;
    }
    /* http_kv_insert() is not used, because a field may occur twice (Set-Cookie). */
    store->entries[store->size].key = key;
    store->entries[store->size].value = text;
    store->size++;
}

/* Whether a field is about the framing of the answer, which the server alone decides. */
static int wafer__is_framing(const char *name, size_t length) {
    static const char *const framing[] = {"content-length", "connection", "transfer-encoding", "keep-alive", "date"};
    for (size_t i = 0; i < sizeof framing / sizeof framing[0]; i++) {
        if (strlen(framing[i]) == length && strncasecmp(framing[i], name, length) == 0) {
            return 1;
        }
    }
    return 0;
}

static void wafer__take_header(http_response_t *res, const char *line, size_t length) {
    const char *colon = (const char *)memchr(line, ':', length);
    if (colon == NULL || colon == line) {
        return;
    }
    size_t name_length = (size_t)(colon - line);
    const char *value = colon + 1;
    size_t left = length - name_length - 1;
    for (; left > 0 && (*value == ' ' || *value == '\t'); value++) {
        left--;
    }
    while (left > 0 && (value[left - 1] == ' ' || value[left - 1] == '\t')) {
        left--;
    }
    if (!wafer__is_framing(line, name_length)) {
        wafer__add_header(res, line, name_length, value, left);
    }
}

/* The status in a status line; 0 if the text is no status line. */
static int wafer__status(const char *text) {
    const char *blank = strncmp(text, "HTTP/", 5) == 0 ? strpbrk(text, " \r\n") : NULL;
    if (blank == NULL || *blank != ' ') {
        return 0;
    }
    int status = atoi(blank + 1);
    return status >= 100 && status <= 999 ? status : 0;
}

static void wafer__drop_headers(http_response_t *res) {
    for (size_t i = 0; i < res->headers->size; i++) {
        free(res->headers->entries[i].key);
        free(res->headers->entries[i].value);
    }
    res->headers->size = 0;
}

/* Reads the heads at the start of `bytes`, which end in a NUL, into `res`; interim heads (1xx) are dropped. Returns the
 * offset of the body. */
static size_t wafer__take_head(http_response_t *res, const char *bytes, size_t length) {
    size_t at = 0;
    int status = 0;
    while (status < 200 && (status = wafer__status(bytes + at)) != 0) {
        wafer__drop_headers(res);
        for (int first = 1; at < length; first = 0) {
            const char *line = bytes + at;
            const char *end = (const char *)memchr(line, '\n', length - at);
            size_t size = end == NULL ? length - at : (size_t)(end - line);
            at += size + (end != NULL);
            size -= size > 0 && line[size - 1] == '\r';
            if (size == 0) {
                break;
            }
            if (!first) {
                wafer__take_header(res, line, size);
            }
        }
    }
    if (status == 0) {
        wafer__drop_headers(res);
        wafer__add_header(res, "Content-Type", 12, "text/html", 9);
    }
    res->status = (http_error_t)(status == 0 ? 200 : status);
    return at;
}

/* Replaces the content type of the head by the type that setMimeType() was called with. */
static void wafer__set_type(http_response_t *res) {
    http_kv_pair_t *pair = cweb_kv_find(res->headers, "content-type");
    char *type = strdup(wafer__call.type);
    if (pair != NULL && type != NULL) {
        free(pair->value);
        pair->value = type;
        return;
    }
    free(type);
    wafer__add_header(res, "Content-Type", 12, wafer__call.type, strlen(wafer__call.type));
}

static int wafer__take_answer(http_response_t *res, off_t written) {
    size_t length = (size_t)written;
    char *bytes = (char *)malloc(length + 1);
    if (bytes == NULL) {
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "out of memory\n");
    }
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(wafer__call.kept, bytes + done, length - done, (off_t)done);
        if (got <= 0) {
            length = done;
        } else {
            done += (size_t)got;
        }
    }
    bytes[length] = '\0';
    size_t body = wafer__take_head(res, bytes, length);
    memmove(bytes, bytes + body, length - body + 1);
    cweb_set_body(res, bytes, length - body);
    if (wafer__call.type[0] != '\0') {
        wafer__set_type(res);
    }
    return 0;
}

/* ---- The module ---- */

static off_t wafer__written(void) {
    return lseek(wafer__call.kept, 0, SEEK_CUR);
}

static int wafer__handle(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    Request request = {0};
    Response response = {0};
    wafer__clear();
    wafer__call.request = req;
    if (wafer__read_request(req, &request) != 0 || wafer__open() != 0) {
        cweb_log(CWEB_LOG_ERROR, "the call has no file in memory for its answer: %s", strerror(errno));
        wafer__clear();
        return cweb_respond(res, (http_error_t)503, "text/plain", "no memory for the answer\n");
    }
    request.client = response.fd = wafer__call.given;
    wafer__run(&request, &response);
    if (wafer__written() == 0 && cweb_wafer_not_found != NULL) {
        cweb_wafer_not_found(&request, &response);
    }
    off_t written = wafer__written();
    if (wafer__call.too_large || written > WAFER_ANSWER_BYTES_MAX) {
        cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain",
                     "the app's answer is larger than %ld MiB, the limit of an app for WAFer\n",
                     WAFER_ANSWER_BYTES_MAX >> 20);
    } else if (written <= 0) {
        res->status = (http_error_t)WAFER_DECLINED;
    } else {
        wafer__take_answer(res, written);
    }
    wafer__clear();
    return 0;
}

export module_t config;
static char wafer__pattern[2 * CWEB_NAME_SIZE];

/* A constructor, because it must run before the server reads `config`: which functions the app defines is known only after
 * linking. */
__attribute__((constructor)) static void wafer__describe(void) {
    int flags = WAFER_FALLBACK | WAFER_SERIAL | (cweb_wafer_not_found != NULL ? WAFER_FINAL : 0);
    snprintf(config.name, sizeof config.name, "%s", wafer__name);
    snprintf(wafer__pattern, sizeof wafer__pattern, wafer__mount[0] == '\0' ? "/.*" : "%s(/.*)?", wafer__mount);
    for (int i = 0; i < CWEB_METHOD_COUNT; i++) {
        config.routes[i].path = wafer__pattern;
        config.routes[i].method = http_methods[i];
        config.routes[i].handler = wafer__handle;
        config.routes[i].flags = flags;
    }
    config.size = CWEB_METHOD_COUNT;
}

#include <wafer_functions.h>
