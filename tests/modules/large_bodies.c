/* Large bodies and messages, up and down; and what may happen meanwhile. */
#define _GNU_SOURCE
#include <cweb.h>
#include <cweb_file.h>
#include <signal.h>
#include <unistd.h>

#define H(name) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r)

static _Atomic int held, released;

static unsigned long sum(const char *bytes, size_t n) {
    unsigned long sum = 0;
    for (size_t i = 0; i < n; i++) sum = sum * 31 + (unsigned char)bytes[i];
    return sum;
}

static size_t number(http_request_t *q, const char *name) {
    const char *text = http_kv_get(q->params, name);
    return text ? strtoul(text, NULL, 10) : 0;
}

H(take) {
    (void)c;
    size_t n = (size_t)q->content_length;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%zu %lu %d", n, sum(q->body, n), q->body[n]);
}

H(make) {
    (void)c;
    size_t n = number(q, "bytes");
    char *body = malloc(n + 1);
    if (!body) return cweb_respond(r, HTTP_500_INTERNAL_SERVER_ERROR, "text/plain", "no memory");
    for (size_t i = 0; i < n; i++) body[i] = (char)(i % 251);
    body[n] = 0;
    free(r->body);
    r->body = body;
    r->content_length = (int)n;
    return 0;
}

H(file) {
    (void)c;
    return cweb_send_file(q, r, "static/large.bin");
}

H(hold) {
    held++;
    for (int i = 0; i < 200000 && !released; i++) usleep(1000);
    return take(c, q, r);
}

H(holding) {
    (void)c, (void)q;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", held);
}

H(release) {
    (void)c, (void)q;
    released = 1;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", held);
}

H(pid) {
    (void)c, (void)q;
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%d", (int)getpid());
}

H(die) {
    (void)c, (void)q, (void)r;
    kill(getpid(), SIGKILL);
    return 0;
}

static void length(struct cweb_context *c, websocket_t *ws, const char *m, size_t n) {
    (void)c;
    char text[64];
    snprintf(text, sizeof text, "%zu %lu%s", n, sum(m, n), m[n] ? ", and no NUL behind it" : "");
    ws->send(ws, text, strlen(text));
}

static void echo(struct cweb_context *c, websocket_t *ws, const char *m, size_t n) {
    (void)c;
    ws->send(ws, m, n);
}

export module_t config = {
    .name = "large", .author = "test",
    .routes = {
        {"/take", "POST", take, CWEB_BODY_MIB(64)},
        {"/huge", "POST", take, CWEB_BODY_MIB(600)},
        {"/hold", "POST", hold, CWEB_BODY_MIB(32)},
        {"/make", "GET", make, NONE},
        {"/file", "GET", file, NONE},
        {"/holding", "GET", holding, NONE},
        {"/release", "GET", release, NONE},
        {"/pid", "GET", pid, NONE},
        {"/die", "GET", die, NONE},
    },
    .size = 9,
    .websockets = {{"/len", NULL, length, NULL}, {"/echo", NULL, echo, NULL}},
    .ws_size = 2,
};
