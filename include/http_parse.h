/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/**
 * @file http_parse.h
 * HTTP/1.x parsing for modules that speak HTTP themselves (a proxy, a test). Handlers don't need these functions: the
 * server has parsed the request. All functions are safe on any input. Include http.h.
 */
#ifndef CWEB_HTTP_PARSE_H
#define CWEB_HTTP_PARSE_H

#include <limits.h>

#include "http.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Limits on the headers, query parameters and form fields kept of one request; further ones are ignored. */
#define CWEB_PARSE_HEADERS_MAX 128
#define CWEB_PARSE_FIELDS_MAX 256

/* A copy of length bytes with a NUL behind; NULL when memory runs out. */
static inline char *cweb_copy_bytes(const char *bytes, size_t length) {
    char *copy = (char *)malloc(length + 1);
    if (copy != NULL) {
        if (length > 0) {
            memcpy(copy, bytes, length);
        }
        copy[length] = '\0';
    }
    return copy;
}

/* The first place of needle in the haystack, or NULL. */
static inline const char *cweb_find_bytes(const char *haystack, size_t length, const char *needle, size_t needle_length) {
    for (size_t i = 0; needle_length <= length && i <= length - needle_length; i++) {
        const char *hit = (const char *)memchr(haystack + i, needle[0], length - needle_length - i + 1);
        if (hit == NULL) {
            return NULL;
        }
        if (memcmp(hit, needle, needle_length) == 0) {
            return hit;
        }
        i = (size_t)(hit - haystack);
    }
    return NULL;
}

/* Whether the header value has this token, in any case, among its comma-separated parts. */
static inline int cweb_has_token(const char *value, const char *token) {
    size_t length = strlen(token);
    while (value != NULL && *value != '\0') {
        value += strspn(value, " \t,");
        size_t part = strcspn(value, ",");
        size_t trimmed = part;
        while (trimmed > 0 && (value[trimmed - 1] == ' ' || value[trimmed - 1] == '\t')) {
            trimmed--;
        }
        if (trimmed == length && strncasecmp(value, token, length) == 0) {
            return 1;
        }
        value += part;
    }
    return 0;
}

/* Keeps a further value of a key that the store already has. The store keeps at most `capacity` such values. */
static inline int cweb_kv_repeat(http_kv_store_t *store, const char *key, char *value) {
    if (store->repeated == NULL) {
        store->repeated = (http_kv_pair_t *)calloc(store->capacity, sizeof *store->repeated);
    }
    if (store->repeated == NULL || store->repeated_size >= store->capacity) {
        return -1;
    }
    char *copy = strdup(key);
    if (copy == NULL) {
        return -1;
    }
    for (char *c = copy; *c != '\0'; c++) {
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + ('a' - 'A')) : *c;
    }
    store->repeated[store->repeated_size].key = copy;
    store->repeated[store->repeated_size].value = value;
    store->repeated_size++;
    return 0;
}

/* Adds a pair; the store takes over value, which comes from malloc(3). Frees value if the store does not take it. */
static inline void cweb_kv_give(http_kv_store_t *store, const char *key, char *value) {
    int known = store != NULL && store->server == 0 && value != NULL && cweb_kv_find(store, key) != NULL;
    size_t size = http_kv_size(store);
    if (known ? cweb_kv_repeat(store, key, value) != 0
              : http_kv_insert(store, key, value) != 0 || http_kv_size(store) == size) {
        free(value);
    }
}

