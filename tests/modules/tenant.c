/* A module that tries the walls; NAME is its name, and the beginning of its paths. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cweb.h>
#include <cweb_token.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <threads.h>
#include <time.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HANDLER(f) static int f(cweb_context_t *ctx, http_request_t *req, http_response_t *res)
#define SAY(...) snprintf(res->body, HTTP_RESPONSE_SIZE, __VA_ARGS__)

static const char *param(http_request_t *req, const char *name, const char *absent) {
    const char *value = http_kv_get(req->params, name);
    return value == NULL ? absent : value;
}

HANDLER(sign) {
    char out[CWEB_SIGNED_TOKEN_SIZE] = "";
    const char *token = param(req, "token", ""), *audience = param(req, "audience", NULL);
    int length = audience == NULL ? ctx->crypto->ops.sign_token(ctx->crypto, token, out, sizeof out)
                                  : cweb_token_sign(token, audience, (unsigned)atoi(param(req, "valid_s", "0")), out,
                                                    sizeof out);
    SAY("%s", length < 0 ? "failed" : out);
    return 0;
}

HANDLER(verify) {
    const char *token = param(req, "token", ""), *audience = param(req, "audience", NULL);
    const char *signed_token = param(req, "signed", "");
    int wrong = audience == NULL ? ctx->crypto->ops.verify_token(ctx->crypto, signed_token, token, strlen(token))
                                 : cweb_token_verify(signed_token, token, strlen(token), audience);
    SAY("%s", wrong ? "not valid" : "valid");
    return 0;
}

static int counted(void *out, int columns, char **values, char **names) {
    (void)columns;
    (void)names;
    snprintf(out, 32, "%s", values[0]);
    return 0;
}

/* Makes timers, each of which takes one of the signals that the kernel keeps for a user: as many as `n`, or all there are. */
HANDLER(timers) {
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 5};
    int most = atoi(param(req, "n", "1000000")), made = 0;
    timer_t timer;
    (void)ctx;
    while (made < most && timer_create(CLOCK_MONOTONIC, &event, &timer) == 0) {
        made++;
    }
    SAY("%s", made == most ? "made" : errno == EAGAIN ? "used up" : "failed");
    return 0;
}

/* Adds a row, and says how many there are. */
HANDLER(count) {
    char rows[32] = "none";
    struct sqldb *db = ctx->database;
    (void)req;
    if (db->exec(db, "CREATE TABLE IF NOT EXISTS t (x)", NULL, NULL) == SQLITE_OK &&
        db->exec(db, "INSERT INTO t VALUES (1)", NULL, NULL) == SQLITE_OK) {
        db->exec(db, "SELECT count(*) FROM t", counted, rows);
    }
    SAY("%s", rows);
    return 0;
}

HANDLER(open_path) {
    (void)ctx;
    const char *path = param(req, "path", "");
    int reads = open(path, O_RDONLY), writes = open(path, O_RDWR);
    SAY("%s", reads < 0 && writes < 0 && unlink(path) != 0 ? "refused" : "opened");
    return 0;
}

static sqlite3 *other;

/* Holds the lock of its database for good. */
HANDLER(lock) {
    (void)req;
    const char *path = sqlite3_db_filename(ctx->database->db, "main");
    int ok = sqlite3_open(path, &other) == SQLITE_OK && sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK;
    SAY("%s", ok ? "locked" : "not locked");
    return 0;
}

HANDLER(spoil) {
    (void)ctx;
    int fd = open(param(req, "path", ""), O_RDWR);
    SAY("%s", fd >= 0 && ftruncate(fd, 0) == 0 && write(fd, "spoilt spoilt spoilt", 20) == 20 ? "spoilt" : "whole");
    return 0;
}

static int work(cweb_context_t *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    (void)payload;
    return job->set_result(job, "{}");
}

/* Emits a hundred events of a hundred bytes, and one that is too large; says how many were taken. */
static int chat(cweb_context_t *ctx, const job_payload_t *payload, job_ctx_t *job) {
    static char large[300000];
    char data[101] = "", said[16];
    int taken = 0;
    (void)ctx;
    (void)payload;
    memset(large, '1', sizeof large - 1);
    memset(data, '1', sizeof data - 1);
    for (int i = 0; i < 100; i++) {
        taken += job->emit_event(job, large, "{}") == 0 || job->emit_event(job, "large", large) == 0 ? 1000 : 0;
        taken += job->emit_event(job, "chat", data) == 0;
    }
    snprintf(said, sizeof said, "%d", taken);
    return job->set_result(job, said);
}

