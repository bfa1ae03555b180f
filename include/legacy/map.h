/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file legacy/map.h
 * Maps for modules whose functions take no context: an array of pairs with a fixed capacity.
 *
 * The stores of a request and a response are maps of this kind, too: struct map and struct http_kv_store are one type. A
 * store of the server copies the inserted values, so a value may be a literal, a buffer on the stack, or memory that is
 * freed right afterwards. Look-ups in a store of the server ignore the case of keys.
 */
#ifndef CWEB_MAP_H
#define CWEB_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cweb_host.h"

/** Result of the functions below; they return it as a negative number. */
typedef enum map_error {
    MAP_OK = 0,
    MAP_ERR = 1,
    MAP_FULL = 2,
    MAP_KEY_NOT_FOUND = 3
} map_error_t;

#define http_kv_pair map_entry
#define http_kv_store map

/* The type of the values. The server defines it as `char` for a source that uses stores only, whose values are strings. */
#ifndef CWEB_MAP_VALUE
#define CWEB_MAP_VALUE void
#endif

/** A pair. */
struct map_entry {
    char *key;
    CWEB_MAP_VALUE *value;
};

/** A map: its pairs are entries[0] to entries[size - 1]. */
struct map {
    struct map_entry *entries;
    size_t size;
    size_t capacity;
    size_t server; /* 0; in a store of the server: 1, and one more for each of the first pairs that the server owns */
    struct map_entry *repeated; /* in a store of the server: further values of keys that a request repeats */
    size_t repeated_size;
};

typedef struct map_entry http_kv_pair_t;
typedef struct map http_kv_store_t;

/** Makes an empty map with this capacity; NULL for 0 or when memory runs out. */
static inline struct map *map_create(size_t capacity) {
    if (capacity == 0 || capacity > SIZE_MAX / sizeof(struct map_entry)) {
        return NULL;
    }
    struct map *map = (struct map *)calloc(1, sizeof *map);
    if (map == NULL) {
        return NULL;
    }
    map->entries = (struct map_entry *)calloc(capacity, sizeof *map->entries);
    if (map->entries == NULL) {
        free(map);
        return NULL;
    }
    map->capacity = capacity;
    return map;
}

/* The index of key; size if there is none. A key with the same case is preferred to others. */
static inline size_t cweb_map_place(const struct map *map, const char *key) {
    size_t place = 0;
    while (place < map->size && strcmp(map->entries[place].key, key) != 0) {
        place++;
    }
    if (place == map->size && map->server > 0) {
        for (place = 0; place < map->size && strcasecmp(map->entries[place].key, key) != 0;) {
            place++;
        }
    }
    return place;
}

/**
 * Adds a pair. The key is copied; the map keeps the pointer, and a store of the server keeps a copy of the string. A
 * key that is already there keeps its first value.
 * @return 0; -MAP_ERR when the map is full, an argument is NULL or memory runs out
 */
static inline int map_insert(struct map *map, const char *key, void *value) {
    if (map == NULL || key == NULL || (map->server > 0 && value == NULL)) {
        return -MAP_ERR;
    }
    if (cweb_map_place(map, key) < map->size) {
        return MAP_OK;
    }
    if (map->size >= map->capacity) {
        return -MAP_ERR;
    }
    char *name = strdup(key);
    void *kept = map->server > 0 ? strdup((const char *)value) : value;
    if (name == NULL || (map->server > 0 && kept == NULL)) {
        free(name);
        return -MAP_ERR;
    }
    map->entries[map->size].key = name;
    map->entries[map->size].value = (CWEB_MAP_VALUE *)kept;
    map->size++;
    return MAP_OK;
}

/** The value of key; NULL when there is none, or map is NULL. */
CWEB_OUT_OF_LINE void *map_get(const struct map *map, const char *key) {
    if (map == NULL || key == NULL) {
        return NULL;
    }
    size_t place = cweb_map_place(map, key);
    return place < map->size ? map->entries[place].value : NULL;
}

/** Removes key; its value is not freed. @return 0, or -MAP_KEY_NOT_FOUND */
static inline int map_remove(struct map *map, const char *key) {
    size_t place = map == NULL || key == NULL ? 0 : cweb_map_place(map, key);
    if (map == NULL || key == NULL || place == map->size) {
        return -MAP_KEY_NOT_FOUND;
    }
    if (map->server > place + 1) {
        map->server--; /* the key is in the server's own memory */
    } else {
        free(map->entries[place].key);
    }
    map->size--;
    memmove(&map->entries[place], &map->entries[place + 1], (map->size - place) * sizeof *map->entries);
    return MAP_OK;
}

/** Number of keys in the map; 0 for NULL. */
static inline size_t map_size(const struct map *map) {
    return map == NULL ? 0 : map->size;
}

/* Frees a map and its keys. A store of the server is emptied, and freed after the handler. */
static inline void cweb_map_destroy(struct map *map, int free_values) {
    if (map == NULL) {
        return;
    }
    for (size_t i = map->server > 0 ? map->server - 1 : 0; i < map->size; i++) {
        free(map->entries[i].key);
        if (free_values || map->server > 0) {
            free(map->entries[i].value);
        }
    }
    if (map->server > 0) {
        map->size = 0;
        map->server = 1;
        return;
    }
    free(map->entries);
    free(map);
}

/** Frees the map and its keys, never the values. NULL is allowed. */
static inline void map_destroy(struct map *map) {
    cweb_map_destroy(map, 0);
}

/* ---- The same functions under their later names ---- */

static inline struct map *http_kv_create(size_t capacity) {
    return map_create(capacity);
}

static inline int http_kv_insert(struct map *store, const char *key, char *value) {
    return map_insert(store, key, value);
}

CWEB_OUT_OF_LINE char *http_kv_get(const struct map *store, const char *key) {
    return (char *)map_get(store, key);
}

static inline size_t http_kv_size(const struct map *store) {
    return map_size(store);
}

/** http_kv_destroy(store) or http_kv_destroy(store, free_values) */
#define http_kv_destroy(...) CWEB_KV_DESTROY(__VA_ARGS__, cweb_map_destroy, cweb_kv_destroy_keys, )(__VA_ARGS__)
#define CWEB_KV_DESTROY(store, free_values, function, ...) function

static inline void cweb_kv_destroy_keys(struct map *store) {
    cweb_map_destroy(store, 0);
}

#endif /* CWEB_MAP_H */
