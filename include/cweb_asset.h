/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file cweb_asset.h
 * Files that are deployed with a module: the module's read-only data, the same for all requests of one version.
 */
#ifndef CWEB_ASSET_H
#define CWEB_ASSET_H

#include <stddef.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One asset; the last entry of the table has no name. */
struct cweb_asset_entry {
    const char *name;
    const unsigned char *bytes; /**< The content; a NUL follows it. */
    size_t length;
};

/* The server generates this table from the files of a project; a module of one file has none. */
extern const struct cweb_asset_entry cweb_asset_table[] __attribute__((weak, visibility("hidden")));

/**
 * Finds an asset.
 *
 * name is the file's path in the project without a leading "assets/". The bytes stay where they are as long as the module is
 * loaded, and a NUL follows them, so that a text is a C string.
 * @param bytes   receives the address; may be NULL
 * @param length  receives the number of bytes; may be NULL
 * @return 0; -1 when there is no such asset
 */
static inline int cweb_asset(const char *name, const void **bytes, size_t *length) {
    const struct cweb_asset_entry *entry = cweb_asset_table;
    for (; name != NULL && entry != NULL && entry->name != NULL; entry++) {
        if (strcmp(entry->name, name) == 0) {
            if (bytes != NULL) {
                *bytes = entry->bytes;
            }
            if (length != NULL) {
                *length = entry->length;
            }
            return 0;
        }
    }
    return -1;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_ASSET_H */
