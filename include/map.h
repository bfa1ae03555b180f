/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file map.h
 * A map from strings to pointers: open addressing with linear probing, so a lookup is O(1) and touches one array. The
 * map grows as needed. Keys are copied; the caller keeps the values. Not thread-safe: see container.h.
 */
#ifndef CWEB_MAP_H
#define CWEB_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cweb_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Result of the functions below. */
typedef enum map_error {
    MAP_OK = 0,           /**< Done. */
    MAP_ERR = 1,          /**< An argument is NULL, or memory ran out. */
    MAP_FULL = 2,         /**< Never returned by this map, which grows; kept for modules that test for it. */
    MAP_KEY_NOT_FOUND = 3 /**< No such key. */
} map_error_t;

/** State of a slot of the table. */
typedef enum map_entry_state {
    MAP_ENTRY_EMPTY = 0,    /**< The slot has had no key since the table was created. */
    MAP_ENTRY_OCCUPIED = 1, /**< The slot has a key and its value. */
    MAP_ENTRY_TOMBSTONE = 2 /**< The slot's key was removed. */
} map_entry_state_t;

/** One slot. Only an occupied slot has a key and a value. */
struct map_entry {
    char *key;
    void *value;
    uint64_t hash;
    map_entry_state_t state;
};

/**
 * The map. A module may walk `entries` from 0 to `capacity` and read the occupied ones; map_remove() moves none of them.
 * Change it through the functions only.
 */
struct map {
    struct map_entry *entries;
    size_t size;       /**< Keys held. */
    size_t capacity;   /**< Slots; a power of two, at least a quarter of them empty. */
    size_t tombstones; /**< Slots whose key was removed. */
};

#define CWEB_MAP_CAPACITY_MIN ((size_t)8)

/* FNV-1a, 64 bits. */
static inline uint64_t cweb_map_hash(const char *key) {
    uint64_t hash = 14695981039346656037ULL;
    for (; *key != '\0'; key++) {
        hash = (hash ^ (unsigned char)*key) * 1099511628211ULL;
    }
    return hash;
}

/* The slot that holds key, or NULL. The search ends because there is always an empty slot. */
static inline struct map_entry *cweb_map_find(const struct map *map, const char *key, uint64_t hash) {
    size_t slot = (size_t)hash & (map->capacity - 1);
    for (;; slot = (slot + 1) & (map->capacity - 1)) {
        struct map_entry *entry = &map->entries[slot];
        if (entry->state == MAP_ENTRY_EMPTY) {
            return NULL;
        }
        if (entry->state == MAP_ENTRY_OCCUPIED && entry->hash == hash && strcmp(entry->key, key) == 0) {
            return entry;
        }
    }
}

/* The first slot without a key for this hash. */
static inline struct map_entry *cweb_map_place(struct map_entry *entries, size_t capacity, uint64_t hash) {
    size_t slot = (size_t)hash & (capacity - 1);
    while (entries[slot].state == MAP_ENTRY_OCCUPIED) {
        slot = (slot + 1) & (capacity - 1);
    }
    return &entries[slot];
}

/* Makes room for one more key: a larger table, or the same size without tombstones. */
static inline map_error_t cweb_map_make_room(struct map *map) {
    size_t capacity = map->capacity;
    if (map->size + 1 > capacity / 2) {
        if (capacity > SIZE_MAX / 2 / sizeof(struct map_entry)) {
            return MAP_ERR;
        }
        capacity *= 2;
    }
    struct map_entry *entries = (struct map_entry *)calloc(capacity, sizeof *entries);
    if (entries == NULL) {
        return MAP_ERR;
    }
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].state == MAP_ENTRY_OCCUPIED) {
            *cweb_map_place(entries, capacity, map->entries[i].hash) = map->entries[i];
        }
    }
    free(map->entries);
    map->entries = entries;
    map->capacity = capacity;
    map->tombstones = 0;
    return MAP_OK;
}

/**
 * Makes an empty map.
 * @param initial_capacity  keys to make room for at first; at least 1
 * @return the map, for map_destroy(); NULL for 0 or when memory runs out
 */
static inline struct map *map_create(size_t initial_capacity) {
    size_t capacity = CWEB_MAP_CAPACITY_MIN;
    if (initial_capacity == 0) {
        return NULL;
    }
    while (capacity / 4 * 3 < initial_capacity) {
        if (capacity > SIZE_MAX / 2 / sizeof(struct map_entry)) {
            return NULL;
        }
        capacity *= 2;
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

/** Frees the map and its keys, not the values. NULL is allowed. */
static inline void map_destroy(struct map *map) {
    if (map == NULL) {
        return;
    }
    for (size_t i = 0; i < map->capacity; i++) {
        free(map->entries[i].key);
    }
    free(map->entries);
    free(map);
}

/**
 * Sets key to value; a key already there gets the new value.
 * @return MAP_OK, or MAP_ERR when the map or the key is NULL or memory runs out
 */
static inline map_error_t map_insert(struct map *map, const char *key, void *value) {
    if (map == NULL || key == NULL) {
        return MAP_ERR;
    }
    uint64_t hash = cweb_map_hash(key);
    struct map_entry *entry = cweb_map_find(map, key, hash);
    if (entry != NULL) {
        entry->value = value;
        return MAP_OK;
    }
    if (map->size + map->tombstones + 1 > map->capacity / 4 * 3 && cweb_map_make_room(map) != MAP_OK) {
        return MAP_ERR;
    }
    char *copy = strdup(key);
    if (copy == NULL) {
        return MAP_ERR;
    }
    entry = cweb_map_place(map->entries, map->capacity, hash);
    map->tombstones -= entry->state == MAP_ENTRY_TOMBSTONE;
    entry->key = copy;
    entry->value = value;
    entry->hash = hash;
    entry->state = MAP_ENTRY_OCCUPIED;
    map->size++;
    return MAP_OK;
}

/** The value of key; NULL when there is no such key (or its value is NULL). */
CWEB_OUT_OF_LINE void *map_get(const struct map *map, const char *key) {
    if (map == NULL || key == NULL) {
        return NULL;
    }
    struct map_entry *entry = cweb_map_find(map, key, cweb_map_hash(key));
    return entry == NULL ? NULL : entry->value;
}

/**
 * Removes key. Its value is not freed, and the other entries keep their slots.
 * @return MAP_OK, MAP_KEY_NOT_FOUND, or MAP_ERR when an argument is NULL
 */
static inline map_error_t map_remove(struct map *map, const char *key) {
    if (map == NULL || key == NULL) {
        return MAP_ERR;
    }
    struct map_entry *entry = cweb_map_find(map, key, cweb_map_hash(key));
    if (entry == NULL) {
        return MAP_KEY_NOT_FOUND;
    }
    free(entry->key);
    entry->key = NULL;
    entry->value = NULL;
    entry->state = MAP_ENTRY_TOMBSTONE;
    map->tombstones++;
    map->size--;
    return MAP_OK;
}

/** How many keys the map holds; 0 for NULL. */
static inline size_t map_size(const struct map *map) {
    return map == NULL ? 0 : map->size;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_MAP_H */
