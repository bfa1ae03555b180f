/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Data that a handler reads of its request: see cweb_request.h.
 *
 * Memory is taken from mapped blocks, not from malloc(3). The blocks are freed after a fault too, when the state of the
 * heap is unknown. A write beyond the end of a block does not reach malloc's book-keeping. The book-keeping of the
 * blocks lies in memory of its own, except the list of deferred functions, which is followed under a guard.
 */
#define _GNU_SOURCE
#include "native.h"

#include <cweb_request.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT ((size_t)16)
/* Size of the first block, in bytes; it stays for the thread's next request. */
#define FIRST_BLOCK_BYTES ((size_t)64 * 1024)
/* Each block is as large as all earlier blocks together, so this number is enough for any amount of memory. */
#define BLOCKS_MAX 48
#define REQUEST_BYTES_DEFAULT ((size_t)16 * 1024 * 1024)

struct block {
    char *start;
    size_t room;
    size_t used;
    size_t dirty; /* bytes from the start that may not be zero */
};

struct deferred {
    struct deferred *next;
    void (*function)(void *);
    void *argument;
};

struct cwebn_request {
    struct cwebn_request_head head;
    struct block blocks[BLOCKS_MAX];
    size_t bytes; /* bytes handed out */
    struct deferred *deferred;
    const struct cweb_part *parts;
    size_t part_count;
    const char *form_error;
    int parts_read;
    const struct cwebn_param *params;
    size_t param_count;
    int params_read;
    const char *addresses[3]; /* the client's, the connection's, the name in the client's certificate */
    int addresses_read;
};

static size_t bytes_max = REQUEST_BYTES_DEFAULT;

/* The request whose handler the thread runs. */
static _Thread_local __attribute__((tls_model("initial-exec"))) struct cwebn_request *current;

void cwebn_request_limit(size_t bytes) {
    __atomic_store_n(&bytes_max, bytes, __ATOMIC_RELAXED);
}

struct cwebn_request *cwebn_request_new(const struct cwebn_request_makers *makers) {
    struct cwebn_request *request = calloc(1, sizeof *request);
    if (request != NULL) {
        request->head.makers = makers;
    }
    return request;
}

static void forget(struct cwebn_request *request) {
    request->bytes = 0;
    request->deferred = NULL;
    request->head.deferred_count = 0;
    request->parts = NULL;
    request->part_count = 0;
    request->form_error = NULL;
    request->params = NULL;
    request->param_count = 0;
    request->addresses[0] = request->addresses[1] = request->addresses[2] = NULL;
    request->parts_read = request->params_read = request->addresses_read = 0;
    request->head.used = 0;
}

void cwebn_request_reset(struct cwebn_request *request) {
    for (size_t i = request->head.block_count; i-- > 0;) {
        struct block *block = &request->blocks[i];
        if (i == 0 && block->room == FIRST_BLOCK_BYTES) {
            block->dirty = block->used > block->dirty ? block->used : block->dirty;
            block->used = 0;
            break;
        }
        (void)munmap(block->start, block->room);
        request->head.block_count = i;
    }
    forget(request);
}

void cwebn_request_free(struct cwebn_request *request) {
    if (request == NULL) {
        return;
    }
    for (size_t i = 0; i < request->head.block_count; i++) {
        (void)munmap(request->blocks[i].start, request->blocks[i].room);
    }
    free(request);
}

struct cwebn_request *cwebn_request_enter(struct cwebn_request *request) {
    struct cwebn_request *outer = current;
    current = request;
    return outer;
}

/* The request behind req, if the calling thread runs its handler. No pointer of the module is followed. */
static struct cwebn_request *running(const struct http_request *req) {
    struct cwebn_request *request = current;
    if (request == NULL || req == NULL || request->head.request != req) {
        errno = EINVAL;
        return NULL;
    }
    return request;
}

static struct block *add_block(struct cwebn_request *request, size_t size) {
    size_t room = FIRST_BLOCK_BYTES;
    size_t all = 0;
    for (size_t i = 0; i < request->head.block_count; i++) {
        all += request->blocks[i].room;
    }
    room = all > room ? all : room;
    room = size > room ? (size + FIRST_BLOCK_BYTES - 1) / FIRST_BLOCK_BYTES * FIRST_BLOCK_BYTES : room;
    if (request->head.block_count >= BLOCKS_MAX) {
        return NULL;
    }
    void *start = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        return NULL;
    }
    struct block *block = &request->blocks[request->head.block_count++];
    *block = (struct block){start, room, 0, 0};
    return block;
}

void *cwebn_request_take(struct cwebn_request *request, size_t size) {
    size_t limit = __atomic_load_n(&bytes_max, __ATOMIC_RELAXED);
    if (size > limit || limit - size < request->bytes) {
        errno = ENOMEM;
        return NULL;
    }
    size_t taken = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    struct block *block = request->head.block_count == 0 ? NULL : &request->blocks[request->head.block_count - 1];
    if (block == NULL || block->room - block->used < taken) {
        block = add_block(request, taken);
        if (block == NULL) {
            errno = ENOMEM;
            return NULL;
        }
    }
    char *memory = block->start + block->used;
    if (block->used < block->dirty) {
        size_t old = block->dirty - block->used;
        memset(memory, 0, old < taken ? old : taken);
    }
    block->used += taken;
    request->bytes += taken;
    request->head.used = 1;
    return memory;
}

