/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Guarded calls of each kind of module function. The calls are in C so that no Rust frame lies between the guard and
 * the module. A fault jumps over the frames of this file only, which own nothing.
 *
 * If the context is NULL, the module's functions take none (cweb_module_api is 2) and are called without it.
 */
#include "native.h"

/* A function whose real type differs from the pointer's; no function is called as this. */
typedef void (*uncalled)(void);

/*
 * A module's functions run this far below the code that later reads the answer. By a common mistake, a body or a header
 * value may lie on the handler's own stack. The bytes are intact there until other functions use that stack.
 */
#define STACK_GAP_BYTES 2048
#define WITH_GAP __attribute__((noinline))

struct handler_call {
    int (*handler)(struct cweb_context *, http_request_t *, http_response_t *);
    struct cweb_context *ctx;
    http_request_t *req;
    http_response_t *res;
    struct cwebn_handed *handed;
};

WITH_GAP static int handle_below(const struct handler_call *call) {
    volatile char gap[STACK_GAP_BYTES];
    int returned = 0;
    gap[0] = 0;
    if (call->ctx == NULL) {
        (void)((int (*)(http_request_t *, http_response_t *))(uncalled)call->handler)(call->req, call->res);
    } else {
        returned = call->handler(call->ctx, call->req, call->res);
    }
    gap[STACK_GAP_BYTES - 1] = 0; /* no tail call */
    (void)gap;
    return returned;
}

static void run_handler(void *arg) {
    const struct handler_call *call = arg;
    call->handed->returned = handle_below(call);
    cwebn_handed_read(call->handed, call->res);
}

int cwebn_call_handler(int (*handler)(struct cweb_context *, http_request_t *, http_response_t *),
                       struct cweb_context *ctx, http_request_t *req, http_response_t *res,
                       struct cwebn_handed *handed, struct cwebn_fault *fault) {
    struct handler_call call = {handler, ctx, req, res, handed};
    struct cwebn_request *outer = cwebn_request_enter(handed->request);
    int faulted = cwebn_guard_module((uintptr_t)call.handler, run_handler, &call, fault);
    (void)cwebn_request_enter(outer);
    return faulted;
}

struct socket_call {
    void (*fn)(struct cweb_context *, websocket_t *);
    struct cweb_context *ctx;
    websocket_t *ws;
    struct cwebn_handed *handed;
};

WITH_GAP static void socket_below(const struct socket_call *call) {
    volatile char gap[STACK_GAP_BYTES];
    gap[0] = 0;
    if (call->ctx == NULL) {
        ((void (*)(websocket_t *))(uncalled)call->fn)(call->ws);
    } else {
        call->fn(call->ctx, call->ws);
    }
    gap[STACK_GAP_BYTES - 1] = 0;
    (void)gap;
}

static void run_open(void *arg) {
    const struct socket_call *call = arg;
    const char *before = call->ws->session;
    if (call->fn != NULL) {
        socket_below(call);
        cwebn_handed_session(call->handed, call->ws, before);
    }
}

static void run_close(void *arg) {
    const struct socket_call *call = arg;
    if (call->fn != NULL) {
        socket_below(call);
    }
    cwebn_handed_end_session(call->handed, call->ws);
}

int cwebn_call_ws_open(void (*fn)(struct cweb_context *, websocket_t *), struct cweb_context *ctx, websocket_t *ws,
                       struct cwebn_handed *handed, struct cwebn_fault *fault) {
    struct socket_call call = {fn, ctx, ws, handed};
    struct cwebn_request *outer = cwebn_request_enter(handed->request);
    int faulted = cwebn_guard_module((uintptr_t)call.fn, run_open, &call, fault);
    (void)cwebn_request_enter(outer);
    return faulted;
}

int cwebn_call_ws_close(void (*fn)(struct cweb_context *, websocket_t *), struct cweb_context *ctx, websocket_t *ws,
                        struct cwebn_handed *handed, struct cwebn_fault *fault) {
    struct socket_call call = {fn, ctx, ws, handed};
    return cwebn_guard_module((uintptr_t)call.fn, run_close, &call, fault);
}

struct message_call {
    void (*fn)(struct cweb_context *, websocket_t *, const char *, size_t);
    struct cweb_context *ctx;
    websocket_t *ws;
    const char *message;
    size_t length;
    struct cwebn_handed *handed;
};

WITH_GAP static void message_below(const struct message_call *call) {
    volatile char gap[STACK_GAP_BYTES];
    gap[0] = 0;
    if (call->ctx == NULL) {
        ((void (*)(websocket_t *, const char *, size_t))(uncalled)call->fn)(call->ws, call->message, call->length);
    } else {
        call->fn(call->ctx, call->ws, call->message, call->length);
    }
    gap[STACK_GAP_BYTES - 1] = 0;
    (void)gap;
}

static void run_message(void *arg) {
    const struct message_call *call = arg;
    const char *before = call->ws->session;
    if (call->fn != NULL) {
        message_below(call);
        cwebn_handed_session(call->handed, call->ws, before);
    }
}

int cwebn_call_ws_message(void (*fn)(struct cweb_context *, websocket_t *, const char *, size_t),
                          struct cweb_context *ctx, websocket_t *ws, const char *message, size_t length,
                          struct cwebn_handed *handed, struct cwebn_fault *fault) {
    struct message_call call = {fn, ctx, ws, message, length, handed};
    return cwebn_guard_module((uintptr_t)call.fn, run_message, &call, fault);
}

struct hook_call {
    void (*fn)(struct cweb_context *);
    struct cweb_context *ctx;
};

static void run_hook(void *arg) {
    const struct hook_call *call = arg;
    if (call->ctx == NULL) {
        ((void (*)(void))call->fn)();
    } else {
        call->fn(call->ctx);
    }
}

int cwebn_call_hook(void (*fn)(struct cweb_context *), struct cweb_context *ctx, struct cwebn_fault *fault) {
    struct hook_call call = {fn, ctx};
    return cwebn_guard_module((uintptr_t)call.fn, run_hook, &call, fault);
}

struct job_call {
    int (*run)(struct cweb_context *, const struct job_payload *, struct job_ctx *);
    struct cweb_context *ctx;
    const struct job_payload *payload;
    struct job_ctx *job;
    int rc;
};

static void run_job(void *arg) {
    struct job_call *call = arg;
    call->rc = call->run(call->ctx, call->payload, call->job);
}

int cwebn_call_job_run(int (*run)(struct cweb_context *, const struct job_payload *, struct job_ctx *),
                       struct cweb_context *ctx, const struct job_payload *payload, struct job_ctx *job, int *rc,
                       struct cwebn_fault *fault) {
    struct job_call call = {run, ctx, payload, job, -1};
    int faulted = cwebn_guard_module((uintptr_t)call.run, run_job, &call, fault);
    *rc = call.rc;
    return faulted;
}

struct cancel_call {
    void (*cancel)(struct cweb_context *, const char *);
    struct cweb_context *ctx;
    const char *job_uuid;
};

static void run_cancel(void *arg) {
    const struct cancel_call *call = arg;
    call->cancel(call->ctx, call->job_uuid);
}

int cwebn_call_job_cancel(void (*cancel)(struct cweb_context *, const char *), struct cweb_context *ctx,
                          const char *job_uuid, struct cwebn_fault *fault) {
    struct cancel_call call = {cancel, ctx, job_uuid};
    return cwebn_guard_module((uintptr_t)call.cancel, run_cancel, &call, fault);
}

int cwebn_call_work(work_t work, void *data, struct cwebn_fault *fault) {
    return cwebn_guard_module((uintptr_t)work, work, data, fault);
}
