/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file uuid.h
 * UUIDs in their text form of 36 characters (RFC 9562 section 4), as the server names jobs.
 *
 * The functions are static, so their names do not clash with those of libuuid at link time. A file must not include both
 * this header and <uuid/uuid.h>.
 */
#ifndef CWEB_UUID_H
#define CWEB_UUID_H

#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "cweb_config.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Bytes of the text form, the terminating NUL included. */
#define UUID_STR_LEN 37

/** A UUID, or the empty string. */
typedef struct cweb_uuid {
    char str[UUID_STR_LEN];
} cweb_uuid_t;

#ifdef CWEB_UUID_T
/** The older name of the type; the server's compiler flags enable it where a source needs it. */
typedef cweb_uuid_t uuid_t;
#endif

/* Whether the text is 8-4-4-4-12 hexadecimal digits and nothing else. */
CWEB_OUT_OF_LINE int cweb_uuid_text_is_valid(const char *text) {
    for (int i = 0; i < UUID_STR_LEN - 1; i++) {
        char c = text[i];
        int dash = i == 8 || i == 13 || i == 18 || i == 23;
        int hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        if (dash ? c != '-' : !hex) {
            return 0;
        }
    }
    return text[UUID_STR_LEN - 1] == '\0';
}

/** Sets *uuid to the empty string. */
static inline void uuid_clear(cweb_uuid_t *uuid) {
    if (uuid != NULL) {
        memset(uuid, 0, sizeof *uuid);
    }
}

/**
 * Reads a UUID from text.
 * @return 0; -1 when an argument is NULL or the text is no UUID (then *uuid is cleared)
 */
static inline int uuid_from_string(cweb_uuid_t *uuid, const char *text) {
    if (uuid == NULL || text == NULL || !cweb_uuid_text_is_valid(text)) {
        uuid_clear(uuid);
        return -1;
    }
    memmove(uuid->str, text, UUID_STR_LEN);
    return 0;
}

/** 1 if *uuid is a UUID, else 0. */
static inline int uuid_is_valid(const cweb_uuid_t *uuid) {
    return uuid != NULL && cweb_uuid_text_is_valid(uuid->str);
}

/** 1 if both have the same text, regardless of case; 0 if not, or if one is NULL. */
static inline int uuid_equal(const cweb_uuid_t *a, const cweb_uuid_t *b) {
    return a != NULL && b != NULL && strncasecmp(a->str, b->str, UUID_STR_LEN) == 0;
}

/** The text of uuid; "" for NULL. */
static inline const char *uuid_c_str(const cweb_uuid_t *uuid) {
    return uuid == NULL ? "" : uuid->str;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_UUID_H */
