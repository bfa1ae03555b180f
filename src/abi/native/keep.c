/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Protects state that a module must not change for others: descriptors 0 to 2, a thread's state after a call, and the
 * state of the process.
 *
 * The functions below replace libc's: the executable's definitions precede libc's for every loaded object, modules and
 * their libraries included. Code outside modules gets libc's behaviour. On a thread that runs a module, these functions
 * either refuse a change that would affect others, with a line in the log, or record the change. Recorded changes are
 * undone after the call.
 */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

/* The server's number of the module whose code the thread runs; 0: none, or not known. */
THREAD_LOCAL uint64_t module_number;
/* A module started the thread. */
THREAD_LOCAL int is_modules;

uint64_t cwebn_module_enter(uint64_t number) {
    uint64_t before = module_number;
    module_number = number;
    return before;
}

uint64_t cwebn_module_number(void) {
    return module_number;
}

void cwebn_module_leave(void) {
    is_modules = 0;
}

static int in_module(void) {
    return cwebn_guard_active() || is_modules;
}

/* The libc function that this definition hides. */
static void *hidden(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

#define HIDDEN(name)                                                                                                    \
    static __typeof__(&name) real;                                                                                      \
    if (__atomic_load_n(&real, __ATOMIC_RELAXED) == NULL) {                                                             \
        __atomic_store_n(&real, (__typeof__(&name))hidden(#name), __ATOMIC_RELAXED);                                    \
    }

/* Each sentence is printed once per process, under the name of the first module. */
enum refusal { DESCRIPTORS, RANGE, HANDLERS, DIRECTORY, MASK, LOCALE, ALARMS, LIMITS, PRIORITY, STACK, DAEMON, THREADS, NO_STREAM };

static void tell(enum refusal what, const char *sentence) {
    static unsigned told;
    unsigned bit = 1u << what;
    if ((__atomic_fetch_or(&told, bit, __ATOMIC_RELAXED) & bit) == 0) {
        fprintf(stderr, "%s\n", sentence);
    }
}

static int refuse(enum refusal what, const char *sentence) {
    tell(what, sentence);
    errno = EPERM;
    return -1;
}

/* ---- descriptors 0 to 2 ---- */

#define RESERVED_LAST 2

static int is_reserved(int fd) {
    return fd >= 0 && fd <= RESERVED_LAST && in_module();
}

static void tell_descriptors(void) {
    tell(DESCRIPTORS, "the descriptors 0 to 2 are the server's: they stay open and unchanged");
}

EXPORT int close(int fd) {
    HIDDEN(close);
    if (is_reserved(fd)) {
        tell_descriptors();
        return 0;
    }
    return real(fd);
}

EXPORT int dup2(int from, int to) {
    HIDDEN(dup2);
    if (is_reserved(to)) {
        tell_descriptors();
        return to;
    }
    return real(from, to);
}

EXPORT int dup3(int from, int to, int flags) {
    HIDDEN(dup3);
    if (is_reserved(to)) {
        tell_descriptors();
        return to;
    }
    return real(from, to, flags);
}

static int refuse_range(void) {
    return refuse(RANGE, "close_range() and closefrom() would close descriptors of the server: they do nothing");
}

EXPORT int close_range(unsigned first, unsigned last, int flags) {
    /* Not by HIDDEN: libc has the function only since 2.34, and its headers need not declare it. */
    if (in_module()) {
        return refuse_range();
    }
    int (*real)(unsigned, unsigned, int) = (int (*)(unsigned, unsigned, int))hidden("close_range");
    if (real == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return real(first, last, flags);
}

EXPORT void closefrom(int first) {
    if (in_module()) {
        (void)refuse_range();
        return;
    }
    void (*real)(int) = (void (*)(int))hidden("closefrom");
    if (real != NULL) {
        real(first);
    }
}

EXPORT int daemon(int keep_directory, int keep_descriptors) {
    HIDDEN(daemon);
    if (in_module()) {
        return refuse(DAEMON, "daemon() would end the process: it fails");
    }
    return real(keep_directory, keep_descriptors);
}

EXPORT int fclose(FILE *stream) {
    HIDDEN(fclose);
    if (stream != NULL && in_module() && is_reserved(fileno(stream))) {
        tell_descriptors();
        return fflush(stream);
    }
    return real(stream);
}

EXPORT FILE *freopen(const char *path, const char *mode, FILE *stream) {
    HIDDEN(freopen);
    if (stream != NULL && in_module() && is_reserved(fileno(stream))) {
        tell_descriptors();
        errno = EPERM;
        return NULL;
    }
    return real(path, mode, stream);
}

/* ---- the state of a thread: recorded when it is changed, undone after the call ---- */

enum { TOUCHED_MASK = 1, TOUCHED_AFFINITY = 2, TOUCHED_CANCEL_STATE = 4, TOUCHED_CANCEL_TYPE = 8 };

THREAD_LOCAL unsigned touched;
THREAD_LOCAL sigset_t mask_before;
THREAD_LOCAL cpu_set_t affinity_before;
THREAD_LOCAL int cancel_state_before, cancel_type_before;

/* Whether this is the first change of a kind in a call on a thread of the server. */
static int touches(unsigned kind) {
    return cwebn_guard_active() && (touched & kind) == 0;
}

/* The signals that catch faults. */
static const int kept_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
#define KEPT_SIGNAL_COUNT (sizeof kept_signals / sizeof kept_signals[0])

/* Module code must never block one of the kept signals: the kernel ends a process with a fault whose signal is
   blocked. */
static int set_mask(int how, const sigset_t *set, sigset_t *old) {
    HIDDEN(pthread_sigmask);
    sigset_t allowed;
    if (set != NULL && how != SIG_UNBLOCK && in_module()) {
        allowed = *set;
        for (size_t i = 0; i < KEPT_SIGNAL_COUNT; i++) {
            (void)sigdelset(&allowed, kept_signals[i]);
        }
        set = &allowed;
    }
    if (set != NULL && touches(TOUCHED_MASK) && real(SIG_BLOCK, NULL, &mask_before) == 0) {
        touched |= TOUCHED_MASK;
    }
    return real(how, set, old);
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
    return set_mask(how, set, old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    int error = set_mask(how, set, old);
    if (error != 0) {
        errno = error;
        return -1;
    }
    return 0;
}

static void note_affinity(void) {
    if (touches(TOUCHED_AFFINITY) && sched_getaffinity(0, sizeof affinity_before, &affinity_before) == 0) {
        touched |= TOUCHED_AFFINITY;
    }
}

EXPORT int sched_setaffinity(pid_t thread, size_t size, const cpu_set_t *set) {
    HIDDEN(sched_setaffinity);
    note_affinity();
    return real(thread, size, set);
}

EXPORT int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set) {
    HIDDEN(pthread_setaffinity_np);
    note_affinity();
    return real(thread, size, set);
}

EXPORT int pthread_setcancelstate(int state, int *old) {
    HIDDEN(pthread_setcancelstate);
    int before = 0;
    int error = real(state, &before);
    if (error == 0 && touches(TOUCHED_CANCEL_STATE)) {
        touched |= TOUCHED_CANCEL_STATE;
        cancel_state_before = before;
    }
    if (error == 0 && old != NULL) {
        *old = before;
    }
    return error;
}

EXPORT int pthread_setcanceltype(int type, int *old) {
    HIDDEN(pthread_setcanceltype);
    int before = 0;
    int error = real(type, &before);
    if (error == 0 && touches(TOUCHED_CANCEL_TYPE)) {
        touched |= TOUCHED_CANCEL_TYPE;
        cancel_type_before = before;
    }
    if (error == 0 && old != NULL) {
        *old = before;
    }
    return error;
}

/* Undoes the changes recorded in `touched`. Must run outside every guarded call, so that nothing is recorded. */
static void undo(void) {
    unsigned what = touched;
    touched = 0;
    if ((what & TOUCHED_MASK) != 0) {
        (void)set_mask(SIG_SETMASK, &mask_before, NULL);
    }
    if ((what & TOUCHED_AFFINITY) != 0) {
        (void)sched_setaffinity(0, sizeof affinity_before, &affinity_before);
    }
    if ((what & TOUCHED_CANCEL_STATE) != 0) {
        (void)pthread_setcancelstate(cancel_state_before, NULL);
    }
    if ((what & TOUCHED_CANCEL_TYPE) != 0) {
        (void)pthread_setcanceltype(cancel_type_before, NULL);
    }
}

/* Resets the floating-point units to their state at the start of a process. */
static void reset_arithmetic(void) {
#if defined(__x86_64__)
    const unsigned sse = 0x1f80;
    const unsigned short x87 = 0x037f;
    unsigned sse_now = 0;
    unsigned short x87_now = 0;
    unsigned short x87_status = 0;
    __asm__ volatile("stmxcsr %0" : "=m"(sse_now));
    __asm__ volatile("fnstcw %0" : "=m"(x87_now));
    __asm__ volatile("fnstsw %0" : "=a"(x87_status));
    if (sse_now != sse) {
        __asm__ volatile("ldmxcsr %0" : : "m"(sse));
    }
    if (x87_now != x87 || x87_status != 0) {
        __asm__ volatile("fninit");
    }
#elif defined(__aarch64__)
    uint64_t control = 0;
    uint64_t status = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(control));
    __asm__ volatile("mrs %0, fpsr" : "=r"(status));
    if (control != 0) {
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    }
    if (status != 0) {
        __asm__ volatile("msr fpsr, %0" : : "r"((uint64_t)0));
    }
#endif
}

void cwebn_state_restore(void) {
    reset_arithmetic();
    if (uselocale((locale_t)0) != LC_GLOBAL_LOCALE) {
        (void)uselocale(LC_GLOBAL_LOCALE);
    }
    if (touched != 0) {
        undo();
    }
    errno = 0;
}

/* ---- state of the process ---- */

static int is_kept_signal(int signo) {
    for (size_t i = 0; i < KEPT_SIGNAL_COUNT; i++) {
        if (kept_signals[i] == signo) {
            return 1;
        }
    }
    return 0;
}

static int refuse_handler(void) {
    return refuse(HANDLERS, "the handlers of SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT and SIGSYS are the server's, which catches "
                            "faults of modules with them: they stay");
}

int cwebn_sigaction(int signo, const struct sigaction *action, struct sigaction *old) {
    HIDDEN(sigaction);
    return real(signo, action, old);
}

EXPORT int sigaction(int signo, const struct sigaction *action, struct sigaction *old) {
    if (action != NULL && is_kept_signal(signo) && in_module()) {
        return refuse_handler();
    }
    return cwebn_sigaction(signo, action, old);
}

EXPORT sighandler_t signal(int signo, sighandler_t handler) {
    HIDDEN(signal);
    if (is_kept_signal(signo) && in_module()) {
        (void)refuse_handler();
        return SIG_ERR;
    }
    return real(signo, handler);
}

EXPORT int sigaltstack(const stack_t *stack, stack_t *old) {
    HIDDEN(sigaltstack);
    if (stack != NULL && cwebn_guard_active()) {
        return refuse(STACK, "the signal stack of a thread of the server is the server's: it stays");
    }
    return real(stack, old);
}

static int refuse_directory(void) {
    return refuse(DIRECTORY, "the working directory is that of all modules: chdir() fails; use paths with the directory");
}

EXPORT int chdir(const char *path) {
    HIDDEN(chdir);
    return in_module() ? refuse_directory() : real(path);
}

EXPORT int fchdir(int fd) {
    HIDDEN(fchdir);
    return in_module() ? refuse_directory() : real(fd);
}

/*
 * The umask of the process, which can be read only by changing it. Read once: if two threads read it at the same time,
 * the process could keep a temporary mask.
 */
static mode_t process_umask;
static pthread_once_t process_umask_read = PTHREAD_ONCE_INIT;

static void read_process_umask(void) {
    HIDDEN(umask);
    process_umask = real(077);
    (void)real(process_umask);
}

EXPORT mode_t umask(mode_t mask) {
    HIDDEN(umask);
    if (in_module()) {
        tell(MASK, "the umask is that of all modules: umask() changes nothing; use open() with the mode, or fchmod()");
        (void)pthread_once(&process_umask_read, read_process_umask);
        return process_umask;
    }
    return real(mask);
}

EXPORT char *setlocale(int category, const char *locale) {
    HIDDEN(setlocale);
    if (locale != NULL && in_module()) {
        if (*locale != 0 && strcmp(locale, "C") != 0 && strcmp(locale, "POSIX") != 0) {
            tell(LOCALE, "the locale of the process is that of all modules: setlocale() fails; use newlocale() and uselocale()");
            return NULL;
        }
        return real(category, NULL);
    }
    return real(category, locale);
}

static int refuse_alarm(void) {
    return refuse(ALARMS, "alarm() and setitimer() would signal the whole process: they do nothing; use the scheduler or a job");
}

EXPORT unsigned alarm(unsigned seconds) {
    HIDDEN(alarm);
    if (seconds != 0 && in_module()) {
        (void)refuse_alarm();
        return 0;
    }
    return real(seconds);
}

EXPORT int setitimer(__itimer_which_t which, const struct itimerval *restrict value, struct itimerval *restrict old) {
    HIDDEN(setitimer);
    return in_module() ? refuse_alarm() : real(which, value, old);
}

static int refuse_limit(void) {
    return refuse(LIMITS, "the limits of the process are the server's: setrlimit() fails");
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    HIDDEN(setrlimit);
    return in_module() ? refuse_limit() : real(resource, limit);
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old) {
    HIDDEN(prlimit);
    return limit != NULL && in_module() ? refuse_limit() : real(pid, resource, limit, old);
}

static int refuse_priority(void) {
    return refuse(PRIORITY, "the priority of the server's threads is the server's: nice() and its relatives fail");
}

EXPORT int nice(int increment) {
    HIDDEN(nice);
    return cwebn_guard_active() && increment != 0 ? refuse_priority() : real(increment);
}

EXPORT int setpriority(__priority_which_t which, id_t who, int value) {
    HIDDEN(setpriority);
    return cwebn_guard_active() ? refuse_priority() : real(which, who, value);
}

EXPORT int sched_setscheduler(pid_t thread, int policy, const struct sched_param *parameters) {
    HIDDEN(sched_setscheduler);
    return cwebn_guard_active() ? refuse_priority() : real(thread, policy, parameters);
}

EXPORT int pthread_setschedparam(pthread_t thread, int policy, const struct sched_param *parameters) {
    HIDDEN(pthread_setschedparam);
    if (cwebn_guard_active() && pthread_equal(thread, pthread_self())) {
        (void)refuse_priority();
        return EPERM;
    }
    return real(thread, policy, parameters);
}

/* ---- threads of modules: each has its module's number, and they are counted ---- */

static size_t thread_count;
static size_t threads_max = SIZE_MAX;

/* The key's value is not NULL on counted threads; its destructor runs however a thread ends. */
static pthread_key_t counted;
static int counted_error;
static pthread_once_t counted_made = PTHREAD_ONCE_INIT;

static void uncount(void *unused) {
    (void)unused;
    (void)__atomic_fetch_sub(&thread_count, 1, __ATOMIC_RELAXED);
}

static void make_counted(void) {
    counted_error = pthread_key_create(&counted, uncount);
}

void cwebn_threads_limit(size_t most) {
    __atomic_store_n(&threads_max, most, __ATOMIC_RELAXED);
}

void cwebn_no_stream(void) {
    tell(NO_STREAM, "cweb_read(), cweb_read_view() and cweb_next_part() fail with EINVAL in a route without CWEB_STREAM among "
                    "its flags: there the body is in req->body, and cweb_form_next() goes through its parts");
}

/* Counts one more thread, unless the limit is reached. */
static int count_thread(void) {
    if (pthread_once(&counted_made, make_counted) != 0 || counted_error != 0) {
        return 0;
    }
    if (__atomic_fetch_add(&thread_count, 1, __ATOMIC_RELAXED) < __atomic_load_n(&threads_max, __ATOMIC_RELAXED)) {
        return 1;
    }
    uncount(NULL);
    tell(THREADS, "the modules of this domain have as many threads as they may have (--module-threads-max): pthread_create() "
                  "fails with EAGAIN, thrd_create() with thrd_error");
    return 0;
}

struct beginning {
    void *(*function)(void *);
    int (*c11_function)(void *);
    void *argument;
    uint64_t number;
};

/* See nice(2). */
#define NICE 5

/* Takes over the structure that the thread's creator has prepared; `is_kept`: whether a destructor reports the thread's end. */
static struct beginning taken(void *given, int *is_kept) {
    struct beginning beginning = *(struct beginning *)given;
    free(given);
    module_number = beginning.number;
    is_modules = 1;
    /* A module's thread gets a lower priority than the threads that serve, like those of the executor pool. */
    (void)syscall(SYS_setpriority, PRIO_PROCESS, 0, NICE);
    *is_kept = pthread_setspecific(counted, &counted) == 0;
    return beginning;
}

static void *begin(void *given) {
    int is_kept;
    struct beginning beginning = taken(given, &is_kept);
    void *result = beginning.function(beginning.argument);
    if (!is_kept) {
        uncount(NULL);
    }
    return result;
}

static int begin_c11(void *given) {
    int is_kept;
    struct beginning beginning = taken(given, &is_kept);
    int result = beginning.c11_function(beginning.argument);
    if (!is_kept) {
        uncount(NULL);
    }
    return result;
}

/* Counts a new thread, and copies `given` for its start; NULL: the thread can't be started. */
static struct beginning *prepare(struct beginning given) {
    struct beginning *beginning = malloc(sizeof *beginning);
    if (beginning == NULL || !count_thread()) {
        free(beginning);
        return NULL;
    }
    *beginning = given;
    return beginning;
}

static void give_up(struct beginning *beginning) {
    uncount(NULL);
    free(beginning);
}

EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
    HIDDEN(pthread_create);
    if (!in_module()) {
        return real(thread, attributes, function, argument);
    }
    struct beginning *beginning = prepare((struct beginning){function, NULL, argument, module_number});
    if (beginning == NULL) {
        return EAGAIN;
    }
    int error = real(thread, attributes, begin, beginning);
    if (error != 0) {
        give_up(beginning);
    }
    return error;
}

/* As in threads.h; the SDK has a different header of that name. */
int thrd_create(pthread_t *thread, int (*function)(void *), void *argument);
enum { THRD_SUCCESS = 0, THRD_ERROR = 2 };

/* libc's version calls libc's own pthread_create, not the one above. */
EXPORT int thrd_create(pthread_t *thread, int (*function)(void *), void *argument) {
    HIDDEN(thrd_create);
    if (!in_module()) {
        return real(thread, function, argument);
    }
    struct beginning *beginning = prepare((struct beginning){NULL, function, argument, module_number});
    if (beginning == NULL) {
        return THRD_ERROR;
    }
    int error = real(thread, begin_c11, beginning);
    if (error != THRD_SUCCESS) {
        give_up(beginning);
    }
    return error;
}
