/* Streams, for tests/streams.rs. */
#include <cweb.h>
#include <cweb_stream.h>

#include <inttypes.h>
#include <stdatomic.h>
#include <unistd.h>

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define UNUSED (void)ctx, (void)req, (void)res

static long number(http_request_t *req, const char *name, long otherwise) {
    const char *text = http_kv_get(req->params, name);
    return text == NULL ? otherwise : atol(text);
}

static const char *errno_name(int e) {
    switch (e) {
    case ECONNRESET: return "ECONNRESET";
    case ETIMEDOUT: return "ETIMEDOUT";
    case EMSGSIZE: return "EMSGSIZE";
    case EPROTO: return "EPROTO";
    case ECANCELED: return "ECANCELED";
    case EINVAL: return "EINVAL";
    case EALREADY: return "EALREADY";
    case EPERM: return "EPERM";
    case EPIPE: return "EPIPE";
    case EBADF: return "EBADF";
    case EBUSY: return "EBUSY";
    default: return strerror(e);
    }
}

/* The outcomes of handlers whose clients have left, for GET /seen: a line each. */
static pthread_mutex_t seen_lock = PTHREAD_MUTEX_INITIALIZER;
static char seen[4096];

__attribute__((format(printf, 1, 2))) static void note(const char *format, ...) {
    va_list list;
    va_start(list, format);
    pthread_mutex_lock(&seen_lock);
    size_t length = strlen(seen);
    vsnprintf(seen + length, sizeof seen - length, format, list);
    pthread_mutex_unlock(&seen_lock);
    va_end(list);
}

H(get_seen) {
    UNUSED;
    pthread_mutex_lock(&seen_lock);
    snprintf(res->body, HTTP_RESPONSE_SIZE, "%s", seen);
    if (http_kv_get(req->params, "clear") != NULL) {
        seen[0] = '\0';
    }
    pthread_mutex_unlock(&seen_lock);
    return 0;
}

static uint64_t mix(uint64_t sum, const unsigned char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        sum = (sum ^ bytes[i]) * 0x100000001b3u;
    }
    return sum;
}

/* "BYTES SUM LENGTH ERRNO" of the body, read by cweb_read (?view: by cweb_read_view) in pieces of ?piece bytes. */
H(sum) {
    UNUSED;
    size_t piece = (size_t)number(req, "piece", 65536);
    unsigned char *buffer = malloc(piece + 1);
    uint64_t all = 0xcbf29ce484222325u;
    long long bytes = 0, largest = 0;
    int error = 0;
    for (;;) {
        if (http_kv_get(req->params, "view") != NULL) {
            const void *at;
            size_t n;
            int got = cweb_read_view(req, &at, &n);
            if (got <= 0) {
                error = got < 0 ? errno : 0;
                break;
            }
            all = mix(all, at, n);
            bytes += (long long)n;
        } else {
            ssize_t got = cweb_read(req, buffer, piece);
            if (got <= 0) {
                error = got < 0 ? errno : 0;
                break;
            }
            all = mix(all, buffer, (size_t)got);
            bytes += got;
            largest = got > largest ? got : largest;
        }
    }
    free(buffer);
    if (http_kv_get(req->params, "largest") != NULL) {
        note("largest %lld\n", largest);
    }
    note("sum %s\n", error == 0 ? "0" : errno_name(error));
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%lld %016" PRIx64 " %lld %s", bytes, all, cweb_body_length(req),
                         error == 0 ? "0" : errno_name(error));
}

/* Sends the body back as it comes. */
H(echo) {
    UNUSED;
    char buffer[10000];
    ssize_t got;
    if (cweb_begin(res, HTTP_200_OK) != 0) {
        return 0;
    }
    while ((got = cweb_read(req, buffer, sizeof buffer)) > 0) {
        if (cweb_write(res, buffer, (size_t)got) != 0) {
            note("echo write %s\n", errno_name(errno));
            return 0;
        }
    }
    return 0;
}

static atomic_int go;

/* Waits for GET /go before it reads: a handler that does not take its body. */
H(later) {
    note("in later\n");
    while (atomic_load(&go) == 0 && cweb_canceled(req) == 0) {
        usleep(1000);
    }
    return sum(ctx, req, res);
}

H(open_gate) {
    UNUSED;
    atomic_store(&go, (int)number(req, "n", 1));
    return 0;
}

