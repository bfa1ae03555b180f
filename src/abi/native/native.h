/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The C part of the server: code that needs setjmp(3), signal handlers, stdio streams or the SDK's inline functions.
 * Linked into the server only; modules never see it.
 */
#ifndef CWEB_NATIVE_H
#define CWEB_NATIVE_H

#define CWEB_WITHOUT_OPENSSL 1

#include <stddef.h>
#include <stdint.h>

#include <container.h>
#include <crypto.h>
#include <db.h>
#include <http.h>
#include <cweb_host.h>
#include <scheduler.h>

struct cweb_context;
struct job_payload;
struct job_ctx;
struct symbols;

/* ---- exceptions.c: uncaught exceptions of C++ ---- */

/* Limit, in bytes, on the description of an exception, with its NUL. */
#define CWEBN_THROWN_BYTES 1024

/*
 * Makes uncaught exceptions describable if the library of C++ is loaded, or `is_needed`, which loads it. Repeated calls are
 * harmless.
 */
void cwebn_exceptions_watch(int is_needed);

/* Calls `told` with the description of each uncaught exception, before its SIGABRT. */
void cwebn_exceptions_observe(void (*told)(const char *));

struct cwebn_trace;

/* In the handler of a signal: forgets the thread's last exception unless this signal is its SIGABRT. Then the exception's
 * return addresses replace those of `trace`, whose first frame stays. */
void cwebn_thrown_settle(int signo, struct cwebn_trace *trace);

/* Before an outermost call: finds the thread's exceptions for cwebn_exceptions_release, which must not allocate, because a
 * fault may have left the lock of malloc(3) held. */
void cwebn_exceptions_prepare(void);

/*
 * After a fault of an outermost call: forgets the exceptions that the thread has caught or is throwing, because the fault has
 * jumped over the ends of their catches. Otherwise the thread's next call would have them. Their memory is not freed: a
 * destructor could fail again.
 */
void cwebn_exceptions_release(void);

/* Copies the description of the exception that caused the thread's last signal, without a NUL. Returns its length. */
size_t cwebn_last_thrown(char *text, size_t size);

/* The name of a function of C++, to be freed; NULL: it is not mangled, or the library is not loaded. */
char *cwebn_demangle(const char *name);

/* ---- guard.c: calls into modules that survive faults ---- */

/* Values of cwebn_fault.kind. */
#define CWEBN_FAULT_SIGNAL 's'
#define CWEBN_FAULT_EXIT 'e'

/* Why module code did not return. */
struct cwebn_fault {
    int signo;     /* kind 's': SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT; SIGKILL, SIGSTOP: sent to the own process */
    int exit_code; /* kind 'e': the code passed to exit(3) */
    void *addr;    /* kind 's': the address accessed (si_addr), if the signal has one */
    void *pc;      /* kind 's': the instruction, if the architecture is known */
    char kind;     /* CWEBN_FAULT_* */
    char stack_overflow; /* 1: the access was next to the stack pointer, outside the thread's stack */
};

/* Limits on the return addresses and the registers of a trace. */
#define CWEBN_FRAMES_MAX 32
#define CWEBN_REGISTERS_MAX 34

/* The position of a thread when a signal was caught. */
struct cwebn_trace {
    uint32_t frame_count;
    uint32_t register_count;
    uint64_t frames[CWEBN_FRAMES_MAX];       /* the instruction, then return addresses, as far as frame pointers lead */
    uint64_t registers[CWEBN_REGISTERS_MAX]; /* in the order of cweb::abi::guard::REGISTERS */
};

/* The trace of the last signal that was caught on this thread; empty if there was none. */
void cwebn_last_trace(struct cwebn_trace *out);

/*
 * Takes the trace of this thread in a signal handler: `context` is the handler's third argument, `pc` and `sp` are the
 * registers in it. `code` is a function of the module whose call is traced (0: not known): code near it counts as the
 * module's. The trace stays until the thread's next signal.
 */
struct cwebn_trace *cwebn_take_trace(const void *context, const void *pc, uintptr_t sp, uintptr_t code);

/*
 * Installs the handlers of SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT for the process. A signal on a thread outside
 * guarded calls goes to the earlier handler; the default ends the process. 0, or -1 with errno.
 */
int cwebn_guard_init(void);

