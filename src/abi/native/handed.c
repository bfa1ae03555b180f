/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The memory that a module hands over: the body and the header fields of its answer, the session of a WebSocket.
 *
 * Every function here must run in a guarded call, so that a fault is charged to the module. Reading an answer measures
 * and touches all of it, so that the server may read it afterwards without a guard. Memory that is not from malloc(3)
 * is detected where possible (see `where`); it is sent, and is not freed.
 */
#define _GNU_SOURCE
#include "native.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES ((size_t)4096)
/* Every block of malloc(3) begins at a multiple of this number. */
#define MALLOC_ALIGNMENT ((uintptr_t)(2 * sizeof(size_t)))

/* glibc 2.35; reports without a lock which loaded object contains an address. Declared here for older headers. */
struct object_found {
    unsigned long long flags;
    void *start;
    void *end;
    void *more[16];
};
extern int find_object(void *address, struct object_found *found) __asm__("_dl_find_object") __attribute__((weak));

enum where { HEAP, IMAGE, STACK, REQUEST, ARENA, NOWHERE };

/*
 * Pages in which this thread has recently found small blocks of malloc(3): looking an address up costs ten times as
 * much. Such pages belong to an arena, whose address range is never given to an image.
 */
#define KNOWN_PAGES 16
#define SMALL_BLOCK_BYTES ((size_t)32 * 1024)
static _Thread_local __attribute__((tls_model("initial-exec"))) uintptr_t known_pages[KNOWN_PAGES];

static uintptr_t page_of(uintptr_t address) {
    return address / PAGE_BYTES;
}

/* The owner of `address`, and how many bytes belong to it from there on. HEAP: nothing else is known of the address. */
static enum where where(const struct cwebn_handed *handed, const void *address, size_t *room) {
    uintptr_t at = (uintptr_t)address;
    uintptr_t low = 0;
    uintptr_t high = 0;
    cwebn_thread_stack(&low, &high);
    *room = SIZE_MAX;
    if (at >= low && at < high) {
        *room = high - at;
        return STACK;
    }
    uintptr_t lent = (uintptr_t)handed->lent;
    if (at >= lent && at - lent < handed->lent_bytes) {
        *room = handed->lent_bytes - (at - lent);
        return REQUEST;
    }
    uintptr_t lent_body = (uintptr_t)handed->lent_body;
    if (at >= lent_body && at - lent_body < handed->lent_body_bytes) {
        *room = handed->lent_body_bytes - (at - lent_body);
        return REQUEST;
    }
    if (cwebn_request_owns(handed->request, address, room)) {
        return ARENA;
    }
    if (known_pages[page_of(at) % KNOWN_PAGES] == page_of(at)) {
        return at % MALLOC_ALIGNMENT != 0 ? NOWHERE : HEAP;
    }
    struct object_found found;
    Dl_info info;
    if (find_object != NULL) {
        if (find_object((void *)at, &found) == 0) {
            *room = (uintptr_t)found.end - at;
            return IMAGE;
        }
    } else if (dladdr(address, &info) != 0) {
        return IMAGE;
    }
    return at % MALLOC_ALIGNMENT != 0 ? NOWHERE : HEAP;
}

/* Reports a block that the module has freed: reading or freeing it now could affect its next owner. */
__attribute__((noreturn)) static void is_freed(struct cwebn_handed *handed, int what) {
    handed->doing = what | CWEBN_FREED;
    abort();
}

/* Reads each page, so that unreadable memory faults here. */
static void touch(const char *bytes, size_t length) {
    const volatile char *at = bytes;
    for (size_t i = 0; i < length; i += PAGE_BYTES) {
        (void)at[i];
    }
    if (length > 0) {
        (void)at[length - 1];
    }
}

/* Copies bytes from the stack of a function that has returned, before other functions use that stack. */
static const char *rescue(struct cwebn_handed *handed, const char *bytes, size_t length) {
    char *scratch = cwebn_thread_scratch();
    if (scratch == NULL || length >= CWEBN_SCRATCH_BYTES - handed->scratch_used) {
        handed->refused = "it is a variable of a function that has returned, and too long to be saved; use malloc(3)";
        return "";
    }
    char *copy = scratch + handed->scratch_used;
    memcpy(copy, bytes, length);
    copy[length] = 0;
    handed->scratch_used += length + 1;
    return copy;
}

