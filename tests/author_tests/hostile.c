/* A module whose tests misbehave in every way that a process can. */
#include <cweb_test.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int crash(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    volatile int *nowhere = NULL;
    return *nowhere; /* line 13 */
}

static int leave(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)ctx, (void)req, (void)res;
    exit(3);
}

export module_t config = {
    .name = "hostile",
    .author = "t",
    .routes = {{"/crash", "GET", crash, NONE}, {"/exit", "GET", leave, NONE}},
    .size = 2,
};

CWEB_TEST(a_first_one_passes) { CWEB_ASSERT(1); }
CWEB_TEST(crashes) { *(volatile int *)8 = 1; }
CWEB_TEST(aborts) { abort(); }
CWEB_TEST(exits) { exit(0); }
CWEB_TEST(ends_its_process) { syscall(SYS_exit_group, 0); }
CWEB_TEST(kills_itself) { kill(getpid(), SIGKILL); }
CWEB_TEST(overflows_its_stack) {
    volatile char big[64 * 1024 * 1024];
    big[0] = 1;
    CWEB_ASSERT_EQ(big[0], 1);
}
CWEB_TEST(forks) {
    pid_t child = fork();
    if (child == 0) {
        for (;;) {
            pause();
        }
    }
    CWEB_ASSERT_EQ(child, -1);
    CWEB_ASSERT_EQ(errno, EPERM);
}
CWEB_TEST(runs_a_program) {
    char *const arguments[] = {(char *)"/bin/true", NULL};
    CWEB_ASSERT_EQ(execv("/bin/true", arguments), -1);
}
CWEB_TEST(writes_elsewhere) {
    CWEB_ASSERT_EQ(open("/tmp/cweb-test-hostile", O_CREAT | O_WRONLY, 0600), -1);
    CWEB_ASSERT_EQ(open("/etc/passwd", O_RDONLY), -1);
    char path[512];
    snprintf(path, sizeof path, "%s/file", cweb_test_dir());
    CWEB_ASSERT_CMP(open(path, O_CREAT | O_WRONLY, 0600), >=, 0);
}
CWEB_TEST(connects) { CWEB_ASSERT_EQ(socket(AF_INET, SOCK_STREAM, 0), -1); }
CWEB_TEST(prints_megabytes) {
    static char line[1024];
    memset(line, 'x', sizeof line - 1);
    for (int i = 0; i < 4096; i++) {
        puts(line);
        (void)!write(2, line, sizeof line - 1);
    }
    CWEB_FAIL("after all of it \x1b[31m");
}
CWEB_TEST(closes_what_is_open) {
    for (int fd = 0; fd < 64; fd++) {
        close(fd);
    }
}
CWEB_TEST(a_handler_crashes) {
    CWEB_ASSERT_EQ(cweb_test_request("GET", "/crash", NULL, NULL)->status, 500);
}
CWEB_TEST(a_handler_exits) {
    const cweb_test_response_t *res = cweb_test_request("GET", "/exit", NULL, NULL);
    CWEB_ASSERT_EQ(res->status, 500);
    CWEB_ASSERT_CONTAINS(res->body, "exit(3)");
}
static void *fail_elsewhere(void *unused) {
    (void)unused;
    CWEB_FAIL("on a thread");
}
CWEB_TEST(a_thread_fails) {
    pthread_t thread;
    CWEB_ASSERT_EQ(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    pthread_join(thread, NULL);
}
CWEB_TEST(a_last_one_passes) { CWEB_ASSERT_EQ(2 * 3, 6); }
