/* The old server's own variables and libraries, which a module could link with. */
#include <cweb.h>
#include <crypto.h>
#include <list.h>
#include <pool.h>
#include <queue.h>

extern struct container exposed_container;
extern struct sqldb exposed_sqldb;
extern struct scheduler exposed_scheduler;

static int value = 5;
static int ran;

static void work(void *arg) {
    queue_enqueue(arg, &ran);
}

static int exposed(struct http_request *req, struct http_response *res) {
    void *item;
    struct queue *queue = queue_create(1);
    exposed_container.set("exposed", &value);
    exposed_scheduler.add(work, queue, ASYNC);
    queue_dequeue(queue, &item);
    struct list *list = list_create();
    list_add(list, item);
    struct thread_pool *pool = thread_pool_init(1);
    sprintf(res->body, "%d %d %d %zu %d %d", container->get("exposed") == &value, item == &ran,
            exposed_sqldb.exec("SELECT 1", NULL, NULL), list->size, crypto_module.status, thread_pool_is_full(pool));
    thread_pool_destroy(pool);
    list_destroy(list);
    queue_destroy(queue);
    (void)req;
    return 0;
}

export module_t config = {"exposed", "old", {{"/exposed", "GET", exposed, FEATURE_FLAG_NONE}}, 1};
