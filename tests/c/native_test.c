/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Exercises src/abi/native against faulty_module.so, which is in the working directory. */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cweb.h>

#include "check.h"

static struct cweb_context *ctx;
static module_t *module;
static char token; /* its address names the module */
static const char *exit_how = "";

static void host_exit(const void *from, int code, const char *how) {
    CHECK(from == &token);
    exit_how = how;
    cwebn_guard_exit(code);
}

static int host_jobs_create(const void *from, const char *job, const char *payload, char uuid_out[37]) {
    CHECK(from == &token && strcmp(payload, "{}") == 0);
    strcpy(uuid_out, "0190f1a2-7b3c-7def-8123-456789abcdef");
    return strcmp(job, "known") == 0 ? 0 : -1;
}

static int host_sign(const char *text, char *out, size_t out_len) {
    return snprintf(out, out_len, "signed:%s", text);
}

static const struct cweb_host host = {
    .abi_version = CWEB_ABI_VERSION,
    .size = sizeof(struct cweb_host),
    .jobs_create = host_jobs_create,
    .module_exit = host_exit,
    .crypto_sign = host_sign,
};

/* Calls the handler of faulty_module.c with this path. */
static int call(const char *path, struct cwebn_fault *fault) {
    http_request_t req;
    http_response_t res;
    memset(&req, 0, sizeof req);
    memset(&res, 0, sizeof res);
    res.headers = http_kv_create(4);
    res.body = calloc(1, HTTP_RESPONSE_SIZE);
    static struct cwebn_handed handed; /* not on the stack of the call */
    memset(&handed, 0, sizeof handed);
    int result = -1;
    for (int i = 0; i < module->size; i++) {
        if (strcmp(module->routes[i].path, path) == 0) {
            result = cwebn_call_handler(module->routes[i].handler, ctx, &req, &res, &handed, fault);
        }
    }
    if (result == 0 && strcmp(path, "good") == 0) {
        CHECK(strcmp(res.body, "fine") == 0);
    }
    if (result == 1) {
        cwebn_context_after_fault(ctx);
    }
    http_kv_destroy(res.headers, 1);
    free(res.body);
    return result;
}

static void *test_faults(void *unused) {
    static const struct {
        const char *path;
        int signo;
    } signals[] = {{"abort", SIGABRT}, {"assert", SIGABRT}, {"null", SIGSEGV}, {"print", SIGSEGV},
                   {"hold", SIGABRT},  {"overflow", SIGSEGV}, {"row", SIGABRT}};
    static const struct {
        const char *path;
        int code;
    } exits[] = {{"exit", 3}, {"_exit", 4}, {"_Exit", 5}, {"quick_exit", 6}};
    struct cwebn_fault fault;
    CHECK(cwebn_thread_init() == 0 && cwebn_thread_init() == 0);
    for (int round = 0; round < 100; round++) {
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
            memset(&fault, 0, sizeof fault);
            CHECK(call(signals[i].path, &fault) == 1);
            CHECK(fault.kind == CWEBN_FAULT_SIGNAL && fault.signo == signals[i].signo);
            CHECK(fault.stack_overflow == (strcmp(signals[i].path, "overflow") == 0));
            CHECK(!cwebn_guard_active());
        }
        for (size_t i = 0; i < sizeof exits / sizeof exits[0]; i++) {
            CHECK(call(exits[i].path, &fault) == 1);
            CHECK(fault.kind == CWEBN_FAULT_EXIT && fault.exit_code == exits[i].code);
            CHECK(strcmp(exit_how, exits[i].path) == 0);
        }
        CHECK(call("good", &fault) == 0);
    }
#if defined(__x86_64__)
    CHECK(call("divide", &fault) == 1 && fault.signo == SIGFPE);
#endif
    CHECK(container_set(ctx->cache, "still", &token) == MAP_OK);
    cwebn_thread_exit();
    (void)unused;
    return NULL;
}

static void inner_abort(void *unused) {
    (void)unused;
    abort();
}

static void outer(void *arg) {
    struct cwebn_fault inner;
    CHECK(cwebn_guard_call(inner_abort, NULL, &inner) == 1 && inner.signo == SIGABRT);
    CHECK(cwebn_guard_active());
    if (arg != NULL) {
        cwebn_guard_rethrow(&inner);
    }
    cwebn_guard_exit(9);
}

static void test_nested(void) {
    struct cwebn_fault fault;
    CHECK(cwebn_guard_call(outer, NULL, &fault) == 1 && fault.kind == CWEBN_FAULT_EXIT && fault.exit_code == 9);
    CHECK(cwebn_guard_call(outer, &token, &fault) == 1 && fault.signo == SIGABRT && !cwebn_guard_active());
}

/* Outside of a guard a fault must still end the process by its signal. */
static void test_unguarded(void) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        raise(SIGSEGV);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

static int works_admitted, works_released, work_ran;

static void *admit(void *user, work_t work, void *data) {
    (void)user, (void)work, (void)data;
    works_admitted++;
    return &token;
}

static void run(void *user, work_t work, void *data, void *ticket) {
    struct cwebn_fault fault;
    (void)user;
    (void)cwebn_call_work(work, data, &fault);
    works_released += ticket == &token;
}

static void drop(void *user, void *ticket) {
    (void)user;
    works_released += ticket == &token;
}

static void work_well(void *unused) {
    (void)unused;
    work_ran++;
}

