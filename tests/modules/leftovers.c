/* Leaves a thread, thread-specific data and a timer behind, which call its code after the next version has come. */
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cweb.h>

static struct cweb_context *saved;
static pthread_key_t key;
static timer_t timer;
static _Atomic int started, ticked;

static void destroy(void *value) {
    container_set(saved->cache, "destroyed", value); /* what is printed here gets nowhere */
}

static void tick(union sigval value) {
    (void)value;
    if (container_get(saved->cache, "over") != NULL && ticked++ == 0) {
        printf("a timer of the old version ticks\n");
    }
}

static void *run(void *unused) {
    (void)unused;
    pthread_setspecific(key, saved->cache);
    started = 1;
    for (int i = 0; i < 20000 && container_get(saved->cache, "over") == NULL; i++) {
        usleep(1000);
    }
    int rc = saved->database->exec(saved->database, "CREATE TABLE IF NOT EXISTS leftovers(a); INSERT INTO leftovers VALUES(1)", NULL, NULL);
    printf("a thread of the old version ends: %d\n", rc);
    return NULL;
}

static int start(struct cweb_context *ctx, http_request_t *req, http_response_t *res) {
    (void)req;
    pthread_t thread;
    saved = ctx;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD};
    event.sigev_notify_function = tick;
    struct itimerspec often = {{0, 20 * 1000 * 1000}, {0, 20 * 1000 * 1000}};
    int failed = pthread_key_create(&key, destroy) != 0 || pthread_create(&thread, NULL, run, NULL) != 0 ||
                 timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &often, NULL) != 0;
    while (!failed && !started) {
        usleep(1000);
    }
    return cweb_respond(res, HTTP_200_OK, "text/plain", "%d", failed);
}

export module_t config = {
    .name = "left", .author = "test", .routes = {{"/start", "GET", start, NONE}}, .size = 1};