/* The size of a block, in bytes. A wrong pointer faults: either while the memory before the block is read, or as an
   invalid block. */
static size_t block_bytes(struct cwebn_handed *handed, char *block, int what) {
    touch(block, 1);
    handed->doing = what | CWEBN_FREED;
    size_t bytes = malloc_usable_size(block);
    if (bytes == 0) {
        is_freed(handed, what);
    }
    if (bytes < SMALL_BLOCK_BYTES) {
        uintptr_t page = page_of((uintptr_t)block);
        known_pages[page % KNOWN_PAGES] = page;
    }
    handed->doing = what;
    return bytes;
}

static void read_body(struct cwebn_handed *handed, const http_response_t *response) {
    char *body = response->body;
    size_t claimed = response->content_length > 0 ? (size_t)response->content_length : 0;
    size_t room = 0;
    enum where is = HEAP;
    handed->body = body;
    handed->body_length = 0;
    handed->body_kept = 0;
    if (body == NULL) {
        return;
    }
    if (body != handed->own_body) {
        is = where(handed, body, &room);
        if (is != HEAP && is != ARENA) {
            handed->strange |= CWEBN_BODY;
        }
    }
    if (is == HEAP) {
        room = block_bytes(handed, body, CWEBN_BODY);
        handed->body_kept = body == handed->own_body && room > HTTP_RESPONSE_SIZE && room <= HTTP_RESPONSE_SIZE + 64;
    }
    if (claimed > room) {
        handed->refused = "content_length is larger than the memory at res->body; set it to the bytes written there";
        return;
    }
    size_t length = claimed > 0 ? claimed : strnlen(body, room);
    if (is == STACK) {
        handed->body = rescue(handed, body, length);
    } else if (is != HEAP) {
        touch(body, length);
    }
    handed->body_length = length;
}

static const char *read_text(struct cwebn_handed *handed, const char *text, size_t *length) {
    uintptr_t low = 0;
    uintptr_t high = 0;
    cwebn_thread_stack(&low, &high);
    *length = strlen(text);
    return (uintptr_t)text >= low && (uintptr_t)text < high ? rescue(handed, text, *length) : text;
}

/* The largest possible number of pairs at `pairs`: a module may have written any number into its store. */
static size_t pairs_in(struct cwebn_handed *handed, http_kv_pair_t *pairs, size_t claimed, int what) {
    size_t room = 0;
    if (pairs == NULL) {
        return 0;
    }
    if (where(handed, pairs, &room) == HEAP) {
        room = block_bytes(handed, (char *)pairs, what);
    }
    room /= sizeof *pairs;
    return claimed < room ? claimed : room;
}

/* The same for a store that is not the response's own. The sizes of the request's stores are known; for another
   store, its memory is measured. */
static size_t pairs_of(struct cwebn_handed *handed, const http_kv_store_t *store) {
    size_t claimed = store->size < store->capacity ? store->size : store->capacity;
    for (size_t i = 0; handed->lent_stores != NULL && i < CWEBN_REQUEST_STORES; i++) {
        if (store == &handed->lent_stores[i] && store->entries == handed->lent_pairs[i]) {
            return claimed < handed->lent_pairs_room[i] ? claimed : handed->lent_pairs_room[i];
        }
    }
    return pairs_in(handed, store->entries, claimed, CWEBN_FIELDS);
}

static void read_fields(struct cwebn_handed *handed, const http_response_t *response) {
    const http_kv_store_t *store = response->headers;
    const http_kv_pair_t *pairs = store == handed->own_store ? handed->own_pairs : NULL;
    handed->field_count = 0;
    if (store == NULL) {
        return;
    }
    size_t count = store->size;
    if (pairs == NULL) {
        pairs = store->entries;
        count = pairs_of(handed, store);
    }
    for (size_t i = 0; pairs != NULL && i < count && handed->field_count < handed->field_capacity; i++) {
        if (pairs[i].key == NULL || pairs[i].value == NULL) {
            continue;
        }
        struct cwebn_field *field = &handed->fields[handed->field_count];
        field->name = read_text(handed, pairs[i].key, &field->name_length);
        field->value = read_text(handed, pairs[i].value, &field->value_length);
        handed->field_count++;
    }
}

