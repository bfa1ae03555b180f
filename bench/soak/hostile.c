/* A module that does its worst: KIND says what, NAME is its name. For scripts/soak. */
#include <cweb.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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
#define DATABASE 10
#define SPIN 11
#define FORKS 12
#define CALLS 13
#define PATHS 14

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

/* Fills the database, and leaves it locked. */
static void database(struct sqldb *db) {
    char *error = NULL;
    db->exec(db, "CREATE TABLE IF NOT EXISTS filler (x)", NULL, &error);
    for (int i = 0; i < 16 && db->exec(db, "INSERT INTO filler VALUES (randomblob(4000000))", NULL, &error) == SQLITE_OK; i++) {
    }
    db->exec(db, "BEGIN IMMEDIATE", NULL, &error);
}

static void *spins(void *data) {
    for (time_t end = time(NULL) + 3; time(NULL) < end;) {
    }
    return data;
}

/* Threads by libc, which the server counts, that compute for some seconds. */
static void spin(void) {
    pthread_t thread;
    for (int i = 0; i < 32 && pthread_create(&thread, NULL, spins, NULL) == 0; i++) {
        pthread_detach(thread);
    }
}

/* Processes where a call has one of its own, which hold memory that no heap has; then it hangs. */
static void forks(void) {
    for (int i = 0; i < 64; i++) {
        if (fork() == 0) {
            pause();
        }
    }
    int memory = (int)syscall(SYS_memfd_create, "filler", 0);
    if (memory >= 0 && ftruncate(memory, (off_t)(64 * MIB)) == 0) {
        char *taken = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        if (taken != MAP_FAILED) {
            memset(taken, 1, 64 * MIB);
        }
    }
    for (;;) {
        pause();
    }
}

/* System calls that are refused, each with a trap. */
static void calls(void) {
    for (int i = 0; i < 20000; i++) {
        (void)syscall(SYS_ptrace, 0, 0, 0, 0);
        (void)syscall(SYS_kill, -1, 9);
        (void)syscall(SYS_socket, 2, 1, 0);
    }
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
    case DATABASE:
        database(ctx->database);
        break;
    case SPIN:
        spin();
        break;
    case FORKS:
        forks();
        break;
    case CALLS:
        calls();
        break;
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
    .routes = {{"/" NAME "/go", "GET", go, KIND == FORKS ? CWEB_KILLABLE : NONE},
               {"/" NAME "/go/(a|aa|aaa)*b", "GET", go, NONE},
               {"/" NAME "/go/([a-z]*[a-f])*[0-9]", "GET", go, NONE}},
    .size = 3,
    .websockets = {{"/" NAME "/ws", NULL, on_message, NULL}},
    .ws_size = 1,
    .jobs = {{.name = NAME "-hang", .run = hang}},
    .job_size = 1,
};
