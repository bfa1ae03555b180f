/* Names that the interface does not have are the module's own. */
#include <cweb.h>
#include <defer.h>
#include <libevent.h>
#include <list.h>
#include <map.h>
#include <pool.h>
#include <queue.h>

struct worker { int id; };
struct task_list { int id; };
struct entry { int id; };
struct node { int id; };
struct scheduler_hooks { int id; };
static struct worker first = {1};
static struct task_list second = {2};
static struct entry third = {3};
static struct node fourth = {4};
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
