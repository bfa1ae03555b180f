/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Calls that survive faults: sigsetjmp(3) before the call, siglongjmp(3) out of the signal handler.
 *
 * The environment is saved without the signal mask (no system call on the request path). No mask must be restored,
 * because the handlers are installed with SA_NODEFER and an empty mask: the kernel changes no mask when it calls them.
 * The alternate stack needs no restoring either: Linux decides by a thread's stack pointer whether the thread is on it,
 * sigaltstack(2).
 */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Size of the signal stack, in bytes: the handler needs little, AVX-512 state in the frame needs some KiB. */
#define SIGNAL_STACK_BYTES ((size_t)64 * 1024)
/* How far from the stack pointer, in bytes, an access still counts as a stack overflow. */
#define OVERFLOW_REACH_BYTES ((uintptr_t)64 * 1024)

/* A guarded call of this thread; each links to the next outer one. */
struct guard {
    sigjmp_buf env;
    struct cwebn_fault *fault;
    struct guard *outer;
    uintptr_t code; /* the called function of the module; 0: none */
};

/* initial-exec: the handler must not enter the dynamic linker's lazy allocation. */
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

THREAD_LOCAL struct guard *volatile innermost;
/* The thread's mapping: a page without access, the signal stack, the scratch. */
THREAD_LOCAL char *signal_stack;
THREAD_LOCAL uintptr_t stack_low, stack_high;

static const int guarded_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};
#define GUARDED_SIGNAL_COUNT (sizeof guarded_signals / sizeof guarded_signals[0])

static struct sigaction previous[GUARDED_SIGNAL_COUNT];

/* Reads the registers for the report. */
static void read_registers(const void *context, void **pc, uintptr_t *sp) {
    const ucontext_t *machine = context;
#if defined(__x86_64__)
    *pc = (void *)machine->uc_mcontext.gregs[REG_RIP];
    *sp = (uintptr_t)machine->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    *pc = (void *)machine->uc_mcontext.pc;
    *sp = (uintptr_t)machine->uc_mcontext.sp;
#else
    (void)machine;
    *pc = NULL;
    *sp = 0;
#endif
}

/* The function of the innermost guarded call that names one; 0: none. */
static uintptr_t traced_code(void) {
    for (const struct guard *guard = innermost; guard != NULL; guard = guard->outer) {
        if (guard->code != 0) {
            return guard->code;
        }
    }
    return 0;
}

/* A call that the filter of system calls has stopped, because the call would have ended the process. */
struct stopped {
    int is_exit; /* exit_group(2) */
    int code;
    int sends; /* the signal to the own process; 0: none */
};

static struct stopped read_stopped(int signo, const siginfo_t *info, const void *context) {
    struct stopped stopped = {0, 0, 0};
    const ucontext_t *machine = context;
    if (signo != SIGSYS || info->si_code <= 0) {
        return stopped;
    }
#if defined(__x86_64__)
    const long long arguments[3] = {machine->uc_mcontext.gregs[REG_RDI], machine->uc_mcontext.gregs[REG_RSI],
                                    machine->uc_mcontext.gregs[REG_RDX]};
#elif defined(__aarch64__)
    const long long arguments[3] = {(long long)machine->uc_mcontext.regs[0], (long long)machine->uc_mcontext.regs[1],
                                    (long long)machine->uc_mcontext.regs[2]};
#else
    const long long arguments[3] = {0, 0, 0};
    (void)machine;
#endif
    int call = info->si_syscall;
    if (call == SYS_exit_group) {
        stopped.is_exit = 1;
        stopped.code = (int)(arguments[0] & 0xff);
    } else {
        stopped.sends = (int)arguments[call == SYS_tgkill || call == SYS_rt_tgsigqueueinfo ? 2 : 1];
    }
    return stopped;
}

void cwebn_exit(int code) {
    for (;;) {
        syscall(SYS_exit_group, CWEBN_EXIT_MARK | (code & 0xff));
    }
}