/* Answers without reading. */
H(ignore) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "ignored");
}

/* ?bytes of a pattern in pieces of ?piece; ?length declares a length; ?status; ?crash faults after them. */
H(make) {
    UNUSED;
    long bytes = number(req, "bytes", 0), piece = number(req, "piece", 30000);
    const char *length = http_kv_get(req->params, "length");
    if (length != NULL) {
        cweb_header(res, "content-length", length);
    }
    cweb_header(res, "x-made", "yes");
    if (cweb_begin(res, (int)number(req, "status", 200)) != 0) {
        note("begin %s\n", errno_name(errno));
        return 0;
    }
    if (cweb_begin(res, 200) == 0 || errno != EALREADY) {
        note("begun twice\n");
    }
    char *buffer = malloc((size_t)piece);
    long at = 0;
    while (at < bytes) {
        long n = bytes - at < piece ? bytes - at : piece;
        for (long i = 0; i < n; i++) {
            buffer[i] = (char)((at + i) % 251);
        }
        if (cweb_write(res, buffer, (size_t)n) != 0) {
            note("make %s\n", errno_name(errno));
            break;
        }
        at += n;
    }
    free(buffer);
    if (http_kv_get(req->params, "crash") != NULL) {
        static volatile uintptr_t bad = 8;
        *(volatile int *)bad = 1;
    }
    return 0;
}

H(text) {
    UNUSED;
    cweb_begin(res, HTTP_200_OK);
    for (int i = 0; i < 3; i++) {
        cweb_printf(res, "line %d\n", i);
    }
    return cweb_flush(res);
}

H(events) {
    UNUSED;
    cweb_sse(res, "first", "1", "one\ntwo");
    return cweb_sse(res, NULL, NULL, "three");
}

/* What can't be done, in the words of errno. */
H(wrong) {
    UNUSED;
    char byte;
    int write_before = cweb_write(res, "x", 1), write_errno = errno;
    ssize_t read = cweb_read(req, &byte, 1);
    int read_errno = errno;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d %s %zd %s", write_before, errno_name(write_errno), read,
                         errno_name(read_errno));
}

H(inline_begin) {
    UNUSED;
    int result = cweb_begin(res, HTTP_200_OK);
    return cweb_respond(res, HTTP_200_OK, NULL, "%d %s", result, errno_name(errno));
}

struct writers {
    http_response_t *res;
    char letter;
};

static void *write_letters(void *arg) {
    struct writers *mine = arg;
    char line[101];
    memset(line, mine->letter, 100);
    line[100] = '\n';
    for (int i = 0; i < 500; i++) {
        cweb_write(mine->res, line, sizeof line);
    }
    return NULL;
}

H(two_threads) {
    UNUSED;
    pthread_t threads[2];
    struct writers arguments[2] = {{res, 'a'}, {res, 'b'}};
    cweb_begin(res, HTTP_200_OK);
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, write_letters, &arguments[i]);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    return 0;
}

/* Waits until it is canceled; an ordinary handler. */
H(wait_canceled) {
    UNUSED;
    note("waits\n");
    while (cweb_canceled(req) == 0) {
        usleep(500);
    }
    note("canceled %d\n", cweb_canceled(req));
    char why[8];
    snprintf(why, sizeof why, "%d", cweb_canceled(req));
    cweb_header(res, "x-why", why);
    return cweb_respond(res, HTTP_200_OK, NULL, "over");
}

H(remaining) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%lld %d", cweb_remaining_ms(req), cweb_canceled(req));
}

/* ---- detached streams ---- */

#define STREAMS_MAX 2048
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static cweb_stream_t *streams[STREAMS_MAX];
static size_t stream_count;

static void on_room(void *arg) {
    note("room %ld\n", (long)(intptr_t)arg);
}

static void on_gone(void *arg) {
    note("gone %ld\n", (long)(intptr_t)arg);
}