static inline int cweb_hex_digit(int c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes %XX and '+' (application/x-www-form-urlencoded); a broken % stays as it is. NULL when memory runs out. */
static inline char *cweb_url_decode(const char *text, size_t length) {
    char *out = (char *)malloc(length + 1);
    size_t used = 0;
    for (size_t i = 0; out != NULL && i < length; i++) {
        int high = text[i] == '%' && length - i > 2 ? cweb_hex_digit((unsigned char)text[i + 1]) : -1;
        int low = high >= 0 ? cweb_hex_digit((unsigned char)text[i + 2]) : -1;
        if (low >= 0) {
            out[used++] = (char)(high * 16 + low);
            i += 2;
        } else {
            out[used++] = text[i] == '+' ? ' ' : text[i];
        }
    }
    if (out != NULL) {
        out[used] = '\0';
    }
    return out;
}

/**
 * Decodes %XX in a path; '+' stays. A broken % stays as it is.
 * @return a malloc'd string; NULL when it would hold a NUL byte or memory runs out
 */
static inline char *cweb_path_decode(const char *path) {
    char *out = path == NULL ? NULL : strdup(path);
    if (out == NULL) {
        return NULL;
    }
    char *to = out;
    for (const char *from = out; *from != '\0'; from++) {
        int high = *from == '%' ? cweb_hex_digit((unsigned char)from[1]) : -1;
        int low = high >= 0 ? cweb_hex_digit((unsigned char)from[2]) : -1;
        if (low < 0) {
            *to++ = *from;
        } else if (high == 0 && low == 0) {
            free(out);
            return NULL;
        } else {
            *to++ = (char)(high * 16 + low);
            from += 2;
        }
    }
    *to = '\0';
    return out;
}

/* Adds the fields of "a=1&b=2" to the store. */
static inline void cweb_parse_urlencoded(http_kv_store_t *store, const char *text, size_t length) {
    const char *end = text + length;
    while (text < end) {
        const char *amp = (const char *)memchr(text, '&', (size_t)(end - text));
        const char *stop = amp != NULL ? amp : end;
        const char *equals = (const char *)memchr(text, '=', (size_t)(stop - text));
        const char *key_end = equals != NULL ? equals : stop;
        const char *value = equals != NULL ? equals + 1 : stop;
        if (key_end > text) {
            char *key = cweb_url_decode(text, (size_t)(key_end - text));
            if (key != NULL) {
                cweb_kv_give(store, key, cweb_url_decode(value, (size_t)(stop - value)));
            }
            free(key);
        }
        text = amp != NULL ? amp + 1 : end;
    }
}

/* The value of a parameter such as name="x" in a header value, as a malloc'd string, or NULL. */
static inline char *cweb_header_parameter(const char *text, size_t length, const char *name) {
    size_t name_length = strlen(name);
    for (size_t i = 0; i + name_length < length; i++) {
        int starts = i == 0 || text[i - 1] == ';' || text[i - 1] == ' ' || text[i - 1] == '\t';
        if (!starts || strncasecmp(text + i, name, name_length) != 0 || text[i + name_length] != '=') {
            continue;
        }
        const char *value = text + i + name_length + 1;
        size_t left = length - i - name_length - 1;
        if (left > 0 && *value == '"') {
            const char *quote = (const char *)memchr(value + 1, '"', left - 1);
            return quote == NULL ? NULL : cweb_copy_bytes(value + 1, (size_t)(quote - value - 1));
        }
        size_t end = 0;
        while (end < left && strchr("; \t\r\n", value[end]) == NULL) {
            end++;
        }
        return cweb_copy_bytes(value, end);
    }
    return NULL;
}

/* One part of a multipart body: headers, blank line, content. */
static inline void cweb_parse_part(http_kv_store_t *store, const char *part, size_t length) {
    const char *blank = cweb_find_bytes(part, length, "\r\n\r\n", 4);
    if (blank == NULL) {
        return;
    }
    const char *content = blank + 4;
    const char *line = part;
    while (line < blank) {
        const char *eol = cweb_find_bytes(line, (size_t)(blank + 2 - line), "\r\n", 2);
        size_t line_length = (size_t)((eol != NULL ? eol : blank) - line);
        if (line_length > 20 && strncasecmp(line, "content-disposition:", 20) == 0) {
            char *name = cweb_header_parameter(line, line_length, "name");
            if (name != NULL) {
                cweb_kv_give(store, name, cweb_copy_bytes(content, length - (size_t)(content - part)));
            }
            free(name);
            return;
        }
        line += line_length + 2;
    }
}

/* Adds the fields of a multipart/form-data body (RFC 7578) to the store. 0, or -1 when it is malformed. */
static inline int cweb_parse_multipart(http_kv_store_t *store, const char *body, size_t length, const char *boundary) {
    char delimiter[80];
    size_t size = (size_t)snprintf(delimiter, sizeof delimiter, "\r\n--%s", boundary);
    if (size >= sizeof delimiter || size == 4) { /* a boundary has 1 to 70 characters, RFC 2046 section 5.1.1 */
        return -1;
    }
    const char *end = body + length;
    /* The first delimiter may stand at the start of the body, without its line break. */
    const char *hit = cweb_find_bytes(body, length, delimiter, size);
    int at_start = length >= size - 2 && memcmp(body, delimiter + 2, size - 2) == 0;
    const char *part = at_start ? body + size - 2 : hit != NULL ? hit + size : NULL;
    while (part != NULL) {
        if (end - part >= 2 && part[0] == '-' && part[1] == '-') {
            return 0;
        }
        while (part < end && (*part == ' ' || *part == '\t')) {
            part++;
        }
        if (end - part < 2 || part[0] != '\r' || part[1] != '\n') {
            return -1;
        }
        part += 2;
        hit = cweb_find_bytes(part, (size_t)(end - part), delimiter, size);
        if (hit != NULL) {
            cweb_parse_part(store, part, (size_t)(hit - part));
        }
        part = hit != NULL ? hit + size : NULL;
    }
    return -1;
}

/** Frees the memory that http_parse() allocated for req, not req itself. */
static inline void cweb_request_free(http_request_t *req) {
    if (req == NULL) {
        return;
    }
    free(req->path);
    free(req->body);
    http_kv_destroy(req->params, 1);
    http_kv_destroy(req->headers, 1);
    http_kv_destroy(req->data, 1);
    memset(req, 0, sizeof *req);
    req->method = HTTP_ERR;
}

/**
 * Decodes a chunked body (RFC 9112 section 7.1); trailers are skipped.
 * @param out      receives a malloc'd buffer with a NUL behind its *out_len bytes
 * @return 0 on success, 1 if the body is incomplete, -1 if it is malformed or memory runs out; *out is NULL unless 0
 */
static inline int http_decode_chunked_body(const char *body, size_t body_len, char **out, size_t *out_len) {
    if (out == NULL || out_len == NULL) {
        return -1;
    }
    *out = NULL;
    *out_len = 0;
    char *decoded = body == NULL ? NULL : (char *)malloc(body_len + 1);
    size_t used = 0;
    size_t at = 0;
    int result = decoded == NULL ? -1 : 1;
    while (decoded != NULL) {
        const char *eol = cweb_find_bytes(body + at, body_len - at, "\r\n", 2);
        if (eol == NULL) {
            break;
        }
        size_t size = 0;
        const char *digit = body + at;
        for (; digit < eol && cweb_hex_digit((unsigned char)*digit) >= 0 && size <= body_len; digit++) {
            size = size * 16 + (size_t)cweb_hex_digit((unsigned char)*digit);
        }
        if (digit == body + at || (digit < eol && strchr("; \t", *digit) == NULL && size <= body_len)) {
            result = -1;
            break;
        }
        at = (size_t)(eol - body) + 2;
        if (size == 0) {
            /* The body ends with a blank line, which follows at once or after trailers. */
            int complete = (body_len - at >= 2 && memcmp(body + at, "\r\n", 2) == 0) ||
                           cweb_find_bytes(body + at, body_len - at, "\r\n\r\n", 4) != NULL;
            result = complete ? 0 : 1;
            break;
        }
        if (size > body_len || body_len - at < size + 2) {
            break;
        }
        if (memcmp(body + at + size, "\r\n", 2) != 0) {
            result = -1;
            break;
        }
        memcpy(decoded + used, body + at, size);
        used += size;
        at += size + 2;
    }
    if (result != 0) {
        free(decoded);
        return result;
    }
    decoded[used] = '\0';
    *out = decoded;
    *out_len = used;
    return 0;
}

/* Reads "METHOD target HTTP/1.x". Returns HTTP_200_OK, or the HTTP status for the error. */
static inline http_error_t cweb_parse_request_line(const char *line, size_t length, http_request_t *req) {
    const char *end = line + length;
    const char *space = (const char *)memchr(line, ' ', length);
    const char *target = space == NULL ? NULL : space + 1;
    const char *second = target == NULL ? NULL : (const char *)memchr(target, ' ', (size_t)(end - target));
    if (second == NULL || second == target || end - second != 9 || memcmp(second + 1, "HTTP/1.", 7) != 0 ||
        (end[-1] != '0' && end[-1] != '1')) {
        return HTTP_400_BAD_REQUEST;
    }
    req->version = end[-1] == '1' ? HTTP_VERSION_1_1 : HTTP_VERSION_1_0;
    req->method = HTTP_ERR;
    for (int i = 0; i < CWEB_METHOD_COUNT; i++) {
        if (strlen(http_methods[i]) == (size_t)(space - line) && memcmp(line, http_methods[i], (size_t)(space - line)) == 0) {
            req->method = (http_method_t)i;
        }
    }
    const char *query = (const char *)memchr(target, '?', (size_t)(second - target));
    req->path = cweb_copy_bytes(target, (size_t)((query != NULL ? query : second) - target));
    if (query != NULL) {
        cweb_parse_urlencoded(req->params, query + 1, (size_t)(second - query - 1));
    }
    return req->path == NULL ? HTTP_500_INTERNAL_SERVER_ERROR : req->method == HTTP_ERR ? HTTP_400_BAD_REQUEST : HTTP_200_OK;
}

/* Reads header lines up to the blank line. */
static inline http_error_t cweb_parse_headers(const char *text, size_t length, http_request_t *req) {
    while (length > 0) {
        const char *eol = cweb_find_bytes(text, length, "\r\n", 2);
        size_t line = eol == NULL ? length : (size_t)(eol - text);
        const char *colon = (const char *)memchr(text, ':', line);
        if (colon == NULL || colon == text || colon[-1] == ' ' || colon[-1] == '\t') {
            return HTTP_400_BAD_REQUEST;
        }
        char *key = cweb_copy_bytes(text, (size_t)(colon - text));
        const char *value = colon + 1;
        const char *end = text + line;
        while (value < end && (*value == ' ' || *value == '\t')) {
            value++;
        }
        while (end > value && (end[-1] == ' ' || end[-1] == '\t')) {
            end--;
        }
        if (key != NULL) {
            cweb_kv_give(req->headers, key, cweb_copy_bytes(value, (size_t)(end - value)));
        }
        free(key);
        if (eol == NULL) {
            break;
        }
        text += line + 2;
        length -= line + 2;
    }
    return HTTP_200_OK;
}

/* The value of Content-Length; 0 without the field; -1 when the value is no number, or too large for an int. */
static inline int cweb_parse_content_length(const http_kv_store_t *headers) {
    const char *digit = http_kv_get(headers, "content-length");
    int length = 0;
    if (digit != NULL && *digit == '\0') {
        return -1;
    }
    for (; digit != NULL && *digit != '\0'; digit++) {
        if (*digit < '0' || *digit > '9' || length > (INT_MAX - 9) / 10) {
            return -1;
        }
        length = length * 10 + (*digit - '0');
    }
    return length;
}

/* Reads the framing of the body from the head, and copies the body if all of it is there. */
static inline http_error_t cweb_parse_body(const char *body, size_t available, http_request_t *req) {
    int length = cweb_parse_content_length(req->headers);
    req->transfer_encoding_chunked = cweb_has_token(http_kv_get(req->headers, "transfer-encoding"), "chunked");
    if (length < 0 || (req->transfer_encoding_chunked && http_kv_get(req->headers, "content-length") != NULL)) {
        return HTTP_400_BAD_REQUEST;
    }
    req->content_length = length;
    if (req->transfer_encoding_chunked) {
        size_t decoded = 0;
        if (http_decode_chunked_body(body, available, &req->body, &decoded) == 0) {
            req->content_length = decoded > INT_MAX ? 0 : (int)decoded;
        }
        return HTTP_200_OK;
    }
    if ((size_t)length > available) {
        return HTTP_200_OK;
    }
    req->body = cweb_copy_bytes(body, (size_t)length);
    return req->body == NULL ? HTTP_500_INTERNAL_SERVER_ERROR : HTTP_200_OK;
}

/** 1 if the request asks for a WebSocket: `Upgrade` names it and `upgrade` is in the list of `Connection`; else 0. */
static inline int http_is_websocket_upgrade(http_request_t *req) {
    return req != NULL && req->headers != NULL && cweb_has_token(http_kv_get(req->headers, "upgrade"), "websocket") &&
           cweb_has_token(http_kv_get(req->headers, "connection"), "upgrade");
}

/**
 * Parses the head of a request: its line and headers. Form fields are left to http_parse_data().
 *
 * The body may be missing. If the whole body follows the head, `body` is a copy of it, decoded if it is chunked. Otherwise
 * `body` is NULL and `content_length` is the value of the header: set `body` before http_parse_data().
 * @param request      the bytes; no NUL is needed at their end
 * @param request_len  number of the bytes; requests after the first are ignored
 * @param req          overwritten; to be freed with cweb_request_free() whatever the result
 * @return 0; -1 when the head is incomplete or wrong (an unknown method, no Host …): req->status is 400 then, or 500 when
 * memory ran out
 */
static inline int http_parse(const char *request, size_t request_len, http_request_t *req) {
    if (request == NULL || req == NULL) {
        return -1;
    }
    memset(req, 0, sizeof *req);
    req->method = HTTP_ERR;
    req->tid = pthread_self();
    req->params = http_kv_create(CWEB_PARSE_FIELDS_MAX);
    req->headers = http_kv_create(CWEB_PARSE_HEADERS_MAX);
    req->data = http_kv_create(CWEB_PARSE_FIELDS_MAX);
    req->status = HTTP_400_BAD_REQUEST;
    const char *head_end = cweb_find_bytes(request, request_len, "\r\n\r\n", 4);
    if (req->params == NULL || req->headers == NULL || req->data == NULL || head_end == NULL) {
        return -1;
    }
    const char *eol = cweb_find_bytes(request, request_len, "\r\n", 2);
    req->status = cweb_parse_request_line(request, (size_t)(eol - request), req);
    if (req->status == HTTP_200_OK && eol < head_end) {
        req->status = cweb_parse_headers(eol + 2, (size_t)(head_end - eol - 2), req);
    }
    if (req->status == HTTP_200_OK && http_kv_get(req->headers, "host") == NULL) {
        req->status = HTTP_400_BAD_REQUEST;
    }
    if (req->status == HTTP_200_OK) {
        const char *body = head_end + 4;
        req->status = cweb_parse_body(body, request_len - (size_t)(body - request), req);
    }
    if (req->status != HTTP_200_OK) {
        return -1;
    }
    const char *connection = http_kv_get(req->headers, "connection");
    req->close = (char)cweb_has_token(connection, "close");
    req->keep_alive = (char)(!req->close && (req->version == HTTP_VERSION_1_1 || cweb_has_token(connection, "keep-alive")));
    req->websocket = http_is_websocket_upgrade(req);
    return 0;
}

/**
 * Reads the form fields of the content_length bytes at req->body into req->data, by its Content-Type (urlencoded or multipart/form-data).
 * @return 0, also when the body is no form; -1 when the form is malformed or there is no body
 */
static inline int http_parse_data(http_request_t *req) {
    if (req == NULL || req->body == NULL || req->data == NULL || req->content_length < 0) {
        return -1;
    }
    const char *type = http_kv_get(req->headers, "content-type");
    if (type == NULL) {
        return 0;
    }
    if (strncasecmp(type, "application/x-www-form-urlencoded", 33) == 0) {
        cweb_parse_urlencoded(req->data, req->body, (size_t)req->content_length);
        return 0;
    }
    if (strncasecmp(type, "multipart/form-data", 19) != 0) {
        return 0;
    }
    char *boundary = cweb_header_parameter(type, strlen(type), "boundary");
    int result = boundary == NULL ? -1 : cweb_parse_multipart(req->data, req->body, (size_t)req->content_length, boundary);
    free(boundary);
    return result;
}

#ifdef __cplusplus
}
#endif

#endif /* CWEB_HTTP_PARSE_H */