/* The words for the record of a deadly signal, see cwebn_guard_note. */
static uint64_t *last_words;

void cwebn_guard_note(uint64_t *words) {
    __atomic_store_n(&last_words, words, __ATOMIC_RELEASE);
}

/* Records why a thread is about to end the process; only the first thread records. Plain stores, which a signal handler
 * may make. */
static void leave_note(int signo, const siginfo_t *info, const void *context, const struct stopped *stopped) {
    uint64_t *words = __atomic_load_n(&last_words, __ATOMIC_ACQUIRE);
    uint64_t nobody = 0;
    if (words == NULL || !__atomic_compare_exchange_n(&words[0], &nobody, (uint64_t)signo, 0, __ATOMIC_RELAXED,
                                                      __ATOMIC_RELAXED)) {
        return;
    }
    void *pc = NULL;
    uintptr_t sp = 0;
    read_registers(context, &pc, &sp);
    __atomic_store_n(&words[1], info->si_code > 0 ? (uint64_t)(uintptr_t)info->si_addr : 0, __ATOMIC_RELAXED);
    __atomic_store_n(&words[2], (uint64_t)(uintptr_t)pc, __ATOMIC_RELAXED);
    __atomic_store_n(&words[3], cwebn_module_number(), __ATOMIC_RELAXED);
    __atomic_store_n(&words[4], stopped->is_exit ? 0x100u | (uint64_t)stopped->code : 0, __ATOMIC_RELAXED);
    __atomic_store_n(&words[5], (uint64_t)stopped->sends, __ATOMIC_RELAXED);
    const struct cwebn_trace *taken = cwebn_take_trace(context, pc, sp, traced_code());
    uint64_t *trace = words + CWEBN_NOTE_TRACE;
    __atomic_store_n(&trace[0], taken->frame_count, __ATOMIC_RELAXED);
    __atomic_store_n(&trace[1], taken->register_count, __ATOMIC_RELAXED);
    for (uint32_t i = 0; i < taken->frame_count; i++) {
        __atomic_store_n(&trace[2 + i], taken->frames[i], __ATOMIC_RELAXED);
    }
    for (uint32_t i = 0; i < taken->register_count; i++) {
        __atomic_store_n(&trace[2 + CWEBN_FRAMES_MAX + i], taken->registers[i], __ATOMIC_RELAXED);
    }
}

/* The directory of core files, see cwebn_guard_cores. */
static int core_directory = -1;

void cwebn_guard_cores(int directory) {
    __atomic_store_n(&core_directory, directory, __ATOMIC_RELEASE);
}

/* Ends the process by this signal with a core file, by returning to the instruction that caused the signal, if one
   did. */
static void end_with_core(int signo, const siginfo_t *info, int directory) {
    struct sigaction fallback;
    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    /* The modules' relative paths have no meaning from here on. */
    (void)syscall(SYS_fchdir, directory);
    cwebn_sigaction(signo, &fallback, NULL);
    if (info->si_code <= 0 || signo == SIGSYS) {
        raise(signo);
    }
}

/* Passes on a signal that the server does not handle to the earlier handler; the default action ends the process. */
static void pass_on(int signo, siginfo_t *info, void *context) {
    const struct sigaction *before = NULL;
    for (size_t i = 0; i < GUARDED_SIGNAL_COUNT; i++) {
        if (guarded_signals[i] == signo) {
            before = &previous[i];
        }
    }
    if (before != NULL && (before->sa_flags & SA_SIGINFO) != 0 && before->sa_sigaction != NULL) {
        before->sa_sigaction(signo, info, context);
        return;
    }
    if (before != NULL && before->sa_handler != SIG_DFL && before->sa_handler != SIG_IGN) {
        before->sa_handler(signo);
        return;
    }
    struct sigaction fallback;
    memset(&fallback, 0, sizeof fallback);
    fallback.sa_handler = SIG_DFL;
    cwebn_sigaction(signo, &fallback, NULL);
    raise(signo);
}

