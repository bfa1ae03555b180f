/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The C part of the server: what needs setjmp(3), signal handlers, stdio streams or the SDK's inline functions.
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

/* ---- guard.c: calls into modules that survive faults ---- */

/* Values of cwebn_fault.kind. */
#define CWEBN_FAULT_SIGNAL 's'
#define CWEBN_FAULT_EXIT 'e'

/* How module code ended instead of returning. */
struct cwebn_fault {
    int signo;     /* kind 's': SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT; SIGKILL, SIGSTOP: sent to the own process */
    int exit_code; /* kind 'e': what it passed to exit(3) */
    void *addr;    /* kind 's': the address accessed (si_addr), when the signal has one */
    void *pc;      /* kind 's': the instruction, when the architecture is known */
    char kind;     /* CWEBN_FAULT_* */
    char stack_overflow; /* 1: the access was next to the stack pointer, outside the thread's stack */
};

/* Most return addresses and registers of a trace. */
#define CWEBN_FRAMES_MAX 32
#define CWEBN_REGISTERS_MAX 34

/* Where a thread was when a signal was caught. */
struct cwebn_trace {
    uint32_t frame_count;
    uint32_t register_count;
    uint64_t frames[CWEBN_FRAMES_MAX];       /* the instruction, then return addresses, as far as frame pointers lead */
    uint64_t registers[CWEBN_REGISTERS_MAX]; /* in the order of cweb::abi::guard::REGISTERS */
};

/* The remains of the last signal that was caught on this thread; empty if there was none. */
void cwebn_last_trace(struct cwebn_trace *out);

/*
 * Installs the handlers of SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT for the process. A signal on a thread that is
 * in no guarded call goes to the handler that was there before, by default the end of the process. 0, or -1 with errno.
 */
int cwebn_guard_init(void);

/*
 * Handles SIGSYS of a filter of system calls that has an error for the call (si_errno): the call returns it. The first refusal of
 * each call to each module is written to `descriptor`, which does not block and stays open, as two words: the number of the
 * thread's module (0: not known) and that of the call. 0, or -1 with errno.
 */
int cwebn_guard_refusals(int descriptor);

/*
 * Has `serve` answer connect(2), which the filter refuses: the socket, a copy of the address and its bytes. What it returns is the
 * result of the call: 0, or an errno below 0. Runs in the handler of SIGSYS, on the thread that made the call.
 */
void cwebn_guard_connects(int (*serve)(int, const unsigned char *, size_t));

/* Words of cwebn_guard_note: those below, then the counts and the words of a struct cwebn_trace. */
#define CWEBN_NOTE_TRACE 6
#define CWEBN_NOTE_WORDS (CWEBN_NOTE_TRACE + 2 + CWEBN_FRAMES_MAX + CWEBN_REGISTERS_MAX)

/*
 * Makes the handlers record a signal that no guarded call catches, before it ends the process, in words of memory that outlives
 * the process. The words: signal, address accessed (0: none), instruction, number of the thread's module (0: not known), 1 and
 * the code if the thread called exit_group(2) (0: not), signal that the thread would send its own process (0: none), and the
 * trace of the thread. The words are zero before; only the first signal is recorded.
 */
void cwebn_guard_note(uint64_t *words);

/*
 * From now on a signal in module code is not caught but ends the process. The handler first makes the descriptor's directory the
 * working directory, so that the kernel writes the core file there. -1: signals are caught.
 */
void cwebn_guard_cores(int directory);

/* The low byte aside, what exit_group(2) must be called with where cwebn_guard_note's process is confined: its filter
 * turns any other call, which can only be a module's, into SIGSYS. */
#define CWEBN_EXIT_MARK 0x63776500

/* Ends the process at once with this code. */
__attribute__((noreturn)) void cwebn_exit(int code);

/* Gives the calling thread a signal stack with a guard page, so that stack overflow can be caught. 0, or -1 with errno.
 * Calling it twice is harmless. Guarded calls work without it, but stack overflow then ends the process. */
int cwebn_thread_init(void);

/* Takes the signal stack back before the thread ends. */
void cwebn_thread_exit(void);

/*
 * Runs fn(arg). 0 if it returned; 1 if it faulted: then *out says how, and whatever it held (memory, locks) stays held.
 * No frame between here and the fault is unwound, so fn must not run Rust frames that own something. Nests.
 */
