/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file list.h
 * A singly linked list of pointers. Not thread-safe. The data stays the caller's.
 */
#ifndef CWEB_LIST_H
#define CWEB_LIST_H

#include <stddef.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

struct list_node {
    void *data;
    struct list_node *next;
};

struct list {
    struct list_node *head;
    size_t size;
};

/** Visits every node in order: `LIST_FOREACH(list, node) { use(node->data); }`. The body must not remove nodes. */
#define LIST_FOREACH(list, node) \
    for (struct list_node *node = (list)->head; node != NULL; node = node->next)

/** As LIST_FOREACH, but the body may remove and free the present node; `tmp` is the next node. */
#define LIST_FOREACH_SAFE(list, node, tmp)                                                     \
    for (struct list_node *node = (list)->head, *tmp = node != NULL ? node->next : NULL;       \
         node != NULL; node = tmp, tmp = node != NULL ? node->next : NULL)

/** Makes an empty list; NULL when memory runs out. */
static inline struct list *list_create(void) {
    return (struct list *)calloc(1, sizeof(struct list));
}

/** Frees the list and its nodes, not their data. NULL is allowed. */
static inline void list_destroy(struct list *list) {
    if (list == NULL) {
        return;
    }
    LIST_FOREACH_SAFE(list, node, next) {
        free(node);
    }
    free(list);
}

/** Puts data at the front. When memory runs out the list stays as it was: compare `size`. */
static inline void list_add(struct list *list, void *data) {
    struct list_node *added = list == NULL ? NULL : (struct list_node *)calloc(1, sizeof *added);
    if (added == NULL) {
        return;
    }
    added->data = data;
    added->next = list->head;
    list->head = added;
    list->size++;
}

/**
 * Removes the first node that has this pointer; the data is not freed.
 * @return 1 when a node was removed; 0 when no node has the pointer, or list is NULL
 */
static inline int list_remove(struct list *list, void *data) {
    if (list == NULL) {
        return 0;
    }
    for (struct list_node **link = &list->head; *link != NULL; link = &(*link)->next) {
        if ((*link)->data == data) {
            struct list_node *removed = *link;
            *link = removed->next;
            free(removed);
            list->size--;
            return 1;
        }
    }
    return 0;
}

/** Calls visit with every pointer in order. visit may remove the pointer that it is called with. */
static inline void list_iterate(struct list *list, void (*visit)(void *data)) {
    if (list == NULL || visit == NULL) {
        return;
    }
    LIST_FOREACH_SAFE(list, node, next) {
        visit(node->data);
    }
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_LIST_H */
