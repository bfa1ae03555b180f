/* Ends its call, or its process, in every way there is. */
#define _GNU_SOURCE
#include <cweb.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define H(name) static int name(struct cweb_context *c, http_request_t *q, http_response_t *r)
#define UNUSED (void)c, (void)q, (void)r

static void *volatile nowhere;

/* In libc, so that the instruction is in nobody's module. */
static void *faults_in_libc(void *p) { usleep(1000); memset(nowhere, 1, (size_t)getpid() + 1); return p; }
static void *leaves(void *p) { syscall(SYS_exit_group, 4); return p; }
static void *kills(void *p) { kill(getpid(), SIGKILL); return p; }
static void in_thread(void *(*function)(void *)) {
    pthread_t thread;
    pthread_create(&thread, NULL, function, NULL);
    pthread_detach(thread);
}

H(ok) { UNUSED; strcpy(r->body, "ok"); return 0; }
H(fault) { UNUSED; memset(nowhere, 1, 4096); return 0; }
H(answer) { UNUSED; r->body = (char *)(uintptr_t)16; return 0; }
H(thread) { UNUSED; in_thread(faults_in_libc); usleep(300 * 1000); return 0; }
H(thread_leaves) { UNUSED; in_thread(leaves); usleep(300 * 1000); return 0; }
H(thread_kills) { UNUSED; in_thread(kills); usleep(300 * 1000); return 0; }
H(kills_itself) { UNUSED; kills(NULL); return 0; }
H(stops_itself) { UNUSED; raise(SIGSTOP); return 0; }
H(exit_group) { UNUSED; leaves(NULL); return 0; }

static void work(void *nothing) { (void)nothing; memset(nowhere, 1, 4096); }
H(schedule) { UNUSED; scheduler_add(c->scheduler, work, NULL, ASYNC); usleep(100 * 1000); return 0; }
static void message(struct cweb_context *c, websocket_t *ws, const char *text, size_t n) { (void)c, (void)ws, (void)text, (void)n; memset(nowhere, 1, 4096); }
static int job(struct cweb_context *c, const job_payload_t *p, job_ctx_t *j) { (void)c, (void)p, (void)j; memset(nowhere, 1, 4096); return 0; }
static void unload(struct cweb_context *c) { (void)c; if (access("static/unload", F_OK) == 0) memset(nowhere, 1, 4096); }
static void load(struct cweb_context *c) { (void)c; }
__attribute__((destructor)) static void destroy(void) { if (access("static/destroy", F_OK) == 0) memset(nowhere, 1, 4096); }

#define R(name) {"/" #name, "GET", name, NONE}
export module_t config = {.name = "culprit", .author = "tests",
    .routes = {R(ok), R(fault), R(answer), R(thread), R(thread_leaves), R(thread_kills), R(kills_itself), R(stops_itself), R(exit_group), R(schedule)},
    .size = 10, .websockets = {{"/culprit", NULL, message, NULL}}, .ws_size = 1, .jobs = {{"culprit", job, NULL}}, .job_size = 1,
    .onload = load, .unload = unload};
