/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file map.h
 * A map from strings to pointers: open addressing with linear probing, so a lookup is O(1) and touches one
 * array. It grows as needed. Keys are copied; values stay the caller's. Not thread-safe: see container.h.
 */
#ifndef CWEB_MAP_H
#define CWEB_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

/** One slot; empty when key is NULL. */
struct cweb_map_entry {
    char *key;
    void *value;
};

/** The map. Read it through the functions. */
struct map {
    struct cweb_map_entry *entries;
    size_t size;     /**< Keys held. */
    size_t capacity; /**< Slots; a power of two, at least a quarter of them empty. */
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

/* The slot that holds key, or the empty one where it belongs. There is always an empty slot. */
static inline size_t cweb_map_slot(const struct cweb_map_entry *entries, size_t capacity, const char *key) {
    size_t slot = (size_t)cweb_map_hash(key) & (capacity - 1);
    while (entries[slot].key != NULL && strcmp(entries[slot].key, key) != 0) {
        slot = (slot + 1) & (capacity - 1);
    }
    return slot;
}

static inline map_error_t cweb_map_grow(struct map *map) {
    if (map->capacity > SIZE_MAX / 2 / sizeof(struct cweb_map_entry)) {
        return MAP_ERR;
    }
    size_t capacity = map->capacity * 2;
    struct cweb_map_entry *entries = (struct cweb_map_entry *)calloc(capacity, sizeof *entries);
    if (entries == NULL) {
        return MAP_ERR;
    }
    for (size_t i = 0; i < map->capacity; i++) {
        if (map->entries[i].key != NULL) {
            entries[cweb_map_slot(entries, capacity, map->entries[i].key)] = map->entries[i];
        }
    }
    free(map->entries);
    map->entries = entries;
    map->capacity = capacity;
    return MAP_OK;
}

/**
 * Makes an empty map.
 * @param initial_capacity  keys to make room for at first; any number, 0 included
 * @return the map, for map_destroy(); NULL when memory runs out
 */
static inline struct map *map_create(size_t initial_capacity) {
    size_t capacity = CWEB_MAP_CAPACITY_MIN;
    while (capacity / 4 * 3 < initial_capacity) {
        if (capacity > SIZE_MAX / 2 / sizeof(struct cweb_map_entry)) {
            return NULL;
        }
        capacity *= 2;
    }
    struct map *map = (struct map *)calloc(1, sizeof *map);
    if (map == NULL) {
        return NULL;
    }
    map->entries = (struct cweb_map_entry *)calloc(capacity, sizeof *map->entries);
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
 * @return MAP_OK, or MAP_ERR when an argument is NULL or memory runs out
 */
static inline map_error_t map_insert(struct map *map, const char *key, void *value) {
    if (map == NULL || key == NULL) {
        return MAP_ERR;
    }
    size_t slot = cweb_map_slot(map->entries, map->capacity, key);
    if (map->entries[slot].key != NULL) {
        map->entries[slot].value = value;
        return MAP_OK;
    }
    if (map->size + 1 > map->capacity / 4 * 3) {
        if (cweb_map_grow(map) != MAP_OK) {
            return MAP_ERR;
        }
        slot = cweb_map_slot(map->entries, map->capacity, key);
    }
    char *copy = strdup(key);
    if (copy == NULL) {
        return MAP_ERR;
    }
    map->entries[slot].key = copy;
    map->entries[slot].value = value;
    map->size++;
    return MAP_OK;
}

/** The value of key; NULL when there is none (or it is NULL). */
static inline void *map_get(const struct map *map, const char *key) {
    if (map == NULL || key == NULL) {
        return NULL;
    }
    return map->entries[cweb_map_slot(map->entries, map->capacity, key)].value;
}

/**
 * Removes key. Its value is not freed.
 * @return MAP_OK, MAP_KEY_NOT_FOUND, or MAP_ERR when an argument is NULL
 */
static inline map_error_t map_remove(struct map *map, const char *key) {
    if (map == NULL || key == NULL) {
        return MAP_ERR;
    }
    size_t mask = map->capacity - 1;
    size_t hole = cweb_map_slot(map->entries, map->capacity, key);
    if (map->entries[hole].key == NULL) {
        return MAP_KEY_NOT_FOUND;
    }
    free(map->entries[hole].key);
    /* Close the gap: pull back each follower whose home lies at or before the hole, so that no probe stops early. */
    for (size_t i = (hole + 1) & mask; map->entries[i].key != NULL; i = (i + 1) & mask) {
        size_t home = (size_t)cweb_map_hash(map->entries[i].key) & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            map->entries[hole] = map->entries[i];
            hole = i;
        }
    }
    map->entries[hole].key = NULL;
    map->entries[hole].value = NULL;
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
