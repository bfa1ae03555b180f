/* Changes everything of its thread and its process that it can reach. */
#define _GNU_SOURCE
#include <cweb.h>
#include <fenv.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

static void change_thread(void) {
    fesetround(FE_UPWARD);
    feenableexcept(FE_DIVBYZERO | FE_INVALID);
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);
    __asm__ volatile("fld1");
#endif
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    uselocale(newlocale(LC_NUMERIC_MASK, "C", (locale_t)0));
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    nice(3);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    errno = 77;
}

static void change_process(void) {
    for (int signo = SIGILL; signo <= SIGSYS; signo++) {
        if (signo == SIGSEGV || signo == SIGABRT || signo == SIGFPE || signo == SIGBUS || signo == SIGILL) {
            signal(signo, SIG_DFL);
            struct sigaction ignore = {.sa_handler = SIG_IGN};
            sigaction(signo, &ignore, NULL);
        }
    }
    stack_t none = {.ss_flags = SS_DISABLE};
    sigaltstack(&none, NULL);
    umask(0777);
    (void)!chdir("/");
    setlocale(LC_ALL, "C.UTF-8");
    alarm(1);
    struct itimerval soon = {.it_value = {0, 1000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    struct rlimit few = {3, 3};
    setrlimit(RLIMIT_NOFILE, &few);
}

static int handler(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    change_thread();
    change_process();
    return cweb_respond(r, HTTP_200_OK, "text/plain", "changed\n");
}

/* A fault, with all of it changed. */
static int faults(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q, (void)r;
    change_thread();
    change_process();
    *(volatile int *)(uintptr_t)8 = 1;
    return 0;
}

static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) {
    (void)c, (void)p;
    change_thread();
    change_process();
    return j->set_result(j, "\"changed\"");
}

static void work(void *nothing) {
    (void)nothing;
    change_thread();
    change_process();
}

static int schedules(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)q;
    scheduler_add(c->scheduler, work, NULL, ASYNC);
    return cweb_respond(r, HTTP_200_OK, "text/plain", "scheduled\n");
}

static void loaded(struct cweb_context *c) {
    (void)c;
    change_thread();
    change_process();
}

static void message(struct cweb_context *c, websocket_t *ws, const char *text, size_t length) {
    (void)c;
    change_thread();
    change_process();
    ws->send(ws, text, length);
}

export module_t config = {.name = "state_changer",
                          .author = "tests",
                          .routes = {{"/change", "GET", handler, NONE},
                                     {"/inline/change", "GET", handler, CWEB_INLINE},
                                     {"/fault", "GET", faults, NONE},
                                     {"/schedule", "GET", schedules, NONE}},
                          .size = 4,
                          .websockets = {{"/changes", NULL, message, NULL}},
                          .ws_size = 1,
                          .jobs = {{"change", job, NULL}},
                          .job_size = 1,
                          .onload = loaded};
