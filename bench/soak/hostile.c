/* A module that does its worst: KIND says what, NAME is its name. For scripts/soak. */
#include <cweb.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#define THREADS 0
#define MEMORY 1
#define DESCRIPTORS 2
#define DISK 3
#define CRASH 4
#define HANG 5
#define OUTPUT 6
#define ANSWERS 7
#define FRAMES 8
#define WORK 9

#define HANDLER(f) static int f(cweb_context_t *ctx, http_request_t *req, http_response_t *res)
#define MIB ((size_t)1 << 20)

static void *sleeps(void *data) {
    pause();
    return data;
}

static void threads(void) {
    pthread_t thread;
    while (pthread_create(&thread, NULL, sleeps, NULL) == 0) {
        pthread_detach(thread);
    }
}

static void memory(void) {
    for (int i = 0; i < 8; i++) {
        char *taken = malloc(64 * MIB);
        if (taken != NULL) {
            memset(taken, 1, 64 * MIB);
        }
    }
}

static void disk(void) {
    static char block[1 << 20];
    char path[512];
    snprintf(path, sizeof path, "%s/filler", getenv("TMPDIR"));
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    while (fd >= 0 && write(fd, block, sizeof block) == (ssize_t)sizeof block) {
    }
    close(fd);
}

static void output(void) {
    static char lines[1 << 16];
    memset(lines, 'x', sizeof lines);
    for (size_t at = 63; at < sizeof lines; at += 64) {
        lines[at] = '\n';
    }
    for (int i = 0; i < 512; i++) {
        ssize_t written = write(i % 2 + 1, lines, sizeof lines);
        (void)written;
    }
}

HANDLER(go) {
    (void)ctx;
    (void)req;
    switch (KIND) {
    case THREADS:
        threads();
        break;
    case MEMORY:
        memory();
        break;
    case DESCRIPTORS:
        while (dup(0) >= 0) {
        }
        break;
    case DISK:
        disk();
        break;
    case CRASH:
        *(volatile int *)8 = 1;
        break;
    case HANG:
        for (;;) {
            usleep(1000);
        }
    case OUTPUT:
        output();
        break;
    case ANSWERS:
        free(res->body);
        res->body = malloc(32 * MIB);
        memset(res->body, 'x', 32 * MIB);
        res->content_length = (int)(32 * MIB);
        return 0;
    default:
        break;
    }
    strcpy(res->body, "done");
    return 0;
}

static void on_message(cweb_context_t *ctx, websocket_t *ws, const char *text, size_t length) {
    static char frame[1 << 20];
    (void)ctx;
    (void)text;
    (void)length;
    for (int i = 0; i < 64 && ws->send(ws, frame, sizeof frame) == 0; i++) {
    }
}

static int hang(cweb_context_t *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    (void)payload;
    while (!job->is_canceled(job)) {
        job->emit_event(job, "flood", "{}");
        usleep(1000);
    }
    return -1;
}

export module_t config = {
    .name = NAME,
    .author = "soak",
    .routes = {{"/" NAME "/go", "GET", go, NONE}},
    .size = 1,
    .websockets = {{"/" NAME "/ws", NULL, on_message, NULL}},
    .ws_size = 1,
    .jobs = {{.name = NAME "-hang", .run = hang}},
    .job_size = 1,
};