/* The block that contains `memory`, and how many handed-out bytes of the block follow from there on. */
static int owns(const struct cwebn_request *request, const void *memory, size_t *room) {
    uintptr_t at = (uintptr_t)memory;
    for (size_t i = 0; i < request->head.block_count; i++) {
        uintptr_t start = (uintptr_t)request->blocks[i].start;
        if (at >= start && at - start < request->blocks[i].room) {
            size_t offset = at - start;
            *room = request->blocks[i].used > offset ? request->blocks[i].used - offset : 0;
            return 1;
        }
    }
    return 0;
}

int cwebn_request_owns(const struct cwebn_request *request, const void *memory, size_t *room) {
    return request != NULL && owns(request, memory, room);
}

/* ---- the end ---- */

static void run_deferred(void *arg) {
    struct cwebn_request *request = arg;
    struct deferred *next = request->deferred;
    /* Must come before the call, so that a function that does not return is not called again. The count bounds a
       list that was overwritten. */
    request->head.deferred_count--;
    request->deferred = next->next;
    next->function(next->argument);
}

int cwebn_request_end(struct cwebn_request *request, struct cwebn_fault *fault) {
    int faulted = 0;
    struct cwebn_request *outer = cwebn_request_enter(request);
    while (request->head.deferred_count > 0) {
        struct cwebn_fault caught;
        size_t left = request->head.deferred_count;
        if (cwebn_guard_call(run_deferred, request, faulted ? &caught : fault) != 0) {
            faulted = 1;
            if (request->head.deferred_count == left) {
                request->head.deferred_count = 0;
            }
        }
    }
    request->deferred = NULL;
    (void)cwebn_request_enter(outer);
    return faulted;
}

/* ---- functions that modules call ---- */

static void *service_alloc(const struct http_request *req, size_t size) {
    struct cwebn_request *request = running(req);
    return request == NULL ? NULL : cwebn_request_take(request, size);
}

static int service_at_end(const struct http_request *req, void (*function)(void *), void *argument) {
    struct cwebn_request *request = function == NULL ? NULL : running(req);
    if (request == NULL) {
        errno = EINVAL;
        return -1;
    }
    struct deferred *deferred = cwebn_request_take(request, sizeof *deferred);
    if (deferred == NULL) {
        return -1;
    }
    *deferred = (struct deferred){request->deferred, function, argument};
    request->deferred = deferred;
    request->head.deferred_count++;
    return 0;
}

static int service_owns(const void *memory) {
    size_t room = 0;
    return current != NULL && owns(current, memory, &room);
}

static struct cwebn_request *with_parts(const struct http_request *req) {
    struct cwebn_request *request = running(req);
    if (request != NULL && !request->parts_read) {
        request->parts_read = 1;
        request->form_error =
            request->head.makers->parts(request, request->head.asked, &request->parts, &request->part_count);
    }
    return request;
}

static const struct cweb_part *service_part(const struct http_request *req, const char *name, size_t *at) {
    const struct cwebn_request *request = with_parts(req);
    while (request != NULL && *at < request->part_count) {
        const struct cweb_part *part = &request->parts[(*at)++];
        if (name == NULL || strcmp(part->name, name) == 0) {
            return part;
        }
    }
    return NULL;
}

static const char *service_form_error(const struct http_request *req) {
    const struct cwebn_request *request = with_parts(req);
    return request == NULL ? "there is no request" : request->form_error;
}

static const char *service_param(const struct http_request *req, const char *name, size_t number) {
    struct cwebn_request *request = running(req);
    if (request == NULL) {
        return NULL;
    }
    if (!request->params_read) {
        request->params_read = 1;
        request->head.makers->params(request, request->head.asked, &request->params, &request->param_count);
    }
    if (name == NULL) {
        return number < request->param_count ? request->params[number].value : NULL;
    }
    for (size_t i = 0; i < request->param_count; i++) {
        if (request->params[i].name != NULL && strcmp(request->params[i].name, name) == 0) {
            return request->params[i].value;
        }
    }
    return NULL;
}

static const char *service_target(const struct http_request *req) {
    struct cwebn_request *request = running(req);
    const char *head = request == NULL ? NULL : request->head.head;
    const char *end = head == NULL ? NULL : head + request->head.head_bytes;
    const char *start = head == NULL ? NULL : memchr(head, ' ', request->head.head_bytes);
    const char *stop = start == NULL ? NULL : memchr(start + 1, ' ', (size_t)(end - start - 1));
    if (stop == NULL) {
        return NULL;
    }
    size_t length = (size_t)(stop - start - 1);
    char *target = cwebn_request_take(request, length + 1);
    return target == NULL ? NULL : memcpy(target, start + 1, length);
}

static const char *address(const struct http_request *req, size_t at) {
    struct cwebn_request *request = running(req);
    if (request == NULL) {
        return NULL;
    }
    if (!request->addresses_read) {
        request->addresses_read = 1;
        request->head.makers->addresses(request, request->head.asked, request->addresses);
    }
    return request->addresses[at];
}

static const char *service_peer_address(const struct http_request *req, int direct) {
    return address(req, direct != 0 ? 1 : 0);
}

static const char *service_client_name(const struct http_request *req) {
    return address(req, 2);
}

static struct http_request *service_of_socket(const struct websocket *ws) {
    const struct cwebn_request *request = current;
    if (request == NULL || ws == NULL || request->head.socket != ws) {
        errno = EINVAL;
        return NULL;
    }
    return request->head.request;
}

const struct cweb_requests cwebn_requests = {
    .alloc = service_alloc,
    .at_end = service_at_end,
    .owns = service_owns,
    .part = service_part,
    .form_error = service_form_error,
    .param = service_param,
    .target = service_target,
    .peer_address = service_peer_address,
    .of_socket = service_of_socket,
    .client_name = service_client_name,
};