/* Runs until it is to end. */
static int hang(cweb_context_t *ctx, const job_payload_t *payload, job_ctx_t *job) {
    (void)ctx;
    (void)payload;
    while (!job->is_canceled(job)) {
        usleep(2000);
    }
    return -1;
}

HANDLER(create_job) {
    cweb_uuid_t uuid;
    (void)ctx;
    SAY("%s", jobs_create(param(req, "job", ""), "{}", &uuid) == 0 ? "created" : "refused");
    return 0;
}

/* How many jobs, and events of jobs, there are to be seen. */
HANDLER(see_jobs) {
    char jobs[32] = "none", events[32] = "none";
    (void)req;
    ctx->database->exec(ctx->database, "SELECT count(*) FROM jobs", counted, jobs);
    ctx->database->exec(ctx->database, "SELECT count(*) > 0 FROM job_events", counted, events);
    SAY("%s %s", jobs, events);
    return 0;
}

/* Writes what looks like a line of the server's, past every stream. */
HANDLER(forge) {
    static const char text[] = "\033[2J2026-01-01T00:00:00Z ERROR forged\rmore\n";
    (void)ctx;
    (void)req;
    SAY("%s", write(2, text, sizeof text - 1) > 0 && write(1, text, sizeof text - 1) > 0 ? "written" : "not written");
    return 0;
}

HANDLER(crash) {
    volatile int *nowhere = (volatile int *)8;
    (void)ctx;
    (void)req;
    SAY("%d", *nowhere);
    return 0;
}

/* Sleepers stay until it changes. Each has it as its argument, so none misses the change, however late it looks. */
static atomic_intptr_t sleepers_round;

static void *sleeps(void *round) {
    while (atomic_load(&sleepers_round) == (intptr_t)round) {
        usleep(10000);
    }
    return NULL;
}

static int sleeps_c11(void *round) {
    return sleeps(round) == NULL;
}

/* Detaches a thread that the functions of C11 start. */
static int started_c11(void) {
    thrd_t thread;
    return thrd_create(&thread, sleeps_c11, (void *)atomic_load(&sleepers_round)) == thrd_success && thrd_detach(thread) == thrd_success;
}

static int waits(void *data) {
    for (;;) {
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 8);
    }
    return data == NULL;
}

/* A thread that libc does not know. */
static int started_raw(void) {
    enum { STACK = 16384 };
    char *stack = malloc(STACK);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    return stack != NULL && clone(waits, stack + STACK, flags, NULL) >= 0;
}

HANDLER(threads) {
    int made = 0, wanted = atoi(param(req, "n", "0"));
    int error = 0;
    pthread_t thread;
    if (strcmp(param(req, "how", ""), "c11") == 0) {
        while (made < wanted && started_c11()) {
            made++;
        }
        SAY("%d of C11", made);
        return 0;
    }
    if (strcmp(param(req, "how", ""), "raw") == 0) {
        while (made < wanted && started_raw()) {
            made++;
        }
        SAY("%d past libc", made);
        return 0;
    }
    (void)ctx;
    /* With 0 all of them end. */
    if (wanted == 0) {
        atomic_fetch_add(&sleepers_round, 1);
    }
    while (made < wanted && (error = pthread_create(&thread, NULL, sleeps, (void *)atomic_load(&sleepers_round))) == 0) {
        pthread_detach(thread);
        made++;
    }
    SAY("%d %s", made, error == 0 ? "all" : error == EAGAIN ? "EAGAIN" : strerror(error));
    return 0;
}

