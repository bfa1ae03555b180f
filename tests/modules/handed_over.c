/* Every way to hand over memory that the server can't free, and some in which it can. */
#include <cweb.h>

#define H(name) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define UNUSED (void)c, (void)q, (void)r

static char in_the_image[64] = "a variable";
static _Thread_local char of_the_thread[64];

H(lit) { UNUSED; r->body = (char *)"a literal"; return 0; }
H(odd) { UNUSED; r->body = (char *)"xa literal" + 1; return 0; }
H(image) { UNUSED; r->body = in_the_image; return 0; }
H(thread) { UNUSED; strcpy(of_the_thread, "1of a thread"); r->body = of_the_thread + 1; return 0; }
H(stack) { UNUSED; char line[200]; snprintf(line, sizeof line, "on the stack of %s", q->path); r->body = line; return 0; }
H(param) { UNUSED; r->body = http_kv_get(q->params, "name"); return 0; }
H(path) { UNUSED; r->body = q->path; return 0; }
H(takes) { UNUSED; r->body = q->body; r->content_length = q->content_length; return 0; }
H(hlit) { UNUSED; http_kv_insert(r->headers, "X-Kind", (char *)"a literal"); strcpy(r->body, "header"); return 0; }
H(hstack) { UNUSED; char v[32]; snprintf(v, sizeof v, "on %s", "the stack"); http_kv_insert(r->headers, "X-Kind", v); strcpy(r->body, "header"); return 0; }
H(hparam) { UNUSED; http_kv_insert(r->headers, "X-Kind", http_kv_get(q->params, "name")); strcpy(r->body, "header"); return 0; }
H(neg) { UNUSED; strcpy(r->body, "abc"); r->content_length = -5; return 0; }
H(nullb) { UNUSED; free(r->body); r->body = NULL; return 0; }
H(heap) { UNUSED; free(r->body); r->body = strdup("from the heap"); return 0; }
H(unended) { UNUSED; free(r->body); r->body = malloc(24); memset(r->body, 'x', 24); return 0; }
H(grown) { UNUSED; r->body = realloc(r->body, 300000); memset(r->body, 'y', 200000); r->content_length = 200000; return 0; }
H(big_lit) { UNUSED; static char all[100000]; memset(all, 'z', sizeof all); r->body = all; r->content_length = sizeof all; return 0; }
H(store) {
    UNUSED;
    http_kv_store_t *own = http_kv_create(4);
    http_kv_insert(own, "X-Kind", strdup("a store"));
    r->headers = own;
    strcpy(r->body, "header");
    return 0;
}
H(nulls) { UNUSED; r->headers->entries[0].key = NULL; r->headers->entries[0].value = NULL; r->headers->size = 1; strcpy(r->body, "header"); return 0; }

H(beyond) { UNUSED; strcpy(r->body, "abc"); r->content_length = 5000000; return 0; }
H(beyond_heap) { UNUSED; free(r->body); r->body = strdup("abc"); r->content_length = 100; return 0; }
H(beyond_lit) { UNUSED; r->body = (char *)"abc"; r->content_length = 500000000; return 0; }
H(freed) { UNUSED; free(r->body); return 0; }
H(freed_small) { UNUSED; char *b = strdup("abc"); r->body = b; free(b); return 0; }
H(freed_large) { UNUSED; char *b = malloc(3000); char *more = malloc(3000); b[0] = 0; r->body = b; free(b); free(more); return 0; }
H(wild) { UNUSED; r->body = (char *)(uintptr_t)16; return 0; }
H(inside) { UNUSED; char *b = calloc(1, 256); strcpy(b + 64, "inside"); r->body = b + 64; return 0; }
H(wild_value) { UNUSED; http_kv_insert(r->headers, "X-Kind", (char *)(uintptr_t)8); return 0; }
H(freed_value) { UNUSED; char *v = strdup("value"); http_kv_insert(r->headers, "X-Kind", v); free(v); return 0; }
H(wild_store) { UNUSED; r->headers = (http_kv_store_t *)(uintptr_t)64; return 0; }
H(freed_request) { UNUSED; free(q->body); strcpy(r->body, "freed"); return 0; }
/* The cache of this thread is full: free(3) puts the block elsewhere, and marks it otherwise. */
H(freed_late) { char *volatile b[40]; for (int i = 0; i < 40; i++) b[i] = malloc(24); for (int i = 0; i < 40; i++) free(b[i]); return freed_request(c, q, r); }

static char *volatile nowhere = (char *)(uintptr_t)32;

/* In on_close, so that both frees are on one thread: across threads free(3) does not notice. */
static _Atomic int frees_at_close;
static void closed(struct cweb_context *c, websocket_t *ws) {
    (void)c;
    if (frees_at_close) {
        free(ws->session);
    }
}

static void opened(struct cweb_context *c, websocket_t *ws) { (void)c; ws->session = (char *)"a literal"; }
static void message(struct cweb_context *c, websocket_t *ws, const char *text, size_t length) {
    (void)c;
    char line[64];
    if (strcmp(text, "session") == 0) {
        ws->send(ws, ws->session, strlen(ws->session));
    } else if (strcmp(text, "stack") == 0) {
        snprintf(line, sizeof line, "of the %s", text);
        ws->session = line;
    } else if (strcmp(text, "wild") == 0) {
        ws->send(ws, nowhere, 100000);
    } else if (strcmp(text, "freed") == 0) {
        frees_at_close = 1;
    } else {
        ws->session = (char *)text;
        (void)length;
    }
}

static int large_store(struct cweb_context *c, http_request_t *q, http_response_t *r) {
    (void)c, (void)q;
    static http_kv_store_t forged;
    forged.entries = calloc(1, sizeof *forged.entries);
    forged.entries[0] = (http_kv_pair_t){strdup("X-First"), strdup("there")};
    forged.size = forged.capacity = 100000000;
    r->headers = &forged;
    return 0;
}

#define BOTH(path, handler) {path, "GET", handler, NONE}, {"/inline" path, "GET", handler, CWEB_INLINE}
export module_t config = {
    .name = "handed_over",
    .author = "tests",
    .routes = {BOTH("/lit", lit), BOTH("/odd", odd), BOTH("/image", image), BOTH("/thread", thread), BOTH("/stack", stack),
               BOTH("/param", param), BOTH("/path", path), BOTH("/hlit", hlit), BOTH("/hstack", hstack),
               BOTH("/hparam", hparam), BOTH("/neg", neg), BOTH("/nullb", nullb), BOTH("/heap", heap), BOTH("/grown", grown),
               BOTH("/big_lit", big_lit), BOTH("/store", store), BOTH("/nulls", nulls), BOTH("/unended", unended),
               {"/takes", "POST", takes, NONE}, {"/freed_request", "POST", freed_request, NONE},
               {"/freed_empty", "GET", freed_request, NONE}, {"/freed_late", "GET", freed_late, NONE},
               {"/beyond", "GET", beyond, NONE}, {"/beyond_heap", "GET", beyond_heap, NONE},
               {"/beyond_lit", "GET", beyond_lit, NONE}, {"/freed", "GET", freed, NONE},
               {"/freed_small", "GET", freed_small, NONE}, {"/freed_large", "GET", freed_large, NONE},
               {"/wild", "GET", wild, NONE}, {"/inside", "GET", inside, NONE}, {"/wild_value", "GET", wild_value, NONE},
               {"/freed_value", "GET", freed_value, NONE}, {"/wild_store", "GET", wild_store, NONE},
               {"/large_store", "GET", large_store, NONE}},
    .size = 52,
    .websockets = {{"/session", opened, message, closed}},
    .ws_size = 1,
};