static void test_services(void) {
    char out[64];
    sqlite3_stmt *stmt = NULL;
    struct sqldb *db = ctx->database;
    CHECK(scheduler_add(ctx->scheduler, inner_abort, NULL, SYNC) == 0); /* caught */
    CHECK(scheduler_add(ctx->scheduler, work_well, NULL, SYNC) == 0);
    while (scheduler_pending_count(ctx->scheduler) > 0) {
        usleep(1000);
    }
    CHECK(work_ran == 1);
    CHECK(works_admitted == 2 && works_released == 2);

    CHECK(db->exec(db, "CREATE TABLE mine(a); INSERT INTO mine VALUES(1)", NULL, NULL) == SQLITE_OK);
    CHECK(db->exec(db, "SELECT * FROM jobs", NULL, NULL) == SQLITE_OK);
    /* A trigger that writes may be made, but not fired. */
    CHECK(db->exec(db, "CREATE TRIGGER t AFTER INSERT ON mine BEGIN DELETE FROM jobs; END", NULL, NULL) == SQLITE_OK);
    static const char *const refused[] = {
        "INSERT INTO jobs VALUES(1)", "UPDATE Jobs SET a = 2", "DELETE FROM job_events", "DROP TABLE jobs",
        "ALTER TABLE jobs ADD COLUMN b", "INSERT INTO mine VALUES(2)" /* fires the trigger */,
        "CREATE TRIGGER t AFTER INSERT ON jobs BEGIN SELECT 1; END", "PRAGMA writable_schema = 1",
        "CREATE TEMP TABLE jobs(a)", "CREATE INDEX i ON jobs(a)", "REPLACE INTO jobs VALUES(1)",
        "ALTER TABLE mine RENAME TO jobs2; ALTER TABLE jobs RENAME TO mine"};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        if (db->exec(db, refused[i], NULL, NULL) == SQLITE_OK) {
            fprintf(stderr, "not refused: %s\n", refused[i]);
            CHECK(0);
        }
    }
    CHECK(db->prepare(db, "SELECT count(*) FROM jobs", -1, &stmt, NULL) == SQLITE_OK);
    CHECK(db->step(stmt) == SQLITE_ROW && db->column_int(stmt, 0) == 0);
    db->finalize(stmt);

    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, "t", out, sizeof out) == -1);
    cwebn_context_set_crypto(ctx, 1);
    CHECK(ctx->crypto->ops.sign_token(ctx->crypto, "t", out, sizeof out) == 8 && strcmp(out, "signed:t") == 0);
    CHECK(ctx->crypto->ops.verify_token(ctx->crypto, "s", "t", 1) == -1);
    CHECK(ctx->symbols->resolv(ctx->symbols->user_data, "m", "s") == NULL);
}

static char printed[256];

static void sink(void *user, const char *bytes, size_t length) {
    (void)user;
    if (length + strlen(printed) < sizeof printed) {
        strncat(printed, bytes, length);
    }
}

/* Binds the module as the loader does. */
static int load(void) {
    void *so = dlopen("./faulty_module.so", RTLD_NOW | RTLD_LOCAL);
    if (so == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return -1;
    }
    const uint32_t *abi = dlsym(so, "cweb_module_abi");
    void (*bind)(const struct cweb_host *, const void *);
    *(void **)&bind = dlsym(so, "cweb_bind_host");
    module = dlsym(so, "config");
    if (abi == NULL || *abi != CWEB_ABI_VERSION || bind == NULL || module == NULL) {
        return -1;
    }
    bind(&host, &token);
    return 0;
}

static void prepare_database(void) {
    struct sqldb db;
    unlink("test.sqlite3");
    CHECK(sqldb_init(&db, "test.sqlite3") == 0);
    CHECK(db.exec(&db, "CREATE TABLE jobs(a); CREATE TABLE job_events(a)", NULL, NULL) == SQLITE_OK);
    sqldb_shutdown(&db);
}

int main(void) {
    pthread_t thread;
    char error[256];
    struct cwebn_fault fault;
    struct cwebn_services services = {.host = &host, .work_admit = admit, .work_run = run, .work_drop = drop};
    prepare_database();
    CHECK(cwebn_guard_init() == 0 && cwebn_guard_init() == 0);
    ctx = cwebn_context_create("test.sqlite3", &services, error, sizeof error);
    CHECK(ctx != NULL && error[0] == '\0');
    if (ctx == NULL || load() != 0) {
        return 1;
    }
    test_nested();
    test_unguarded();
    test_services();

    FILE *real = stderr;
    CHECK(cwebn_stdio_capture(sink, NULL) == 0);
    CHECK(call("good", &fault) == 0 && strcmp(printed, "hello from good") == 0);
    pthread_create(&thread, NULL, test_faults, NULL);
    pthread_join(thread, NULL);
    printed[0] = '\0';
    printf("after %d", 1); /* blocks for ever if the fault in printf left the stream locked */
    CHECK(strcmp(printed, "after 1") == 0);
    cwebn_stdio_restore();
    CHECK(stderr == real);

    cwebn_context_destroy(ctx, 1);
    ctx = cwebn_context_create("/dev/null/x.sqlite3", &services, error, sizeof error);
    CHECK(ctx != NULL && strstr(error, "/dev/null/x.sqlite3") != NULL);
    CHECK(ctx != NULL && ctx->database->exec(ctx->database, "SELECT 1", NULL, NULL) == SQLITE_MISUSE);
    cwebn_context_destroy(ctx, 0);
    return finish();
}
