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
#include "keep.h"
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

void cwebn_module_thread(uint64_t number) {
    module_number = number;
    is_modules = 1;
}

int cwebn_in_module(void) {
    return cwebn_guard_active() || is_modules;
}

void *cwebn_hidden(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

void cwebn_tell(enum refusal what, const char *sentence) {
    static unsigned told;
    unsigned bit = 1u << what;
    if ((__atomic_fetch_or(&told, bit, __ATOMIC_RELAXED) & bit) == 0) {
        fprintf(stderr, "%s\n", sentence);
    }
}

static int refuse(enum refusal what, const char *sentence) {
    cwebn_tell(what, sentence);
    errno = EPERM;
    return -1;
}

/* ---- descriptors 0 to 2 ---- */

#define RESERVED_LAST 2

static int is_reserved(int fd) {
    return fd >= 0 && fd <= RESERVED_LAST && cwebn_in_module();
}

static void tell_descriptors(void) {
    cwebn_tell(DESCRIPTORS, "the descriptors 0 to 2 are the server's: they stay open and unchanged");
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
    if (cwebn_in_module()) {
        return refuse_range();
    }
    int (*real)(unsigned, unsigned, int) = (int (*)(unsigned, unsigned, int))cwebn_hidden("close_range");
    if (real == NULL) {
        errno = ENOSYS;
        return -1;
    }
    return real(first, last, flags);
}

EXPORT void closefrom(int first) {
    if (cwebn_in_module()) {
        (void)refuse_range();
        return;
    }
    void (*real)(int) = (void (*)(int))cwebn_hidden("closefrom");
    if (real != NULL) {
        real(first);
    }
}

EXPORT int daemon(int keep_directory, int keep_descriptors) {
    HIDDEN(daemon);
    if (cwebn_in_module()) {
        return refuse(DAEMON, "daemon() would end the process: it fails");
    }
    return real(keep_directory, keep_descriptors);
}

EXPORT int fclose(FILE *stream) {
    HIDDEN(fclose);
    if (stream != NULL && cwebn_in_module() && is_reserved(fileno(stream))) {
        tell_descriptors();
        return fflush(stream);
    }
    return real(stream);
}

EXPORT FILE *freopen(const char *path, const char *mode, FILE *stream) {
    HIDDEN(freopen);
    if (stream != NULL && cwebn_in_module() && is_reserved(fileno(stream))) {
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
    if (set != NULL && how != SIG_UNBLOCK && cwebn_in_module()) {
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
    if (action != NULL && is_kept_signal(signo) && cwebn_in_module()) {
        return refuse_handler();
    }
    return cwebn_sigaction(signo, action, old);
}

EXPORT sighandler_t signal(int signo, sighandler_t handler) {
    HIDDEN(signal);
    if (is_kept_signal(signo) && cwebn_in_module()) {
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
    return cwebn_in_module() ? refuse_directory() : real(path);
}

EXPORT int fchdir(int fd) {
    HIDDEN(fchdir);
    return cwebn_in_module() ? refuse_directory() : real(fd);
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
    if (cwebn_in_module()) {
        cwebn_tell(MASK, "the umask is that of all modules: umask() changes nothing; use open() with the mode, or fchmod()");
        (void)pthread_once(&process_umask_read, read_process_umask);
        return process_umask;
    }
    return real(mask);
}

EXPORT char *setlocale(int category, const char *locale) {
    HIDDEN(setlocale);
    if (locale != NULL && cwebn_in_module()) {
        if (*locale != 0 && strcmp(locale, "C") != 0 && strcmp(locale, "POSIX") != 0) {
            cwebn_tell(LOCALE, "the locale of the process is that of all modules: setlocale() fails; use newlocale() and uselocale()");
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
    if (seconds != 0 && cwebn_in_module()) {
        (void)refuse_alarm();
        return 0;
    }
    return real(seconds);
}

EXPORT int setitimer(__itimer_which_t which, const struct itimerval *restrict value, struct itimerval *restrict old) {
    HIDDEN(setitimer);
    return cwebn_in_module() ? refuse_alarm() : real(which, value, old);
}

static int refuse_limit(void) {
    return refuse(LIMITS, "the limits of the process are the server's: setrlimit() fails");
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit) {
    HIDDEN(setrlimit);
    return cwebn_in_module() ? refuse_limit() : real(resource, limit);
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *old) {
    HIDDEN(prlimit);
    return limit != NULL && cwebn_in_module() ? refuse_limit() : real(pid, resource, limit, old);
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

void cwebn_no_stream(void) {
    cwebn_tell(NO_STREAM, "cweb_read(), cweb_read_view() and cweb_next_part() fail with EINVAL in a route without CWEB_STREAM among "
                    "its flags: there the body is in req->body, and cweb_form_next() goes through its parts");
}
