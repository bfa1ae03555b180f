/* Names that the interface does not have are the module's own. */
#include <cweb.h>
#include <defer.h>
#include <libevent.h>
#include <list.h>
#include <map.h>
#include <pool.h>
#include <queue.h>

struct work { int id; };
struct task { int id; };
struct map_entry { int id; };
struct list_node { int id; };
struct scheduler_hooks { int id; };
static struct work first = {1};
static struct task second = {2};
static struct map_entry third = {3};
static struct list_node fourth = {4};
static struct scheduler_hooks fifth = {5};

static char *http_path_decode(const char *path) {
    return strdup(path);
}

static void http_request_free(void *request) {
    free(request);
}

static int queue_stop(int number) {
    return number + 1;
}

HANDLER(names) {
    (void)ctx;
    char *path = http_path_decode(req->path);
    CHECK(first.id + second.id + third.id + fourth.id + fifth.id == 15 && queue_stop(1) == 2);
    CHECK(strcmp(path, "/names") == 0);
    http_request_free(path);
    PASS();
}

export module_t config = {.name = "api-names", .author = "test", .routes = {{"/names", "GET", names, NONE}}, .size = 1};
