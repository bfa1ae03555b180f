/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Uncaught exceptions of C++: their type and text, each time.
 *
 * libstdc++'s own handler of std::terminate() describes only the first exception of a process, because the first call is
 * supposed to be the last. Here a process goes on after a fault in a module. The server's handler replaces libstdc++'s; a
 * handler that a module has set stays. The functions of libstdc++ are looked up at run time, so that the server does not
 * need the library. Layouts are those of the Itanium C++ ABI (its "Level II: C++ ABI") on 64-bit machines.
 */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unwind.h>

#define THREAD_LOCAL static _Thread_local __attribute__((tls_model("initial-exec")))

/* Offsets in __cxa_exception: the class of the exception in its unwind header, and the thrown object behind it. */
#define CLASS_OFFSET 80
#define OBJECT_OFFSET 112
/* "GNUCC++\0", and the same with 1 for an exception that std::rethrow_exception() has thrown. */
#define CLASS_PRIMARY 0x474e5543432b2b00u
#define CLASS_DEPENDENT 0x474e5543432b2b01u

typedef void (*terminate_fn)(void);

/* __cxa_eh_globals */
struct globals {
    char *caught;
    unsigned int uncaught;
};

/* The functions of libstdc++. */
static struct {
    terminate_fn (*set_terminate)(terminate_fn);
    terminate_fn (*get_terminate)(void);
    terminate_fn own_handler;
    const void *(*current_type)(void);
    struct globals *(*globals)(void);
    char *(*demangle)(const char *, char *, size_t *, int *);
    void (*end_catch)(void);
    _Bool (*do_catch)(const void *, const void *, void **, unsigned int);
    const void *exception_type;
} cxx;
/* Whether `cxx` is complete. Written under `lock` once; a reader without the lock must see the functions, so the store
 * releases them and each such load acquires them. */
static int is_known;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The description of the thread's last uncaught exception, and whether its SIGABRT is still to come. */
THREAD_LOCAL char thrown[CWEBN_THROWN_BYTES];
THREAD_LOCAL int is_coming;
/* Whether the thread is in on_terminate. */
THREAD_LOCAL int is_ending;
/* The thread's exceptions; NULL if no call has needed them. */
THREAD_LOCAL struct globals *globals;
/* The return addresses from std::terminate() to the module's first function. */
THREAD_LOCAL uint64_t thrown_frames[CWEBN_FRAMES_MAX];
THREAD_LOCAL uint32_t thrown_frame_count;

static void (*observer)(const char *);

void cwebn_exceptions_observe(void (*told)(const char *)) {
    __atomic_store_n(&observer, told, __ATOMIC_RELEASE);
}

void cwebn_thrown_settle(int signo, struct cwebn_trace *trace) {
    if (!is_coming || signo != SIGABRT) {
        thrown[0] = '\0';
    } else if (trace->frame_count > 0 && thrown_frame_count > 0) {
        /* The first frame is the instruction. No frame pointers lead through the libraries from there. */
        uint32_t count = thrown_frame_count < CWEBN_FRAMES_MAX ? thrown_frame_count : CWEBN_FRAMES_MAX - 1;
        memcpy(trace->frames + 1, thrown_frames, count * sizeof *thrown_frames);
        trace->frame_count = count + 1;
    }
    is_coming = 0;
    is_ending = 0;
}

void cwebn_exceptions_prepare(void) {
    if (globals == NULL && __atomic_load_n(&is_known, __ATOMIC_ACQUIRE)) {
        globals = cxx.globals();
    }
}

void cwebn_exceptions_release(void) {
    is_coming = 0;
    is_ending = 0;
    if (globals != NULL) {
        globals->caught = NULL;
        globals->uncaught = 0;
    }
}

static _Unwind_Reason_Code take_frame(struct _Unwind_Context *context, void *unused) {
    (void)unused;
    if (thrown_frame_count == CWEBN_FRAMES_MAX - 1) {
        return _URC_END_OF_STACK;
    }
    thrown_frames[thrown_frame_count++] = (uint64_t)_Unwind_GetIP(context);
    return _URC_NO_REASON;
}

size_t cwebn_last_thrown(char *text, size_t size) {
    size_t length = strnlen(thrown, sizeof thrown);
    length = length < size ? length : size;
    memcpy(text, thrown, length);
    return length;
}

/* The object that was thrown; NULL if another language has thrown it. */
static void *thrown_object(void) {
    char *header = cxx.globals()->caught;
    uint64_t class = 0;
    void *primary = NULL;
    if (header == NULL) {
        return NULL;
    }
    memcpy(&class, header + CLASS_OFFSET, sizeof class);
    memcpy(&primary, header, sizeof primary);
    return class == CLASS_PRIMARY ? header + OBJECT_OFFSET : class == CLASS_DEPENDENT ? primary : NULL;
}