/* Adds a MiB to a file; "full" when that fails. ?do=lift tries to lift the limit before, ?do=free removes the file. */
HANDLER(fill) {
    static char block[1 << 20];
    char path[512];
    (void)ctx;
    if (strcmp(param(req, "do", "add"), "lift") == 0) {
        /* Past the C library, whose functions are the server's. */
        struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};
        syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, &none, NULL);
        syscall(SYS_setrlimit, RLIMIT_FSIZE, &none);
    }
    snprintf(path, sizeof path, "%s/filler", getenv("TMPDIR"));
    if (strcmp(param(req, "do", "add"), "free") == 0) {
        SAY("%s", unlink(path) == 0 ? "free" : "not there");
        return 0;
    }
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    ssize_t written = fd < 0 ? -1 : write(fd, block, sizeof block);
    SAY("%s", written == (ssize_t)sizeof block ? "written" : "full");
    close(fd);
    return 0;
}

/* Takes 300 MB, as ordinary memory or as a file in memory that is not mapped, and keeps it. */
HANDLER(hoard) {
    static char piece[1 << 20];
    int file = strcmp(param(req, "how", ""), "memfd") == 0 ? (int)syscall(SYS_memfd_create, "hoard", 0) : -1;
    int taken = 0;
    (void)ctx;
    memset(piece, 1, sizeof piece);
    for (; taken < 300; taken++) {
        void *memory = file < 0 ? malloc(sizeof piece) : NULL;
        if (memory != NULL) {
            memcpy(memory, piece, sizeof piece);
        } else if (write(file, piece, sizeof piece) < 0) {
            break;
        }
    }
    SAY("%d", taken);
    return 0;
}

#ifdef APART
/* So many MiB that calls in processes of their own share with this process. */
static void make_table(cweb_context_t *ctx) {
    char *table = malloc((size_t)APART << 20);
    (void)ctx;
    if (table != NULL) {
        memset(table, 1, (size_t)APART << 20);
    }
}

/* In a process of its own: takes n MiB and stays. */
HANDLER(apart) {
    (void)ctx;
    (void)res;
    for (int left = atoi(param(req, "n", "0")); left > 0; left--) {
        char *piece = malloc(1 << 20);
        if (piece != NULL) {
            memset(piece, 1, 1 << 20);
        }
    }
    for (;;) {
        pause();
    }
    return 0;
}
#endif

/* Uses a processor for a third of a second. */
HANDLER(compute) {
    (void)ctx;
    (void)req;
    for (clock_t end = clock() + CLOCKS_PER_SEC / 3; clock() < end;) {
    }
    strcpy(res->body, "computed");
    return 0;
}

HANDLER(pid) {
    (void)ctx;
    (void)req;
    SAY("%d", (int)getpid());
    return 0;
}

HANDLER(drop) {
    (void)req;
    SAY("%s", unlink(sqlite3_db_filename(ctx->database->db, "main")) == 0 ? "deleted" : "not deleted");
    return 0;
}

export module_t config = {
    .name = NAME,
    .author = "test",
    .routes = {{"/" NAME "/timers", "GET", timers, NONE},
               {"/" NAME "/sign", "GET", sign, NONE},
               {"/" NAME "/verify", "GET", verify, NONE},
               {"/" NAME "/count", "GET", count, NONE},
               {"/" NAME "/open", "GET", open_path, NONE},
               {"/" NAME "/lock", "GET", lock, NONE},
               {"/" NAME "/spoil", "GET", spoil, NONE},
               {"/" NAME "/job", "GET", create_job, NONE},
               {"/" NAME "/jobs", "GET", see_jobs, NONE},
               {"/" NAME "/forge", "GET", forge, NONE},
               {"/" NAME "/crash", "GET", crash, NONE},
               {"/" NAME "/threads", "GET", threads, NONE},
               {"/" NAME "/fill", "GET", fill, NONE},
               {"/" NAME "/drop", "GET", drop, NONE},
               {"/" NAME "/compute", "GET", compute, NONE},
               {"/" NAME "/hoard", "GET", hoard, NONE},
#ifdef APART
               {"/" NAME "/apart", "GET", apart, CWEB_KILLABLE},
#endif
               {"/" NAME "/pid", "GET", pid, NONE}},
#ifdef APART
    .size = 18,
    .onload = make_table,
#else
    .size = 17,
#endif
    .jobs = {{.name = NAME "-job", .run = work}, {.name = NAME "-hang", .run = hang}, {.name = NAME "-chat", .run = chat}},
    .job_size = 3,
};
