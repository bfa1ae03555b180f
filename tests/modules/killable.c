/* Handlers in processes of their own, for tests/streams.rs. */
#include <cweb.h>
#include <cweb_file.h>
#include <cweb_stream.h>
#include <cweb_websocket.h>
#include <libevent.h>

#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define H(f) static int f(struct cweb_context *ctx, http_request_t *req, http_response_t *res)
#define UNUSED (void)ctx, (void)req, (void)res
#define TABLE_BYTES (4 * 1024 * 1024)

static unsigned char *table; /* made in onload */
static char color[32];       /* the setting, as onload or on_setting has seen it */
static atomic_int count;

H(counted) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d %d", atomic_fetch_add(&count, 1) + 1, (int)getpid());
}

/* What onload has set up is there; what others change, and this handler, is not. */
H(look) {
    UNUSED;
    int before = atomic_fetch_add(&count, 100);
    unsigned sum = 0;
    for (int i = 0; i < TABLE_BYTES; i += 4096) {
        sum += table[i]++;
    }
    ctx->cache != NULL ? (void)container_set(ctx->cache, "left", table) : (void)0;
    printf("looked at %u\n", sum);
    return cweb_respond(res, HTTP_200_OK, NULL, "%d %u %s", before, sum, color);
}

H(pid) {
    UNUSED;
    return cweb_respond(res, HTTP_200_OK, NULL, "%d", (int)getpid());
}

H(spin) {
    UNUSED;
    for (volatile int i = 0;; i++) {
    }
    return 0;
}

/* Blocks what can be blocked, and waits for ever. */
H(stubborn) {
    UNUSED;
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    for (;;) {
        pause();
    }
    return 0;
}

static void *fault(void *arg) {
    *(volatile int *)8 = 1;
    return arg;
}

H(crash) {
    UNUSED;
    const char *how = http_kv_get(req->params, "how");
    pthread_t thread;
    switch (how == NULL ? 0 : *how) {
    case 'a': abort();
    case 'e': exit(3);
    case 'E': _exit(4);
    case 't':
        pthread_create(&thread, NULL, fault, NULL);
        pthread_join(thread, NULL);
        break;
    case 'f': {
        int child = (int)fork();
        return cweb_respond(res, HTTP_200_OK, NULL, "%d %d", child, errno);
    }
    case 'p': {
        int process = (int)syscall(SYS_pidfd_open, getpid(), 0);
        int process_errno = errno;
        unsigned action = 0x7fff0000; /* SECCOMP_RET_ALLOW, in SECCOMP_GET_ACTION_AVAIL */
        int filter = (int)syscall(SYS_seccomp, 2, 0, &action);
        return cweb_respond(res, HTTP_200_OK, NULL, "%d %d %d %d", process, process_errno, filter, errno);
    }
    default: fault(NULL);
    }
    return 0;
}

H(echo) {
    UNUSED;
    const char *kind = http_kv_get(req->headers, "content-type");
    const char *id = cweb_param(req, "id");
    char *copy = cweb_alloc(req, (size_t)req->content_length + 1);
    memcpy(copy, req->body, (size_t)req->content_length);
    cweb_header(res, "x-id", id == NULL ? "none" : id);
    cweb_header(res, "x-left", cweb_remaining_ms(req) > 0 && cweb_remaining_ms(req) <= 30000 ? "some" : "none");
    return cweb_respond_data(res, 201, kind, copy, (size_t)req->content_length);
}

static void nothing(void *arg) {
    (void)arg;
}

static void on_event(struct event *event, void *arg) {
    (void)event, (void)arg;
}

/* Which of the services fail with ENOTSUP. */
H(services) {
    cweb_uuid_t uuid;
    char out[256];
    size_t at = 0;
#define TRY(name, failed) \
    errno = 0; \
    at += (size_t)snprintf(out + at, sizeof out - at, "%s:%s ", name, (failed) ? errno == ENOTSUP ? "ENOTSUP" : strerror(errno) : "ok")
    TRY("job", jobs_create("work", "{}", &uuid) != 0);
    TRY("begin", cweb_begin(res, 200) != 0);
    TRY("detach", cweb_detach(req, res) == NULL);
    TRY("stream", cweb_stream_write((cweb_stream_t *)(uintptr_t)1, "x", 1) != 0);
    TRY("file", cweb_send_file_from(req, res, "static", "x", 0) != 0);
    TRY("sql", ctx->database->exec(ctx->database, "CREATE TABLE IF NOT EXISTS k (n)", NULL, NULL) != SQLITE_OK);
    TRY("work", scheduler_add(ctx->scheduler, nothing, NULL, ASYNC) != 0);
    TRY("room", cweb_ws_publish("room", "x", 1, CWEB_WS_TEXT) != 0);
    struct event *event = event_new(0, 0, on_event, NULL);
    TRY("event", event_add(event) != 0);
    return cweb_respond(res, HTTP_200_OK, NULL, "%s", out);
}

static int work(struct cweb_context *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx, (void)payload, (void)job;
    return 0;
}

static void onload(struct cweb_context *ctx) {
    table = malloc(TABLE_BYTES);
    memset(table, 1, TABLE_BYTES);
    const char *set = cweb_setting(ctx, "COLOR");
    snprintf(color, sizeof color, "%s", set == NULL ? "none" : set);
}

static void on_setting(struct cweb_context *ctx, const char *key) {
    (void)key;
    const char *set = cweb_setting(ctx, "COLOR");
    snprintf(color, sizeof color, "%s", set == NULL ? "none" : set);
}

static void unload(struct cweb_context *ctx) {
    (void)ctx;
    free(table);
}

export module_t config = {
    .name = "killable",
    .author = "tests",
    .routes = {{"/count", "GET", counted, NONE},
               {"/look", "GET", look, CWEB_KILLABLE},
               {"/pid", "GET", pid, CWEB_KILLABLE},
               {"/spin", "GET", spin, CWEB_KILLABLE | CWEB_TIMEOUT_S(1)},
               {"/stubborn", "GET", stubborn, CWEB_KILLABLE},
               {"/crash", "GET", crash, CWEB_KILLABLE},
               {"/echo/:id", "POST", echo, CWEB_KILLABLE | CWEB_BODY_MIB(4)},
               {"/services", "GET", services, CWEB_KILLABLE}},
    .size = 8,
    .jobs = {{"work", work, NULL}},
    .job_size = 1,
    .onload = onload,
    .unload = unload,
    .on_setting = on_setting,
};