/*
 * Handles SIGSYS of a filter of system calls that has an error for the call (si_errno): the call returns that error.
 * The first refusal of each call to each module is written to `descriptor`, which must be non-blocking and stay open. A
 * note has two words: the number of the thread's module (0: not known) and that of the call. 0, or -1 with errno.
 */
int cwebn_guard_refusals(int descriptor);

/*
 * Makes `serve` answer connect(2) calls that the filter refuses. Its arguments are the socket, a copy of the address
 * and the size of the copy. Its return value is the result of the call: 0, or a negative errno. `serve` runs in the
 * handler of SIGSYS, on the thread that made the call.
 */
void cwebn_guard_connects(int (*serve)(int, const unsigned char *, size_t));

/* Words of cwebn_guard_note: the first six, then the counts and the words of a struct cwebn_trace. */
#define CWEBN_NOTE_TRACE 6
#define CWEBN_NOTE_WORDS (CWEBN_NOTE_TRACE + 2 + CWEBN_FRAMES_MAX + CWEBN_REGISTERS_MAX)

/*
 * Makes the handlers record a signal that no guarded call catches, before it ends the process, in words of memory that
 * outlives the process. The words are: signal, address accessed (0: none), instruction, number of the thread's module
 * (0: not known), 1 and the code if the thread called exit_group(2) (0: it did not), signal that the thread would send
 * to its own process (0: none), and the trace of the thread. The words must be zero before; only the first signal is
 * recorded.
 */
void cwebn_guard_note(uint64_t *words);

/*
 * Makes a signal in module code end the process instead of being caught. The handler first makes the descriptor's
 * directory the working directory, so that the kernel writes the core file there. -1: signals are caught.
 */
void cwebn_guard_cores(int directory);

/* The argument that exit_group(2) must have, its low byte aside, where cwebn_guard_note's process is confined. The
 * filter turns any other call, which only a module can have made, into SIGSYS. */
#define CWEBN_EXIT_MARK 0x63776500

/*
 * dlopen(3). An exception of C++ that leaves a constructor ends here as std::terminate(), because this frame has no unwind
 * table. Otherwise it would reach frames of Rust, which end the process without the exception's description.
 */
void *cwebn_open(const char *path, int flags);

/* Ends the process at once with this code. */
__attribute__((noreturn)) void cwebn_exit(int code);

/* Gives the calling thread a signal stack with a guard page, so that stack overflow can be caught. 0, or -1 with errno.
 * A second call is harmless. Guarded calls work without it, but stack overflow then ends the process. */
int cwebn_thread_init(void);

/* Removes the signal stack before the thread ends. */
void cwebn_thread_exit(void);

/*
 * Runs fn(arg). 0 if fn returned; 1 if it faulted: *out then describes the fault, and memory and locks that fn held
 * stay held. No frame between this call and the fault is unwound, so fn must not run Rust frames that own something.
 * Calls may nest.
 */