H(subscribe) {
    UNUSED;
    cweb_header(res, "content-type", "text/event-stream");
    cweb_stream_t *stream = cweb_detach(req, res);
    if (stream == NULL) {
        return cweb_respond(res, HTTP_500_INTERNAL_SERVER_ERROR, NULL, "%s", errno_name(errno));
    }
    if (cweb_detach(req, res) != NULL || errno != EALREADY) {
        note("detached twice\n");
    }
    if (cweb_write(res, "x", 1) == 0 || errno != EPIPE) {
        note("written by the response\n");
    }
    cweb_stream_on(stream, on_room, on_gone, (void *)(intptr_t)number(req, "id", 0));
    /* Before the client hears of it: a client that has its welcome stands in the list, behind those that had theirs before. */
    pthread_mutex_lock(&lock);
    streams[stream_count++] = stream;
    pthread_mutex_unlock(&lock);
    cweb_stream_sse(stream, NULL, NULL, "welcome");
    return 0;
}

/* The body to all; says how many took it. */
H(publish) {
    UNUSED;
    pthread_mutex_lock(&lock);
    size_t taken = cweb_stream_broadcast(streams, stream_count, req->body, (size_t)req->content_length, NULL);
    size_t count = stream_count;
    pthread_mutex_unlock(&lock);
    return cweb_respond(res, HTTP_200_OK, NULL, "%zu of %zu", taken, count);
}

/* ?bytes to stream ?at until it says AGAIN or fails: how many times. */
H(fill) {
    UNUSED;
    static char block[16384];
    memset(block, 'f', sizeof block);
    int times = 0, result;
    pthread_mutex_lock(&lock);
    cweb_stream_t *stream = streams[number(req, "at", 0)];
    pthread_mutex_unlock(&lock);
    while ((result = cweb_stream_write(stream, block, sizeof block)) == 0 && times < 1000000) {
        times++;
    }
    return cweb_respond(res, HTTP_200_OK, NULL, "%s", result == CWEB_AGAIN ? "again" : errno_name(errno));
}

/* Sets the callbacks of stream ?at again, for ?id. */
H(watch) {
    UNUSED;
    pthread_mutex_lock(&lock);
    int result = cweb_stream_on(streams[number(req, "at", 0)], on_room, on_gone, (void *)(intptr_t)number(req, "id", 0));
    pthread_mutex_unlock(&lock);
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", result);
}

H(close_all) {
    UNUSED;
    pthread_mutex_lock(&lock);
    int again = 0;
    for (size_t i = 0; i < stream_count; i++) {
        cweb_stream_close(streams[i]);
        again += cweb_stream_close(streams[i]) == 0 || errno != EBADF;
        again += cweb_stream_write(streams[i], "x", 1) == 0 || errno != EBADF;
    }
    stream_count = 0;
    pthread_mutex_unlock(&lock);
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", again);
}

H(pid) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", (int)getpid());
}

export module_t config = {
    .name = "streams",
    .author = "test",
    .routes = {
        {"/sum", "POST", sum, CWEB_STREAM},
        {"/sum", "PUT", sum, CWEB_STREAM},
        {"/sum", "GET", sum, CWEB_STREAM},
        {"/limited", "POST", sum, CWEB_STREAM | CWEB_BODY_MIB(1)},
        {"/brief", "POST", sum, CWEB_STREAM | CWEB_TIMEOUT_S(1)},
        {"/echo", "POST", echo, CWEB_STREAM},
        {"/later", "POST", later, CWEB_STREAM},
        {"/go", "GET", open_gate, NONE},
        {"/ignore", "POST", ignore, CWEB_STREAM},
        {"/make", "GET", make, NONE},
        {"/make", "HEAD", make, NONE},
        {"/stream-make", "GET", make, CWEB_STREAM},
        {"/text", "GET", text, NONE},
        {"/events", "GET", events, NONE},
        {"/wrong", "POST", wrong, NONE},
        {"/inline", "GET", inline_begin, CWEB_INLINE},
        {"/two-threads", "GET", two_threads, NONE},
        {"/wait", "GET", wait_canceled, NONE},
        {"/wait-stream", "POST", wait_canceled, CWEB_STREAM},
        {"/remaining", "GET", remaining, CWEB_TIMEOUT_S(20)},
        {"/remaining-stream", "POST", remaining, CWEB_STREAM},
        {"/subscribe", "GET", subscribe, NONE},
        {"/subscribe", "POST", subscribe, CWEB_STREAM},
        {"/publish", "POST", publish, NONE},
        {"/fill", "GET", fill, NONE},
        {"/watch", "GET", watch, NONE},
        {"/close", "GET", close_all, NONE},
        {"/pid", "GET", pid, NONE},
        {"/seen", "GET", get_seen, NONE},
    },
    .size = 29,
};
