/* Forms in pieces, compressed answers in pieces, trailer fields, the end of detached answers: for tests/stream_pieces.rs. */
#include <cweb.h>
#include <cweb_stream.h>

#include <signal.h>
#include <unistd.h>

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define UNUSED (void)ctx, (void)req, (void)res

static const char *errno_name(int e) {
    return e == EPROTO ? "EPROTO" : e == EINVAL ? "EINVAL" : e == E2BIG ? "E2BIG" : e == EMSGSIZE ? "EMSGSIZE"
         : e == ETIMEDOUT ? "ETIMEDOUT" : e == EPIPE ? "EPIPE" : e == ECONNRESET ? "ECONNRESET" : strerror(e);
}

static long number(http_request_t *req, const char *name, long otherwise) {
    const char *text = http_kv_get(req->params, name);
    return text == NULL ? otherwise : atol(text);
}

static unsigned sum_of(unsigned sum, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        sum = sum * 31 + (unsigned char)bytes[i];
    }
    return sum;
}

/* A line for each part: "NAME FILE TYPE BYTES SUM"; ?skip: contents are not read; ?piece: bytes a read. */
H(parts) {
    UNUSED;
    cweb_part_t part;
    int got;
    char *out = cweb_alloc(req, 65536);
    size_t used = 0;
    size_t piece = (size_t)number(req, "piece", 5000);
    char *buffer = malloc(piece);
    ssize_t n = 0;
    while ((got = cweb_next_part(req, &part)) > 0) {
        size_t bytes = 0;
        unsigned sum = 0;
        while (http_kv_get(req->params, "skip") == NULL && (n = cweb_part_read(req, buffer, piece)) > 0) {
            bytes += (size_t)n;
            sum = sum_of(sum, buffer, (size_t)n);
        }
        if (n < 0) {
            got = -1;
            break;
        }
        if (used < 60000) {
            used += (size_t)snprintf(out + used, 1000, "%s %s %s %zu %u%s\n", part.name, part.file_name ? part.file_name : "-",
                                     part.content_type ? part.content_type : "-", bytes, sum,
                                     part.bytes != NULL || part.length != 0 || cweb_part_read(req, buffer, 1) != 0 ? "?" : "");
        }
    }
    int error = errno;
    free(buffer);
    if (got == 0) {
        /* It stays at its end. */
        got = cweb_next_part(req, &part);
    }
    snprintf(out + used, 100, "%s\n", got < 0 ? errno_name(error) : "end");
    return cweb_respond(res, HTTP_200_OK, NULL, "%s", out);
}

/* ?pieces lines, each written by itself; ?type; ?length; ?crash before the end; ?detach after the head. */
H(lines) {
    UNUSED;
    const char *type = http_kv_get(req->params, "type"), *length = http_kv_get(req->params, "length");
    cweb_header(res, "content-type", type != NULL ? type : "text/plain");
    cweb_header(res, "etag", "\"lines\"");
    if (length != NULL) {
        cweb_header(res, "content-length", length);
    }
    if (cweb_begin(res, HTTP_200_OK) != 0) {
        return 0;
    }
    long pieces = number(req, "pieces", 3);
    cweb_stream_t *stream = http_kv_get(req->params, "detach") != NULL ? cweb_detach(req, res) : NULL;
    for (long i = 0; i < pieces; i++) {
        char line[100];
        int n = snprintf(line, sizeof line, "line %ld of some text that is much the same\n", i);
        if (stream == NULL ? cweb_write(res, line, (size_t)n) != 0 : cweb_stream_write(stream, line, (size_t)n) != 0) {
            break;
        }
    }
    if (http_kv_get(req->params, "crash") != NULL) {
        raise(SIGSEGV);
    }
    return stream != NULL ? cweb_stream_close(stream) : 0;
}

/* What handlers, jobs and callbacks have seen, for GET /seen. */
static char seen[1000];

/* A large piece that does not compress, and waits for its client. */
H(noise) {
    UNUSED;
    size_t bytes = (size_t)number(req, "bytes", 3000000);
    unsigned state = 1;
    char *piece = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        piece[i] = (char)(state >> 24);
    }
    cweb_header(res, "content-type", "text/plain");
    cweb_begin(res, HTTP_200_OK);
    if (cweb_write(res, piece, bytes) != 0) {
        snprintf(seen, sizeof seen, "write %s", errno_name(errno));
    }
    free(piece);
    return 0;
}