int cwebn_guard_call(void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* The same for the module's function `code`: a trace of the stack recognizes the module's code by that address. */
int cwebn_guard_module(uintptr_t code, void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* The same for a function of the server that follows a module's pointers: the thread's state is not restored
   afterwards. */
int cwebn_guard_own(void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* Whether the calling thread is in a guarded call. */
int cwebn_guard_active(void);

/* Forbids pthread_cancel(3) of the calling thread; returns the state to restore. */
int cwebn_cancel_forbid(void);
void cwebn_cancel_restore(int before);

/* Ends the innermost guarded call as `exit(code)`; outside of guarded calls, ends the thread. For
   cweb_host.module_exit. */
__attribute__((noreturn)) void cwebn_guard_exit(int code);

/* Ends the innermost guarded call with a fault caught by a nested one; outside of guarded calls, ends the thread. */
__attribute__((noreturn)) void cwebn_guard_rethrow(const struct cwebn_fault *fault);

/* Releases the container's mutex if the calling thread holds it. Must be called after a fault on this thread. */
void cwebn_container_release(struct container *container);

/* The stack of the calling thread: from *low up to *high; both 0 if cwebn_thread_init() was not called. */
void cwebn_thread_stack(uintptr_t *low, uintptr_t *high);

/* Bytes of cwebn_thread_scratch(). */
#define CWEBN_SCRATCH_BYTES ((size_t)64 * 1024)

/* Memory of the calling thread, used after a call into a module; NULL if cwebn_thread_init() was not called. */
char *cwebn_thread_scratch(void);

/* ---- worker.c: the process of one call ---- */

/* Makes this process one that runs single calls: services that need the process from which it was forked fail from
   now on. */
void cwebn_worker_enter(struct cweb_context *ctx);

/* Whether this process runs single calls. */
int cwebn_is_worker(void);

/* Whether this process refuses the service `what`, because it runs single calls. If so, sets errno, and the module's
   log reports it. */
int cwebn_worker_refuses(const char *what);

/* ---- keep.c: state that a module must not change for others ---- */

/* Sets the module whose code the calling thread runs, 0: none. Returns the previous one. */
uint64_t cwebn_module_enter(uint64_t number);

/* Limits the running threads that modules have started with pthread_create(3) or thrd_create(3). */
void cwebn_threads_limit(size_t most);

/* Reports in the module's log that its route has no CWEB_STREAM. */
void cwebn_no_stream(void);

/* The number of the module whose code the thread runs; on a thread that a module has started, the number of that
   module. */
uint64_t cwebn_module_number(void);

/* Marks the calling thread as a thread of no module: code that ends the process there has the rights of the server's code. */
void cwebn_module_leave(void);

/* sigaction(2), also where modules are refused. */
struct sigaction;
int cwebn_sigaction(int signo, const struct sigaction *action, struct sigaction *old);

/*
 * Restores the thread's state at the beginning of every call: arithmetic, locale, errno; and, if they were changed,
 * signal mask, affinity and cancellation. cwebn_guard_call calls it when the outermost call is over.
 */
void cwebn_state_restore(void);

/* ---- request.c: data that a handler reads of its request ---- */

struct cweb_part;
struct cweb_requests;
struct cwebn_request;

/* A capture of the route's path. */
struct cwebn_param {
    const char *name;  /* NULL: the group has no name */
    const char *value; /* NULL: the group did not match */
};

/* Read parts of a request on demand, into memory of cwebn_request_take(). `asked` is the field of the head. */
struct cwebn_request_makers {
    /* Returns what is wrong with the form, or NULL. */
    const char *(*parts)(struct cwebn_request *request, const void *asked, const struct cweb_part **parts, size_t *count);
    void (*params)(struct cwebn_request *request, const void *asked, const struct cwebn_param **params, size_t *count);
    /* The client's address and that of the connection's peer; NULL: not known. */
    void (*addresses)(struct cwebn_request *request, const void *asked, const char *addresses[3]);
};

/* The part of a cwebn_request that the server sees. */
struct cwebn_request_head {
    struct http_request *request; /* the request that the module has */
    const struct websocket *socket; /* the socket whose on_open is called with the request that opened it; NULL: none */
    const char *head;                   /* the received request, up to its body */
    size_t head_bytes;
    const void *asked; /* input of the makers */
    const struct cwebn_request_makers *makers;
    size_t block_count;
    size_t deferred_count; /* number of functions that cwebn_request_end() must run */
    int used;              /* cwebn_request_reset() must be called */
};

/* The services for cweb_host.requests. */
extern const struct cweb_requests cwebn_requests;

/* Sets the limit, in bytes, on the memory of a request. */
void cwebn_request_limit(size_t bytes);

/* NULL when memory runs out. One thread uses the value, for successive requests. */
struct cwebn_request *cwebn_request_new(const struct cwebn_request_makers *makers);

/* Unmaps the memory of a request. NULL is allowed. */
void cwebn_request_free(struct cwebn_request *request);

/* Sets the request that the calling thread serves, NULL: none. Returns the previous one. */
struct cwebn_request *cwebn_request_enter(struct cwebn_request *request);

/* Zeroed memory of the request; NULL with ENOMEM beyond the limit. */
void *cwebn_request_take(struct cwebn_request *request, size_t size);

/* Whether the memory belongs to the request, and how many of its bytes follow from there on. request may be NULL. */
int cwebn_request_owns(const struct cwebn_request *request, const void *memory, size_t *room);

/* Runs the deferred functions, the last one first, each under a guard. 1 if one faulted: *fault is then that of the
   first. */
int cwebn_request_end(struct cwebn_request *request, struct cwebn_fault *fault);

/* Frees the memory: no pointer into it may be left. */
void cwebn_request_reset(struct cwebn_request *request);

/* ---- handed.c: memory that a module hands over ---- */

/* Kinds of memory that a module hands over; bits of cwebn_handed.doing and .strange. */
#define CWEBN_BODY 1     /* res->body */
#define CWEBN_FIELDS 2   /* the names and values in res->headers */
#define CWEBN_SESSION 4  /* ws->session */
#define CWEBN_REQUEST 8  /* req->body, and strings that the module has added to the request's stores */
#define CWEBN_FREED 0x100 /* with one of the above, in .doing: the memory is being freed, or the module has freed it */

struct cwebn_field {
    const char *name;
    size_t name_length;
    const char *value;
    size_t value_length;
};

/* The record of one call. The server fills the first part before the call; the record must not be on the call's own
   stack. */
#define CWEBN_REQUEST_STORES 3

struct cwebn_handed {
    char *own_body;                  /* the response's body as the module finds it */
    const http_kv_store_t *own_store; /* likewise the response's headers, */
    const http_kv_pair_t *own_pairs; /* and their entries */
    const char *lent;                /* memory of the server that the module may read and must not free */
    size_t lent_bytes;
    const char *lent_body; /* likewise the received body of the request */
    size_t lent_body_bytes;
    struct cwebn_request *request; /* memory in it is used, and not freed; NULL: none */
    /* The request's stores, and their entries as the module finds them: also memory of the server. NULL: there are
       none. */
    const http_kv_store_t *lent_stores;
    const http_kv_pair_t *lent_pairs[CWEBN_REQUEST_STORES];
    size_t lent_pairs_room[CWEBN_REQUEST_STORES];
    struct cwebn_field *fields;
    size_t field_capacity;
    /* The results. */
    const char *body;
    size_t body_length;
    size_t field_count;
    const char *refused; /* why the answer can't be sent; NULL: it can be sent */
    size_t scratch_used;
    int body_kept;    /* the body is own_body, with its original size */
    unsigned strange; /* CWEBN_*: the memory is not from malloc(3), and was not freed */
    volatile int doing; /* CWEBN_*: the place of a fault, if it was not in the module's own function */
    int returned;       /* the return value of a handler with a context; otherwise 0 */
};

/* Stores whose pairs are freed: the response's, and the request's three. */
#define CWEBN_GIVEN_STORES (1 + CWEBN_REQUEST_STORES)

/* Memory to free after a call, as far as it comes from malloc(3). */
struct cwebn_given {
    http_kv_store_t *store; /* a store of the module's own, with its content; NULL: none */
    http_kv_pair_t *pairs[CWEBN_GIVEN_STORES];
    size_t counts[CWEBN_GIVEN_STORES];
    char *body;
    char *request_body;
};

/* Measures a handler's response. Must run in a guarded call of its module, right after the handler. */
void cwebn_handed_read(struct cwebn_handed *handed, const http_response_t *response);

/* Frees the memory that a module has handed over. 0 or 1 as cwebn_guard_call. */
int cwebn_handed_release(struct cwebn_handed *handed, struct cwebn_given *given, struct cwebn_fault *fault);

/* Examines ws->session after a callback; `before` is its value before that. Must run in a guarded call of the
   socket's module. */
void cwebn_handed_session(struct cwebn_handed *handed, websocket_t *ws, const char *before);

/* Frees ws->session. Must run in a guarded call of the socket's module. */
void cwebn_handed_end_session(struct cwebn_handed *handed, websocket_t *ws);

/* Frees one block if it comes from malloc(3). 0 or 1 as cwebn_guard_call. */
int cwebn_handed_free(void *block, struct cwebn_fault *fault);

/* ---- call.c: guarded calls of each kind of module function; 0 or 1 as cwebn_guard_call ---- */

/* ctx: NULL for a module whose functions take no context (cweb_module_api is 2). Jobs always take one. */

int cwebn_call_handler(int (*handler)(struct cweb_context *, http_request_t *, http_response_t *),
                       struct cweb_context *ctx, http_request_t *req, http_response_t *res,
                       struct cwebn_handed *handed, struct cwebn_fault *fault);
/* fn may be NULL in the three functions below. */
int cwebn_call_ws_open(void (*fn)(struct cweb_context *, websocket_t *), struct cweb_context *ctx, websocket_t *ws,
                       struct cwebn_handed *handed, struct cwebn_fault *fault);
/* Frees ws->session afterwards. */
int cwebn_call_ws_close(void (*fn)(struct cweb_context *, websocket_t *), struct cweb_context *ctx, websocket_t *ws,
                        struct cwebn_handed *handed, struct cwebn_fault *fault);
int cwebn_call_ws_message(void (*fn)(struct cweb_context *, websocket_t *, const char *, size_t),
                          struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length,
                          struct cwebn_handed *handed, struct cwebn_fault *fault);
/* onload and unload. */
int cwebn_call_hook(void (*fn)(struct cweb_context *), struct cweb_context *ctx, struct cwebn_fault *fault);
/* *rc receives the return value of run, if run returned. */
int cwebn_call_job_run(int (*run)(struct cweb_context *, const struct job_payload *, struct job_ctx *),
                       struct cweb_context *ctx, const struct job_payload *payload, struct job_ctx *job, int *rc,
                       struct cwebn_fault *fault);
int cwebn_call_job_cancel(void (*cancel)(struct cweb_context *, const char *), struct cweb_context *ctx,
                          const char *job_uuid, struct cwebn_fault *fault);
int cwebn_call_work(work_t work, void *data, struct cwebn_fault *fault);

/* ---- services.c: the context that module functions receive ---- */

/* A query for rows of the tables of jobs: those between two ids, by id. */
struct cwebn_rows {
    int table;        /* 0: jobs; 1: job_events */
    int column;       /* the column that must equal text or number; -1: none */
    const char *text; /* NULL: the column must equal number */
    int64_t number;
    int64_t after, before; /* both are excluded */
    uint64_t columns;      /* bit n: column n is read */
    int descending;
};

/* The server's functions for the context. Everything must outlive the context. */
struct cwebn_services {
    /* The table also given to modules; its crypto functions serve ctx->crypto. */
    const struct cweb_host *host;
    /* Passed to the functions below. */
    void *user;
    /* Address of an exported symbol of a module, or NULL. May be NULL. */
    void *(*resolve)(void *user, const char *module, const char *symbol);
    /* Called on the adding thread: returns a ticket that keeps the work's module loaded. May be NULL. */
    void *(*work_admit)(void *user, work_t work, void *data);
    /* Called on the scheduler's thread in place of work(data): runs the work by cwebn_call_work, and releases the
     * ticket. NULL: the work runs under a guard, and a fault is ignored. */
    void (*work_run)(void *user, work_t work, void *data, void *ticket);
    /* Called when the work won't run: releases the ticket. May be NULL. */
    void (*work_drop)(void *user, void *ticket);
    /* A page of rows (see tables.c) in memory of malloc(3), which the caller must free; NULL: the rows are not
     * available. Called on the thread that runs the query. The function may be NULL: there are no tables of jobs
     * then. */
    char *(*rows)(void *user, const struct cwebn_rows *wanted, size_t *length);
    /* 1 if the server has a key: ctx->crypto->status is CRYPTO_LOADED then. */
    int crypto_loaded;
    /* Logs a warning about a module. May be NULL. */
    void (*warn)(void *user, const char *module, const char *text);
};

/*
 * Builds the context shared by all modules: cache, scheduler thread, database, crypto, symbols.
 *
 * A database that can't be opened is no error here: its functions then fail cleanly, and `error` has the reason ("" on
 * success). db_path may be NULL for no database. Returns NULL when memory or threads run out, with the reason in
 * `error`.
 */
struct cweb_context *cwebn_context_create(const char *db_path, const struct cwebn_services *services, char *error,
                                          size_t error_size);

/* Releases locks that a fault on this thread may have left held: the cache, stdout, stderr. Must be called after
   every fault. */
void cwebn_context_after_fault(struct cweb_context *ctx);

/* How many works of the scheduler are waiting or running. */
int cwebn_context_pending(struct cweb_context *ctx);

/* Tells the modules whether the server has a key. */
void cwebn_context_set_crypto(struct cweb_context *ctx, int loaded);

/* Runs the waiting works (drain) or drops them, ends the scheduler's thread, closes the database, frees everything. No
 * module code may run any more. NULL is allowed. */
void cwebn_context_destroy(struct cweb_context *ctx, int drain);

/* ---- database.c, calls.c, pool.c, connection.c: each call's connection to the database of modules ---- */

/*
 * Opens the connection of ctx->database->db, for calls that have not needed their own connection yet. A file that can't
 * be opened is no error: see cwebn_context_create. NULL when memory runs out, with the reason in `error`.
 */
struct sqldb *cwebn_database_open(const char *path, const struct cwebn_services *services, char *error,
                                  size_t error_size);

/* Closes that connection. No module may be open. */
void cwebn_database_close(struct sqldb *database);

/* A loaded module and its connections to the database. */
struct cwebn_module;

/* One call into a module, on the caller's stack. */
struct cwebn_call {
    struct cwebn_module *module;
    void *lease;
    struct cwebn_call *outer;
    int started;
    int held;
    int is_hook;
};

/* Registers a loaded module. `code` is an address in its shared object. NULL when memory runs out. */
struct cwebn_module *cwebn_module_open(struct cweb_context *ctx, const char *name, const void *code);

/*
 * Closes the connections of a module that is about to be unmapped; that may run functions that the module registered
 * there. The module must be in no call.
 */
void cwebn_module_close(struct cwebn_module *module);

/* Closes connections to which the module can have no pointer. Called when its generation is over, but its code stays. */
void cwebn_module_retire(struct cwebn_module *module);

/* The module that contains this code; NULL if none does. The caller must release it by cwebn_module_release. */
struct cwebn_module *cwebn_module_of(const void *code);
void cwebn_module_release(struct cwebn_module *module);

/* Surround every call into a module, on its thread. `call` must not move until the end. */
void cwebn_call_begin(struct cwebn_module *module, struct cwebn_call *call, int is_hook);
/* Rolls back and resets transactions and statements that the call left open. `faulted`: the call did not return. */
void cwebn_call_end(struct cwebn_call *call, int faulted);

/* The first function that the shared object with the address `code` imports and that takes pointers to code which the C
 * library may call after a module has ended; NULL if there is none. */
const char *cwebn_leaves_pointers(const void *code);

/* The context to pass to a function of `module`, between cwebn_call_begin and cwebn_call_end. */
struct cweb_context *cwebn_call_context(struct cwebn_module *module);

/* ---- legacy.c: the services for modules whose functions take no context ---- */

struct cwebn_legacy;

/* Sets the context of the services below; NULL: none, and they fail cleanly. No module may be loaded. */
void cwebn_legacy_set(struct cweb_context *ctx);

/* Copies the state of the server's key from ctx->crypto. */
void cwebn_legacy_crypto(const struct cweb_context *ctx);

/* The argument of a module's cweb_bind_legacy(); the pointers stay the same until the process ends. */
const struct cwebn_legacy *cwebn_legacy_services(void);

/* ---- tables.c: the tables of jobs ---- */

/* Creates the tables jobs and job_events in `schema` of `db`: their rows come from services->rows. An SQLite result
   code. */
int cwebn_tables_create(sqlite3 *db, const char *schema, const struct cwebn_services *services);

/* ---- stdio.c: the output of modules ---- */

/*
 * Replaces the C library's stdout and stderr by unbuffered streams until cwebn_stdio_restore(). The streams call
 * sink(user, bytes, length) on the printing thread instead of writing to descriptors 1 and 2, which stay unchanged. The
 * sink must not print through C streams. 0, or -1 with errno.
 */
int cwebn_stdio_capture(void (*sink)(void *user, const char *bytes, size_t length), void *user);

/*
 * Restores the C library's stdout and stderr. Must be called before the process exits: exit(3) ends the thread-local
 * storage that the sink needs, and then runs functions that modules have registered.
 */
void cwebn_stdio_restore(void);

/* Releases stdout and stderr if the calling thread holds them: a fault inside printf(3) leaves them locked. */
void cwebn_stdio_release(void);

/* ---- layout.c: for checking the Rust mirror of the SDK ---- */

/* One public field: "module_t.size", its offset and its size. A whole type has no dot: its offset field is its
   alignment. */
struct cwebn_layout_entry {
    const char *name;
    size_t offset;
    size_t size;
};

/* Ends with an entry whose name is NULL. */
extern const struct cwebn_layout_entry cwebn_layout[];

#endif /* CWEB_NATIVE_H */