/* The descriptor for notes of refused calls, see cwebn_guard_refusals. */
static int refusals = -1;

/* The recorded calls, each once per module: the module's number and the call's, plus one; 0: free. */
#define NOTED_MAX 256
#define CALL_BITS 12
static uint64_t noted[NOTED_MAX];

static void note_refusal(int call) {
    uint64_t module = cwebn_module_number();
    uint64_t key = ((module << CALL_BITS) | ((uint64_t)call & ((1u << CALL_BITS) - 1))) + 1;
    for (size_t i = 0; i < NOTED_MAX; i++) {
        uint64_t found = 0;
        if (__atomic_compare_exchange_n(&noted[i], &found, key, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            uint64_t words[2] = {module, (uint64_t)call};
            ssize_t written = write(__atomic_load_n(&refusals, __ATOMIC_ACQUIRE), words, sizeof words);
            (void)written;
            return;
        }
        if (found == key) {
            return;
        }
    }
}

/* The function that serves connect(2), see cwebn_guard_connects. */
static int (*connects)(int, const unsigned char *, size_t);

void cwebn_guard_connects(int (*serve)(int, const unsigned char *, size_t)) {
    __atomic_store_n(&connects, serve, __ATOMIC_RELEASE);
}

/* Serves a connect(2) with these arguments. An unreadable address makes the module crash. */
static long serve_connect(int (*serve)(int, const unsigned char *, size_t), long long socket, long long address, long long bytes) {
    unsigned char copy[128];
    if (bytes < 0 || (size_t)(unsigned int)bytes > sizeof copy) {
        return -EINVAL;
    }
    if (address == 0) {
        return -EFAULT;
    }
    memcpy(copy, (const void *)(uintptr_t)address, (size_t)(unsigned int)bytes);
    return serve((int)socket, copy, (size_t)(unsigned int)bytes);
}

/* The result of a refused call: the filter's error, unless the call is served. */
static long refused_result(const siginfo_t *info, const ucontext_t *machine) {
    int (*serve)(int, const unsigned char *, size_t) = __atomic_load_n(&connects, __ATOMIC_ACQUIRE);
    if (serve != NULL && info->si_syscall == SYS_connect) {
#if defined(__x86_64__)
        const greg_t *from = machine->uc_mcontext.gregs;
        return serve_connect(serve, from[REG_RDI], from[REG_RSI], from[REG_RDX]);
#elif defined(__aarch64__)
        const __typeof__(machine->uc_mcontext.regs[0]) *from = machine->uc_mcontext.regs;
        return serve_connect(serve, (long long)from[0], (long long)from[1], (long long)from[2]);
#endif
    }
    (void)machine;
    note_refusal(info->si_syscall);
    return -(long)info->si_errno;
}

/* Whether the filter has refused a call; if so, makes the call return the result of refused_result. */
static int is_refused(int signo, const siginfo_t *info, void *context) {
    ucontext_t *machine = context;
    if (signo != SIGSYS || info->si_code <= 0 || info->si_errno == 0 || __atomic_load_n(&refusals, __ATOMIC_ACQUIRE) < 0) {
        return 0;
    }
    int error = errno;
    long result = refused_result(info, machine);
    errno = error;
#if defined(__x86_64__)
    machine->uc_mcontext.gregs[REG_RAX] = result;
#elif defined(__aarch64__)
    machine->uc_mcontext.regs[0] = (unsigned long long)result;
#else
    (void)result;
#endif
    return 1;
}

static void on_signal(int signo, siginfo_t *info, void *context) {
    if (is_refused(signo, info, context)) {
        return;
    }
    struct guard *guard = innermost;
    struct stopped stopped = read_stopped(signo, info, context);
    int directory = __atomic_load_n(&core_directory, __ATOMIC_ACQUIRE);
    if (directory >= 0 && !stopped.is_exit) {
        leave_note(signo, info, context, &stopped);
        end_with_core(signo, info, directory);
        return;
    }
    if (guard == NULL) {
        leave_note(signo, info, context, &stopped);
        if (stopped.is_exit) {
            cwebn_exit(stopped.code);
        }
        cwebn_module_leave();
        pass_on(signo, info, context);
        return;
    }
    struct cwebn_fault *fault = guard->fault;
    uintptr_t sp = 0;
    memset(fault, 0, sizeof *fault);
    fault->kind = CWEBN_FAULT_SIGNAL;
    fault->signo = signo;
    read_registers(context, &fault->pc, &sp);
    cwebn_thrown_settle(signo, cwebn_take_trace(context, fault->pc, sp, traced_code()));
    if (stopped.is_exit) {
        fault->kind = CWEBN_FAULT_EXIT;
        fault->exit_code = stopped.code;
    } else if (stopped.sends != 0) {
        fault->signo = stopped.sends;
    }
    if (signo != SIGABRT && info->si_code > 0) { /* the kernel sent the signal, so si_addr is valid */
        fault->addr = info->si_addr;
    }
    if (signo == SIGSEGV && info->si_code > 0 && sp != 0) {
        uintptr_t addr = (uintptr_t)info->si_addr;
        uintptr_t distance = addr > sp ? addr - sp : sp - addr;
        fault->stack_overflow = distance < OVERFLOW_REACH_BYTES;
    }
    innermost = guard->outer;
    siglongjmp(guard->env, 1);
}

static struct sigaction handler(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    return action;
}

void *cwebn_open(const char *path, int flags) {
    void *handle = dlopen(path, flags);
    /* Keeps this frame: a tail call would leave none. */
    __asm__ volatile("" : "+r"(handle));
    return handle;
}

int cwebn_guard_refusals(int descriptor) {
    struct sigaction action = handler();
    __atomic_store_n(&refusals, descriptor, __ATOMIC_RELEASE);
    /* Where a sanitizer handles the other signals, this signal is free. */
    return cwebn_sigaction(SIGSYS, &action, NULL);
}

int cwebn_guard_init(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int installed;
    struct sigaction action = handler();
    int result = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; !installed && result == 0 && i < GUARDED_SIGNAL_COUNT; i++) {
        result = cwebn_sigaction(guarded_signals[i], &action, &previous[i]);
    }
    installed = installed || result == 0;
    pthread_mutex_unlock(&lock);
    return result;
}