int cwebn_guard_call(void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* The same, which calls the module's function `code`: a trace of its stack knows the module's code by that. */
int cwebn_guard_module(uintptr_t code, void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* The same for a function of the server's own that follows a module's pointers: the thread's state is not looked at afterwards. */
int cwebn_guard_own(void (*fn)(void *), void *arg, struct cwebn_fault *out);

/* Whether the calling thread is in a guarded call. */
int cwebn_guard_active(void);

/* Ends the innermost guarded call as `exit(code)`; outside of one, ends the thread. For cweb_host.module_exit. */
__attribute__((noreturn)) void cwebn_guard_exit(int code);

/* Ends the innermost guarded call with a fault caught by a nested one; outside of one, ends the thread. */
__attribute__((noreturn)) void cwebn_guard_rethrow(const struct cwebn_fault *fault);

/* Releases the container's mutex if the calling thread holds it. Call after a fault on this thread. */
void cwebn_container_release(struct container *container);

/* The stack of the calling thread: from *low up to *high; both 0 where cwebn_thread_init() was not called. */
void cwebn_thread_stack(uintptr_t *low, uintptr_t *high);

/* Bytes of cwebn_thread_scratch(). */
#define CWEBN_SCRATCH_BYTES ((size_t)64 * 1024)

/* Memory of the calling thread for the time after a call into a module; NULL where cwebn_thread_init() was not called. */
char *cwebn_thread_scratch(void);

/* ---- worker.c: the process of one call ---- */

/* This process is to run single calls from here on: what needs the process that it was forked from fails. */
void cwebn_worker_enter(struct cweb_context *ctx);

/* Whether it does. */
int cwebn_is_worker(void);

/* The same, for `what` a module calls: sets errno, and says in the module's log that it fails. */
int cwebn_worker_refuses(const char *what);

/* ---- keep.c: what a module may not change for others ---- */

/* The calling thread runs code of the module with this number, 0: of none. Returns what was before. */
uint64_t cwebn_module_enter(uint64_t number);

/* Modules have at most so many threads at once that they have started with pthread_create(3) or thrd_create(3). */
void cwebn_threads_limit(size_t most);

/* Says in the module's log that its route has no CWEB_STREAM. */
void cwebn_no_stream(void);

/* That number; on a thread that a module has started, the number of that module. */
uint64_t cwebn_module_number(void);

/* The calling thread is no module's any more: what ends the process on it may do all that the server may. */
void cwebn_module_leave(void);

/* sigaction(2), also where a module may not use it. */
struct sigaction;
int cwebn_sigaction(int signo, const struct sigaction *action, struct sigaction *old);

/*
 * Gives the thread the state that every call begins with: arithmetic, locale, errno; signal mask, affinity and the way to be
 * cancelled, if they were changed. Called by cwebn_guard_call when the outermost call is over.
 */
void cwebn_state_restore(void);

/* ---- request.c: what a handler asks of its request ---- */

struct cweb_part;
struct cweb_requests;
struct cwebn_request;

/* A capture of the route's path. */
struct cwebn_param {
    const char *name;  /* NULL: the group has none */
    const char *value; /* NULL: the group took no part in the match */
};

/* Reads parts of a request when they are asked for, into memory of cwebn_request_take(). `asked` is that of the head. */
struct cwebn_request_makers {
    /* What was wrong with the form, or NULL. */
    const char *(*parts)(struct cwebn_request *request, const void *asked, const struct cweb_part **parts, size_t *count);
    void (*params)(struct cwebn_request *request, const void *asked, const struct cwebn_param **params, size_t *count);
    /* The client's address and that of the connection's other end; NULL: not known. */
    void (*addresses)(struct cwebn_request *request, const void *asked, const char *addresses[2]);
};

/* The part of a cwebn_request that the server sees. */
struct cwebn_request_head {
    struct http_request *request; /* the one that the module has */
    const struct websocket *socket; /* the one whose on_open is called with the request that opened it; NULL: none */
    const char *head;                   /* the request as it was received, up to its body */
    size_t head_bytes;
    const void *asked; /* for the makers */
    const struct cwebn_request_makers *makers;
    size_t block_count;
    size_t deferred_count; /* functions that cwebn_request_end() is to run */
    int used;              /* cwebn_request_reset() is due */
};

/* The services, for cweb_host.requests. */
extern const struct cweb_requests cwebn_requests;

/* Most memory that a request may have, in bytes, from now on. */
void cwebn_request_limit(size_t bytes);

/* NULL when memory runs out. Used by one thread, for one request after another. */
struct cwebn_request *cwebn_request_new(const struct cwebn_request_makers *makers);

/* Unmaps its memory. NULL is allowed. */
void cwebn_request_free(struct cwebn_request *request);

/* Has the calling thread serve this request, NULL: none. Returns the one before. */
struct cwebn_request *cwebn_request_enter(struct cwebn_request *request);

/* Memory of the request, zeroed; NULL with ENOMEM beyond the limit. */
void *cwebn_request_take(struct cwebn_request *request, size_t size);

/* Whether memory is the request's, and how many bytes of it there are from there on. request may be NULL. */
int cwebn_request_owns(const struct cwebn_request *request, const void *memory, size_t *room);

/* Runs the deferred functions, the last one first, each in a guard. 1 if one faulted: then *fault is that of the first. */
int cwebn_request_end(struct cwebn_request *request, struct cwebn_fault *fault);

/* Gives the memory back: nothing may point into it any more. */
void cwebn_request_reset(struct cwebn_request *request);

/* ---- handed.c: what a module hands over ---- */

/* What a module hands over; bits of cwebn_handed.doing and .strange. */
#define CWEBN_BODY 1     /* res->body */
#define CWEBN_FIELDS 2   /* the names and values in res->headers */
#define CWEBN_SESSION 4  /* ws->session */
#define CWEBN_REQUEST 8  /* req->body, and what the module has added to the request's stores */
#define CWEBN_FREED 0x100 /* with one of the above, in .doing: it is being freed, or has been by the module */

struct cwebn_field {
    const char *name;
    size_t name_length;
    const char *value;
    size_t value_length;
};

/* One call's. The server fills the first part before the call, which must not be on the call's own stack. */
#define CWEBN_REQUEST_STORES 3

struct cwebn_handed {
    char *own_body;                  /* the response's body as the module finds it */
    const http_kv_store_t *own_store; /* likewise its headers, */
    const http_kv_pair_t *own_pairs; /* and their entries */
    const char *lent;                /* memory of the server's that the module may read and must not free */
    size_t lent_bytes;
    const char *lent_body; /* likewise the request's body as it was received */
    size_t lent_body_bytes;
    struct cwebn_request *request; /* memory in it is used, and not freed; NULL: none */
    /* The request's stores, and their entries as the module finds them: also memory of the server's. NULL: there are none. */
    const http_kv_store_t *lent_stores;
    const http_kv_pair_t *lent_pairs[CWEBN_REQUEST_STORES];
    size_t lent_pairs_room[CWEBN_REQUEST_STORES];
    struct cwebn_field *fields;
    size_t field_capacity;
    /* What was found. */
    const char *body;
    size_t body_length;
    size_t field_count;
    const char *refused; /* why the answer can't be sent; NULL: it can */
    size_t scratch_used;
    int body_kept;    /* the body is own_body, and is as large as it was */
    unsigned strange; /* CWEBN_*: it is not from malloc(3), and was not freed */
    volatile int doing; /* CWEBN_*: where a fault was, if not in the module's own function */
    int returned;       /* what a handler with a context has returned; 0 of others */
};

/* Stores whose pairs are given back: the response's, and the request's three. */
#define CWEBN_GIVEN_STORES (1 + CWEBN_REQUEST_STORES)

/* What is freed after a call, as far as it comes from malloc(3). */
struct cwebn_given {
    http_kv_store_t *store; /* a store of the module's own, with all in it; NULL: none */
    http_kv_pair_t *pairs[CWEBN_GIVEN_STORES];
    size_t counts[CWEBN_GIVEN_STORES];
    char *body;
    char *request_body;
};

/* Measures what a handler has left in its response. In a guarded call of its module, right after the handler. */
void cwebn_handed_read(struct cwebn_handed *handed, const http_response_t *response);

/* Frees what a module has handed over. 0 or 1 as cwebn_guard_call. */
int cwebn_handed_release(struct cwebn_handed *handed, struct cwebn_given *given, struct cwebn_fault *fault);

/* Looks at ws->session after a callback before which it was `before`. In a guarded call of the socket's module. */
void cwebn_handed_session(struct cwebn_handed *handed, websocket_t *ws, const char *before);

/* Frees ws->session. In a guarded call of the socket's module. */
void cwebn_handed_end_session(struct cwebn_handed *handed, websocket_t *ws);

/* Frees one block if it comes from malloc(3). 0 or 1 as cwebn_guard_call. */
int cwebn_handed_free(void *block, struct cwebn_fault *fault);

/* ---- call.c: guarded calls of each kind of module function; 0 or 1 as cwebn_guard_call ---- */

/* ctx: NULL for a module whose functions take no context (cweb_module_api is 2). Jobs always take one. */

int cwebn_call_handler(int (*handler)(struct cweb_context *, http_request_t *, http_response_t *),
                       struct cweb_context *ctx, http_request_t *req, http_response_t *res,
                       struct cwebn_handed *handed, struct cwebn_fault *fault);
/* fn may be NULL in the three. */
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
/* *rc receives what run returned, when it did. */
int cwebn_call_job_run(int (*run)(struct cweb_context *, const struct job_payload *, struct job_ctx *),
                       struct cweb_context *ctx, const struct job_payload *payload, struct job_ctx *job, int *rc,
                       struct cwebn_fault *fault);
int cwebn_call_job_cancel(void (*cancel)(struct cweb_context *, const char *), struct cweb_context *ctx,
                          const char *job_uuid, struct cwebn_fault *fault);
int cwebn_call_work(work_t work, void *data, struct cwebn_fault *fault);

/* ---- services.c: the context that module functions are given ---- */

/* Which rows of the tables of jobs are wanted: those between two ids, by id. */
struct cwebn_rows {
    int table;        /* 0: jobs; 1: job_events */
    int column;       /* the column that has to equal text or number; -1: none */
    const char *text; /* NULL: number */
    int64_t number;
    int64_t after, before; /* neither is included */
    uint64_t columns;      /* bit n: column n is read */
    int descending;
};

/* What the server brings. Everything must outlive the context. */
struct cwebn_services {
    /* The table also given to modules; its crypto functions serve ctx->crypto. */
    const struct cweb_host *host;
    /* Passed to the functions below. */
    void *user;
    /* Address of an exported symbol of a module, or NULL. May be NULL. */
    void *(*resolve)(void *user, const char *module, const char *symbol);
    /* On the adding thread: returns a ticket that keeps the work's module loaded. May be NULL. */
    void *(*work_admit)(void *user, work_t work, void *data);
    /* On the scheduler's thread, in place of work(data): runs it by cwebn_call_work, releases the ticket. NULL: it is
     * run in a guard and a fault is forgotten. */
    void (*work_run)(void *user, work_t work, void *data, void *ticket);
    /* The work won't run: releases the ticket. May be NULL. */
    void (*work_drop)(void *user, void *ticket);
    /* A page of rows (see tables.c) in memory of malloc(3), which the caller frees; NULL: they can't be had. May be NULL:
     * then the tables of jobs are read from their file. */
    char *(*rows)(void *user, const struct cwebn_rows *wanted, size_t *length);
    /* 1 if the server has a key: ctx->crypto->status is CRYPTO_LOADED then. */
    int crypto_loaded;
    /* Logs a warning about a module. May be NULL. */
    void (*warn)(void *user, const char *module, const char *text);
};

/*
 * Builds the context shared by all modules: cache, scheduler thread, database, crypto, symbols.
 *
 * A database that can't be opened is no error here: its functions then fail cleanly, and `error` says why ("" if all
 * went well). db_path may be NULL for none; jobs_uri is the URI of the server's database of jobs, or NULL. Returns NULL when memory or threads run out, with the reason in `error`.
 */
struct cweb_context *cwebn_context_create(const char *db_path, const char *jobs_uri,
                                          const struct cwebn_services *services, char *error, size_t error_size);

/* Releases what a fault on this thread may have left locked: the cache, stdout, stderr. Call after every fault. */
void cwebn_context_after_fault(struct cweb_context *ctx);

/* How many works of the scheduler wait or run. */
int cwebn_context_pending(struct cweb_context *ctx);

/* Tells the modules whether the server has a key. */
void cwebn_context_set_crypto(struct cweb_context *ctx, int loaded);

/* Runs the works that wait (drain) or drops them, ends the scheduler's thread, closes the database, frees everything.
 * No module code may run any more. NULL is allowed. */
void cwebn_context_destroy(struct cweb_context *ctx, int drain);

/* ---- database.c, calls.c, pool.c, connection.c: each call's connection to the database of modules ---- */

/*
 * Opens the connection that ctx->database->db names where a call has not needed one of its own yet. A file that can't be
 * opened is no error: see cwebn_context_create. NULL when memory runs out, with the reason in `error`.
 */
struct sqldb *cwebn_database_open(const char *path, const char *jobs_uri, const struct cwebn_services *services, char *error,
                                  size_t error_size);

/* Closes that connection. No module may be open. */
void cwebn_database_close(struct sqldb *database);

/* A loaded module, as the database knows it. */
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

/* `code` is an address in the module's shared object. NULL when memory runs out. */
struct cwebn_module *cwebn_module_open(struct cweb_context *ctx, const char *name, const void *code);

/*
 * The module is about to be unmapped: closes its connections, which may run functions that it registered there. It must be
 * in no call.
 */
void cwebn_module_close(struct cwebn_module *module);

/* The module's generation is over, but its code stays: closes the connections that nobody can know of. */
void cwebn_module_retire(struct cwebn_module *module);

/* The module whose code this is, to be given back by cwebn_module_release; NULL if none is. */
struct cwebn_module *cwebn_module_of(const void *code);
void cwebn_module_release(struct cwebn_module *module);

/* Around every call into a module, on its thread. `call` must stay where it is until the end. */
void cwebn_call_begin(struct cwebn_module *module, struct cwebn_call *call, int is_hook);
/* Rolls back and resets what the call left open. `faulted`: the call did not return. */
void cwebn_call_end(struct cwebn_call *call, int faulted);

/* The first function that the shared object with the address `code` imports, and that takes pointers to code which the C library
 * may call after a module has ended; NULL if there is none. */
const char *cwebn_leaves_pointers(const void *code);

/* The context to be given to a function of `module`, within cwebn_call_begin and cwebn_call_end. */
struct cweb_context *cwebn_call_context(struct cwebn_module *module);

/* ---- legacy.c: the services for modules whose functions take no context ---- */

struct cwebn_legacy;

/* The context that the services below are of; NULL: none, they fail cleanly. No module may be loaded. */
void cwebn_legacy_set(struct cweb_context *ctx);

/* Takes over what ctx->crypto says of the server's key. */
void cwebn_legacy_crypto(const struct cweb_context *ctx);

/* What a module's cweb_bind_legacy() is given; the same pointers as long as the process lives. */
const struct cwebn_legacy *cwebn_legacy_services(void);

/* ---- tables.c: the tables of jobs, where modules have a process of their own ---- */

/* Makes the tables jobs and job_events in `schema` of `db`: their rows come from services->rows. An SQLite result code. */
int cwebn_tables_create(sqlite3 *db, const char *schema, const struct cwebn_services *services);

/* ---- stdio.c: what modules print ---- */

/*
 * Replaces the C library's stdout and stderr by unbuffered streams that call sink(user, bytes, length) on the printing
 * thread, in place of writing to descriptors 1 and 2 (which stay as they are). Until cwebn_stdio_restore(). The sink
 * must not print through C streams. 0, or -1 with errno.
 */
int cwebn_stdio_capture(void (*sink)(void *user, const char *bytes, size_t length), void *user);

/*
 * Gives stdout and stderr back to the C library. Before the process exits: exit(3) ends the thread-local storage that the
 * sink needs, and then runs what modules have left to be run.
 */
void cwebn_stdio_restore(void);

/* Releases stdout and stderr if the calling thread holds them: a fault inside printf(3) leaves them locked. */
void cwebn_stdio_release(void);

/* ---- layout.c: for checking the Rust mirror of the SDK ---- */

/* One public field: "module_t.size", its offset and its size. A whole type has no dot: offset is its alignment then. */
struct cwebn_layout_entry {
    const char *name;
    size_t offset;
    size_t size;
};

/* Ends with an entry whose name is NULL. */
extern const struct cwebn_layout_entry cwebn_layout[];

#endif /* CWEB_NATIVE_H */
