/* Counts on the state that every call begins with. */
#define _GNU_SOURCE
#include <cweb.h>
#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static _Thread_local int cores_at_first; /* the server gives its threads different ones */
static _Atomic int mode_at_first = -1;

static void read_state(char *text, size_t size) {
    int error = errno;
    volatile double tiny = DBL_MIN, one = 1, ten = 10, zero = 0;
    volatile long double wide = 1;
    double half = tiny / 4, infinite = one / zero;
    char tenth[64];
    snprintf(tenth, sizeof tenth, "%.20f", one / ten);
    sigset_t mask;
    sigemptyset(&mask);
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    int blocked = 0;
    for (int signo = 1; signo < 32; signo++) {
        blocked += sigismember(&mask, signo) == 1;
    }
    cpu_set_t cores;
    sched_getaffinity(0, sizeof cores, &cores);
    int type = 0, state = 0;
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    mode_t mode = umask(022);
    char directory[200];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    if (mode_at_first < 0) {
        mode_at_first = (int)mode;
    }
    if (cores_at_first == 0) {
        cores_at_first = CPU_COUNT(&cores);
    }
    snprintf(text, size, "errno %d tiny %d tenth %d infinite %d wide %d round %d blocked %d locale %d cores %d cancel %d%d umask %d root %d files %d %s",
             error, half > 0, strcmp(tenth, "0.10000000000000000555") == 0, infinite > 0, wide / 3 > 0, fegetround(), blocked,
             uselocale((locale_t)0) == LC_GLOBAL_LOCALE, CPU_COUNT(&cores) == cores_at_first, type == PTHREAD_CANCEL_DEFERRED,
             state == PTHREAD_CANCEL_DISABLE, (int)mode == mode_at_first, strcmp(getcwd(directory, sizeof directory), "/") == 0,
             files.rlim_cur > 3, setlocale(LC_ALL, NULL));
}

static int handler(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    read_state(r->body, HTTP_RESPONSE_SIZE);
    return 0;
}

static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) {
    (void)c, (void)p;
    char text[600] = "\"", *end = text + 1;
    read_state(end, sizeof text - 2);
    strcat(text, "\"");
    return j->set_result(j, text);
}

static char worked[600];
static _Atomic int works;

static void work(void *nothing) {
    (void)nothing;
    read_state(worked, sizeof worked);
    works++;
}

static int schedules(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)q;
    int before = works;
    scheduler_add(c->scheduler, work, NULL, ASYNC);
    for (int i = 0; i < 20000 && works == before; i++) {
        usleep(1000);
    }
    return cweb_respond(r, HTTP_200_OK, "text/plain", "%s", worked);
}

static int faults(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q, (void)r;
    *(volatile int *)(uintptr_t)8 = 1;
    return 0;
}

static int deep(volatile char *p, int n) {
    volatile char b[100000];
    b[0] = p ? p[0] : 1;
    return n > 0 ? deep(b, n + 1) + b[0] : 0;
}

static int overflows(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    r->content_length = deep(NULL, 1);
    return 0;
}

static void message(struct cweb_context *c, websocket_t *ws, const char *text, size_t length) {
    (void)c, (void)text, (void)length;
    char state[600];
    read_state(state, sizeof state);
    ws->send(ws, state, strlen(state));
}

export module_t config = {.name = "state_reader",
                          .author = "tests",
                          .routes = {{"/state", "GET", handler, NONE},
                                     {"/inline/state", "GET", handler, CWEB_INLINE},
                                     {"/work", "GET", schedules, NONE},
                                     {"/faults", "GET", faults, NONE},
                                     {"/overflows", "GET", overflows, NONE}},
                          .size = 5,
                          .websockets = {{"/states", NULL, message, NULL}},
                          .ws_size = 1,
                          .jobs = {{"state", job, NULL}},
                          .job_size = 1};