void cwebn_handed_read(struct cwebn_handed *handed, const http_response_t *response) {
    handed->doing = CWEBN_BODY;
    read_body(handed, response);
    handed->doing = CWEBN_FIELDS;
    read_fields(handed, response);
    handed->doing = 0;
}

/* Frees a block, if it is a block of the module. */
static void give_back(struct cwebn_handed *handed, void *block, int what) {
    size_t room = 0;
    if (block == NULL) {
        return;
    }
    enum where is = where(handed, block, &room);
    if (is != HEAP) {
        handed->strange |= is == ARENA ? 0 : (unsigned)what;
        return;
    }
    /* Must come before free(3), which may detect an invalid block while it holds the heap's lock; a jump would leave
       that lock held. */
    (void)block_bytes(handed, block, what);
    handed->doing = what | CWEBN_FREED;
    free(block);
    handed->doing = what;
}

static void give_back_pairs(struct cwebn_handed *handed, http_kv_pair_t *pairs, size_t count, int what) {
    for (size_t i = 0; i < count; i++) {
        char *key = pairs[i].key;
        char *value = pairs[i].value;
        pairs[i].key = NULL;
        pairs[i].value = NULL;
        give_back(handed, key, what);
        give_back(handed, value, what);
    }
}

struct release_call {
    struct cwebn_handed *handed;
    struct cwebn_given *given;
};

static void run_release(void *arg) {
    const struct release_call *call = arg;
    struct cwebn_handed *handed = call->handed;
    struct cwebn_given *given = call->given;
    http_kv_store_t *store = given->store;
    handed->doing = CWEBN_FIELDS;
    if (store != NULL && store->server == 0) {
        size_t count = store->size < store->capacity ? store->size : store->capacity;
        give_back_pairs(handed, store->entries, pairs_in(handed, store->entries, count, CWEBN_FIELDS), CWEBN_FIELDS);
        give_back(handed, store->entries, CWEBN_FIELDS);
        count = pairs_in(handed, store->repeated, store->repeated_size, CWEBN_FIELDS);
        give_back_pairs(handed, store->repeated, count, CWEBN_FIELDS);
        give_back(handed, store->repeated, CWEBN_FIELDS);
        give_back(handed, store, CWEBN_FIELDS);
    }
    give_back_pairs(handed, given->pairs[0], given->counts[0], CWEBN_FIELDS);
    for (size_t i = 1; i < CWEBN_GIVEN_STORES; i++) {
        give_back_pairs(handed, given->pairs[i], given->counts[i], CWEBN_REQUEST);
    }
    give_back(handed, given->body, CWEBN_BODY);
    give_back(handed, given->request_body, CWEBN_REQUEST);
    handed->doing = 0;
}

int cwebn_handed_release(struct cwebn_handed *handed, struct cwebn_given *given, struct cwebn_fault *fault) {
    struct release_call call = {handed, given};
    return cwebn_guard_own(run_release, &call, fault);
}

void cwebn_handed_session(struct cwebn_handed *handed, websocket_t *ws, const char *before) {
    char *session = ws->session;
    size_t room = 0;
    if (session == before || session == NULL) {
        return;
    }
    handed->doing = CWEBN_SESSION;
    enum where is = where(handed, session, &room);
    if (is != HEAP) {
        /* The session's memory may be unmapped before the socket ends, so the server keeps a copy. */
        size_t length = strnlen(session, room);
        const char *text = is == STACK ? rescue(handed, session, length) : session;
        length = handed->refused == NULL ? length : 0;
        char *copy = malloc(length + 1);
        if (copy != NULL) {
            memcpy(copy, text, length);
            copy[length] = 0;
        }
        ws->session = copy;
        handed->strange |= CWEBN_SESSION;
    } else {
        (void)block_bytes(handed, session, CWEBN_SESSION);
    }
    handed->doing = 0;
}

void cwebn_handed_end_session(struct cwebn_handed *handed, websocket_t *ws) {
    char *session = ws->session;
    ws->session = NULL;
    give_back(handed, session, CWEBN_SESSION);
    handed->doing = 0;
}

static void run_free(void *arg) {
    struct cwebn_handed nothing;
    memset(&nothing, 0, sizeof nothing);
    give_back(&nothing, arg, CWEBN_SESSION);
}

int cwebn_handed_free(void *block, struct cwebn_fault *fault) {
    return block == NULL ? 0 : cwebn_guard_own(run_free, block, fault);
}