/* Appends text on one line. */
static void append(const char *text) {
    size_t length = strnlen(thrown, sizeof thrown);
    while (*text != '\0' && length < sizeof thrown - 1) {
        unsigned char byte = (unsigned char)*text++;
        thrown[length++] = byte < ' ' || byte == 0x7f ? ' ' : (char)byte;
    }
    thrown[length] = '\0';
}

/* Appends the text of an exception: what(), or a thrown string or number. */
static void append_text(const void *type, const char *mangled) {
    void *object = thrown_object();
    char number[32];
    if (object == NULL) {
        return;
    }
    if (cxx.do_catch(cxx.exception_type, type, &object, 1)) {
        /* The third virtual function of std::exception, after two destructors. */
        const char *(*what)(const void *) = (*(const char *(*const **)(const void *))object)[2];
        const char *text = what(object);
        append(": ");
        append(text == NULL ? "" : text);
    } else if (strcmp(mangled, "PKc") == 0 || strcmp(mangled, "Pc") == 0) {
        const char *text = *(const char *const *)object;
        append(": ");
        append(text == NULL ? "NULL" : text);
    } else if (strncmp(mangled, "NSt7__cxx1112basic_stringIcSt11char", 35) == 0) {
        append(": ");
        append(*(const char *const *)object);
    } else if (strcmp(mangled, "i") == 0) {
        snprintf(number, sizeof number, ": %d", *(const int *)object);
        append(number);
    }
}

static void describe(const void *type) {
    /* The name is the second word of std::type_info; a * before it says that the type is local to its object. */
    const char *mangled = ((const char *const *)type)[1];
    int status = 0;
    mangled += *mangled == '*';
    char *name = cxx.demangle(mangled, NULL, NULL, &status);
    int is_string = strncmp(mangled, "NSt7__cxx1112basic_stringIcSt11char", 35) == 0;
    append("uncaught exception ");
    append(is_string ? "std::string" : name != NULL ? name : mangled);
    free(name);
    append_text(type, mangled);
}

/* Ends the module's call: abort(3) is caught by its guard. Frames of the server own nothing here. */
static void on_terminate(void) {
    const void *type = cxx.current_type();
    /* Nested: what() or the destructor of the exception has thrown. The two must not run again, because each could throw for
     * ever. */
    int is_nested = is_ending;
    is_ending = 1;
    if (!is_nested) {
        thrown[0] = '\0';
        thrown_frame_count = 0;
        /* Nothing is unwound yet: the unwinder has found no handler. The backtrace ends at the
         * server's frames, which have no tables. */
        (void)_Unwind_Backtrace(take_frame, NULL);
        if (type == NULL) {
            append("called std::terminate(), as the destructor of a running std::thread does");
        } else {
            describe(type);
        }
    }
    void (*told)(const char *) = __atomic_load_n(&observer, __ATOMIC_ACQUIRE);
    if (told != NULL) {
        told(thrown);
    }
    if (!cwebn_guard_active()) {
        /* A thread of the module or a constructor has thrown, so no report of a call's fault will have the description. */
        fprintf(stderr, "%s\n", thrown);
        fflush(stderr);
    }
    if (type != NULL && !is_nested) {
        /* Frees the exception. cwebn_exceptions_release would leave its memory. */
        cxx.end_catch();
    }
    is_coming = 1;
    abort();
}

/* dlsym(3), for functions and data. */
#define FIND(field, name) (*(void **)(&cxx.field) = dlsym(library, name), cxx.field != NULL)

static int find_all(void *library) {
    return sizeof(void *) == 8 && FIND(set_terminate, "_ZSt13set_terminatePFvvE") &&
           FIND(get_terminate, "_ZSt13get_terminatev") &&
           FIND(own_handler, "_ZN9__gnu_cxx27__verbose_terminate_handlerEv") &&
           FIND(current_type, "__cxa_current_exception_type") && FIND(globals, "__cxa_get_globals") &&
           FIND(demangle, "__cxa_demangle") && FIND(end_catch, "__cxa_end_catch") &&
           FIND(do_catch, "_ZNK10__cxxabiv117__class_type_info10__do_catchEPKSt9type_infoPPvj") &&
           FIND(exception_type, "_ZTISt9exception");
}

void cwebn_exceptions_watch(int is_needed) {
    pthread_mutex_lock(&lock);
    /* The library is never closed: its threads' exceptions outlive every module. */
    void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL | (is_needed ? 0 : RTLD_NOLOAD));
    if (library != NULL && !is_known) {
        __atomic_store_n(&is_known, find_all(library), __ATOMIC_RELEASE);
    }
    if (is_known && cxx.get_terminate() == cxx.own_handler) {
        cxx.set_terminate(on_terminate);
    }
    pthread_mutex_unlock(&lock);
}

char *cwebn_demangle(const char *name) {
    int status = 0;
    return __atomic_load_n(&is_known, __ATOMIC_ACQUIRE) ? cxx.demangle(name, NULL, NULL, &status) : NULL;
}
