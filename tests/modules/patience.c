/* Handlers and callbacks that take their time: for the limits of time. */
#define _GNU_SOURCE
#include <cweb.h>
#include <cweb_stream.h>
#include <errno.h>
#include <unistd.h>

#define H(name) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r)

static _Atomic int written, failed;

static unsigned ms(http_request_t *q) {
    const char *text = http_kv_get(q->params, "ms");
    return text ? (unsigned)atoi(text) : 0;
}

/* Computes before the first read. */
H(late) {
    char buffer[64];
    ssize_t got, all = 0;
    (void)c;
    usleep(ms(q) * 1000);
    while ((got = cweb_read(q, buffer, sizeof buffer)) > 0) all += got;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", got < 0 ? -errno : (int)all);
}

/* Writes for as long as that succeeds, 100 times at most. */
H(drip) {
    (void)c, (void)q;
    cweb_begin(r, HTTP_200_OK);
    for (written = failed = 0; written < 100 && !failed; written++) {
        usleep(20 * 1000);
        if (cweb_printf(r, "%d\n", written) < 0) failed = errno;
    }
    return 0;
}

H(dripped) {
    (void)c, (void)q;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%s %s", written < 50 ? "few" : "many", failed == ETIMEDOUT ? "ETIMEDOUT" : "");
}

H(slow) {
    (void)c;
    usleep(ms(q) * 1000);
    return cweb_respond(r, HTTP_200_OK, "text/plain", "slow");
}

static void echo(struct cweb_context *c, websocket_t *ws, const char *text, size_t length) {
    (void)c;
    ws->send(ws, text, length);
}

export module_t config = {
    .name = "patience", .author = "test",
    .routes = {
        {"/late", "PUT", late, CWEB_STREAM | CWEB_TIMEOUT_S(60)},
        {"/drip", "GET", drip, CWEB_TIMEOUT_S(60)},
        {"/dripped", "GET", dripped, CWEB_TIMEOUT_S(60)},
        {"/slow", "GET", slow, CWEB_TIMEOUT_S(60)},
        {"/other", "GET", slow, NONE},
    },
    .size = 5,
    .websockets = {{"/echo", NULL, echo, NULL}}, .ws_size = 1,
};
