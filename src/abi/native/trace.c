/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* The trace of a caught signal: registers and return addresses, read from the thread's own stack in the signal handler. */
#define _GNU_SOURCE
#include "native.h"

#include <ucontext.h>

/* initial-exec: the handler must not enter the dynamic linker's lazy allocation. */
#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

/* The bounds of the traced thread's stack. */
THREAD_LOCAL uintptr_t stack_low, stack_high;
THREAD_LOCAL struct cwebn_trace last_trace;

void cwebn_last_trace(struct cwebn_trace *out) {
    *out = last_trace;
}

static void add_frame(uint64_t address) {
    if (address != 0 && last_trace.frame_count < CWEBN_FRAMES_MAX) {
        last_trace.frames[last_trace.frame_count++] = address;
    }
}

/* The word at an address of the thread's stack; 0 outside the stack. */
static uint64_t stack_word(uintptr_t at) {
    /* The thread's own variables, among them the trace under construction, lie at the end of its stack. */
    uintptr_t own = (uintptr_t)&last_trace;
    uintptr_t high = own > stack_low && own < stack_high ? own : stack_high;
    int is_there = at % sizeof(uint64_t) == 0 && at >= stack_low && at < high && high - at >= sizeof(uint64_t);
    return is_there ? *(const uint64_t *)at : 0;
}

/* How many words of the stack are scanned where frame pointers end, and how often. */
#define SCANNED_WORDS 512
#define RESUMED_MAX 4
/* Code at most this far from the instruction, in bytes, probably belongs to the same module. */
#define NEAR_BYTES ((uint64_t)16 * 1024 * 1024)

static int is_code(uint64_t address) {
    return address > 0xffff && (address < stack_low || address >= stack_high);
}

/* Code of the module whose call is traced, for comparison with addresses on the stack. */
THREAD_LOCAL uint64_t traced_code;

static int is_near(uint64_t address) {
    return (address > traced_code ? address - traced_code : traced_code - address) < NEAR_BYTES;
}

/* How many words above a saved frame pointer are searched for the return address of its function. */
#define ABOVE_WORDS 16

/*
 * The frame above `from` that a function without a frame pointer has saved, such as qsort(3), which calls back; 0 if
 * there is none. Words of the stack up to there that may be return addresses into the module are added. The reader of the
 * trace checks that a call precedes each of them.
 */
static uintptr_t next_frame(uintptr_t from) {
    for (int i = 0; i < SCANNED_WORDS; i++, from += sizeof(uint64_t)) {
        uint64_t word = stack_word(from);
        if (is_near(word)) {
            add_frame(word);
        }
        if (word > from && stack_word((uintptr_t)word) > word && is_code(stack_word((uintptr_t)word + sizeof(uint64_t)))) {
            /* The caller of a library's function, such as abort(3), lies above the function's saved frame. */
            for (int above = 1; !is_near(last_trace.frames[0]) && above <= ABOVE_WORDS; above++) {
                uint64_t address = stack_word(from + (uintptr_t)above * sizeof(uint64_t));
                if (is_near(address)) {
                    add_frame(address);
                    break;
                }
            }
            return (uintptr_t)word;
        }
    }
    return 0;
}

/*
 * Follows frame pointers within the thread's own stack; modules are compiled with frame pointers. A function that has
 * not saved its caller's frame yet, or has no frame pointer, such as one of libc, may have its return address at the
 * stack pointer.
 */
struct cwebn_trace *cwebn_take_trace(const void *context, const void *pc, uintptr_t sp, uintptr_t code) {
    const ucontext_t *machine = context;
    uintptr_t frame = 0;
    cwebn_thread_stack(&stack_low, &stack_high);
    traced_code = code != 0 ? (uint64_t)code : (uint64_t)(uintptr_t)pc;
    last_trace.frame_count = 0;
    last_trace.register_count = 0;
#if defined(__x86_64__)
    static const int order[] = {REG_RAX, REG_RBX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP, REG_EFL};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        last_trace.registers[last_trace.register_count++] = (uint64_t)machine->uc_mcontext.gregs[order[i]];
    }
    frame = (uintptr_t)machine->uc_mcontext.gregs[REG_RBP];
    add_frame((uint64_t)(uintptr_t)pc);
    add_frame(stack_word(sp));
#elif defined(__aarch64__)
    for (size_t i = 0; i < 31; i++) {
        last_trace.registers[last_trace.register_count++] = machine->uc_mcontext.regs[i];
    }
    last_trace.registers[last_trace.register_count++] = machine->uc_mcontext.sp;
    last_trace.registers[last_trace.register_count++] = machine->uc_mcontext.pc;
    frame = (uintptr_t)machine->uc_mcontext.regs[29];
    add_frame((uint64_t)(uintptr_t)pc);
    add_frame(machine->uc_mcontext.regs[30]);
#else
    (void)machine, (void)pc;
#endif
    uintptr_t behind = sp;
    for (int resumed = 0; last_trace.frame_count < CWEBN_FRAMES_MAX;) {
        /* The stack grows down: callers lie above. */
        uint64_t address = frame >= behind ? stack_word(frame + sizeof(uint64_t)) : 0;
        if (is_code(address)) {
            add_frame(address);
            behind = frame + 2 * sizeof(uint64_t);
            frame = (uintptr_t)stack_word(frame);
        } else if (resumed++ < RESUMED_MAX) {
            frame = next_frame(behind);
        } else {
            break;
        }
    }
    return &last_trace;
}