/* An answer and a line after each byte of the body: what was written is there before the next is. */
H(live) {
    UNUSED;
    char byte;
    cweb_header(res, "content-type", "text/plain");
    cweb_begin(res, HTTP_200_OK);
    while (cweb_read(req, &byte, 1) == 1) {
        cweb_printf(res, "%c is what came\n", byte);
    }
    return 0;
}

H(trailers) {
    UNUSED;
    char long_value[5000];
    memset(long_value, 'v', sizeof long_value - 1);
    long_value[sizeof long_value - 1] = '\0';
    const char *length = http_kv_get(req->params, "length");
    int early = cweb_trailer(res, "x-sum", "0") == 0 ? 0 : errno;
    cweb_header(res, "content-type", "text/plain");
    cweb_header(res, "trailer", "x-sum");
    if (length != NULL) {
        cweb_header(res, "content-length", length);
    }
    cweb_begin(res, HTTP_200_OK);
    int never = cweb_trailer(res, "content-length", "3") == 0 ? 0 : errno;
    int split = cweb_trailer(res, "x-sum", "1\r\nx: y") == 0 ? 0 : errno;
    int large = cweb_trailer(res, "x-sum", long_value) == 0 ? 0 : errno;
    cweb_printf(res, "%s ", errno_name(early));
    cweb_printf(res, "%s ", errno_name(never));
    cweb_printf(res, "%s ", errno_name(split));
    cweb_printf(res, "%s", errno_name(large));
    cweb_trailer(res, "X-Sum", "1f 2e");
    cweb_trailer(res, "X-More", "");
    return 0;
}

H(last) {
    UNUSED;
    cweb_header(res, "connection", "x-hop, Close");
    cweb_header(res, "content-length", "4");
    cweb_begin(res, HTTP_200_OK);
    return cweb_write(res, "last", 4);
}

H(subscribe) {
    UNUSED;
    cweb_stream_t *stream = cweb_detach(req, res);
    return stream == NULL ? 0 : cweb_stream_write(stream, "welcome", 7);
}

H(count) {
    UNUSED;
    char buffer[1000];
    long bytes = 0;
    ssize_t n;
    while ((n = cweb_read(req, buffer, sizeof buffer)) > 0) {
        bytes += n;
    }
    return cweb_respond(res, HTTP_200_OK, NULL, "%ld", bytes);
}

H(pid) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", (int)getpid());
}

/* Works until it is to end. */
static int patient(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload;
    long long begin = cweb_job_remaining_ms(job);
    int reason;
    snprintf(seen, sizeof seen, "job runs");
    while ((reason = cweb_job_cancel_reason(job)) == 0) {
        usleep(1000);
    }
    snprintf(seen, sizeof seen, "job %d %s %lld", reason, begin == -1 ? "unlimited" : begin > 0 && begin <= 300 ? "limited" : "?",
             cweb_job_remaining_ms(job));
    return 0;
}

/* Works until its client has left. */
static void on_message(struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length) {
    (void)ctx, (void)message, (void)length;
    snprintf(seen, sizeof seen, "socket %d", cweb_ws_canceled(ws));
    while (cweb_ws_canceled(ws) == 0) {
        usleep(1000);
    }
    snprintf(seen, sizeof seen, "socket is gone");
}

H(get_seen) {
    UNUSED;
    if (http_kv_get(req->params, "clear") != NULL) {
        seen[0] = '\0';
    }
    return cweb_respond(res, HTTP_200_OK, NULL, "%s", seen);
}

export module_t config = {
    .name = "pieces",
    .author = "test",
    .routes = {
        {"/parts", "POST", parts, CWEB_STREAM},
        {"/parts-whole", "POST", parts, NONE},
        {"/lines", "GET", lines, NONE},
        {"/lines", "HEAD", lines, NONE},
        {"/plain-lines", "GET", lines, CWEB_NO_COMPRESS},
        {"/stream-lines", "GET", lines, CWEB_STREAM},
        {"/noise", "GET", noise, NONE},
        {"/live", "POST", live, CWEB_STREAM},
        {"/trailers", "GET", trailers, NONE},
        {"/last", "GET", last, NONE},
        {"/subscribe", "GET", subscribe, NONE},
        {"/count", "POST", count, CWEB_STREAM},
        {"/pid", "GET", pid, NONE},
        {"/seen", "GET", get_seen, NONE},
    },
    .size = 14,
    .websockets = {{"/ws", NULL, on_message, NULL, 0}},
    .ws_size = 1,
    .jobs = {{.name = "patient", .run = patient}},
    .job_size = 1,
};