static size_t page_bytes(void) {
    return (size_t)sysconf(_SC_PAGESIZE);
}

static void find_stack(void) {
    pthread_attr_t attributes;
    void *low = NULL;
    size_t bytes = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
        return;
    }
    if (pthread_attr_getstack(&attributes, &low, &bytes) == 0) {
        stack_low = (uintptr_t)low;
        stack_high = stack_low + bytes;
    }
    pthread_attr_destroy(&attributes);
}

/* Whether a sanitizer is active: it gives each thread a signal stack of its own, and removes the present one at the
   thread's end. */
static int is_sanitized(void) {
    return getenv("CWEB_SANITIZED") != NULL;
}

int cwebn_thread_init(void) {
    if (signal_stack != NULL) {
        return 0;
    }
    size_t page = page_bytes();
    size_t all = page + SIGNAL_STACK_BYTES + CWEBN_SCRATCH_BYTES;
    char *memory = mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) {
        return -1;
    }
    /* The lowest page stays inaccessible: an overflow of the signal stack must not run into other memory. */
    stack_t stack = {.ss_sp = memory + page, .ss_size = SIGNAL_STACK_BYTES, .ss_flags = 0};
    if (mprotect(memory + page, all - page, PROT_READ | PROT_WRITE) != 0 ||
        (!is_sanitized() && sigaltstack(&stack, NULL) != 0)) {
        int error = errno;
        munmap(memory, all);
        errno = error;
        return -1;
    }
    signal_stack = memory;
    find_stack();
    /* A thread of the server must never be cancelled, because its frames could not be unwound. */
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    return 0;
}

