/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Counts the statuses of an access log while it is uploaded. The sums so far arrive as server-sent events, about once a second
 * or for each 100,000 lines, and the last one when the upload has ended.
 *
 *     curl -N -T access.log http://127.0.0.1:8080/log-stats
 *     tail -f access.log | curl -N -T . http://127.0.0.1:8080/log-stats
 */
#include <cweb.h>
#include <cweb_stream.h>
#include <time.h>

enum { LINES_PER_EVENT = 100000 };

typedef struct {
    long long lines, bytes, classes[6]; /* classes[2]: statuses 200 to 299; classes[0]: lines without a status */
    int after_request;                  /* quotation marks seen in the line */
    int digits, status;                 /* of the word after the request */
} stats_t;

static int tell(http_response_t *res, const char *event, const stats_t *stats) {
    char text[256];
    snprintf(text, sizeof text,
             "{\"lines\":%lld,\"bytes\":%lld,\"2xx\":%lld,\"3xx\":%lld,\"4xx\":%lld,\"5xx\":%lld,\"other\":%lld}", stats->lines,
             stats->bytes, stats->classes[2], stats->classes[3], stats->classes[4], stats->classes[5],
             stats->classes[0] + stats->classes[1]);
    return cweb_sse(res, event, NULL, text);
}

static void end_line(stats_t *stats) {
    int kind = stats->digits == 3 && stats->status >= 100 && stats->status <= 599 ? stats->status / 100 : 0;
    stats->classes[kind]++;
    stats->lines++;
    stats->after_request = stats->digits = stats->status = 0;
}

/* A line of the common log format: HOST - USER [TIME] "GET / HTTP/1.1" STATUS BYTES */
static void take(stats_t *stats, char c) {
    if (c == '\n') {
        end_line(stats);
    } else if (c == '"') {
        stats->after_request++;
    } else if (stats->after_request == 2 && c >= '0' && c <= '9' && stats->digits < 4) {
        stats->digits++;
        stats->status = stats->status * 10 + (c - '0');
    } else if (stats->after_request == 2 && stats->digits > 0) {
        stats->after_request = 3; /* the word has ended */
    }
}

static int log_stats(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx;
    stats_t stats = {0};
    const void *bytes;
    size_t n;
    long long told = 0;
    time_t told_at = time(NULL);
    char last = '\n';
    int got;
    while ((got = cweb_read_view(req, &bytes, &n)) > 0) {
        const char *text = bytes;
        for (size_t i = 0; i < n; i++) take(&stats, text[i]);
        stats.bytes += (long long)n;
        last = n > 0 ? text[n - 1] : last;
        if (stats.lines - told >= LINES_PER_EVENT || (stats.lines > told && time(NULL) != told_at)) {
            told = stats.lines;
            told_at = time(NULL);
            if (tell(res, "so-far", &stats) != 0) return -1; /* the client left */
        }
    }
    if (got < 0) return -1;
    if (last != '\n') end_line(&stats);
    return tell(res, "end", &stats);
}

export module_t config = {
    .name = "log_stats",
    .author = "cweb",
    .routes = {{"/log-stats", "PUT", log_stats, CWEB_STREAM}},
    .size = 1,
};