int cwebn_cancel_forbid(void) {
    int before = PTHREAD_CANCEL_DISABLE;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

void cwebn_cancel_restore(int before) {
    (void)pthread_setcancelstate(before, NULL);
}

void cwebn_thread_exit(void) {
    if (signal_stack == NULL) {
        return;
    }
    stack_t none = {.ss_sp = NULL, .ss_size = 0, .ss_flags = SS_DISABLE};
    if (is_sanitized() || sigaltstack(&none, NULL) == 0) {
        munmap(signal_stack, page_bytes() + SIGNAL_STACK_BYTES + CWEBN_SCRATCH_BYTES);
    }
    signal_stack = NULL;
}

void cwebn_thread_stack(uintptr_t *low, uintptr_t *high) {
    *low = stack_low;
    *high = stack_high;
}

char *cwebn_thread_scratch(void) {
    return signal_stack == NULL ? NULL : signal_stack + page_bytes() + SIGNAL_STACK_BYTES;
}

static int guarded(uintptr_t code, void (*fn)(void *), void *arg, struct cwebn_fault *out) {
    struct guard guard;
    guard.code = code;
    guard.fault = out;
    guard.outer = innermost;
    int faulted = sigsetjmp(guard.env, 0);
    if (faulted == 0) {
        innermost = &guard;
        fn(arg);
        innermost = guard.outer;
    } /* else: the jump's source has already made guard.outer the innermost guard */
    return faulted;
}

int cwebn_guard_own(void (*fn)(void *), void *arg, struct cwebn_fault *out) {
    return guarded(0, fn, arg, out);
}

int cwebn_guard_module(uintptr_t code, void (*fn)(void *), void *arg, struct cwebn_fault *out) {
    if (innermost == NULL) {
        errno = 0;
        cwebn_exceptions_prepare();
    }
    int faulted = guarded(code, fn, arg, out);
    if (innermost == NULL) {
        if (faulted != 0) {
            cwebn_exceptions_release();
        }
        cwebn_state_restore();
    }
    return faulted;
}

int cwebn_guard_call(void (*fn)(void *), void *arg, struct cwebn_fault *out) {
    return cwebn_guard_module(0, fn, arg, out);
}

int cwebn_guard_active(void) {
    return innermost != NULL;
}

void cwebn_guard_rethrow(const struct cwebn_fault *fault) {
    struct guard *guard = innermost;
    if (guard == NULL) {
        pthread_exit(NULL); /* a thread that the module started itself */
    }
    *guard->fault = *fault;
    innermost = guard->outer;
    siglongjmp(guard->env, 1);
}

/*
 * exit(3) for the whole process. The program exports the symbol (build.rs), so a shared object that was built without
 * the server calls this function. In a call of a module this function ends that call, like the exit of cweb_host.h in
 * compiled modules. Everywhere else this function calls libc's exit.
 */
__attribute__((noreturn, visibility("default"))) void exit(int code) {
    if (cwebn_guard_active()) {
        cwebn_guard_exit(code);
    }
    void (*libcs)(int) = (void (*)(int))dlsym(RTLD_NEXT, "exit");
    if (libcs != NULL) {
        libcs(code);
    }
    _exit(code);
}

void cwebn_guard_exit(int code) {
    struct cwebn_fault fault;
    memset(&fault, 0, sizeof fault);
    fault.kind = CWEBN_FAULT_EXIT;
    fault.exit_code = code;
    cwebn_guard_rethrow(&fault);
}

void cwebn_container_release(struct container *container) {
    if (container != NULL && container->data != NULL) {
        /* EPERM when another thread holds the mutex, or none: the mutex is error-checking. */
        (void)pthread_mutex_unlock(&container->mutex);
    }
}
